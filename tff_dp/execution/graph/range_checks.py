"""Checks of indices and divisors, for graphs in which TensorFlow's kernels do not make them.

A kernel for CPUs raises an error if an index or a label is out of range, or if an integer is
divided by zero. XLA and the kernels for GPUs clamp the index, drop the update, or return an
arbitrary number; and in a graph that is vectorized over clients, an index beyond the segments of
one client would refer to those of another. Here each such check is a truth value with a message,
which the emitter records in the same way as an assertion (`Emission.keep`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Check:
    """A condition that must hold for an operation.

    Attributes:
      holds: Whether it holds, bool [].
      message: The message for the user if it does not.
      values: The tensor that is checked, if the condition is that its values are in a known
        interval; otherwise None.
      span: The interval, [low, high); only used with `values`.
    """

    holds: tf.Tensor
    message: str
    values: tf.Tensor | None = None
    span: tuple[int, int] = (0, 0)


class Limits:
    """The known ranges of integer tensors: of the examples, and of tensors with the same values."""

    def __init__(self) -> None:
        self._known: dict[Any, tuple[int, int]] = {}

    def learn(self, tensors: Sequence[Any], limits: Sequence[tuple[int, int] | None]) -> None:
        """Records the ranges of tensors.

        Args:
          tensors: The tensors.
          limits: The smallest and the largest value of each tensor, or None where not known. There
            may be fewer entries than tensors.
        """
        for tensor, limit in zip(tensors, limits, strict=False):
            if limit is not None:
                self._known[tensor.ref()] = limit

    def hand_on(self, node: Any, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        """Derives the range of the output of an operation from those of its inputs.

        Args:
          node: The `NodeDef`.
          inputs: The values of its inputs.
          outputs: The values of its outputs.
        """
        if not self._known or node.op not in _UNDERSTOOD:
            return
        known = [self._of(tensor) for tensor in inputs]
        if node.op in _COMPARISONS:
            found = _compared(node.op, *known)
        elif node.op == "SelectV2":
            found = _selected(*known)
        else:
            # Keras casts labels to floats and back. The range stays valid if the output type
            # represents both limits exactly, because rounding is monotonic.
            largest = max(map(abs, known[0] or (0, 0)))
            found = known[0] if largest <= _EXACT.get(outputs[0].dtype, -1) else None
        if found is not None:
            self._known[outputs[0].ref()] = found

    def _of(self, tensor: tf.Tensor) -> tuple[int, int] | None:
        if tensor.ref() in self._known:
            return self._known[tensor.ref()]
        if not (tensor.dtype.is_integer or tensor.dtype.is_bool):
            return None
        if not 0 < (tensor.shape.num_elements() or 0) <= _MANY:
            return None
        value = tf.get_static_value(tensor)
        return None if value is None else (int(np.min(value)), int(np.max(value)))

    def allow(self, check: Check) -> bool:
        """Returns whether a check is known to hold.

        Args:
          check: The check.

        Returns:
          Whether the known range of its values is inside of its interval.
        """
        if check.values is None:
            return False
        low, high = self._known.get(check.values.ref(), (0, -1))
        return low <= high and check.span[0] <= low and high < check.span[1]


# The integers up to this absolute value that each data type represents exactly.
_EXACT = {tf.int32: 2**31 - 1, tf.int64: 2**63 - 1, tf.float32: 2**24, tf.float64: 2**53}
_MANY = 1 << 12  # the most elements of a constant whose range is computed
_SAME_NUMBERS = frozenset(
    [
        "Cast",
        "ExpandDims",
        "Reshape",
        "Slice",
        "Squeeze",
        "StopGradient",
        "StridedSlice",
        "Transpose",
    ]
)
_COMPARISONS = frozenset({"Less", "GreaterEqual"})
_UNDERSTOOD = _SAME_NUMBERS | _COMPARISONS | {"SelectV2"}
_Known = tuple[int, int] | None


def _compared(op: str, a: _Known, b: _Known) -> _Known:
    """Returns the range of a comparison: (1, 1) if true, (0, 0) if false, None if not decided."""
    if a is None or b is None:
        return None
    less = int(op == "Less")
    if a[1] < b[0]:
        return less, less
    return (1 - less, 1 - less) if a[0] >= b[1] else None


def _selected(condition: _Known, then: _Known, otherwise: _Known) -> _Known:
    if condition in ((0, 0), (1, 1)):
        return then if condition == (1, 1) else otherwise
    if then is None or otherwise is None:
        return None
    return min(then[0], otherwise[0]), max(then[1], otherwise[1])


def check(node: Any, inputs: list[Any], limits: Limits) -> Check | None:
    """Writes the check of an operation.

    Args:
      node: The `NodeDef`.
      inputs: The values of its inputs.
      limits: The known ranges.

    Returns:
      The check; None if the operation needs none, or if it is known to hold.

    Raises:
      NotImplementedError: The operation needs a check that cannot be written for these inputs.
    """
    found = OPERATIONS.get(node.op)
    made = None if found is None else found(node, inputs)
    return None if made is None or limits.allow(made) else made


def gather(name: str, indices: tf.Tensor, limit: Any) -> Check | None:
    """Writes the check that indices are in [0, size) of a dimension.

    Args:
      name: The operation and its node, for the message.
      indices: The indices, an integer tensor.
      limit: The size of the dimension, an integer or a tensor [].

    Returns:
      The check; None if the indices are constants in the range.
    """
    return _within(name, "indices", indices, 0, limit)


_UNSIGNED = {tf.int32: tf.uint32, tf.int64: tf.uint64}


@functools.cache
def has_gpu() -> bool:
    """Returns whether this process has a GPU, whose kernels do not check ranges."""
    return bool(tf.config.list_physical_devices("GPU"))


def _within(name: str, what: str, values: tf.Tensor, low: Any, high: Any) -> Check | None:
    """Returns the check that values are in [low, high); either bound may be None."""
    known = [None if b is None else _static(b) for b in (low, high)]
    bounds = [None if b is None else tf.cast(b, values.dtype) for b in (low, high)]
    fixed = tf.get_static_value(values)
    if fixed is not None and all(
        b is None or k is not None for b, k in zip(bounds, known, strict=True)
    ):
        lowest, highest = (None if k is None else np.asarray(k) for k in known)
        inside = (lowest is None or (fixed >= lowest).all()) and (
            highest is None or (fixed < highest).all()
        )
        if inside:
            return None
    if known[0] == 0 and bounds[1] is not None and values.dtype in _UNSIGNED:
        # As an unsigned integer, a negative number is larger than any limit, so that one comparison
        # is enough. This saves time, since the check runs in each step of the training.
        unsigned = _UNSIGNED[values.dtype]
        holds = [tf.reduce_all(tf.bitcast(values, unsigned) < tf.bitcast(bounds[1], unsigned))]
    else:
        holds = [] if bounds[0] is None else [tf.reduce_all(values >= bounds[0])]
        if bounds[1] is not None:
            holds.append(tf.reduce_all(values < bounds[1]))
    if low is None:
        says = f"less than {_text(high, known[1])}"
    elif high is None:
        says = f"at least {_text(low, known[0])}"
    else:
        says = f"in [{_text(low, known[0])}, {_text(high, known[1])})"
    held = functools.reduce(tf.logical_and, holds)
    message = f"{name}: {what} are not all {says}"
    first, end = (
        far if bound is None else None if limit is None or np.ndim(limit) else int(limit)
        for bound, limit, far in zip(bounds, known, (-(2**63), 2**63), strict=True)
    )
    if first is None or end is None:
        return Check(held, message)
    return Check(held, message, values, (first, end))


def _static(bound: Any) -> Any:
    return bound if isinstance(bound, (int, np.ndarray, list)) else tf.get_static_value(bound)


def _text(bound: Any, known: Any) -> str:
    if known is None:
        return "the size of the dimension"
    flat = np.asarray(known).ravel().tolist()
    return str(flat[0] if len(flat) == 1 else flat)


def _name(node: Any) -> str:
    return f"{node.op} ({node.name})"


def _size(value: tf.Tensor, axis: int) -> Any:
    size = value.shape[axis] if value.shape.rank is not None else None
    return tf.shape(value)[axis] if size is None else size


def _gather(node: Any, inputs: list[Any]) -> Check | None:
    params, indices = inputs[:2]
    axis = 0
    if node.op == "GatherV2":
        known = tf.get_static_value(inputs[2])
        if known is None:
            raise NotImplementedError(f"{_name(node)} looks up along an axis that varies")
        axis = int(known)
    return gather(_name(node), indices, _size(params, axis))


def _index_vectors(node: Any, indices: tf.Tensor, shape: Any) -> Check | None:
    depth = indices.shape[-1]
    if depth is None:
        raise NotImplementedError(f"{_name(node)} has indices of a length that varies")
    if not depth:
        return None
    return _within(_name(node), "indices", indices, 0, shape[:depth])


def _gather_nd(node: Any, inputs: list[Any]) -> Check | None:
    params, indices = inputs
    known = params.shape.is_fully_defined()
    shape = np.array(params.shape.as_list(), np.int64) if known else tf.shape(params)
    return _index_vectors(node, indices, shape)


def _scatter_nd(node: Any, inputs: list[Any]) -> Check | None:
    return _index_vectors(node, inputs[0], inputs[2])


def _tensor_scatter(node: Any, inputs: list[Any]) -> Check | None:
    return _gather_nd(node, inputs[:2])


def _labels(node: Any, inputs: list[Any]) -> Check | None:
    return _within(_name(node), "label values", inputs[1], 0, _size(inputs[0], -1))


def _segments(node: Any, inputs: list[Any]) -> Check | None:
    # Negative segment ids are valid: the kernel drops their rows.
    return _within(_name(node), "segment_ids", inputs[1], None, inputs[2])


def _counted(node: Any, inputs: list[Any]) -> Check | None:
    # Values beyond the last bin are valid: the kernel drops them.
    return _within(_name(node), "the values to count", inputs[0], 0, None)


def _divisor(node: Any, inputs: list[Any]) -> Check | None:
    divisor = inputs[1]
    if not divisor.dtype.is_integer:
        return None
    known = tf.get_static_value(divisor)
    if known is not None and np.all(known):
        return None
    return Check(
        tf.reduce_all(tf.not_equal(divisor, tf.zeros([], divisor.dtype))),
        f"{_name(node)}: Integer division by zero",
    )


def _power(node: Any, inputs: list[Any]) -> Check | None:
    exponent = inputs[1]
    if not exponent.dtype.is_integer:
        return None
    known = tf.get_static_value(exponent)
    if known is not None and np.all(np.asarray(known) >= 0):
        return None
    return Check(
        tf.reduce_all(exponent >= tf.zeros([], exponent.dtype)),
        f"{_name(node)}: Integers to negative integer powers are not allowed",
    )


def _lengths(node: Any, inputs: list[Any]) -> Check | None:
    limit = _size(inputs[0], node.attr["seq_dim"].i)
    return _within(_name(node), "lengths", inputs[1], 0, limit + 1)


def _permutation(node: Any, inputs: list[Any]) -> Check | None:
    (order,) = inputs
    known = tf.get_static_value(order)
    if known is not None and np.array_equal(np.sort(known), np.arange(len(known))):
        return None
    count = tf.range(tf.shape(order, order.dtype)[0])
    found = tf.reduce_any(tf.equal(order[:, None], count[None]), 0)
    return Check(tf.reduce_all(found), f"{_name(node)}: the values are not a permutation")


def _begin(node: Any, inputs: list[Any]) -> Check | None:
    value, begin, size = inputs
    if tf.get_static_value(begin) is not None:
        return None  # checked while the graph is made
    known, shape = tf.get_static_value(size), value.shape
    if known is None or not shape.is_fully_defined():
        raise NotImplementedError(f"{_name(node)} has a shape that varies")
    sizes = np.where(np.asarray(known) < 0, 0, known)
    highest = np.array(shape.as_list(), np.int64) - sizes
    return _within(_name(node), "where it begins", begin, 0, highest + 1)


def _picked(node: Any, inputs: list[Any]) -> Check | None:
    """Checks those positions of a slice that select a single entry.

    The kernel clamps ranges to the size of the dimension, so that they need no check.
    """
    value, begin = inputs[:2]
    if tf.get_static_value(begin) is not None or not node.attr["shrink_axis_mask"].i:
        return None
    count = begin.shape[0]
    if count is None or value.shape.rank is None:
        raise NotImplementedError(f"{_name(node)} has a shape that varies")
    dimensions = _dimensions(node, count, value.shape.rank)
    places = [
        i for i in range(count) if node.attr["shrink_axis_mask"].i >> i & 1 and i in dimensions
    ]
    if not places:
        return None
    sizes = [tf.cast(_size(value, dimensions[i]), begin.dtype) for i in places]
    chosen, limits = tf.gather(begin, places), tf.stack(sizes)
    holds = tf.reduce_all((chosen >= -limits) & (chosen < limits))
    return Check(holds, f"{_name(node)}: slice index out of bounds")


def _dimensions(node: Any, count: int, rank: int) -> dict[int, int]:
    """Returns the dimension of the value that each entry of a slice's specification refers to."""
    new, ellipsis = node.attr["new_axis_mask"].i, node.attr["ellipsis_mask"].i
    found: dict[int, int] = {}
    dimension = 0
    for entry in range(count):
        if ellipsis >> entry & 1:
            after = sum(1 for later in range(entry + 1, count) if not new >> later & 1)
            dimension = rank - after
        elif not new >> entry & 1:
            found[entry] = dimension
            dimension += 1
    return found


