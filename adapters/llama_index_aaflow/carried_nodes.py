"""Nodes as JSON that comes back the same: what one rank has found or made, another one gets without pickle."""

from __future__ import annotations

import json
from typing import Any

from llama_index.core.schema import BaseNode
from llama_index.core.storage.docstore.utils import doc_to_json, json_to_doc


def node_to_json(node: BaseNode) -> str:
    """A node as JSON.

    Raises:
        TypeError: If JSON doesn't carry it as it is.
    """
    held = doc_to_json(node)
    if not is_carried(held):
        raise TypeError(f"node {node.node_id}: its fields hold something that JSON has no form for")
    return json.dumps(held)


def node_from_json(text: str) -> BaseNode:
    """The node that `node_to_json` was given."""
    return json_to_doc(json.loads(text))


def is_carried(value: Any) -> bool:
    """Whether JSON gives a value back as it is; a string that is an enumeration's is told from others by its field."""
    if type(value) is dict:
        return all(isinstance(key, str) for key in value) and all(map(is_carried, value.values()))
    if type(value) is list:
        return all(map(is_carried, value))
    return value is None or isinstance(value, str) or type(value) in (int, float, bool)
