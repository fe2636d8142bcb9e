"""An accelerated splitter is the native splitter in every way but its speed."""

from __future__ import annotations

import copy
import gc
import json
import pickle
from collections import OrderedDict
from functools import partial, wraps
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document
from langchain_core.load import dumps
from langchain_text_splitters import (
    CharacterTextSplitter,
    MarkdownHeaderTextSplitter,
    RecursiveCharacterTextSplitter,
    RecursiveJsonSplitter,
    TextSplitter,
    TokenTextSplitter,
    character,
)

from aaflow_plugins.known_code import digest, source_of, structure
from langchain_aaflow import documents as documents_module
from langchain_aaflow.documents import metadata_copier
from langchain_aaflow.splitters import Accelerated, accelerate_splitter, native_reason
from langchain_aaflow.splitting import known_code
from tests.generated import examples
from tests.langchain.splitting_outcomes import assert_same, outcome, visible

TEXT = "One paragraph of the text.\n\nAnother one, a little longer than the first.\n\n" * 20


class OnlySettings(RecursiveCharacterTextSplitter):
    """A user's subclass that overrides nothing."""

    def __init__(self, label: str = "mine") -> None:
        super().__init__(chunk_size=50, chunk_overlap=5)
        self.label = label


class Shouting(CharacterTextSplitter):
    """A user's subclass that splits in its own way."""

    def split_text(self, text: str) -> list[str]:
        return [chunk.upper() for chunk in super().split_text(text)]


class JoiningOtherwise(RecursiveCharacterTextSplitter):
    def _join_docs(self, docs: list[str], separator: str) -> str | None:
        return "|".join(docs)


class OwnDocuments(RecursiveCharacterTextSplitter):
    def create_documents(self, texts: Any, metadatas: Any = None) -> list[Document]:
        return [Document(page_content="+".join(self.split_text(text))) for text in texts]


class Nothing(TextSplitter):
    """Gives chunks that are not all plain strings, lazily."""

    class Text(str):
        __slots__ = ()

    def split_text(self, text: str) -> Any:
        return (self.Text(part) for part in text.split())


class Reduced(RecursiveCharacterTextSplitter):
    def __reduce__(self) -> Any:
        return Reduced, ()


def native_splitters() -> list[Any]:
    return [
        RecursiveCharacterTextSplitter(chunk_size=60, chunk_overlap=10),
        CharacterTextSplitter(separator=" ", chunk_size=60, chunk_overlap=10),
        MarkdownHeaderTextSplitter([("#", "h1")]),
        OnlySettings(),
        Shouting(separator=" ", chunk_size=30, chunk_overlap=0),
        JoiningOtherwise(chunk_size=60, chunk_overlap=10),
        OwnDocuments(chunk_size=60, chunk_overlap=10),
        Nothing(),
    ]


