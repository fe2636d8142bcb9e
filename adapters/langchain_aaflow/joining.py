"""Concurrent single calls of LangChain objects, joined: queries embedded, and searched for, at the same time.

What is joined is decided by `aaflow_plugins.batching`; what a joint call is, here. Stores join their queries' embedding
and their searches, so retrievers need nothing of their own: each run has its callbacks as natively.
"""

from __future__ import annotations

import copy
import copyreg
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, ClassVar

from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStoreRetriever

from aaflow_plugins.batching import Batching, Key, active
from langchain_aaflow.query_batching import aembed_together, embed_together, queries_batch_exactly

Vector = list[float]

#: Joins the calls of objects that join outside of all `batching()` blocks too.
_everywhere = Batching()


@dataclass(frozen=True)
class Joins:
    """What an accelerated object was told about joining.

    Attributes:
        always: Whether it joins outside of `batching()` blocks too.
        batch_queries: Whether its queries may be embedded in one call, whatever the embeddings.
    """

    always: bool = False
    batch_queries: bool = False

    @property
    def scope(self) -> Batching | None:
        """What joins now, if anything does."""
        return active() or (_everywhere if self.always else None)


#: What objects do that were told nothing.
IN_BLOCKS = Joins()


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


def search_key(store: Any, settings: Mapping[str, Any]) -> Key | None:
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
        if args or kwargs:
            return native.embed_query(text, *args, **kwargs)
        return embed_query(self, text, self._aaflow_joins, native.embed_query)

    async def aembed_query(self, text: str, *args: Any, **kwargs: Any) -> Vector:
        """The native call, joined with concurrent ones."""
        native: Any = super()
        if args or kwargs:
            return await native.aembed_query(text, *args, **kwargs)
        return await aembed_query(self, text, self._aaflow_joins, native.aembed_query)


def joining_embeddings(embeddings: Embeddings, joins: Joins) -> Embeddings:
    """A copy of any embeddings, of the same native class, that joins its queries.

    Args:
        embeddings: It is not changed.
        joins: When, and whether different queries go into one call.

    Returns:
        The copy; `embeddings` itself if its class does not allow for one.
    """
    owner = getattr(type(embeddings), "aaflow_native_class", type(embeddings))
    try:
        joined = copy.copy(embeddings)
        object.__setattr__(joined, "__class__", _joining_class(owner, joins))
    except TypeError:
        return embeddings
    return joined


class _Made(JoinedQueries):
    """A base of classes made at run time, which pickle would not find."""

    aaflow_native_class: ClassVar[type]

    def __reduce_ex__(self, protocol: Any) -> Any:
        made, arguments, *state = super().__reduce_ex__(protocol)
        if made is copyreg.__newobj__:  # type: ignore[attr-defined]
            made, arguments = _new, (self.aaflow_native_class, self._aaflow_joins, *arguments[1:])
        return (made, arguments, *state)


@cache
def _joining_class(owner: type, joins: Joins) -> type:
    # Settings in a class of its own: a model would take them for a field's.
    told = type("Joining", (_Made,), {"_aaflow_joins": joins, "aaflow_native_class": owner})
    names = {"__module__": owner.__module__, "__qualname__": owner.__qualname__, "__doc__": owner.__doc__}
    made: type = type(owner)(owner.__name__, (told, owner), names)
    return made


def _new(owner: type, joins: Joins, *arguments: Any) -> Any:
    made = _joining_class(owner, joins)
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
