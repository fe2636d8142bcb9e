"""Index structs that are written into an index store when somebody looks, and not at each insert.

`KVIndexStore.add_index_struct` writes the whole struct as JSON each time: the time of one insert grows with the index.
`keep` notes what was changed since the last time. Any way to see what a store holds leads through the mapping of its
collections, and that one writes first. As long as an index alone has a struct, the struct's nodes note their changes
themselves; `show` makes them the plain dict that they are natively, for whoever asks for the struct.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from copy import copy
from dataclasses import fields
from functools import lru_cache
from sys import getrefcount
from typing import Any, Final

from dataclasses_json import cfg
from llama_index.core.constants import DATA_KEY, TYPE_KEY
from llama_index.core.data_structs.data_structs import IndexDict
from llama_index.core.storage.index_store import SimpleIndexStore, keyval_index_store
from llama_index.core.storage.index_store.keyval_index_store import KVIndexStore
from llama_index.core.storage.index_store.utils import index_struct_to_json
from llama_index.core.storage.kvstore import SimpleKVStore
from llama_index.core.storage.kvstore.types import MutableMappingKVStore

from llama_index_aaflow.known_code import is_known, is_native

_FIELDS: Final = tuple(field.name for field in fields(IndexDict))
_KEPT_ATTRIBUTES: Final = frozenset({"_kvstore", "_namespace", "_collection_suffix", "_collection"})
_KV_ATTRIBUTES: Final = frozenset({"_collections_mappings", "_mapping_factory"})
_NATIVE: Final = (
    (SimpleIndexStore, ("add_index_struct",)),
    (KVIndexStore, ("add_index_struct",)),
    (SimpleKVStore, ("put", "_get_collection_mapping")),
    (MutableMappingKVStore, ("put", "_get_collection_mapping")),
    (IndexDict, ("get_type",)),
)
_GONE: Final = object()
#: Threads may change an index and look at it at the same time.
_changing: Final = threading.RLock()


def keep(index_store: Any, index: Any) -> None:
    """Do what `index_store.add_index_struct` does for an index's struct; the writing may wait until somebody looks."""
    alone = _has_alone(index)  # counts who holds the struct: before there is one more
    struct = index._index_struct
    if not _can_wait(index_store, struct) or not _put_later(index_store, struct, alone):
        index_store.add_index_struct(struct)


def write_soon(index_store: Any, struct: Any) -> None:
    """Make a struct that nobody has yet, and that `index_store.add_index_struct` is given next, quick to write."""
    if _can_wait(index_store, struct) and type(struct.nodes_dict) is dict and _copied(struct) is not None:
        struct.__class__ = _Unwritten


class _Unwritten(IndexDict):
    """An `IndexDict` of plain values, until it is written for the first time."""

    def to_json(self, **_: Any) -> str:
        """As of an `IndexDict`, which it is from now on."""
        self.__class__ = IndexDict  # type: ignore[assignment]
        return json.dumps(_shallow(self, self.nodes_dict))


def show(struct: Any) -> None:
    """Make a struct's nodes a plain dict, unless somebody holds them as they are."""
    if type(getattr(struct, "nodes_dict", None)) is Nodes and _holders(vars(struct), "nodes_dict") == _ONE:
        struct.nodes_dict = struct.nodes_dict.succeeded()


def _can_wait(index_store: Any, struct: Any) -> bool:
    """Whether all that takes part is known."""
    return (
        type(index_store) is SimpleIndexStore
        and type(index_store._kvstore) is SimpleKVStore
        and vars(index_store).keys() <= _KEPT_ATTRIBUTES
        and vars(index_store._kvstore).keys() <= _KV_ATTRIBUTES
        and type(struct) is IndexDict
        and tuple(vars(struct)) == _FIELDS
        and type(struct.index_id) is str
        and (struct.summary is None or type(struct.summary) is str)
        and struct.doc_id_dict == {}
        and struct.embeddings_dict == {}
        and not cfg.global_config.encoders
        and is_native(_NATIVE)
        and is_known(index_struct_to_json)
        and vars(keyval_index_store)["index_struct_to_json"] is index_struct_to_json
        and _form_is_known()
    )


