"""The LlamaIndex adapter of aaflow-plugins: `accelerate` native node parsers."""

from aaflow_plugins.plugins import accelerate

__all__ = ["accelerate"]
