"""A store in shards that one process has all of: what several ranks do is in `tests/ranks`."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.vectorstores import InMemoryVectorStore

from aaflow_plugins.executor import Executor
from langchain_aaflow import ingest


def test_searches_side_by_side() -> None:
    """There is no order that ranks would have to keep."""
    model = DeterministicFakeEmbedding(size=4)
    documents = [Document(page_content=f"text {number}", id=str(number)) for number in range(6)]
    native = InMemoryVectorStore.from_documents(documents, model)
    store = ingest(
        documents,
        splitter=None,
        embedding=model,
        vectorstore=InMemoryVectorStore,
        executor=Executor(batch_size=3, gather="shards", engine="local"),
    )
    queries = [f"query {number}" for number in range(40)]
    expected = [native.similarity_search(query, k=2) for query in queries]

    async def search() -> list[list[Document]]:
        return await asyncio.gather(*(store.asimilarity_search(query, k=2) for query in queries))

    assert asyncio.run(search()) == expected
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda query: store.similarity_search(query, k=2), queries)) == expected
