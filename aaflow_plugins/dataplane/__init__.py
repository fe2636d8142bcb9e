"""Arrow data plane: batches, schemas and zero-copy vectors."""
