"""The fast path for OpenAI's embeddings against the native calls: real client, real HTTP, equal to the last bit."""

from __future__ import annotations

import asyncio
import copy
import json
import math
import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import langchain_openai.embeddings.base as native_module
import numpy as np
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_openai import AzureOpenAIEmbeddings, OpenAIEmbeddings

from aaflow_plugins.embedding import Embedder, Vectors
from aaflow_plugins.executor import Executor
from benchmarks.openai_server import Connection, Fault
from langchain_aaflow import ingest
from langchain_aaflow.embedders import NativeEmbedder, embedder_for, native_reason
from langchain_aaflow.embeddings import accelerate_embeddings
from langchain_aaflow.openai_embedder import OpenAIEmbedder
from langchain_aaflow.openai_embeddings import AcceleratedAzureOpenAIEmbeddings, AcceleratedOpenAIEmbeddings
from tests.generated import examples
from tests.observed import outcome

Make = Callable[..., OpenAIEmbeddings]

TRICKY = [
    "plain text",
    "",
    "a longer text that is more than seven tokens long, and holds three pieces or more of them " * 2,
    "emoji 👩‍👩‍👧 ümläut 漢字",
    "line\nbreak\r\n\ttab",
    "",
    "<|endoftext|> as text",
    " ",
    "plain text",
    "lone \ud800 surrogate",
]

#: Settings of the native object under which requests or vectors come about in different ways.
SETTINGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "small requests": {"chunk_size": 3},
    "one item a request": {"chunk_size": 1},
    "long texts": {"chunk_size": 4, "embedding_ctx_length": 7},
    "pieces across requests": {"chunk_size": 2, "embedding_ctx_length": 3},
    "dimensions": {"dimensions": 8, "chunk_size": 4},
    "model of the first generation": {
        "model": "ada-001",
        "tiktoken_model_name": "text-embedding-3-small",
        "chunk_size": 4,
    },
    "unknown model": {"model": "somebody's own", "chunk_size": 4},
    "tokenizer's name": {"model": "deployment", "tiktoken_model_name": "text-embedding-3-small"},
    "special tokens allowed": {"allowed_special": "all", "chunk_size": 4},
    "raw text": {"check_embedding_ctx_length": False, "chunk_size": 4},
    "user": {"model_kwargs": {"user": "somebody"}, "chunk_size": 4},
    "floats asked for": {"model_kwargs": {"encoding_format": "float"}, "embedding_ctx_length": 7},
    "base64 asked for": {"model_kwargs": {"encoding_format": "base64"}, "chunk_size": 4},
    "headers": {"model_kwargs": {"extra_headers": {"X-Test": "1"}, "extra_query": {"a": "b"}}},
}


@pytest.fixture
def make(openai_server: Connection) -> Make:
    def make(owner: type[OpenAIEmbeddings] = OpenAIEmbeddings, **changes: Any) -> OpenAIEmbeddings:
        settings: dict[str, Any] = {"model": "text-embedding-3-small", "api_key": "none", "max_retries": 0, **changes}
        return owner(base_url=openai_server.base_url, **settings)

    return make


def asked(server: Connection, call: Callable[[], Any]) -> tuple[Any, list[bytes]]:
    """What a call comes to, and the bodies of the requests that it made, sorted."""
    server.configure(record=True)
    return outcome(call), sorted(server.bodies())


def sendable(native: OpenAIEmbeddings, texts: list[str]) -> list[str]:
    """Without what cannot be sent as it is: no JSON holds a lone surrogate, which token ids do not have."""
    return texts if native.check_embedding_ctx_length else [text for text in texts if "\ud800" not in text]


def in_batches(texts: Sequence[str], sizes: Iterator[int]) -> Iterator[Sequence[str]]:
    start = 0
    while start < len(texts):
        size = next(sizes)
        yield texts[start : start + size]
        start += size


