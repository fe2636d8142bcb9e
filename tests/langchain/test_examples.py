"""The examples run as their first lines say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from langchain_community.vectorstores import FAISS

from langchain_aaflow.wordllama import WordLlamaEmbeddings

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_index_folder_saves_an_index_that_plain_langchain_loads(tmp_path: Path, real_texts: list[str]) -> None:
    pytest.importorskip("wordllama")
    if not EXAMPLES.is_dir():
        pytest.skip("the examples are not part of the wheel")
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(30):
        (folder / f"{number}.txt").write_text("".join(real_texts[number : number + 2]), encoding="utf-8")
    command = [sys.executable, "-W", "ignore", EXAMPLES / "index_folder.py", folder, tmp_path / "index"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    store = FAISS.load_local(str(tmp_path / "index"), WordLlamaEmbeddings(), allow_dangerous_deserialization=True)
    assert f"{store.index.ntotal:,} passages" in run.stdout
    assert set(store.docstore._dict) == set(store.index_to_docstore_id.values())
    assert store.similarity_search("future imports", k=1)[0].metadata["source"].endswith(".txt")
