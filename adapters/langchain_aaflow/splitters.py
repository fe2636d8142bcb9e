"""LangChain text splitters, accelerated: the same classes, the same chunks and Documents, sooner.

`accelerate_splitter` gives a splitter whose class is a subclass of the native one, with the native object's own
attributes. It replaces `split_text` and `create_documents`; everything else, from `split_documents` to
`atransform_documents`, is native and ends up in these two. What can't be reproduced exactly, from a custom length
function to a text that holds a special token, is passed on to the native method.
"""

from __future__ import annotations

import copy
from abc import ABCMeta
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any, ClassVar, Final, cast

from langchain_core.documents import Document
from langchain_text_splitters import (
    CharacterTextSplitter,
    LatexTextSplitter,
    MarkdownHeaderTextSplitter,
    MarkdownTextSplitter,
    PythonCodeTextSplitter,
    RecursiveCharacterTextSplitter,
    TextSplitter,
    TokenTextSplitter,
    base,
    character,
)

from aaflow_plugins.collector import paused_collector
from langchain_aaflow.documents import documents, is_tree, metadata_copier
from langchain_aaflow.splitting.configuration import (
    Split,
    character_split,
    header_split,
    recursive_split,
    token_split,
)
from langchain_aaflow.splitting.known_code import is_known
from langchain_aaflow.splitting.markdown import sections_by_header


def accelerate_splitter(splitter: Any) -> Any:
    """Give a splitter that does the same sooner.

    Args:
        splitter: Any object; it is left as it is.

    Returns:
        An object of a subclass of the splitter's class, or the splitter itself if nothing of it can be
        accelerated or it is accelerated already.
    """
    native: Any = type(splitter)
    if isinstance(splitter, Accelerated) or _class_reason(native) is not None:
        return splitter
    attributes = vars(splitter)
    if not _replaced(native) or _overridden(attributes) is not None:
        return splitter
    if not issubclass(native, TextSplitter) and native_reason(splitter) is not None:
        return splitter
    accelerated = object.__new__(accelerated_class(native))
    accelerated.__dict__.update(attributes)
    return accelerated


def native_reason(splitter: Any) -> str | None:
    """Why a splitter, accelerated or not, splits texts natively; None if it takes the fast path.

    Documents can be built faster from natively split texts all the same.
    """
    native: Any = splitter._native if isinstance(splitter, Accelerated) else type(splitter)
    reason = _class_reason(native) or _splitting_reason(native) or _overridden(vars(splitter))
    if reason is not None:
        return reason
    family = cast(_Family, _family(native))
    if isinstance(splitter, Accelerated):
        derived = type(splitter)
        for method in family.methods:
            owner = family.replacement if method == "split_text" else native
            if getattr(derived, method) is not getattr(owner, method):
                return f"{derived.__qualname__} overrides {method}"
    configured = family.configure(splitter)
    return configured if isinstance(configured, str) else None


class Accelerated:
    """What accelerated splitters have in common: they are copied and pickled as what they were made from."""

    _native: ClassVar[Any]
    _calls_known_code: ClassVar[Callable[[Any, Any], bool]]

    def __reduce_ex__(self, protocol: Any) -> str | tuple[Any, ...]:
        """Name the native class, so that a class made at run time can be restored."""
        if "_native" not in vars(type(self)):  # A subclass that somebody wrote: it has a name to be found by.
            return super().__reduce_ex__(protocol)
        return _restore, (self._native,), vars(self)


def _restore(native: Any) -> Any:
    return object.__new__(accelerated_class(native) if _replaced(native) else native)


class _SplitsText(Accelerated, TextSplitter):
    """`split_text` without the native pieces."""

    _configure: ClassVar[Callable[[Any], Split | str]]

    def split_text(self, text: str) -> list[str]:
        """Split a text into chunks, as the native method does."""
        native_split: Any = super().split_text  # type: ignore[safe-super]
        if type(text) is str and type(self)._calls_known_code(self, native_split):
            split = type(self)._configure(self)
            if not isinstance(split, str):
                chunks = split(text, False)
                if chunks is not None:
                    return chunks.texts
        return cast(list[str], native_split(text))


