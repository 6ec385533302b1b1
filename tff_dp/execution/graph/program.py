"""TensorFlow computations as pure functions that can be written into other graphs.

A `tff.tensorflow.computation` is a serialized graph with bindings that say which tensors are its
arguments and results. A `Program` reads it once. `emitter.emit` then writes it, operation by
operation, into the function that is being traced, as a pure function of its arguments. In this way
the work of a whole cohort can be one graph, which XLA compiles or `tf.vectorized_map` vectorizes:

- calls of functions are inlined, and conditionals and loops are traced again;
- the reduction of a data set becomes a loop over batches that the caller provides;
- variables become values that are threaded through the graph, so that a variable-based model trains
  like a functional one;
- branches that are written as `Switch` and `Merge` become selects;
- random operations become functions of a key (`randomness`);
- assertions become the number of the first one that failed, 0 for none.

A computation for which this is not possible has an `obstacle`, and runs as `imported_graph`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from tff_dp import _compat
from tff_dp._compat import tensorflow as tf_compat
from tff_dp.execution.graph import bodies, random_sources, randomness, resources

tff = _compat.tff.load()

_HANDLES = (tf.resource.as_datatype_enum, tf.variant.as_datatype_enum)
_CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})
_BRANCHES = frozenset({"If", "StatelessIf", "Case", "StatelessCase"})
_LOOPS = frozenset({"While", "StatelessWhile"})
VARIABLES = frozenset(
    {
        "VarHandleOp",
        "ReadVariableOp",
        "AssignVariableOp",
        "AssignAddVariableOp",
        "AssignSubVariableOp",
        "VarIsInitializedOp",
        "VariableShape",
        "ResourceGather",
    }
)
_CHECKS = frozenset({"Assert", "CheckNumerics"})
_SILENT = frozenset({"NoOp", "Print", "PrintV2", "PreventGradient"})
ITERATION = frozenset(
    {
        "AnonymousIteratorV3",
        "MakeIterator",
        "IteratorGetNextAsOptional",
        "OptionalHasValue",
        "OptionalGetValue",
    }
)
_HANDLED = (
    ITERATION | _CALLS | _BRANCHES | _LOOPS | VARIABLES | _CHECKS | _SILENT | randomness.OPERATIONS
) | {"ReduceDataset", "Switch", "Merge", "Placeholder", "PlaceholderWithDefault"}
# Operations that TensorFlow defines as stateful, but that neither keep nor change any state.
_HARMLESS = frozenset({"Timestamp", "TensorListReserve", "EmptyTensorList"})
_SLOW_IN_XLA_ON_CPU = frozenset(
    {
        f"{kind}{part}"
        for kind in ("Conv2D", "Conv3D", "DepthwiseConv2dNative")
        for part in ("", "BackpropInput", "BackpropInputV2", "BackpropFilter")
    }
)
# Operations that are cheap and have neither errors nor effects. A branch that consists of them may
# run even though it is not taken, so that a conditional can be a select.
_PLAIN = frozenset(
    {
        "Abs",
        "Add",
        "AddN",
        "AddV2",
        "All",
        "Any",
        "BroadcastTo",
        "Cast",
        "Ceil",
        "Const",
        "DivNoNan",
        "Equal",
        "Exp",
        "ExpandDims",
        "Fill",
        "Floor",
        "Greater",
        "GreaterEqual",
        "Identity",
        "IdentityN",
        "Inv",
        "IsFinite",
        "IsInf",
        "IsNan",
        "L2Loss",
        "Less",
        "LessEqual",
        "Log",
        "Log1p",
        "LogicalAnd",
        "LogicalNot",
        "LogicalOr",
        "Max",
        "Maximum",
        "Mean",
        "Min",
        "Minimum",
        "Mul",
        "MulNoNan",
        "Neg",
        "NoOp",
        "NotEqual",
        "OnesLike",
        "Pack",
        "PartitionedCall",
        "Prod",
        "RealDiv",
        "Reciprocal",
        "Round",
        "Rsqrt",
        "Select",
        "SelectV2",
        "Shape",
        "Sign",
        "Size",
        "Sqrt",
        "Square",
        "SquaredDifference",
        "Squeeze",
        "StatefulPartitionedCall",
        "StopGradient",
        "Sub",
        "Sum",
        "Tanh",
        "ZerosLike",
    }
)


class Batches(Protocol):
    """The batches of one client, as an argument of a program in place of a data set.

    The implementations are in `cohort.batches`. They differ in how a graph finds the examples.
    """

    @property
    def limits(self) -> Sequence[tuple[int, int] | None]:
        """The smallest and the largest value in each tensor of a batch, None where not known.

        The sequence is empty if none is known.
        """

    def reduce(
        self,
        step: Callable[[tf.Tensor, list[tf.Tensor], list[tf.Tensor]], list[tf.Tensor]],
        state: list[tf.Tensor],
        shapes: list[tf.TensorShape],
    ) -> list[tf.Tensor]:
        """Writes a loop over the batches.

        Args:
          step: A function from the number of a batch, int32 [], the state before it, and the
            tensors of the batch to the state after it.
          state: The state before the first batch.
          shapes: The static shapes of the state that hold before and after every batch.

        Returns:
          The state after the last batch.
        """

    def count(self) -> tf.Tensor:
        """Returns the number of batches, int32 []."""

    def take(self, number: tf.Tensor) -> list[tf.Tensor]:
        """Returns one batch.

        Args:
          number: The number of the batch, int32 [], from 0.

        Returns:
          The tensors of the batch, in the order of the flattened element type.
        """


class Program:
    """A TensorFlow computation that can be written into other graphs.

    Args:
      computation: A `tff.tensorflow.computation`.
      checks: A list for the messages of checks that several programs share, so that a number
        identifies a check among all of them; None for a list of its own.

    Attributes:
      type_signature: The TFF type of the computation.
      body: The body of its graph.
      token: The name of the argument for the token of a TFF session; empty if there is none.
      start: The operation that initializes the graph's variables, as a control edge, in a list that
        is empty if there is none.
      arguments: The shape and data type of each argument, in the order of the flattened parameter
        type. A sequence has the type `tf.variant`.
      obstacle: Why `emitter.emit` cannot write it, or None.
      operations: The names of the operations that its results depend on.
      functions: The `FunctionDef` of each function in its library, by name.
      checks: The messages of its checks. The number that `emitter.emit` returns is a position here,
        counted from 1.

    Raises:
      TypeError: The computation is not a TensorFlow computation.
    """

    def __init__(self, computation: Any, checks: list[str] | None = None) -> None:
        self.type_signature = computation.type_signature
        graph, graph_def = graph_of(computation)
        parameter = graph.parameter if graph.HasField("parameter") else None
        feeds = list(bound_tensors(parameter)) if parameter is not None else []
        fetches = list(bound_tensors(graph.result))
        self.body = bodies.of_graph(graph_def, feeds, fetches)
        self.token = graph.session_token_tensor_name.split(":")[0]
        self.start = [(graph.initialize_op, bodies.AFTER)] if graph.initialize_op else []
        self.functions = {f.signature.name: f for f in graph_def.library.function}
        self._bodies: dict[str, bodies.Body] = {}
        self._plain: dict[str, bool] = {}
        self.checks: list[str] = [] if checks is None else checks
        self.operations: frozenset[str] = frozenset()
        self.obstacle: str | None = None
        self._look_through()
        nodes = [self.body.nodes[name] for name in self.body.arguments]
        self.arguments = [
            (tf.TensorShape(node.attr["shape"].shape), tf.as_dtype(node.attr["dtype"].type))
            for node in nodes
        ]
        self._numpy_dtypes = [
            None if dtype in (tf.variant, tf.string) else dtype.as_numpy_dtype
            for _, dtype in self.arguments
        ]

    def tensors(self, values: Sequence[Any]) -> list[tf.Tensor]:
        """Converts values to tensors of the data types of the arguments.

        Args:
          values: A value for each argument, in order.

        Returns:
          The tensors.
        """
        return [
            # `tf.constant` takes longer if it is given a data type, even one that the value has.
            tf.constant(value)
            if isinstance(value, (np.ndarray, np.generic)) and value.dtype == as_numpy
            else value
            if isinstance(value, tf.Tensor) and value.dtype == dtype
            else tf.convert_to_tensor(value, dtype)
            for value, as_numpy, (_, dtype) in zip(
                values, self._numpy_dtypes, self.arguments, strict=True
            )
        ]

    @property
    def is_random(self) -> bool:
        """Whether the program draws random numbers, or reads the clock, which may seed them."""
        return bool(self.operations & randomness.OPERATIONS) or "Timestamp" in self.operations

    @functools.cached_property
    def provenance(self) -> random_sources.Provenance:
        """The origin of its random bits."""
        targets = [*self.start, *self.body.results]
        return random_sources.of(self.body, self.functions, targets)

    @functools.cached_property
    def lasting(self) -> str | None:
        """Which operation keeps contents beyond a run in this process, in words, or None."""
        return resources.of(self.body, self.functions, [*self.start, *self.body.results])

    @property
    def iterates(self) -> bool:
        """Whether it takes batches from an iterator, so that all need the same static shape."""
        return "IteratorGetNextAsOptional" in self.operations

    @property
    def loops(self) -> bool:
        """Whether it has loops besides that over batches, such as those of recurrent layers."""
        return bool(self.operations & _LOOPS)

    @property
    def convolves(self) -> bool:
        """Whether it has convolutions, for which XLA generates slow code on CPUs."""
        return bool(self.operations & _SLOW_IN_XLA_ON_CPU)

    def body_of(self, function: str) -> bodies.Body:
        """Returns the body of a function.

        Args:
          function: The name of a function in the library, or `random_sources.MAIN` for the graph.

        Returns:
          Its body, which is read once.
        """
        if function == random_sources.MAIN:
            return self.body
        if function not in self._bodies:
            self._bodies[function] = bodies.of_function(self.functions[function], self.functions)
        return self._bodies[function]

    def is_plain(self, function: str) -> bool:
        """Returns whether a function may run even if its results are not needed.

        Args:
          function: The name of a function in the library.

        Returns:
          Whether it consists of cheap operations without errors and effects only, and has no
          resources or variants among its arguments and results.
        """
        if function not in self._plain:
            body = self.body_of(function)
            nodes = [body.nodes[name] for name in body.ordered([*body.results, *body.effects])]
            self._plain[function] = all(
                node.op in _PLAIN and all(self.is_plain(name) for name in functions_of(node))
                for node in nodes
            ) and all(argument.type not in _HANDLES for argument in self._arguments_of(function))
        return self._plain[function]

    def _arguments_of(self, function: str) -> Sequence[Any]:
        signature = self.functions[function].signature
        return [*signature.input_arg, *signature.output_arg]

    def check_number(self, message: str) -> int:
        """Returns the number of a check, and adds the check if it is new.

        Args:
          message: The message of the check, which identifies it.

        Returns:
          Its number, counted from 1.
        """
        if message not in self.checks:
            self.checks.append(message)
        return self.checks.index(message) + 1

    def _look_through(self) -> None:
        """Collects the operations that the results depend on, and the first obstacle among them."""
        operations: set[str] = set()
        seen: set[str] = set()
        pending = [(self.body, [*self.start, *self.body.results])]
        while pending:
            body, targets = pending.pop()
            for name in body.ordered([*targets, *body.effects]):
                node = body.nodes[name]
                operations.add(node.op)
                self.obstacle = self.obstacle or self._obstacle_at(node)
                for function in functions_of(node):
                    if function in self.functions and function not in seen:
                        seen.add(function)
                        called = self.body_of(function)
                        pending.append((called, list(called.results)))
        self.operations = frozenset(operations)

    def _obstacle_at(self, node: Any) -> str | None:
        if node.op in self.functions or node.op in _HANDLED:
            return None
        definition = tf_compat.op_def(node.op)
        if definition is None:
            return f"operation {node.op} is unknown to this TensorFlow"
        if node.op in ("Enter", "Exit", "NextIteration", "LoopCond"):
            return "it has a loop of TensorFlow 1"
        if any(True for _ in functions_of(node)):
            return f"operation {node.op} calls functions in a way of its own"
        if node.op in _HARMLESS or node.op.startswith("Stateless"):
            return None
        if definition.is_stateful:
            return f"operation {node.op} has state or effects"
        if "Dataset" in node.op or "Iterator" in node.op:
            return f"operation {node.op} works on the data set as a whole"
        return None


def graph_of(computation: Any) -> tuple[Any, Any]:
    """Returns the serialized form of a TensorFlow computation.

    Args:
      computation: A `tff.tensorflow.computation`.

    Returns:
      The protocol buffer of the computation, which has the bindings of its arguments and results;
      and its `GraphDef`.

    Raises:
      TypeError: The computation is not a TensorFlow computation.
    """
    proto = tff.framework.serialize_computation(computation)
    if proto.WhichOneof("computation") != "tensorflow":
        raise TypeError(f"expected a TensorFlow computation, got {computation.type_signature}")
    graph_def = tf.compat.v1.GraphDef()
    proto.tensorflow.graph_def.Unpack(graph_def)
    return proto.tensorflow, graph_def


def functions_of(node: Any) -> list[str]:
    """Returns the names of the functions that the attributes of a node refer to.

    Args:
      node: The `NodeDef`.

    Returns:
      The names. A call by a function's own name, as the operation of the node, is not among them.
    """
    named = [f for value in node.attr.values() for f in (value.func, *value.list.func)]
    return [f.name for f in named if f.name]


def bound_tensors(binding: Any) -> list[str]:
    """Returns the names of the tensors of a binding.

    Args:
      binding: The binding of a parameter or a result.

    Returns:
      The names, in the order of the flattened type. A sequence has the name of its variant.
    """
    kind = binding.WhichOneof("binding")
    if kind == "tensor":
        return [binding.tensor.tensor_name]
    if kind == "sequence":
        return [binding.sequence.variant_tensor_name]
    return [name for element in binding.struct.element for name in bound_tensors(element)]
