"""The work of the scaling benchmark: files, an embedding model whose cost is simulated, stores, and their contents."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from langchain_core.embeddings import Embeddings

from aaflow_plugins.engines.launching import launched_ranks
from aaflow_plugins.plugins import engine
from benchmarks.corpus import read_sample

WORKERS = (1, 2, 4)
CHUNK = 900
BATCH = 64


class HashEmbeddings(Embeddings):
    """Vectors that are bytes of a text's hash; a request waits as long as a hosted model might take.

    Args:
        dimension: Floats a vector.
        request_ms: Milliseconds a request of `BATCH` texts.
        item_ms: Milliseconds a text.
    """

    def __init__(self, dimension: int, request_ms: float, item_ms: float) -> None:
        self._dimension, self._request_ms, self._item_ms = dimension, request_ms, item_ms

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [row for start in range(0, len(texts), BATCH) for row in self._request(texts[start : start + BATCH])]

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]

    def _request(self, texts: list[str]) -> list[list[float]]:
        time.sleep((self._request_ms + self._item_ms * len(texts)) / 1000)
        hashed = b"".join(
            hashlib.shake_128(text.encode("utf-8", "surrogatepass")).digest(self._dimension) for text in texts
        )
        matrix = (np.frombuffer(hashed, np.uint8).astype(np.float32) - 127.5) / 128
        rows: list[list[float]] = matrix.reshape(len(texts), self._dimension).tolist()
        return rows


def embeddings(parameters: Mapping[str, Any]) -> HashEmbeddings:
    """A case's model."""
    return HashEmbeddings(parameters["dimension"], parameters["request_ms"], parameters["item_ms"])


def splitter() -> Any:
    """The splitter of all contenders."""
    from langchain_text_splitters import RecursiveCharacterTextSplitter

    return RecursiveCharacterTextSplitter(chunk_size=CHUNK, chunk_overlap=0, add_start_index=True)


# -- files -----------------------------------------------------------------------------------------------


@contextmanager
def files(case: Any) -> Iterator[dict[str, Any]]:
    """The files of a case, each of about so many chunks of real text, in a folder beside the corpus."""
    parameters = case.parameters
    folder = Path(parameters["corpus"]).parent / "files"
    folder.mkdir(exist_ok=True)
    text = "\n\n".join(text for _, text in read_sample(parameters["corpus"]))
    size = CHUNK * parameters["chunks_a_file"]
    paths = []
    for number in range(parameters["files"]):
        start = number * size % max(1, len(text) - size)
        paths.append(folder / f"{number:05d}.txt")
        paths[-1].write_text(text[start : start + size], encoding="utf-8")
    try:
        yield {"paths": list(map(str, paths))}
    finally:
        for path in paths:
            path.unlink()


def load(paths: Sequence[str]) -> list[Any]:
    """Files as documents."""
    from langchain_core.documents import Document

    return [
        Document(page_content=Path(path).read_text(encoding="utf-8"), metadata={"source": Path(path).name})
        for path in paths
    ]


def warm() -> None:
    """Let pyarrow import what it imports at its first array: pandas, where that is installed."""
    pa.array([""])


# -- what is stored --------------------------------------------------------------------------------------


def empty_store(model: Embeddings, dimension: int) -> Any:
    """LangChain's FAISS store, with nothing in it."""
    import faiss
    from langchain_community.docstore.in_memory import InMemoryDocstore
    from langchain_community.vectorstores import FAISS

    return FAISS(model, faiss.IndexFlatL2(dimension), InMemoryDocstore(), {})


def add(store: Any, chunks: Sequence[Any], rows: Sequence[Any]) -> None:
    """Chunks and their vectors into a store."""
    pairs = zip([chunk.page_content for chunk in chunks], rows, strict=True)
    store.add_embeddings(pairs, [chunk.metadata for chunk in chunks])


def stored(store: Any, first: int = 0) -> list[bytes]:
    """A checksum of each row from `first` on: text, metadata, and the bytes of the vector."""
    digests = []
    count = store.index.ntotal - first
    vectors = store.index.reconstruct_n(first, count) if count else ()
    for row, vector in enumerate(vectors, first):
        document = store.docstore.search(store.index_to_docstore_id[row])
        content = repr((document.page_content, sorted(document.metadata.items()))).encode("utf-8", "surrogatepass")
        digests.append(hashlib.sha256(content + vector.tobytes()).digest())
    return digests


@dataclass
class Done:
    """What a contender has to show, on this rank.

    Attributes:
        rows: Checksums of the rows stored.
        stages: Seconds of load, split, embed and upsert, where they can be told apart; and whatever else is noted.
    """

    rows: list[bytes]
    stages: dict[str, float] = field(default_factory=dict)


def digest(done: Done) -> str:
    """A checksum over all rows that the ranks hold, whichever of them holds which."""
    held = _of_all_ranks("rows", row=pa.array(done.rows, pa.binary()))["row"].to_pylist()
    return hashlib.sha256(b"".join(sorted(held))).hexdigest()


def facts(done: Done) -> dict[str, float]:
    """Seconds of each stage, the longest of all ranks; what of the whole is none of them; and the rows on all ranks.

    The rank that has most to do waits for nobody: what it spends outside its runs is the exchange, and what another
    spends more is waiting for it.
    """
    held = _of_all_ranks("stages", **{name: [value] for name, value in done.stages.items()})
    seconds = {name: np.array(held[name].to_pylist()) for name in done.stages}
    if "ingest" in seconds:
        beside = np.maximum(0.0, seconds.pop("ingest") - seconds.pop("runs"))
        seconds["exchange"], seconds["waiting"] = beside.min(), beside - beside.min()
    return {**{name: float(each.max()) for name, each in seconds.items()}, "rows": float(count(len(done.rows)))}


def count(rows: int) -> int:
    """The rows on all ranks."""
    return sum(_of_all_ranks("count", rows=[rows])["rows"].to_pylist())


def _of_all_ranks(what: str, **columns: Any) -> pa.Table:
    table = pa.table(columns)
    if launched_ranks() == 1 or not columns:
        return table
    ranks = engine("mpi")
    with ranks.together(what):
        return ranks.all_gather(table)


class Stages:
    """A stopwatch: seconds since the last mark, by name; `cpu` has those of this thread's CPU time."""

    def __init__(self, barrier: Callable[[], object] = lambda: None) -> None:
        self._barrier = barrier
        self.seconds: dict[str, float] = {}
        self.cpu: dict[str, float] = {}
        self._since, self._cpu_since = time.perf_counter(), time.thread_time()

    def mark(self, name: str) -> None:
        """Note that a stage has ended, on all ranks if there is a barrier."""
        self._barrier()
        now, cpu = time.perf_counter(), time.thread_time()
        self.seconds[name], self.cpu[name] = now - self._since, cpu - self._cpu_since
        self._since, self._cpu_since = now, cpu
