"""The plug-in that CONTRIBUTING.md shows, installed as its lines say, does what the text says."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.house.code_blocks import code_blocks
from tests.house.repository import ROOT

#: The package the plug-in is for.
ACME = """
import zlib
import numpy as np
from langchain_core.embeddings import Embeddings

class Chunker:
    def __init__(self, size):
        self.size = size
    def chunk(self, text):
        chunks = []
        while text:
            chunks.append(text[: self.size])
            text = text[self.size :]
        return chunks

class AcmeEmbeddings(Embeddings):
    calls = []
    def matrix(self, texts):
        self.calls.append("matrix")
        rows = [np.random.default_rng(zlib.crc32(text.encode())).standard_normal(16) for text in texts]
        return np.array(rows, dtype=np.float32).reshape(len(texts), 16)
    def embed_documents(self, texts):
        rows = self.matrix(texts).tolist()
        self.calls[-1] = "lists"
        return rows
    def embed_query(self, text):
        return self.embed_documents([text])[0]
"""

#: What the text below the example promises.
USE = """
import sys
import aaflow_plugins
from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_text_splitters import RecursiveCharacterTextSplitter
assert "acme_aaflow" not in sys.modules

import acme
native = acme.Chunker(200)
fast = aaflow_plugins.accelerate(native)
assert type(fast).__name__ == "FastChunker" and isinstance(fast, acme.Chunker)
text = "One sentence and another one, with a number: 42. " * 5000
assert fast.chunk(text) == native.chunk(text)

class Own(acme.Chunker):
    pass
try:
    aaflow_plugins.accelerate(Own(3))
except TypeError as error:
    assert "Own" in str(error) and "acme" in str(error)
else:
    raise AssertionError("a subclass is not known")

from langchain_aaflow import ingest
documents = [Document(f"{number} {text}", metadata={"number": number}) for number in range(3)]
splitter = RecursiveCharacterTextSplitter(chunk_size=500, chunk_overlap=50)
embeddings = acme.AcmeEmbeddings()
expected = InMemoryVectorStore(embeddings)
chunks = splitter.split_documents(documents)
expected.add_documents(chunks, ids=[str(row) for row in range(len(chunks))])
assert acme.AcmeEmbeddings.calls == ["lists"]
acme.AcmeEmbeddings.calls.clear()
store = ingest(documents, splitter=splitter, embedding=embeddings, vectorstore=InMemoryVectorStore(embeddings),
    ids=list(expected.store))
assert set(acme.AcmeEmbeddings.calls) == {"matrix"}
assert list(store.store.values()) == list(expected.store.values())

retriever = store.as_retriever(search_kwargs={"k": 2})
queries = [f"a sentence with {number}" for number in range(20)]
acme.AcmeEmbeddings.calls.clear()
found = [retriever.invoke(query) for query in queries]
assert len(acme.AcmeEmbeddings.calls) == 20
acme.AcmeEmbeddings.calls.clear()
assert aaflow_plugins.accelerate(retriever).batch(queries) == found
assert len(acme.AcmeEmbeddings.calls) == 1
"""


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder for `sys.path` that holds acme and, with its metadata, the plug-in of the document."""
    blocks = code_blocks(ROOT / "CONTRIBUTING.md")
    (plugin,) = (block for block in blocks if block.file == "acme_aaflow.py")
    (project,) = (tomllib.loads(block.code)["project"] for block in blocks if block.language == "toml")
    (tmp_path / "acme.py").write_text(ACME)
    (tmp_path / "acme_aaflow.py").write_text(plugin.code)
    metadata = tmp_path / f"acme_aaflow-{project['version']}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    entries = (f"{name} = {value}\n" for name, value in project["entry-points"]["aaflow_plugins"].items())
    (metadata / "entry_points.txt").write_text("[aaflow_plugins]\n" + "".join(entries))
    return tmp_path


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "200"}
    return subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)


def test_the_example_works(installed: Path) -> None:
    result = run(installed, "-c", USE)
    assert result.returncode == 0, result.stderr


def test_doctor_shows_it(installed: Path) -> None:
    result = run(installed, str(Path(sys.executable).parent / "aaflow"), "doctor")
    assert result.returncode == 0, result.stderr
    assert "acme_aaflow" in result.stdout


def test_the_example_stays_short() -> None:
    """Somebody with one class to speed up must not be put off."""
    (plugin,) = (block for block in code_blocks(ROOT / "CONTRIBUTING.md") if block.file == "acme_aaflow.py")
    assert len([line for line in plugin.code.splitlines() if line.strip()]) <= 30