def through(embedder: Embedder, batches: Iterator[Sequence[str]]) -> list[list[float]]:
    """Texts through an embedder one request after another, as the executor would with one slot."""
    replies = ((request, embedder.send(request)) for request in embedder.compose(batches))
    return [row for vectors in embedder.assemble(replies) for row in vectors.tolist()]


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize("name", SETTINGS)
def test_accelerated_calls_equal_native(make: Make, openai_server: Connection, name: str) -> None:
    """The same lists to the last bit, or the same error, from the same requests; blocking and asynchronous."""
    native = make(**SETTINGS[name])
    fast = accelerate_embeddings(native)
    texts = sendable(native, TRICKY * 3)
    expected, bodies = asked(openai_server, lambda: native.embed_documents(texts))
    if name != "base64 asked for":  # natively strings come back then, as long as no text is split
        assert native_reason(native) is None
    assert asked(openai_server, lambda: fast.embed_documents(texts)) == (expected, bodies)
    assert asked(openai_server, lambda: asyncio.run(fast.aembed_documents(texts))) == (expected, bodies)
    for size in (1, 4, 2048):
        expected, bodies = asked(openai_server, lambda size=size: native.embed_documents(texts, chunk_size=size))
        assert asked(openai_server, lambda size=size: fast.embed_documents(texts, chunk_size=size)) == (
            expected,
            bodies,
        )


@pytest.mark.parametrize("name", [name for name in SETTINGS if name != "base64 asked for"])
def test_embedder_equals_native(make: Make, openai_server: Connection, name: str) -> None:
    """The vectors and the requests do not depend on the batches in which texts arrive."""
    native = make(**SETTINGS[name])
    embedder = embedder_for(native)
    assert isinstance(embedder, OpenAIEmbedder)
    texts = sendable(native, TRICKY * 3)
    expected, bodies = asked(openai_server, lambda: native.embed_documents(texts))
    for size in (1, 3, 7, len(texts)):
        batches = in_batches(texts, iter([size] * len(texts)))
        found = asked(openai_server, lambda batches=batches: through(embedder, batches))
        assert found == (expected, bodies)


@pytest.mark.parametrize("texts", [[], [""], ["", ""], ["", "a"], ["a", ""], ["", "a", "", "b", ""], ["a"]])
@pytest.mark.parametrize("size", [1, 2, 1000])
def test_empty_texts(make: Make, openai_server: Connection, texts: list[str], size: int) -> None:
    """Texts without tokens share one request for the empty text, wherever they stand."""
    native = make(chunk_size=size)
    expected = asked(openai_server, lambda: native.embed_documents(texts))
    assert asked(openai_server, lambda: accelerate_embeddings(native).embed_documents(texts)) == expected
    assert asked(openai_server, lambda: through(embedder_for(native), iter([texts]))) == expected


@settings(max_examples=examples(20), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.one_of(st.text(max_size=30), st.sampled_from(TRICKY)), max_size=25),
    sizes=st.lists(st.integers(1, 9), min_size=1),
    chunk_size=st.integers(1, 6),
    window=st.integers(1, 12),
    limit=st.integers(1, 40),
)
def test_any_grouping_equals_native(
    make: Make,
    openai_server: Connection,
    texts: list[str],
    sizes: list[int],
    chunk_size: int,
    window: int,
    limit: int,
) -> None:
    """Whatever the limits on items, tokens a piece and tokens a request."""
    native = make(chunk_size=chunk_size, embedding_ctx_length=window)
    with pytest.MonkeyPatch.context() as patch:
        if hasattr(native_module, "MAX_TOKENS_PER_REQUEST"):  # not in the first releases
            patch.setattr(native_module, "MAX_TOKENS_PER_REQUEST", limit)
        expected = asked(openai_server, lambda: native.embed_documents(texts))
        batches = in_batches(texts, iter(sizes * (len(texts) + 1)))
        assert asked(openai_server, lambda: through(embedder_for(native), batches)) == expected
        assert asked(openai_server, lambda: accelerate_embeddings(native).embed_documents(texts)) == expected


