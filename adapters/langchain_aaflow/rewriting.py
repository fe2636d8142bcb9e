"""Copies of chains and functions in which retrievers, stores and embeddings join concurrent calls.

What holds such an object is copied as far as it has to be: steps, tools, functions with what their closures hold. All
else is shared with the original, which is not touched.
"""

from __future__ import annotations

import copy
import dis
import functools
import gc
import inspect
import sys
from collections.abc import Iterator
from operator import is_
from types import CellType, CodeType, FrameType, FunctionType, MethodType
from typing import Any, Final

from langchain_core.embeddings import Embeddings
from langchain_core.runnables import (
    RunnableAssign,
    RunnableBinding,
    RunnableBranch,
    RunnableLambda,
    RunnableParallel,
    RunnableSequence,
    RunnableWithFallbacks,
)
from langchain_core.runnables.base import RunnableEach
from langchain_core.runnables.retry import RunnableRetry
from langchain_core.tools import StructuredTool, Tool
from langchain_core.vectorstores import VectorStore, VectorStoreRetriever

from aaflow_plugins.joins import Joins
from langchain_aaflow.embeddings import accelerate_embeddings
from langchain_aaflow.joining import joining_embeddings, joining_retriever
from langchain_aaflow.vectorstores import accelerate_store

_JOINING = (Embeddings, VectorStore, VectorStoreRetriever)


class Rewriting:
    """Copies what has to change, once each; everything else stays the very object.

    Attributes:
        lines: What is replaced, and what is found but has to stay.
    """

    def __init__(self, joins: Joins, where: str) -> None:
        """Set up.

        Args:
            joins: What is told to whatever joins calls.
            where: What the lines name until something within is looked at.
        """
        self._joins = joins
        #: By id: the object, to keep its id, and what stands in its place.
        self._done: dict[int, tuple[Any, Any]] = {}
        self._cells: dict[int, tuple[CellType, CellType]] = {}
        self._where = [where]
        self.lines: list[str] = []

    def of(self, value: Any) -> Any:
        """What stands in the place of a value."""
        if id(value) in self._done:
            return self._done[id(value)][1]
        # While it is being looked at it stands for itself.
        self._done[id(value)] = value, value
        replacement = self._replacement(value)
        self._done[id(value)] = value, replacement
        return replacement

    def _replacement(self, value: Any) -> Any:
        owner = type(value)
        if isinstance(value, _JOINING):
            return self._joining(value)
        if owner is FunctionType:
            return self._function(value)
        if owner is MethodType:
            target = self.of(value.__self__) if isinstance(value.__self__, _JOINING) else value.__self__
            return value if target is value.__self__ else getattr(target, value.__name__)
        if owner is functools.partial:
            return self._partial(value)
        if owner is RunnableLambda:
            return self._with_attributes(value, "func", "afunc")
        # `RunnableParallel[dict[str, Any]]` is a class of its own to pydantic.
        generic = getattr(owner, "__pydantic_generic_metadata__", {}).get("origin") or owner
        return self._with_fields(value, FIELDS[generic]) if generic in FIELDS else value

    def _joining(self, value: Any) -> Any:
        if isinstance(value, VectorStoreRetriever):
            found: Any = joining_retriever(value, self._joins)
        elif isinstance(value, VectorStore):
            found = accelerate_store(value, self._joins)
        else:
            found = joining_embeddings(accelerate_embeddings(value), self._joins)
        self._tell(f"{type(value).__name__} {'stays native' if found is value else 'joins concurrent calls'}")
        return found

    def _function(self, function: FunctionType) -> Any:
        for name in _names(function.__code__):
            if isinstance(function.__globals__.get(name), _JOINING):
                self._tell(
                    f"the global {name} of {function.__qualname__} stays as it is: accelerate it where it is made"
                )
        cells = function.__closure__ or ()
        changed = {}
        for name, cell in zip(function.__code__.co_freevars, cells, strict=True):
            if (other := self._cell(function, name, cell)) is not cell:
                changed[name] = other
        defaults = tuple(map(self.of, function.__defaults__ or ()))
        keywords = {name: self.of(value) for name, value in (function.__kwdefaults__ or {}).items()}
        same = all(ours is theirs for ours, theirs in zip(defaults, function.__defaults__ or (), strict=True))
        same = same and all(value is (function.__kwdefaults__ or {})[name] for name, value in keywords.items())
        if same and not changed:
            return function
        closure = tuple(
            changed.get(name, cell) for name, cell in zip(function.__code__.co_freevars, cells, strict=True)
        )
        twin = FunctionType(function.__code__, function.__globals__, function.__name__, defaults or None, closure)
        functools.update_wrapper(twin, function)
        twin.__dict__.pop("__wrapped__", None)
        twin.__dict__.update(vars(function))
        twin.__kwdefaults__ = keywords or None
        return twin

    def _cell(self, function: FunctionType, name: str, cell: CellType) -> CellType:
        """The cell for a variable of a closure: a new one if what it holds is replaced."""
        if id(cell) in self._cells:
            return self._cells[id(cell)][1]
        try:
            held = cell.cell_contents
        except ValueError:
            return cell
        found = self.of(held)
        if found is not held and _is_assigned(function, name, cell):
            self._tell(f"the variable {name} of {function.__qualname__} is given other values: it stays as it is")
            found = held
        twin = cell if found is held else CellType(found)
        self._cells[id(cell)] = cell, twin
        return twin

    def _partial(self, value: functools.partial[Any]) -> Any:
        function, arguments = self.of(value.func), tuple(map(self.of, value.args))
        keywords = {name: self.of(each) for name, each in value.keywords.items()}
        same = function is value.func and all(map(is_, arguments, value.args))
        if same and all(each is value.keywords[name] for name, each in keywords.items()):
            return value
        return functools.partial(function, *arguments, **keywords)

    def _with_attributes(self, value: Any, *names: str) -> Any:
        found = {name: self.of(each) for name in names if (each := vars(value).get(name)) is not None}
        if all(each is vars(value)[name] for name, each in found.items()):
            return value
        twin = copy.copy(value)
        vars(twin).update(found)
        # A RunnableLambda's, which it finds out by looking at its function.
        vars(twin).pop("deps", None)
        return twin

    def _with_fields(self, value: Any, fields: tuple[str, ...]) -> Any:
        found = {name: self._field(getattr(value, name)) for name in fields}
        if all(each is getattr(value, name) for name, each in found.items()):
            return value
        return value.model_copy(update=found)

    def _field(self, value: Any) -> Any:
        if type(value) in (list, tuple):
            items = type(value)(map(self._field, value))
            return value if all(map(is_, items, value)) else items
        if type(value) is dict:
            entries = {name: self.of(each) for name, each in value.items()}
            return value if all(each is value[name] for name, each in entries.items()) else entries
        return self.of(value)

    def _tell(self, line: str) -> None:
        self.lines.append(f"{self._where[-1]}: {line}")


