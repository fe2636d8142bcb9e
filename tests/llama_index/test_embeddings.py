"""`OpenAIEmbedding` accelerated against itself: real client, real HTTP, equal to the last bit."""

from __future__ import annotations

import asyncio
import gc
import json
import pickle
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.schema import Document, MetadataMode, TextNode
from llama_index.core.storage.kvstore import SimpleKVStore
from llama_index.embeddings.openai import OpenAIEmbedding

from aaflow_plugins.executor import Executor
from benchmarks.openai_server import Connection, Fault
from llama_index_aaflow import accelerate
from llama_index_aaflow.embeddings import native_reason
from tests.generated import examples
from tests.llama_index.tracing import events, spans, watched
from tests.observed import logged, outcome

Make = Callable[..., OpenAIEmbedding]

TRICKY = [
    "plain text", "", "a longer text " * 40, "emoji \U0001f469\u200d\U0001f469 \xfcml\xe4ut \u6f22\u5b57",
    "line\nbreak\r\n\ttab\n\n", "", "<|endoftext|>", " ", "plain text", "\x00\u2028\x85",
]  # fmt: skip

SETTINGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "small requests": {"embed_batch_size": 3},
    "one a request": {"embed_batch_size": 1},
    "dimensions": {"dimensions": 8, "embed_batch_size": 4},
    "another engine for texts": {"mode": "text_search", "model": "ada", "embed_batch_size": 4},
    "unknown model": {"model_name": "somebody's own", "embed_batch_size": 4},
    "floats asked for": {"additional_kwargs": {"encoding_format": "float"}, "embed_batch_size": 4},
    "base64 asked for": {"additional_kwargs": {"encoding_format": "base64"}, "embed_batch_size": 4},
    "parameters": {"additional_kwargs": {"user": "u", "extra_headers": {"X-A": "1"}}, "embed_batch_size": 4},
    "a client each": {"reuse_client": False, "embed_batch_size": 4},
    "headers": {"default_headers": {"X-Test": "1"}, "embed_batch_size": 4},
    "two workers": {"num_workers": 2, "embed_batch_size": 4},
}


@pytest.fixture
def make(openai_server: Connection) -> Make:
    def make(**changes: Any) -> OpenAIEmbedding:
        given: dict[str, Any] = {"model": "text-embedding-3-small", "api_key": "none", "max_retries": 1, **changes}
        return OpenAIEmbedding(api_base=openai_server.base_url, **given)

    return make


def asked(server: Connection, call: Callable[[], Any]) -> tuple[Any, list[bytes], list[Any]]:
    """What a call comes to, the bodies of the requests that it made, sorted, and their headers.

    Of a call that fails the requests don't count: some that come after the failure may be under way.
    """
    server.configure(record=True)
    result = outcome(call)
    if not isinstance(result, str):
        return result, [], []
    return result, sorted(server.bodies()), sorted(server.headers())


@pytest.mark.parametrize("name", SETTINGS)
def test_accelerated_calls_equal_native(make: Make, openai_server: Connection, name: str) -> None:
    """The same lists to the last bit, or the same error, from the same requests; blocking and asynchronous."""
    native, texts = make(**SETTINGS[name]), TRICKY * 3
    fast = accelerate(native)
    assert fast is not native
    assert native_reason(fast) is None
    expected = asked(openai_server, lambda: native.get_text_embedding_batch(texts))
    assert asked(openai_server, lambda: fast.get_text_embedding_batch(texts)) == expected
    expected = asked(openai_server, lambda: asyncio.run(make(**SETTINGS[name]).aget_text_embedding_batch(texts)))
    fast = accelerate(make(**SETTINGS[name]))
    assert asked(openai_server, lambda: asyncio.run(fast.aget_text_embedding_batch(texts))) == expected
    for method in ("get_query_embedding", "get_text_embedding"):
        assert outcome(lambda m=method: getattr(fast, m)("a\nb")) == outcome(
            lambda m=method: getattr(native, m)("a\nb")
        )


@settings(max_examples=examples(30), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.one_of(st.text(max_size=8), st.just("\ud800"), st.just(7)), max_size=30), size=st.integers(1, 7)
)
def test_generated_texts(make: Make, openai_server: Connection, texts: list[Any], size: int) -> None:
    """Whatever the texts: the same vectors, or the earliest failing batch's error."""
    native = make(embed_batch_size=size)
    assert outcome(lambda: accelerate(native).get_text_embedding_batch(texts)) == outcome(
        lambda: native.get_text_embedding_batch(texts)
    )


def test_real_texts(make: Make, real_texts: list[str]) -> None:
    native = make(embed_batch_size=64)
    expected = native.get_text_embedding_batch(real_texts)
    assert accelerate(native).get_text_embedding_batch(real_texts) == expected
    assert asyncio.run(accelerate(make()).aget_text_embedding_batch(real_texts)) == expected


