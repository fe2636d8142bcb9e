"""Drop-in acceleration for LangChain and LlamaIndex: the same objects, the same results, sooner.

`accelerate(obj)` finds the adapter for a framework's object by itself. No framework is imported before one of
its objects is handed over.
"""

from typing import TYPE_CHECKING, Any

from aaflow_plugins.batching import batching
from aaflow_plugins.hookspecs import hookimpl
from aaflow_plugins.plugins import accelerate

if TYPE_CHECKING:
    __version__: str
    from aaflow_plugins.engines.communicator import RankError
    from aaflow_plugins.engines.launching import rank
    from aaflow_plugins.executor import Executor
    from aaflow_plugins.plan import Plan, PlanError
    from aaflow_plugins.progress import Progress
    from aaflow_plugins.report import Report

__all__ = [
    "Executor",
    "Plan",
    "PlanError",
    "Progress",
    "RankError",
    "Report",
    "__version__",
    "accelerate",
    "batching",
    "hookimpl",
    "rank",
]

_HOMES = {
    "Executor": "executor",
    "Plan": "plan",
    "PlanError": "plan",
    "Progress": "progress",
    "RankError": "engines.communicator",
    "Report": "report",
    "rank": "engines.launching",
}


def __getattr__(name: str) -> Any:
    # Arrow and the executor are loaded when first asked for: importing the package must stay cheap.
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"aaflow_plugins.{_HOMES[name]}"), name)
    if name == "__version__":
        from importlib.metadata import version

        return version("aaflow-plugins")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
