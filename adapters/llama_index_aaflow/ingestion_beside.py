"""Embedding by a model of this process while documents are still parsed.

Natively the model begins when the parser is through with all documents. Here, where nobody can tell, a thread parses
one group of documents after the other, and the model, which stays in the caller's thread, gets what is there in the
batches of its native loop. Much of what models do leaves the interpreter to other threads, so both have a core. A model
of which a plug-in says that its answers are independent of each other embeds several batches at once, in threads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from typing import Any, Final

from llama_index.core.base.embeddings.base import BaseEmbedding

from aaflow_plugins.collector import rare_collector
from aaflow_plugins.executor import Executor
from aaflow_plugins.interrupts import interrupts_put_off, result_of
from aaflow_plugins.plugins import load_for
from aaflow_plugins.threads import threads_can_start, threads_for_models
from llama_index_aaflow.embeddings import embeds_natively, has_native
from llama_index_aaflow.ingestion_cache import Made, QuickCache
from llama_index_aaflow.ingestion_overlap import (
    SETTINGS,
    are_apart,
    are_plain,
    batches,
    groups,
    nothing_kept,
    parses_by_document,
    texts_of,
)
from llama_index_aaflow.listening import nobody_listens
from llama_index_aaflow.native_classes import StandsFor
from llama_index_aaflow.node_parsers import calls_nothing_unknown
from llama_index_aaflow.parsing.counting import expect_documents
from llama_index_aaflow.storage.plain_nodes import give_vectors

#: What a model has to have of the base class: it then makes vectors of batches of texts, and of nothing else.
_METHODS: Final = ("__call__", "get_text_embedding_batch")

#: Has a thread call a function in a copy of the current context.
_Submit = Callable[..., Future[Any]]


def may_run_beside(steps: list[Any], settings: dict[str, Any]) -> bool:
    """Whether the first step may parse in a thread while the second, an embedding model, works.

    Args:
        steps: Accelerated transformations.
        settings: Keyword arguments of the native function that applies them.
    """
    if len(steps) < 2 or not isinstance(steps[1], BaseEmbedding) or not parses_by_document(steps[0]):
        return False
    parser, model = steps[:2]
    return (
        SETTINGS.issuperset(settings)
        and nothing_kept(settings.get("cache"), settings.get("cache_collection"))
        and not isinstance(model, StandsFor)
        and has_native(model, _METHODS)
        and calls_nothing_unknown(parser)
        and not parser.callback_manager.handlers
        and not model.callback_manager.handlers
        and nobody_listens()
        and threads_can_start()
    )


def run_beside(
    native: Callable[[list[Any]], Any], steps: list[Any], cache: Any, executor: Executor | None = None
) -> Any:
    """Apply steps, of which the first two `may_run_beside`.

    Args:
        native: Applies a list of steps natively, to the nodes that it knows of.
        steps: Accelerated transformations.
        cache: What the native function is given for a cache.
        executor: Bounds the batches that threads embed at once.
    """
    parsing = _Parsing(steps[0], steps[1], cache, _calls_at_once(steps[1], executor))
    with rare_collector():
        return native([parsing, _Embedding(steps[1], parsing), *steps[2:]])


def _calls_at_once(model: BaseEmbedding, executor: Executor | None) -> int:
    """How many threads may embed batches at once; 1 if all are the caller's."""
    if not (embeds_natively(model) and load_for(model).aaflow_independent_answers(model=model)):
        return 1
    return (executor and executor.resources.max_concurrency) or threads_for_models()


