"""Splitters by themselves, mode by mode: CPU time, one process, one thread."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks import splitting_modes
from benchmarks.corpus import read_documents
from benchmarks.digests import of_documents
from benchmarks.harness import Benchmark, Case, Scale
from benchmarks.measure import Work
from benchmarks.splitting_modes import Split, cases, contenders


@dataclass(frozen=True)
class Mode(splitting_modes.Mode):
    """A splitter and what it is given.

    Attributes:
        metadata: What each document has: its `source` only, eight plain values, or nested ones.
    """

    metadata: Literal["source", "flat", "nested"] = "source"


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


def _work(parameters: Mapping[str, Any], accelerated: bool, call: Split) -> Work:
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


def _cases(scale: Scale) -> list[Case]:
    return cases(_MODES, scale, 300_000)


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
    contenders=contenders(_work, split),
    cases=_cases,
)
