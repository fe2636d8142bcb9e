"""What several modules ingest."""

from __future__ import annotations

import pytest
from langchain_core.documents import Document
from langchain_text_splitters import (
    RecursiveCharacterTextSplitter,
)


@pytest.fixture(scope="module")
def documents(real_texts: list[str]) -> list[Document]:
    joined = ["".join(real_texts[start : start + 9]) for start in range(0, 900, 9)]
    return [
        Document(page_content=text, metadata={"source": f"{n}.py", "tags": ["a", n]}) for n, text in enumerate(joined)
    ]


@pytest.fixture(scope="module")
def splitter() -> RecursiveCharacterTextSplitter:
    return RecursiveCharacterTextSplitter(chunk_size=400, chunk_overlap=60, add_start_index=True)
