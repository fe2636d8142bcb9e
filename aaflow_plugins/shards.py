"""Shards: each rank keeps what comes of its own block of the input.

Blocks are contiguous, so that what the ranks hold, one after the other, is what one process would hold. Batches of
texts to embed are those of one process too: a batch is embedded as a whole, by the rank that has its first text
(`embed_edges`) or by one that has less to do (`embed_evenly`), and no other texts and vectors go from rank to rank. On
disk shards are folders beside a manifest, which says how many rows each has.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from aaflow_plugins.engines.communicator import Communicator
from aaflow_plugins.engines.tasks import digest_of

#: What says which shards a folder has; written last, so that a folder without it was never finished.
MANIFEST: Final = "manifest.json"
_FORMAT: Final = "aaflow-shards"
_VERSION: Final = 1


def blocks(sizes: Sequence[int], ranks: int) -> list[range]:
    """Which items each rank takes: contiguous blocks of about the same size.

    Args:
        sizes: Size of each item, not negative; where all are 0 each item counts the same.
        ranks: How many ranks there are.

    Returns:
        For each rank the positions of its items, all of them in order. No block is larger than the mean by more than
        the largest item; a block may be empty.
    """
    ends = list(accumulate(sizes))
    if not (ends and ends[-1]):
        sizes, ends = [1] * len(sizes), list(range(1, len(sizes) + 1))
    # An item belongs to the rank within whose share of the total its middle lies.
    owners = [min((2 * end - size) * ranks // (2 * ends[-1]), ranks - 1) for size, end in zip(sizes, ends, strict=True)]
    firsts = np.searchsorted(owners, np.arange(ranks + 1)).tolist()
    return [range(start, stop) for start, stop in pairwise(firsts)]


def share_of(total: int, ranks: Communicator) -> int:
    """What this rank gets of a number that is for the whole job (calls in flight): at least 1."""
    return max(1, total // ranks.size + (ranks.rank < total % ranks.size))


def check_same_texts(ranks: Communicator, texts: Iterable[str]) -> None:
    """Raise on all ranks if they have not come with the same texts.

    Raises:
        RankError: Naming the first rank whose texts are not those of rank 0.
    """
    what = "has other data than rank 0: give all ranks the same, or say Executor(partitioned=True)"
    ranks.compare(digest_of(texts), what)


def all_counts(ranks: Communicator, count: int) -> list[int]:
    """The numbers that the ranks have come with, in the order of the ranks."""
    counts: list[int] = ranks.all_gather(pa.table({"count": pa.array([count], pa.int64())}))["count"].to_pylist()
    return counts


# -- batches of texts ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Edges:
    """Vectors of those of a rank's texts whose batch lies on several ranks.

    Attributes:
        first: One row for each of the rank's first texts that belong to a batch begun before them, and of the batch
            after those where the rank has no `last`.
        last: One row for each of its last texts, from the beginning of a batch that goes on in the next ranks.
    """

    first: list[Any]
    last: list[Any]


def embed_edges(
    ranks: Communicator, texts: Sequence[str], batch_size: int, embed: Callable[[list[str]], Sequence[Any]]
) -> Edges:
    """Embed the batches that lie on several ranks, each on the rank that has its first text.

    All ranks make this call together. What is left, `texts[len(edges.first) : len(texts) - len(edges.last)]`, begins
    where a batch begins: it is for the rank itself to embed, `batch_size` texts a batch.

    Args:
        ranks: The ranks.
        texts: This rank's texts; those of all ranks, one after the other, are the whole input.
        batch_size: Texts a batch; batch `b` has the texts `b * batch_size` to `(b + 1) * batch_size` of the input.
        embed: Embeds the texts of one batch, one row a text: lists of numbers or one-dimensional arrays.

    Raises:
        TypeError: If a row that another rank waits for is neither.
        Exception: What `embed` raises.
    """
    ends = np.cumsum(all_counts(ranks, len(texts)))
    lent = _Lent(ranks, texts, ends, -(-ends // batch_size) * batch_size)
    begun = len(texts) - ends[ranks.rank] % batch_size if lent.after else len(texts)
    own = texts[begun:]
    # Where no batch goes on in the next ranks this one would only wait for the others, which embed one batch each.
    idle = ranks.size > 1 and not own
    whole = _embedded(texts[lent.kept.start :][:batch_size] if idle else [], embed)
    rows = _embedded([*own, *lent.after], embed)
    first, _ = lent.returned([], rows[len(own) :])
    return Edges([*first, *whole], rows[: len(own)])


def embed_evenly(
    ranks: Communicator, texts: Sequence[str], batch_size: int, embed: Callable[[list[str]], Sequence[Any]]
) -> list[Any]:
    """Embed the texts of all ranks, as many batches on one rank as on another, wherever the texts are.

    All ranks make this call together. Neighbouring batches are one rank's, so that what goes from rank to rank is what
    some ranks have more than others, and no rank waits for another before it has embedded its share.

    Args:
        ranks: The ranks.
        texts: This rank's texts; those of all ranks, one after the other, are the whole input.
        batch_size: Texts a batch, as for `embed_edges`.
        embed: Embeds consecutive texts from the beginning of a batch on, one row a text: lists of numbers or
            one-dimensional arrays.

    Returns:
        The rows of this rank's texts.

    Raises:
        TypeError: If a row that another rank waits for is neither.
        Exception: What `embed` raises.
    """
    ends = np.cumsum(all_counts(ranks, len(texts)))
    batches = -(-ends[-1] // batch_size)
    shares = -(-batches * np.arange(1, ranks.size + 1) // ranks.size)
    lent = _Lent(ranks, texts, ends, shares * batch_size)
    rows = _embedded([*lent.before, *texts[lent.kept], *lent.after], embed)
    stop = len(rows) - len(lent.after)
    first, last = lent.returned(rows[: len(lent.before)], rows[stop:])
    return [*first, *rows[len(lent.before) : stop], *last]


def _embedded(texts: Sequence[str], embed: Callable[[list[str]], Sequence[Any]]) -> list[Any]:
    rows = list(embed(list(texts))) if texts else []
    if len(rows) != len(texts):
        raise ValueError(f"{len(rows)} vectors for {len(texts)} texts")
    return rows


class _Lent:
    """Texts at other ranks than those that have them, until their vectors come back.

    Each rank embeds a run of consecutive texts, most of which it has.

    Attributes:
        before: What this rank embeds of the texts that ranks before it have.
        after: The same of ranks after it.
        kept: Which of its own texts it embeds.
    """

    def __init__(self, ranks: Communicator, texts: Sequence[str], ends: Any, runs: Any) -> None:
        """Lend texts; all ranks make this call together.

        Args:
            ranks: The ranks.
            texts: This rank's.
            ends: For each rank the number of texts up to the last of its own.
            runs: For each rank the number of texts, or more, up to the last of those it embeds.
        """
        self._ranks, self._ends = ranks, ends
        stop = int(ends[ranks.rank])
        start = stop - len(texts)
        takers = np.searchsorted(runs, np.arange(start, stop), side="right")
        first, last = np.searchsorted(takers, [ranks.rank, ranks.rank + 1]).tolist()
        self.kept = slice(first, last)
        self._to_lower = first
        away = [*range(first), *range(last, len(texts))]
        sent = [texts[row].encode("utf-8", "surrogatepass") for row in away]
        numbers = np.array(away, np.int64) + start
        came = _shuffled(ranks, takers[away], number=numbers, text=pa.array(sent, pa.large_binary()))
        self._numbers = came["number"].to_numpy()
        taken = [text.decode("utf-8", "surrogatepass") for text in came["text"].to_pylist()]
        split = int(np.searchsorted(self._numbers, start))
        self.before, self.after = taken[:split], taken[split:]

    def returned(self, before: Sequence[Any], after: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """Give back the vectors of what was taken; all ranks make this call together.

        Args:
            before: A row for each text of `before`.
            after: A row for each text of `after`.

        Returns:
            The rows of this rank's texts in front of `kept`, and of those behind.

        Raises:
            TypeError: If a row is neither a list of numbers nor a one-dimensional array.
        """
        columns = vector_columns([*before, *after])
        homes = np.searchsorted(self._ends, self._numbers, side="right")
        rows = vectors_in(_shuffled(self._ranks, homes, **columns))
        return rows[: self._to_lower], rows[self._to_lower :]


def _shuffled(ranks: Communicator, to: Any, **columns: pa.Array) -> pa.Table:
    return ranks.shuffle(pa.table({"to": pa.array(to, pa.int64()), **columns}), "to")


#: What is told of a vector that is missing.
_MISSING: Final = ""


def pack_vector(row: Any) -> tuple[str, bytes]:
    """A vector as bytes that say exactly what it is, and of which kind.

    Raises:
        TypeError: If it is no list of numbers of Python's or numpy's, nor a one-dimensional array.
    """
    if isinstance(row, np.ndarray) and row.ndim == 1 and row.dtype.kind in "fiu":
        return row.dtype.str, row.tobytes()
    kinds = set(map(type, row)) if type(row) is list else {object}
    if kinds == {float}:
        return "floats", np.array(row).tobytes()
    if kinds <= {float, int}:
        return "numbers", json.dumps(row).encode()
    if len(kinds) == 1 and issubclass(kinds.pop(), np.integer | np.floating):
        packed = np.array(row)
        return f"list {packed.dtype.str}", packed.tobytes()
    raise TypeError(f"a vector is no list of numbers, but {str(row)[:100]}: it can't go to another rank")


def unpack_vector(kind: str, row: bytes) -> Any:
    """The vector that `pack_vector` was given."""
    if kind == _MISSING:
        return None
    if kind == "numbers":
        return json.loads(row)
    if kind.startswith("list "):
        return list(np.frombuffer(row, kind.removeprefix("list ")))
    return np.frombuffer(row).tolist() if kind == "floats" else np.frombuffer(row, kind).copy()


def vector_columns(vectors: Sequence[Any], *, some_missing: bool = False) -> dict[str, pa.Array]:
    """Columns of a table between ranks that say exactly what vectors are: a row each, as `pack_vector` has it.

    Args:
        vectors: The vectors.
        some_missing: Whether None stands for one that is missing.

    Raises:
        TypeError: As `pack_vector` does.
    """
    packed = [(_MISSING, b"") if some_missing and row is None else pack_vector(row) for row in vectors]
    kinds, rows = zip(*packed, strict=True) if packed else ((), ())
    return {"kind": pa.array(kinds, pa.string()), "row": pa.array(rows, pa.large_binary())}


def vectors_in(table: pa.Table) -> list[Any]:
    """The vectors that `vector_columns` was given."""
    return list(map(unpack_vector, table["kind"].to_pylist(), table["row"].to_pylist()))


# -- shards on disk --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Manifest:
    """What the shards of a folder are.

    Attributes:
        kind: The native class whose objects the shards are.
        rows: Rows of each shard, in order.
        width: Floats a vector; None where there is none.
        settings: Whatever else is needed to load them; plain values.
    """

    kind: str
    rows: list[int]
    width: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def write(self, folder: str | os.PathLike[str]) -> None:
        """Write it at once: it is there as a whole, or not at all."""
        target = Path(folder) / MANIFEST
        beside = target.with_suffix(".part")
        beside.write_text(json.dumps({"format": _FORMAT, "version": _VERSION, **asdict(self)}, indent=1), "utf-8")
        with beside.open("rb+") as written:
            os.fsync(written.fileno())
        beside.replace(target)

    @classmethod
    def read(cls, folder: str | os.PathLike[str], kinds: Iterable[str] | None = None) -> Manifest:
        """The manifest of a folder.

        Args:
            folder: The folder.
            kinds: Which native classes' shards are wanted; None for any.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If it is torn, another program's, of a version that is not known, or of another class.
        """
        path = Path(folder) / MANIFEST
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; the folder has no shards, or saving them never ended")
        try:
            held = json.loads(path.read_text("utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is damaged: {error}") from error
        if not isinstance(held, dict) or held.pop("format", None) != _FORMAT:
            raise ValueError(f"{path} is no manifest of shards")
        if (found := held.pop("version", None)) != _VERSION:
            raise ValueError(f"{path} is of version {found}; this release reads version {_VERSION}")
        if not _is_whole(held):
            raise ValueError(f"{path} is damaged: it doesn't say what the shards are")
        manifest = cls(**held)
        if kinds is not None and manifest.kind not in (wanted := list(kinds)):
            raise ValueError(f"{path} is of shards of {manifest.kind}, not of {' or '.join(wanted)}")
        return manifest

    @staticmethod
    def shard(folder: str | os.PathLike[str], number: int) -> Path:
        """Where the shard of a number is."""
        return Path(folder) / f"shard-{number:05d}"


def _is_whole(held: dict[str, Any]) -> bool:
    rows = held.get("rows")
    return (
        held.keys() == {"kind", "rows", "width", "settings"}
        and isinstance(held["kind"], str)
        and isinstance(rows, list)
        and all(type(count) is int and count >= 0 for count in rows)
        and (held["width"] is None or type(held["width"]) is int)
        and isinstance(held["settings"], dict)
    )
