"""The loopback server: what benchmarks and embedder tests take for granted about it."""

from __future__ import annotations

import asyncio
import base64
import json
import math
import time
import urllib.request
from typing import Any

import numpy as np
import openai
import pytest

from benchmarks.openai_server import Connection, Fault


def post(server: Connection, body: Any, path: str = "/v1/embeddings") -> Any:
    request = urllib.request.Request(f"{server.url}{path}", data=json.dumps(body).encode())
    with urllib.request.urlopen(request) as reply:
        return json.load(reply)


def vectors(reply: Any) -> np.ndarray:
    return np.array(
        [
            np.frombuffer(base64.b64decode(item["embedding"]), np.float32)
            if isinstance(item["embedding"], str)
            else np.array(item["embedding"], np.float32)
            for item in reply["data"]
        ]
    )


@pytest.fixture
def client(openai_server: Connection) -> openai.OpenAI:
    return openai.OpenAI(base_url=openai_server.base_url, api_key="none", max_retries=0)


def test_the_same_content_gives_the_same_unit_vector_in_any_request(openai_server: Connection) -> None:
    """Spacing of the JSON, the other items of the request and the encoding make no difference."""
    ids = [[1, 2, 3], [4], [5, 6]]
    spaced = vectors(post(openai_server, {"input": ids, "model": "m", "encoding_format": "base64"}))
    assert np.allclose(np.linalg.norm(spaced.astype(np.float64), axis=1), 1, atol=1e-6)
    assert len(np.unique(spaced, axis=0)) == 3
    alone = vectors(post(openai_server, {"input": ids[1], "model": "m", "encoding_format": "float"}))
    assert np.array_equal(alone[0], spaced[1])
    compact = urllib.request.Request(
        f"{openai_server.url}/v1/embeddings",
        data=b'{"input":[[5,6],[1,2,3]],"model":"m","encoding_format":"base64"}',
    )
    with urllib.request.urlopen(compact) as reply:
        assert np.array_equal(vectors(json.load(reply)), spaced[[2, 0]])


def test_all_forms_of_input_and_dimensions(client: openai.OpenAI) -> None:
    """A string, strings, ids and arrays of ids are taken; `dimensions` is obeyed."""
    forms: list[Any] = ["text", ["a", "b"], [1, 2, 3], [[1], [2, 3]]]
    for given, count in zip(forms, [1, 2, 1, 2], strict=True):
        reply = client.embeddings.create(input=given, model="m", dimensions=8)
        assert [len(item.embedding) for item in reply.data] == [8] * count
    texts = client.embeddings.create(input=["a", "b"], model="m", encoding_format="float").data
    assert (
        texts[0].embedding == client.embeddings.create(input="a", model="m", encoding_format="float").data[0].embedding
    )
    assert client.embeddings.create(input=[[1], [2, 3]], model="m").usage.prompt_tokens == 3


def test_distinct_contents_give_distinct_vectors(openai_server: Connection) -> None:
    """Thousands of contents, no two alike: a test of order can't be fooled by equal vectors."""
    ids = [[number, number + 1] for number in range(5000)]
    found = vectors(post(openai_server, {"input": ids, "model": "m", "encoding_format": "base64"}))
    assert len(np.unique(found, axis=0)) == 5000


def test_latency_and_cap(openai_server: Connection) -> None:
    """Requests wait side by side, each its stated latency; with a cap, in turns."""
    aio = openai.AsyncOpenAI(base_url=openai_server.base_url, api_key="none")

    async def four() -> float:
        start = time.monotonic()
        await asyncio.gather(*(aio.embeddings.create(input=["a", "b"], model="m") for _ in range(4)))
        return time.monotonic() - start

    async def both() -> tuple[float, dict[str, Any], float]:
        openai_server.configure(base_ms=100, item_ms=50)
        together = await four()
        stats = openai_server.stats()
        openai_server.configure(base_ms=100, item_ms=50, max_concurrency=1)
        return together, stats, await four()

    together, stats, in_turns = asyncio.run(both())
    assert together >= 0.2
    assert in_turns >= 0.8
    assert stats["max_in_flight"] == 4
    assert (stats["requests"], stats["items"]) == (4, 8)


def test_faults(openai_server: Connection, client: openai.OpenAI) -> None:
    """Each kind of fault hits the requests it names, and no other."""

    def ask(*texts: str) -> Any:
        return client.embeddings.create(input=list(texts), model="m", dimensions=4).data

    openai_server.configure(faults=[Fault([2], status=429, retry_after=7), Fault([3], status=400), Fault([4])])
    ask("a")
    with pytest.raises(openai.RateLimitError) as limited:
        ask("a")
    assert limited.value.response.headers["retry-after"] == "7"
    with pytest.raises(openai.BadRequestError):
        ask("a")
    with pytest.raises(openai.InternalServerError):
        ask("a")
    plain = [item.embedding for item in ask("a", "b")]
    for kind, lengths in {
        "count": [4],
        "extra": [4, 4, 4],
        "ragged": [4, 3],
        "nan": [4, 4],
        "unordered": [4, 4],
    }.items():
        openai_server.configure(faults=[Fault([1], kind)])
        found = [item.embedding for item in ask("a", "b")]
        assert [len(row) for row in found] == lengths, kind
        if kind == "nan":
            assert math.isnan(found[1][3])
        if kind == "unordered":
            assert found == plain[::-1]
    openai_server.configure(faults=[Fault([1], "empty")])
    with pytest.raises(ValueError, match="No embedding data"):
        ask("a")
    openai_server.configure(faults=[Fault([1], "floats")])
    assert ask("a")[0].embedding == pytest.approx(plain[0])


def test_what_is_no_request_is_refused(client: openai.OpenAI) -> None:
    """A body without usable input is a 400, not a crash."""
    with pytest.raises(openai.BadRequestError, match="input must be"):
        client.embeddings.create(input={"a": 1}, model="m")  # type: ignore[arg-type]


def test_bodies_are_recorded_in_order(openai_server: Connection, client: openai.OpenAI) -> None:
    """`configure(record=True)` starts anew."""
    client.embeddings.create(input=["first"], model="m")
    openai_server.configure(record=True)
    client.embeddings.create(input=["new\nline"], model="m")
    client.embeddings.create(input=[[1, 2]], model="m")
    assert [json.loads(body)["input"] for body in openai_server.bodies()] == [["new\nline"], [[1, 2]]]
