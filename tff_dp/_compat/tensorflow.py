"""Private and version-dependent names of TensorFlow."""

from __future__ import annotations

import contextlib
import functools
import inspect
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf
from tensorflow.compiler.tf2xla.python import xla
from tensorflow.core.protobuf import rewriter_config_pb2
from tensorflow.python.data.ops import batch_op, from_tensor_slices_op, prefetch_op, repeat_op
from tensorflow.python.eager import context
from tensorflow.python.framework import op_def_registry
from tensorflow.python.util import tf_stack

# The public method warns of an argument that it no longer has: it binds its arguments by name at each
# call, which takes longer than to make the operation.
_create_op = inspect.unwrap(tf.Graph.create_op)


def op_def(op: str) -> Any:
    """Looks up the definition of an operation.

    Args:
      op: The name of the operation's type, such as "MatMul".

    Returns:
      Its `OpDef`; None if TensorFlow has no operation of this name.
    """
    return op_def_registry.get(op)


def function_def(graph: Any, name: str) -> Any:
    """Looks up a function in the library of a graph.

    Args:
      graph: The `tf.Graph`.
      name: The name of a function in its library.

    Returns:
      The `FunctionDef`.
    """
    return graph._get_function(name).cached_definition


def outputs_of(op: str, inputs: Sequence[Any], attributes: Mapping[str, Any]) -> list[tf.Tensor]:
    """Adds an operation to the graph that is being traced.

    Args:
      op: The name of the operation's type, such as "MatMul".
      inputs: Its inputs, tensors of the graph.
      attributes: Its attributes, as `AttrValue`s.

    Returns:
      Its outputs.
    """
    graph = tf.compat.v1.get_default_graph()
    return list(_create_op(graph, op, inputs, attrs=attributes).outputs)


_traces = threading.local()


@contextlib.contextmanager
def one_stack_trace() -> Iterator[None]:
    """Gives all operations that this thread makes in the block the stack trace of the block.

    TensorFlow keeps the Python stack of each operation, for its messages about nodes that fail. Where
    graphs are written from other graphs, or serialized right after they are traced, the stack says
    nothing that is shown to anybody, and takes up to half of the time of making an operation.

    Yields:
      Nothing. In other threads, and after the block, operations have stack traces of their own.
    """
    _share_traces()
    held = getattr(_traces, "shared", None)
    _traces.shared = held or _extract_stack()
    try:
        yield
    finally:
        _traces.shared = held


_extract_stack = tf_stack.extract_stack


@functools.cache
def _share_traces() -> None:
    def extract_stack(stacklevel: int = 1) -> Any:
        shared = getattr(_traces, "shared", None)
        return _extract_stack(stacklevel + 1) if shared is None else shared

    tf_stack.extract_stack = extract_stack


class Slices(NamedTuple):
    """A data set that is slices of tensors, in batches.

    Attributes:
      tensors: The tensors, [rows, ...], in the flat order of the elements.
      before: How often the rows are repeated before they are made into batches.
      batch_size: The number of rows in a batch.
      drop_remainder: Whether a last, smaller batch is left out.
      after: How often the batches are repeated.
    """

    tensors: tuple[tf.Tensor, ...]
    before: int
    batch_size: int
    drop_remainder: bool
    after: int


def slices_of(dataset: tf.data.Dataset) -> Slices | None:
    """Takes a data set apart, if nothing but slicing, repeating and batching made it.

    Args:
      dataset: The data set, made outside of any graph.

    Returns:
      What it was made of: `from_tensor_slices`, finite `repeat`s, one `batch`, and `prefetch`es in
      any order; None for any other data set.
    """
    repeats, batch = [1, 1], None  # before the batches, and after
    while not isinstance(dataset, from_tensor_slices_op._TensorSliceDataset):
        kind = type(dataset)
        if kind is repeat_op._RepeatDataset:
            count = int(dataset._count)
            if count < 0:
                return None
            repeats[batch is None] *= count
        elif kind is batch_op._BatchDataset and batch is None:
            batch = (int(dataset._batch_size), bool(dataset._drop_remainder))
        elif kind is not prefetch_op._PrefetchDataset:
            return None
        dataset = dataset._input_dataset
    if batch is None:
        return None
    return Slices(tuple(dataset._tensors), repeats[0], *batch, repeats[1])


