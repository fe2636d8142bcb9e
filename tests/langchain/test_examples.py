"""The examples run as their first lines say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from langchain_community.vectorstores import FAISS

from benchmarks.openai_server import Connection
from langchain_aaflow.wordllama import WordLlamaEmbeddings

EXAMPLES = Path(__file__).parents[2] / "examples"
PROGRAMS = ["answer_questions", "evaluate", "index_folder", "many_agents"]

pytestmark = pytest.mark.skipif(not EXAMPLES.is_dir(), reason="the examples are not part of the wheel")


def example(name: str, *arguments: object, **environment: str) -> str:
    """What an example prints; without a key, unless one is given."""
    pytest.importorskip("wordllama", reason="its model needs numpy 2")
    if name == "many_agents":
        pytest.importorskip("langchain")
    command = [sys.executable, "-W", "ignore", str(EXAMPLES / f"{name}.py"), *map(str, arguments)]
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("OPENAI_")}
    run = subprocess.run(command, capture_output=True, text=True, env={**inherited, **environment}, timeout=120)
    assert run.returncode == 0, run.stderr
    return run.stdout


def calls(printed: str) -> list[int]:
    """Calls for embeddings, native and accelerated."""
    return [int(number) for number in re.findall(r"(\d+) calls for embeddings", printed)]


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_example_says_what_it_takes(name: str) -> None:
    assert f"Usage: {name}.py" in example(name, "--help")


def test_index_folder_saves_an_index_that_plain_langchain_loads(tmp_path: Path, real_texts: list[str]) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(30):
        (folder / f"{number}.txt").write_text("".join(real_texts[number : number + 2]), encoding="utf-8")
    printed = example("index_folder", folder, tmp_path / "index")
    store = FAISS.load_local(str(tmp_path / "index"), WordLlamaEmbeddings(), allow_dangerous_deserialization=True)
    assert f"{store.index.ntotal:,} passages" in printed
    assert set(store.docstore._dict) == set(store.index_to_docstore_id.values())
    assert store.similarity_search("future imports", k=1)[0].metadata["source"].endswith(".txt")


def test_answer_questions_gives_the_same_answers_for_fewer_calls() -> None:
    printed = example("answer_questions", "--count", 30)
    assert "30 of 30 answers are the same; the model is Quoting" in printed
    assert calls(printed) == [30, 1]


def test_answer_questions_asks_the_users_own_model(openai_server: Connection) -> None:
    printed = example("answer_questions", "--count", 5, OPENAI_API_KEY="none", OPENAI_BASE_URL=openai_server.base_url)
    assert "5 of 5 answers are the same; the model is ChatOpenAI" in printed
    assert openai_server.stats()["chat"]["requests"] == 10


def test_evaluate_gives_every_answer_a_mark() -> None:
    printed = example("evaluate", "--count", 30)
    assert "30 of 30 marks are the same" in printed
    accelerated, native = re.findall(r"(\d+) right, (\d+) wrong, 0 failed", printed)
    assert accelerated == native
    assert int(native[0]) + int(native[1]) == 30
    assert int(native[0]) > int(native[1])
    assert "generate Quoting" in printed


def test_many_agents_look_things_up_together() -> None:
    printed = example("many_agents", "--agents", 30)
    assert "30 of 30 answers are the same" in printed
    native, accelerated = calls(printed)
    assert native == 30
    assert accelerated < native