def test_real_text_in_order(make: Make, openai_server: Connection, real_texts: list[str]) -> None:
    """Real chunks, requests of random latency in flight together: one float32 matrix equal to the native lists."""
    native = make(chunk_size=100)
    expected, bodies = asked(openai_server, lambda: native.embed_documents(real_texts))
    openai_server.configure(base_ms=2, item_ms=0.05, record=True)
    fast = accelerate_embeddings(native, Executor(max_concurrency=5))
    assert repr(fast.embed_documents(real_texts)) == expected
    assert sorted(openai_server.bodies()) == bodies
    assert 2 <= openai_server.stats()["max_in_flight"] <= 5
    embedder = embedder_for(native)
    requests = list(embedder.compose([real_texts]))
    parts = list(embedder.assemble((request, embedder.send(request)) for request in requests))
    assert all(isinstance(part, Vectors) and not part.exact and not part.bytes_copied for part in parts)
    matrix = np.concatenate([part.matrix for part in parts])
    assert matrix.dtype == np.float32
    assert repr(matrix.tolist()) == expected


def test_concurrency_is_bounded_and_composition_is_lazy(make: Make, openai_server: Connection) -> None:
    """At most 16 requests at once unless said otherwise; a request is composed as soon as its texts are there."""
    openai_server.configure(base_ms=300, item_ms=0)
    fast = accelerate_embeddings(make(chunk_size=1))
    texts = [f"text {number}" for number in range(60)]
    fast.embed_documents(texts)
    assert openai_server.stats()["max_in_flight"] == 16
    openai_server.configure(base_ms=300, item_ms=0)
    asyncio.run(fast.aembed_documents(texts))
    assert openai_server.stats()["max_in_flight"] == 16

    taken: list[int] = []

    def batches() -> Iterator[list[str]]:
        for number in range(10):
            taken.append(number)
            yield texts[number * 6 : number * 6 + 6]

    requests = embedder_for(make(chunk_size=4)).compose(batches())
    next(requests)
    assert taken == [0]


FAULTS = [Fault([2], kind) for kind in ("count", "extra", "ragged", "nan", "empty", "text", "floats", "unordered")]

FAULTS += [Fault(requests, "null") for requests in ([1], [2], [1, 2])]

FAULTS += [Fault([2], status=status) for status in (400, 404, 429, 500)] + [Fault([1], "ragged"), Fault([3], "count")]


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.kind}-{fault.status}-{fault.requests[0]}")
def test_faulty_replies_come_to_what_they_come_to_natively(make: Make, openai_server: Connection, fault: Fault) -> None:
    """The same exception, or the same odd result, one request in flight so that the fault hits the same one."""
    texts = [text for text in TRICKY if text][:4]

    def faulty(call: Callable[[], Any]) -> tuple[Any, list[bytes]]:
        openai_server.configure(record=True, faults=[fault])
        return outcome(call), openai_server.bodies()

    for changes in ({"embedding_ctx_length": 5}, {"embedding_ctx_length": 500}, {"check_embedding_ctx_length": False}):
        native = make(chunk_size=3, **changes)
        fast = accelerate_embeddings(native, Executor(max_concurrency=1))
        expected = faulty(lambda native=native: native.embed_documents(texts))
        assert faulty(lambda fast=fast: fast.embed_documents(texts)) == expected
        assert faulty(lambda fast=fast: asyncio.run(fast.aembed_documents(texts))) == expected


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
def test_texts_left_without_a_vector_share_one_request(make: Make, openai_server: Connection) -> None:
    """Natively null is answered by the vector of the empty text, asked for once, or not at all if it is there."""
    for texts, requests in ((list("abcd"), 3), (["a", "b", "", "c", "d"], 3)):
        native = make(chunk_size=2)
        fast = accelerate_embeddings(native, Executor(max_concurrency=1))
        found = []
        calls: list[Callable[[], Any]] = [
            lambda native=native, texts=texts: native.embed_documents(texts),
            lambda fast=fast, texts=texts: fast.embed_documents(texts),
            lambda fast=fast, texts=texts: asyncio.run(fast.aembed_documents(texts)),
        ]

        for call in calls:
            openai_server.configure(record=True, faults=[Fault([1, 2], "null")])
            found.append((outcome(call), sorted(openai_server.bodies())))
            assert len(found[-1][1]) == requests
        assert found[0] == found[1] == found[2]
        assert not isinstance(found[0][0], tuple)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("count", "OpenAIEmbeddings returned 2 vectors for 3 inputs from text 3 on"),
        ("extra", "OpenAIEmbeddings returned 4 vectors for 3 inputs from text 3 on"),
        ("ragged", "OpenAIEmbeddings returned vectors of different lengths: 24 floats for text 3, 23 for text 4"),
        ("nan", "OpenAIEmbeddings returned NaN in the vector for text 5"),
    ],
)
def test_embedder_names_what_is_wrong(make: Make, openai_server: Connection, kind: str, message: str) -> None:
    """Bad vectors are refused before they are stored, and what came before them is handed on."""
    openai_server.configure(faults=[Fault([2], kind)])
    embedder = embedder_for(make(chunk_size=3))
    requests = list(embedder.compose([list("abcdefgh")]))
    parts = embedder.assemble((request, embedder.send(request)) for request in requests)
    assert len(next(parts)) == 3
    with pytest.raises(ValueError, match=message):
        next(parts)


