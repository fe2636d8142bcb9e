"""An index natively and accelerated side by side: what every call gives, and everything that is kept."""

from __future__ import annotations

import asyncio
import io
import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from hashlib import sha256
from pathlib import Path
from typing import Any

from llama_index.core import StorageContext, VectorStoreIndex, load_index_from_storage
from llama_index.core.callbacks import CallbackManager
from llama_index.core.embeddings import BaseEmbedding
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import Document, ImageNode, IndexNode, MediaResource, Node, NodeRelationship, TextNode
from llama_index.core.vector_stores import SimpleVectorStore
from pydantic import PrivateAttr

from llama_index_aaflow import accelerate
from tests.llama_index.parsing_outcomes import numbered
from tests.llama_index.tracing import Callbacks

#: More nodes than one.
TEXT = "One sentence of seven words is here. " * 9


class DigestEmbedding(BaseEmbedding):
    """A vector that depends on the text alone; texts with "boom" fail."""

    _dimensions: int = PrivateAttr(default=4)

    def _get_text_embedding(self, text: str) -> list[float]:
        if "boom" in text:
            raise RuntimeError("no vector for this text")
        digest = sha256(text.encode("utf-8", "surrogatepass")).digest()
        return [byte / 7 for byte in digest[: self._dimensions]]

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


class TextStore(SimpleVectorStore):
    """A vector store that says it keeps texts: an unknown subclass, so that nothing of it is reproduced."""

    stores_text: bool = True


class NumberedStore(SimpleVectorStore):
    """A vector store that gives ids of its own."""

    def add(self, nodes: Sequence[Any], **add_kwargs: Any) -> list[str]:
        start = len(self.data.embedding_dict)
        super().add(nodes, **add_kwargs)
        return [str(start + number) for number, _ in enumerate(nodes)]


STORES: dict[str, Callable[[], Any]] = {
    "simple": SimpleVectorStore,
    "accelerated": lambda: accelerate(SimpleVectorStore()),
    "text": TextStore,
    "numbered": NumberedStore,
}


class Side:
    """One of the two indexes."""

    def __init__(self, wrap: Callable[[Any], Any], directory: Path, store: str = "simple", **settings: Any) -> None:
        self.wrap, self.directory = wrap, directory
        self.callbacks = Callbacks()
        manager = CallbackManager([self.callbacks])
        # Rough tokens, so that documents of a few words have several nodes.
        parser = SentenceSplitter(
            chunk_size=12, chunk_overlap=0, tokenizer=str.split, id_func=numbered, callback_manager=manager
        )
        self.settings = {
            "embed_model": DigestEmbedding(embed_batch_size=3),
            "transformations": [parser],
            "callback_manager": manager,
            "insert_batch_size": 5,
            **settings,
        }
        self.context = StorageContext.from_defaults(vector_store=STORES[store]())
        self.held: list[Any] = []
        self.index: Any = None

    def build(self, documents: Sequence[Document]) -> None:
        """`from_documents`, with an id that is the same each time."""
        cls = self.wrap(VectorStoreIndex)
        self.index = cls.from_documents(list(documents), storage_context=self.context, **self.settings)
        self.index.set_index_id("index")

    def run(self, act: Callable[[Any], Any]) -> Any:
        """What an action on this side gives, raises, prints, and tells the callbacks."""
        printed = io.StringIO()
        self.callbacks.seen.clear()
        with redirect_stdout(printed):
            try:
                result = act(self)
                if asyncio.iscoroutine(result):
                    result = asyncio.run(result)
                given = ("returned", result)
            except Exception as error:
                given = ("raised", type(error), str(error))
        # The oldest versions print where they load from.
        return *given, printed.getvalue().replace(str(self.directory), ""), _compared(self.callbacks.seen)

    def reload(self) -> None:
        """The index as another process would find it; vector stores of tests come back as simple ones."""
        self.context.persist(self.directory)
        self.context = StorageContext.from_defaults(persist_dir=str(self.directory))
        loaded = load_index_from_storage(self.context, **self.settings)
        self.index = self.wrap(loaded)

    def files(self) -> dict[str, bytes]:
        """Every file that the index persists to."""
        self.context.persist(self.directory)
        return {path.name: path.read_bytes() for path in sorted(self.directory.iterdir())}

    def seen(self) -> str:
        """What earlier looks were given, as it is now, the struct, and what else is in memory but the index store."""
        kept = [self.index.docstore.to_dict(), self.index.vector_store.to_dict()]
        return json.dumps([self.held, vars(self.index.index_struct)], default=vars) + repr(kept)