def _put_later(index_store: Any, struct: Any, alone: bool) -> bool:
    key_values, name = index_store._kvstore, index_store._collection
    collections = key_values._collections_mappings
    # Nobody may hold what would have to change under their eyes.
    if type(collections) not in (dict, Collections) or _holders(collections, name) > _ONE:
        return False
    collection = dict.get(collections, name)
    # What is put for the first time goes to the end: where that is, is known now only.
    if type(collection) is not dict or struct.index_id not in collection:
        return False
    if type(collections) is dict:
        collections = key_values._collections_mappings = Collections(collections)
    place = (name, struct.index_id)
    if not alone:
        show(struct)
    nodes = _settled(struct, collections, place) if alone or type(struct.nodes_dict) is Nodes else _copied(struct)
    if nodes is None:
        return False
    collections.waiting[place] = (struct.get_type(), _shallow(struct, nodes))
    return True


def _settled(struct: Any, collections: Collections, place: tuple[str, str]) -> dict[str, str] | None:
    """The nodes of a struct, which note their changes from now on; None if they are not all ids by ids."""
    nodes = struct.nodes_dict
    if type(nodes) is not Nodes:
        if type(nodes) is not dict:
            return None
        struct.nodes_dict = Nodes(nodes)
        nodes = struct.nodes_dict
    if nodes.keeper is not None and (nodes.keeper is not collections or nodes.place != place):
        # Kept elsewhere, or by another name, until now.
        nodes.keeper.write()
    nodes.keeper, nodes.place = collections, place
    return nodes.settled if nodes.settle() else None


def _copied(struct: Any) -> dict[str, str] | None:
    """The nodes of a struct that others have, too, as they are now; None if they are not all ids by ids."""
    nodes = struct.nodes_dict
    return dict(nodes) if type(nodes) is dict and _are_texts(nodes) and _are_texts(nodes.values()) else None


def _has_alone(index: Any) -> bool:
    """Whether nobody but an index holds its struct, nor the dicts on the way to the struct's nodes and these."""
    if getrefcount(vars(index)) > _ONE_OWNER or _holders(vars(index), "_index_struct") > _ONE:
        return False
    attributes = vars(index._index_struct)
    return type(attributes.get("nodes_dict")) is Nodes or _holders(attributes, "nodes_dict") == _ONE


def _holders(owner: dict[str, Any], name: str) -> int:
    """How many hold the value of this name in `owner`, in the interpreter's own counting."""
    value = dict.get(owner, name)
    return getrefcount(value)


class _Owner:
    """An object that alone holds its attributes."""


#: What is counted for a value that its owner alone holds, and for such an owner's attributes.
_ONE: Final = _holders({"a": {}}, "a")
_owner: Final = _Owner()
_ONE_OWNER: Final = getrefcount(vars(_owner))


def _shallow(struct: IndexDict, nodes: dict[str, str]) -> dict[str, Any]:
    return {name: nodes if name == "nodes_dict" else copy(getattr(struct, name)) for name in _FIELDS}


