"""LangGraph's compiled graphs: they run natively, and their retrievers, stores and embeddings join concurrent calls.

A graph that is run many times at once (by an agent server, by `abatch`, by `gather`) embeds and searches for one query
after the other. Here the graph is copied as far as something in it has to be replaced: nodes, tools, functions with
what their closures hold. Everything else is shared with the graph that was given, and that one is not touched.

Importing this module imports langgraph.
"""

from __future__ import annotations

import copy
import dis
import functools
from collections.abc import Iterator
from types import CellType, CodeType, FunctionType, MethodType
from typing import Any

from langchain_core.embeddings import Embeddings
from langchain_core.runnables import RunnableAssign, RunnableBinding, RunnableLambda, RunnableParallel, RunnableSequence
from langchain_core.tools import StructuredTool, Tool
from langchain_core.vectorstores import VectorStore, VectorStoreRetriever
from langgraph.graph.state import CompiledStateGraph
from langgraph.prebuilt import ToolNode
from langgraph.pregel import Pregel

from langchain_aaflow.embeddings import accelerate_embeddings
from langchain_aaflow.joining import Joins, joining_embeddings, joining_retriever
from langchain_aaflow.vectorstores import accelerate_store

#: What a node's function becomes.
_RunnableCallable: Any = ToolNode.__bases__[0]

_JOINING = (Embeddings, VectorStore, VectorStoreRetriever)


def accelerate_graph(graph: Pregel, *, batch_queries: bool = False) -> Pregel:
    """A copy of a compiled graph whose runs join their queries with those of other runs.

    Args:
        graph: A compiled graph. It is not changed.
        batch_queries: Whether different queries may be embedded in one call, whatever the embeddings.

    Returns:
        The copy, of the same class; `graph` itself if nothing in it can be replaced.
    """
    return _Rewriting(Joins(always=True, batch_queries=batch_queries)).graph(graph)


def explain_graph(graph: Pregel) -> list[str]:
    """What `accelerate_graph` replaces, and what it finds but has to leave: one line each."""
    rewriting = _Rewriting(Joins(always=True))
    rewriting.graph(graph)
    return rewriting.lines or ["nothing in the graph's nodes and tools embeds or searches"]


class _Rewriting:
    """Copies what has to change, once each; everything else stays the very object."""

    def __init__(self, joins: Joins) -> None:
        self._joins = joins
        #: By id: the object, to keep its id, and what stands in its place.
        self._done: dict[int, tuple[Any, Any]] = {}
        self._cells: dict[int, tuple[CellType, CellType]] = {}
        self._where: list[str] = []
        self.lines: list[str] = []

    def graph(self, graph: Pregel) -> Pregel:
        if type(graph) not in (CompiledStateGraph, Pregel):
            return graph
        nodes = {}
        for name, node in graph.nodes.items():
            self._where.append(name)
            bound = self.of(node.bound)
            if bound is not node.bound:
                subgraphs = [self.of(each) for each in node.subgraphs]
                node = node.copy({"bound": bound, "subgraphs": subgraphs})
            nodes[name] = node
            self._where.pop()
        if all(node is graph.nodes[name] for name, node in nodes.items()):
            return graph
        # A graph that is made puts a channel of its own among those that it is given.
        return graph.copy({"nodes": nodes, "channels": dict(graph.channels)})

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
        if owner is _RunnableCallable or owner is RunnableLambda:
            return self._with_attributes(value, "func", "afunc")
        if owner is ToolNode:
            return self._tool_node(value)
        if isinstance(value, Pregel):
            return self.graph(value)
        # `RunnableParallel[dict[str, Any]]` is a class of its own to pydantic.
        generic = getattr(owner, "__pydantic_generic_metadata__", {}).get("origin") or owner
        return self._with_fields(value, _FIELDS[generic]) if generic in _FIELDS else value

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
            if (twin := self._cell(function, name, cell)) is not cell:
                changed[name] = twin
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
        if _assigns(function.__code__, name):
            return cell
        found = self.of(held)
        twin = cell if found is held else CellType(found)
        self._cells[id(cell)] = cell, twin
        return twin

    def _partial(self, value: functools.partial[Any]) -> Any:
        function, arguments = self.of(value.func), tuple(map(self.of, value.args))
        keywords = {name: self.of(each) for name, each in value.keywords.items()}
        same = function is value.func and all(map(_is, arguments, value.args))
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
        if type(value) is list:
            items = list(map(self.of, value))
            return value if all(map(_is, items, value)) else items
        if type(value) is dict:
            entries = {name: self.of(each) for name, each in value.items()}
            return value if all(each is value[name] for name, each in entries.items()) else entries
        return self.of(value)

    def _tool_node(self, node: Any) -> Any:
        if "_tools_by_name" not in vars(node):
            self._tell("a ToolNode of a version that is not known stays native")
            return node
        tools = {}
        for name, tool in node._tools_by_name.items():
            self._where.append(name)
            tools[name] = self.of(tool)
            if type(tool) not in _FIELDS:
                self._tell(f"{type(tool).__name__} is a tool class of its own, which stays native")
            self._where.pop()
        if all(tool is node._tools_by_name[name] for name, tool in tools.items()):
            return node
        twin = copy.copy(node)
        twin._tools_by_name = tools
        # Bound to the node that they were made in.
        twin.func, twin.afunc = twin._func, twin._afunc
        return twin

    def _tell(self, line: str) -> None:
        self.lines.append(f"{self._where[-1]}: {line}")


#: Classes of models that hold others, exactly these, and in which fields.
_FIELDS: dict[type, tuple[str, ...]] = {
    StructuredTool: ("func", "coroutine"),
    Tool: ("func", "coroutine"),
    RunnableSequence: ("first", "middle", "last"),
    RunnableParallel: ("steps__",),
    RunnableAssign: ("mapper",),
    RunnableBinding: ("bound",),
}


def _is(one: Any, other: Any) -> bool:
    return one is other


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _names(code: CodeType) -> set[str]:
    return {name for each in _codes(code) for name in each.co_names}


def _assigns(code: CodeType, name: str) -> bool:
    """Whether a function gives a variable of its closure another value: it has to stay the one that others see."""
    return any(
        instruction.opname in ("STORE_DEREF", "DELETE_DEREF") and instruction.argval == name
        for each in _codes(code)
        for instruction in dis.get_instructions(each)
    )