class _CreatesDocuments(Accelerated, TextSplitter):
    """`create_documents` without validation, and with metadata copied as deep as it is."""

    def create_documents(self, texts: list[str], metadatas: list[dict[Any, Any]] | None = None) -> list[Document]:
        """Create Documents from texts, as the native method does."""
        native_create: Any = super().create_documents
        if not is_known(getattr(native_create, "__func__", None)):
            return cast(list[Document], native_create(texts, metadatas))
        metadatas_ = metadatas or [{}] * len(texts)
        if self._splits_by_known_code(super().split_text):  # type: ignore[safe-super]
            split = cast(Any, type(self))._configure(self)
            if not isinstance(split, str):
                if type(texts) is list and len(texts) == 1 and type(texts[0]) is str and len(texts[0]) < _LITTLE_TEXT:
                    return self._split_into_documents(texts, metadatas_, split)
                with paused_collector():
                    return self._split_into_documents(texts, metadatas_, split)
        made: list[Document] = []
        for index, text in enumerate(texts):
            # The collector keeps running here: what a splitter unknown to us leaves behind may hold cycles.
            chunks = list(self.split_text(text))
            if chunks:
                with paused_collector():
                    made += self._checked_documents(text, chunks, metadatas_[index])
        return made

    def _splits_by_known_code(self, native_split: Any) -> bool:
        """Whether `split_text` is the accelerated one, with nothing put in the place of what it reproduces."""
        return (
            type(self).split_text is _SplitsText.split_text
            and "split_text" not in vars(self)
            and type(self)._calls_known_code(self, native_split)
        )

    def _split_into_documents(self, texts: Sequence[str], metadatas: Sequence[Any], split: Split) -> list[Document]:
        want_ends = bool(self._add_start_index)
        made: list[Document] = []
        for index, text in enumerate(texts):
            chunks = split(text, want_ends) if type(text) is str else None
            if chunks is None:
                native_chunks = self.split_text(text)
                if native_chunks:
                    made += self._checked_documents(text, native_chunks, metadatas[index])
            elif chunks.texts:
                metadata = metadatas[index]
                if type(metadata) is dict:
                    made += self._documents(text, chunks.texts, chunks.ends, metadata)
                else:
                    made += self._validated_documents(text, chunks.texts, metadata)
        return made

    def _checked_documents(self, text: str, chunks: list[str], metadata: Any) -> Iterable[Document]:
        """Documents of chunks that some other code made."""
        if type(metadata) is dict and all(type(chunk) is str for chunk in chunks):
            return self._documents(text, chunks, None, metadata)
        return self._validated_documents(text, chunks, metadata)

    def _documents(
        self, text: str, chunks: list[str], ends: list[int] | None, metadata: dict[Any, Any]
    ) -> list[Document]:
        if self._add_start_index and not is_tree(metadata):
            return list(self._validated_documents(text, chunks, metadata))
        copied = metadata_copier(metadata)
        metadatas = [copied() for _ in chunks]
        if self._add_start_index:
            overlap = self._chunk_overlap
            index = previous = 0
            for position, chunk in enumerate(chunks):
                start = max(0, index + previous - overlap)
                # One occurrence ends by `ends`, so the first from `start` on ends by it too, or begins before.
                index = text.find(chunk, start, ends[position]) if ends and ends[position] >= 0 else -1
                if index < 0:
                    index = text.find(chunk, start)
                metadatas[position]["start_index"] = index
                previous = len(chunk)
        return documents(chunks, metadatas)

    def _validated_documents(self, text: str, chunks: list[str], metadata: Any) -> Iterator[Document]:
        """Documents made as native makes them, for what it may refuse."""
        index = previous = 0
        for chunk in chunks:
            own = copy.deepcopy(metadata)
            if self._add_start_index:
                index = text.find(chunk, max(0, index + previous - self._chunk_overlap))
                own["start_index"] = index
                previous = len(chunk)
            yield Document(page_content=chunk, metadata=own)