@pytest.mark.parametrize("kind", ["count", "extra", "ragged", "nan", "floats", "unordered", "null", "text", "empty"])
def test_odd_replies(make: Make, openai_server: Connection, kind: str) -> None:
    """What the client makes of a reply that is not of the usual form is the client's affair."""
    texts = [str(i) for i in range(9)]
    native = make(embed_batch_size=3)

    def of(embedding: OpenAIEmbedding) -> Any:
        openai_server.configure(faults=[Fault([1, 2, 3], kind=kind)])
        return outcome(lambda: embedding.get_text_embedding_batch(texts))

    assert of(accelerate(native)) == of(native)


def test_requests_are_bounded(make: Make, openai_server: Connection) -> None:
    """16 at once in the blocking call, or as many as the executor says; asynchronous calls as natively."""
    texts = [str(i) for i in range(60)]
    for executor, expected, count in ((None, 16, 60), (Executor(max_concurrency=3), 3, 15)):
        openai_server.configure(base_ms=300)
        accelerate(make(embed_batch_size=1), executor=executor).get_text_embedding_batch(texts[:count])
        assert openai_server.stats()["max_in_flight"] == expected
    for workers, executor, most, count in (
        (None, None, 60, 60),
        (5, None, 5, 15),
        (None, Executor(max_concurrency=3), 3, 15),
    ):
        openai_server.configure(base_ms=600)
        fast = accelerate(make(embed_batch_size=1, num_workers=workers), executor=executor)
        asyncio.run(fast.aget_text_embedding_batch(texts[:count]))
        in_flight = openai_server.stats()["max_in_flight"]
        assert most // 2 < in_flight <= most


def test_events_and_spans(make: Make) -> None:
    """Handlers are told the same, in the same order, batch by batch, although requests overlap."""

    def seen(accelerated: bool, texts: list[Any]) -> Any:
        manager, told = watched()
        embedding = make(embed_batch_size=3, callback_manager=manager)
        embedding = accelerate(embedding) if accelerated else embedding
        with spans() as traced, events() as evented:
            result = outcome(lambda: embedding([TextNode(text=t, id_=str(i)) for i, t in enumerate(texts)]))
        return result, told, traced, evented

    for texts in (["a", "b", "c", "d", "e", "f", "g"], ["a"], []):
        assert seen(True, texts) == seen(False, texts)

    def failing(accelerated: bool) -> Any:
        manager, told = watched()
        embedding = make(embed_batch_size=2, callback_manager=manager)
        embedding = accelerate(embedding) if accelerated else embedding
        with spans() as traced, events() as evented:
            result = outcome(lambda: embedding.get_text_embedding_batch(["a", "b", "c", "\ud800", "d", 3, "e"]))
        return result, repr(told), traced, evented

    assert failing(True) == failing(False)
    assert failing(True)[0][0] is UnicodeEncodeError

    async def asynchronously(accelerated: bool) -> Any:
        manager, told = watched()
        embedding = make(embed_batch_size=2, callback_manager=manager)
        embedding = accelerate(embedding) if accelerated else embedding
        with spans() as traced, events() as evented:
            await embedding.acall([TextNode(text=t, id_=t) for t in "abcde"])
        return told, traced, evented

    assert asyncio.run(asynchronously(True)) == asyncio.run(asynchronously(False))


def test_the_earliest_failing_request_decides(make: Make, openai_server: Connection) -> None:
    """A later batch that fails sooner says nothing; no request goes out after the failure is known."""
    openai_server.configure(base_ms=20, record=True)
    texts: list[Any] = [str(i) for i in range(200)]
    texts[21], texts[40] = "\ud800", 7
    native = make(embed_batch_size=1)
    assert outcome(lambda: accelerate(native).get_text_embedding_batch(texts)) == outcome(
        lambda: native.get_text_embedding_batch(texts)
    )
    openai_server.configure(base_ms=20, record=True)
    outcome(lambda: accelerate(native).get_text_embedding_batch(texts))
    assert len(openai_server.bodies()) < 60


