"""What both adapters need of faiss: many queries at once, with the results of one query at a time."""