def test_the_earliest_failure_is_raised_and_later_requests_are_not_begun(make: Make, openai_server: Connection) -> None:
    """Of many requests, those behind a failure are dropped; the error is the one that comes first in order."""
    fast = accelerate_embeddings(make(chunk_size=1), Executor(max_concurrency=4))
    texts = [f"text {number}" for number in range(100)]
    calls: list[Callable[[], Any]] = [
        lambda: fast.embed_documents(texts),
        lambda: asyncio.run(fast.aembed_documents(texts)),
    ]
    for call in calls:
        openai_server.configure(base_ms=5, item_ms=0, faults=[Fault(list(range(10, 200)), status=400)])
        with pytest.raises(openai.BadRequestError):
            call()
        assert openai_server.stats()["requests"] < 20


def test_retries_are_the_clients_own(make: Make, openai_server: Connection) -> None:
    """A 429 is retried after the time that it names, as often as the object says."""
    fast = accelerate_embeddings(make(max_retries=1, chunk_size=2))
    texts = list("abcdef")
    expected = fast.embed_documents(texts)
    openai_server.configure(faults=[Fault([2], status=429, retry_after=0.1)])
    assert fast.embed_documents(texts) == expected
    assert openai_server.stats()["requests"] == 4


def test_azure(openai_server: Connection) -> None:
    """The deployment's own path and defaults."""
    native = AzureOpenAIEmbeddings(
        azure_endpoint=openai_server.url,
        azure_deployment="mine",
        api_key="none",
        api_version="2024-02-01",
        model="text-embedding-3-small",
        chunk_size=3,
    )
    fast = accelerate_embeddings(native)
    assert type(fast) is AcceleratedAzureOpenAIEmbeddings
    assert repr(fast) == repr(native)
    assert fast == native
    assert AcceleratedAzureOpenAIEmbeddings.model_fields["chunk_size"].default == 2048
    texts = TRICKY * 2
    expected = asked(openai_server, lambda: native.embed_documents(texts))
    assert len(expected[1]) == 7
    assert asked(openai_server, lambda: fast.embed_documents(texts)) == expected
    assert asked(openai_server, lambda: asyncio.run(fast.aembed_documents(texts))) == expected
    assert asked(openai_server, lambda: through(embedder_for(native), iter([texts]))) == expected


