"""Which functions depend on the order in which they are called.

A chain's inputs overtake each other between steps. For a function of its argument alone that makes no difference;
one that counts, draws from an iterator or collects what it sees must be called in the order of the inputs, so the
batch runs that step natively. What the code of a function shows is looked at; what it does not show, the user says
with `in_order` or `any_order`.
"""

from __future__ import annotations

import dis
import functools
import inspect
import operator
import random
from collections.abc import Callable, Iterable, Iterator
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    MethodDescriptorType,
    MethodType,
    MethodWrapperType,
    ModuleType,
)
from typing import Any, TypeVar

#: Methods of an object that somebody holds by themselves.
_BOUND = (BuiltinFunctionType, MethodType, MethodWrapperType)

F = TypeVar("F", bound=Callable[..., Any])

_MARK = "__aaflow_in_order__"


def in_order(function: F) -> F:
    """Mark a function that must see a batch's inputs in their order, one by one. Returns it."""
    setattr(function, _MARK, True)
    return function


def any_order(function: F) -> F:
    """Mark a function that may see a batch's inputs in any order, whatever its code looks like. Returns it."""
    setattr(function, _MARK, False)
    return function


def is_in_order(function: Any) -> bool:
    """Whether the user has marked it `in_order`."""
    return getattr(function, _MARK, None) is True


def order_reason(function: Any) -> str | None:
    """Why `function` must see inputs in order; None if it need not."""
    try:
        return _reason(function, set())
    except Exception as error:
        # What a function holds may refuse to be looked at.
        return f"looking at it fails with {type(error).__name__}"


def _reason(function: Any, seen: set[int]) -> str | None:
    if id(function) in seen:
        return None
    seen.add(id(function))
    mark = getattr(function, _MARK, None)
    if mark is not None:
        return "it is marked `in_order`" if mark else None
    if isinstance(function, functools.partial):
        return _held_reason("an argument of the partial", [*function.args, *function.keywords.values()]) or _reason(
            function.func, seen
        )
    if isinstance(
        function, type | BuiltinFunctionType | MethodDescriptorType | operator.itemgetter | operator.attrgetter
    ):
        owner = getattr(function, "__self__", None)
        return None if owner is None or isinstance(owner, ModuleType | str) else "it is a method of an object"
    if isinstance(function, functools._lru_cache_wrapper):
        return _reason(function.__wrapped__, seen)
    if isinstance(function, MethodType):
        return "it is a method of an object"
    if not isinstance(function, FunctionType):
        return f"a {type(function).__name__} may keep state between calls"
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        return "it is a generator"
    return _code_reason(function, seen)


_SETTING = ("STORE_GLOBAL", "DELETE_GLOBAL", "STORE_ATTR", "DELETE_ATTR")

#: Functions that do as much.
_SETTERS = frozenset({"setattr", "delattr"})

#: Methods that change a collection.
_CHANGING = {
    *("append", "appendleft", "extend", "insert", "add", "update", "setdefault", "pop", "popleft", "popitem"),
    *("remove", "discard", "clear", "sort", "reverse", "put", "put_nowait", "get_nowait", "send", "__next__"),
    *("difference_update", "intersection_update", "symmetric_difference_update", "subtract", "move_to_end"),
    *("rotate", "extendleft"),
}

#: Methods by which an object that is no collection keeps what it is given: stores of vectors, histories of messages.
_KEEPING = {
    *("add_texts", "aadd_texts", "add_documents", "aadd_documents", "add_embeddings", "delete", "adelete"),
    *("add_message", "add_messages", "aadd_messages", "add_user_message", "add_ai_message"),
}

#: Modules whose numbers come in an order.
_RANDOM = frozenset({"random", "numpy.random"})


def _code_reason(function: FunctionType, seen: set[int]) -> str | None:
    outer = set(function.__code__.co_freevars)
    names: set[str] = set()
    changes = False
    for code in _codes(function.__code__):
        names.update(code.co_names)
        for instruction in dis.get_instructions(code):
            name, argument = instruction.opname, instruction.argval
            if name in _SETTING or (name in ("STORE_DEREF", "DELETE_DEREF") and argument in outer):
                return f"it sets {argument}"
            if name == "IMPORT_NAME" and (argument in _RANDOM or (argument == "numpy" and "random" in code.co_names)):
                return f"it imports {argument}, whose numbers come in an order"
            changes = changes or name in ("STORE_SUBSCR", "DELETE_SUBSCR")
    held = [cell.cell_contents for cell in function.__closure__ or () if _filled(cell)]
    held += [function.__globals__[name] for name in names if name in function.__globals__]
    held += [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    if names & _SETTERS - function.__globals__.keys():
        return "it sets an attribute"
    if (changes or names & _CHANGING) and (reason := _collection_reason(held)):
        return reason
    for value in held:
        if kept := next((name for name in names & _KEEPING if callable(getattr(type(value), name, None))), None):
            return f"it may call {kept} of a {type(value).__name__}, which keeps what it is given"
    if "random" in names:
        held += [value.random for value in held if _is_module(value, "numpy")]
    if reason := _held_reason("it uses", held):
        return reason
    for value in [*held, getattr(function, "__wrapped__", None)]:
        # A helper of the user's own; what a library keeps to itself is its own affair.
        helper = value
        while isinstance(helper, functools.partial | functools._lru_cache_wrapper):
            helper = helper.func if isinstance(helper, functools.partial) else helper.__wrapped__
        own = isinstance(helper, FunctionType) and _package(helper) == _package(function)
        if own and (reason := _reason(value, seen)):
            return f"it calls {helper.__name__}: {reason}"
    return None


def _package(function: FunctionType) -> str:
    return function.__module__.partition(".")[0]


def _collection_reason(held: Iterable[Any]) -> str | None:
    for value in held:
        if hasattr(type(value), "__len__") and not isinstance(value, str | bytes | tuple | frozenset | type):
            return f"it may change a {type(value).__name__} that outlives the call"
    return None


def _held_reason(where: str, held: Iterable[Any]) -> str | None:
    for value in held:
        owner = getattr(value, "__self__", None) if isinstance(value, _BOUND) else value
        if module := next((name for name in _RANDOM if _is_module(owner, name)), None):
            return f"{where} the module {module}, whose numbers come in an order"
        if isinstance(owner, Iterator | random.Random) or type(owner).__module__.startswith("numpy.random"):
            return f"{where} a {type(owner).__name__}, which gives something else at every call"
        if owner is not value and value.__name__ in _CHANGING and not isinstance(owner, ModuleType):
            return f"{where} a method that changes a {type(owner).__name__}"
    return None


def _is_module(value: Any, name: str) -> bool:
    return isinstance(value, ModuleType) and value.__name__ == name


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)
