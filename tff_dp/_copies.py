"""Copies of rows of arrays as tensors. Imports TensorFlow, and nothing else of tff_dp."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

_ALIGNMENT = 64  # bytes; TensorFlow uses memory of this alignment without a copy


def aligned(shape: Sequence[int], dtype: np.dtype[Any]) -> np.ndarray:
    """Makes an array whose memory TensorFlow can use without a copy.

    Args:
      shape: Its shape.
      dtype: Its data type.

    Returns:
      The array, uninitialized.
    """
    if dtype.hasobject:
        return np.empty(shape, dtype)
    dtype = dtype.newbyteorder("=")  # DLPack knows no other order, and TensorFlow would swap it
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    begin = -memory.ctypes.data % _ALIGNMENT
    return memory[begin : begin + size].view(dtype).reshape(shape)


def is_aligned(array: np.ndarray) -> bool:
    """Tells whether TensorFlow can use the memory of an array without a copy.

    Args:
      array: The array.

    Returns:
      Whether it can.
    """
    return (
        array.dtype.kind in "biufc"
        and array.dtype.isnative
        and array.flags.c_contiguous
        and array.size > 0
        and array.ctypes.data % _ALIGNMENT == 0
    )


def as_tensor(array: np.ndarray) -> tf.Tensor:
    """Makes a tensor of an array of `aligned`, without a second copy where that can be.

    Args:
      array: The array. It must not change while the tensor is in use.

    Returns:
      The tensor.
    """
    if array.dtype.kind not in "biufc":
        return tf.convert_to_tensor(array)
    return tf.experimental.dlpack.from_dlpack(array.__dlpack__())


def padded_rows(array: np.ndarray, rows: Any, length: int) -> tf.Tensor:
    """Copies rows of an array.

    Args:
      array: The array, [all rows, ...].
      rows: The rows, a slice of consecutive ones or an array of numbers.
      length: The number of rows of the copy, of which the last are zeros; at least that of the rows.

    Returns:
      The copy, [length, ...].
    """
    count = rows.stop - rows.start if isinstance(rows, slice) else len(rows)
    copy = aligned([length, *array.shape[1:]], array.dtype)
    if isinstance(rows, slice):
        copy[:count] = array[rows]
    else:
        np.take(array, rows, axis=0, out=copy[:count], mode="clip")
    copy[count:] = np.zeros([], array.dtype)
    return as_tensor(copy)
