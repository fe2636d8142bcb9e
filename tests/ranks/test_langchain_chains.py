"""Batches of LangChain's chains: all ranks take inputs through them, and get what one process gives."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("faiss")

from langchain_community.vectorstores import FAISS
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.rate_limiters import InMemoryRateLimiter
from langchain_core.runnables import Runnable, RunnableLambda, RunnablePassthrough
from pydantic import BaseModel

from aaflow_plugins import Executor, accelerate
from aaflow_plugins.engines.communicator import Communicator, RankError
from aaflow_plugins.shards import blocks
from langchain_aaflow import ingest

pytestmark = pytest.mark.own_block

QUESTIONS = [f"What of {number}, and of {number % 7}?" for number in range(23)]


class Echo(BaseChatModel):
    """Answers with the end of the last message, and counts its calls."""

    seconds: float = 0.0
    calls: int = 0
    now: int = 0
    peak: int = 0

    @property
    def _llm_type(self) -> str:
        return "echo"

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        with _counting:
            self.calls, self.now = self.calls + 1, self.now + 1
            self.peak = max(self.peak, self.now)
        time.sleep(self.seconds)
        with _counting:
            self.now -= 1
        text = str(messages[-1].content)[-60:]
        if "poison" in text:
            raise LookupError(f"no answer to {text[-20:]}")
        used = {"input_tokens": len(text), "output_tokens": 2, "total_tokens": len(text) + 2}
        return ChatResult(
            generations=[ChatGeneration(message=AIMessage(f"echo {text}", id="one", usage_metadata=used))]
        )


_counting = threading.Lock()


class Answer(BaseModel):
    """What a parser makes of a message."""

    text: str
    score: float = 0.5


def _answer(message: Any) -> Answer:
    return Answer(text=message.content)


def _check(text: str) -> str:
    if "refused" in text:
        raise ValueError(f"{text} is refused")
    return text


def _prompt() -> ChatPromptTemplate:
    return ChatPromptTemplate.from_template("Of {context}: {question}")


def retrieving(model: BaseChatModel) -> Runnable[Any, Any]:
    """Documents, a message and a structured output for a question."""
    texts = [f"Chunk {number} is about {number % 5}." for number in range(40)]
    store = FAISS.from_texts(texts, DeterministicFakeEmbedding(size=8), metadatas=[{"n": n} for n in range(40)])
    ids = iter(range(40))
    store.docstore._dict = {
        key: each.model_copy(update={"id": str(next(ids))}) for key, each in store.docstore._dict.items()
    }
    context: Any = {"context": store.as_retriever(), "question": RunnableLambda(_check)}
    said = context | RunnablePassthrough.assign(said=_prompt() | model)
    return said | RunnablePassthrough.assign(answer=RunnableLambda(lambda given: _answer(given["said"])))


def plain(model: BaseChatModel) -> Runnable[Any, Any]:
    """A text for a question."""
    given: Any = {"context": lambda text: text[-3:], "question": RunnableLambda(_check)}
    chain: Runnable[Any, Any] = given | _prompt() | model | StrOutputParser()
    return chain


def told(value: Any) -> Any:
    """All of a value, with its types and with what was set."""
    if isinstance(value, BaseModel):
        return type(value), told(value.__dict__), value.model_fields_set
    if isinstance(value, dict):
        return [(told(key), told(each)) for key, each in value.items()]
    if isinstance(value, list | tuple):
        return type(value), [told(each) for each in value]
    return (type(value), str(value), value.args) if isinstance(value, Exception) else (type(value), value)


def on(gather: str = "root", **settings: Any) -> Executor:
    return Executor(engine="mpi", gather=gather, **settings)


def block(ranks: Communicator, count: int) -> range:
    return blocks([1] * count, ranks.size)[ranks.rank]


def of_rank(ranks: Communicator, gather: str, outputs: list[Any]) -> list[Any]:
    """What of all outputs this rank is to have."""
    if gather == "root":
        return [] if ranks.rank else outputs
    return outputs if gather == "all" else [outputs[number] for number in block(ranks, len(outputs))]


@pytest.mark.parametrize("gather", ["root", "all", "shards"])
@pytest.mark.parametrize(("make", "counts"), [(plain, (0, 1, 3, 23)), (retrieving, (9,))])
def test_the_outputs_of_one_process(
    ranks: Communicator, make: Callable[[Any], Any], counts: tuple[int, ...], gather: str
) -> None:
    for count in counts:
        chain, model = make(Echo()), Echo()
        found = accelerate(make(model), executor=on(gather)).batch(QUESTIONS[:count])
        assert told(found) == told(of_rank(ranks, gather, chain.batch(QUESTIONS[:count])))
        assert model.calls == len(block(ranks, count))


@pytest.mark.parametrize("gather", ["root", "all", "shards"])
def test_exceptions_as_outputs(ranks: Communicator, gather: str) -> None:
    questions = [*QUESTIONS[:4], "a poison", *QUESTIONS[4:9], "this is refused", "what next?", "poison at last"]
    chain = accelerate(plain(Echo()), executor=on(gather))
    found = chain.batch(questions, return_exceptions=True)
    native = plain(Echo()).batch(questions, return_exceptions=True)
    assert told(found) == told(of_rank(ranks, gather, native))
    assert all(each.__traceback__ for each in found if isinstance(each, Exception))


@pytest.mark.parametrize(
    ("wrong", "gather"),
    [
        ({3: "poison 3", 20: "poison 20"}, "root"),
        ({20: "poison"}, "all"),
        ({2: "a poison", 12: "12 is refused", 21: "21 is refused"}, "root"),
        ({2: "a poison", 12: "12 is refused", 21: "21 is refused"}, "shards"),
    ],
)
def test_an_error_is_the_one_of_one_process(ranks: Communicator, wrong: dict[int, str], gather: str) -> None:
    """That of the first step in which an input fails, and there of the first input."""
    questions = [wrong.get(number, question) for number, question in enumerate(QUESTIONS)]
    with pytest.raises(Exception, match=r"poison|refused") as native:
        plain(Echo()).batch(questions)
    with pytest.raises(RankError if ranks.rank else type(native.value)) as raised:
        accelerate(plain(Echo()), executor=on(gather)).batch(questions)
    assert str(native.value) in str(raised.value)
    # The ranks can go on.
    assert len(accelerate(plain(Echo()), executor=on("all")).batch(QUESTIONS)) == 23


@pytest.mark.parametrize("gather", ["root", "all", "shards"])
def test_asynchronous_batches(ranks: Communicator, gather: str) -> None:
    chain = accelerate(retrieving(Echo()), executor=on(gather))
    found = asyncio.run(chain.abatch(QUESTIONS[:9], return_exceptions=True))
    assert told(found) == told(of_rank(ranks, gather, retrieving(Echo()).batch(QUESTIONS[:9])))
    questions = [*QUESTIONS[:9], "this is refused"]
    with pytest.raises(RankError if ranks.rank else ValueError, match="this is refused"):
        asyncio.run(chain.abatch(questions))


def test_a_cancelled_batch_ends_on_all_ranks(ranks: Communicator) -> None:
    async def cancelled() -> None:
        chain = accelerate(RunnableLambda(lambda text: text, afunc=_slow) | str, executor=on())
        batch = asyncio.ensure_future(chain.abatch(QUESTIONS, {"max_concurrency": ranks.size}))
        if ranks.rank == 0:
            await asyncio.sleep(0.1)
            batch.cancel()
        await batch

    began = time.monotonic()
    with pytest.raises(asyncio.CancelledError if ranks.rank == 0 else RankError):
        asyncio.run(cancelled())
    assert ranks.rank or time.monotonic() - began < 20
    assert len(accelerate(plain(Echo()), executor=on("all")).batch(QUESTIONS)) == 23


def test_a_batch_that_is_cancelled_at_once(ranks: Communicator) -> None:
    """Whatever it waits for by then, the others hear of it."""

    async def cancelled(turns: int) -> None:
        chain = accelerate(RunnableLambda(lambda text: text, afunc=_slow) | str, executor=on())
        batch = asyncio.ensure_future(chain.abatch(QUESTIONS))
        for _ in range(turns):
            await asyncio.sleep(0)
        if ranks.rank == 0:
            batch.cancel()
        await batch

    for turns in (1, 2, 3):
        with pytest.raises(asyncio.CancelledError if ranks.rank == 0 else RankError):
            asyncio.run(cancelled(turns))


async def _slow(text: str) -> str:
    await asyncio.sleep(0.05 if text.startswith("What") else 0)
    return text


def test_an_error_that_does_not_come_again(ranks: Communicator) -> None:
    def fails_elsewhere(text: str) -> str:
        if ranks.rank == ranks.size - 1:
            raise ConnectionError("no route")
        return text

    last = ranks.rank == ranks.size - 1
    with pytest.raises(ConnectionError if last else RankError, match="no route") as raised:
        accelerate(RunnableLambda(fails_elsewhere) | str, executor=on()).batch(QUESTIONS)
    assert last or f"rank {ranks.size - 1} failed: ConnectionError: no route" in str(raised.value)


@pytest.mark.parametrize("settings", [{"executor": 5}, {"config": 2}])
def test_calls_at_once_are_shared(ranks: Communicator, settings: dict[str, int]) -> None:
    model = Echo(seconds=0.01)
    chain = accelerate(plain(model), executor=on(max_concurrency=settings.get("executor")))
    config: Any = {"max_concurrency": settings["config"]} if "config" in settings else None
    chain.batch(QUESTIONS, config)
    total = settings.get("executor") or settings["config"]
    assert 1 <= model.peak <= max(1, total // ranks.size + (ranks.rank < total % ranks.size))


def test_what_looks_at_all_inputs_runs_at_rank_0(ranks: Communicator) -> None:
    seen: list[str] = []

    def note(text: str) -> str:
        seen.append(text)
        return f"{len(seen)} {text}"

    for gather in ("root", "all", "shards"):
        seen.clear()
        executor = on(gather)
        found = accelerate(RunnableLambda(note) | str, executor=executor).batch(QUESTIONS, {"max_concurrency": 1})
        notes = executor.report.notes if executor.report else []
        assert notes == ([] if ranks.rank else ["rank 0 ran all inputs: a step takes the inputs in their order"])
        assert seen == ([] if ranks.rank else QUESTIONS)
        outputs = [f"{number} {text}" for number, text in enumerate(QUESTIONS, 1)]
        assert found == of_rank(ranks, gather, outputs)


def test_what_has_a_rate_limit_runs_at_rank_0(ranks: Communicator) -> None:
    model = Echo(rate_limiter=InMemoryRateLimiter(requests_per_second=10_000, max_bucket_size=10_000))
    accelerate(plain(model), executor=on()).batch(QUESTIONS[:5])
    assert model.calls == (0 if ranks.rank else 5)


class Opaque:
    """No data, and equal to any other of its value."""

    def __init__(self, value: Any) -> None:
        self.value = value


def test_what_can_not_travel_is_made_again(ranks: Communicator, caplog: pytest.LogCaptureFixture) -> None:
    chain = plain(Echo()) | RunnableLambda(lambda text: Opaque(text) if "of 3" in text else text)
    expected = plain(Echo()).batch(QUESTIONS)
    for gather in ("root", "all", "shards"):
        found = accelerate(chain, executor=on(gather)).batch(QUESTIONS)
        assert [getattr(each, "value", each) for each in found] == of_rank(ranks, gather, expected)
    warned = [each.getMessage() for each in caplog.records if each.name == "aaflow_plugins.divided_batches"]
    assert any("Opaque" in message for message in warned)
    assert all("Executor(gather='shards')" in message for message in warned)


def test_what_can_neither_travel_nor_be_made_again(ranks: Communicator) -> None:
    seen: list[str] = []
    chain = RunnableLambda(seen.append) | RunnableLambda(Opaque)
    assert len(accelerate(chain, executor=on()).batch(QUESTIONS)) == (0 if ranks.rank else 23)
    shared = accelerate(chain, executor=on("all"))
    if ranks.rank == 0:
        assert len(shared.batch(QUESTIONS)) == 23  # which have been paid for
    else:
        with pytest.raises(TypeError, match="Opaque can't come from rank 0, which ran the batch alone"):
            shared.batch(QUESTIONS)
    # The ranks can go on.
    assert len(accelerate(plain(Echo()), executor=on("all")).batch(QUESTIONS)) == 23


@pytest.mark.parametrize("gather", ["root", "all", "shards"])
def test_exceptions_as_outputs_of_rank_0_alone(ranks: Communicator, gather: str) -> None:
    """A step that is tried again may fail all inputs. Nothing is run twice; other ranks hear of the exceptions."""

    def check(number: int) -> int:
        calls.append(number)
        if number == 7:
            raise ValueError("seven \ud800")
        return number

    calls: list[int] = []
    chain = RunnableLambda(check) | RunnableLambda(abs).with_retry(stop_after_attempt=1)
    found = accelerate(chain, executor=on(gather)).batch(list(range(12)), return_exceptions=True)
    assert sorted(calls) == ([] if ranks.rank else list(range(12)))
    wanted = of_rank(ranks, gather, [ValueError("seven \ud800") if number == 7 else number for number in range(12)])
    assert len(found) == len(wanted)
    for ours, native in zip(found, wanted, strict=True):
        if not isinstance(native, ValueError):
            assert ours == native
        elif ranks.rank == 0:
            assert told(ours) == told(native)
        else:
            assert isinstance(ours, RankError)
            assert str(ours) == "rank 0 failed: ValueError: seven \\ud800"


def test_other_inputs_or_another_chain_than_rank_0s(ranks: Communicator) -> None:
    chain = accelerate(plain(Echo()), executor=on())
    with pytest.raises(RankError, match="rank 1 has other inputs than rank 0"):
        chain.batch(QUESTIONS[: 5 + ranks.rank])
    with pytest.raises(RankError, match="rank 1 has other inputs than rank 0"):
        chain.batch([] if ranks.rank else QUESTIONS)
    prompt = ChatPromptTemplate.from_template(f"Rank {ranks.rank} asks {{question}}")
    with pytest.raises(RankError, match="rank 1 runs something else: not with rank 0's chain"):
        accelerate(prompt | Echo(), executor=on()).batch(QUESTIONS)
    with pytest.raises(ValueError, match="config must be a list"):
        chain.batch(QUESTIONS, [{}])


def test_a_chain_of_one_rank_stays_there(ranks: Communicator) -> None:
    """Without an engine's name nobody waits for ranks that do not come."""
    if ranks.rank == 0:
        assert accelerate(plain(Echo()), executor=Executor()).batch(QUESTIONS) == plain(Echo()).batch(QUESTIONS)
        assert accelerate(plain(Echo()), executor=on()).invoke("what?") == plain(Echo()).invoke("what?")


