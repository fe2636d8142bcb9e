"""Compiled graphs run natively; what embeds and searches in them joins the calls of concurrent runs."""

from __future__ import annotations

import asyncio
import functools
import gc
from collections.abc import Callable, Sequence
from typing import Any, TypedDict

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableLambda, RunnablePassthrough
from langchain_core.tools import BaseTool, create_retriever_tool, tool
from langchain_core.vectorstores import InMemoryVectorStore, VectorStoreRetriever

pytest.importorskip("langgraph")
pytest.importorskip("langchain")
pytest.importorskip("langchain_community")

from langchain.agents import create_agent
from langchain_community.vectorstores import FAISS
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.prebuilt import ToolNode

from langchain_aaflow.graphs import accelerate_graph, explain_graph
from tests.langchain.test_joining import Counting

TEXTS = [f"fact number {number}" for number in range(100)]


class Agent(BaseChatModel):
    """Asks for one search with the words of the question, then answers with what was found."""

    @property
    def _llm_type(self) -> str:
        return "agent"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[Any, AIMessage]:
        return self

    def _generate(self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **_: Any) -> ChatResult:
        last = messages[-1]
        if isinstance(last, ToolMessage):
            answer = AIMessage(f"found: {last.content}")
        else:
            call = {"name": "search", "args": {"query": str(last.content)}, "id": f"call {last.content}"}
            answer = AIMessage("", tool_calls=[call])
        return ChatResult(generations=[ChatGeneration(message=answer)])

    async def _agenerate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        await asyncio.sleep(0.001)
        return self._generate(messages)


def retriever(
    embeddings: Counting, texts: Sequence[str] = (), store_class: Any = InMemoryVectorStore
) -> VectorStoreRetriever:
    return store_class.from_texts(texts or TEXTS, embeddings).as_retriever(search_kwargs={"k": 2})


