"""The pluggy contract: what an adapter or a third-party plug-in can provide.

A plug-in is a module (or object) with functions of these names decorated by `hookimpl`, named by an entry point
of the group `aaflow_plugins`. The entry point's name is the prefix of the top-level packages it serves:
`langchain` serves objects whose class, or one of its bases, is defined in `langchain_core`,
`langchain_openai`, ... It is loaded when such an object is handed over, and not before. Plug-ins with engines are named
by the group `aaflow_engines`, under any name, and loaded when an engine is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from aaflow_plugins.comparison import Comparison
    from aaflow_plugins.demonstration import Demo
    from aaflow_plugins.embedding import Embedder
    from aaflow_plugins.engines.communicator import Communicator
    from aaflow_plugins.executor import Executor
    from aaflow_plugins.plan import Plan
    from aaflow_plugins.storing import VectorSink

#: The entry-point group and pluggy project name.
GROUP = "aaflow_plugins"
#: The entry-point group of engines.
ENGINES = "aaflow_engines"

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


@hookspec(firstresult=True)
def aaflow_accelerate(obj: Any, executor: Executor | None, batching: bool, batch_queries: bool) -> Any:
    """Return an accelerated object of the same native class, or None if `obj` is not this plug-in's.

    `batching` and `batch_queries` are as in `accelerate`; an implementation may leave out what it has no use for.
    """


@hookspec(firstresult=True)
def aaflow_embedder(embeddings: Any) -> Embedder | None:
    """Return the fast path for this embeddings object, or None if it is not known exactly."""


@hookspec(firstresult=True)
def aaflow_query_batching(embeddings: Any) -> bool | None:
    """Return True if many queries in one call get, bit for bit, the vectors of single calls; None if not known.

    True also says that a query's vector depends on nothing but its text.
    """


@hookspec(firstresult=True)
def aaflow_independent_answers(model: Any) -> bool | None:
    """Return True if a model's answers depend on nothing but what each is asked; None if not known.

    Then it may be asked in another order than natively, by calls that are in flight together, and in threads, where it
    finds a copy of the caller's context variables, but no event loop. An embedding model's answers are the vectors of
    the batches that the native loop asks for.
    """


@hookspec(firstresult=True)
def aaflow_sink(store: Any) -> VectorSink | None:
    """Return the zero-copy way into this vector store, or None if it is not known exactly."""


@hookspec(firstresult=True)
def aaflow_engine(name: str) -> Communicator | None:
    """Return this process as a rank of the engine of this name, or None if it is not this plug-in's.

    Raises:
        ImportError: If what the engine needs is not installed; the message names the remedy.
    """


@hookspec
def aaflow_capabilities() -> list[tuple[str, str, str]]:  # type: ignore[empty-body]
    """Rows for `aaflow doctor`: (kind, name, state), state being 'ready' or what is missing and the remedy."""


@hookspec(firstresult=True)
def aaflow_plan(obj: Any) -> Plan | None:
    """Return the plan that these native objects (one, several, or a mapping by part) would run as."""


@hookspec(firstresult=True)
def aaflow_comparison(make: Callable[[], Any], documents: Sequence[tuple[str, str]]) -> Comparison | None:
    """Compare native and accelerated for the objects that `make` gives, over `(source, text)` documents."""


@hookspec(firstresult=True)
def aaflow_demo(documents: Sequence[tuple[str, str]]) -> Demo | None:
    """Return this framework's demo over `(source, text)` documents."""