def _element(node: Any, inputs: list[Any]) -> Check | None:
    handle, index = inputs[:2]
    if node.op == "TensorListSetItem" and node.attr["resize_if_index_out_of_bounds"].b:
        raise NotImplementedError(f"{_name(node)} makes its list longer where that is needed")
    return element(node, index, tf.raw_ops.TensorListLength(input_handle=handle))


def element(node: Any, index: Any, length: Any) -> Check | None:
    """Returns the check that the index of a list's element is within the list.

    Args:
      node: The `NodeDef` of the operation on the list.
      index: The index, an int or int32 [].
      length: The length of the list, an int or int32 [].

    Returns:
      The check; None if it is known to hold.
    """
    return _within(_name(node), "elements", tf.convert_to_tensor(index, tf.int32), 0, length)


_Finder = Callable[[Any, list[Any]], "Check | None"]
# The function that writes the check of each operation which needs one.
OPERATIONS: dict[str, _Finder] = {
    **dict.fromkeys(("Gather", "GatherV2"), _gather),
    "GatherNd": _gather_nd,
    "ScatterNd": _scatter_nd,
    **dict.fromkeys(
        (f"TensorScatter{k}" for k in ("Add", "Max", "Min", "Sub", "Update")), _tensor_scatter
    ),
    "SparseSoftmaxCrossEntropyWithLogits": _labels,
    **dict.fromkeys((f"UnsortedSegment{k}" for k in ("Max", "Min", "Prod", "Sum")), _segments),
    **dict.fromkeys(("Bincount", "DenseBincount"), _counted),
    **dict.fromkeys(("Div", "FloorDiv", "FloorMod", "Mod", "TruncateDiv", "TruncateMod"), _divisor),
    "Pow": _power,
    "ReverseSequence": _lengths,
    "InvertPermutation": _permutation,
    "Slice": _begin,
    "StridedSlice": _picked,
    **dict.fromkeys(("TensorListGetItem", "TensorListSetItem"), _element),
}