def test_a_batch_within_a_batch_stays_on_its_rank(ranks: Communicator) -> None:
    inner = accelerate(plain(Echo()), executor=on())
    outer = RunnableLambda(lambda text: inner.batch([text, text, text])) | RunnableLambda(" ".join)
    found = accelerate(outer, executor=on()).batch(QUESTIONS[:6])
    native = plain(Echo())
    expected = of_rank(ranks, "root", [" ".join([native.invoke(text)] * 3) for text in QUESTIONS[:6]])
    assert found == expected

    async def thrice(text: str) -> list[str]:
        return await inner.abatch([text, text, text])

    outer = RunnableLambda(str, afunc=thrice) | RunnableLambda(" ".join)
    assert asyncio.run(accelerate(outer, executor=on()).abatch(QUESTIONS[:6])) == expected


def test_documents_of_their_own_are_no_inputs(ranks: Communicator) -> None:
    chain = accelerate(plain(Echo()), executor=on("shards", partitioned=True))
    with pytest.raises(ValueError, match="partitioned is for documents"):
        chain.batch(QUESTIONS)


def test_a_retriever_that_all_ranks_ask_together_is_refused(ranks: Communicator) -> None:
    given = [Document(page_content=text) for text in QUESTIONS]
    embedding = DeterministicFakeEmbedding(size=8)
    store = ingest(given, splitter=None, embedding=embedding, vectorstore=FAISS, executor=on("shards", batch_size=4))
    retriever: Any = store.as_retriever()
    for executor in (on(), Executor()):
        with pytest.raises(ValueError, match="a retriever over shards is asked by all ranks together"):
            accelerate(retriever | str, executor=executor).batch(QUESTIONS)
    found = [str(documents) for documents in retriever.batch(QUESTIONS)]
    assert accelerate(RunnableLambda(str) | str, executor=on("all")).batch(found) == found


