"""Requests of an OpenAI client from several ranks: those of one process, side by side."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from contextlib import nullcontext

import pytest
from llama_index.core.ingestion import IngestionPipeline

from aaflow_plugins.engines.communicator import Communicator
from aaflow_plugins.executor import Executor
from benchmarks.openai_server import Connection, serving
from llama_index_aaflow import accelerate
from tests.ranks.test_llama_index_ingestion import documents, sentences
from tests.ranks.test_llama_index_shards import assert_same, copies

pytestmark = pytest.mark.own_block


@pytest.mark.parametrize(("gather", "call"), [("shards", "run"), ("shards", "arun"), ("root", "arun")])
def test_the_requests_of_one_process(ranks: Communicator, gather: str, call: str) -> None:
    if ranks.size != 2:
        pytest.skip("what is asked by two ranks tells of more")
    openai = pytest.importorskip("llama_index.embeddings.openai")
    given = documents(24, 60)

    def pipeline(connection: Connection) -> IngestionPipeline:
        model = openai.OpenAIEmbedding(api_base=connection.base_url, api_key="none", max_retries=1, embed_batch_size=7)
        return IngestionPipeline(transformations=[sentences(), model])

    def asked(connection: Connection) -> Counter[str]:
        inputs = [json.loads(body)["input"] for body in connection.bodies()]
        return Counter(hashlib.sha256(repr(each).encode()).hexdigest() for each in inputs)

    with serving(20, 0, 8) if ranks.rank == 0 else nullcontext(Connection("")) as own:
        with ranks.together("server"):
            url = next(iter(ranks.agree(own.url.encode()))).decode()
        connection = Connection(url)
        executor = Executor(engine="mpi", gather=gather, max_concurrency=ranks.size)
        ours = accelerate(pipeline(connection), executor=executor)
        nodes = ours.run(documents=copies(given)) if call == "run" else asyncio.run(ours.arun(documents=copies(given)))
        found, most = asked(connection), connection.stats()["max_in_flight"]
        assert_same(ranks, nodes, pipeline(connection), given)
        if ranks.rank == 0:
            assert sum(asked(connection).values()) == 2 * sum(found.values())
            assert asked(connection) == found + found
            assert most <= ranks.size
        with ranks.together("end"):
            pass
