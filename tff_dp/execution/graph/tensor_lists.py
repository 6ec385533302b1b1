"""Lists of tensors as single tensors, for graphs that XLA compiles.

A loop over steps, such as that of a recurrent layer, keeps its inputs and outputs in lists of
tensors, and so does its gradient with all that it needs of the forward loop. XLA needs to know the
shape of the elements and the largest length of each list. The program often does not say them,
since the size of a batch is open where it was traced. Here the elements of a list are the rows of
one tensor, whose shape follows from the first element that is written, and an element that is the
same known number each time, such as a shape, is not stored at all.

`list_operations` writes the operations on lists, and `list_loops` passes lists through loops.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from tff_dp._compat import tensorflow as tf_compat
from tff_dp.execution.graph.style import ShapeVariesError

_FEW = 64  # elements of a shape


@dataclasses.dataclass(frozen=True, eq=False)
class TensorList:
    """A list of tensors of one shape. It does not change; operations return new lists.

    Attributes:
      dtype: The data type of the elements.
      shape: The shape of an element, as far as it is known; fully defined if there are `rows`.
      capacity: The largest number of elements.
      length: The number of elements: an int if it is known, otherwise int32 [].
      rows: The elements, [capacity, *shape], zeros where none has been written; None if there are
        none or all are `same`.
      cleared: Which of the rows stand for zeros, whatever they hold, bool [capacity]; None for none.
        A gradient sets each element to zeros that it has read. Writing them would have XLA copy all
        rows in each step, since the same step still reads them.
      same: The value that all elements have, if it is known and whole numbers; otherwise None.
      only: The index, int32 [], and the value of the only element that has been written, in place
        of `rows`; None otherwise.
    """

    dtype: tf.DType
    shape: tf.TensorShape
    capacity: int
    length: int | tf.Tensor
    rows: tf.Tensor | None = None
    cleared: tf.Tensor | None = None
    same: np.ndarray | None = None
    only: tuple[tf.Tensor, tf.Tensor] | None = None

    @property
    def is_blank(self) -> bool:
        """Whether no element has been written."""
        return self.rows is None and self.same is None and self.only is None

    def of_shape(self, shape: tf.TensorShape) -> TensorList:
        """Returns the list with what a shape adds to what is known of its elements.

        Args:
          shape: A shape that the elements are known to have.

        Returns:
          The list.

        Raises:
          ShapeVariesError: The shapes contradict each other.
        """
        try:
            return dataclasses.replace(self, shape=self.shape.merge_with(shape))
        except ValueError:
            raise ShapeVariesError(
                f"the elements of a list have different shapes: {self.shape} and {shape}"
            ) from None

    def with_rows(self) -> TensorList:
        """Returns the list with its elements in `rows`.

        Raises:
          ShapeVariesError: The shape of its elements is not known.
        """
        if self.rows is not None:
            return self
        if not self.shape.is_fully_defined():
            raise ShapeVariesError("the shape of a list's elements depends on values")
        shape = [self.capacity, *self.shape.as_list()]
        if self.same is None:
            rows = tf.zeros(shape, self.dtype)
        else:
            # Those from `length` on have the value as well. They cannot be read before they are
            # written, since the length of such a list grows by writing alone.
            rows = tf.broadcast_to(tf.constant(self.same, self.dtype), shape)
        found = dataclasses.replace(self, rows=rows, same=None, only=None)
        return found if self.only is None else found.put(*self.only)

    def resolved(self) -> tf.Tensor:
        """Returns all elements, [capacity, *shape].

        Raises:
          ShapeVariesError: The shape of the elements is not known.
        """
        solid = self.with_rows()
        if solid.cleared is None:
            return solid.rows
        cleared = tf.reshape(solid.cleared, [-1, *[1] * solid.shape.rank])
        return tf.where(cleared, tf.zeros([], self.dtype), solid.rows)

    def with_cleared(self) -> TensorList:
        """Returns the list with a tensor `cleared`."""
        if self.cleared is not None:
            return self
        return dataclasses.replace(self, cleared=tf.zeros([self.capacity], tf.bool))

    def put(self, index: Any, value: tf.Tensor) -> TensorList:
        """Returns the list with another element at an index.

        Args:
          index: The index, an int or int32 [], within the capacity.
          value: The element.

        Returns:
          The list, of the same length.
        """
        known = self.of_shape(value.shape)
        if self.is_blank:
            return dataclasses.replace(known, only=(tf.convert_to_tensor(index, tf.int32), value))
        solid = known.with_rows()
        if self.rows is not None and _is_zeros(value):
            return solid.with_cleared().marked(index, True)
        rows = tf_compat.xla_dynamic_update_slice(
            solid.rows, value[tf.newaxis], _begin(index, solid.shape.rank)
        )
        rows.set_shape([self.capacity, *solid.shape])
        found = dataclasses.replace(solid, rows=rows)
        return found if found.cleared is None else found.marked(index, False)

    def marked(self, index: Any, is_cleared: bool) -> TensorList:
        """Returns the list, which must have `cleared`, with another value of it at an index.

        Args:
          index: The index, an int or int32 [], within the capacity.
          is_cleared: The value.

        Returns:
          The list.
        """
        update = tf.constant([is_cleared])
        cleared = tf_compat.xla_dynamic_update_slice(self.cleared, update, _begin(index, 0))
        cleared.set_shape([self.capacity])
        return dataclasses.replace(self, cleared=cleared)

    def at(self, index: Any) -> tf.Tensor:
        """Returns the element at an index.

        Args:
          index: The index, an int or int32 [], within the length.

        Returns:
          The element; zeros if it has not been written.
        """
        if self.same is not None:
            return tf.constant(self.same, self.dtype)
        solid = self.with_rows()
        sizes = tf.constant([1, *solid.shape.as_list()], tf.int32)
        row = tf_compat.xla_dynamic_slice(solid.rows, _begin(index, solid.shape.rank), sizes)
        row = tf.reshape(row, solid.shape)
        if solid.cleared is None:
            return row
        one = tf.constant([1], tf.int32)
        cleared = tf_compat.xla_dynamic_slice(solid.cleared, _begin(index, 0), one)
        return tf.where(tf.reshape(cleared, []), tf.zeros([], self.dtype), row)

    def pushed(self, value: tf.Tensor) -> TensorList:
        """Returns the list with one more element at its end.

        Args:
          value: The element.

        Returns:
          The list.
        """
        longer = self.length + 1
        number = _number(value)
        if number is not None and (
            _is_empty(self) if self.same is None else np.array_equal(self.same, number)
        ):
            known = self.of_shape(value.shape)
            return dataclasses.replace(known, length=longer, same=number)
        solid = self.of_shape(value.shape).with_rows()
        return dataclasses.replace(solid.put(self.length, value), length=longer)


def _is_zeros(value: tf.Tensor) -> bool:
    return bool(value.op.type == "ZerosLike")


def _begin(index: Any, rank: int) -> tf.Tensor:
    return tf.stack([tf.cast(index, tf.int32), *[0] * rank])


def _is_empty(listed: TensorList) -> bool:
    return listed.is_blank and isinstance(listed.length, int) and listed.length == 0


def _number(value: tf.Tensor) -> np.ndarray | None:
    """Returns the value of a tensor of known whole numbers, such as a shape; otherwise None."""
    count = value.shape.num_elements()
    if value.dtype not in (tf.int32, tf.int64) or count is None or count > _FEW:
        return None
    found: np.ndarray | None = tf.get_static_value(value)
    return found
