"""Vectors as one buffer, shared by numpy, Arrow and the index."""

from __future__ import annotations

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
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), matrix.shape[1])


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
