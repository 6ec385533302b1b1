"""Private and version-dependent names of TensorFlow."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.compiler.tf2xla.python import xla
from tensorflow.python.framework import op_def_registry


def op_def(op: str) -> Any:
    """Returns the `OpDef` of an operation, or None for a name that TensorFlow does not know."""
    return op_def_registry.get(op)


def function_def(graph: Any, name: str) -> Any:
    """Returns the `FunctionDef` of a function in a graph's library."""
    return graph._get_function(name).cached_definition


def xla_dynamic_slice(tensor: tf.Tensor, begin: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
    """Returns a slice whose start need not be known when XLA compiles.

    Args:
      tensor: The tensor.
      begin: Where the slice begins in each dimension, int32 [rank].
      sizes: Of the slice, int32 [rank], known when the graph is written.
    """
    return xla.dynamic_slice(tensor, begin, sizes)


def call_flat(function: Any, tensors: Sequence[Any]) -> Any:
    """Calls a concrete function with the flat list of its inputs.

    The public call of a pruned function first tries to bind its arguments by name, fails, and formats an
    error message with the value of every tensor in it, at each call: milliseconds, or seconds for large
    tensors.
    """
    return function._call_flat(list(tensors), function.captured_inputs)


@contextlib.contextmanager
def equality_by_value() -> Iterator[None]:
    """Makes == and != compare tensors by value, as they do in eager code and in Keras's own training.

    TFF traces in a graph of TensorFlow 1, in which they compare by identity: `y != 0`, in a loss function
    say, is then True for whatever y holds. To be used around Keras's and the user's own code.
    """
    if tf.compat.v1.executing_eagerly_outside_functions():
        yield
        return
    equal, unequal = tf.Tensor.__eq__, tf.Tensor.__ne__

    def by_value(operation: Any, where_none: bool) -> Any:
        def compare(self: Any, other: Any) -> Any:
            if other is None:
                return where_none
            return operation(x=self, y=other, incompatible_shape_error=False)

        return compare

    tf.Tensor.__eq__ = by_value(tf.raw_ops.Equal, False)
    tf.Tensor.__ne__ = by_value(tf.raw_ops.NotEqual, True)
    try:
        yield
    finally:
        tf.Tensor.__eq__, tf.Tensor.__ne__ = equal, unequal


@contextlib.contextmanager
def constants_for_eager_tensors() -> Iterator[None]:
    """Makes the function graph that is being traced embed eager tensors as constants.

    Some Keras layers hold plain tensors (an adapted `Normalization` its mean and variance). A function
    captures such a tensor as an input, which TFF cannot serialize; its value never changes, so it can
    be a constant of the graph. To be used while a `tf.function` is traced.
    """
    graph = tf.compat.v1.get_default_graph()
    original = getattr(graph, "capture", None)
    if original is None:  # not a function graph: nothing is captured
        yield
        return
    constants: dict[int, Any] = {}

    def capture(tensor: Any, *args: Any, **kwargs: Any) -> Any:
        if not hasattr(tensor, "numpy") or tensor.dtype in (tf.resource, tf.variant):
            return original(tensor, *args, **kwargs)
        if id(tensor) not in constants:
            with graph.as_default(), tf.control_dependencies(None):
                constants[id(tensor)] = tf.constant(tensor.numpy())
        return constants[id(tensor)]

    graph.capture = capture
    try:
        yield
    finally:
        graph.capture = original