def xla_dynamic_slice(tensor: tf.Tensor, begin: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
    """Slices a tensor at a start that need not be known when XLA compiles.

    Args:
      tensor: The tensor.
      begin: The start of the slice in each dimension, int32 [rank].
      sizes: The size of the slice in each dimension, int32 [rank]; constant when the graph is
        built.

    Returns:
      The slice, of shape `sizes` and the dtype of `tensor`.
    """
    return xla.dynamic_slice(tensor, begin, sizes)


def xla_dynamic_update_slice(tensor: tf.Tensor, update: tf.Tensor, begin: tf.Tensor) -> tf.Tensor:
    """Replaces a slice of a tensor, at a start that need not be known when XLA compiles.

    Args:
      tensor: The tensor.
      update: The slice, of the rank and the dtype of `tensor`.
      begin: The start of the slice in each dimension, int32 [rank].

    Returns:
      The tensor with the slice, of the shape and the dtype of `tensor`.
    """
    return xla.dynamic_update_slice(tensor, update, begin)


def call_flat(function: Any, tensors: Sequence[Any]) -> Any:
    """Calls a concrete function with the flat list of its inputs.

    The public way to call a pruned function first tries to bind the arguments by name, fails, and
    formats an error message that contains the value of every tensor. This happens at each call and
    takes milliseconds, or seconds for large tensors.

    Args:
      function: A `ConcreteFunction`.
      tensors: Its inputs in order, without the captured ones, which are added here.

    Returns:
      The outputs of the function, in their structure.
    """
    with no_temporary_variables():
        return function._call_flat(list(tensors), function.captured_inputs)


@contextlib.contextmanager
def no_temporary_variables() -> Iterator[None]:
    """Keeps TensorFlow from summing tensors in temporary variables, in functions called in the block.

    If it estimates that a graph needs more than 0.8 of what it takes for the memory of a CPU, 256 MiB,
    TensorFlow 2.21 replaces sums of three and more tensors by such variables ("memory optimization").
    Within a loop, the variable of the iteration after the last one is made, and never destroyed. The
    second call of the function fails because it is there already. The option is that of the thread,
    and counts when a function is called for the first time and when a call is traced.

    Yields:
      Nothing. The options are restored on exit.
    """
    eager = context.context()
    options = eager.function_call_options
    eager.function_call_options = _changed_options(
        options.config_proto_serialized, options.executor_type
    )
    try:
        yield
    finally:
        eager.function_call_options = options


@functools.lru_cache(1 << 6)
def _changed_options(config: bytes, executor_type: str | None) -> Any:
    changed = tf.compat.v1.ConfigProto.FromString(config)
    none = rewriter_config_pb2.RewriterConfig.NO_MEM_OPT
    changed.graph_options.rewrite_options.memory_optimization = none
    return context.FunctionCallOptions(executor_type, changed)


@contextlib.contextmanager
def equality_by_value() -> Iterator[None]:
    """Makes == and != compare tensors by value, as in eager code and in Keras's own training.

    TFF traces in a graph of TensorFlow 1, where these operators compare by identity: `y != 0`, for
    example in a loss function, is then True whatever the value of y. Use this context manager
    around code of Keras and of the user.

    Yields:
      Nothing. The operators are restored on exit.
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
    """Embeds eager tensors as constants in the function graph that is being traced.

    Some Keras layers hold plain tensors, such as the mean and variance of an adapted
    `Normalization`. A function captures such a tensor as an input, which TFF cannot serialize. The
    tensor is immutable, so that it can be a constant of the graph instead. Resources and variants
    are captured as before. Use this context manager while a `tf.function` is traced.

    Yields:
      Nothing. Outside of a function graph, the context manager has no effect.
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
