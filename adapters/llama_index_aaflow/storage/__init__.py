"""What an index keeps beside its vectors, with the bookkeeping done once: documents, index structs, metadata."""
