"""The LangChain adapter of aaflow-plugins."""
