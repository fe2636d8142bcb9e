"""Finding adapters, engines and fast paths: installed plug-ins are named by entry points and loaded when needed."""

from __future__ import annotations

import threading
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, TypeVar

import pluggy

from aaflow_plugins import hookspecs
from aaflow_plugins.engines.communicator import within_a_block
from aaflow_plugins.engines.launching import launched_ranks

if TYPE_CHECKING:
    from aaflow_plugins.engines.communicator import Communicator
    from aaflow_plugins.executor import Executor

T = TypeVar("T")
_lock = threading.RLock()


@cache
def plugin_manager() -> pluggy.PluginManager:
    """The one plug-in manager of the process; nothing is loaded by asking for it."""
    manager = pluggy.PluginManager(hookspecs.GROUP)
    manager.add_hookspecs(hookspecs)
    return manager


@cache
def installed() -> tuple[EntryPoint, ...]:
    """Entry points of the group `aaflow_plugins`, by name; not loaded."""
    return _entries(hookspecs.GROUP)


@cache
def engines() -> tuple[EntryPoint, ...]:
    """Entry points of the group `aaflow_engines`, by name; not loaded."""
    return _entries(hookspecs.ENGINES)


def load(entry: EntryPoint) -> None:
    """Load one plug-in and register it, once.

    Raises:
        ImportError: If what the plug-in needs is not installed.
    """
    manager = plugin_manager()
    with _lock:
        if not manager.has_plugin(entry.value):
            manager.register(entry.load(), name=entry.value)


def hook_of(entry: EntryPoint, name: str) -> Any:
    """A hook as one plug-in alone implements it.

    Raises:
        ImportError: If what the plug-in needs is not installed.
    """
    load(entry)
    manager = plugin_manager()
    others = [plugin for plugin in manager.get_plugins() if manager.get_name(plugin) != entry.value]
    return manager.subset_hook_caller(name, others)


def load_for(obj: Any) -> pluggy.HookRelay:
    """Load the plug-ins that serve `obj`, by the packages its class and its bases come from; return the hooks."""
    owner = obj if isinstance(obj, type) else type(obj)
    packages = {base.__module__.partition(".")[0] for base in owner.__mro__}
    for entry in installed():
        if any(package.startswith(entry.name) for package in packages):
            load(entry)
    return plugin_manager().hook


def engine(name: str) -> Communicator:
    """This process as a rank of the engine of this name: `local`, `mpi`, `cylon`, or one that a plug-in brings.

    Raises:
        ValueError: If there is no engine of this name.
        ImportError: If what it needs is not installed.
    """
    for entry in engines():
        load(entry)
    found: Communicator | None = plugin_manager().hook.aaflow_engine(name=name)
    if found is None:
        raise ValueError(f"engine {name!r} is not known: give 'local', 'mpi', 'cylon', or a plug-in's")
    return found


def ranks_of(executor: Executor) -> Communicator:
    """This process as a rank of the engine that an executor names; connects to the others if there are any.

    Within what the ranks do together it is by itself.

    Raises:
        ValueError: If there is no such engine.
        ImportError: If what it needs is not installed.
    """
    return engine(engine_of(executor))


def engine_of(executor: Executor) -> str:
    """The name of the engine that `ranks_of` asks; "local" where nobody has to be waited for."""
    if within_a_block():
        return "local"  # the other ranks are at work for the outer call
    if executor.engine == "auto":
        return "mpi" if launched_ranks() > 1 else "local"
    return executor.engine


def accelerate(obj: T, *, executor: Executor | None = None, batching: bool = False, batch_queries: bool = False) -> T:
    """Return an object of the same native class as `obj` that does the same, sooner.

    Args:
        obj: A framework's object (a text splitter, embeddings, a vector store or its class, a chain, ...). It is not
            changed.
        executor: Settings for what runs as a plan; None for the defaults.
        batching: Whether concurrent single calls are joined, as in a `batching()` block.
        batch_queries: Whether several queries may be embedded in one call. Where an embeddings class is known to
            give the same vectors either way they are in any case; a hosted model may differ in the last digits.

    Returns:
        The accelerated object. Where nothing can be made faster with the same result, `obj` itself.

    Raises:
        TypeError: If no installed plug-in knows objects of this kind, or `executor` is none.
    """
    if executor is not None and not hasattr(executor, "resources"):
        raise TypeError(f"executor must be an aaflow_plugins.Executor, not {executor!r}")
    hooks = load_for(obj)
    result = hooks.aaflow_accelerate(obj=obj, executor=executor, batching=batching, batch_queries=batch_queries)
    if result is None:
        if isinstance(obj, type):
            raise TypeError(f"obj is the class {_class_name(obj)}, which is not accelerated: give an object of it")
        known = ", ".join(entry.name for entry in installed()) or "none"
        raise TypeError(
            f"obj: nothing installed accelerates an object of {_class_name(obj)} (plug-ins: {known}); "
            "see `aaflow doctor` for what is missing"
        )
    accelerated: T = result
    return accelerated


def _entries(group: str) -> tuple[EntryPoint, ...]:
    return tuple(sorted(entry_points(group=group), key=lambda entry: (entry.name, entry.value)))


def _class_name(obj: Any) -> str:
    owner = obj if isinstance(obj, type) else type(obj)
    return f"{owner.__module__}.{owner.__qualname__}"
