"""Loops: `While`, and the reduction of a client's data set to a loop over its batches."""

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

    The loop's state is the number of the iteration, which the keys of random draws need, what the
    original loop changes, and what is carried.
    """
    test, step = (node.attr[name].func.name for name in ("cond", "body"))
    body = emission.program.body_of(step)
    # What a step hands on as it got it stays outside of the loop, where it may be a known number: a
    # bound or a size that is loop state would make shapes within the loop depend on values. Values that
    # are no tensors (variables, iterators) cannot be loop state at all; what stands for them is carried.
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

        # What the condition carries out is dropped: a condition has no results beside its answer.
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
    """Writes `ReduceDataset`, whose data set is the caller's `Batches`, as a loop over them."""
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
    """Returns a step whose graph stays a function of its own.

    In a loop's graph, which has a cycle, TensorFlow's rewriting for oneDNN seems to meet the gradient
    of a pooling before the pooling, and leaves it to a kernel that takes five times as long.
    """
    call: Callable[..., list[tf.Tensor]] = tf.function(
        step, autograph=False, experimental_attributes={"_noinline": True}
    )
    return lambda *arguments: list(call(*arguments))
