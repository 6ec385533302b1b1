"""Conditionals, written as a choice between two graphs or as a select between two values."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tff_dp.execution.graph.emission import Emission

_LARGE = 1 << 14  # elements

_Way = Callable[[], list[Any]]


def write_if(emission: Emission, node: Any, inputs: list[Any], path: tuple[str, ...]) -> list[Any]:
    """Writes `If` and `StatelessIf`."""
    condition, *arguments = inputs
    if condition.dtype != tf.bool:
        condition = tf.cast(condition, tf.bool)
    names = ("then_branch", "else_branch")
    functions = [node.attr[name].func.name for name in names]
    then, otherwise = (
        functools.partial(emission.call, function, arguments, (*path, name))
        for function, name in zip(functions, names, strict=True)
    )
    plain = all(emission.program.is_plain(function) for function in functions)
    return _choose(emission, condition, then, otherwise, plain=plain, shapes=_output_shapes(node))


def write_case(
    emission: Emission, node: Any, inputs: list[Any], path: tuple[str, ...]
) -> list[Any]:
    """Writes a choice among several branches as choices between two, which vectorize."""
    index, *arguments = inputs
    functions = [function.name for function in node.attr["branches"].list.func]
    last = len(functions) - 1
    # TensorFlow takes the last branch for an index that is out of range.
    index = tf.where(tf.logical_and(index >= 0, index < last), index, last)
    shapes = _output_shapes(node)

    def among(low: int, high: int) -> list[Any]:
        if high - low == 1:
            return emission.call(functions[low], arguments, (*path, f"branch_{low}"))
        middle = (low + high) // 2
        plain = all(emission.program.is_plain(function) for function in functions[low:high])
        then, otherwise = (
            functools.partial(among, *half) for half in ((low, middle), (middle, high))
        )
        return _choose(emission, index < middle, then, otherwise, plain=plain, shapes=shapes)

    return among(0, len(functions))


def _choose(
    emission: Emission,
    condition: tf.Tensor,
    then: _Way,
    otherwise: _Way,
    *,
    plain: bool,
    shapes: Sequence[tf.TensorShape],
) -> list[Any]:
    """Writes a choice between two ways, of which both may run if they are plain."""
    if plain:
        kept = dict(emission.carried)
        selected = _both(emission, condition, then, otherwise)
        # Where no compiler fuses it, selecting copies a tensor, and a choice does not.
        if emission.style.is_static or not any(_is_large(tensor) for tensor in selected):
            return selected
        emission.carried = kept  # TensorFlow prunes what has been written for nothing
    names = list(emission.carried)

    def way(write: _Way) -> Callable[[], list[tf.Tensor]]:
        def run() -> list[tf.Tensor]:
            results, out = emission.apart(write)
            # `tf.cond` wants tensors of the branch's own graph; a branch may return its arguments.
            return [tf.identity(tensor) for tensor in (*results, *out)]

        return run

    merged = tf.cond(condition, way(then), way(otherwise))
    count = len(merged) - len(names)
    emission.resume(names, merged[count:])
    # `tf.cond` gives what both branches are known to have in common; the node may know more.
    for tensor, shape in zip(merged, shapes, strict=False):
        tensor.set_shape(shape)
    return list(merged[:count])


def _both(emission: Emission, condition: tf.Tensor, then: _Way, otherwise: _Way) -> list[Any]:
    """Writes both ways and selects: for small ones faster than a choice, and it vectorizes."""
    outer = emission.conditions
    results = []
    for write, taken in ((then, condition), (otherwise, ~condition)):
        emission.conditions = [*outer, taken]
        results.append(write())
    emission.conditions = outer
    return [a if a is b else tf.where(condition, a, b) for a, b in zip(*results, strict=True)]


def _output_shapes(node: Any) -> list[tf.TensorShape]:
    return [tf.TensorShape(shape) for shape in node.attr["output_shapes"].list.shape]


def _is_large(tensor: tf.Tensor) -> bool:
    count = tensor.shape.num_elements()
    return count is not None and count > _LARGE
