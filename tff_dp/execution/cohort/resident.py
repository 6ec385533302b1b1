"""Arrays that stay on the device between rounds."""

from __future__ import annotations

import collections
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tff_dp import _copies
from tff_dp.execution.cohort.tables import Limits, padded_length


class Resident:
    """A cache of the copies of arrays on the device.

    A copy is kept while its array exists. If the copies exceed the limit, the least recently used
    ones are dropped.

    Args:
      limit: The most bytes of copies. A single larger array is kept nevertheless, alone.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._held: collections.OrderedDict[int, tuple[Any, tf.Tensor, int]] = (
            collections.OrderedDict()
        )
        self._limits: dict[int, tuple[Any, Limits]] = {}

    def fits(self, arrays: Sequence[Any]) -> bool:
        """Returns whether arrays fit on the device together.

        Args:
          arrays: Arrays or tensors. Tensors are on the device already and do not count.

        Returns:
          Whether their sizes add up to at most the limit.
        """
        return sum(array.nbytes for array in arrays if isinstance(array, np.ndarray)) <= self.limit

    def tensor(self, array: Any) -> tf.Tensor:
        """Returns the copy of an array on the device, and makes it if there is none.

        Args:
          array: An array; or a tensor, which is returned itself.

        Returns:
          The tensor. It does not follow later changes of the array.
        """
        if not isinstance(array, np.ndarray):
            return tf.convert_to_tensor(array)
        key = id(array)
        held = self._held.get(key)
        if held is not None and held[0]() is array:
            self._held.move_to_end(key)
            return held[1]
        tensor = tf.convert_to_tensor(array)
        reference = weakref.ref(array, lambda _: self._held.pop(key, None))
        self._held[key] = (reference, tensor, array.nbytes)
        while sum(size for _, _, size in self._held.values()) > self.limit and len(self._held) > 1:
            self._held.popitem(last=False)
        return tensor

    def rows(self, array: np.ndarray, rows: Any) -> tf.Tensor:
        """Copies rows of an array that does not stay on the device.

        Args:
          array: The array.
          rows: The rows, a slice of consecutive ones or an array of numbers.

        Returns:
          The rows, padded with zeros to a length that many blocks share.
        """
        count = rows.stop - rows.start if isinstance(rows, slice) else len(rows)
        return _copies.padded_rows(array, rows, padded_length(count))

    def limits(self, array: Any) -> Limits:
        """Returns the smallest and the largest value of an integer array, computed once.

        They are used to leave out checks of indices and labels. Like the copy on the device, they
        do not follow later changes of the array.

        Args:
          array: An array or a tensor.

        Returns:
          The two values; None for a tensor, an array of more than two dimensions or of another data
          type, and an empty array.
        """
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "iu" or array.ndim > 2:
            return None
        key = id(array)
        held = self._limits.get(key)
        if held is None or held[0]() is not array:
            found = (int(array.min()), int(array.max())) if array.size else None
            held = weakref.ref(array, lambda _: self._limits.pop(key, None)), found
            self._limits[key] = held
        return held[1]