def test_bad_texts_raise_as_natively(make: Make) -> None:
    """A disallowed special token, and what is no text."""
    for changes, texts in (
        ({"disallowed_special": "all"}, ["fine", "<|endoftext|>"]),
        ({}, ["fine", 5]),
        ({}, ["fine", None]),
        ({}, "a string"),
        ({}, ("a", "tuple")),
        # tiktoken refuses any of these strings, be they special tokens or not.
        ({"disallowed_special": {"SECRET"}}, ["fine", "a SECRET"]),
        ({"disallowed_special": ["SECRET", "<|endoftext|>"]}, ["fine", "a SECRET"]),
        ({"allowed_special": "all", "disallowed_special": {"SECRET"}}, ["fine", "a SECRET"]),
        ({"allowed_special": {"<|endoftext|>"}, "disallowed_special": ("fine",)}, ["fine", "<|endoftext|>"]),
        ({"allowed_special": {"<|endoftext|>"}}, ["fine", "<|fim_prefix|>"]),
    ):
        native = make(**changes)
        call: Any = accelerate_embeddings(native).embed_documents
        expected = outcome(lambda native=native, texts=texts: native.embed_documents(texts))
        assert outcome(lambda call=call, texts=texts: call(texts)) == expected
        if type(texts) is list and changes:
            assert expected[0] is ValueError
            assert outcome(lambda native=native, texts=texts: through(embedder_for(native), iter([texts]))) == expected


@pytest.mark.parametrize(
    "arguments",
    [
        {"chunk_size": 2.5},
        {"chunk_size": "a"},
        {"chunk_size": -1},
        {"chunk_size": True},
        {"chunk_size": 0},
        {"engine": "one"},
        {"input": ["other"]},
        {"unknown": 1},
        {"extra_headers": {"X-Test": "1"}},
        {"dimensions": 8, "user": "us"},
        {"encoding_format": "float"},
        {"timeout": "soon"},
    ],
    ids=str,
)
@pytest.mark.parametrize("changes", [{}, {"check_embedding_ctx_length": False}], ids=["token ids", "raw text"])
def test_arguments_come_to_what_they_come_to_natively(
    make: Make, openai_server: Connection, arguments: dict[str, Any], changes: dict[str, Any]
) -> None:
    """Good ones reach the API, bad ones raise the native exception before anything is sent."""
    native = make(chunk_size=2, **changes)
    fast = accelerate_embeddings(native)
    texts = list("abcde")
    expected = asked(openai_server, lambda: native.embed_documents(texts, **arguments))
    assert asked(openai_server, lambda: fast.embed_documents(texts, **arguments)) == expected
    expected = asked(
        openai_server, lambda: asyncio.run(make(chunk_size=2, **changes).aembed_documents(texts, **arguments))
    )
    assert asked(openai_server, lambda: asyncio.run(fast.aembed_documents(texts, **arguments))) == expected


def test_settings_of_other_types_are_left_to_the_native_code(make: Make) -> None:
    """Pydantic does not check what is assigned later."""
    for name in ("chunk_size", "embedding_ctx_length"):
        native = make()
        setattr(native, name, 2.5)
        assert native_reason(native) == f"{name} is 2.5"
        fast = accelerate_embeddings(native)
        expected = outcome(lambda native=native: native.embed_documents(["a", "b"]))
        assert expected[0] is TypeError
        assert outcome(lambda fast=fast: fast.embed_documents(["a", "b"])) == expected


def test_ingestion_keeps_to_the_requests_that_an_accelerated_object_allows(
    make: Make, openai_server: Connection
) -> None:
    """An executor of ingestion's own has the last word."""
    fast = accelerate_embeddings(make(chunk_size=1), Executor(max_concurrency=2))
    assert embedder_for(fast).max_concurrency == 2
    assert embedder_for(fast.model_copy()).max_concurrency == 2
    assert embedder_for(fast, max_concurrency=5).max_concurrency == 5
    for unbounded in (make(), accelerate_embeddings(make()), accelerate_embeddings(make(), Executor())):
        assert embedder_for(unbounded).max_concurrency == 16
    documents = [Document(f"text {number} " * 100) for number in range(40)]
    for executor, in_flight in ((None, 2), (Executor(), 2), (Executor(max_concurrency=4), 4)):
        openai_server.configure(base_ms=100, item_ms=0)
        ingest(documents, splitter=None, embedding=fast, vectorstore=InMemoryVectorStore, executor=executor)
        assert openai_server.stats()["requests"] == 40
        assert openai_server.stats()["max_in_flight"] == in_flight


