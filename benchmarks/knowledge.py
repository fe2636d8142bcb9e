"""What retrievers search: pieces of real text, with the vectors that the loopback server gives them.

`python -m benchmarks.knowledge CORPUS ROWS` writes the vectors.
"""

from __future__ import annotations

import base64
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.corpus import Corpora, read_pieces
from benchmarks.harness import ROOT, environment
from benchmarks.openai_server import VectorPool

if TYPE_CHECKING:
    from langchain_community.vectorstores import FAISS

DIMENSION = 384
#: Documents a retriever returns.
K = 4
#: What a request for embeddings takes, and each of its items.
BASE_MS, ITEM_MS = 30.0, 0.5
_MODEL = "text-embedding-3-small"
_PIECE = 200


def parameters_of(corpora: Corpora, rows: int) -> dict[str, Any]:
    """What a case with a store of `rows` pieces tells its contenders."""
    return {"rows": rows, **corpora.sample("all", rows * _PIECE * 5 // 4).parameters}


def write_vectors(parameters: Mapping[str, Any]) -> None:
    """Make the vectors of a case's store, once for all its contenders."""
    corpus, rows = parameters["corpus"], parameters["rows"]
    if not _vectors(corpus, rows).exists():
        command = [sys.executable, "-m", "benchmarks.knowledge", corpus, str(rows)]
        subprocess.run(command, cwd=ROOT, env=environment(), check=True)


def vectors_of(parameters: Mapping[str, Any]) -> Path:
    """The file of float32 `(rows, DIMENSION)` that `write_vectors` has written."""
    return _vectors(parameters["corpus"], parameters["rows"])


def pieces_of(parameters: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Texts and metadata of a case's store, in the order of its vectors."""
    return read_pieces(parameters["corpus"], _PIECE, parameters["rows"])


def store(parameters: Mapping[str, Any]) -> FAISS:
    """A store that holds the pieces as if `OpenAIEmbeddings` had embedded them."""
    import faiss
    from langchain_community.docstore.in_memory import InMemoryDocstore
    from langchain_community.vectorstores import FAISS
    from langchain_core.documents import Document
    from langchain_openai import OpenAIEmbeddings
    from pydantic import SecretStr

    index = faiss.IndexFlatL2(DIMENSION)
    index.add(np.load(vectors_of(parameters)))
    pieces = pieces_of(parameters)
    documents = {
        str(row): Document(id=str(row), page_content=text, metadata=own) for row, (text, own) in enumerate(pieces)
    }
    embeddings = OpenAIEmbeddings(
        base_url=f"{parameters['url']}/v1", api_key=SecretStr("none"), model=_MODEL, dimensions=DIMENSION
    )
    return FAISS(embeddings, index, InMemoryDocstore(documents), dict(enumerate(documents)))


def questions(parameters: Mapping[str, Any], count: int) -> list[str]:
    """Questions about pieces from all over the store; no two are alike."""
    pieces = pieces_of(parameters)
    asked = (pieces[number * len(pieces) // count][0] for number in range(count))
    return [f"{number}. Where does it say: {' '.join(text.split())[:80]}?" for number, text in enumerate(asked, 1)]


def _vectors(corpus: str, rows: int) -> Path:
    return Path(corpus).with_suffix(f".{rows}.npy")


def main(corpus: str, rows: int) -> None:
    """Write the vectors of a corpus' first pieces."""
    import tiktoken

    texts = [text for text, _ in read_pieces(corpus, _PIECE, rows)]
    # OpenAIEmbeddings sends token ids: these are what the server makes a vector of.
    contents = (",".join(map(str, ids)) for ids in tiktoken.encoding_for_model(_MODEL).encode_ordinary_batch(texts))
    pool = VectorPool(DIMENSION)
    matrix = np.frombuffer(b"".join(base64.b64decode(pool.base64(content.encode())) for content in contents), "<f4")
    np.save(_vectors(corpus, rows), matrix.reshape(rows, DIMENSION))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
