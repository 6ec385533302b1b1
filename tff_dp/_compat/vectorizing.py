"""Operations that `tf.vectorized_map` writes as a loop over the elements, written without one.

TensorFlow has no vectorized form of `Bitcast`, nor of convolutions whose filters differ between the
elements, as those of clients do that train side by side. A loop over clients is what "side by side"
is meant to avoid: on a GPU, each of its steps is too small to fill the device.

`n` convolutions of one size, each with its own images and filters, are one convolution in `n` groups
of channels. XLA compiles it, also its gradients; TensorFlow's own kernels for CPUs do not have those,
so that graphs without XLA keep TensorFlow's form.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf
from tensorflow.python.ops.parallel_for import pfor

_CONVERTERS = pfor._pfor_converter_registry


@contextlib.contextmanager
def without_loops(*, xla: bool) -> Iterator[None]:
    """Makes `tf.vectorized_map` use the forms of this module while a block writes a graph.

    TensorFlow's table of vectorized forms belongs to the process; graphs are written one at a time
    (`execution.graph.traced`).

    Args:
      xla: Whether XLA compiles the graph.

    Yields:
      Nothing.
    """
    own: dict[str, Callable[[Any], Any]] = {"Bitcast": _bitcast}
    if xla:
        own |= {op: functools.partial(_grouped, _CONVERTERS[op]) for op in _OPERANDS}
    before = {op: _CONVERTERS.get(op) for op in own}
    _CONVERTERS.update(own)
    try:
        yield
    finally:
        for op, converter in before.items():
            if converter is None:
                del _CONVERTERS[op]
            else:
                _CONVERTERS[op] = converter


def _bitcast(given: Any) -> Any:
    # A bitcast changes the last dimension at most: that of all elements together is that of each.
    return pfor.wrap(tf.bitcast(given.stacked_input(0), given.get_attr("type")), True)


# Of each operation: the inputs that are images, filters or gradients of either; the first is the one that
# TensorFlow has no form for if it differs between the elements. The third input is that of their sizes.
_OPERANDS = {
    "Conv2D": (1, 0, None),
    "Conv2DBackpropInput": (1, 2, 0),
    "Conv2DBackpropFilter": (0, 2, 1),
}


def _grouped(otherwise: Callable[[Any], Any], given: Any) -> Any:
    """Writes the convolutions of all elements as one in groups; otherwise, by TensorFlow's converter."""
    op = given.op_type
    deciding, other, sizes = _OPERANDS[op]
    if not given.input(deciding).is_stacked or given.get_attr("data_format") != b"NHWC":
        return otherwise(given)
    given.stack_inputs([deciding, other])
    operands = {place: given.stacked_input(place) for place in (deciding, other)}
    result = given.outputs[0].shape
    shapes = [*(operand.shape for operand in operands.values()), result]
    if not all(shape.is_fully_defined() for shape in shapes) or not _is_whole(op, operands, result):
        return otherwise(given)
    count = operands[deciding].shape[0]
    inputs: list[Any] = [_side_by_side(operands[p]) if p in operands else None for p in range(3)]
    if sizes is not None:
        inputs[sizes] = tf.constant([*result[:3], count * result[3]], tf.int32)
    attributes = {name: given.get_attr(name) for name in _ATTRIBUTES}
    names = _NAMES[op]
    found = getattr(tf.raw_ops, op)(
        **dict(zip(names, inputs, strict=False)),
        **{**attributes, "padding": attributes["padding"].decode(), "data_format": "NHWC"},
    )
    return pfor.wrap(_apart(found, count), True)


_ATTRIBUTES = (
    "strides",
    "use_cudnn_on_gpu",
    "padding",
    "explicit_paddings",
    "data_format",
    "dilations",
)
_NAMES = {
    "Conv2D": ("input", "filter"),
    "Conv2DBackpropInput": ("input_sizes", "filter", "out_backprop"),
    "Conv2DBackpropFilter": ("input", "filter_sizes", "out_backprop"),
}


def _is_whole(op: str, operands: dict[int, tf.Tensor], result: tf.TensorShape) -> bool:
    """Tells whether a convolution has a single group of channels."""
    if op == "Conv2D":
        return bool(operands[0].shape[-1] == operands[1].shape[-2])
    if op == "Conv2DBackpropInput":
        return bool(result[-1] == operands[1].shape[-2])
    return bool(operands[0].shape[-1] == result[-2])


def _side_by_side(tensor: tf.Tensor) -> tf.Tensor:
    """Returns [n, a, b, c, d] as [a, b, c, n d]."""
    count, *rest, last = tensor.shape
    return tf.reshape(tf.transpose(tensor, [1, 2, 3, 0, 4]), [*rest, count * last])


def _apart(tensor: tf.Tensor, count: int) -> tf.Tensor:
    """Returns [a, b, c, n d] as [n, a, b, c, d]."""
    *rest, last = tensor.shape
    return tf.transpose(tf.reshape(tensor, [*rest, count, last // count]), [3, 0, 1, 2, 4])