def test_each_rank_reports_of_its_own(ranks: Communicator) -> None:
    executor = on("all")
    accelerate(plain(Echo()) | RunnableLambda(Opaque), executor=executor).batch(QUESTIONS)
    assert executor.report is not None
    assert executor.report.operators[0].rows == len(block(ranks, 23))


def test_a_chain_for_all_ranks_is_the_outermost(ranks: Communicator) -> None:
    """What calls a chain for some inputs alone would meet ranks that call it for others, or not at all."""
    executor = Executor(engine="mpi")
    chain = accelerate(RunnablePassthrough() | RunnableLambda(str), executor=executor)
    for wrap in (chain.with_retry, chain.map, lambda: chain.with_fallbacks([RunnableLambda(repr)])):
        with pytest.raises(ValueError, match="call of all ranks"):
            wrap()
    for bare in (RunnableLambda(str), RunnableLambda(str).with_retry()):
        with pytest.raises(ValueError, match="put it in a sequence"):
            accelerate(bare, executor=executor)
    assert accelerate(RunnableLambda(str), executor=Executor()).batch([1, 2]) == ["1", "2"]


def test_functions_that_differ(ranks: Communicator) -> None:
    other = RunnableLambda((lambda value: value + 100) if ranks.rank else (lambda value: value + 1))
    with pytest.raises(RankError, match="runs something else: not with rank 0's chain"):
        accelerate(RunnablePassthrough() | other, executor=Executor(engine="mpi")).batch([1, 2, 3, 4])
