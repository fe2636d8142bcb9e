"""CodeSplitter gives the native nodes, whether it counts characters or tokens."""

from __future__ import annotations

import sysconfig
from pathlib import Path
from typing import Any

import pytest
import tree_sitter_python
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.node_parser import CodeSplitter
from llama_index.core.schema import Document, ImageDocument, TextNode
from tree_sitter import Language, Parser

from llama_index_aaflow import accelerate, node_parsers
from llama_index_aaflow.node_parsers import Accelerated, native_reason
from tests.generated import examples
from tests.llama_index.parsing_outcomes import assert_same, document_of, numbered, outcome, visible
from tests.llama_index.tracing import spans, watched

counts_tokens = pytest.mark.skipif("count_mode" not in CodeSplitter.model_fields, reason="it counts characters alone")
MODES = [{}, pytest.param({"count_mode": "token"}, marks=counts_tokens)]

CODE = (
    'import os\n\n\ndef add(a, b):\n    """Add numbers."""\n    return a + b  # sum\n\n\nclass A:\n    x = [1, 2]\n' * 4
)
LINES = [
    *("def f(a):", "    return a", "class B:", "    def m(self): pass", "x = 1", "", "    # \u4e2d\u6587 comment"),
    *(
        "y = '" + "word " * 30 + "'",
        "if x:",
        "    y(1,",
        "      2)",
        "@deco",
        "s = '<|endoftext|>'",
        "t = '''\U0001f600",
    ),
    *("'''", "\tz", "1 +", "\u00e9 = 'e\u0301'", "print(f'{x!r}')", "async def g(): await h"),
]


def splitter_of(**given: Any) -> Any:
    parser = Parser(Language(tree_sitter_python.language()))
    return CodeSplitter("python", **{"parser": parser, "id_func": numbered, "max_chars": 120, **given})


# -- nodes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "files"), [({}, 30), pytest.param({"count_mode": "token"}, 6, marks=counts_tokens)])
def test_real_code(mode: dict[str, Any], files: int) -> None:
    paths = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"), key=lambda path: path.stat().st_size)
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in paths[20 : 20 + 3 * files : 3]]
    parser = CodeSplitter("python", parser=splitter_of()._parser, id_func=numbered, **mode)
    assert_same(parser, [document_of(text, id_=str(number)) for number, text in enumerate(texts)])


@pytest.mark.parametrize("mode", MODES)
def test_any_code(mode: dict[str, Any]) -> None:
    @settings(max_examples=examples(60), deadline=None, derandomize=True)
    @given(st.lists(st.lists(st.sampled_from(LINES), max_size=14), max_size=2), st.integers(1, 60))
    def check(given: list[list[str]], size: int) -> None:
        tokens = {"max_tokens": size} if mode else {}
        parser = splitter_of(max_chars=size * 4, **tokens, **mode)
        assert_same(parser, [document_of("\n".join(lines), id_=str(n)) for n, lines in enumerate(given)])

    check()


@counts_tokens
@pytest.mark.parametrize("tokenizer", [str.split, lambda text: list(text.encode()), lambda text: text[3]])
def test_somebodys_tokenizer(tokenizer: Any) -> None:
    assert_same(splitter_of(count_mode="token", max_tokens=9, tokenizer=tokenizer), [document_of(CODE)])


@pytest.mark.parametrize("mode", MODES)
def test_documents_of_all_kinds(mode: dict[str, Any]) -> None:
    parser = splitter_of(max_chars=60, **mode)
    documents: list[Any] = [
        *(document_of(text) for text in ("", " \n", "x", "((")),
        Document(text=CODE, id_="a", metadata={"x": [1]}, excluded_embed_metadata_keys=["x"]),
        TextNode(text=CODE, id_="b", metadata={"c": 1}),
        ImageDocument(text=CODE, id_="c", image=b"hello"),
    ]
    for document in documents:
        assert_same(parser, [document])
    parsed = [document for document in documents if document.text != "(("]
    assert_same(splitter_of(include_metadata=False, include_prev_next_rel=False, **mode), parsed)


def test_ids_and_errors() -> None:
    assert_same(splitter_of(id_func=lambda index, document: 1 / (2 - index)), [document_of(CODE)])
    parser = splitter_of()
    parser._parser = None
    assert_same(parser, [document_of(CODE)])


# -- as natively -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_it_is_the_native_class_to_everybody(mode: dict[str, Any]) -> None:
    parser = splitter_of(**mode)
    accelerated = accelerate(parser)
    assert isinstance(accelerated, Accelerated)
    assert isinstance(accelerated, CodeSplitter)
    assert accelerate(accelerated) is accelerated
    assert native_reason(accelerated) is None
    assert accelerated.to_dict() == parser.to_dict()
    assert accelerated.split_text(CODE) == parser.split_text(CODE)
    accelerated.max_chars = parser.max_chars = 50
    assert accelerated.split_texts([CODE, "x"]) == parser.split_texts([CODE, "x"])
    pipeline = IngestionPipeline(transformations=[parser], disable_cache=True)
    made = visible(accelerate(pipeline).run(documents=[document_of(CODE)]))
    assert made == visible(pipeline.run(documents=[document_of(CODE)]))


@pytest.mark.parametrize("mode", MODES)
def test_events_and_spans(mode: dict[str, Any]) -> None:
    told = []
    for change in (lambda parser: parser, accelerate):
        manager, events = watched()
        with spans() as seen:
            change(splitter_of(callback_manager=manager, **mode)).get_nodes_from_documents([document_of(CODE)])
        told.append((events, seen))
    assert told[0] == told[1]
    assert all(told[0])


@counts_tokens
def test_tokens_are_counted_by_what_is_known_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    parser = splitter_of(count_mode="token", max_tokens=12)
    native, asked = node_parsers.counter_for, []

    def counter_for(tokenizer: Any, text: str) -> Any:
        asked.append(text)
        return native(tokenizer, text)

    monkeypatch.setattr(node_parsers, "counter_for", counter_for)
    assert accelerate(parser).split_text(CODE) == parser.split_text(CODE)
    assert asked == [CODE]


def test_a_way_of_its_own_stays_native(monkeypatch: pytest.MonkeyPatch) -> None:
    for method in ("split_text", "_chunk_node"):
        mine: Any = type("Mine", (CodeSplitter,), {method: lambda self, *given: [], "__module__": __name__})
        parser = mine("python", parser=splitter_of()._parser)
        assert accelerate(parser) is parser
        assert method in str(native_reason(parser))
    accelerated = accelerate(splitter_of())
    monkeypatch.setattr(CodeSplitter, "_chunk_node", lambda self, *given: ["patched"])
    native = outcome(lambda: splitter_of().get_nodes_from_documents([document_of(CODE)]))
    assert outcome(lambda: accelerated.get_nodes_from_documents([document_of(CODE)])) == native
