"""Reductions of large tensors in a form that XLA computes together with what they reduce.

On a CPU, XLA splits the reduction of a long dimension into windows, and writes the elements that it
reduces into memory first. A client's update is as large as the model, and TFF asks of each whether
all of it is finite: that cost a pass over the model of its own, to write and to read a truth value
for each weight. A short leading dimension is reduced where its elements are computed, so that nothing
but a sixteenth of them is written.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

_ROWS = 16  # the length of the leading dimension that is reduced first
_SMALL = 4096  # a tensor of at most so many elements is reduced directly


def write(node: Any, inputs: list[Any]) -> list[tf.Tensor] | None:
    """Writes an `All` over a large tensor in two steps.

    Args:
      node: The `NodeDef`.
      inputs: The values of its inputs.

    Returns:
      The values of the outputs; None if the operation may be copied as it is.
    """
    if node.op != "All" or node.attr["keep_dims"].b:
        return None
    value, axes = inputs
    count = value.shape.num_elements()
    over = tf.get_static_value(axes)
    if count is None or count <= _SMALL or over is None:
        return None
    if {int(axis) % value.shape.rank for axis in over.ravel()} != {*range(value.shape.rank)}:
        return None
    whole = count // _ROWS * _ROWS
    flat = tf.reshape(value, [count])
    first = tf.reduce_all(tf.reshape(flat[:whole], [_ROWS, whole // _ROWS]), 0)
    # XLA would make one reduction of two of the same kind.
    second = tf.reduce_min(tf.cast(first, tf.int32)) > 0
    return [second & tf.reduce_all(flat[whole:])]
