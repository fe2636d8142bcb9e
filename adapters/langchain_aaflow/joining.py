"""Concurrent single calls of LangChain objects, joined: queries embedded, and searched for, at the same time.

What is joined is decided by `aaflow_plugins.batching`; what a joint call is, here. Stores join their queries' embedding
and their searches, so retrievers need nothing of their own: each run has its callbacks as natively.
"""

from __future__ import annotations

import copy
import copyreg
import pickle
from collections.abc import Awaitable, Callable, Mapping
from functools import cache, partial
from inspect import signature
from typing import Any, ClassVar

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.language_models import BaseChatModel
from langchain_core.vectorstores import VectorStoreRetriever

from aaflow_plugins.batching import Key, active
from aaflow_plugins.joins import IN_BLOCKS, Joins
from langchain_aaflow.query_batching import aembed_together, embed_together, queries_batch_exactly

Vector = list[float]
Found = list[tuple[Document, float]]


def joins_of(store: Any) -> Joins:
    """What a store was told. The attribute is a slot: a view shares all others with the native store."""
    joins: Joins = getattr(store, "_aaflow_joins", IN_BLOCKS)
    return joins


def embed_query(embeddings: Embeddings, text: str, joins: Joins, one: Callable[[str], Vector]) -> Vector:
    """`one(text)`, joined with other threads' queries for the same embeddings.

    Args:
        embeddings: Names the callee, and answers many queries at once.
        text: The query.
        joins: What its owner was told.
        one: The native call. Identical concurrent calls are made once.
    """
    scope = joins.scope
    if scope is None or type(text) is not str:
        return one(text)
    many = partial(embed_together, embeddings) if _together(embeddings, joins) else None
    return copy.copy(scope.call(("embed_query", id(embeddings)), text, one, many, share=True))


async def aembed_query(
    embeddings: Embeddings, text: str, joins: Joins, one: Callable[[str], Awaitable[Vector]]
) -> Vector:
    """`embed_query` for tasks of an event loop."""
    scope = joins.scope
    if scope is None or type(text) is not str:
        return await one(text)
    many = partial(aembed_together, embeddings) if _together(embeddings, joins) else None
    return copy.copy(await scope.acall(("embed_query", id(embeddings)), text, one, many, share=True))


def _together(embeddings: Embeddings, joins: Joins) -> bool:
    return joins.batch_queries or queries_batch_exactly(embeddings)


def search(
    store: Any,
    vector: Vector,
    settings: Mapping[str, Any],
    one: Callable[..., Found],
    many: Callable[..., list[Found]] | None,
) -> Found:
    """`one(vector, **settings)`, joined with other threads' searches of the same store with the same settings.

    Args:
        store: An accelerated store.
        vector: The query's.
        settings: Keyword arguments of the search.
        one: The native search.
        many: The search for many vectors; None if what the store holds is to be searched query by query.
    """
    scope = joins_of(store).scope
    if scope is None or many is None or (key := _search_key(store, settings)) is None:
        return one(vector, **settings)
    return scope.call(key, vector, partial(one, **settings), partial(many, **settings))


async def asearch(
    store: Any,
    vector: Vector,
    settings: Mapping[str, Any],
    one: Callable[..., Awaitable[Found]],
    many: Callable[..., Awaitable[list[Found]]] | None,
) -> Found:
    """`search` for tasks of an event loop."""
    scope = joins_of(store).scope
    if scope is None or many is None or (key := _search_key(store, settings)) is None:
        return await one(vector, **settings)
    return await scope.acall(key, vector, partial(one, **settings), partial(many, **settings))


def _search_key(store: Any, settings: Mapping[str, Any]) -> Key | None:
    """What searches of a store have in common that may be made together; None if a search has to be made alone.

    A filter function may look at the context of its own call. Views of one store share its attributes.
    """
    parts: list[Any] = ["search", id(vars(store))]
    for name, value in sorted(settings.items()):
        if type(value) in (int, float, type(None)):
            parts.append((name, type(value), value))
        elif name == "filter" and type(value) is dict:
            parts.append((name, id(value)))
        else:
            return None
    return tuple(parts)


class JoinedQueries(Embeddings):
    """Mixed into an embeddings class: its concurrent queries are joined."""

    _aaflow_joins = IN_BLOCKS

    def embed_query(self, text: str, *args: Any, **kwargs: Any) -> Vector:
        """The native call, joined with concurrent ones."""
        native: Any = super()
        one: Callable[..., Vector] = native.embed_query
        if args or kwargs:
            return one(text, *args, **kwargs)
        return embed_query(self, text, self._aaflow_joins, one)

    async def aembed_query(self, text: str, *args: Any, **kwargs: Any) -> Vector:
        """The native call, joined with concurrent ones."""
        native: Any = super()
        one: Callable[..., Awaitable[Vector]] = native.aembed_query
        if args or kwargs:
            return await one(text, *args, **kwargs)
        return await aembed_query(self, text, self._aaflow_joins, one)


