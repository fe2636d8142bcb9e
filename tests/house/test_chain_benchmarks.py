"""What the benchmarks of chains and agents take for granted about their parts."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import PromptTemplate
from langchain_core.runnables import Runnable, RunnableLambda, RunnablePassthrough

from benchmarks import knowledge, many_inputs, two_llm_steps
from benchmarks.agents import percentile
from benchmarks.chat_completions import Latency
from benchmarks.corpus import Corpora
from benchmarks.openai_server import Connection
from benchmarks.run_trees import Recorder


def chain(*, tags: tuple[str, ...] = (), answer: str = "yes") -> Runnable[Any, str]:
    found = RunnableLambda(lambda question: f"about {question}", name="find").with_config(tags=[*tags])
    return (
        {"context": found, "question": RunnablePassthrough()}
        | PromptTemplate.from_template("{context}: {question}")
        | FakeListChatModel(responses=[answer])
        | StrOutputParser()
    )


def trees(runnable: Runnable[Any, str], inputs: list[str], *, at_once: bool = True) -> list[str]:
    recorder = Recorder()
    config: Any = {"callbacks": [recorder]}
    if at_once:
        runnable.batch(inputs, config)
    else:
        for given in inputs:
            asyncio.run(runnable.ainvoke(given, config))
    return recorder.trees()


# -- run trees -------------------------------------------------------------------------------------------


def test_run_trees_do_not_depend_on_the_order_of_runs() -> None:
    """One tree an input, the same for a batch and for one call after the other."""
    found = trees(chain(), ["a", "b"])
    assert len(found) == 2
    assert found == trees(chain(), ["b", "a"]) == trees(chain(), ["a", "b"], at_once=False)
    assert all(part in found[0] for part in ("find", "seq:step:2", "map:key:context", "about a", "-> yes"))


def test_run_trees_show_every_difference() -> None:
    """A tag, an input, an output and a step more each make another tree."""
    plain = trees(chain(), ["a"])
    assert trees(chain(tags=("mine",)), ["a"]) != plain
    assert trees(chain(answer="no"), ["a"]) != plain
    assert trees(chain(), ["b"]) != plain
    assert trees(chain() | RunnableLambda(str), ["a"]) != plain


def test_runs_begin_and_end_once() -> None:
    """A run without an end, with two, or with two beginnings is no tree."""
    run = {"run_id": uuid4(), "parent_run_id": None}
    recorder = Recorder()
    recorder.on_chain_start(None, "in", **run)
    with pytest.raises(ValueError, match="1 runs did not end"):
        recorder.trees()
    recorder.on_chain_end("out", **run)
    assert len(recorder.trees()) == 1
    recorder.on_chain_end("out", **run)
    with pytest.raises(ValueError, match="ended without a beginning"):
        recorder.trees()
    again = Recorder()
    again.on_chain_start(None, "in", **run)
    again.on_chain_start(None, "in", **run)
    with pytest.raises(ValueError, match="began twice"):
        again.trees()


def test_random_ids_of_messages_do_not_show() -> None:
    """They differ from call to call natively too."""

    def seen(id_: str) -> list[str]:
        run = {"run_id": uuid4(), "parent_run_id": None}
        recorder = Recorder()
        recorder.on_chain_start(None, {"said": [AIMessage("hello", id=id_)]}, **run)
        recorder.on_chain_end(AIMessage("bye", id=id_), **run)
        return recorder.trees()

    assert seen("one") == seen("two")


# -- the retriever's store -------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_store_holds_what_the_server_would_have_embedded(tmp_path: Path, openai_server: Connection) -> None:
    """Vectors come from the corpus in a moment, and are those that adding the texts would give."""
    pytest.importorskip("faiss")
    parameters = {**knowledge.parameters_of(Corpora(tmp_path), 50), "url": openai_server.url}
    knowledge.write_vectors(parameters)
    store = knowledge.store(parameters)
    documents = [store.docstore.search(store.index_to_docstore_id[row]) for row in range(store.index.ntotal)]
    assert len(documents) == 50
    embedded = store.embeddings.embed_documents([document.page_content for document in documents])
    assert np.array_equal(store.index.reconstruct_n(0, 50), np.array(embedded, np.float32))
    asked = knowledge.questions(parameters, 50)
    assert len(set(asked)) == 50
    found = store.as_retriever(search_kwargs={"k": knowledge.K}).invoke(asked[0])
    assert len(found) == knowledge.K


# -- the floor, and the bound ----------------------------------------------------------------------------


def test_the_floor_of_two_steps_is_what_the_server_waits() -> None:
    """The latencies foretold without a server are those that it counts."""
    latency = Latency("lognormal", 5, 1.0)
    case = many_inputs.Case("two steps", {"llm": ["lognormal", 5, 1.0]}, ())
    with many_inputs.chat_serving(case) as shared:
        job = two_llm_steps.job({**shared, **case.parameters, "inputs": 3})
        for given in job.inputs:
            job.chain.invoke(given)
        server = Connection(shared["url"])
        expected = [two_llm_steps.two_latencies(given["topic"], latency) for given in job.inputs]
        assert server.stats()["chat"]["latency"] == pytest.approx(sum(expected))
        assert job.floor({}) == max(expected)


def test_a_contender_over_the_bound_fails(openai_server: Connection) -> None:
    """More calls of the model at once than allowed are no result."""
    openai_server.configure(chat_latency=Latency("uniform", 50, 50))

    def job(parameters: Any) -> many_inputs.Job:
        model = many_inputs.chat_model(parameters)
        # Two calls an input, side by side.
        both = {"one": model, "two": RunnablePassthrough() | model} | RunnableLambda(json_of)
        return many_inputs.Job(both, ["a", "b"], [], lambda stats: 1.0)

    (gather,) = [each for each in many_inputs.contenders(job) if each.name == many_inputs.GATHER]
    work = gather.prepare({"url": openai_server.url, "bound": 1})
    done = work.run(work.before())
    with pytest.raises(RuntimeError, match="2 calls of the model were in flight, 1 allowed"):
        work.facts(done)


def json_of(messages: dict[str, AIMessage]) -> str:
    return json.dumps({name: message.text for name, message in messages.items()})


def test_percentiles_are_of_the_nearest_rank() -> None:
    values = [float(value) for value in range(200, 0, -1)]
    assert (percentile(values, 50), percentile(values, 99), percentile(values, 100)) == (100.0, 198.0, 200.0)
    assert percentile([3.0], 50) == percentile([3.0], 99) == 3.0
