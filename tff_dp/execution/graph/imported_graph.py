"""TensorFlow graphs of TFF computations, imported as functions of this process's TensorFlow.

A `tff.tensorflow.computation` is a serialized graph with bindings that say which tensors are its
arguments and results. Here it is imported once, unlike a `program.Program`, which is written into
other graphs, and is called like any TensorFlow function, so that it runs on the devices of this
process. Its random operations draw under keys where that is possible (`keyed_import`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tff_dp._compat import tensorflow as tf_compat
from tff_dp.execution.graph import keyed_import, program, resources, xla_numerics

_imports = itertools.count()
_SHARED = resources.STATIC_TABLES | {"VarHandleOp", "VariableV2"}


class ImportedGraph:
    """A TensorFlow computation as a function from flat arguments to flat results.

    Args:
      computation: A `tff.tensorflow.computation`.

    Attributes:
      type_signature: The TFF type of the computation.

    Raises:
      TypeError: The computation is not a TensorFlow computation.
    """

    def __init__(self, computation: Any) -> None:
        self.type_signature = computation.type_signature
        graph, graph_def = program.graph_of(computation)
        prefix = f"tff_dp_{next(_imports)}_"
        _make_names_unique(graph_def, prefix)
        xla_numerics.keep_nan(graph_def)
        self._streams = keyed_import.Streams(graph_def, prefix)
        parameter = graph.parameter if graph.HasField("parameter") else None
        feeds = program.bound_tensors(parameter) if parameter is not None else []
        fetches = program.bound_tensors(graph.result)
        token = graph.session_token_tensor_name

        def load() -> None:
            # The token identifies a TFF session. Nothing here reads it, but it must have a value.
            _import_with_loop(graph_def, {token: tf.constant("")} if token else {})

        wrapped = tf.compat.v1.wrap_function(load, [])
        tensor = wrapped.graph.get_tensor_by_name
        self._initialize: Callable[[], Any] | None = None
        if graph.initialize_op:
            operation = wrapped.graph.get_operation_by_name(graph.initialize_op)
            self._initialize = wrapped.prune([], operation)
        self._call = wrapped.prune([tensor(name) for name in feeds], [tensor(n) for n in fetches])
        self._dtypes = [tensor(name).dtype for name in feeds]

    def __call__(self, arguments: list[Any], key: tf.Tensor) -> list[tf.Tensor]:
        """Runs the graph.

        Args:
          arguments: A value for each part of the flattened parameter type, in order: tensors or
            arrays, and data sets or their variants for sequences.
          key: The key of this call, uint64 [2], from which the operations in `keyed_import` derive
            theirs.

        Returns:
          Tensors in the order of the flattened result type; a sequence is the variant of a data
          set.
        """
        self._streams.start(key)
        if self._initialize is not None:
            self._initialize()  # variables outlive a call, so that each call initializes them again
        fed = [
            as_variant(value) if dtype == tf.variant else tf.convert_to_tensor(value, dtype)
            for value, dtype in zip(arguments, self._dtypes, strict=True)
        ]
        return list(tf_compat.call_flat(self._call, fed))


def as_variant(value: Any) -> tf.Tensor:
    """Returns the variant of a data set.

    Args:
      value: A data set, or any other value.

    Returns:
      The variant tensor of the data set; any other value itself.
    """
    return tf.data.experimental.to_variant(value) if isinstance(value, tf.data.Dataset) else value


def _make_names_unique(graph_def: Any, prefix: str) -> None:
    """Adds a prefix to all names that are global in a process: of functions, variables and tables.

    Graphs of different computations use the same name, such as "cond_true_3", for different
    functions; and two imports of one graph would otherwise share their variables.
    """
    functions = {f.signature.name: prefix + f.signature.name for f in graph_def.library.function}
    for function in graph_def.library.function:
        function.signature.name = functions[function.signature.name]
    for gradient in graph_def.library.gradient:
        gradient.function_name = functions[gradient.function_name]
        gradient.gradient_func = functions[gradient.gradient_func]
    bodies = [graph_def.node, *(f.node_def for f in graph_def.library.function)]
    for node in itertools.chain.from_iterable(bodies):
        node.op = functions.get(node.op, node.op)
        for attribute in node.attr.values():
            for value in [attribute.func, *attribute.list.func]:
                if value.name in functions:
                    value.name = functions[value.name]
        name = node.attr["shared_name"].s if node.op in _SHARED else b""
        if not name and node.op in resources.STATIC_TABLES and node.attr["use_node_name_sharing"].b:
            name = node.name.encode()
        if name:
            node.attr["shared_name"].s = prefix.encode() + name


def _import_with_loop(graph_def: Any, inputs: dict[str, tf.Tensor]) -> None:
    """Imports a graph into the one that is being built, with a loop in place of a `ReduceDataset`.

    A `ReduceDataset` instantiates its function again at each execution, which takes far longer than
    the training of a small client. A loop over an iterator that calls the same function gives the
    same results. The graph is imported in two parts, before and after the reduction. A graph that
    has no such node, or several, is imported unchanged.
    """
    reductions = [node for node in graph_def.node if node.op == "ReduceDataset"]
    if len(reductions) != 1:
        tf.graph_util.import_graph_def(graph_def, name="", input_map=inputs)
        return
    (reduction,) = reductions
    before = _ancestors(graph_def, reduction)
    first, second = tf.compat.v1.GraphDef(), tf.compat.v1.GraphDef()
    for part in (first, second):
        part.versions.CopyFrom(graph_def.versions)
        part.library.CopyFrom(graph_def.library)
    for node in graph_def.node:
        node.attr.pop("_class", None)  # would tie nodes of the two parts together
        if node.name in before:
            first.node.append(node)
        elif node is not reduction:
            second.node.append(node)
    tokens = {name: value for name, value in inputs.items() if name.split(":")[0] in before}
    tf.graph_util.import_graph_def(first, name="", input_map=_used(first, tokens))
    graph = tf.compat.v1.get_default_graph()
    results = _reduce_loop(graph, reduction)
    joined = {name: value for name, value in inputs.items() if name not in tokens}
    for name in {name for node in second.node for name in node.input}:
        source = name.lstrip("^").split(":")[0]
        if source == reduction.name:
            index = int(name.split(":")[1]) if ":" in name else 0
            joined[name] = results[index]
        elif source in before:
            joined[name] = (
                _after(graph.get_operation_by_name(source))
                if name.startswith("^")
                else graph.get_tensor_by_name(name if ":" in name else f"{name}:0")
            )
    tf.graph_util.import_graph_def(second, name="", input_map=_used(second, joined))


def _after(operation: Any) -> tf.Tensor:
    """Returns a tensor that becomes available once an operation has run.

    An import accepts it in place of a control edge.
    """
    with tf.control_dependencies([operation]):
        return tf.constant(0)


def _ancestors(graph_def: Any, node: Any) -> set[str]:
    by_name = {other.name: other for other in graph_def.node}
    found: set[str] = set()
    pending = list(node.input)
    while pending:
        name = pending.pop().lstrip("^").split(":")[0]
        if name not in found:
            found.add(name)
            pending.extend(by_name[name].input)
    return found


def _used(graph_def: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """Returns those of the inputs that a graph refers to, since an import rejects all others."""
    names = {name for node in graph_def.node for name in node.input}
    return {name: value for name, value in inputs.items() if name in names}


def _reduce_loop(graph: Any, reduction: Any) -> list[tf.Tensor]:
    """Builds the loop that replaces a `ReduceDataset`, and returns its final state."""
    tensors = [
        graph.get_tensor_by_name(name if ":" in name else f"{name}:0")
        for name in reduction.input
        if not name.startswith("^")
    ]
    attributes = reduction.attr
    state_types = list(attributes["output_types"].list.type)
    captured_types = list(attributes["Targuments"].list.type)
    variant, state = tensors[0], tensors[1 : 1 + len(state_types)]
    captured = tensors[1 + len(state_types) :]
    if len(captured) != len(captured_types):
        raise ValueError(f"{reduction.name}: inputs do not fit its attributes")
    shapes = [tf.TensorShape(shape) for shape in attributes["output_shapes"].list.shape]
    name = attributes["f"].func.name
    signature = tf_compat.function_def(graph, name).signature
    elements = signature.input_arg[len(state) : len(signature.input_arg) - len(captured)]
    types = {
        "output_types": [argument.type for argument in elements],
        "output_shapes": [tf.TensorShape(None)] * len(elements),
    }
    iterator = tf.raw_ops.AnonymousIteratorV3(**types)
    started = tf.raw_ops.MakeIterator(dataset=variant, iterator=iterator)

    def step(_: tf.Tensor, *state: tf.Tensor) -> list[tf.Tensor]:
        batch = tf.raw_ops.IteratorGetNextAsOptional(iterator=iterator, **types)
        more = tf.raw_ops.OptionalHasValue(optional=batch)

        def reduce() -> list[tf.Tensor]:
            values = tf.raw_ops.OptionalGetValue(optional=batch, **types)
            # The steps of a variable-based model depend on each other through its variables, which
            # are not part of the state. Control edges make each step start after the assignments of
            # the step before, and end after its own.
            with tf.control_dependencies([*state, *values]):
                reduced = tf.raw_ops.StatefulPartitionedCall(
                    args=[*state, *values, *captured], Tout=state_types, f=name
                )
            with tf.control_dependencies([reduced[0].op]):
                reduced = [tf.identity(tensor) for tensor in reduced]
            for tensor, shape in zip(reduced, shapes, strict=True):
                tensor.set_shape(shape)
            return reduced

        return [more, *tf.cond(more, reduce, lambda: list(state))]

    # The loop must run after the operations that the node's control edges name (such as a
    # variable-based model's assignments), and after the initialization of the iterator. No tensor
    # expresses either.
    earlier = [
        graph.get_operation_by_name(name[1:]) for name in reduction.input if name.startswith("^")
    ]
    with tf.control_dependencies([started, *earlier]):
        _, *final = tf.while_loop(
            lambda more, *state: more,
            step,
            [tf.constant(True), *state],
            shape_invariants=[tf.TensorShape([]), *shapes],
            parallel_iterations=1,
        )
    return list(final)
