"""LlamaIndex's node parsers by themselves, mode by mode: CPU time, one process, one thread."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.corpus import Kind, read_sample
from benchmarks.digests import of_nodes
from benchmarks.harness import Benchmark, Case, Contender, Scale
from benchmarks.measure import Work

_NATIVE, _PAUSED, _OURS, _OURS_TIKTOKEN = (
    "native",
    "native, collector paused by its caller",
    "ours",
    "ours, with tiktoken alone",
)


@dataclass(frozen=True)
class Mode:
    """A node parser and what it is given.

    Attributes:
        name: As it stands in the table.
        build: Makes the native parser.
        kind: The texts.
        megabytes: How much of them, at most.
        tokens: Whether it counts tokens.
    """

    name: str
    build: Callable[[], Any]
    kind: Kind = "all"
    megabytes: int = 8
    tokens: bool = False


def _sentences(size: int, overlap: int) -> Any:
    from llama_index.core.node_parser import SentenceSplitter

    return SentenceSplitter(chunk_size=size, chunk_overlap=overlap)


def _tokens() -> Any:
    from llama_index.core.node_parser import TokenTextSplitter

    return TokenTextSplitter(chunk_size=1024, chunk_overlap=20)


def _windows() -> Any:
    from llama_index.core.node_parser import SentenceWindowNodeParser

    return SentenceWindowNodeParser(window_size=3)


def _markdown() -> Any:
    from llama_index.core.node_parser import MarkdownNodeParser

    return MarkdownNodeParser()


_MODES = (
    Mode("SentenceSplitter 1024/200, prose", lambda: _sentences(1024, 200), kind="prose", tokens=True),
    Mode("SentenceSplitter 1024/200, Python", lambda: _sentences(1024, 200), kind="python", tokens=True),
    Mode("SentenceSplitter 256/20, prose", lambda: _sentences(256, 20), kind="prose", tokens=True),
    Mode("SentenceSplitter 256/20, Python", lambda: _sentences(256, 20), kind="python", tokens=True),
    Mode("TokenTextSplitter 1024/20", _tokens, megabytes=3, tokens=True),
    Mode("SentenceWindow 3, prose", _windows, kind="prose"),
    Mode("Markdown, prose", _markdown, kind="prose"),
)


def _nodes_with_collector_paused(parser: Any, documents: list[Any]) -> Any:
    gc.disable()
    try:
        return parser.get_nodes_from_documents(documents)
    finally:
        gc.enable()


def _nodes(parser: Any, documents: list[Any]) -> Any:
    return parser.get_nodes_from_documents(documents)


def _work(parameters: Mapping[str, Any], accelerated: bool, call: Callable[[Any, list[Any]], Any]) -> Work:
    from llama_index.core.schema import Document

    mode = next(mode for mode in _MODES if mode.name == parameters["mode"])
    texts = read_sample(parameters["corpus"])
    documents = [Document(text=text, id_=name, metadata={"source": name}) for name, text in texts]
    # Long enough to be cut at sentences, for which data is loaded the first time.
    longest = max((text for _, text in texts), key=len)
    warm_up = [*documents[:3], Document(text=longest[:30_000])]
    parser = mode.build()
    if accelerated:
        from llama_index_aaflow import accelerate

        parser = accelerate(parser)
    return Work(
        run=lambda _: call(parser, documents),
        digest=of_nodes,
        warm_up=lambda: call(parser, warm_up),
        facts=lambda nodes: {"nodes": float(len(nodes))},
    )


def _native(parameters: Mapping[str, Any]) -> Work:
    return _work(parameters, False, _nodes)


def _native_paused(parameters: Mapping[str, Any]) -> Work:
    return _work(parameters, False, _nodes_with_collector_paused)


def _ours(parameters: Mapping[str, Any]) -> Work:
    return _work(parameters, True, _nodes)


def _ours_with_tiktoken(parameters: Mapping[str, Any]) -> Work:
    # As if the faster tokenizer were not installed: importing it raises ImportError.
    sys.modules["splintr"] = None  # type: ignore[assignment]
    return _work(parameters, True, _nodes)


def _cases(scale: Scale) -> list[Case]:
    cases = []
    for mode in _MODES:
        sample = scale.corpora.sample(mode.kind, (200_000 if scale.quick else mode.megabytes * 10**6))
        contenders = (_NATIVE, _PAUSED, _OURS, *([_OURS_TIKTOKEN] if mode.tokens else []))
        cases.append(Case(mode.name, {"mode": mode.name, **sample.parameters}, contenders, sample.megabytes))
    return cases


BENCHMARK = Benchmark(
    name="node-parsers",
    home="benchmarks.node_parsers:BENCHMARK",
    title="LlamaIndex node parsers alone, by mode",
    protocol=(
        "Timed: `get_nodes_from_documents` over all documents. Before that: reading, the parser, and a warm-up on "
        "three documents and the beginning of the longest. The faster tokenizer is loaded, and checked against "
        "tiktoken, within the timed part. One process and one thread; the collector is as Python starts it, except "
        "where its caller pauses it. Compared are texts, positions, metadata, settings, hashes and relationships; of "
        "random ids, which belongs where."
    ),
    metric="cpu",
    contenders=(
        Contender(_NATIVE, "native", _native),
        Contender(_PAUSED, "native", _native_paused),
        Contender(_OURS, "ours", _ours),
        Contender(_OURS_TIKTOKEN, "ours", _ours_with_tiktoken),
    ),
    cases=_cases,
)
