"""What `num_workers` asks for: worker processes, or the same in this process.

Known transformations are sooner done here than copied to processes that start anew; and without a network such a
process may wait for a tokenizer's file for good. What a process would see is kept: each batch works on copies, as
pickling makes them, of nodes, transformations and cache.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing.reduction import ForkingPickler
from typing import Any

import llama_index.core
from llama_index.core.node_parser import NodeParser

from llama_index_aaflow import embeddings, node_parsers
from llama_index_aaflow.listening import nobody_listens


def runs_here(transformations: Sequence[Any]) -> bool:
    """Whether these transformations do in this process what they do in a worker process, and as fast."""
    return nobody_listens() and _tokenizer_is_default() and all(map(_is_known, transformations))


def _is_known(transformation: Any) -> bool:
    parser = isinstance(transformation, NodeParser)
    return (node_parsers if parser else embeddings).native_reason(transformation) is None


def _tokenizer_is_default() -> bool:
    """Whether a process that starts anew comes to the same tokenizer."""
    tokenizer: Any = llama_index.core.global_tokenizer
    if tokenizer is None:
        return True
    encoding = getattr(getattr(tokenizer, "func", None), "__self__", None)
    return (
        type(tokenizer) is partial
        and getattr(encoding, "name", None) == "cl100k_base"
        and tokenizer.keywords == {"allowed_special": "all"}
    )


class Multiprocessing:
    """The module `multiprocessing`, as far as `IngestionPipeline.run` uses it."""

    cpu_count = staticmethod(multiprocessing.cpu_count)

    def __init__(self, native: Any) -> None:
        self._native = native

    def get_context(self, method: str) -> _Context:
        """A context of this start method."""
        return _Context(self._native, method)


class _Context:
    def __init__(self, native: Any, method: str) -> None:
        self._native, self._method = native, method

    def Pool(self, processes: int) -> _Pool:
        return _Pool(self._native, self._method, processes)


class _Pool:
    """A pool that begins when it knows its work."""

    def __init__(self, native: Any, method: str, processes: int) -> None:
        self._native, self._method, self._processes = native, method, processes

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def starmap(self, function: Any, iterable: Iterable[tuple[Any, ...]]) -> list[Any]:
        """The results of a function, in order.

        Raises:
            Exception: What the function raised.
        """
        tasks = list(iterable)
        if tasks and not runs_here(tasks[0][1]):
            with multiprocessing.get_context(self._method).Pool(self._processes) as pool:
                return pool.starmap(getattr(self._native, function.__name__), tasks)
        return [_apart(function, *task) for task in tasks]


class WorkerPool:
    """`ProcessPoolExecutor`, as far as `IngestionPipeline.arun` uses it."""

    def __init__(self, native: Any, max_workers: int) -> None:
        self._native, self._max_workers = native, max_workers
        self._pool: ProcessPoolExecutor | ThreadPoolExecutor | None = None

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True)

    def submit(self, function: Any, batch: Any) -> Future[Any]:
        """Begin to apply a partial function, whose keywords name the transformations, to a batch of nodes."""
        here = runs_here(function.keywords["transformations"])
        if self._pool is None:
            self._pool = (ThreadPoolExecutor if here else ProcessPoolExecutor)(self._max_workers)
        if isinstance(self._pool, ThreadPoolExecutor):
            return self._pool.submit(_apart, function.func, batch, **function.keywords)
        native = getattr(self._native, function.func.__name__)
        return self._pool.submit(partial(native, **function.keywords), batch)


def _apart(function: Any, *arguments: Any, **keywords: Any) -> Any:
    """Call a function with copies, and give a copy of its result."""
    arguments, keywords = _copied((arguments, keywords))
    return _copied(function(*arguments, **keywords))


def _copied(value: Any) -> Any:
    return ForkingPickler.loads(ForkingPickler.dumps(value))
