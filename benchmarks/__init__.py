"""Benchmarks: native LangChain against the same objects accelerated, each with identical results or no number."""
