"""The operations on lists of tensors, for graphs that XLA compiles; see `tensor_lists`."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from tff_dp.execution.graph import range_checks
from tff_dp.execution.graph.emission import Emission, Handler
from tff_dp.execution.graph.style import ShapeVariesError, Style
from tff_dp.execution.graph.tensor_lists import TensorList


def _known(value: Any, what: str) -> np.ndarray:
    found = tf.get_static_value(value)
    if found is None:
        raise ShapeVariesError(f"{what} depends on values")
    return np.asarray(found)


def _shape(value: tf.Tensor) -> tf.TensorShape:
    """Returns the shape that an input of an operation says its elements have."""
    sizes = _known(value, "the shape of a list's elements")
    if sizes.ndim == 0:  # -1, for any shape
        return tf.TensorShape(None)
    return tf.TensorShape([None if size < 0 else int(size) for size in sizes])


def _new(node: Any, shape: tf.TensorShape, capacity: int, length: int, **more: Any) -> TensorList:
    dtype = tf.as_dtype(node.attr["element_dtype"].type)
    if dtype in (tf.variant, tf.resource, tf.string):
        raise NotImplementedError(f"a list of {dtype.name}s")
    return TensorList(dtype, shape, capacity, length, **more)


def _reserve(emission: Emission, node: Any, inputs: list[Any]) -> list[Any]:
    del emission
    count = int(_known(inputs[1], "the length of a list"))
    return [_new(node, _shape(inputs[0]), count, count)]


def _empty(emission: Emission, node: Any, inputs: list[Any]) -> list[Any]:
    del emission
    most = int(_known(inputs[1], "the largest length of a list"))
    if most < 0:
        raise ShapeVariesError("the largest length of a list is not known")
    return [_new(node, _shape(inputs[0]), most, 0)]


def _from_tensor(emission: Emission, node: Any, inputs: list[Any]) -> list[Any]:
    del emission
    (rows, shape), count = inputs, inputs[0].shape[0]
    made = _new(node, rows.shape[1:], count, count, rows=rows)
    return [made.of_shape(_shape(shape))]


def _get(emission: Emission, node: Any, inputs: list[Any]) -> list[Any]:
    listed, index, shape = inputs
    emission.keep(range_checks.element(node, index, listed.length))
    return [listed.of_shape(_shape(shape)).at(index)]


def _set(emission: Emission, node: Any, inputs: list[Any]) -> list[Any]:
    listed, index, value = inputs
    if node.attr["resize_if_index_out_of_bounds"].b:
        raise NotImplementedError(f"{node.op} ({node.name}) may make its list longer")
    emission.keep(range_checks.element(node, index, listed.length))
    return [listed.put(index, value)]


def _stack(emission: Emission, node: Any, inputs: list[Any]) -> list[Any]:
    del emission
    listed, shape = inputs
    if listed.length != listed.capacity or isinstance(listed.length, tf.Tensor):
        raise ShapeVariesError(f"the length of a list depends on values: {node.op} ({node.name})")
    wanted = node.attr["num_elements"].i
    if wanted >= 0 and wanted != listed.length:
        raise NotImplementedError(f"{node.op} ({node.name}) of {listed.length} elements")
    return [listed.of_shape(_shape(shape)).resolved()]


def _length(emission: Emission, node: Any, inputs: list[Any]) -> list[Any]:
    del emission, node
    return [tf.convert_to_tensor(inputs[0].length, tf.int32)]


def _element_shape(emission: Emission, node: Any, inputs: list[Any]) -> list[Any]:
    del emission
    shape = inputs[0].shape
    if not shape.is_fully_defined():
        raise ShapeVariesError(f"the shape of a list's elements is not known: {node.name}")
    return [tf.constant(shape.as_list(), tf.as_dtype(node.attr["shape_type"].type))]


def _push(emission: Emission, node: Any, inputs: list[Any]) -> list[Any]:
    listed, value = inputs
    emission.keep(range_checks.element(node, listed.length, listed.capacity))
    return [listed.pushed(value)]


def _pop(emission: Emission, node: Any, inputs: list[Any]) -> list[Any]:
    listed, shape = inputs
    shorter = dataclasses.replace(listed.of_shape(_shape(shape)), length=listed.length - 1)
    emission.keep(range_checks.element(node, shorter.length, listed.capacity))
    return [shorter, shorter.at(shorter.length)]


def _zeros_like(emission: Emission, node: Any, inputs: list[Any]) -> list[Any]:
    del emission, node
    return [dataclasses.replace(inputs[0], rows=None, cleared=None, same=None, only=None)]


def _sum(emission: Emission, node: Any, inputs: list[Any]) -> list[Any]:
    """Writes the sum of lists, element by element."""
    del emission
    total, *others = inputs
    for other in others:
        if other.capacity != total.capacity or not _is_equal(other.length, total.length):
            raise NotImplementedError(f"{node.op} ({node.name}) of lists of different lengths")
        total = _added(total, other)
    return [total]


def _is_equal(length: int | tf.Tensor, other: int | tf.Tensor) -> bool:
    return length is other or (
        isinstance(length, int) and isinstance(other, int) and length == other
    )


def _added(total: TensorList, other: TensorList) -> TensorList:
    # The gradient of an element that was read is a list with this element alone. TensorFlow adds it
    # to all elements of the sum, in each step of a loop.
    if total.is_blank or (total.only is not None and other.only is None):
        total, other = other, total
    if other.is_blank:
        return total.of_shape(other.shape)
    if other.only is not None:
        index, value = other.only
        known = total.of_shape(value.shape).with_rows()
        return known.put(index, known.at(index) + value)
    known = total.of_shape(other.shape)
    rows = known.resolved() + other.of_shape(known.shape).resolved()
    return dataclasses.replace(known, rows=rows, cleared=None, same=None, only=None)


_WRITERS = {
    "EmptyTensorList": _empty,
    "TensorListElementShape": _element_shape,
    "TensorListFromTensor": _from_tensor,
    "TensorListGetItem": _get,
    "TensorListLength": _length,
    "TensorListPopBack": _pop,
    "TensorListPushBack": _push,
    "TensorListReserve": _reserve,
    "TensorListSetItem": _set,
    "TensorListStack": _stack,
}
_MAKERS = frozenset({"EmptyTensorList", "TensorListFromTensor", "TensorListReserve"})
_OF_EITHER = {"AddN": _sum, "ZerosLike": _zeros_like}  # of lists as of tensors


def write(emission: Emission, node: Any, inputs: list[Any], path: tuple[str, ...]) -> list[Any]:
    """Writes an operation that lists of tensors occur in.

    Args:
      emission: The emission that writes the node.
      node: The `NodeDef`.
      inputs: The values of the node's inputs, control edges left out.
      path: The names of the nodes that lead to the node, its own name last.

    Returns:
      The values of its outputs, with a `TensorList` for each list if XLA compiles the graph and the
      graph is not vectorized. Otherwise the operation is copied.

    Raises:
      ShapeVariesError: The shape of a list's elements, or its largest length, depends on values.
      NotImplementedError: XLA has no such operation on lists.
    """
    is_list = node.op in _MAKERS or any(isinstance(value, TensorList) for value in inputs)
    if emission.style != Style(xla=True) or not is_list:
        return emission.copy(node, inputs, path)
    return {**_WRITERS, **_OF_EITHER}[node.op](emission, node, inputs)


HANDLERS: dict[str, Handler] = dict.fromkeys((*_WRITERS, *_OF_EITHER), write)
"""The function that writes each operation on lists, by operation."""