@pytest.mark.parametrize("splitter", native_splitters(), ids=lambda splitter: type(splitter).__name__)
def test_the_object(splitter: Any) -> None:
    """Class, attributes, pickles and copies are those of the native object; the original stays as it was."""
    before = dict(vars(splitter))
    accelerated = accelerate_splitter(splitter)
    assert isinstance(accelerated, type(splitter))
    assert type(accelerated) is not type(splitter)
    assert vars(accelerated) == vars(splitter) == before
    assert accelerate_splitter(accelerated) is accelerated
    assert type(accelerate_splitter(splitter)) is type(accelerated)
    for twin in (
        copy.copy(accelerated),
        copy.deepcopy(accelerated),
        *(pickle.loads(pickle.dumps(accelerated, protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)),
    ):
        assert type(twin) is type(accelerated)
        assert vars(twin) == before
        assert outcome(lambda twin=twin: list(twin.split_text(TEXT))) == outcome(
            lambda: list(splitter.split_text(TEXT))
        )


@pytest.mark.parametrize(
    "splitter", [one for one in native_splitters() if isinstance(one, TextSplitter)], ids=lambda one: type(one).__name__
)
async def test_every_way_to_split_documents(splitter: Any) -> None:
    """All public ways, synchronous and not, give the native Documents."""
    accelerated = accelerate_splitter(splitter)
    source = [
        Document(page_content=TEXT, metadata={"source": "a", "n": 1}, id="one"),
        Document(page_content="", metadata={"source": "b"}),
        Document(page_content=TEXT[:30], metadata={}),
    ]
    assert visible(accelerated.split_documents(iter(source))) == visible(splitter.split_documents(iter(source)))
    assert visible(accelerated.transform_documents(source)) == visible(splitter.transform_documents(source))
    assert visible(await accelerated.atransform_documents(source)) == visible(
        await splitter.atransform_documents(source)
    )
    assert visible(accelerated.create_documents(["a b", TEXT])) == visible(splitter.create_documents(["a b", TEXT]))
    metadatas = ({"n": number} for number in range(2))
    assert outcome(lambda: accelerated.create_documents(iter([TEXT]), list(metadatas))) == outcome(
        lambda: splitter.create_documents(iter([TEXT]), [{"n": 0}, {"n": 1}])
    )
    assert outcome(lambda: accelerated.create_documents(iter([TEXT]))) == outcome(
        lambda: splitter.create_documents(iter([TEXT]))
    )


def test_reasons() -> None:
    """What runs natively is named, and the reason is None exactly where the fast path is taken."""
    reasons = {type(splitter).__name__: native_reason(splitter) for splitter in native_splitters()}
    assert reasons == {
        "RecursiveCharacterTextSplitter": None,
        "CharacterTextSplitter": None,
        "MarkdownHeaderTextSplitter": None,
        "OnlySettings": None,
        "Shouting": "Shouting overrides split_text",
        "JoiningOtherwise": "JoiningOtherwise overrides _join_docs",
        "OwnDocuments": None,
        "Nothing": "Nothing splits in a way of its own",
    }
    for splitter in native_splitters():
        assert native_reason(accelerate_splitter(splitter)) == native_reason(splitter)
    counted = RecursiveCharacterTextSplitter(length_function=lambda text: len(text.split()))
    assert native_reason(counted) == "its length_function may count the same text differently each time it is called"
    assert native_reason(Reduced()) == "Reduced has its own __reduce__"
    assert native_reason(RecursiveJsonSplitter()) == "RecursiveJsonSplitter is no text splitter that is known here"


@pytest.mark.parametrize("other", [RecursiveJsonSplitter(), Reduced(), None, "text", 3])
def test_what_is_left_alone(other: Any) -> None:
    """An object of which nothing can be accelerated comes back as it is."""
    assert accelerate_splitter(other) is other


def test_methods_on_the_object_win() -> None:
    """A method put on the object itself goes on being called."""
    splitter = RecursiveCharacterTextSplitter(chunk_size=60, chunk_overlap=10)
    splitter._merge_splits = lambda splits, separator: ["mine"]  # type: ignore[method-assign,assignment]
    assert accelerate_splitter(splitter) is splitter
    assert native_reason(splitter) == "the object has its own _merge_splits"


def test_stateful_length_function_is_called_as_natively() -> None:
    """A length function of the user's own sees the native calls, in the native order."""

    def counting(calls: list[str]) -> Any:
        def length(text: str) -> int:
            calls.append(text)
            return len(text) + len(calls) % 3

        return length

    native_calls: list[str] = []
    calls: list[str] = []
    native = RecursiveCharacterTextSplitter(chunk_size=40, chunk_overlap=8, length_function=counting(native_calls))
    accelerated = accelerate_splitter(
        RecursiveCharacterTextSplitter(chunk_size=40, chunk_overlap=8, length_function=counting(calls))
    )
    assert visible(accelerated.create_documents([TEXT])) == visible(native.create_documents([TEXT]))
    assert calls == native_calls


@pytest.mark.parametrize("name", ["_merge_splits", "_join_docs", "_split_text"])
def test_methods_put_on_an_accelerated_object(name: str) -> None:
    """A method put on the accelerated object is called from then on, and no more once it is taken away."""
    splitter = RecursiveCharacterTextSplitter(chunk_size=60, chunk_overlap=10)
    accelerated = accelerate_splitter(splitter)
    for one in (splitter, accelerated):
        setattr(one, name, lambda *_: ["mine"] if name != "_join_docs" else "mine")
    assert visible(accelerated.split_text(TEXT)) == visible(splitter.split_text(TEXT))
    assert "mine" in accelerated.split_text(TEXT)
    assert visible(accelerated.create_documents([TEXT])) == visible(splitter.create_documents([TEXT]))
    assert native_reason(accelerated) == f"the object has its own {name}"
    for one in (splitter, accelerated):
        delattr(one, name)
    assert native_reason(accelerated) is None
    assert visible(accelerated.create_documents([TEXT])) == visible(splitter.create_documents([TEXT]))


def test_split_text_put_on_an_accelerated_object() -> None:
    """Documents are made of what the object's own `split_text` gives."""
    accelerated = accelerate_splitter(RecursiveCharacterTextSplitter(chunk_size=60, chunk_overlap=10))
    accelerated.split_text = lambda text: ["mine"]
    made = accelerated.split_documents([Document(page_content=TEXT, metadata={"n": 1})])
    assert visible(made) == visible([Document(page_content="mine", metadata={"n": 1})])


def test_subclass_of_an_accelerated_class() -> None:
    """What a subclass of the accelerated class overrides is called, and it is copied as itself."""
    splitters = [
        RecursiveCharacterTextSplitter(chunk_size=60, chunk_overlap=10),
        CharacterTextSplitter(separator=" ", chunk_size=60, chunk_overlap=10),
    ]
    for splitter in splitters:
        base: Any = type(splitter)
        accelerated_base: Any = type(accelerate_splitter(splitter))

        def classes(base: Any) -> list[Any]:
            class Joins(base):  # type: ignore[misc]
                def _join_docs(self, docs: list[str], separator: str) -> str | None:
                    return "|".join(docs)

            class Splits(base):  # type: ignore[misc]
                def split_text(self, text: str) -> list[str]:
                    return [chunk.upper() for chunk in super().split_text(text)]

            class Creates(base):  # type: ignore[misc]
                def create_documents(self, texts: Any, metadatas: Any = None) -> list[Document]:
                    return [*super().create_documents(texts, metadatas), Document(page_content="last")]

            class Nothing(base):  # type: ignore[misc]
                pass

            return [Joins, Splits, Creates, Nothing]

        for native_class, derived_class in zip(classes(base), classes(accelerated_base), strict=True):
            native, derived = object.__new__(native_class), object.__new__(derived_class)
            for one in (native, derived):
                vars(one).update(vars(splitter))
            for twin in (derived, copy.copy(derived), copy.deepcopy(derived)):
                assert type(twin) is derived_class
                assert visible(twin.split_text(TEXT)) == visible(native.split_text(TEXT))
                assert visible(twin.create_documents([TEXT])) == visible(native.create_documents([TEXT]))
            overrides = [name for name in vars(native_class) if name in ("_join_docs", "split_text")]
            reason = f"{derived_class.__qualname__} overrides {overrides[0]}" if overrides else None
            assert native_reason(derived) == reason


def test_subclass_of_an_accelerated_markdown_splitter() -> None:
    """The Markdown splitter asks its own methods as well."""
    splitter = MarkdownHeaderTextSplitter([("#", "h1")])
    accelerated = accelerate_splitter(splitter)
    text = "# One\n\ntext\n\n# Two\n\nmore text\n" * 10
    for one in (splitter, accelerated):
        one.aggregate_lines_to_chunks = lambda lines: [Document(page_content=str(len(lines)))]
    assert visible(accelerated.split_text(text)) == visible(splitter.split_text(text))
    assert len(accelerated.split_text(text)) == 1


PATCHED = [
    (TextSplitter, "_merge_splits"),
    (TextSplitter, "_join_docs"),
    (TextSplitter, "create_documents"),
    (RecursiveCharacterTextSplitter, "split_text"),
    (RecursiveCharacterTextSplitter, "_split_text"),
    (character, "_split_text_with_regex"),
]


@pytest.mark.parametrize(("owner", "name"), PATCHED, ids=lambda one: getattr(one, "__name__", one))
def test_instrumented_native_code_is_called(owner: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrapped around a native function sees native's calls, whenever it is put there."""
    before = accelerate_splitter(RecursiveCharacterTextSplitter(chunk_size=60, chunk_overlap=10))
    original = getattr(owner, name)
    calls: list[str] = []

    @wraps(original)
    def instrumented(*args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        return original(*args, **kwargs)

    native = RecursiveCharacterTextSplitter(chunk_size=60, chunk_overlap=10)
    truth = visible(native.create_documents([TEXT]))
    monkeypatch.setattr(owner, name, instrumented)
    assert visible(native.create_documents([TEXT])) == truth
    expected, calls[:] = len(calls), []
    assert expected
    after = accelerate_splitter(native)
    for splitter in (before, after, pickle.loads(pickle.dumps(before))):
        calls.clear()
        assert visible(splitter.create_documents([TEXT])) == truth
        assert len(calls) == expected
    if name != "create_documents":
        assert "than known" in str(native_reason(before))
        assert native_reason(before) == native_reason(after) == native_reason(native)
    monkeypatch.undo()
    calls.clear()
    assert visible(before.create_documents([TEXT])) == truth
    assert not calls
    assert type(accelerate_splitter(native)) is type(before)


def test_changed_native_code_is_not_reproduced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A version of langchain-text-splitters with other code keeps its own path."""
    from langchain_aaflow import splitters

    known = dict(known_code._KNOWN)
    known["TextSplitter._merge_splits"] = frozenset({"something else"})
    monkeypatch.setattr(known_code, "_KNOWN", known)
    caches = (known_code._is_known, splitters._accelerated_class)
    for cache in caches:
        cache.cache_clear()
    try:
        splitter = CharacterTextSplitter(separator=" ", chunk_size=30, chunk_overlap=0)
        assert native_reason(splitter) == (
            "the installed langchain-text-splitters has another TextSplitter._merge_splits than known"
        )
        accelerated = accelerate_splitter(splitter)
        assert "split_text" not in {
            name for cls in type(accelerated).__mro__ if issubclass(cls, Accelerated) for name in vars(cls)
        }
        assert visible(accelerated.create_documents([TEXT])) == visible(splitter.create_documents([TEXT]))
    finally:
        monkeypatch.undo()
        for cache in caches:
            cache.cache_clear()


def test_installed_code_is_known() -> None:
    """The installed release takes the fast path; where this fails, look at what changed and add its structure."""
    for cls in (RecursiveCharacterTextSplitter, CharacterTextSplitter, TokenTextSplitter):
        for name in ("split_text", "_split_text", "_merge_splits", "_join_docs", "create_documents"):
            method = getattr(cls, name, None)
            assert method is None or known_code.is_known(method), (name, structure(method))


def test_structure_ignores_words_and_sees_code() -> None:
    """Docstrings, comments and annotations don't change the structure of a function; code does."""

    def first(one: int, two: str = "x") -> str:
        """Say something."""
        return two * one  # Twice.

    def second(one, two="x"):  # type: ignore[no-untyped-def]
        return two * one

    def third(one, two="y"):  # type: ignore[no-untyped-def]
        return two * one

    digests = [structure(function).strip() for function in (first, second, third)]
    renamed = [digest(source_of(function).replace(function.__name__, "f")) for function in (first, second, third)]
    assert len(set(digests)) == 3
    assert renamed[0] == renamed[1] != renamed[2]
    assert structure(len) == ""


atoms = st.one_of(st.text(max_size=5), st.integers(), st.floats(allow_nan=False), st.booleans(), st.none())
metadata_values = st.recursive(
    st.one_of(atoms, st.sampled_from([(1, "two"), frozenset({3}), b"bytes"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.text(max_size=3), inner, max_size=3),
        st.tuples(inner, inner),
        st.lists(inner, max_size=2).map(lambda shared: [shared, shared]),
    ),
    max_leaves=8,
)


@settings(max_examples=examples(200), deadline=None, derandomize=True)
@given(
    st.dictionaries(st.one_of(st.text(max_size=3), st.integers(), st.just("start_index")), metadata_values, max_size=5)
)
def test_metadata(metadata: dict[Any, Any]) -> None:
    """Metadata of every shape is copied as deeply as natively, aliases within it included."""
    splitter = RecursiveCharacterTextSplitter(chunk_size=60, chunk_overlap=10, add_start_index=True)
    before = copy.deepcopy(metadata)
    assert_same(splitter, [TEXT[:200]], [metadata])
    assert metadata == before
    copied, deep = metadata_copier(metadata)(), copy.deepcopy(metadata)
    assert pickle.dumps(copied) == pickle.dumps(deep) or copied == deep
    assert _identities(copied, metadata) == _identities(deep, metadata)
    assert _aliases(copied) == _aliases(deep)


def _containers(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [value, *(inner for item in value.values() for inner in _containers(item))]
    if isinstance(value, list | tuple):
        return [value, *(inner for item in value for inner in _containers(item))]
    return []


def _aliases(value: Any) -> list[int]:
    """For each mutable container the place of its first occurrence."""
    identities = [id(one) for one in _containers(value) if not isinstance(one, tuple)]
    return [identities.index(identity) for identity in identities]


def _identities(value: Any, original: Any) -> list[bool]:
    """For each mutable container whether it is one of the original's."""
    originals = {id(one) for one in _containers(original)}
    return [id(one) in originals for one in _containers(value) if not isinstance(one, tuple)]


@pytest.mark.parametrize("add_start_index", [False, True])
def test_metadata_that_holds_itself(add_start_index: bool) -> None:
    """What refers back to the metadata refers to the native dict, which is not quite the Document's own."""
    metadata: dict[str, Any] = {"n": 1}
    metadata |= {"self": metadata, "list": [metadata]}
    splitter = RecursiveCharacterTextSplitter(chunk_size=60, chunk_overlap=10, add_start_index=add_start_index)
    rows = []
    for one in (splitter, accelerate_splitter(splitter)):
        made = one.create_documents([TEXT], [metadata])
        rows.append([
            (
                document.page_content,
                list(own),
                own["self"] is own,
                own["list"][0] is own["self"],
                own["self"]["self"] is own["self"],
                list(own["self"]),
                own["self"].get("start_index"),
                own.get("start_index"),
            )
            for document in made
            for own in [document.metadata]
        ])  # fmt: skip
    assert rows[0] == rows[1]
    assert set(metadata) == {"n", "self", "list"}


def test_metadata_is_isolated() -> None:
    """Changing a chunk's metadata, nested values included, shows nowhere else."""
    metadata = {"flat": 1, "tree": {"list": [1, {"deep": []}]}, "tuple": ([],)}
    source = Document(page_content=TEXT, metadata=metadata)
    made = accelerate_splitter(RecursiveCharacterTextSplitter(chunk_size=60, chunk_overlap=10)).split_documents(
        [source]
    )
    untouched = copy.deepcopy(metadata)
    made[0].metadata["flat"] = 2
    made[0].metadata["tree"]["list"][1]["deep"].append("x")
    made[0].metadata["tuple"][0].append("y")
    assert all(document.metadata == untouched for document in made[1:])
    assert source.metadata == untouched


def test_documents_are_native() -> None:
    """Documents built without validation can't be told from validated ones."""
    made = accelerate_splitter(RecursiveCharacterTextSplitter(chunk_size=60, chunk_overlap=10)).create_documents(
        [TEXT], [{"source": "a", "nested": {"list": [1, 2]}}]
    )
    for document in made[:5]:
        native = Document(page_content=document.page_content, metadata=dict(document.metadata))
        assert document == native
        assert visible(document) == visible(native)
        assert repr(document) == repr(native)
        assert str(document) == str(native)
        assert document.model_dump_json() == native.model_dump_json()
        assert dumps(document) == dumps(native)
        assert json.loads(document.model_dump_json(exclude_unset=True)).keys() == {"metadata", "page_content"}
        assert pickle.loads(pickle.dumps(document)) == native
        assert visible(copy.deepcopy(document)) == visible(copy.deepcopy(native))
        assert visible(document.model_copy(update={"id": "x"})) == visible(native.model_copy(update={"id": "x"}))
        document.page_content = "changed"
        native.page_content = "changed"
        assert visible(document) == visible(native)


def test_unknown_document_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """If Document ever gains a field, Documents are made the native way."""
    monkeypatch.setattr(documents_module, "_FORM_IS_KNOWN", False)
    assert_same(RecursiveCharacterTextSplitter(chunk_size=60, chunk_overlap=10), [TEXT], [{"a": [1]}])


@pytest.mark.parametrize(
    "metadatas",
    [
        [None],
        [3],
        ["text"],
        [[("a", 1)]],
        [],
        [{}],
        [{"a": lambda: 1}],
        [{"a": gc}],
        [{1: 2, None: 3, (4,): [5]}],
        [OrderedDict(a=[1])],
    ],
)
def test_metadata_that_is_no_plain_dict(metadatas: Any) -> None:
    """What native refuses or turns into something else is refused and turned likewise."""
    for add_start_index in (False, True):
        splitter = RecursiveCharacterTextSplitter(chunk_size=60, chunk_overlap=10, add_start_index=add_start_index)
        accelerated = accelerate_splitter(splitter)
        native = outcome(partial(splitter.create_documents, [TEXT], metadatas))
        assert outcome(partial(accelerated.create_documents, [TEXT], metadatas)) == native


def test_too_few_metadatas() -> None:
    """Metadata that runs out raises once a chunk needs it, as natively."""
    splitter = RecursiveCharacterTextSplitter(chunk_size=60, chunk_overlap=10)
    accelerated = accelerate_splitter(splitter)
    for texts in (["a", "b"], ["a", ""], ["", "a"]):
        assert outcome(lambda texts=texts: accelerated.create_documents(texts, [{"n": 1}])) == outcome(
            lambda texts=texts: splitter.create_documents(texts, [{"n": 1}])
        )


def test_what_is_no_document() -> None:
    """A source of something else than Documents raises what it raises natively."""
    splitter = RecursiveCharacterTextSplitter(chunk_size=60, chunk_overlap=10)
    accelerated = accelerate_splitter(splitter)
    for source in (["text"], [None], None, 3):
        assert outcome(lambda source=source: accelerated.split_documents(source)) == outcome(
            lambda source=source: splitter.split_documents(source)
        )


def test_collector_is_left_running() -> None:
    """The cyclic collector runs after a split, after one that raised as well."""
    accelerated = accelerate_splitter(RecursiveCharacterTextSplitter(chunk_size=60, chunk_overlap=10))
    accelerated.create_documents([TEXT] * 20)
    assert gc.isenabled()
    with pytest.raises(TypeError):
        accelerated.create_documents([TEXT, 3])
    assert gc.isenabled()