class _Parsing:
    """A parser, as the native code applies it, whose nodes have been embedded when it is through.

    Attributes:
        nodes: The nodes; empty unless they have been embedded.
        named: What the cache knows the model by, from before it has done anything.
        given: How many nodes were given their vectors, but for those left.
        left: Vectors that have to be given natively, each with the number of its node, in order.
        rest: Vectors for the other nodes, in order.
        error: What the model raised, until it is raised where it natively is.
    """

    def __init__(self, parser: Any, model: Any, cache: Any, at_once: int) -> None:
        self._parser, self._model, self._at_once = parser, model, at_once
        self._cached = cache is not None
        self._cache = cache if isinstance(cache, QuickCache) else None
        self.nodes: list[Any] = []
        self.named: Any = None
        self.given = 0
        self.left: list[tuple[int, Any]] = []
        self.rest: list[Any] = []
        self.error: BaseException | None = None

    def to_dict(self, **kwargs: Any) -> Any:
        """What the cache knows the parser by."""
        return self._parser.to_dict(**kwargs)

    def __call__(self, documents: Any, **kwargs: Any) -> Any:
        """Make nodes of documents."""
        # The oldest versions hand this on from `run`.
        if kwargs not in ({}, {"show_progress": False}) or not are_apart(documents) or not are_plain(documents):
            return self._parser(documents, **kwargs)
        if self._cached:
            try:
                self.named = self._model.to_dict()
            except Exception:
                return self._parser(documents, **kwargs)  # it fails again when the native code asks
        made = Made(cached=self._cache is not None)

        def parse(group: list[Any]) -> list[str]:
            nodes = self._parser(group)
            made.add(nodes)
            return texts_of(nodes)

        expect_documents(self._parser, documents)
        with _threads(1, "aaflow-parser") as submit, _threads(self._at_once, "aaflow-model") as ask:
            parts = deque(submit(parse, group) for group in groups(documents))
            self._embed(parts, made, submit, ask)
        if self._cache is not None:
            self._cache.expect(made)
        self.nodes = made.nodes
        return made.nodes

    def _embed(self, parts: deque[Future[list[str]]], made: Made, submit: _Submit, ask: _Submit) -> None:
        """Embed texts as they come; the thread that made their nodes gives these their vectors.

        Args:
            parts: The texts of groups of documents.
            made: The nodes.
            submit: Has the thread that makes them do something.
            ask: Has the model's threads do something.
        """

        def texts() -> Iterator[list[str]]:
            while parts:
                yield result_of(parts.popleft())

        # Whoever sees nodes that the cache is told of may not see vectors yet.
        early = self._cache is not None or not self._cached
        giving = []
        for batch, vectors_of in self._asked(texts(), ask):
            if self.error is not None:
                continue
            try:
                vectors = vectors_of()
            except BaseException as error:
                del vectors_of  # whose future holds the error, whose traceback holds this frame
                # It is raised where it would be natively: after what the parser made is in the cache. What is no
                # error doesn't wait for a parser that isn't through.
                if not (isinstance(error, Exception) or all(part.done() for part in parts)):
                    raise
                self.error = error
                continue
            if early and not self.rest and len(vectors) == len(batch):
                giving.append(submit(made.give, self.given, vectors))
                self.given += len(batch)
            else:
                self.rest += vectors
        self.left = [each for given in giving for each in result_of(given)]

    def _asked(
        self, texts: Iterator[list[str]], ask: _Submit
    ) -> Iterator[tuple[list[str], Callable[[], list[list[float]]]]]:
        """The batches of the native loop, and for each what gives its vectors, or waits for the thread that does."""
        waiting: deque[tuple[list[str], Callable[[], Any]]] = deque()
        failed = False

        def embed(batch: list[str]) -> list[list[float]]:
            nonlocal failed
            if failed:
                return []  # those before it have all begun: nobody will ask for it
            try:
                vectors: list[list[float]] = self._model.get_text_embedding_batch(batch)
            except BaseException:
                failed = True
                raise
            return vectors

        for batch in batches(texts, self._model):
            if self._at_once == 1 or self.error is not None:
                yield batch, partial(self._model.get_text_embedding_batch, batch)
                continue
            waiting.append((batch, partial(result_of, ask(embed, batch))))
            if len(waiting) > 2 * self._at_once:
                yield waiting.popleft()
        yield from waiting


class _Embedding:
    """A model, as the native code applies it, that has done its work while the nodes were made."""

    def __init__(self, model: Any, parsing: _Parsing) -> None:
        self._model, self._parsing = model, parsing

    def to_dict(self, **kwargs: Any) -> Any:
        """What the cache knows the model by."""
        return self._model.to_dict(**kwargs) if self._parsing.named is None else self._parsing.named

    def __call__(self, nodes: Any, **kwargs: Any) -> Any:
        """Give nodes their vectors."""
        parsing = self._parsing
        if nodes is not parsing.nodes:
            return self._model(nodes, **kwargs)
        if parsing.error is not None:
            error, parsing.error = parsing.error, None
            try:
                raise error
            finally:
                del error  # its traceback holds this frame, and the nodes
        for number, vector in parsing.left:
            nodes[number].embedding = vector
        rest, parsing.rest = parsing.rest, []
        give_vectors(nodes[parsing.given :], rest)
        return nodes


@contextmanager
def _threads(count: int, name: str) -> Iterator[_Submit]:
    """Threads that do things in the order given; left in the middle, they are through with what they have begun."""
    pool = ThreadPoolExecutor(count, thread_name_prefix=name)

    def submit(function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        with interrupts_put_off():
            return pool.submit(copy_context().run, function, *arguments)

    try:
        yield submit
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
