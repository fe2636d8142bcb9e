"""The LlamaIndex adapter of aaflow-plugins: `accelerate` native parsers, pipelines, indexes, stores and engines.

`incremental` makes a pipeline that computes new and changed documents alone.
"""

from typing import TYPE_CHECKING, Any

from aaflow_plugins.plugins import accelerate

if TYPE_CHECKING:
    from llama_index_aaflow.incremental_pipeline import incremental

__all__ = ["accelerate", "incremental"]


def __getattr__(name: str) -> Any:
    # LlamaIndex is imported when it is needed first.
    if name == "incremental":
        from llama_index_aaflow.incremental_pipeline import incremental

        return incremental
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
