"""The fast path for `HuggingFaceEmbeddings`: a real model of random weights, built here, nothing downloaded."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aaflow_plugins.embedding import Vectors
from langchain_aaflow.embedders import NativeEmbedder, embedder_for, native_reason
from langchain_aaflow.embeddings import accelerate_embeddings
from langchain_aaflow.huggingface_embedder import HuggingFaceEmbedder

pytest.importorskip("sentence_transformers", reason="the local models' package is not installed")

TEXTS = [
    "a short text",
    "",
    "a longer text\nwith a line break, padded against the others",
    "ümläut 漢字 👩",
    "x" * 900,
] * 15


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    try:
        from sentence_transformers.models import Pooling, Transformer
    except ImportError:  # from 6.0 on
        from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    folder = tmp_path_factory.mktemp("model")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(chr, range(97, 123))]
    vocabulary += ["##" + letter for letter in map(chr, range(97, 123))]
    (folder / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=128,
    )
    BertModel(config).save_pretrained(folder / "bert")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder / "bert")
    transformer = Transformer(str(folder / "bert"), max_seq_length=128)
    SentenceTransformer(modules=[transformer, Pooling(32)], device="cpu").save(str(folder / "model"))
    return folder / "model"


@pytest.fixture(params=["langchain_huggingface", "langchain_community.embeddings.huggingface"])
def make(request: pytest.FixtureRequest, model_folder: Path) -> Any:
    owner = pytest.importorskip(request.param).HuggingFaceEmbeddings

    def make(owner: Any = owner, **settings: Any) -> Any:
        return owner(model_name=str(model_folder), model_kwargs={"device": "cpu"}, **settings)

    make.owner = owner  # type: ignore[attr-defined]
    return make


def embed(embedder: HuggingFaceEmbedder, *, asynchronous: bool = False) -> list[Vectors]:
    requests = list(embedder.compose([TEXTS[:10], TEXTS[10:]]))
    replies = [asyncio.run(embedder.asend(r)) if asynchronous else embedder.send(r) for r in requests]
    return list(embedder.assemble(zip(requests, replies, strict=True)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:The class")
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"encode_kwargs": {"batch_size": 4}},
        {"encode_kwargs": {"normalize_embeddings": True}},
        {"encode_kwargs": {"convert_to_tensor": True}},
        {"encode_kwargs": {"precision": "int8"}},
    ],
    ids=str,
)
def test_equal_to_native(make: Any, settings: dict[str, Any]) -> None:
    """The native lists to the last bit; a float32 matrix comes through uncopied, other arrays as native rows."""
    native = make(**settings)
    embedder = embedder_for(native)
    assert isinstance(embedder, HuggingFaceEmbedder)
    expected = native.embed_documents(TEXTS)
    for asynchronous in (False, True):
        (vectors,) = embed(embedder, asynchronous=asynchronous)
        assert repr(vectors.tolist()) == repr(expected)
        assert vectors.matrix.shape == (len(TEXTS), 32)
    if "precision" not in str(settings) and "tensor" not in str(settings):
        assert not vectors.exact
        assert vectors.bytes_copied == 0
        assert np.array_equal(vectors.matrix, np.array(expected, dtype=np.float32))
    assert native.embed_documents(TEXTS[:2]) == native.embed_documents(TEXTS[:2])
    assert accelerate_embeddings(native) is native


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:The class")
def test_errors_and_what_is_not_known(make: Any) -> None:
    """A model asked for lists is refused as natively; an overridden method is left to itself."""
    native = make(encode_kwargs={"convert_to_numpy": False})
    with pytest.raises((TypeError, AttributeError)) as expected:
        native.embed_documents(TEXTS)
    with pytest.raises(expected.type, match=str(expected.value)):
        embed(embedder_for(native))  # type: ignore[arg-type]

    class Own(make.owner):  # type: ignore[misc, name-defined]
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return [[1.0] for _ in texts]

    assert native_reason(make(Own)) == "Own has a embed_documents of its own"
    assert type(embedder_for(make(Own))) is NativeEmbedder