def _compared(value: Any) -> Any:
    """What was told, errors by type and message."""
    if isinstance(value, Exception):
        return type(value), str(value)
    return type(value)(map(_compared, value)) if isinstance(value, list | tuple) else value


def pair(directory: Path, store: str = "simple", **settings: Any) -> tuple[Side, Side]:
    """The native and the accelerated side."""
    for name in ("native", "accelerated"):
        (directory / name).mkdir()
    return (
        Side(lambda native: native, directory / "native", store, **settings),
        Side(accelerate, directory / "accelerated", store, **settings),
    )


def assert_same(sides: tuple[Side, Side], *acts: Callable[[Side], Any], files: bool = True) -> list[Any]:
    """Run actions on both sides, and give what they gave natively."""
    outcomes = []
    for act in acts:
        native, accelerated = (side.run(act) for side in sides)
        # One at a time: a difference is read in the shortest of them.
        for ours, natives in zip(accelerated, native, strict=True):
            assert ours == natives
        outcomes.append(native)
    if files:
        native, accelerated = (side.files() for side in sides)
        assert accelerated == native
    assert sides[1].seen() == sides[0].seen()
    return outcomes


def document(name: str, text: str, metadata: dict[str, Any] | None = None) -> Document:
    """A document; the same arguments give an equal one."""
    return Document(id_=name, text=text, metadata=dict(metadata or {}))


def built(*names: str, **fields: Any) -> Callable[[Side], Any]:
    """The action of building an index of documents of these names."""
    return lambda side: side.build([document(name, f"{name}: {TEXT}", **fields) for name in names])


def node(name: str, text: str, source: str | None = None, **fields: Any) -> TextNode:
    """A node of a document that nobody splits."""
    relationships = {}
    if source is not None:
        relationships[NodeRelationship.SOURCE] = Document(id_=source, text="whole").as_related_node_info()
    return TextNode(id_=name, text=text, relationships=relationships, **fields)


class Custom(TextNode):
    """Somebody's own kind of node."""


def odd_nodes() -> list[Any]:
    """Nodes of every kind, and texts, ids and metadata that are seldom met."""
    return [
        ImageNode(id_="image", text="a picture", image="aGVsbG8=", metadata={"a": 1}),
        IndexNode(id_="index", text="an index", index_id="i", obj=node("inner", "inner")),
        Node(id_="media", text_resource=MediaResource(text="media"), metadata={"b": (1, 2)}),
        document("whole", "a document among nodes"),
        node("blank", "  "),
        node("empty", "", metadata={"a": "only metadata"}),
        node("nothing", ""),
        node("embedded", "has one", "a", embedding=[1, 2.5, 3, 4]),
        node("surrogate", "text", "a", metadata={"a": "\u00e9\U0001f600"}),
        node("big", "text", "b", metadata={"n": 2**70}),
        node("template", "text", "b", metadata={"n": 1}, text_template="{metadata_str}", metadata_template="{value}"),
        node("template", "same id", "b"),
        Custom(**node("custom", "text", "a").to_dict()),
        node("ordered", "text", "a", metadata={"ordered": OrderedDict(a=1)}),
        node("later", "text", "a"),
        node("excluded", "text", "b", metadata={"n": 1}, excluded_embed_metadata_keys=["n"]),
    ]
