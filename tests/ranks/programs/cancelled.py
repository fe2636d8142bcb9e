"""A program for several ranks: the task of one is cancelled while it waits for the others to come to the first call."""

from __future__ import annotations

import asyncio
import sys
import time

from langchain_core.runnables import RunnableLambda
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.schema import Document
from mpi4py import MPI

from aaflow_plugins.executor import Executor
from langchain_aaflow import accelerate as accelerate_chain
from llama_index_aaflow import accelerate


async def once(what: str, seconds: float) -> object:
    executor = Executor(engine="mpi", gather="all")
    async with asyncio.timeout(seconds):
        if what == "pipeline":
            return await accelerate(IngestionPipeline(transformations=[]), executor=executor).arun(
                documents=[Document(text="a", id_="a")]
            )
        chain = accelerate_chain(RunnableLambda(str) | RunnableLambda(str), executor=executor)
        return await chain.abatch([1, 2])


def main(what: str) -> None:
    rank = MPI.COMM_WORLD.rank
    time.sleep(rank)
    for seconds in (1000 if rank else 0.3, 1000):
        try:
            outcome = f"{len(asyncio.run(once(what, seconds)))} results"  # type: ignore[arg-type]
        except Exception as error:
            outcome = f"{type(error).__name__} {error}"
        sys.stderr.write(f"rank {rank}: {outcome}\n")


if __name__ == "__main__":
    main(sys.argv[1])
