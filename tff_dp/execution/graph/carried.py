"""State that is threaded through a graph: variables, iterators, and the first failed check.

TensorFlow keeps such state in resources, which change while a graph runs. A graph that XLA compiles
or that is vectorized over clients cannot have resources of this kind. Here each of them is a plain
tensor instead: an operation that would change the resource replaces the tensor that stands for it,
and loops and branches take these tensors as additional arguments and return them as additional
results.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

FAILED = "failed"
"""The key of the carried number of the first failed check, int32 []; 0 if none has failed."""


class Variable:
    """A variable of the graph: the key of the value that the emission carries for it.

    Args:
      dtype: The type of the value.
      shape: The static shape of the value, as far as the variable's definition has it.
    """

    def __init__(self, dtype: tf.DType, shape: tf.TensorShape) -> None:
        self.dtype, self.shape = dtype, shape


class Iterator:
    """An iterator over batches: the key of the carried number of the next batch, int32 [].

    Attributes:
      batches: The `program.Batches` that it iterates over; None until it is initialized.
    """

    def __init__(self) -> None:
        self.batches: Any = None


class Optional:
    """An optional batch from an iterator, which is empty once the batches are exhausted.

    Args:
      batches: The `program.Batches` of the iterator.
      number: The number of the batch, int32 [], from 0; the optional is empty if there is no such
        batch.
    """

    def __init__(self, batches: Any, number: tf.Tensor) -> None:
        self.batches, self.number = batches, number


def shape_of(name: Any) -> tf.TensorShape:
    """Returns the static shape of the tensor that is carried under a key.

    The results of loops and conditionals have lost some of their static shape, because TensorFlow
    generalizes it to what all iterations or branches have in common. It is set again with this.

    Args:
      name: A key of `Emission.carried`: `FAILED`, a `Variable`, or an `Iterator`.

    Returns:
      The shape of the variable, or [] for the numbers.
    """
    return name.shape if isinstance(name, Variable) else tf.TensorShape([])
