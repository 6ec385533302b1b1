"""Runs a function by TensorFlow's kernels, and as the emitter of `tff_dp.execution` writes it for XLA."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tff_dp.execution.graph import range_checks, xla_numerics


def constants(values: Any) -> Any:
    return tf.nest.map_structure(tf.constant, _lists(values))


def _lists(values: Any) -> Any:
    return [_lists(value) for value in values] if isinstance(values, (list, tuple)) else values


def run(function: Callable[..., Any], argument: Any) -> list[np.ndarray]:
    traced = tf.function(function, autograph=False)
    return [tensor.numpy() for tensor in tf.nest.flatten(traced(argument))]


def run_for_xla(function: Callable[..., Any], argument: Any) -> list[np.ndarray]:
    """Runs a function of (argument, key) as XLA compiles it, which must not know the key."""
    traced = tf.function(function, jit_compile=True, autograph=False)
    return [
        tensor.numpy()
        for tensor in tf.nest.flatten(traced(argument, tf.constant([5, 7], tf.uint64)))
    ]


def rewritten(
    function: Callable[..., Any],
    arguments: Sequence[Any],
    key: Any,
    checks: list[Any] | None = None,
) -> list[Any]:
    """Writes what a function writes as the emitter does for XLA, each product as before a step."""
    flat = tf.nest.flatten(arguments)
    with tf.Graph().as_default() as graph:
        places = [tf.compat.v1.placeholder(value.dtype, value.shape) for value in flat]
        results = tf.nest.flatten(function(*tf.nest.pack_sequence_as(arguments, places)))
    values = {place.ref(): value for place, value in zip(places, flat, strict=True)}
    for operation in graph.get_operations():
        if operation.type == "Placeholder":
            continue
        inputs = [values[tensor.ref()] for tensor in operation.inputs]
        check = range_checks.check(operation.node_def, inputs, range_checks.Limits())
        if check is not None and checks is not None:
            checks.append(check)
        if operation.type in xla_numerics.RECTIFIERS and inputs[0].dtype.is_floating:
            written = xla_numerics.rectified(operation.node_def, inputs, for_xla=True)
        else:
            written = xla_numerics.write(operation.node_def, inputs, key, steps=True)
        if written is None:
            attributes = {k: v for k, v in operation.node_def.attr.items() if not k.startswith("_")}
            here = tf.compat.v1.get_default_graph()
            written = here.create_op(operation.type, inputs, attrs=attributes).outputs
        values |= {old.ref(): new for old, new in zip(operation.outputs, written, strict=True)}
    return [values[result.ref()] for result in results]