def test_retries_are_native(make: Make, openai_server: Connection) -> None:
    """The client's and LlamaIndex's own: as many requests, the same warnings, the same error in the end."""

    def of(embedding: OpenAIEmbedding, status: int, failing: list[int]) -> Any:
        openai_server.configure(faults=[Fault(failing, status=status, retry_after=0.01)], record=True)
        with logged("llama_index.embeddings.openai.utils") as records:
            result = outcome(lambda: embedding.get_text_embedding_batch(["a", "b"]))
        return result, len(openai_server.bodies()), [record.getMessage() for record in records]

    native = make(max_retries=2)
    for status, failing in ((429, [1]), (429, list(range(1, 99))), (400, [1])):
        ours, natives = of(accelerate(native), status, failing), of(native, status, failing)
        # A warning ends in the seconds of the wait.
        assert ours[:2] == natives[:2]
        assert len(ours[2]) == len(natives[2])
        assert [line.split(" in ")[0] for line in ours[2]] == [line.split(" in ")[0] for line in natives[2]]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_embeddings_cache(make: Make, openai_server: Connection, asynchronous: bool) -> None:
    """The same requests for what is not there, and the same entries left behind."""
    texts = ["a", "b", "a", "c", "a", "d", "b", "e", "f", "f", "g", "c"]

    def run(accelerated: bool) -> Any:
        store = SimpleKVStore()
        for text in ("c", "g"):
            store.put(text, {"id": [1.0, 2.0]}, collection="embeddings")
        embedding = make(embed_batch_size=2, embeddings_cache=store)
        embedding = accelerate(embedding) if accelerated else embedding
        result, *requests = asked(
            openai_server,
            lambda: (
                asyncio.run(embedding.aget_text_embedding_batch(texts))
                if asynchronous
                else embedding.get_text_embedding_batch(texts)
            ),
        )
        kept = store.get_all(collection="embeddings")
        return result, requests, {text: list(value.values()) for text, value in kept.items()}

    assert run(True) == run(False)


def test_the_rate_limiter_is_asked_before_each_request(make: Make, openai_server: Connection) -> None:
    if "rate_limiter" not in OpenAIEmbedding.model_fields:
        pytest.skip("this llama-index-core has no rate limiter")
    from llama_index.core.rate_limiter import TokenBucketRateLimiter

    class Counting(TokenBucketRateLimiter):
        def acquire(self) -> None:
            asked_for.append(openai_server.stats()["requests"])

    asked_for: list[int] = []
    limiter = Counting(requests_per_minute=1_000_000)
    accelerate(make(embed_batch_size=1, rate_limiter=limiter)).get_text_embedding_batch(["a", "b", "c"])
    assert asked_for == [0, 1, 2]


def test_nodes_get_the_same_embeddings(make: Make) -> None:
    nodes = [TextNode(text=f"text {i}", id_=str(i), metadata={"k": i}) for i in range(9)]
    nodes.append(Document(text="doc", id_="d", excluded_embed_metadata_keys=["x"], metadata={"x": 1, "y": 2}))

    def copies() -> list[Any]:
        return [node.model_copy(deep=True) for node in nodes]

    native = make(embed_batch_size=4)
    expected, given_nodes = native(copies()), copies()
    ours = accelerate(native)(given_nodes)
    assert ours is given_nodes
    assert [node.to_dict() for node in ours] == [node.to_dict() for node in expected]
    assert [list(node.__dict__) for node in ours] == [list(node.__dict__) for node in expected]
    assert [node.__pydantic_fields_set__ for node in ours] == [node.__pydantic_fields_set__ for node in expected]
    later = asyncio.run(accelerate(make(embed_batch_size=4)).acall(copies()))
    assert [node.to_dict() for node in later] == [node.to_dict() for node in expected]
    assert accelerate(native).get_text_embedding_batch([n.get_content(MetadataMode.EMBED) for n in nodes]) == [
        node.embedding for node in expected
    ]


def test_it_is_the_native_object_to_everybody(make: Make) -> None:
    native = make(embed_batch_size=7, additional_kwargs={"user": "u"})
    fast = accelerate(native, executor=Executor(max_concurrency=2))
    assert isinstance(fast, OpenAIEmbedding)
    assert type(fast).__name__ == "OpenAIEmbedding"
    assert type(fast).__module__ == type(native).__module__
    assert fast.to_dict() == native.to_dict()
    assert fast.class_name() == native.class_name()
    assert repr(fast) == repr(native)
    assert list(type(fast).model_fields) == list(type(native).model_fields)
    assert accelerate(fast) is fast
    restored = pickle.loads(pickle.dumps(fast))
    assert type(restored)._executor.resources.max_concurrency == 2
    assert restored.to_dict() == native.to_dict()
    assert restored.get_text_embedding_batch(["a"] * 9) == native.get_text_embedding_batch(["a"] * 9)
    assert type(fast.model_copy()) is type(fast)
    fast.embed_batch_size = 2
    assert native.embed_batch_size == 7