def test_names_and_equality_are_native(make: Make) -> None:
    """Whoever prints, logs or compares embeddings sees the native class; its own name is for pickling."""
    native = make()
    fast = accelerate_embeddings(native, Executor(max_concurrency=2))
    assert repr(fast) == repr(native)
    assert type(fast).__name__ == "OpenAIEmbeddings"
    assert pickle.loads(pickle.dumps(type(fast))) is AcceleratedOpenAIEmbeddings
    assert fast == native
    assert native == fast
    assert fast == accelerate_embeddings(native)
    assert fast == fast.model_copy()
    assert fast.model_json_schema()["title"] == native.model_json_schema()["title"]
    for other in (make(), native.model_copy(update={"chunk_size": 7}), "text", None):
        assert fast != other
        assert other != fast
        assert native != other
    assert outcome(lambda: hash(fast)) == outcome(lambda: hash(native))


def test_it_is_the_native_object_otherwise(make: Make, openai_server: Connection) -> None:
    """Class, settings, clients, queries, copies: all native; the original is as it was."""
    native = make(chunk_size=2)
    before = dict(vars(native))
    fast = accelerate_embeddings(native)
    assert type(fast) is AcceleratedOpenAIEmbeddings
    assert isinstance(fast, OpenAIEmbeddings)
    assert fast.client is native.client
    assert fast.model_dump() == native.model_dump()
    assert type(native) is OpenAIEmbeddings
    assert vars(native) == before
    assert type(accelerate_embeddings(fast)) is AcceleratedOpenAIEmbeddings
    assert fast.embed_query("what?") == native.embed_query("what?")
    assert asyncio.run(fast.aembed_query("what?")) == native.embed_query("what?")
    assert isinstance(embedder_for(fast), OpenAIEmbedder)
    texts = list("abcde")
    for twin in (copy.copy(fast), fast.model_copy()):
        assert twin.embed_documents(texts) == native.embed_documents(texts)
    # A later change of a setting counts, as natively.
    fast.chunk_size = native.chunk_size = 4
    expected = asked(openai_server, lambda: native.embed_documents(texts))
    assert asked(openai_server, lambda: fast.embed_documents(texts)) == expected
    # The clients hold locks: neither can be pickled, for the same reason.
    assert outcome(lambda: pickle.dumps(fast)) == outcome(lambda: pickle.dumps(native))


class _OwnCall(OpenAIEmbeddings):
    def embed_documents(self, texts: list[str], chunk_size: int | None = None, **kwargs: Any) -> list[list[float]]:
        return [[math.pi] for _ in texts]


class _OwnParameters(OpenAIEmbeddings):
    @property
    def _invocation_params(self) -> dict[str, Any]:
        return {**super()._invocation_params, "user": "us"}


class _OwnName(OpenAIEmbeddings):
    pass


class _Client:
    def create(self, **_: Any) -> Any:
        raise AssertionError


