"""A folder of Arrow files that holds what was made of each document, for several processes at once.

A file is written under another name, forced to disk and renamed, and never changed afterwards: who is killed while
writing leaves nothing that is read. Each run adds one file with what was new to it, so that processes which write at
the same time write different files. When there are many, they are merged into one, and only what the merged file
holds is deleted. A file's name is the digest of its bytes; one whose bytes are others is told of and set aside.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
import uuid
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import pyarrow as pa

from aaflow_plugins.dataplane.schemas import vector
from aaflow_plugins.dataplane.vectors import to_arrow, to_numpy

Table: TypeAlias = Any  # pa.Table; pyarrow ships no type hints

DAY: Final = 24 * 60 * 60

#: Files that are merged into one.
_MANY: Final = 32

#: Characters that are written at once, and entries that are copied at once.
_PIECE: Final = 8_000_000
_ROWS: Final = 1024

#: The form of the files; those of another are left alone.
_FORMAT: Final = {b"aaflow.documents": b"1"}


@dataclass(frozen=True)
class Kept:
    """What is kept under one key.

    Attributes:
        payload: Text, without lone surrogates.
        vectors: Vectors that belong to it, of any lengths.
    """

    payload: str
    vectors: list[list[float]]


class Entries:
    """What the folder held at one moment.

    Attributes:
        tables: Tables of the files that were read, by path.
    """

    def __init__(self) -> None:
        self.tables: dict[Path, Table] = {}
        self._places: dict[bytes, tuple[Path, int]] = {}
        self._seen: dict[bytes, int] = {}

    def __contains__(self, key: bytes) -> bool:
        """Whether anything is kept under a key."""
        return key in self._places

    def add(self, path: Path, table: Table) -> None:
        """Take the entries of a file in."""
        self.tables[path] = table
        keys, seen = table["key"].to_pylist(), table["seen"].to_pylist()
        holds = table["payload"].is_valid().to_pylist()
        for row, key in enumerate(keys):
            self._seen[key] = max(seen[row], self._seen.get(key, 0))
            if holds[row]:
                self._places.setdefault(key, (path, row))

    def get(self, key: bytes) -> Kept:
        """What is kept under a key.

        Raises:
            KeyError: If nothing is.
        """
        path, row = self._places[key]
        table = self.tables[path]
        exact = table["exact"][row].as_py()
        if not exact:
            values = table["vectors"][row].values
            exact = to_numpy(values).tolist() if len(values) else []
        return Kept(table["payload"][row].as_py(), exact)

    def stale(self, keys: Iterable[bytes], now: int) -> list[bytes]:
        """Which of some keys were not used within the last day."""
        return sorted({key for key in keys if self._seen[key] <= now - DAY})

    def survivors(self, since: float) -> dict[int, Iterator[Table]]:
        """The entries that were used since a time, by the length of their vectors, some at a time."""
        rows: dict[Path, list[int]] = {}
        for key, (path, row) in self._places.items():
            if self._seen[key] >= since:
                rows.setdefault(path, []).append(row)
        paths: dict[int, list[Path]] = {}
        for path in rows:
            paths.setdefault(_width(self.tables[path].schema), []).append(path)
        return {width: self._parts({path: rows[path] for path in some}) for width, some in paths.items()}

    def _parts(self, rows: Mapping[Path, list[int]]) -> Iterator[Table]:
        for path, some in rows.items():
            for start in range(0, len(some), _ROWS):
                part = self.tables[path].take(some[start : start + _ROWS])
                seen = [self._seen[key] for key in part["key"].to_pylist()]
                yield part.set_column(1, part.schema.field("seen"), pa.array(seen, pa.int64()))


class Folder:
    """The folder.

    Args:
        path: Where it is; made when something is written.
        keep_days: Days that an entry outlasts its last use; it is dropped when files are merged later.
    """

    def __init__(self, path: str, keep_days: float) -> None:
        self._path = Path(path)
        self._keep_seconds = keep_days * DAY

    def read(self) -> Entries:
        """What is there at this moment.

        Warns:
            UserWarning: If a file is damaged; it is renamed, and what it held counts as not there. If a file or the
                folder can't be read; it is left alone, and counts as not there.
        """
        entries = Entries()
        gone: set[Path] = set()
        again = True
        while again:  # Another process has merged files since they were listed: theirs is in the new one.
            again = False
            for path in sorted(self._listed() - entries.tables.keys() - gone):
                try:
                    table = _read(path)
                except FileNotFoundError:
                    gone.add(path)
                    again = True
                except OSError as error:
                    gone.add(path)
                    _tell_unread(path, error)
                except _DamagedError as error:
                    _set_aside(path, error)
                else:
                    if table is not None:
                        entries.add(path, table)
        return entries

    def _listed(self) -> set[Path]:
        try:
            return {self._path / name for name in os.listdir(self._path) if name.endswith(".arrow")}
        except FileNotFoundError:
            return set()
        except OSError as error:
            _tell_unread(self._path, error)
            return set()

    def write(self, entries: Entries, new: Iterable[tuple[bytes, Kept]], used: Iterable[bytes]) -> None:
        """Add what is new and note what was used again.

        Args:
            entries: What was read before.
            new: Keys, 32 bytes each, and what is kept under them; taken as they are written.
            used: Keys of entries that were read.

        Warns:
            UserWarning: If it can't be written: it is computed again next time.
        """
        now = int(time.time())
        try:
            self._path.mkdir(parents=True, exist_ok=True)
            notes = entries.stale(used, now)
            if notes:
                self._put([_table(1, {}, notes, now)])
            for some in _pieces(new):
                for width, kept in _by_width(some).items():
                    self._put([_table(width, kept, [], now)])
            if len(self._listed()) > _MANY:
                self._merge(now)
        except OSError as error:
            warnings.warn(f"documents could not be kept in {self._path}: {error}", UserWarning, stacklevel=2)

    def _merge(self, now: int) -> None:
        entries = self.read()
        since = now - self._keep_seconds - DAY  # Uses are noted within a day: what the run itself used stays.
        merged = {self._put(parts) for parts in entries.survivors(since).values()}
        for path in entries.tables.keys() - merged:
            path.unlink(missing_ok=True)
        for path in self._path.glob("*.unfinished"):
            with suppress(FileNotFoundError):  # finished since
                if path.stat().st_mtime < now - DAY:
                    path.unlink()

    def _put(self, tables: Iterable[Table]) -> Path:
        """Write one or more tables of one schema to a file."""
        unfinished = self._path / f"{uuid.uuid4().hex}.unfinished"
        try:
            with open(unfinished, "w+b") as file:
                parts = iter(tables)
                first = next(parts)
                with pa.ipc.new_file(file, first.schema) as writer:
                    for table in chain([first], parts):
                        writer.write_table(table)
                file.flush()
                os.fsync(file.fileno())
                file.seek(0)
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            path = unfinished.rename(self._path / f"{digest}.arrow")
        finally:
            unfinished.unlink(missing_ok=True)
        folder = os.open(self._path, os.O_RDONLY)
        try:
            os.fsync(folder)  # What it holds is deleted elsewhere only once it has its name.
        finally:
            os.close(folder)
        return path


class _DamagedError(Exception):
    """A file is not what was written."""


def _read(path: Path) -> Table | None:
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError("it is not a file")
    with open(path, "rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != path.stem:
            raise _DamagedError("its bytes are not those that its name tells of")
    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    return table if table.schema.metadata == _FORMAT else None


def _tell_unread(path: Path, error: OSError) -> None:
    warnings.warn(
        f"{path} can't be read ({error}): the documents it holds are computed again", UserWarning, stacklevel=4
    )


def _set_aside(path: Path, error: Exception) -> None:
    warnings.warn(
        f"{path} is damaged ({error}): the documents it held are computed again; it is kept as *.damaged",
        UserWarning,
        stacklevel=3,
    )
    with suppress(OSError):  # Not ours to rename: it is told of again next time.
        path.rename(path.with_suffix(".damaged"))


def _schema(width: int) -> pa.Schema:
    fields = [
        pa.field("key", pa.binary(32), nullable=False),
        pa.field("seen", pa.int64(), nullable=False),  # seconds since the epoch
        pa.field("payload", pa.large_utf8()),  # null: the entry is in another file, and was used again
        pa.field("vectors", pa.large_list(vector("vector", width))),
        pa.field("exact", pa.large_list(pa.large_list(pa.float64()))),  # instead, where float32 does not hold them
    ]
    return pa.schema(fields, metadata=_FORMAT)


def _width(schema: pa.Schema) -> int:
    return int(schema.field("vectors").type.value_type.list_size)


def _pieces(new: Iterable[tuple[bytes, Kept]]) -> Iterator[dict[bytes, Kept]]:
    piece: dict[bytes, Kept] = {}
    size = 0
    for key, kept in new:
        piece[key] = kept
        size += len(kept.payload)
        if size > _PIECE:
            yield piece
            piece, size = {}, 0
    if piece:
        yield piece


def _by_width(new: Mapping[bytes, Kept]) -> dict[int, dict[bytes, tuple[Kept, Any]]]:
    """What is kept, with its vectors as a matrix or None, by the length of the vectors; 1 where there is none."""
    widths: dict[int, dict[bytes, tuple[Kept, Any]]] = {}
    for key, kept in new.items():
        matrix = _matrix(kept.vectors)
        widths.setdefault(1 if matrix is None else matrix.shape[1], {})[key] = kept, matrix
    return widths


def _table(width: int, new: Mapping[bytes, tuple[Kept, Any]], notes: list[bytes], now: int) -> Table:
    """What is kept under keys whose vectors have one length, and notes that others were used again."""
    schema = _schema(width)
    counts = [0 if matrix is None else len(matrix) for _, matrix in new.values()]
    rows = [np.empty((0, width), np.float32), *(matrix for _, matrix in new.values() if matrix is not None)]
    exact = [kept.vectors if matrix is None else [] for kept, matrix in new.values()]
    none = [None for _ in notes]
    columns = [
        pa.array([*new, *notes], schema.field("key").type),
        pa.array([now] * (len(new) + len(notes)), pa.int64()),
        pa.array([*(kept.payload for kept, _ in new.values()), *none], pa.large_utf8()),
        _lists(np.concatenate(rows), [*counts, *(0 for _ in notes)], schema.field("vectors").type),
        pa.array([*exact, *([] for _ in notes)], schema.field("exact").type),
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _matrix(vectors: list[list[float]]) -> Any:
    """The vectors as float32; None if there are none, of no one length, or if that is not all there is to them."""
    if len({len(values) for values in vectors}) != 1 or not vectors[0]:
        return None
    wide = np.array(vectors, dtype=np.float64)
    with np.errstate(over="ignore"):
        narrow = wide.astype(np.float32)
    same = np.array_equal(narrow.astype(np.float64).view(np.int64), wide.view(np.int64))
    return narrow if same else None


def _lists(matrix: Any, counts: list[int], kind: Any) -> Any:
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    values = to_arrow(matrix).cast(kind.value_type)
    return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values), type=kind)
