"""Extractors that make their calls early: what native pipelines leave, call by call, error by error."""

from __future__ import annotations

import asyncio
import random
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_index.core.extractors import (
    KeywordExtractor,
    QuestionsAnsweredExtractor,
    SummaryExtractor,
    TitleExtractor,
)
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.llms import CompletionResponse, MockLLM
from llama_index.core.llms.callbacks import llm_completion_callback
from llama_index.core.schema import MetadataMode, NodeRelationship, RelatedNodeInfo, TextNode
from pydantic import PrivateAttr

from aaflow_plugins.executor import Executor
from aaflow_plugins.plugins import load_for
from benchmarks.llama_model import ServedModel, served_model
from benchmarks.openai_server import serving
from llama_index_aaflow import accelerate
from tests.generated import examples
from tests.llama_index.pipelines import Shouting, said_independent
from tests.llama_index.query_engines import EchoLLM, ModelError
from tests.llama_index.tracing import spans, watched

#: What each extractor's prompts have, and no other's.
MARKS = {
    "title": "Title: ",
    "questions": "specific answers",
    "summary": "Summarize the key",
    "keywords": "unique keywords",
}
KINDS: dict[str, Any] = {
    "title": TitleExtractor,
    "questions": QuestionsAnsweredExtractor,
    "summary": SummaryExtractor,
    "keywords": KeywordExtractor,
}
ALL = tuple(KINDS)


class Uneven(EchoLLM):
    """Takes a time that the prompt decides; knows whether calls of two extractors were ever in flight together."""

    _kinds: list[str] = PrivateAttr(default_factory=list)
    _mixed: bool = PrivateAttr(default=False)

    @property
    def mixed(self) -> bool:
        return self._mixed

    @contextmanager
    def _call(self, prompt: str) -> Iterator[None]:
        (kind,) = kinds_of([prompt])
        self._kinds.append(kind)
        self._mixed = self._mixed or len(set(self._kinds)) > 1
        try:
            with super()._call(prompt):
                yield
        finally:
            self._kinds.remove(kind)

    @llm_completion_callback()
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        with self._call(prompt):
            await asyncio.sleep(self.seconds * random.Random(prompt).lognormvariate(0, 1))
        return self._answer(prompt)


class AtOnce(Uneven):
    """Waits for nothing."""

    @llm_completion_callback()
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        with self._call(prompt):
            return self._answer(prompt)


@pytest.fixture(autouse=True)
def known_models() -> Iterator[None]:
    with said_independent(Uneven, AtOnce, ServedModel):
        yield


def nodes(count: int = 24, documents: int = 4, **fails: str) -> list[TextNode]:
    made = [
        TextNode(
            id_=f"node {number}",
            text=f"What node {number} says. " * (1 + number % 3),
            metadata={"part": number},
            excluded_llm_metadata_keys=["part"] if number % 5 == 0 else [],
            relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=f"document {number * documents // count}")},
        )
        for number in range(count)
    ]
    for number, text in fails.items():
        made[int(number.removeprefix("n"))].text = text
    return made


def extractors(model: Any, kinds: Any = ALL, **given: Any) -> list[Any]:
    return [KINDS[kind](**{"llm": model, "show_progress": False, **given}) for kind in kinds]


def accelerated(pipeline: IngestionPipeline, bound: int = 6) -> Any:
    return accelerate(pipeline, executor=Executor(max_concurrency=bound))


def run(pipeline: Any, given: list[TextNode], asynchronous: bool, **more: Any) -> Any:
    if asynchronous:
        return asyncio.run(pipeline.arun(nodes=given, **more))
    return pipeline.run(nodes=given, **more)


def outcome(pipeline: Any, source: IngestionPipeline, given: list[TextNode], asynchronous: bool, **more: Any) -> Any:
    """What a run gives or raises, and what it leaves behind."""
    try:
        made = [node.to_dict() for node in run(pipeline, given, asynchronous, **more)]
    except ModelError as error:
        made = [str(error)]
    return made, [node.to_dict() for node in given], source.cache.cache.to_dict()


def kinds_of(prompts: list[str]) -> list[str]:
    return [next(kind for kind, mark in MARKS.items() if mark in prompt) for prompt in prompts]