class Nodes(dict[str, str]):
    """The `nodes_dict` of a struct, which knows what was changed since it was last kept.

    Attributes:
        settled: The nodes when the struct was last kept.
        keeper: The collections that they were last kept in; None before.
        place: The collection and the key there.
    """

    __slots__ = ("_changes", "_successor", "keeper", "place", "settled")

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.settled: dict[str, str] = {}
        self.keeper: Collections | None = None
        self.place = ("", "")
        self._changes: list[tuple[Any, Any]] | None = None  # None: too many to be told apart.
        self._successor: dict[str, str] | None = None

    def settle(self) -> bool:
        """Take the nodes as they are now for kept; False, and no change, if they are not all ids by ids."""
        with _changing:
            changes = self._changes
            if changes is None:
                if not _are_texts(self) or not _are_texts(self.values()):
                    return False
                self.settled = dict(self)
            else:
                if not all(type(key) is str and (type(value) is str or value is _GONE) for key, value in changes):
                    return False
                for key, value in changes:
                    _change(self.settled, key, value)
            self._changes = []
            return True

    def succeeded(self) -> dict[str, str]:
        """A plain dict of the nodes, in which changes that are under way here are made, too."""
        with _changing:
            self._successor = dict(self)
            return self._successor

    def _note(self, key: Any, value: Any) -> None:
        if self._successor is not None:
            _change(self._successor, key, value)
        if self._changes is not None:
            self._changes.append((key, value))
            if len(self._changes) > len(self) + 1000:
                self._changes = None

    def __setitem__(self, key: Any, value: Any) -> None:
        with _changing:
            super().__setitem__(key, value)
            self._note(key, value)

    def __delitem__(self, key: Any) -> None:
        with _changing:
            super().__delitem__(key)
            self._note(key, _GONE)

    def pop(self, key: Any, *default: Any) -> Any:
        """As of a dict."""
        with _changing:
            value = super().pop(key, *default)
            self._note(key, _GONE)
            return value

    def popitem(self) -> tuple[str, str]:
        """As of a dict."""
        with _changing:
            item = super().popitem()
            self._note(item[0], _GONE)
            return item

    def clear(self) -> None:
        """As of a dict."""
        with _changing:
            super().clear()
            self._changes = None

    def setdefault(self, key: Any, default: Any = None) -> Any:
        """As of a dict."""
        with _changing:
            if key not in self:
                self[key] = default
            return self[key]

    def update(self, *given: Any, **named: Any) -> None:
        """As of a dict."""
        with _changing:
            self._changes = None
            super().update(*given, **named)

    def __ior__(self, other: Any) -> Any:  # type: ignore[misc]
        with _changing:
            self._changes = None
            return super().__ior__(other)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return dict, (dict(self),)


def _change(nodes: dict[str, str], key: Any, value: Any) -> None:
    if value is _GONE:
        nodes.pop(key, None)
    else:
        nodes[key] = value


def _are_texts(values: Iterable[Any]) -> bool:
    return {str}.issuperset(map(type, values))


class Collections(dict[str, Any]):
    """The collections of a key-value store, whoever looks at them having what waits written first.

    Attributes:
        waiting: By collection and key, the type and the fields of structs that are not written yet.
    """

    __slots__ = ("waiting",)

    def __init__(self, collections: dict[str, Any]) -> None:
        super().__init__(collections)
        self.waiting: dict[tuple[str, str], tuple[Any, dict[str, Any]]] = {}

    def write(self) -> None:
        """Write what waits, as `SimpleIndexStore.add_index_struct` would have when it was kept."""
        for place in tuple(self.waiting):
            name, key = place
            type_, struct = self.waiting[place]
            dict.__getitem__(self, name)[key] = {TYPE_KEY: type_, DATA_KEY: json.dumps(struct)}
            del self.waiting[place]

    def __reduce_ex__(self, protocol: Any) -> Any:
        return dict, (dict(self),)


def _looking(name: str) -> Any:
    native = getattr(dict, name)

    def look(self: Collections, *given: Any) -> Any:
        if self.waiting:
            self.write()
        return native(self, *given)

    look.__name__ = name
    return look


# `dict(collections)` and `{**collections}` go by `keys` and items only where iteration is not a dict's own.
for _name in (
    "__getitem__", "__iter__", "__eq__", "__ne__", "__repr__", "__or__", "__ror__",
    "copy", "get", "items", "pop", "popitem", "setdefault", "values",
):  # fmt: skip
    setattr(Collections, _name, _looking(_name))


@lru_cache(maxsize=1)
def _form_is_known() -> bool:
    """Whether the installed versions write a struct as here."""
    struct = IndexDict(index_id="i", summary='"\u00e9', nodes_dict={"a": "b", "c": "\ud800"})
    return json.dumps(_shallow(struct, struct.nodes_dict)) == struct.to_json()