#: Classes of models that hold others, exactly these, and in which fields.
FIELDS: dict[type, tuple[str, ...]] = {
    StructuredTool: ("func", "coroutine"),
    Tool: ("func", "coroutine"),
    RunnableSequence: ("first", "middle", "last"),
    RunnableParallel: ("steps__",),
    RunnableAssign: ("mapper",),
    RunnableBinding: ("bound",),
    RunnableBranch: ("branches", "default"),
    RunnableEach: ("bound",),
    RunnableRetry: ("bound",),
    RunnableWithFallbacks: ("runnable", "fallbacks"),
}


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _names(code: CodeType) -> set[str]:
    return {name for each in _codes(code) for name in each.co_names}


def _is_assigned(function: FunctionType, name: str, cell: CellType) -> bool:
    """Whether somebody may give a variable of a closure another value: it has to stay the one that all see."""
    owner = _owner_of(function, name)
    if owner is not None:
        within = [code for code in _codes(owner) if name in code.co_freevars]
        return _is_assigned_again(owner, name) or any(_assigns(code, name) for code in within)
    if gc.get_freeze_count():
        return True  # the collector does not show who shares it
    for closure in gc.get_referrers(cell):
        for other in gc.get_referrers(closure) if type(closure) is tuple else ():
            if isinstance(other, FunctionType) and other.__closure__ is closure and closure:
                names = zip(other.__code__.co_freevars, closure or (), strict=True)
                if any(each is cell and _assigns(other.__code__, free) for free, each in names):
                    return True
    return False


def _owner_of(function: FunctionType, name: str) -> CodeType | None:
    """The code of the function around it whose variable it is; None if it is not found by its name."""
    outermost = function.__qualname__.partition(".<locals>.")[0].split(".")
    try:
        found: Any = function.__globals__.get(outermost[0])
        for part in outermost[1:]:
            found = inspect.getattr_static(found, part, None)
        found = getattr(found, "__func__", found)
    except Exception:  # something that stands for an object, and may have none now
        return None
    around = _around(found.__code__, function.__code__) if type(found) is FunctionType else None
    return next((code for code in around or () if name in code.co_cellvars), None)


def _around(code: CodeType, inner: CodeType) -> list[CodeType] | None:
    """The codes around one that stands within another, from the inside; None if it does not."""
    for each in code.co_consts:
        if each == inner:
            return [code]
        if isinstance(each, CodeType) and (found := _around(each, inner)) is not None:
            return [*found, code]
    return None


def _is_assigned_again(owner: CodeType, name: str) -> bool:
    """Whether a function that has given its own variable a value may go on to give it another one."""
    instructions = list(dis.get_instructions(owner))
    stores = [one.offset for one in instructions if one.opname in _STORES and one.argval == name]
    jumps = [(one.argval, one.offset) for one in instructions if one.opcode in _JUMPS and one.argval < one.offset]

    def after(place: int) -> bool:
        loops = [(start, end) for start, end in jumps if start <= place <= end]
        return any(store > place or any(start <= store <= end for start, end in loops) for store in stores)

    if owner.co_flags & _MAY_WAIT:
        # Where it waits is not known: anywhere behind one of them.
        return any(map(after, stores))
    return any(frame.f_code is owner and after(frame.f_lasti) for frame in _running())


def _running() -> Iterator[FrameType]:
    for top in sys._current_frames().values():
        frame: FrameType | None = top
        while frame is not None:
            yield frame
            frame = frame.f_back


_JUMPS: Final = frozenset((*dis.hasjrel, *dis.hasjabs))
_MAY_WAIT: Final = inspect.CO_COROUTINE | inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
_STORES: Final = ("STORE_DEREF", "DELETE_DEREF")


def _assigns(code: CodeType, name: str) -> bool:
    """Whether a function gives a variable of its closure another value: it has to stay the one that others see."""
    return any(
        instruction.opname in _STORES and instruction.argval == name
        for each in _codes(code)
        for instruction in dis.get_instructions(each)
    )
