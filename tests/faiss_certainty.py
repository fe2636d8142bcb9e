"""Which searches of a batch on a faiss index are answered from the batch: both adapters' tests ask."""

from __future__ import annotations

from typing import Any

import pytest

from faiss_aaflow import search as faiss_search


def certainty(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each query from now on, whether the batch's candidates settled it."""
    certain: list[bool] = []
    top = faiss_search._certain_top

    def counted(*args: Any) -> Any:
        answer = top(*args)
        certain.append(answer is not None)
        return answer

    monkeypatch.setattr(faiss_search, "_certain_top", counted)
    return certain
