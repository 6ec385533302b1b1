"""Constant folding of small integer tensors, such as shapes and what is computed from them.

A tensor has a static shape only if TensorFlow's shape inference knows the numbers that determine
it. The inference loses them in operations such as `BroadcastGradientArgs`, and where they enter a
loop. Here an operation whose inputs are all known runs while the graph is written, and its outputs
become constants.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tff_dp._compat import tensorflow as tf_compat

_FEW = 64  # elements
_WHOLE = (tf.int32, tf.int64, tf.bool)
_RENAMED = {"reduction_indices": "axis"}  # inputs whose names differ in `tf.raw_ops`
_OF_SHAPES = ("Shape", "ShapeN", "Size", "Rank")


def within(value: Any) -> Any:
    """Returns a value for use in the graph that is being traced, as a constant of it if possible.

    Args:
      value: An input of an operation: a tensor of this graph or an outer one, or another object.

    Returns:
      A constant if the value is a tensor of an outer graph that holds at most 64 integers or truth
      values, all known; otherwise the value itself.
    """
    if not _is_number(value) or value.graph is tf.compat.v1.get_default_graph():
        return value
    known = tf.get_static_value(value)
    return value if known is None else tf.constant(known, value.dtype)


def fold(node: Any, inputs: Sequence[Any]) -> list[tf.Tensor] | None:
    """Runs an operation while the graph is written, if all its inputs are known.

    Args:
      node: The `NodeDef`.
      inputs: The values of its inputs.

    Returns:
      A constant for each output; None if the operation has state, an input is not known, an output
      is not an integer or truth value, an output has more than 64 elements, or the operation fails.
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
    except (tf.errors.OpError, TypeError, ValueError):  # it is left to fail when the graph runs
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
    """Returns the inputs of an operation by name, with a list of tensors for a list input."""
    named: dict[str, Any] = {}
    for argument in definition.input_arg:
        name = _RENAMED.get(argument.name, argument.name)
        if argument.number_attr:
            count = node.attr[argument.number_attr].i
            named[name] = [inputs.pop(0) for _ in range(count)]
        elif argument.type_list_attr:
            count = len(node.attr[argument.type_list_attr].list.type)
            named[name] = [inputs.pop(0) for _ in range(count)]
        else:
            named[name] = inputs.pop(0)
    return named


def _attributes(node: Any, definition: Any) -> dict[str, Any] | None:
    """Returns the attributes that TensorFlow does not infer from the inputs of an operation.

    Returns None if one of them is neither a type, an integer, a truth value nor a float.
    """
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