class _SplitsMarkdown(Accelerated, MarkdownHeaderTextSplitter):
    """`MarkdownHeaderTextSplitter.split_text` line by line instead of character by character."""

    def split_text(self, text: str) -> list[Document]:
        """Split a Markdown text into Documents, as the native method does."""
        native_split: Any = super().split_text
        if (
            type(text) is not str
            or len(text) < _TINY_MARKDOWN
            or not type(self)._calls_known_code(self, native_split)
            or header_split(self) is not None
        ):
            return cast(list[Document], native_split(text))
        sections = sections_by_header(self, text)
        with paused_collector():
            return documents([content for content, _ in sections], [dict(under) for _, under in sections])


#: Characters below which a single text makes too few Documents for a pause of the collector to pay.
_LITTLE_TEXT: Final = 5_000

#: Characters below which checking the configuration takes longer than native takes to split.
_TINY_MARKDOWN: Final = 100


@dataclass(frozen=True)
class _Family:
    """A native class whose way of splitting is reproduced.

    Attributes:
        native: The class.
        methods: Its methods that make up this way, `split_text` first: a subclass must inherit all of them.
        functions: Functions beside them, each by its module and name.
        configure: Gives the fast path for an object of the class, or the reason why there is none.
        replacement: The class that takes the fast path.
    """

    native: type[Any]
    methods: tuple[str, ...]
    functions: tuple[tuple[ModuleType, str], ...]
    configure: Callable[[Any], Any]
    replacement: type[Accelerated]

    def watch(self) -> Callable[[Any, Any], bool]:
        """What tells whether native's `split_text`, given bound, would call the present functions on a splitter.

        Others may be patched onto a class or an object at any time, or be a subclass's own.
        """
        split_text: Any = self.native.split_text
        methods = [(method, getattr(self.native, method)) for method in self.methods[1:]]
        functions = [(vars(module), name, getattr(module, name)) for module, name in self.functions]
        names = frozenset(self.methods[1:])

        def calls_known_code(splitter: Any, native_split: Any) -> bool:
            if getattr(native_split, "__func__", None) is not split_text or not names.isdisjoint(vars(splitter)):
                return False
            cls = type(splitter)
            for name, function in methods:
                if getattr(cls, name, None) is not function:
                    return False
            for namespace, name, function in functions:  # noqa: SIM110 - a generator would cost as much as all of this
                if namespace.get(name) is not function:
                    return False
            return True

        return calls_known_code


_FAMILIES: Final = (
    _Family(
        RecursiveCharacterTextSplitter,
        ("split_text", "_split_text", "_merge_splits", "_join_docs"),
        ((character, "_split_text_with_regex"),),
        recursive_split,
        _SplitsText,
    ),
    _Family(
        CharacterTextSplitter,
        ("split_text", "_merge_splits", "_join_docs"),
        ((character, "_split_text_with_regex"),),
        character_split,
        _SplitsText,
    ),
    _Family(TokenTextSplitter, ("split_text",), ((base, "split_text_on_tokens"),), token_split, _SplitsText),
    _Family(
        MarkdownHeaderTextSplitter,
        ("split_text", "aggregate_lines_to_chunks", "_is_custom_header"),
        (),
        header_split,
        _SplitsMarkdown,
    ),
)

#: The methods that make Documents of chunks in every `TextSplitter`.
_DOCUMENT_METHODS: Final = ("create_documents",)

#: What a subclass may not have a way of its own of, because the accelerated object bypasses or replaces it.
_OBJECT_METHODS: Final = (
    "__new__",
    "__getattribute__",
    "__setattr__",
    "__reduce__",
    "__reduce_ex__",
    "__getstate__",
    "__setstate__",
    "__copy__",
    "__deepcopy__",
    "__init_subclass__",
)


def _family(native: type[Any]) -> _Family | None:
    return next((family for family in _FAMILIES if issubclass(native, family.native)), None)


