"""LlamaIndex's query engine over a batch of questions: retrieval and synthesis, natively and with `abatch`."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from benchmarks import knowledge
from benchmarks.harness import Benchmark, Case, Contender, Scale
from benchmarks.many_inputs import chat_serving, cost_note, floor_note, in_turn_note
from benchmarks.measure import Work
from benchmarks.openai_server import Connection
from benchmarks.results import CaseResult

_RUN_JOBS, _QUERY = "native run_jobs(aquery)", "native query, in threads by hand"
_OURS, _OURS_SYNC = "ours, abatch", "ours, batch"
_WARM_UP = 20
_LATENCY = ("uniform", 50, 500)

Way = Callable[["asyncio.Runner", Any, Sequence[str], int], list[Any]]


def _engine(parameters: Mapping[str, Any]) -> Any:
    """An index over pieces of real text, in the store that the case names, and its query engine."""
    from llama_index.core import StorageContext, VectorStoreIndex
    from llama_index.core.schema import TextNode
    from llama_index.embeddings.openai import OpenAIEmbedding

    from benchmarks.llama_model import served_model

    rows, url = parameters["rows"], f"{parameters['url']}/v1"
    vectors = np.load(knowledge.vectors_of(parameters))
    pieces = knowledge.pieces_of(parameters)
    nodes = [
        TextNode(id_=str(row), text=text, metadata=own, embedding=vectors[row].tolist())
        for row, (text, own) in enumerate(pieces[:rows])
    ]
    storage = None
    if parameters["store"] == "faiss":
        import faiss
        from llama_index.vector_stores.faiss import FaissVectorStore

        storage = StorageContext.from_defaults(vector_store=FaissVectorStore(faiss.IndexFlatL2(knowledge.DIMENSION)))
    embedding = OpenAIEmbedding(
        api_base=url, api_key="none", model="text-embedding-3-small", dimensions=vectors.shape[1]
    )
    index = VectorStoreIndex(nodes, embed_model=embedding, storage_context=storage)
    mode = parameters["mode"]
    return index.as_query_engine(llm=served_model(url), similarity_top_k=knowledge.K, response_mode=mode)


def _run_jobs(loop: asyncio.Runner, engine: Any, questions: Sequence[str], bound: int) -> list[Any]:
    from llama_index.core.async_utils import run_jobs

    async def jobs() -> list[Any]:
        return await run_jobs([engine.aquery(question) for question in questions], workers=bound)

    return loop.run(jobs())


def _threads(_: asyncio.Runner, engine: Any, questions: Sequence[str], bound: int) -> list[Any]:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(bound) as pool:
        return list(pool.map(engine.query, questions))


def _abatch(loop: asyncio.Runner, engine: Any, questions: Sequence[str], bound: int) -> list[Any]:
    return loop.run(engine.abatch(questions, max_concurrency=bound))


def _batch(_: asyncio.Runner, engine: Any, questions: Sequence[str], bound: int) -> list[Any]:
    found: list[Any] = engine.batch(questions, max_concurrency=bound)
    return found


def _prepared(way: Way, *, accelerated: bool) -> Callable[[Mapping[str, Any]], Work]:
    def prepare(parameters: Mapping[str, Any]) -> Work:
        engine = _engine(parameters)
        if accelerated:
            from llama_index_aaflow import accelerate

            engine = accelerate(engine, batch_queries=True)
        questions = knowledge.questions(parameters, parameters["questions"] + _WARM_UP)
        bound, server = parameters["bound"], Connection(parameters["url"])
        at_once = bound // parameters["calls"] if way is _run_jobs else bound
        # A client does not outlive its event loop.
        loop = asyncio.Runner()

        def facts(_: list[Any]) -> dict[str, float]:
            stats = server.stats()
            chat = stats["chat"]
            if chat["max_in_flight"] > bound:
                raise RuntimeError(f"{chat['max_in_flight']} calls of the model were in flight, {bound} allowed")
            return {
                "inputs": float(parameters["questions"]),
                "embedding_requests": float(stats["requests"]),
                "calls": float(chat["requests"]),
                "most_in_flight": float(chat["max_in_flight"]),
                "latency": chat["latency"],
                "floor": max(chat["latency"] / bound, chat["longest"]),
            }

        return Work(
            run=lambda _: way(loop, engine, questions[_WARM_UP:], at_once),
            digest=_digest,
            warm_up=lambda: way(loop, engine, questions[:_WARM_UP], at_once),
            before=server.configure,
            facts=facts,
        )

    return prepare


def _digest(responses: list[Any]) -> str:
    """Answers, the nodes they are from, scores bit for bit, metadata."""
    seen = [
        (
            str(response),
            [(found.node.node_id, found.node.get_content(), found.score) for found in response.source_nodes],
            response.metadata,
        )
        for response in responses
    ]
    return hashlib.sha256(repr(seen).encode("utf-8", "surrogatepass")).hexdigest()


def _cases(scale: Scale) -> list[Case]:
    rows, questions, bound = (500, 48, 16) if scale.quick else (20_000, 200, 64)
    return [
        Case(
            f"{store}, {mode}, {rows:,} x {knowledge.DIMENSION}",
            {
                "store": store,
                "mode": mode,
                "calls": calls,
                "llm": [*_LATENCY],
                "bound": bound,
                "questions": questions,
                **knowledge.parameters_of(scale.corpora, rows),
            },
            (_RUN_JOBS, _QUERY, _OURS, _OURS_SYNC),
        )
        for store, mode, calls in (
            ("simple", "compact", 1),
            ("faiss", "compact", 1),
            ("faiss", "accumulate", knowledge.K),
        )
    ]


@contextmanager
def _serve(case: Case) -> Iterator[Mapping[str, Any]]:
    knowledge.write_vectors(case.parameters)
    with chat_serving(case) as shared:
        yield shared


def _notes(case: CaseResult, _: Sequence[CaseResult]) -> list[str]:
    requests = "; ".join(f"{each.name} {each.fact('embedding_requests'):,.0f}" for each in case.contenders)
    latency = case.default.fact("latency") or 0.0
    return [
        cost_note(case),
        f"Requests for embeddings: {requests}.",
        f"LLM floor: {latency:.1f} s of the model's latency / {case.parameters['bound']} at once.",
        floor_note(case),
        in_turn_note(case),
    ]


BENCHMARK = Benchmark(
    name="llama-queries",
    home="benchmarks.llama_queries:BENCHMARK",
    title="200 questions to LlamaIndex's query engine",
    protocol=(
        "`VectorStoreIndex.as_query_engine(response_mode=…)` over real text in pieces of 200 characters, in a "
        f"SimpleVectorStore or a flat FAISS index, similarity_top_k = {knowledge.K}, with OpenAIEmbedding. Timed: all "
        f"questions. Before that: index, engine, and a warm-up of {_WARM_UP} other questions by the same contender. "
        "The model is a CustomLLM that calls the openai package's own client; it and the embeddings are answered by a "
        "loopback server in a process of its own: each answer takes a time drawn uniformly from 50 to 500 ms, the "
        f"same for the same prompt whoever asks; embeddings {knowledge.BASE_MS:g} ms a request + "
        f"{knowledge.ITEM_MS:g} ms an item. The bound is one of the model's calls in flight, and more fail the run: "
        "natively, `accumulate` makes those of an `aquery` side by side, and so many are under way as keep to the "
        "bound. Ours has `batch_queries=True`: several questions may be embedded in one request. Identical: answers, "
        "source nodes, scores bit for bit, metadata. CPU is the client process's alone."
    ),
    metric="wall",
    contenders=(
        Contender(_RUN_JOBS, "native", _prepared(_run_jobs, accelerated=False)),
        Contender(_QUERY, "native", _prepared(_threads, accelerated=False)),
        Contender(_OURS, "ours", _prepared(_abatch, accelerated=True)),
        Contender(_OURS_SYNC, "ours", _prepared(_batch, accelerated=True), against=_QUERY),
    ),
    cases=_cases,
    service=_serve,
    notes=_notes,
)
