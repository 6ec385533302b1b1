"""Arrays that stay on the device between rounds."""

from __future__ import annotations

import collections
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tff_dp.execution.cohort.tables import Limits


class Resident:
    """Arrays that were copied to the device. They are kept while they live and their sizes allow.

    Args:
      limit: The most bytes to hold.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._held: collections.OrderedDict[int, tuple[Any, tf.Tensor, int]] = (
            collections.OrderedDict()
        )
        self._limits: dict[int, tuple[Any, Limits]] = {}

    def fits(self, arrays: Sequence[Any]) -> bool:
        """Returns whether arrays are small enough to be held together.

        Args:
          arrays: Arrays or tensors; tensors are on the device already and do not count.
        """
        return sum(array.nbytes for array in arrays if isinstance(array, np.ndarray)) <= self.limit

    def tensor(self, array: Any) -> tf.Tensor:
        """Returns the tensor of an array, which is copied at the first call for it.

        Args:
          array: An array, or a tensor, which is returned as it is.
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

    def limits(self, array: Any) -> Limits:
        """Returns the smallest and the largest value of an array of whole numbers, found once.

        Only arrays that may hold indices or labels (at most one per row) are looked at. An array that
        has been written to since is not looked at again, nor is its copy on the device made anew.

        Args:
          array: An array or a tensor.

        Returns:
          The two values; None for any other array, and for an empty one.
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