@contextmanager
def no_loop() -> Iterator[None]:
    """As after an `asyncio.run`."""
    asyncio.set_event_loop(None)
    yield


@contextmanager
def a_loop() -> Iterator[None]:
    """As where somebody has made one and keeps it."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        yield
        assert not asyncio.all_tasks(loop)
        assert asyncio.get_event_loop() is loop
    finally:
        asyncio.set_event_loop(None)
        loop.close()


@pytest.mark.parametrize(("asynchronous", "loop"), [(False, no_loop), (False, a_loop), (True, no_loop)])
def test_the_same_is_made_and_kept_of_the_same_prompts(asynchronous: bool, loop: Any, tmp_path: Path) -> None:
    native_model, model = Uneven(seconds=0.004), Uneven(seconds=0.004)
    native = IngestionPipeline(transformations=extractors(native_model))
    ours = IngestionPipeline(transformations=extractors(model))
    with loop():
        expected = outcome(native, native, nodes(), asynchronous)
        assert outcome(accelerated(ours), ours, nodes(), asynchronous) == expected
    assert sorted(model.prompts) == sorted(native_model.prompts)
    assert model.mixed
    assert not native_model.mixed
    assert model.most == 6
    for pipeline, name in ((native, "native"), (ours, "ours")):
        pipeline.persist(str(tmp_path / name))
    files = [path.relative_to(tmp_path / "native") for path in (tmp_path / "native").rglob("*") if path.is_file()]
    assert files
    assert all((tmp_path / "native" / each).read_bytes() == (tmp_path / "ours" / each).read_bytes() for each in files)
    # Entries hit both ways.
    again = accelerated(IngestionPipeline(transformations=extractors(model), cache=native.cache))
    asked = len(model.prompts)
    made, _, kept = outcome(again, native, nodes(), asynchronous)
    assert (made, kept) == (expected[0], expected[2])
    assert len(model.prompts) == asked


@given(
    kinds=st.permutations(ALL).flatmap(lambda kinds: st.integers(2, 4).map(lambda count: kinds[:count])),
    bound=st.integers(1, 9),
    count=st.integers(0, 12),
    seed=st.integers(0, 1000),
    asynchronous=st.booleans(),
    fails=st.booleans(),
)
@settings(max_examples=examples(60), deadline=None)
def test_generated_pipelines(
    kinds: list[str], bound: int, count: int, seed: int, asynchronous: bool, fails: bool
) -> None:
    rng = random.Random(seed)
    own: list[dict[str, Any]] = [
        {
            "in_place": rng.random() < 0.7,
            "metadata_mode": rng.choice(list(MetadataMode)),
            "disable_template_rewrite": rng.random() < 0.3,
            "node_text_template": rng.choice(["{metadata_str}: {content}", "{content} ({metadata_str})"]),
            "show_progress": False,
            **({"raise_on_error": rng.random() < 0.5} if "raise_on_error" in KeywordExtractor.model_fields else {}),
            **({"summaries": rng.sample(["prev", "self", "next"], rng.randint(0, 3))} if kind == "summary" else {}),
            **({"nodes": rng.randint(1, 4)} if kind == "title" else {}),
        }
        for kind in kinds
    ]
    found = []
    failing = {"n2": "this fails in the model"} if fails and count > 2 else {}
    for accelerates in (False, True):
        model = Uneven(seconds=0.0005)
        stages = [KINDS[kind](llm=model, **settings) for kind, settings in zip(kinds, own, strict=True)]
        pipeline = IngestionPipeline(transformations=stages, disable_cache=seed % 3 == 0)
        given = nodes(count, max(1, count // 3), **failing)
        runs = accelerated(pipeline, bound) if accelerates else pipeline
        found.append((*outcome(runs, pipeline, given, asynchronous), sorted(set(model.prompts))))
        assert not accelerates or failing or model.most <= bound
    if failing:  # natively an extractor's other calls go on after its error, here they don't
        found = [each[:-1] for each in found]
    assert found[1] == found[0]


def test_a_model_that_waits_for_nothing_is_asked_in_the_native_order() -> None:
    native_model, model = AtOnce(), AtOnce()
    run(IngestionPipeline(transformations=extractors(native_model)), nodes(), True)
    run(accelerated(IngestionPipeline(transformations=extractors(model))), nodes(), True)
    assert model.prompts == native_model.prompts


def test_the_client_of_an_endpoint() -> None:
    with serving(0, 0) as connection:
        connection.configure(chat_latency={"distribution": "lognormal", "first": 3.0, "second": 1.0})
        made = []
        for accelerates in (False, True):
            pipeline = IngestionPipeline(transformations=extractors(served_model(connection.base_url)))
            given = nodes()
            made.append(outcome(accelerated(pipeline) if accelerates else pipeline, pipeline, given, True))
        assert made[1] == made[0]


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("kind", ALL)
def test_an_extractor_that_fails(kind: str, asynchronous: bool) -> None:
    """Nodes have what extractors before it gave, and the cache their entries; nothing is left over."""

    class Strict(Uneven):
        def _answer(self, prompt: str) -> CompletionResponse:
            if MARKS[kind] in prompt and "node 7" in prompt:
                raise ModelError(kind)
            return super()._answer(prompt)

    with said_independent(Strict):
        found = []
        for accelerates in (False, True):
            model = Strict(seconds=0.002)
            stages = extractors(model, ALL)
            stages[0].nodes = 100
            pipeline = IngestionPipeline(transformations=stages)
            given = nodes()
            found.append(outcome(accelerated(pipeline) if accelerates else pipeline, pipeline, given, asynchronous))
            assert found[-1][0] == [kind]
        assert found[1] == found[0]
        asked = kinds_of(model.prompts)
        assert asked.count(kind) <= 24 + 4
        assert model._in_flight == 0


@pytest.mark.skipif("max_retries" not in KeywordExtractor.model_fields, reason="newer than the oldest version")
@pytest.mark.parametrize("recovers", [True, False])
def test_an_extractor_that_tries_again(recovers: bool) -> None:
    """It asks anew, and so do those after it."""
    found = []
    for accelerates in (False, True):
        model = Uneven(seconds=0.001)
        failures = iter([True] if recovers else [True] * 9)
        answer = model._answer

        def fails_first(prompt: str, answer: Any = answer, failures: Any = failures) -> CompletionResponse:
            if MARKS["summary"] in prompt and "node 5 " in prompt and next(failures, False):
                raise ModelError("for now")
            return answer(prompt)  # type: ignore[no-any-return]

        vars(model)["_answer"] = fails_first
        stages = extractors(model, ALL, max_retries=1, retry_backoff=0.001, raise_on_error=False)
        pipeline = IngestionPipeline(transformations=stages)
        runs = accelerated(pipeline) if accelerates else pipeline
        found.append(outcome(runs, pipeline, nodes(), True))
        asked = kinds_of(model.prompts)
        assert asked.count("questions") == 24
    assert found[1] == found[0]


@pytest.mark.parametrize("calls", [1, 20, 40, 80])
async def test_a_cancelled_run(calls: int) -> None:
    """Nothing is in flight or left over, and nodes have what whole extractors gave."""
    model = Uneven(seconds=0.003)
    given = nodes()
    task = asyncio.create_task(accelerated(IngestionPipeline(transformations=extractors(model))).arun(nodes=given))
    while len(model.prompts) < calls:
        await asyncio.sleep(0)
    task.cancel("enough")
    with pytest.raises(asyncio.CancelledError):
        await task
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert model._in_flight == 0
    assert len({tuple(node.metadata) for node in given}) == 1
    asked = len(model.prompts)
    await asyncio.sleep(0.02)
    assert len(model.prompts) == asked


@pytest.mark.parametrize("loop", [no_loop, a_loop])
@pytest.mark.parametrize("kind", ALL)
def test_an_interrupt(kind: str, loop: Any) -> None:
    class Interrupted(Uneven):
        def _answer(self, prompt: str) -> CompletionResponse:
            if MARKS[kind] in prompt:
                raise KeyboardInterrupt
            return super()._answer(prompt)

    with said_independent(Interrupted):
        model = Interrupted(seconds=0.002)
        with loop():
            with pytest.raises(KeyboardInterrupt):
                accelerated(IngestionPipeline(transformations=extractors(model))).run(nodes=nodes())
            assert model._in_flight == 0
            if loop is a_loop:  # what was waiting when it came, as natively
                asyncio.get_event_loop().run_until_complete(asyncio.sleep(0.001))


def test_in_a_thread_and_where_a_loop_runs() -> None:
    expected = outcome(
        pipeline := IngestionPipeline(transformations=extractors(Uneven(seconds=0.002))), pipeline, nodes(), False
    )
    found: list[Any] = []

    def call() -> None:
        model = Uneven(seconds=0.002)
        pipeline = IngestionPipeline(transformations=extractors(model))
        found.append(outcome(accelerated(pipeline), pipeline, nodes(), False))
        found.append(model.mixed)

    async def where_a_loop_runs() -> None:
        call()

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    asyncio.run(where_a_loop_runs())
    assert found == [expected, True, expected, False]


def _listened(model: Any) -> None:
    model.callback_manager = watched()[0]


NATIVE: dict[str, Callable[[Any], list[Any]]] = {
    "one between": lambda model: [e := extractors(model), [e[1], Shouting(), e[3]]][1],
    "of two bounds": lambda model: [QuestionsAnsweredExtractor(llm=model, num_workers=2), KeywordExtractor(llm=model)],
    "the same twice": lambda model: [*extractors(model, ["keywords"]), *extractors(model, ["keywords"])],
    "a way of its own": lambda model: [type("Own", (SummaryExtractor,), {})(llm=model), KeywordExtractor(llm=model)],
    "a callback": lambda model: (_listened(model), extractors(model))[1],
}


@pytest.mark.parametrize("name", NATIVE)
def test_stays_native(name: str) -> None:
    native_model, model = Uneven(seconds=0.003), Uneven(seconds=0.003)
    native, ours = (IngestionPipeline(transformations=NATIVE[name](each)) for each in (native_model, model))
    expected = outcome(native, native, nodes(), True)
    assert outcome(accelerated(ours), ours, nodes(), True) == expected
    assert not model.mixed


def test_nodes_that_are_not_apart() -> None:
    made = []
    for accelerates in (False, True):
        model = Uneven(seconds=0.002)
        pipeline = IngestionPipeline(transformations=extractors(model, summaries=["prev", "self"], kinds=ALL[2:3]))
        pipeline.transformations += extractors(model, ["keywords"])
        given = nodes(8)
        given += given[:3]
        made.append(outcome(accelerated(pipeline) if accelerates else pipeline, pipeline, given, True))
    assert made[1] == made[0]


def test_progress_bars(capfd: pytest.CaptureFixture[str]) -> None:
    told = []
    for accelerates in (False, True):
        pipeline = IngestionPipeline(transformations=extractors(Uneven(seconds=0.002), show_progress=True))
        run(accelerated(pipeline) if accelerates else pipeline, nodes(), True)
        told.append(re.findall(r"100%\|\S+\| (\d+/\d+) ", capfd.readouterr().err))
    assert told[1] == told[0] == ["4/4", "24/24", "24/24", "24/24"]


def test_stays_native_where_somebody_listens_or_gives_more_or_has_a_cache() -> None:
    model = Uneven(seconds=0.003)
    pipeline = IngestionPipeline(transformations=extractors(model))
    with spans():
        run(accelerated(pipeline), nodes(), True)
    run(accelerated(pipeline), nodes(12), True)  # the cache is not empty now
    pipeline.cache.clear()
    run(accelerated(pipeline), nodes(12), True, excluded_llm_metadata_keys=["part"])
    assert not model.mixed
    pipeline.cache.clear()
    run(accelerated(pipeline), nodes(12), True)
    assert model.mixed


def test_models_that_are_known() -> None:
    def is_known(model: Any) -> Any:
        return load_for(model).aaflow_independent_answers(model=model)

    assert is_known(MockLLM()) is True
    assert is_known(EchoLLM()) is None
    assert is_known(type("Own", (MockLLM,), {})()) is None