def test_what_is_not_known_is_native(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    class Own(BaseEmbedding):
        def _get_text_embedding(self, text: str) -> list[float]:
            return [float(len(text))]

        def _get_query_embedding(self, query: str) -> list[float]:
            return [0.0]

        async def _aget_query_embedding(self, query: str) -> list[float]:
            return [0.0]

    own = Own()
    assert accelerate(own) is own
    assert native_reason(own) == "Own is not known"

    class Changed(OpenAIEmbedding):
        def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
            return [[float(len(text))] for text in texts]

    changed = Changed(api_key="none")
    assert accelerate(changed) is changed
    assert "overrides _get_text_embeddings" in (native_reason(changed) or "")

    class Named(OpenAIEmbedding):
        @classmethod
        def class_name(cls) -> str:
            return "Named"

    named = Named(api_key="none", api_base=make().api_base, model_name="other", embed_batch_size=2)
    fast = accelerate(named)
    assert isinstance(fast, Named)
    assert fast is not named
    assert fast.to_dict() == named.to_dict()
    assert fast.get_text_embedding_batch(list("abcde")) == named.get_text_embedding_batch(list("abcde"))

    fast = accelerate(make(embed_batch_size=1))
    seen: list[list[str]] = []

    def patched(self: Any, texts: list[str]) -> list[list[float]]:
        seen.append(texts)
        return [[1.0] for _ in texts]

    monkeypatch.setattr(OpenAIEmbedding, "_get_text_embeddings", patched)
    assert fast.get_text_embedding_batch(["a", "b"]) == [[1.0], [1.0]]
    assert seen == [["a"], ["b"]]


def test_a_patched_client_is_asked(make: Make) -> None:
    """Instrumentation that replaces the client's method sees every request."""
    embedding = make(embed_batch_size=2)
    client = embedding._get_client()
    create, seen = client.embeddings.create, []

    def counted(**given: Any) -> Any:
        seen.append(given["input"])
        return create(**given)

    client.embeddings.create = counted
    accelerate(embedding).get_text_embedding_batch(list("abc"))
    assert sorted(seen) == [["a", "b"], ["c"]]


def test_many_threads_share_one_object(make: Make) -> None:
    native = make(embed_batch_size=2)
    fast = accelerate(native)
    inputs = [[f"{thread} {i}" for i in range(11)] for thread in range(6)]
    results: dict[int, Any] = {}

    def call(number: int) -> None:
        results[number] = fast.get_text_embedding_batch(inputs[number])

    threads = [threading.Thread(target=call, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [results[number] for number in range(6)] == [native.get_text_embedding_batch(texts) for texts in inputs]


def test_a_cancelled_call_leaves_nothing_in_flight(make: Make, openai_server: Connection) -> None:
    openai_server.configure(base_ms=3000)

    async def cancelled() -> None:
        call = asyncio.create_task(accelerate(make(embed_batch_size=1)).aget_text_embedding_batch(list("abcdef")))
        await asyncio.sleep(0.3)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    begun = time.perf_counter()
    asyncio.run(cancelled())
    assert time.perf_counter() - begun < 2


def test_a_request_that_is_refused(make: Make, openai_server: Connection) -> None:
    openai_server.configure(faults=[Fault([1, 2], status=401)])
    with pytest.raises(openai.AuthenticationError):
        accelerate(make(embed_batch_size=1)).get_text_embedding_batch(["a", "b"])


def test_progress_bars_are_native(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    def shown(embedding: Any) -> Sequence[str]:
        embedding.get_text_embedding_batch(list("abcdef"), show_progress=True)
        return [line.split("|")[0] for line in capsys.readouterr().err.splitlines()]

    native = make(embed_batch_size=2)
    assert shown(accelerate(native))[-1] == shown(native)[-1]


def test_the_bodies_are_what_the_native_code_writes(make: Make, openai_server: Connection) -> None:
    openai_server.configure(record=True)
    accelerate(make(embed_batch_size=2)).get_text_embedding_batch(["a\nb", "c", "d"])
    inputs = sorted(json.loads(body)["input"] for body in openai_server.bodies())
    assert inputs == [["a b", "c"], ["d"]]


@pytest.mark.parametrize("is_async", [False, True])
def test_texts_are_let_go_of_without_the_collector(make: Make, is_async: bool) -> None:
    """The native retries leave a cycle at each request; while a run goes on, such are seldom looked for."""
    texts = [f"text {number}" for number in range(9)]

    def holding() -> int:
        lists = [each for each in gc.get_objects() if type(each) is list and each is not texts]
        return sum(any(item is texts[4] for item in each) for each in lists)

    embedding = accelerate(make(embed_batch_size=3))
    gc.collect()
    before = holding()
    gc.disable()
    try:
        if is_async:
            asyncio.run(embedding.aget_text_embedding_batch(texts))
        else:
            embedding.get_text_embedding_batch(texts)
        # A thread may not be quite through with its last batch.
        for _ in range(100):
            if holding() <= before:
                break
            time.sleep(0.02)
        assert holding() <= before
    finally:
        gc.enable()
