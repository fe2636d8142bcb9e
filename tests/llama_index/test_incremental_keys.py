"""What nodes that are kept depend on: documents, settings, and the code of models and tokenizers."""

from __future__ import annotations

import functools
import math
import textwrap
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import MockEmbedding
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.node_parser import (
    MarkdownNodeParser,
    TokenTextSplitter,
)
from llama_index.core.schema import (
    Document,
    NodeRelationship,
    RelatedNodeInfo,
    TextNode,
)
from pydantic import PrivateAttr

from llama_index_aaflow import incremental
from tests.llama_index.parsing_outcomes import numbered, visible
from tests.llama_index.pipelines import (
    Counting,
    Lengths,
    documents,
    splitter,
)


def test_what_is_computed_again(tmp_path: Path) -> None:
    """Whatever nodes depend on makes them be computed again, and nothing else does."""

    def asked(steps: Sequence[Any] | None = None, **fields: Any) -> int:
        model = Counting()
        pipeline = incremental(IngestionPipeline(transformations=[*(steps or [splitter()]), model]), tmp_path)
        pipeline.run(documents=[Document(**{"text": "One sentence. " * 30, "id_": "a", **fields})])
        return len(model.asked)

    assert asked()
    assert not asked()
    one = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id="s")}
    other = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id="s", hash="h")}
    for changed in (
        {"id_": "b"}, {"text": "Another one. " * 30}, {"metadata": {"k": 1}}, {"metadata": {"k": True}},
        {"metadata": {"k": 1.0}}, {"metadata": {"k": "1"}}, {"metadata": {"k": [1]}}, {"embedding": [1.0]},
        {"excluded_llm_metadata_keys": ["k"]}, {"excluded_embed_metadata_keys": ["k"]}, {"text_template": "{content}"},
        {"metadata_template": "{value}"}, {"metadata_separator": " "}, {"relationships": one}, {"relationships": other},
        {"metadata": {"a": 1, "b": 2}}, {"metadata": {"b": 2, "a": 1}},
    ):  # fmt: skip
        assert asked(**changed), changed
        assert not asked(**changed), changed
    tokens = splitter(tokenizer=_words)
    named = splitter()
    named.id_func = lambda index, document: f"{index}"
    for changed_steps in (
        [splitter(chunk_size=50)], [splitter(paragraph_separator="x")], [tokens], [named],
        [splitter(include_metadata=False)], [splitter(chunking_tokenizer_fn=_words)], [MarkdownNodeParser()],
        [splitter(chunking_tokenizer_fn=_cutting("b"))], [splitter(chunking_tokenizer_fn=_cutting("c"))],
        [MarkdownNodeParser(), splitter()],
    ):  # fmt: skip
        assert asked(changed_steps)
        assert not asked(changed_steps)
    assert asked(metadata={"k": (1,)})
    assert not asked(metadata={"k": (1,)})
    for unknown in (object(), "\ud83d"):
        assert asked(metadata={"k": unknown})
        assert asked(metadata={"k": unknown})


def _words(text: str) -> list[str]:
    return text.split(" ")


def _cutting(mark: str) -> Callable[[str], list[str]]:
    return lambda text: text.split(mark)


def test_the_code_of_a_model_is_part_of_its_key(tmp_path: Path) -> None:
    def model(factor: float) -> Any:
        class Model(Lengths):
            def _get_text_embedding(self, text: str) -> list[float]:
                return [len(text) * 2.0] if factor == 2 else [len(text) * 3.0]

        class Other(Lengths):
            def _get_text_embedding(self, text: str) -> list[float]:
                return [len(text) * 3.0]

        Other.__qualname__ = Model.__qualname__
        return Model() if factor == 2 else Other()

    for factor in (2, 3):
        pipeline = incremental(IngestionPipeline(transformations=[model(factor)]), tmp_path)
        assert pipeline.run(nodes=[TextNode(text="four")])[0].embedding == [4.0 * factor]


def _defined(source: str, **names: Any) -> dict[str, Any]:
    """What a module of somebody's own defines."""
    space = {"__name__": "__main__", "BaseEmbedding": BaseEmbedding, "functools": functools, "math": math, **names}
    exec(textwrap.dedent(source), space)
    return space


REACHED = {
    "a helper's helper": "def b(): return K\ndef a(): return b()\ndef reach(): return a()",
    "a dict": "D = {'k': [K]}\ndef reach(): return D['k'][0]",
    "a closure": "def make(k):\n    def reach(): return k\n    return reach\nreach = make(K)",
    "a default": "def reach(k=K): return k",
    "a keyword's default": "def reach(*, k=K): return k",
    "a wrapper": """
        def wrap(k):
            def wrapping(function):
                @functools.wraps(function)
                def wrapper(): return k
                return wrapper
            return wrapping
        @wrap(K)
        def reach(): return 0
    """,
    "a class": "class H:\n    k = K\n    def get(self): return self.k\ndef reach(): return H().get()",
    "a class's base": "class B:\n    k = K\nclass H(B): pass\ndef reach(): return H().k",
    "an attribute of a function": "def reach(): return reach.k\nreach.k = K",
    "an attribute of a module": "def reach(): return module.k",
    "a partial function": "def f(k): return k\ng = functools.partial(f, K)\ndef reach(): return g()",
    "a nested function": "def reach(): return (lambda: [K for _ in 'a'][0])()",
    "a recursive function": "def reach(n=1): return reach(0) if n else K",
    "installed code": "def reach(): return math.floor(K)",
}

