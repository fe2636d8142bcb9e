"""Replies of OpenAI's embeddings API: straight from the bytes to vectors, or through the client's own parsing."""

from __future__ import annotations

import json
from binascii import a2b_base64
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from aaflow_plugins.embedding import Vectors, vectors_from_rows

try:
    import orjson

    load_json: Callable[[bytes], Any] = orjson.loads
except ImportError:
    load_json = json.loads

try:
    import pybase64

    # What is not strictly base64 it decodes to other bytes than the standard library: that is refused, and left alone.
    decode_base64: Callable[[str], bytes] = partial(pybase64.b64decode, validate=True)
except ImportError:
    decode_base64 = a2b_base64


def decode(http: Any, format_chosen: bool) -> Vectors | None:
    """The vectors of a reply, in its order.

    Args:
        http: The response of the `openai` client's HTTP library, of status 200.
        format_chosen: True if the user asked for an encoding format; the client leaves base64 undecoded then.

    Returns:
        The vectors that the client's own parsing comes to; None for a reply that is not exactly of the expected
        form, which is left to that parsing.
    """
    if not http.headers.get("content-type", "").startswith("application/json"):
        return None
    try:
        rows = [item["embedding"] for item in load_json(http.content)["data"]]
        kinds = set(map(type, rows))
        if kinds == {str} and not format_chosen:
            return _from_base64([decode_base64(row) for row in rows])
        if kinds == {list} and all(set(map(type, row)) == {float} for row in rows):
            return vectors_from_rows(rows, "")
    except (ValueError, TypeError, KeyError):
        return None
    return None


def _from_base64(buffers: list[bytes]) -> Vectors | None:
    size = len(buffers[0])
    if size == 0 or size % 4 or any(len(buffer) != size for buffer in buffers):
        return None
    return Vectors(np.frombuffer(b"".join(buffers), dtype=np.float32).reshape(len(buffers), size // 4))


def native_rows(response: Any) -> list[Any]:
    """What the native call takes from a reply that the client has parsed."""
    if not isinstance(response, dict):
        response = response.model_dump()
    return [item["embedding"] for item in response["data"]]
