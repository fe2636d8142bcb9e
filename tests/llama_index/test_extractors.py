"""Extractors with the executor's bound on calls: the metadata, calls and spans of the native ones."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from llama_index.core.extractors import (
    KeywordExtractor,
    QuestionsAnsweredExtractor,
    SummaryExtractor,
    TitleExtractor,
)
from llama_index.core.ingestion import IngestionCache, IngestionPipeline
from llama_index.core.schema import Document

from aaflow_plugins.executor import Executor
from llama_index_aaflow import accelerate
from llama_index_aaflow.extractors import seen_within_bound
from tests.llama_index.pipelines import splitter
from tests.llama_index.query_engines import EchoLLM, ModelError
from tests.llama_index.tracing import spans

EXTRACTORS: dict[str, Callable[[Any], Any]] = {
    "titles": lambda llm: TitleExtractor(llm=llm, show_progress=False),
    "keywords": lambda llm: KeywordExtractor(llm=llm, show_progress=False),
    "questions": lambda llm: QuestionsAnsweredExtractor(llm=llm, show_progress=False, in_place=False),
    "summaries": lambda llm: SummaryExtractor(llm=llm, summaries=["prev", "self", "next"], show_progress=False),
}


def documents(count: int, text: str = "A sentence of document {0}. " * 60) -> list[Document]:
    return [Document(text=text.format(number), id_=str(number)) for number in range(count)]


def pipeline(*extractors: Any, **settings: Any) -> IngestionPipeline:
    return IngestionPipeline(transformations=[splitter(), *extractors], **settings)


def told(nodes: Any) -> list[Any]:
    return [node.to_dict() for node in nodes]


def run(pipeline: Any, given: list[Document], asynchronous: bool) -> Any:
    return asyncio.run(pipeline.arun(documents=given)) if asynchronous else pipeline.run(documents=given)


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("kind", EXTRACTORS)
def test_metadata_calls_and_spans(kind: str, asynchronous: bool) -> None:
    native_llm, llm = EchoLLM(), EchoLLM(seconds=0.002)
    native, ours = pipeline(EXTRACTORS[kind](native_llm)), pipeline(EXTRACTORS[kind](llm))
    with spans() as expected_spans:
        expected = run(native, documents(12), asynchronous)
    with spans() as found_spans:
        found = run(accelerate(ours, executor=Executor(max_concurrency=9)), documents(12), asynchronous)
    assert told(found) == told(expected)
    assert sorted(llm.prompts) == sorted(native_llm.prompts)
    assert llm.most == 9
    assert native_llm.most <= 4
    named = [sorted(map(str, ((each[0], each[1]) for each in seen))) for seen in (found_spans, expected_spans)]
    assert named[0] == named[1]
    assert ours.transformations[1].num_workers == 4


def test_all_of_them_and_the_cache() -> None:
    """What one has added is in what the next one reads; entries are the native ones, both ways."""
    native = pipeline(*(make(EchoLLM()) for make in EXTRACTORS.values()), cache=IngestionCache())
    ours = pipeline(*(make(EchoLLM()) for make in EXTRACTORS.values()), cache=IngestionCache())
    executor = Executor(max_concurrency=16)
    expected, found = (
        native.run(documents=documents(5)),
        accelerate(ours, executor=executor).run(documents=documents(5)),
    )
    assert told(found) == told(expected)
    assert ours.cache.cache.to_dict() == native.cache.cache.to_dict()
    llm = EchoLLM()
    again = pipeline(*(make(llm) for make in EXTRACTORS.values()), cache=native.cache)
    assert told(accelerate(again, executor=executor).run(documents=documents(5))) == told(expected)
    assert llm.prompts == []


@pytest.mark.parametrize("kind", EXTRACTORS)
def test_a_call_that_fails(kind: str) -> None:
    given = documents(6)
    given[3].text_resource.text = "this fails in the model. " * 9  # type: ignore[union-attr]
    errors = []
    for wrap in (
        lambda pipeline: pipeline,
        lambda pipeline: accelerate(pipeline, executor=Executor(max_concurrency=8)),
    ):
        with pytest.raises(ModelError) as caught:
            wrap(pipeline(EXTRACTORS[kind](EchoLLM()))).run(documents=given)
        errors.append(str(caught.value))
    assert errors[0] == errors[1]
    forgiving = EXTRACTORS[kind](EchoLLM()).model_copy(update={"raise_on_error": False})
    if "raise_on_error" in type(forgiving).model_fields:
        found = accelerate(pipeline(forgiving), executor=Executor(max_concurrency=8)).run(documents=given)
        assert told(found) == told(pipeline(forgiving).run(documents=given))


@pytest.mark.parametrize(("workers", "most"), [(1, 1), (3, 3), (4, 6), (50, 6)])
def test_workers_that_an_extractor_was_given(workers: int, most: int) -> None:
    llm = EchoLLM(seconds=0.002)
    extractor = KeywordExtractor(llm=llm, num_workers=workers, show_progress=False)
    accelerate(pipeline(extractor), executor=Executor(max_concurrency=6)).run(documents=documents(12))
    assert llm.most == most


def test_without_a_bound_and_with_a_way_of_its_own() -> None:
    class Own(KeywordExtractor):
        async def aextract(self, nodes: Any) -> Any:
            return [{"own": True} for _ in nodes]

    native = KeywordExtractor(llm=EchoLLM())
    assert seen_within_bound(native, None) is native
    assert seen_within_bound(native, Executor()) is native
    own = Own(llm=EchoLLM())
    assert seen_within_bound(own, Executor(max_concurrency=3)) is own
