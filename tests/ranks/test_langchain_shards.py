"""Shards: each rank keeps its block, and all together are what one process makes."""

from __future__ import annotations

import numpy as np
import pytest

from aaflow_plugins.engines.communicator import Communicator, RankError
from aaflow_plugins.shards import all_counts, check_same_texts, embed_edges

pytestmark = pytest.mark.own_block


def test_batches_are_those_of_one_process(ranks: Communicator) -> None:
    """Whatever the blocks: batches across several of them, blocks without a text, none at all."""
    random = np.random.default_rng(7)
    with ranks.together("edges"):
        for _ in range(25):
            counts = random.choice([0, 1, 2, 5, 13], ranks.size).tolist()
            batch_size = int(random.choice([1, 2, 4, 7, 30]))
            whole = [f"text {number} \ud800" for number in range(sum(counts))]
            start = sum(counts[: ranks.rank])
            own = whole[start : start + counts[ranks.rank]]
            made: list[list[str]] = []

            def embed(batch: list[str], made: list[list[str]] = made) -> list[list[float]]:
                made.append(batch)
                return [[0.1 + whole.index(text), len(batch)] for text in batch]

            edges = embed_edges(ranks, own, batch_size, embed)
            between = own[len(edges.first) : len(own) - len(edges.last)]
            rows = list(edges.first)
            for position in range(0, len(between), batch_size):
                rows += embed(between[position : position + batch_size])
            rows += edges.last
            batches = [whole[position : position + batch_size] for position in range(0, len(whole), batch_size)]
            lengths = [len(batch) for batch in batches for _ in batch][start : start + len(own)]
            assert rows == [[0.1 + start + row, length] for row, length in enumerate(lengths)]
            assert all(batch in batches for batch in made)
            assert sum(all_counts(ranks, len(made))) == len(batches)


def test_other_texts(ranks: Communicator) -> None:
    with pytest.raises(RankError, match="rank 1 has other data than rank 0"), ranks.together("texts"):  # noqa: PT012
        check_same_texts(ranks, ["a", "b"])
        check_same_texts(ranks, ["a", str(ranks.rank)])
