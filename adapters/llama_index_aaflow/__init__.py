"""The LlamaIndex adapter of aaflow-plugins: `accelerate` native parsers, pipelines, indexes, stores and engines."""

from aaflow_plugins.plugins import accelerate

__all__ = ["accelerate"]
