"""The fast path for `HuggingFaceEmbeddings`: the model's own matrix, not turned into lists of Python floats.

The native method runs unchanged on a copy of the object whose model hands its array through: prompts, encode
arguments, progress bars and worker pools are the native code's business. All texts are one call, since a
text's vector depends in its last bits on the texts it is padded with.
"""

from __future__ import annotations

import copy
import inspect
from types import FunctionType
from typing import Any

import numpy as np
from langchain_core.embeddings import Embeddings

from aaflow_plugins.embedding import Request, Vectors
from langchain_aaflow.embedders import NativeEmbedder


class HuggingFaceEmbedder(NativeEmbedder):
    """Sends all texts in one native call and keeps the float32 matrix that the model returns."""

    def __init__(self, embeddings: Embeddings) -> None:
        super().__init__(embeddings)

    def describe(self) -> str:
        """One line for `explain()`."""
        size = "all texts" if self.batch_size is None else f"{self.batch_size} texts"
        return f"{type(self.embeddings).__name__}: {size} a call, the model's matrix as it is"

    def send(self, request: Request) -> Any:
        """Encode all texts; raises what the native call raises."""
        through = copy.copy(self.embeddings)
        name = "_client" if hasattr(through, "_client") else "client"  # langchain_huggingface, langchain_community
        setattr(through, name, _Model(getattr(through, name)))
        return through.embed_documents(request.payload)

    async def asend(self, request: Request) -> Any:
        """Encode all texts in a thread, as natively."""
        from langchain_core.runnables.config import run_in_executor

        return await run_in_executor(None, self.send, request)

    def vectors(self, reply: Any, first: int) -> Vectors:
        """A float32 matrix is taken as it is; anything else is rows, as natively."""
        if isinstance(reply, _Array):
            array = reply.array
            if isinstance(array, np.ndarray) and array.ndim == 2 and array.dtype == np.float32:
                return Vectors(
                    np.ascontiguousarray(array), bytes_copied=0 if array.flags.c_contiguous else array.nbytes
                )
            reply = array.tolist()
        return super().vectors(reply, first)


class _Array:
    """What the model returned, in place of the lists that the native method asks it for."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def tolist(self) -> _Array:
        return self


class _Model:
    """The native model, whose arrays are not turned into lists."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def encode(self, *args: Any, **kwargs: Any) -> Any:
        return _hand_through(self._model.encode(*args, **kwargs))

    def encode_multi_process(self, *args: Any, **kwargs: Any) -> Any:
        return _hand_through(self._model.encode_multi_process(*args, **kwargs))


def _hand_through(result: Any) -> Any:
    # A list, for one, is what the native method refuses.
    return _Array(result) if hasattr(result, "tolist") else result


def native_reason(embeddings: Embeddings, known: type) -> str | None:
    """Why this object's calls are left to the native code; None if the fast path is exact for it.

    Args:
        embeddings: The object.
        known: The native class it is of, or inherits from.
    """
    owner = type(embeddings)
    for name in ("embed_documents", "aembed_documents", "_embed"):
        method, native = inspect.getattr_static(owner, name, None), inspect.getattr_static(known, name, None)
        if method is not native or name in vars(embeddings):
            return f"{owner.__name__} has a {name} of its own"
        if name in vars(known) and not (
            isinstance(native, FunctionType) and native.__code__.co_filename == inspect.getfile(known)
        ):
            return f"{owner.__name__}.{name} has been replaced"
    return None
