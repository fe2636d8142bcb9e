"""How LlamaIndex's node parsers cut texts and make nodes, reproduced."""
