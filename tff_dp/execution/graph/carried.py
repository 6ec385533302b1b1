"""What flows through a graph beside its tensors: variables, iterators, and the first failed check.

TensorFlow keeps these as resources, which change while a graph runs. A graph that is compiled by XLA or
vectorized over clients can have none. So each is a plain tensor here: every operation that would change
the resource replaces the tensor that stands for it, and loops and branches hand the tensors through.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

FAILED = "failed"
"""The key under which the number of the first failed check is carried, int32 [], 0 for none."""


class Variable:
    """A variable of the graph. It is only the key of its value, which the emission carries."""

    def __init__(self, dtype: tf.DType, shape: tf.TensorShape) -> None:
        self.dtype, self.shape = dtype, shape


class Iterator:
    """An iterator over a client's batches. The number of the next batch is carried, int32 []."""

    def __init__(self) -> None:
        self.batches: Any = None


class Optional:
    """What an iterator gave: the batch of a number, unless the batches had ended."""

    def __init__(self, batches: Any, number: tf.Tensor) -> None:
        self.batches, self.number = batches, number


def shape_of(name: Any) -> tf.TensorShape:
    """Returns the static shape of what is carried under a key.

    Loops and conditionals forget it: a variable's shape may be partly unknown in its definition, and the
    tensors of a loop are generalized to what all iterations have in common.
    """
    return name.shape if isinstance(name, Variable) else tf.TensorShape([])
