"""Splitters by themselves, mode by mode: CPU time, one process, one thread."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.corpus import Kind, read_documents
from benchmarks.digests import of_documents
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
    """A splitter and what it is given.

    Attributes:
        name: As it stands in the table.
        build: Makes the native splitter.
        kind: The texts.
        megabytes: How much of them, at most.
        metadata: What each document has: its `source` only, eight plain values, or nested ones.
        tokens: Whether lengths are counted in tokens.
    """

    name: str
    build: Callable[[], Any]
    kind: Kind = "all"
    megabytes: int = 21
    metadata: Literal["source", "flat", "nested"] = "source"
    tokens: bool = False


def _recursive(size: int, overlap: int) -> Any:
    from langchain_text_splitters import RecursiveCharacterTextSplitter

    return RecursiveCharacterTextSplitter(chunk_size=size, chunk_overlap=overlap)


def _of_language(language: str) -> Any:
    from langchain_text_splitters import Language, RecursiveCharacterTextSplitter

    return RecursiveCharacterTextSplitter.from_language(Language(language), chunk_size=1000, chunk_overlap=200)


def _characters(separator: str, size: int, overlap: int) -> Any:
    from langchain_text_splitters import CharacterTextSplitter

    return CharacterTextSplitter(separator=separator, chunk_size=size, chunk_overlap=overlap)


def _recursive_by_tokens() -> Any:
    from langchain_text_splitters import RecursiveCharacterTextSplitter

    # Real source code holds literals of special tokens; refusing them is not what is measured.
    return RecursiveCharacterTextSplitter.from_tiktoken_encoder(
        "cl100k_base", chunk_size=256, chunk_overlap=32, disallowed_special=()
    )


def _tokens() -> Any:
    from langchain_text_splitters import TokenTextSplitter

    return TokenTextSplitter("cl100k_base", chunk_size=256, chunk_overlap=32, disallowed_special=())


def _headers() -> Any:
    from langchain_text_splitters import MarkdownHeaderTextSplitter

    return MarkdownHeaderTextSplitter([("#" * level, f"Header {level}") for level in (1, 2, 3)])


_MODES = (
    Mode("RecursiveCharacter 1000/200", lambda: _recursive(1000, 200)),
    Mode("RecursiveCharacter 1000/200, 8 flat metadata keys", lambda: _recursive(1000, 200), metadata="flat"),
    Mode("RecursiveCharacter 1000/200, nested metadata", lambda: _recursive(1000, 200), metadata="nested"),
    Mode("RecursiveCharacter 400/0", lambda: _recursive(400, 0)),
    Mode("RecursiveCharacter 4000/200", lambda: _recursive(4000, 200)),
    Mode("from_language Python 1000/200", lambda: _of_language("python"), kind="python"),
    Mode("from_language Markdown 1000/200, prose", lambda: _of_language("markdown"), kind="prose"),
    Mode("Character 1000/200", lambda: _characters("\n\n", 1000, 200)),
    Mode("Character by line 200/50", lambda: _characters("\n", 200, 50)),
    Mode("RecursiveCharacter by tokens, cl100k 256/32", _recursive_by_tokens, tokens=True),
    Mode("Token, cl100k 256/32", _tokens, tokens=True),
    Mode("MarkdownHeader", _headers),
    Mode("MarkdownHeader, prose", _headers, kind="prose"),
)


def split(splitter: Any, documents: list[Any]) -> list[Any]:
    """All chunks of all documents, by the splitter's own call."""
    if hasattr(splitter, "split_documents"):
        chunks: list[Any] = splitter.split_documents(documents)
        return chunks
    return [chunk for document in documents for chunk in splitter.split_text(document.page_content)]


def _split_with_collector_paused(splitter: Any, documents: list[Any]) -> list[Any]:
    gc.disable()
    try:
        return split(splitter, documents)
    finally:
        gc.enable()


def _work(parameters: Mapping[str, Any], accelerated: bool, call: Callable[[Any, list[Any]], list[Any]]) -> Work:
    mode = next(mode for mode in _MODES if mode.name == parameters["mode"])
    documents = read_documents(parameters["corpus"])
    for position, document in enumerate(documents):
        document.metadata.update(_metadata(mode.metadata, position))
    splitter = mode.build()
    if accelerated:
        from langchain_aaflow import accelerate

        splitter = accelerate(splitter)
    return Work(
        run=lambda _: call(splitter, documents),
        digest=of_documents,
        warm_up=lambda: call(splitter, documents[:3]),
        facts=lambda chunks: {"chunks": float(len(chunks))},
    )


def _metadata(kind: str, position: int) -> dict[str, Any]:
    if kind == "source":
        return {}
    flat = {
        "position": position,
        "title": f"file {position}",
        "language": "en",
        "author": "unknown",
        "size": position * 1000,
        "score": position / 7,
        "public": position % 2 == 0,
    }
    return flat if kind == "flat" else {"position": position, "file": flat, "tags": ["text", ["real", position]]}


def _native(parameters: Mapping[str, Any]) -> Work:
    return _work(parameters, False, split)


def _native_paused(parameters: Mapping[str, Any]) -> Work:
    return _work(parameters, False, _split_with_collector_paused)


def _ours(parameters: Mapping[str, Any]) -> Work:
    return _work(parameters, True, split)


def _ours_with_tiktoken(parameters: Mapping[str, Any]) -> Work:
    # As if the faster tokenizer were not installed: importing it raises ImportError.
    sys.modules["splintr"] = None  # type: ignore[assignment]
    return _work(parameters, True, split)


def _cases(scale: Scale) -> list[Case]:
    cases = []
    for mode in _MODES:
        sample = scale.corpora.sample(mode.kind, (300_000 if scale.quick else mode.megabytes * 10**6))
        contenders = (_NATIVE, _PAUSED, _OURS, *([_OURS_TIKTOKEN] if mode.tokens else []))
        cases.append(Case(mode.name, {"mode": mode.name, **sample.parameters}, contenders, sample.megabytes))
    return cases


BENCHMARK = Benchmark(
    name="splitting",
    home="benchmarks.splitting:BENCHMARK",
    title="LangChain text splitters alone, by mode",
    protocol=(
        "Timed: `split_documents` over all documents (`split_text` for each where a splitter has no other call). "
        "Before that: reading, the splitter and its encoding, and a warm-up on three documents. The faster tokenizer "
        "is loaded, and checked against tiktoken, within the timed part. One process and one thread; the collector is "
        "as Python starts it, except where its caller pauses it."
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