def test_what_is_not_known_is_left_to_itself(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each with the reason that `explain()` shows."""
    reasons = {
        native_reason(make(_OwnCall)): "_OwnCall has a embed_documents of its own",
        native_reason(make(_OwnParameters)): "_OwnParameters has a _invocation_params of its own",
        native_reason(make(tiktoken_enabled=False)): "tiktoken is disabled",
        native_reason(make(skip_empty=True)): "skip_empty makes the requests depend on the replies",
        native_reason(make(embedding_ctx_length=0)): "embedding_ctx_length is 0",
        native_reason(make(client=_Client())): "its client is not the openai package's own",
    }
    assert list(reasons) == list(reasons.values())
    own = make(_OwnCall)
    assert accelerate_embeddings(own) is own
    assert through(embedder_for(own), iter([["a", "b"], ["c"]])) == [[math.pi]] * 3
    inherits = make(_OwnName)
    assert native_reason(inherits) is None
    assert accelerate_embeddings(inherits) is inherits
    # What instruments the native code by wrapping it must go on seeing every call.
    create = openai.resources.embeddings.Embeddings.create
    with monkeypatch.context() as patch:
        patch.setattr(openai.resources.embeddings.Embeddings, "create", lambda *a, **k: create(*a, **k))
        assert native_reason(make()) == "its client is not the openai package's own"
    embed = OpenAIEmbeddings.embed_documents
    with monkeypatch.context() as patch:
        patch.setattr(OpenAIEmbeddings, "embed_documents", lambda *a, **k: embed(*a, **k))
        assert native_reason(make()) == "OpenAIEmbeddings has a embed_documents of its own"


def test_another_grouping_in_the_native_code_is_noticed(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A release that averages pieces in another way is left to itself, however its functions are called."""
    from langchain_aaflow import openai_conditions

    monkeypatch.setattr(openai_conditions, "_verified", {})
    assert native_reason(make()) is None
    monkeypatch.setattr(openai_conditions, "_verified", {})
    monkeypatch.setattr(openai_conditions, "_REPLACED", ())
    tokenize = OpenAIEmbeddings._tokenize

    def shorter(self: OpenAIEmbeddings, texts: list[str], chunk_size: int) -> Any:
        return tokenize(self, [text[:9] for text in texts], chunk_size)

    monkeypatch.setattr(OpenAIEmbeddings, "_tokenize", shorter)
    assert "not known" in str(native_reason(make()))
    assert isinstance(embedder_for(make()), NativeEmbedder)


def test_requests_are_bytes_of_the_native_client(make: Make, openai_server: Connection) -> None:
    """Down to the order of the keys: a proxy that records and replays requests by their body goes on working."""
    openai_server.configure(record=True)
    accelerate_embeddings(make(dimensions=8)).embed_documents(["one", "two"])
    body = json.loads(openai_server.bodies()[0])
    assert set(body) == {"input", "model", "dimensions", "encoding_format"}
    assert body["encoding_format"] == "base64"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"check_embedding_ctx_length": False},
        {"model_kwargs": {"extra_headers": {"X-Test": "1"}, "extra_query": {"a": "b"}}, "timeout": 7.5},
        {"model_kwargs": {"extra_body": {"more": 1}}},
    ],
    ids=["token ids", "raw text", "headers", "body"],
)
def test_requests_have_the_headers_of_the_native_client(
    make: Make, openai_server: Connection, changes: dict[str, Any]
) -> None:
    """As they arrive, and in order: nothing on the wire tells the two apart, retries included."""

    def native() -> OpenAIEmbeddings:  # a new one for each event loop
        return make(max_retries=1, **changes)

    def fast() -> OpenAIEmbeddings:
        return accelerate_embeddings(native(), Executor(max_concurrency=1))

    def arriving(call: Callable[[], Any]) -> list[list[list[str]]]:
        openai_server.configure(record=True, faults=[Fault([1], status=429, retry_after=0.01)])
        call()
        return openai_server.headers()

    texts = ["one", "", "three"]
    expected = arriving(lambda: native().embed_documents(texts))
    assert expected[0][0][0] == "path"
    assert len(expected[0]) > 10
    assert len(expected) == (2 if "check_embedding_ctx_length" in changes else 3)
    assert arriving(lambda: fast().embed_documents(texts)) == expected
    expected = arriving(lambda: asyncio.run(native().aembed_documents(texts)))
    assert arriving(lambda: asyncio.run(fast().aembed_documents(texts))) == expected
