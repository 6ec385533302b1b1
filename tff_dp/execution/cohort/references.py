"""Fields of blocks that name an array of all clients' examples, for workers that read it themselves."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from tff_dp.execution.cohort.resident import Resident
from tff_dp.execution.cohort.tables import padded_length


@dataclasses.dataclass(frozen=True, eq=False)
class Reference:
    """All or some rows of an array, in place of the tensor that would hold them.

    Attributes:
      array: The array.
      rows: The rows, a slice of consecutive ones or an array of numbers; None for all.
      here: What makes the tensor, if the block runs in this process after all.
    """

    array: np.ndarray
    rows: Any
    here: Resident

    @property
    def length(self) -> int:
        """The number of rows of the tensor, zeros at its end included."""
        if self.rows is None:
            return len(self.array)
        some = isinstance(self.rows, slice)
        return padded_length(self.rows.stop - self.rows.start if some else len(self.rows))

    def spec(self) -> tf.TensorSpec:
        """Returns the specification of the tensor."""
        dtype = tf.as_dtype(self.array.dtype)
        return tf.TensorSpec([self.length, *self.array.shape[1:]], dtype)

    def tensor(self) -> tf.Tensor:
        """Returns the tensor."""
        if self.rows is None:
            return self.here.tensor(self.array)
        return self.here.rows(self.array, self.rows)


class ByReference:
    """Takes the place of `Resident` where other processes read the arrays: it makes references.

    Args:
      here: What makes the tensors of blocks that run in this process.

    Attributes:
      here: As given.
    """

    def __init__(self, here: Resident) -> None:
        self.here = here

    def fits(self, arrays: Any) -> bool:
        """Tells whether arrays fit on the device together; see `Resident`.

        Args:
          arrays: Arrays or tensors.

        Returns:
          Whether they do.
        """
        return self.here.fits(arrays)

    def tensor(self, array: Any) -> Any:
        """Refers to an array.

        Args:
          array: An array or a tensor.

        Returns:
          The reference; or the tensor, if it is one.
        """
        return Reference(array, None, self.here) if isinstance(array, np.ndarray) else array

    def rows(self, array: np.ndarray, rows: Any) -> Reference:
        """Refers to rows of an array.

        Args:
          array: The array.
          rows: The rows, a slice of consecutive ones or an array of numbers.

        Returns:
          The reference.
        """
        return Reference(array, rows, self.here)

    def limits(self, array: Any) -> Any:
        """Looks up the smallest and the largest value of an integer array; see `Resident`.

        Args:
          array: An array or a tensor.

        Returns:
          The two values, or None.
        """
        return self.here.limits(array)


def tensor_of(field: Any) -> tf.Tensor:
    """Makes the tensor of a field of a block, which may be a reference.

    Args:
      field: A tensor or a `Reference`.

    Returns:
      The tensor.
    """
    return field.tensor() if isinstance(field, Reference) else field
