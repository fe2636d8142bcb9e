"""Vectors as one buffer, shared by numpy, Arrow and the index."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def to_arrow(matrix: npt.NDArray[np.float32]) -> pa.FixedSizeListArray:
    """View an `(n, d)` C-contiguous float32 matrix as `fixed_size_list<float32>[d]`, without a copy.

    Raises:
        ValueError: If the matrix is not two-dimensional, C-contiguous float32 with at least one column; a copy
            would be needed, and copies are made where they can be counted.
    """
    if matrix.ndim != 2 or matrix.dtype != np.float32 or not matrix.flags.c_contiguous or not matrix.shape[1]:
        raise ValueError(
            f"matrix must be a C-contiguous (n, d) float32 array with d > 0, not {matrix.dtype} {matrix.shape}"
        )
    return fixed_lists(matrix)


def fixed_lists(matrix: npt.NDArray[Any]) -> pa.FixedSizeListArray:
    """View an `(n, d)` C-contiguous matrix of numbers, d > 0, as lists of d, without a copy."""
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), matrix.shape[1])


def exact_lists(rows: Sequence[Any]) -> pa.FixedSizeListArray:
    """Lists of Python floats as `fixed_size_list<float64>`, which carries them bit for bit; `exact_matrix` reads it.

    Raises:
        TypeError: If a row is something else than a list of floats: it would not be the same when it comes back.
        ValueError: If the rows are not of one length.
    """
    if set(map(type, rows)) != {list} or set(map(type, chain.from_iterable(rows))) != {float}:
        raise TypeError("the rows are no lists of floats")
    (_,) = set(map(len, rows))
    return fixed_lists(np.array(rows))


def exact_matrix(vectors: pa.FixedSizeListArray) -> npt.NDArray[np.float64]:
    """The `(n, d)` float64 matrix of a whole column that `exact_lists` has made, without a copy."""
    matrix: npt.NDArray[np.float64] = vectors.values.to_numpy().reshape(len(vectors), -1)
    return matrix


def to_numpy(vectors: pa.FixedSizeListArray) -> npt.NDArray[np.float32]:
    """View `fixed_size_list<float32>[d]` as an `(n, d)` matrix, without a copy.

    Slices keep their offset. The matrix is read-only, as the Arrow buffer is.

    Raises:
        ValueError: If a vector or a float is null.
    """
    size = vectors.type.list_size
    if vectors.null_count:
        raise ValueError("vectors must not be null")
    values = vectors.values.slice(vectors.offset * size, len(vectors) * size)
    matrix: npt.NDArray[np.float32] = values.to_numpy(zero_copy_only=True).reshape(len(vectors), size)
    return matrix
