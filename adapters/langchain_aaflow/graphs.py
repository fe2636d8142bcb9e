"""LangGraph's compiled graphs: they run natively, and their retrievers, stores and embeddings join concurrent calls.

A graph that is run many times at once (by an agent server, by `abatch`, by `gather`) embeds and searches for one query
after the other. Here the graph is copied as far as something in it has to be replaced; everything else is shared with
the graph that was given, and that one is not touched.

Importing this module imports langgraph.
"""

from __future__ import annotations

import copy
from typing import Any

from langgraph.graph.state import CompiledStateGraph
from langgraph.prebuilt import ToolNode
from langgraph.pregel import Pregel

from aaflow_plugins.joins import Joins
from langchain_aaflow.rewriting import FIELDS, Rewriting

Graph = Pregel[Any, Any, Any, Any]

#: What a node's function becomes.
_RunnableCallable: Any = ToolNode.__bases__[0]


def accelerate_graph(graph: Graph, *, batch_queries: bool = False) -> Graph:
    """A copy of a compiled graph whose runs join their queries with those of other runs.

    Args:
        graph: A compiled graph. It is not changed.
        batch_queries: Whether different queries may be embedded in one call, whatever the embeddings.

    Returns:
        The copy, of the same class; `graph` itself if nothing in it can be replaced.
    """
    return _GraphRewriting(Joins(always=True, batch_queries=batch_queries), graph.get_name()).graph(graph)


def explain_graph(graph: Graph) -> list[str]:
    """What `accelerate_graph` replaces, and what it finds but has to leave: one line each."""
    rewriting = _GraphRewriting(Joins(always=True), graph.get_name())
    rewriting.graph(graph)
    return rewriting.lines or ["nothing in the graph's nodes and tools embeds or searches"]


class _GraphRewriting(Rewriting):
    def graph(self, graph: Graph) -> Graph:
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

    def _replacement(self, value: Any) -> Any:
        if type(value) is _RunnableCallable:
            return self._with_attributes(value, "func", "afunc")
        if type(value) is ToolNode:
            return self._tool_node(value)
        return self.graph(value) if isinstance(value, Pregel) else super()._replacement(value)

    def _tool_node(self, node: Any) -> Any:
        if "_tools_by_name" not in vars(node):
            self._tell("a ToolNode of a version that is not known stays native")
            return node
        tools = {}
        for name, tool in node._tools_by_name.items():
            self._where.append(name)
            tools[name] = self.of(tool)
            if type(tool) not in FIELDS:
                self._tell(f"{type(tool).__name__} is a tool class of its own, which stays native")
            self._where.pop()
        if all(tool is node._tools_by_name[name] for name, tool in tools.items()):
            return node
        twin = copy.copy(node)
        twin._tools_by_name = tools
        # Bound to the node that they were made in.
        twin.func, twin.afunc = twin._func, twin._afunc
        return twin
