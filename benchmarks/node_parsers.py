"""LlamaIndex's node parsers by themselves, mode by mode: CPU time, one process, one thread."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.corpus import llama_documents, read_sample
from benchmarks.digests import of_nodes
from benchmarks.harness import Benchmark, Case, Scale
from benchmarks.measure import Work
from benchmarks.splitting_modes import Mode, Split, cases, contenders


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
    Mode("SentenceSplitter 1024/200, prose", lambda: _sentences(1024, 200), kind="prose", megabytes=8, tokens=True),
    Mode("SentenceSplitter 1024/200, Python", lambda: _sentences(1024, 200), kind="python", megabytes=8, tokens=True),
    Mode("SentenceSplitter 256/20, prose", lambda: _sentences(256, 20), kind="prose", megabytes=8, tokens=True),
    Mode("SentenceSplitter 256/20, Python", lambda: _sentences(256, 20), kind="python", megabytes=8, tokens=True),
    Mode("TokenTextSplitter 1024/20", _tokens, megabytes=3, tokens=True),
    Mode("SentenceWindow 3, prose", _windows, kind="prose", megabytes=8),
    Mode("Markdown, prose", _markdown, kind="prose", megabytes=8),
)


def _nodes(parser: Any, documents: list[Any]) -> Any:
    return parser.get_nodes_from_documents(documents)


def _work(parameters: Mapping[str, Any], accelerated: bool, call: Split) -> Work:
    from llama_index.core.schema import Document

    mode = next(mode for mode in _MODES if mode.name == parameters["mode"])
    texts = read_sample(parameters["corpus"])
    documents = llama_documents(texts)
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


def _cases(scale: Scale) -> list[Case]:
    return cases(_MODES, scale, 200_000)


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
    contenders=contenders(_work, _nodes),
    cases=_cases,
)