def contents(state: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    return [(message.type, message.content, getattr(message, "tool_calls", None)) for message in state["messages"]]


async def run_all(graph: Any, questions: list[str]) -> list[Any]:
    inputs = [{"messages": [HumanMessage(question)]} for question in questions]
    return [contents(state) for state in await asyncio.gather(*map(graph.ainvoke, inputs))]


def retriever_tool(embeddings: Counting, store_class: Any) -> Any:
    return create_retriever_tool(retriever(embeddings, store_class=store_class), "search", "searches")


def closure_tool(embeddings: Counting, store_class: Any) -> Any:
    found = retriever(embeddings, store_class=store_class)

    @tool
    async def search(query: str) -> str:
        """Searches."""
        return " | ".join(document.page_content for document in await found.ainvoke(query))

    return search


def store_tool(embeddings: Counting, store_class: Any) -> Any:
    store = retriever(embeddings, store_class=store_class).vectorstore

    @tool
    async def search(query: str, *, k: int = 3) -> str:
        """Searches."""
        return " | ".join(document.page_content for document in await store.asimilarity_search(query, k))

    return search


@pytest.mark.parametrize("make", [retriever_tool, pytest.param(closure_tool, marks=pytest.mark.at_length), store_tool])
@pytest.mark.parametrize("store_class", [InMemoryVectorStore, FAISS])
def test_two_hundred_agents_at_once(make: Callable[[Counting, Any], Any], store_class: Any) -> None:
    embeddings = Counting()
    native = create_agent(Agent(), [make(embeddings, store_class)])
    fast = accelerate_graph(native, batch_queries=True)
    assert type(fast) is type(native)
    questions = [f"question {number}" for number in range(200)]
    embeddings.calls.clear()
    expected = asyncio.run(run_all(native, questions))
    natively = len(embeddings.calls)
    assert natively == 200
    embeddings.calls.clear()
    assert asyncio.run(run_all(fast, questions)) == expected
    assert len(embeddings.calls) <= natively / 8
    embeddings.calls.clear()
    assert asyncio.run(run_all(native, questions[:5])) == expected[:5]
    assert len(embeddings.calls) == 5


def test_batch_of_a_graph_joins_too() -> None:
    embeddings = Counting()
    native = create_agent(Agent(), [retriever_tool(embeddings, InMemoryVectorStore)])
    fast = accelerate_graph(native, batch_queries=True)
    inputs = [{"messages": [HumanMessage(f"question {number}")]} for number in range(40)]
    expected = [contents(state) for state in native.batch(inputs)]
    assert [contents(state) for state in fast.batch(inputs)] == expected
    embeddings.calls.clear()
    assert [contents(state) for state in asyncio.run(fast.abatch(inputs))] == expected
    assert len(embeddings.calls) <= 5


class Runs(BaseCallbackHandler):
    def __init__(self) -> None:
        self.seen: list[Any] = []

    def on_chain_start(self, serialized: Any, inputs: Any, **kwargs: Any) -> None:
        self.seen.append(("chain", kwargs.get("name"), sorted(kwargs["tags"] or [])))

    def on_tool_start(self, serialized: Any, input_str: str, **kwargs: Any) -> None:
        self.seen.append(("tool", serialized["name"], input_str))

    def on_retriever_start(self, serialized: Any, query: str, **kwargs: Any) -> None:
        self.seen.append(("retriever", kwargs["name"], query, kwargs["tags"], kwargs["metadata"]["ls_retriever_name"]))

    def on_retriever_end(self, documents: Sequence[Document], **kwargs: Any) -> None:
        self.seen.append(("found", [document.page_content for document in documents]))


def test_the_events_of_a_run_are_the_native_ones() -> None:
    native = create_agent(Agent(), [retriever_tool(Counting(), InMemoryVectorStore)])
    seen = []
    for graph in (native, accelerate_graph(native)):
        handler = Runs()
        asyncio.run(graph.ainvoke({"messages": [HumanMessage("why")]}, {"callbacks": [handler]}))
        seen.append(handler.seen)
    assert any(event[0] == "retriever" for event in seen[0])
    assert seen[1] == seen[0]


def test_the_copy_keeps_checkpointer_config_and_drawing() -> None:
    native = create_agent(
        Agent(), [retriever_tool(Counting(), InMemoryVectorStore)], checkpointer=InMemorySaver(), name="mine"
    ).with_config(tags=["a"])
    fast = accelerate_graph(native)
    assert fast is not native
    assert (fast.checkpointer, fast.name, fast.config) == (native.checkpointer, native.name, native.config)
    assert fast.get_graph().draw_mermaid() == native.get_graph().draw_mermaid()
    assert fast.get_input_jsonschema() == native.get_input_jsonschema()
    config = {"configurable": {"thread_id": "1"}}
    fast.invoke({"messages": [HumanMessage("why")]}, config)
    assert contents(native.get_state(config).values) == contents(fast.get_state(config).values)


def test_nothing_of_the_graph_that_was_given_is_changed() -> None:
    found = retriever(Counting())
    search = create_retriever_tool(found, "search", "searches")
    native = create_agent(Agent(), [search])
    node = native.nodes["tools"]
    before = dict(vars(native)), dict(native.channels), dict(vars(node)), dict(vars(node.bound)), dict(vars(search))
    store, closure = found.vectorstore, [cell.cell_contents for cell in search.func.__closure__]
    accelerate_graph(native).invoke({"messages": [HumanMessage("why")]})
    after = dict(vars(native)), dict(native.channels), dict(vars(node)), dict(vars(node.bound)), dict(vars(search))
    for one, other in zip(before, after, strict=True):
        other.pop("node", None), other.pop("flat_writers", None), other.pop("input_cache_key", None)
        assert all(other[name] is value for name, value in one.items())
    assert found.vectorstore is store
    assert all(map(lambda cell, held: cell.cell_contents is held, search.func.__closure__, closure))


# --- where a retriever may be ---------------------------------------------------------------------------------


class State(TypedDict, total=False):
    question: str
    found: list[str]


def graph_of(node: Any) -> Any:
    builder = StateGraph(State)
    builder.add_node("find", node)
    builder.add_edge(START, "find")
    builder.add_edge("find", END)
    return builder.compile()


def _texts(documents: list[Document]) -> dict[str, list[str]]:
    return {"found": [document.page_content for document in documents]}


def in_a_closure(found: VectorStoreRetriever) -> Any:
    async def find(state: State) -> Any:
        return _texts(await found.ainvoke(state["question"]))

    return find


def in_a_closure_of_a_closure(found: VectorStoreRetriever) -> Any:
    search = in_a_closure(found)

    async def find(state: State) -> Any:
        return await search(state)

    return find


def in_a_default(found: VectorStoreRetriever) -> Any:
    async def find(state: State, *, found: Any = found) -> Any:
        return _texts(await found.ainvoke(state["question"]))

    return find


def in_a_partial(found: VectorStoreRetriever) -> Any:
    async def find(found: Any, state: State) -> Any:
        return _texts(await found.ainvoke(state["question"]))

    bound = functools.partial(find, found)

    async def call(state: State) -> Any:
        return await bound(state)

    return call


def a_bound_method(found: VectorStoreRetriever) -> Any:
    search = found.vectorstore.asimilarity_search

    async def find(state: State) -> Any:
        return _texts(await search(state["question"], k=2))

    return find


def in_a_chain(found: VectorStoreRetriever) -> Any:
    chain = (lambda state: state["question"]) | found | _texts
    assert isinstance(chain, Runnable)
    return chain


def in_an_assignment(found: VectorStoreRetriever) -> Any:
    documents = RunnableLambda(lambda state: state["question"]) | found
    chain = RunnablePassthrough.assign(documents=documents) | (lambda state: _texts(state["documents"]))
    return chain.with_config(run_name="mine")


def in_a_lambda(found: VectorStoreRetriever) -> Any:
    prompt = ChatPromptTemplate.from_template("{question}")

    async def find(state: Any) -> Any:
        return _texts(await found.ainvoke(prompt.invoke(state).messages[0].content))

    return RunnableLambda(find)


def in_a_subgraph(found: VectorStoreRetriever) -> Any:
    return graph_of(in_a_closure(found))


def in_a_store(found: VectorStoreRetriever) -> Any:
    store = found.vectorstore

    async def find(state: State) -> Any:
        return _texts([document for document, _ in await store.asimilarity_search_with_score(state["question"], k=2)])

    return find


def in_embeddings(found: VectorStoreRetriever) -> Any:
    embeddings, store = found.vectorstore.embeddings, found.vectorstore

    async def find(state: State) -> Any:
        return _texts(store.similarity_search_by_vector(await embeddings.aembed_query(state["question"]), k=2))

    return find


PLACES = [
    *(in_a_closure, in_a_closure_of_a_closure, in_a_default, in_a_partial, a_bound_method, in_a_chain),
    *(in_an_assignment, in_a_lambda, in_a_subgraph, in_a_store, in_embeddings),
]


@pytest.mark.parametrize("place", PLACES)
def test_places(place: Callable[[VectorStoreRetriever], Any]) -> None:
    embeddings = Counting()
    native = graph_of(place(retriever(embeddings)))
    fast = accelerate_graph(native, batch_queries=True)
    inputs: list[Any] = [{"question": f"question {number}"} for number in range(60)]

    async def all_at_once(graph: Any) -> list[Any]:
        return await asyncio.gather(*map(graph.ainvoke, inputs))

    expected = asyncio.run(all_at_once(native))
    assert all(len(state["found"]) == 2 for state in expected)
    embeddings.calls.clear()
    assert asyncio.run(all_at_once(fast)) == expected
    assert sum(map(len, embeddings.calls)) == 60
    assert len(embeddings.calls) <= 6


def test_variables_that_a_node_assigns_stay_shared() -> None:
    found, count = retriever(Counting()), 0

    def find(state: State) -> Any:
        nonlocal count
        count += 1
        return _texts(found.invoke(state["question"]))

    native = graph_of(find)
    accelerate_graph(native).invoke({"question": "why"})
    native.invoke({"question": "why"})
    assert count == 2


def test_a_retriever_that_a_node_replaces_stays_native() -> None:
    found = retriever(Counting())

    def find(state: State) -> Any:
        nonlocal found
        found = found.model_copy()
        return _texts(found.invoke(state["question"]))

    native = graph_of(find)
    assert accelerate_graph(native) is native


def node_of(found: Any) -> Any:
    return graph_of(lambda state: _texts(found.invoke(state["question"])))


def test_a_retriever_that_is_replaced_where_it_was_made() -> None:
    found = retriever(Counting())
    native = graph_of(lambda state: _texts(found.invoke(state["question"])))
    fast = accelerate_graph(native)
    found = retriever(Counting(), ["Another text."])
    assert fast.invoke({"question": "why"}) == native.invoke({"question": "why"})
    # What was given before, and nothing after, is known.
    last = retriever(Counting())
    last = last.model_copy()
    settled = graph_of(lambda state: _texts(last.invoke(state["question"])))
    assert accelerate_graph(settled) is not settled


async def test_a_retriever_that_is_replaced_while_its_maker_waits() -> None:
    graphs: list[Any] = []

    async def serve() -> None:
        found = retriever(Counting())
        graphs.append(graph_of(lambda state: _texts(found.invoke(state["question"]))))
        await asyncio.sleep(0.01)
        found = retriever(Counting(), ["Another text."])
        await asyncio.sleep(0)

    serving = asyncio.create_task(serve())
    await asyncio.sleep(0)
    fast = accelerate_graph(graphs[0])
    await serving
    assert fast.invoke({"question": "why"}) == graphs[0].invoke({"question": "why"})


def test_a_retriever_of_a_loop() -> None:
    made = []
    for texts in (["One text."], ["Another text."]):
        found = retriever(Counting(), texts)
        native = graph_of(lambda state: _texts(found.invoke(state["question"])))  # noqa: B023
        made.append((native, accelerate_graph(native)))
    for native, fast in made:
        assert fast.invoke({"question": "why"}) == native.invoke({"question": "why"})


@pytest.mark.parametrize("frozen", [False, True])
def test_a_retriever_that_another_function_replaces(frozen: bool) -> None:
    found = retriever(Counting())

    def reload() -> None:
        nonlocal found
        found = retriever(Counting(), ["Another text."])

    native = graph_of(lambda state: _texts(found.invoke(state["question"])))
    if frozen:
        gc.freeze()
    try:
        fast = accelerate_graph(native)
        alone = node_of(retriever(Counting()))
        assert accelerate_graph(alone) is not alone
    finally:
        gc.unfreeze()
    reload()
    assert fast.invoke({"question": "why"}) == native.invoke({"question": "why"})


class Unbound:
    """Stands for what is not there now, as werkzeug's objects do outside of a request."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("outside of a context")

    @property
    def __class__(self) -> type:  # type: ignore[override]
        raise RuntimeError("outside of a context")


def test_a_function_whose_maker_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    native = node_of(retriever(Counting()))
    monkeypatch.setitem(globals(), "node_of", Unbound())
    assert accelerate_graph(native) is not native


def test_a_recursive_function() -> None:
    found = retriever(Counting())

    def find(state: State, again: bool = True) -> Any:
        return find(state, False) if again else _texts(found.invoke(state["question"]))

    native = graph_of(find)
    state: Any = {"question": "why"}
    assert accelerate_graph(native).invoke(state) == native.invoke(state)


# --- what stays native, and says so ---------------------------------------------------------------------------

everywhere = retriever(Counting())


def global_search(state: State) -> Any:
    return _texts(everywhere.invoke(state["question"]))


class OwnTool(BaseTool):
    name: str = "search"
    description: str = "searches"
    found: Any = None

    def _run(self, query: str) -> str:
        return str(self.found.invoke(query))


def test_explanations() -> None:
    agent = create_agent(Agent(), [retriever_tool(Counting(), FAISS)])
    assert explain_graph(agent) == ["search: VectorStoreRetriever joins concurrent calls"]
    hidden = graph_of(global_search)
    assert accelerate_graph(hidden) is hidden
    assert explain_graph(hidden) == [
        "find: the global everywhere of global_search stays as it is: accelerate it where it is made"
    ]
    own = create_agent(Agent(), [OwnTool(found=everywhere)])
    assert accelerate_graph(own) is own
    assert explain_graph(own) == ["search: OwnTool is a tool class of its own, which stays native"]
    plain = graph_of(lambda state: {"found": []})
    assert explain_graph(plain) == ["nothing in the graph's nodes and tools embeds or searches"]
    assert accelerate_graph(plain) is plain


def test_a_tool_node_in_a_graph_of_ones_own() -> None:
    embeddings = Counting()
    node = ToolNode([retriever_tool(embeddings, InMemoryVectorStore)], handle_tool_errors=True)
    builder = StateGraph(dict)
    builder.add_node("tools", node)
    builder.add_edge(START, "tools")
    native = builder.compile()
    fast: Any = accelerate_graph(native, batch_queries=True)
    assert fast.nodes["tools"].bound is not node
    assert fast.nodes["tools"].bound.func.__self__ is fast.nodes["tools"].bound

    async def run(graph: Any) -> list[Any]:
        calls = [{"name": "search", "args": {"query": f"q {number}"}, "id": str(number)} for number in range(30)]
        inputs = [{"messages": [AIMessage("", tool_calls=[call])]} for call in calls]
        return [contents(state) for state in await asyncio.gather(*map(graph.ainvoke, inputs))]

    expected = asyncio.run(run(native))
    embeddings.calls.clear()
    assert asyncio.run(run(fast)) == expected
    assert len(embeddings.calls) <= 3
