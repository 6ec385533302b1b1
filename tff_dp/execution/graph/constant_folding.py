"""Small whole numbers that are known when a graph is written, such as shapes and what follows from them.

The shape of a tensor is static where the numbers that it is made of are known. TensorFlow's inference
sees some of them; operations such as `BroadcastGradientArgs`, and numbers that enter a loop, hide them.
Here an operation on known numbers is run at once, and what it gives is written as a constant.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tff_dp._compat import tensorflow as tf_compat

_FEW = 64  # elements
_WHOLE = (tf.int32, tf.int64, tf.bool)
_OF_SHAPES = ("Shape", "ShapeN", "Size", "Rank")


def within(value: Any) -> Any:
    """Returns a value for the graph that is being traced: as a constant where it is a known number."""
    if not _is_number(value) or value.graph is tf.compat.v1.get_default_graph():
        return value
    known = tf.get_static_value(value)
    return value if known is None else tf.constant(known, value.dtype)


def fold(node: Any, inputs: Sequence[Any]) -> list[tf.Tensor] | None:
    """Returns what an operation gives as constants, or None where that is not known now.

    Args:
      node: The operation.
      inputs: Its inputs.
    """
    if node.op in _OF_SHAPES:
        return _of_shapes(node, inputs)
    definition = tf_compat.op_def(node.op)
    if not inputs or definition.is_stateful or not all(map(_is_number, inputs)):
        return None
    known = [tf.get_static_value(value) for value in inputs]
    if any(value is None for value in known):
        return None
    attributes = _attributes(node, definition)
    operation = getattr(tf.raw_ops, node.op, None)
    if attributes is None or operation is None:
        return None
    try:
        with tf.init_scope(), tf.device("/CPU:0"):
            arguments = _named(node, definition, list(map(tf.constant, known)))
            found = [
                tensor.numpy() for tensor in tf.nest.flatten(operation(**arguments, **attributes))
            ]
    except (tf.errors.OpError, TypeError, ValueError):  # it fails where it runs, too
        return None
    if any(value.dtype not in _NUMPY or value.size > _FEW for value in found):
        return None
    return [tf.constant(value) for value in found]


_NUMPY = [dtype.as_numpy_dtype for dtype in _WHOLE]


def _is_number(value: Any) -> bool:
    if not isinstance(value, tf.Tensor) or value.dtype not in _WHOLE:
        return False
    count = value.shape.num_elements()
    return count is not None and count <= _FEW


def _of_shapes(node: Any, inputs: Sequence[Any]) -> list[tf.Tensor] | None:
    if not all(value.shape.is_fully_defined() for value in inputs):
        return None
    dtype = tf.int32 if node.op == "Rank" else tf.as_dtype(node.attr["out_type"].type)
    shapes = [value.shape.as_list() for value in inputs]
    made = {"Size": np.prod, "Rank": len}.get(node.op, list)
    return [tf.constant(np.array(made(shape)), dtype) for shape in shapes]  # type: ignore[operator]


def _named(node: Any, definition: Any, inputs: list[tf.Tensor]) -> dict[str, Any]:
    """Returns an operation's inputs by name, those that belong to a list together."""
    named: dict[str, Any] = {}
    for argument in definition.input_arg:
        if argument.number_attr:
            count = node.attr[argument.number_attr].i
            named[argument.name] = [inputs.pop(0) for _ in range(count)]
        elif argument.type_list_attr:
            count = len(node.attr[argument.type_list_attr].list.type)
            named[argument.name] = [inputs.pop(0) for _ in range(count)]
        else:
            named[argument.name] = inputs.pop(0)
    return named


def _attributes(node: Any, definition: Any) -> dict[str, Any] | None:
    """Returns an operation's attributes that do not follow from its inputs, or None for other kinds."""
    inferred = {
        name
        for argument in definition.input_arg
        for name in (argument.type_attr, argument.number_attr, argument.type_list_attr)
    }
    found: dict[str, Any] = {}
    for attribute in definition.attr:
        if attribute.name in inferred or attribute.name not in node.attr:
            continue
        value = node.attr[attribute.name]
        kind = value.WhichOneof("value")
        if kind == "type":
            found[attribute.name] = tf.as_dtype(value.type)
        elif kind in ("i", "b", "f"):
            found[attribute.name] = getattr(value, kind)
        else:
            return None
    return found