MODEL = """
class Model(BaseEmbedding):
    def _get_text_embedding(self, text): return [float(reach())]
    def _get_query_embedding(self, text): return [1.0]
    async def _aget_query_embedding(self, text): return [1.0]
"""


@pytest.mark.parametrize("what", sorted(REACHED))
def test_whatever_code_reaches_is_part_of_its_key(tmp_path: Path, what: str) -> None:
    """A model and a tokenizer that come to other results by what they reach are others, and else the same."""
    kept = []
    for k in (1, 1, 3, 1):
        module = types.ModuleType("of_somebody")
        module.k = k
        space = _defined(textwrap.dedent(REACHED[what]) + MODEL, K=k, module=module)
        pipeline = incremental(IngestionPipeline(transformations=[space["Model"]()]), tmp_path / "model")
        assert pipeline.run(documents=[Document(text="a", id_="a")])[0].embedding == [float(k)]
        space = _defined(textwrap.dedent(REACHED[what]) + "\ndef cut(text): return text[::reach()]", K=k, module=module)

        def make(cut: Any = space["cut"]) -> IngestionPipeline:
            return IngestionPipeline(
                transformations=[TokenTextSplitter(tokenizer=cut, chunk_size=90, id_func=numbered)]
            )

        given = documents(["One two three. " * 40])
        ours = incremental(make(), tmp_path / "parser").run(documents=given)
        assert visible(ours) == visible(make().run(documents=given))
        kept.append((len(list((tmp_path / "model").iterdir())), len(list((tmp_path / "parser").iterdir()))))
    assert kept == [(1, 1), (1, 1), (2, 2), (2, 2)]


def test_what_cannot_be_told_of_code_is_named(tmp_path: Path) -> None:
    """Objects, files, modules and names that are made up leave no key; a field of the model is one."""
    module = types.ModuleType("of_somebody")
    for source, name in (
        ("T = object()\ndef reach(): return T", "reach: T: object"),
        ("def reach(): return open('f').read()", "open reaches"),
        ("def reach(): return eval('1')", "eval reaches"),
        ("from pathlib import Path\ndef reach(): return Path('f').read_text()", "read_text reads"),
        ("from pathlib import Path\nP = Path('f')\ndef reach(): return P.open().read()", "open reads"),
        ("import numpy as np\ndef reach(): return np.loadtxt('f')", "loadtxt reads"),
        ("import numpy as np\ndef reach(): return np.load('f')", "np.load reads"),
        ("import importlib\ndef reach(): return importlib.import_module('m').k", "import_module reads"),
        ("from importlib import import_module\ndef reach(): return import_module('m').k", "import_module reads"),
        ("import sys\ndef reach(): return sys.modules['m'].k", "sys.modules reads"),
        ("def reach():\n    import runpy\n    return runpy.run_path('f')", "run_path reads"),
        ("def reach(): return getattr(module, 'k')", "module: the module of_somebody"),
        ("def reach():\n    import of_somebody", "reach imports of_somebody"),
        ("def reach():\n    from . import re", "reach imports"),
        ("def reach(): return module.nothing", "module.nothing is not defined"),
        ("D = []\nD.append(D)\ndef reach(): return D", "holds others too deep"),
    ):
        space = _defined(textwrap.dedent(source) + MODEL, module=module)
        with pytest.raises(ValueError, match=name):
            incremental(IngestionPipeline(transformations=[space["Model"]()]), tmp_path)

    class Holding(Lengths):
        scale: float = 1.0
        _held: Any = PrivateAttr(None)

    for scale, held, files in ((1.0, None, 1), (2.0, None, 2), (2.0, [1], 3), (2.0, [1], 3)):
        model = Holding(scale=scale)
        model._held = held
        incremental(IngestionPipeline(transformations=[model]), tmp_path / "held").run(documents=documents(["a"]))
        assert len(list((tmp_path / "held").iterdir())) == files
    model._held = object()
    with pytest.raises(ValueError, match="its _held: object can't be told"):
        incremental(IngestionPipeline(transformations=[model]), tmp_path)


def test_a_method_that_was_put_in_place_of_an_installed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def vector() -> Any:
        pipeline = incremental(IngestionPipeline(transformations=[MockEmbedding(embed_dim=2)]), tmp_path)
        return pipeline.run(documents=[Document(text="a", id_="a")])[0].embedding

    assert vector() == vector() == [0.5, 0.5]
    monkeypatch.setattr(MockEmbedding, "_get_text_embedding", lambda self, text: [7.0])
    assert vector() == vector() == [7.0]
