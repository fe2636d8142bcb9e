"""The contract between the executor and one vector store that takes vectors directly."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from aaflow_plugins.embedding import Vectors


class VectorSink(ABC):
    """How rows with finished vectors enter one native store, without a detour over lists of floats.

    Provided by an adapter or a plug-in (hook `aaflow_sink`) for a store that it knows exactly. Stores without
    a sink are filled through their own native call.

    Attributes:
        takes_buffer: True if vectors enter as one buffer of float32, and nothing more exact is looked at
            (`Vectors.exact`); False if the native store wants lists of floats, a copy that the report counts.
    """

    takes_buffer: bool = True

    @property
    @abstractmethod
    def dimension(self) -> int | None:
        """Floats a vector must have; None while the store is empty and takes any."""

    def refusal(self, ids: Sequence[str | None]) -> str | None:
        """Why the store would refuse rows with these ids, or None if it takes them. Nothing is changed."""
        return None

    @abstractmethod
    def upsert(
        self,
        texts: Sequence[str],
        metadatas: Sequence[Mapping[str, Any]],
        ids: Sequence[str | None],
        vectors: Vectors,
    ) -> list[str]:
        """Add rows in order, as the native call would with the same rows, and return their ids.

        Args:
            texts: The stored texts.
            metadatas: One mapping a row; the store keeps what the native call would keep.
            ids: One id a row, or None for an id of the store's own making.
            vectors: One vector a row.

        Raises:
            Exception: What the native call raises for the same rows.
        """
