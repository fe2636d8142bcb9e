"""Drop-in acceleration for LangChain and LlamaIndex."""
