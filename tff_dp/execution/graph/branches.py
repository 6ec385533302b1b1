"""Conditionals, written as a `tf.cond` of two graphs or as a select between the values of both.

A select runs both branches. It is faster for small branches, and `tf.vectorized_map` can vectorize
it over clients whose conditions differ. It is used only where both branches are cheap and free of
effects and errors (`Program.is_plain`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tff_dp.execution.graph.emission import Emission

_LARGE = 1 << 14  # elements

_Way = Callable[[], list[Any]]


def write_if(emission: Emission, node: Any, inputs: list[Any], path: tuple[str, ...]) -> list[Any]:
    """Writes `If` and `StatelessIf`.

    Args:
      emission: The emission that writes the node.
      node: The `NodeDef`.
      inputs: The values of the node's inputs, control edges left out.
      path: The names of the nodes that lead to the node, its own name last.

    Returns:
      The values of the branch that is taken, one for each output of the node.
    """
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
    """Writes `Case` and `StatelessCase` as a binary tree of choices between two branches.

    A choice between two plain branches can be a select, which TensorFlow vectorizes over clients
    that take different branches.

    Args:
      emission: The emission that writes the node.
      node: The `NodeDef`.
      inputs: The values of the node's inputs, control edges left out.
      path: The names of the nodes that lead to the node, its own name last.

    Returns:
      The values of the branch that is taken, one for each output of the node.
    """
    index, *arguments = inputs
    functions = [function.name for function in node.attr["branches"].list.func]
    last = len(functions) - 1
    # TensorFlow runs the last branch if the index is out of range.
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
    """Writes a choice between two branches, which may both run if they are plain.

    Args:
      emission: The emission.
      condition: Whether the first branch is taken, bool [].
      then: Writes the first branch.
      otherwise: Writes the second branch.
      plain: Whether a branch may run although it is not taken.
      shapes: The shapes of the results according to the node; may be empty.

    Returns:
      The values of the branch that is taken.
    """
    known = tf.get_static_value(condition)
    if known is not None:  # the shapes of the branch that is taken, not what both have in common
        return (then if known else otherwise)()
    if plain:
        kept = dict(emission.carried)
        selected = _both(emission, condition, then, otherwise)
        # A select copies a tensor unless a compiler fuses it, and a `tf.cond` does not. Where the
        # graph must be static it is compiled or vectorized, and the select always stays.
        if emission.style.is_static or not any(_is_large(tensor) for tensor in selected):
            return selected
        emission.carried = kept  # TensorFlow prunes the nodes written above, which nothing uses
    names = list(emission.carried)

    def way(write: _Way) -> Callable[[], list[tf.Tensor]]:
        def run() -> list[tf.Tensor]:
            results, out = emission.apart(write)
            # `tf.cond` requires tensors of the branch's own graph, and a branch may return
            # arguments.
            return [tf.identity(tensor) for tensor in (*results, *out)]

        return run

    merged = tf.cond(condition, way(then), way(otherwise))
    count = len(merged) - len(names)
    emission.resume(names, merged[count:])
    # The static shapes from `tf.cond` are those that both branches have in common; the attribute of
    # the node may be more specific.
    for tensor, shape in zip(merged, shapes, strict=False):
        tensor.set_shape(shape)
    return list(merged[:count])


def _both(emission: Emission, condition: tf.Tensor, then: _Way, otherwise: _Way) -> list[Any]:
    """Writes both branches and selects between their values.

    Each branch is written under its condition, so that assignments and failed checks in it count
    only if it is taken.
    """
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
