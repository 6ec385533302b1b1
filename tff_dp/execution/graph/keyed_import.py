"""Keys for the random operations of a graph that runs as it was imported (`imported_graph`).

Such a graph stays as it is, except for its random operations. Each of them is replaced with the
call of a function that takes the next key from a stream, which belongs to this operation alone, and
draws under that key. A stream is a variable of this process: branches, loops and the functions of
data sets can access it by its name, without an additional argument. Before each call of the graph,
all streams are reset from the key of the call.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tff_dp._compat import tensorflow as tf_compat
from tff_dp.execution.graph import bodies, random_sources, randomness

_HOST = "/device:CPU:0"  # where all streams are, whichever device the graph runs on


class Streams:
    """The streams of keys for the random operations of an imported graph.

    Args:
      graph_def: The `GraphDef`, which is changed: its random operations are replaced, and the casts
        of the current time to integers, which are taken for seeds.
      prefix: The prefix of the names of streams and functions, unique in this process.
    """

    def __init__(self, graph_def: Any, prefix: str) -> None:
        self._names: list[str] = []
        self._places: list[int] = []
        found = _replaceable(graph_def)
        replaced: dict[str, dict[str, str]] = {}
        for function, node in found:
            name = f"{prefix}draw_{len(self._names)}"
            self._names.append(f"{prefix}stream_{len(self._names)}")
            # The prefix differs each time that a graph is imported, and must not change the draws.
            self._places.append(randomness.place((function.removeprefix(prefix), node.name)))
            drawing = _drawing(node, self._names[-1])
            _add_functions(graph_def.library, drawing, name)
            replaced.setdefault(function, {})[node.name] = (
                tf_compat.op_def(node.op).output_arg[0].name
            )
            _replace(node, drawing, name)
        for function in graph_def.library.function:
            _rename_outputs(function, replaced.get(function.signature.name, {}))
        self._start = tf.function(self._set, autograph=False) if self._names else None

    def start(self, key: tf.Tensor) -> None:
        """Resets the streams before a call of the graph.

        Args:
          key: The key of the call, uint64 [2]. Each stream starts from this key, folded with the
            place of its operation.
        """
        if self._start is not None:
            self._start(key)

    def _set(self, key: tf.Tensor) -> None:
        for name, place in zip(self._names, self._places, strict=True):
            own = randomness.fold(key, place)
            # The state of Philox: a counter of 128 bits, which each key advances, and a key of 64
            # bits.
            state = tf.bitcast(tf.stack([tf.constant(0, tf.uint64), own[1], own[0]]), tf.int64)
            with tf.device(_HOST):
                tf.raw_ops.AssignVariableOp(resource=_stream(name), value=state)


def _replaceable(graph_def: Any) -> list[tuple[str, Any]]:
    """Returns the random operations, and the casts of the current time to integers.

    Each is a pair of the name of the function that contains the node, and the node.
    """
    functions = {f.signature.name: f for f in graph_def.library.function}
    body = bodies.of_graph(graph_def, [], [])
    everything = [(node.name, bodies.AFTER) for node in graph_def.node]
    casts = random_sources.of(body, functions, everything).casts
    return [
        (function, node)
        for function, node in random_sources.nodes(graph_def)
        if node.op in randomness.OPERATIONS or (function, node.name) in casts
    ]


def _stream(name: str) -> tf.Tensor:
    return tf.raw_ops.VarHandleOp(dtype=tf.int64, shape=[3], shared_name=name)


def _next_key(name: str) -> tf.Tensor:
    """Returns the next key of a stream, uint64 [2].

    `RngReadAndSkip` reads and advances the state atomically, so that no two calls get the same key,
    even if they run in parallel.
    """
    with tf.device(_HOST):
        state = tf.raw_ops.RngReadAndSkip(
            resource=_stream(name), alg=randomness.PHILOX, delta=tf.constant(1, tf.uint64)
        )
    words = tf.bitcast(state, tf.uint64)
    return tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=[2], key=words[2:], counter=words[:2], alg=randomness.PHILOX, dtype=tf.uint64
    )


def _drawing(node: Any, stream: str) -> Any:
    """Returns the traced function that replaces a node."""
    is_draw = node.op in randomness.OPERATIONS

    def draw(*inputs: tf.Tensor) -> list[tf.Tensor]:
        key = _next_key(stream)
        if is_draw:
            return randomness.draw(node, list(inputs), key)
        like = tf.zeros(tf.shape(inputs[0]), tf.as_dtype(node.attr["DstT"].type))
        return [randomness.integers(like, key)]

    dtypes = _input_dtypes(node)
    if node.op == "RngReadAndSkip":  # its input, a resource with a state, is replaced by the stream
        dtypes = []
    specs = [tf.TensorSpec(None, dtype) for dtype in dtypes]
    return tf.function(draw, autograph=False).get_concrete_function(*specs)


def _input_dtypes(node: Any) -> list[tf.DType]:
    return [
        tf.as_dtype(node.attr[argument.type_attr].type if argument.type_attr else argument.type)
        for argument in tf_compat.op_def(node.op).input_arg
    ]


def _add_functions(library: Any, drawing: Any, name: str) -> None:
    known = {function.signature.name for function in library.function}
    for inner in drawing.graph.as_graph_def().library.function:
        if inner.signature.name not in known:
            library.function.append(inner)
    function = drawing.function_def
    added = library.function.add()
    added.CopyFrom(function)
    added.signature.name = name


def _replace(node: Any, drawing: Any, name: str) -> None:
    count = len(drawing.structured_input_signature[0])
    kept = [i for i in node.input if not i.startswith("^")][:count]
    after = [i for i in node.input if i.startswith("^")]
    call = tf.compat.v1.NodeDef(name=node.name, op="StatefulPartitionedCall")
    call.input.extend([*kept, *after])
    signature = drawing.function_def.signature
    call.attr["Tin"].list.type.extend(argument.type for argument in signature.input_arg)
    call.attr["Tout"].list.type.extend(argument.type for argument in signature.output_arg)
    call.attr["f"].func.name = name
    for attribute in ("config", "config_proto", "executor_type"):
        call.attr[attribute].s = b""
    node.CopyFrom(call)


def _rename_outputs(function: Any, outputs: Mapping[str, str]) -> None:
    """Renames a function's references to the outputs of replaced nodes.

    The output of a random operation has the name in the definition of the operation; that of the
    call which replaces it is "output".
    """
    if not outputs:
        return

    def renamed(reference: str) -> str:
        source, *where = reference.split(":")
        if source in outputs and where and where[0] == outputs[source]:
            return ":".join([source, "output", where[1]])
        return reference

    for node in function.node_def:
        node.input[:] = [renamed(reference) for reference in node.input]
    # A list: writing into a map of a protocol buffer while it is read skips entries.
    for name, reference in list(function.ret.items()):
        function.ret[name] = renamed(reference)
