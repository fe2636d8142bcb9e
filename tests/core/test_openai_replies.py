"""Replies decoded straight from their bytes: equal to what the client's own parsing comes to, or left to it."""

from __future__ import annotations

import base64
import inspect
import json
from typing import Any

import numpy as np
import openai
import openai._base_client as base_client
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aaflow_plugins.embedding import Vectors
from openai_aaflow import requests as openai_requests
from openai_aaflow.replies import decode, decode_base64, native_rows
from tests.observed import outcome

# The HTTP library that the installed openai release is built on.
httpx: Any = getattr(base_client, "httpx2", None) or base_client.httpx

floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
vectors = st.lists(floats, min_size=3, max_size=3)
as_base64 = st.lists(floats, max_size=3).map(lambda row: base64.b64encode(np.array(row, "<f4").tobytes()).decode())
odd = st.one_of(
    st.text(st.sampled_from("Aa0+/=\n é"), max_size=12),
    st.lists(st.one_of(floats, st.integers(), st.none(), st.just(float("nan"))), max_size=3),
    st.none(),
    st.integers(),
)


class Replying:
    """A real client whose transport gives one reply."""

    def __init__(self) -> None:
        transport = httpx.MockTransport(lambda _: httpx.Response(200, content=self.body, headers=self.headers))
        client = openai.OpenAI(api_key="none", base_url="http://none", http_client=httpx.Client(transport=transport))
        self.resource = client.embeddings

    def compare(self, body: bytes, content_type: str = "application/json", **chosen: Any) -> Vectors | None:
        """Our vectors, after checking them against the client's."""
        self.body, self.headers = body, {"content-type": content_type}
        reply = openai_requests.post(self.resource, ["a"], {"model": "m", **chosen})
        ours = decode(reply.http, bool(chosen))
        expected = outcome(lambda: native_rows(self.resource.create(input=["a"], model="m", **chosen)))
        assert outcome(lambda: native_rows(reply.parse())) == expected
        if ours is not None:
            assert repr(ours.tolist()) == expected
        return ours


client = Replying()


def reply(*embeddings: Any) -> bytes:
    data = [{"object": "embedding", "index": at, "embedding": value} for at, value in enumerate(embeddings)]
    usage = {"prompt_tokens": 1, "total_tokens": 1}
    return json.dumps({"object": "list", "data": data, "model": "m", "usage": usage}).encode()


@given(st.lists(vectors, min_size=1, max_size=4))
def test_vectors_are_decoded(rows: list[list[float]]) -> None:
    """Base64 becomes a float32 matrix and nothing else; floats keep all their digits."""
    encoded = [base64.b64encode(np.array(row, "<f4").tobytes()).decode() for row in rows]
    ours = client.compare(reply(*encoded))
    assert ours is not None
    assert not ours.exact
    assert ours.matrix.tolist() == rows
    tenths = [[value / 10 for value in row] for row in rows]
    for chosen in ({}, {"encoding_format": "float"}):
        ours = client.compare(reply(*tenths), **chosen)
        assert ours is not None
        assert ours.tolist() == tenths


@given(st.lists(st.one_of(as_base64, vectors, odd), max_size=4))
@example(["AAAA", "AA=="])
@example(["AAAAAAAA", "AAAAAA=="])
@example(["AA\nAAAA=", "AAAAAAA="])
@example([[1, 2.5], [0.5, 1]])
@example([[1.0], [2.0, 3.0]])
@example([[]])
@example([""])
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
def test_odd_replies_are_equal_or_left_alone(embeddings: list[Any]) -> None:
    """Mixed kinds, broken base64, ints, NaN, nothing at all: never another result than the client's."""
    client.compare(reply(*embeddings))
    client.compare(reply(*embeddings), encoding_format="base64")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"data": null}',
        b'{"data": [null]}',
        b'{"data": [{"index": 0}]}',
        b'{"data": [{"embedding": [1.0]}], "data": [{"embedding": [2.0]}]}',
        b'{"data": [{"embedding": [1e400]}]}',
        b'{"data": [{"embedding": [Infinity, -Infinity]}]}',
        b'\xef\xbb\xbf{"data": [{"embedding": [1.5]}]}',
        '{"data": [{"embedding": [1.5]}]}'.encode("utf-16"),
    ],
)
@pytest.mark.parametrize("content_type", ["application/json", "application/json; charset=utf-8", "text/plain"])
def test_other_bodies_are_equal_or_left_alone(body: bytes, content_type: str) -> None:
    """Duplicate keys, numbers beyond a double, other encodings, no JSON."""
    client.compare(body, content_type)


@given(
    st.one_of(
        st.text(st.sampled_from("AQgw09+/=-_ \n\x00é"), max_size=20),
        st.binary().map(base64.b64encode).map(bytes.decode),
    )
)
def test_a_faster_base64_decodes_as_the_standard_library(text: str) -> None:
    """Whatever decoder is installed: the same bytes, or a ValueError, which leaves the reply to the client."""
    try:
        decoded = decode_base64(text)
    except ValueError:
        return
    assert decoded == base64.b64decode(text)


def test_ids_are_written_as_the_client_writes_them() -> None:
    """With the releases that take a finished body, it is used; the bytes, address and headers are the client's."""
    if openai_requests.orjson is None or "content" not in inspect.signature(openai.OpenAI.post).parameters:
        pytest.skip("this openai release writes its bodies itself")
    seen: list[Any] = []

    def answer(request: Any) -> Any:
        seen.append((request.method, str(request.url), request.headers.multi_items(), request.read()))
        return httpx.Response(200, content=reply([1.0]), headers={"content-type": "application/json"})

    transport = httpx.MockTransport(answer)
    resource = openai.OpenAI(
        api_key="none", base_url="http://none", http_client=httpx.Client(transport=transport)
    ).embeddings
    parameters: dict[str, Any] = {
        "model": 'é"\\\n\x7f\u2028',
        "dimensions": 8,
        "user": "us",
        "extra_headers": {"X-One": "1"},
        "extra_query": {"a": "b"},
    }
    ids = [np.array([1, 2, 100255], dtype=np.uint32), [3], np.arange(9, dtype=np.uint32)[3:5]]
    assert openai_requests._writable(resource, ids, parameters)
    openai_requests.post(resource, ids, parameters)
    resource.create(input=openai_requests.native_input(ids), **parameters)
    assert seen[0] == seen[1]
    assert b'"input":[[1,2,100255],[3],[3,4]]' in seen[0][3]
    # What would be merged into the body is the client's to merge.
    assert not openai_requests._writable(resource, ids, {**parameters, "extra_body": {"more": 1}})
