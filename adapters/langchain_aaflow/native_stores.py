"""Native vector stores as what stands beside them needs them: views of one, replaced methods, turns of threads."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractContextManager
from threading import Lock, RLock
from types import ModuleType
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from langchain_core.vectorstores import VectorStore

from aaflow_plugins.known_code import is_from

S = TypeVar("S", bound=VectorStore)

_turns: WeakKeyDictionary[Any, AbstractContextManager[Any]] = WeakKeyDictionary()
_turn_of_all = RLock()
_making = Lock()


def shared_view(store: Any, store_class: type[S]) -> S:
    """An object of `store_class` with the very attributes of `store`: what one does, the other sees."""
    if type(store) is store_class:
        return store
    view = object.__new__(store_class)
    view.__dict__ = store.__dict__
    return view


def replaced_methods(object_or_class: object, names: Collection[str], modules: Collection[ModuleType]) -> list[str]:
    """Which of these methods are no longer what `modules` define, on the class or on the object itself.

    Args:
        object_or_class: A store, a retriever, embeddings, or the class of one.
        names: Methods, those of the class among them, as attributes are named: private names mangled.
        modules: Where the untouched methods are written.
    """
    owner = object_or_class if isinstance(object_or_class, type) else type(object_or_class)
    own = {} if isinstance(object_or_class, type) else vars(object_or_class)
    return sorted(name for name in names if name in own or not _is_untouched(owner, name, modules))


def _is_untouched(owner: type, name: str, modules: Collection[ModuleType]) -> bool:
    # Each class that defines it: what a subclass replaces may call, or stand for, what it inherits.
    defined = [vars(base)[name] for base in owner.__mro__ if name in vars(base)]
    functions = [each.__func__ if isinstance(each, classmethod) else each for each in defined]
    return all(any(is_from(function, module) for module in modules) for function in functions)


def turn_on(shared: Any) -> AbstractContextManager[Any]:
    """The lock, one for each object, of those who change it together. It is no part of the object's state."""
    try:
        with _making:
            turn = _turns.get(shared)
            if turn is None:
                turn = _turns[shared] = RLock()
            return turn
    except TypeError:
        # An object without hash or weak references.
        return _turn_of_all
