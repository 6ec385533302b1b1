"""Loops: `While`, and the reduction of a client's data set, which becomes a loop over its batches.

Carried tensors (`carried`) become loop variables after those of the original loop. The bodies are
traced into graphs of their own, so that `Emission.apart` and `Emission.resume` surround them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tff_dp.execution.graph import carried
from tff_dp.execution.graph.emission import Emission


def write_while(
    emission: Emission, node: Any, inputs: list[Any], path: tuple[str, ...]
) -> list[Any]:
    """Writes `While` and `StatelessWhile` as a `tf.while_loop`.

    The loop variables are the number of the iteration, int64 [], which the keys of random draws
    depend on; those variables of the original loop that its body changes; and the carried tensors.

    Args:
      emission: The emission that writes the node.
      node: The `NodeDef`.
      inputs: The values of the node's inputs, control edges left out.
      path: The names of the nodes that lead to the node, its own name last.

    Returns:
      The final values of the loop variables of the node.
    """
    test, step = (node.attr[name].func.name for name in ("cond", "body"))
    body = emission.program.body_of(step)
    # A value that the body returns unchanged stays outside of the loop variables, because it may be
    # a known number: a bound or a size as a loop variable would make shapes in the loop depend on
    # values. Variables and iterators are not tensors and cannot be loop variables; their tensors
    # are carried.
    places = [
        i
        for i, value in enumerate(inputs)
        if isinstance(value, tf.Tensor) and body.origin(body.results[i])[0] != body.arguments[i]
    ]
    shapes = [tf.TensorShape(shape) for shape in node.attr["output_shapes"].list.shape]
    names = list(emission.carried)

    def arguments(tensors: Sequence[tf.Tensor]) -> list[Any]:
        given = list(inputs)
        for position, tensor in zip(places, tensors, strict=False):
            given[position] = tensor
        return given

    def enter(tensors: tuple[tf.Tensor, ...]) -> None:
        emission.carried.update(zip(names, tensors[len(places) :], strict=True))

    def goes_on(number: tf.Tensor, *tensors: tf.Tensor) -> tf.Tensor:
        def test_it() -> list[Any]:
            enter(tensors)
            return emission.call_in_step(number, test, arguments(tensors), (*path, "cond"))

        # Carried tensors that the condition changes are dropped, since a condition returns a truth
        # value only.
        (result,), _ = emission.apart(test_it)
        return result if result.dtype == tf.bool else tf.cast(result, tf.bool)

    def run(number: tf.Tensor, *tensors: tf.Tensor) -> list[tf.Tensor]:
        def step_it() -> list[Any]:
            enter(tensors)
            return emission.call_in_step(number, step, arguments(tensors), (*path, "body"))

        results, out = emission.apart(step_it)
        moved = [results[position] for position in places]
        for tensor, shape in zip(moved, invariants, strict=True):
            tensor.set_shape(shape)
        return [number + 1, *moved, *out]

    state = [inputs[position] for position in places]
    invariants = [shapes[p] if shapes else inputs[p].shape for p in places]
    _, *final = tf.while_loop(
        goes_on,
        run,
        [tf.constant(0, tf.int64), *state, *(emission.carried[name] for name in names)],
        shape_invariants=[
            tf.TensorShape([]),
            *invariants,
            *(carried.shape_of(name) for name in names),
        ],
    )
    emission.resume(names, final[len(places) :])
    return arguments(final[: len(places)])


def write_reduction(
    emission: Emission, node: Any, inputs: list[Any], path: tuple[str, ...]
) -> list[Any]:
    """Writes `ReduceDataset` as a loop over the batches that the caller supplied.

    The first of the inputs is the `program.Batches` that stands for the data set.

    Args:
      emission: The emission that writes the node.
      node: The `NodeDef`.
      inputs: The values of the node's inputs, control edges left out.
      path: The names of the nodes that lead to the node, its own name last.

    Returns:
      The final state of the reduction, one value for each output of the node.
    """
    attributes = node.attr
    count = len(attributes["output_types"].list.type)
    batches, state, captured = inputs[0], inputs[1 : 1 + count], inputs[1 + count :]
    shapes = [tf.TensorShape(shape) for shape in attributes["output_shapes"].list.shape]
    function = attributes["f"].func.name
    names = list(emission.carried)

    def step(
        number: tf.Tensor, tensors: list[tf.Tensor], batch: list[tf.Tensor]
    ) -> list[tf.Tensor]:
        def step_it() -> list[Any]:
            emission.carried.update(zip(names, tensors[count:], strict=True))
            arguments = [*tensors[:count], *batch, *captured]
            emission.limits.learn(batch, batches.limits)
            return emission.call_in_step(number, function, arguments, path)

        results, out = emission.apart(step_it)
        return [*results, *out]

    if not emission.style.is_static and emission.program.convolves:
        step = _as_call(step)
    final: list[Any] = batches.reduce(
        step,
        [*state, *(emission.carried[name] for name in names)],
        [*shapes, *(carried.shape_of(name) for name in names)],
    )
    emission.resume(names, final[count:])
    return final[:count]


def _as_call(step: Callable[..., list[tf.Tensor]]) -> Callable[..., list[tf.Tensor]]:
    """Returns a step whose graph stays a separate function, which is not inlined into the loop.

    Inlined into a loop, whose graph has a cycle, the gradient of a pooling runs in a kernel that
    takes five times as long. Apparently TensorFlow's rewriting for oneDNN then visits the gradient
    before the pooling itself, and does not replace it.
    """
    call: Callable[..., list[tf.Tensor]] = tf.function(
        step, autograph=False, experimental_attributes={"_noinline": True}
    )
    return lambda *arguments: list(call(*arguments))
