"""What an accelerated object was told about joining its concurrent calls."""

from __future__ import annotations

from dataclasses import dataclass

from aaflow_plugins.batching import Batching, active

#: Joins the calls of objects that join outside of all `batching()` blocks too.
_everywhere = Batching()


@dataclass(frozen=True)
class Joins:
    """What an accelerated object was told about joining.

    Attributes:
        always: Whether it joins outside of `batching()` blocks too.
        batch_queries: Whether its queries may be embedded in one call, whatever the embeddings.
    """

    always: bool = False
    batch_queries: bool = False

    @property
    def scope(self) -> Batching | None:
        """What joins now, if anything does."""
        return active() or (_everywhere if self.always else None)


#: What objects do that were told nothing.
IN_BLOCKS = Joins()
