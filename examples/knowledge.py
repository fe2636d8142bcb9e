"""What the examples ask about: the functions of Python's own library, by what their documentation says.

Real text that is on every machine, and questions whose right answer is known.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator
from functools import cache
from importlib import import_module

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import InMemoryVectorStore, VectorStoreRetriever

MODULES = (
    *("base64", "bisect", "calendar", "difflib", "functools", "glob", "heapq", "html", "inspect", "itertools", "json"),
    *("math", "os", "os.path", "platform", "random", "re", "secrets", "shlex", "shutil", "statistics", "subprocess"),
    *("tempfile", "textwrap", "time", "traceback", "urllib.parse", "uuid", "warnings", "weakref", "zlib"),
)


@cache
def functions() -> dict[str, str]:
    """What each function does, by its name; the first paragraph of its documentation. No two say the same."""
    said: dict[str, str] = {}
    for module in MODULES:
        for name, function in inspect.getmembers(import_module(module), inspect.isroutine):
            text = " ".join((inspect.getdoc(function) or "").partition("\n\n")[0].split())
            if len(text.split()) > 5 and not name.startswith("_"):
                said.setdefault(text, f"{module}.{name}")
    return {name: text for text, name in said.items()}


def questions(count: int) -> Iterator[tuple[str, str]]:
    """Questions, each with the name of the function that is the answer; from all over the library."""
    found = list(functions().items())
    for name, text in itertools.islice(found[:: max(1, len(found) // count)], count):
        yield f"Which function does this: {text}", name


def retriever(embeddings: Embeddings) -> VectorStoreRetriever:
    """Finds the four passages nearest to a question."""
    passages = [Document(f"{name}: {text}") for name, text in functions().items()]
    return InMemoryVectorStore.from_documents(passages, embeddings).as_retriever(search_kwargs={"k": 4})


def joined(passages: list[Document]) -> str:
    """The passages as a prompt shows them."""
    return "\n".join(passage.page_content for passage in passages)
