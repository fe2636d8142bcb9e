"""`SimpleDirectoryReader` whose `num_workers` read text files side by side in this process.

Natively each worker is a process that starts anew: seconds go by before the first file is read, and documents are
pickled on their way back. Text is read and decoded sooner than that; where a file system is slow, threads wait for it
as well as processes do. Without `num_workers` files are read one by one, as natively.
"""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from inspect import signature
from pathlib import PosixPath
from types import SimpleNamespace
from typing import Any, Final

from llama_index.core import SimpleDirectoryReader
from llama_index.core.readers.file import base as native_module
from llama_index.core.schema import Document

from aaflow_plugins.known_code import is_from
from llama_index_aaflow.known_code import is_known
from llama_index_aaflow.native_classes import StandsFor, found, overridden, with_names

#: What the threads call of the native code, beside `load_file`.
_CALLED: Final = ("default_file_metadata_func", "_format_file_timestamp", "_try_loading_included_file_formats")

_LOCAL: Final = type(native_module.get_default_fs())

#: Those that never give a lone surrogate, which pydantic refuses with an error that processes can't send.
_ENCODINGS: Final = frozenset({"utf-8", "utf8", "UTF-8", "utf-16", "ascii", "latin-1", "cp1252"})
_ERRORS: Final = frozenset({"strict", "ignore", "replace", "backslashreplace"})

#: A file, and the other arguments of `load_file` by name.
_Task = tuple[Any, dict[str, Any]]


def accelerate_reader(reader: Any) -> Any:
    """A reader of the same class that gives the same documents, and sooner where it is told of `num_workers`.

    Args:
        reader: Any `SimpleDirectoryReader`. It is not changed.

    Returns:
        The accelerated reader, with the same files and settings; `reader` itself where `native_reason` has something
        to say.
    """
    if isinstance(reader, ReadsInThreads) or native_reason(reader) is not None:
        return reader
    cls = ReadsInThreads.aaflow_class(type(reader), None)
    made = cls.__new__(cls)
    vars(made).update(vars(reader))
    return made


def native_reason(reader: Any) -> str | None:
    """Why a reader, accelerated or not, works natively; None if its `num_workers` may be threads."""
    native: Any = reader.aaflow_native if isinstance(reader, ReadsInThreads) else type(reader)
    if "load_data" in vars(reader):
        return "the object has its own load_data"
    if found(native, "load_data") is not found(SimpleDirectoryReader, "load_data"):
        return f"{native.__qualname__} overrides load_data"
    if not is_known(found(native, "load_data")):
        return f"the installed llama-index-core has another load_data of {native.__qualname__} than known"
    return overridden(native, SimpleDirectoryReader)


class ReadsInThreads(StandsFor):
    """What stands for a `SimpleDirectoryReader`."""

    @classmethod
    def aaflow_methods(cls, native: Any, *_: Any) -> dict[str, Any]:
        """The native `load_data`, for which the module `multiprocessing` is another."""
        instead = SimpleNamespace(cpu_count=lambda: multiprocessing.cpu_count(), get_context=_Context)
        names = {**vars(native_module), "multiprocessing": instead}
        return {"load_data": with_names(found(native, "load_data"), names)}


class _Context:
    """A context of a start method, as far as `load_data` uses it."""

    def __init__(self, method: str) -> None:
        self._method = method

    def Pool(self, processes: int) -> _Pool:
        return _Pool(self._method, processes)


class _Pool:
    """A pool that begins when it knows its work."""

    def __init__(self, method: str, processes: int) -> None:
        self._method, self._processes = method, processes
        self._open = ExitStack()

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def imap(self, function: partial[Any], files: Iterable[Any]) -> Iterator[Any]:
        """The documents of each file, in order.

        Raises:
            Exception: What `load_file` raised, when it is the file's turn.
        """
        files = list(files)
        threads = self._threads([(file, function.keywords) for file in files])
        return self._pool().imap(function, files) if threads is None else threads

    def starmap(self, function: Callable[..., Any], given: Iterable[tuple[Any, ...]]) -> list[Any]:
        """The documents of each file, in order, as the oldest versions ask for them.

        Raises:
            Exception: What `load_file` raised first, by order of files.
        """
        given = list(given)
        _, *names = signature(function).parameters
        threads = self._threads([(file, dict(zip(names, rest, strict=False))) for file, *rest in given])
        return self._pool().starmap(function, given) if threads is None else list(threads)

    def _pool(self) -> Any:
        return self._open.enter_context(multiprocessing.get_context(self._method).Pool(self._processes))

    def _threads(self, tasks: list[_Task]) -> Iterator[Any] | None:
        """The results of native `load_file`, called in threads; None where not all is known."""
        if not _code_is_known():
            return None
        formats = _formats()
        if not all(_is_text(file, formats, **settings) for file, settings in tasks):
            return None
        load = partial(_load, with_names(SimpleDirectoryReader.load_file, _names(formats)))
        threads = ThreadPoolExecutor(self._processes)
        self._open.callback(threads.shutdown, cancel_futures=True)
        return threads.map(load, tasks)


def _names(formats: dict[str, Any]) -> dict[str, Any]:
    """The native module's names, where the readers of other formats are known."""
    reader = SimpleNamespace(supported_suffix_fn=lambda: formats)
    return {**vars(native_module), "SimpleDirectoryReader": reader}


def _load(native: Callable[..., list[Document]], task: _Task) -> list[Document]:
    """The documents of a file as they come from a process."""
    documents = native(task[0], **task[1])
    for document in documents:
        document.model_fields_set.update(document.__dict__)  # pickling sets every field
    return documents


def _is_text(
    file: Any,
    formats: Collection[str],
    file_metadata: Any,
    file_extractor: Any,
    encoding: Any,
    errors: Any,
    fs: Any,
    **_: Any,
) -> bool:
    """Whether a file is text to native `load_file`, and on the local file system: nothing of the user's is called."""
    return (
        type(file) is PosixPath
        and type(file_metadata) is native_module._DefaultFileMetadataFunc
        and _is_local(fs)
        and _is_local(file_metadata.fs)
        and encoding in _ENCODINGS
        and errors in _ERRORS
        and (suffix := file.suffix.lower()) not in formats
        and suffix not in file_extractor
    )


def _is_local(fs: Any) -> bool:
    return type(fs) is _LOCAL and not any(callable(value) for value in vars(fs).values())


def _code_is_known() -> bool:
    """Whether the native functions that the threads call are the ones that were installed."""
    functions = [
        native_module._DefaultFileMetadataFunc.__call__,
        *(getattr(native_module, name) for name in _CALLED),
    ]
    return (
        is_known(SimpleDirectoryReader.load_file)
        and SimpleDirectoryReader.supported_suffix_fn is native_module._try_loading_included_file_formats
        and all(is_from(function, native_module) for function in functions)
    )


def _formats() -> dict[str, Any]:
    """Readers of other formats by suffix, asked for once; nobody is told if they are missing, as of a process."""
    native = native_module._try_loading_included_file_formats
    unheard = logging.Logger("unheard", logging.CRITICAL)
    formats: dict[str, Any] = with_names(native, {**vars(native_module), "logger": unheard})()
    return formats