def joining_embeddings(embeddings: Embeddings, joins: Joins) -> Embeddings:
    """A copy of any embeddings, of the same native class, that joins its queries.

    Args:
        embeddings: It is not changed.
        joins: When, and whether different queries go into one call.

    Returns:
        The copy; `embeddings` itself if its class does not allow for one.
    """
    copied: Embeddings = _copied(embeddings, JoinedQueries, joins)
    return copied


class JoinedGenerations:
    """Mixed into a chat model's class: identical concurrent calls are made once, in blocks that ask for it.

    Each run has its callbacks, and a message of its own. Streams are native.
    """

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Any:
        one = _generation(super(), "_generate", messages, stop, run_manager, kwargs)
        scope = active()
        if scope is None or not scope.deduplicate or (asked := _asked(messages, stop, kwargs)) is None:
            return one(None)
        return copy.deepcopy(scope.call(("generate", id(self)), asked, one, share=True))

    async def _agenerate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Any:
        one = _generation(super(), "_agenerate", messages, stop, run_manager, kwargs)
        scope = active()
        if scope is None or not scope.deduplicate or (asked := _asked(messages, stop, kwargs)) is None:
            return await one(None)
        return copy.deepcopy(await scope.acall(("generate", id(self)), asked, one, share=True))


def joining_model(model: BaseChatModel) -> BaseChatModel:
    """A copy of a chat model, of the same native class, for `batching(deduplicate=True)` blocks.

    Args:
        model: It is not changed.

    Returns:
        The copy; `model` itself if its class does not allow for one.
    """
    copied: BaseChatModel = _copied(model, JoinedGenerations, IN_BLOCKS)
    return copied


def _generation(native: Any, name: str, messages: Any, stop: Any, run_manager: Any, kwargs: Any) -> Callable[..., Any]:
    """The native call, which takes a run manager or does not."""
    method = getattr(native, name)
    if "run_manager" in signature(method).parameters:
        kwargs = {**kwargs, "run_manager": run_manager}
    return lambda _: method(messages, stop=stop, **kwargs)


def _asked(messages: Any, stop: Any, kwargs: Any) -> bytes | None:
    """What a model is asked, to be compared; None if that can't be told."""
    try:
        return pickle.dumps((messages, stop, kwargs))
    except Exception:
        return None


def _copied(obj: Any, mixin: type, joins: Joins) -> Any:
    owner: Any = getattr(type(obj), "aaflow_native_class", type(obj))
    try:
        copied = copy.copy(obj)
        object.__setattr__(copied, "__class__", _joining_class(owner, mixin, joins))
    except TypeError:
        return obj
    return copied


class _Made:
    """A base of classes made at run time, which pickle would not find."""

    __slots__ = ()

    aaflow_native_class: ClassVar[type]
    aaflow_mixin: ClassVar[type]
    _aaflow_joins: ClassVar[Joins]

    def __reduce_ex__(self, protocol: Any) -> Any:
        reduced: Any = super().__reduce_ex__(protocol)
        made, arguments, *state = reduced
        if made is copyreg.__newobj__:  # type: ignore[attr-defined]
            how = (self.aaflow_native_class, self.aaflow_mixin, self._aaflow_joins)
            made, arguments = _new, (*how, *arguments[1:])
        return (made, arguments, *state)


@cache
def _joining_class(owner: type, mixin: type, joins: Joins) -> type:
    # Settings in a class of its own: a model would take them for a field's.
    told = {"aaflow_native_class": owner, "aaflow_mixin": mixin, "_aaflow_joins": joins}
    names = {"__module__": owner.__module__, "__qualname__": owner.__qualname__, "__doc__": owner.__doc__}
    made: type = type(owner)(owner.__name__, (type("Joining", (mixin, _Made), told), owner), names)
    return made


def _new(owner: type, mixin: type, joins: Joins, *arguments: Any) -> Any:
    made = _joining_class(owner, mixin, joins)
    return made.__new__(made, *arguments)


def joining_retriever(retriever: VectorStoreRetriever, joins: Joins) -> VectorStoreRetriever:
    """A copy of a retriever, of the same class, whose store is accelerated and joins its searches.

    Args:
        retriever: It is not changed.
        joins: When, and whether different queries are embedded in one call.

    Returns:
        The copy; `retriever` itself if its store stays native.
    """
    from langchain_aaflow.vectorstores import accelerate_store

    store = accelerate_store(retriever.vectorstore, joins)
    if store is retriever.vectorstore:
        return retriever
    return retriever.model_copy(update={"vectorstore": store})