@lru_cache(maxsize=256)
def _class_reason(native: Any) -> str | None:
    """Why nothing of a class can be accelerated."""
    name = native.__qualname__
    if not issubclass(native, (TextSplitter, MarkdownHeaderTextSplitter)):
        return f"{name} is no text splitter that is known here"
    if type(native) not in (type, ABCMeta):
        return f"{name} has a metaclass of its own"
    base = TextSplitter if issubclass(native, TextSplitter) else MarkdownHeaderTextSplitter
    for method in _OBJECT_METHODS:
        if _defined_between(native, base, method):
            return f"{name} has its own {method}"
    if any(vars(cls).get("__slots__") for cls in native.__mro__):
        return f"{name} has slots"
    return None


def _defined_between(native: type[Any], base: type[Any], method: str) -> bool:
    return any(method in vars(cls) for cls in native.__mro__ if cls not in base.__mro__)


def _splitting_reason(native: Any) -> str | None:
    """Why a class does not split texts in a way that is reproduced here."""
    family = _family(native)
    if family is None:
        return f"{native.__qualname__} splits in a way of its own"
    for method in family.methods:
        if getattr(native, method) is not getattr(family.native, method):
            return f"{native.__qualname__} overrides {method}"
    for method in family.methods:
        if not is_known(getattr(native, method)):
            owner = next(cls for cls in native.__mro__ if method in vars(cls))
            return f"the installed langchain-text-splitters has another {owner.__qualname__}.{method} than known"
    for module, name in family.functions:
        if not is_known(getattr(module, name)):
            return f"the installed langchain-text-splitters has another {name} than known"
    return None


def _replaced(native: Any) -> tuple[type[Accelerated], ...]:
    """The classes whose methods take the place of a native class's own."""
    replaced: list[type[Accelerated]] = []
    if _splitting_reason(native) is None:
        replaced.append(cast(_Family, _family(native)).replacement)
    if issubclass(native, TextSplitter) and all(
        getattr(native, method) is getattr(TextSplitter, method) and is_known(getattr(native, method))
        for method in _DOCUMENT_METHODS
    ):
        replaced.append(_CreatesDocuments)
    return tuple(replaced)


def _overridden(attributes: dict[str, Any]) -> str | None:
    """The reason why an object whose own attributes hide a method has to stay native."""
    for family in _FAMILIES:
        for method in (*family.methods, *_DOCUMENT_METHODS):
            if method in attributes:
                return f"the object has its own {method}"
    return None


def accelerated_class(native: Any) -> Any:
    """The accelerated subclass of a native splitter's class.

    Raises:
        TypeError: If nothing of the class can be accelerated.
    """
    replaced = () if _class_reason(native) is not None else _replaced(native)
    if not replaced:
        raise TypeError(f"{native.__qualname__} can't be accelerated: {_class_reason(native) or 'unknown code'}")
    return _accelerated_class(native, replaced)


@lru_cache(maxsize=256)
def _accelerated_class(native: Any, replaced: tuple[type[Accelerated], ...]) -> Any:
    namespace: dict[str, Any] = {
        "__doc__": f"`{native.__qualname__}`, accelerated.",
        "__module__": __name__,
        "_native": native,
    }
    family = _family(native)
    if family is not None and family.replacement in replaced:
        namespace["_configure"] = family.configure
        namespace["_calls_known_code"] = family.watch()
    return type(native)(f"Accelerated{native.__name__}", (*replaced, native), namespace)


def _defined(native: Any) -> Any:
    try:
        return accelerated_class(native)
    except TypeError:
        return native


#: The accelerated forms of the native splitters, under names of their own; the native class itself where its code is
#: not known.
AcceleratedCharacterTextSplitter = _defined(CharacterTextSplitter)
AcceleratedLatexTextSplitter = _defined(LatexTextSplitter)
AcceleratedMarkdownHeaderTextSplitter = _defined(MarkdownHeaderTextSplitter)
AcceleratedMarkdownTextSplitter = _defined(MarkdownTextSplitter)
AcceleratedPythonCodeTextSplitter = _defined(PythonCodeTextSplitter)
AcceleratedRecursiveCharacterTextSplitter = _defined(RecursiveCharacterTextSplitter)
AcceleratedTokenTextSplitter = _defined(TokenTextSplitter)
