"""The splitting algorithms behind the accelerated splitters: text in, the native call's chunks out."""
