"""Serialized TensorFlow graphs and functions in one form: nodes that name their inputs by position."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tff_dp._compat import tensorflow as tf_compat

# An output of a node: its name and position. -1 stands for "after the node has run".
Reference = tuple[str, int]
AFTER = -1


@dataclasses.dataclass(frozen=True)
class Body:
    """A graph, or the body of a function.

    Attributes:
      nodes: `NodeDef` by name.
      inputs: The nodes' inputs, by name of the node.
      arguments: Names that a caller binds, in order.
      results: What a caller gets, in order.
      effects: Nodes that must run whether or not a result needs them.
    """

    nodes: dict[str, Any]
    inputs: dict[str, list[Reference]]
    arguments: tuple[str, ...]
    results: tuple[Reference, ...]
    effects: tuple[Reference, ...] = ()

    def ordered(self, targets: Iterable[Reference]) -> Iterator[str]:
        """Yields the names of the nodes that the targets need, each after those that it needs.

        Edges of control count: whoever runs the nodes in this order runs them in an order that
        TensorFlow might have chosen.
        """
        done = set(self.arguments)
        pending = [(name, False) for name, _ in targets]
        pending.reverse()
        while pending:
            name, inputs_done = pending.pop()
            if name in done:
                continue
            if inputs_done:
                done.add(name)
                yield name
                continue
            pending.append((name, True))
            needed = [source for source, _ in self.inputs[name] if source not in done]
            pending.extend((source, False) for source in reversed(needed))

    def origin(self, reference: Reference) -> Reference:
        """Returns the tensor that a chain of identities begins with."""
        name, _ = reference
        while name in self.nodes and self.nodes[name].op == "Identity":
            reference = self.inputs[name][0]
            name, _ = reference
        return reference


def of_graph(graph_def: Any, arguments: Iterable[str], results: Iterable[str]) -> Body:
    """Returns the body of a graph.

    Args:
      graph_def: The `GraphDef`.
      arguments: Names of the tensors to bind; each the only output of its node.
      results: Names of tensors.
    """
    return Body(
        nodes={node.name: node for node in graph_def.node},
        # The edge that closes a loop of TensorFlow 1 is left out: such graphs are only looked through.
        inputs={
            node.name: [_flat(name) for name in node.input if node.op != "NextIteration"]
            for node in graph_def.node
        },
        arguments=tuple(_flat(name)[0] for name in arguments),
        results=tuple(_flat(name) for name in results),
    )


def of_function(function: Any, functions: Mapping[str, Any]) -> Body:
    """Returns the body of a `FunctionDef`.

    Args:
      function: The function.
      functions: The library that it is from, by name: its nodes may call others by their own names.
    """
    arguments = tuple(argument.name for argument in function.signature.input_arg)
    nodes = {node.name: node for node in function.node_def}

    def reference(name: str) -> Reference:
        if name.startswith("^"):
            return name[1:], AFTER
        source, *where = name.split(":")
        if source not in nodes:
            return source, 0  # an argument
        output, index = where
        return source, _position(nodes[source], output, functions) + int(index)

    return Body(
        nodes=nodes,
        inputs={name: [reference(i) for i in node.input] for name, node in nodes.items()},
        arguments=arguments,
        results=tuple(reference(function.ret[a.name]) for a in function.signature.output_arg),
        effects=tuple((name, AFTER) for name in function.control_ret.values()),
    )


def _flat(name: str) -> Reference:
    if name.startswith("^"):
        return name[1:], AFTER
    source, _, index = name.partition(":")
    return source, int(index or 0)


def _position(node: Any, output: str, functions: Mapping[str, Any]) -> int:
    """Returns the position of the first tensor of a node's output of a name."""
    position = 0
    called = functions.get(node.op)
    definition = tf_compat.op_def(node.op) if called is None else called.signature
    for argument in definition.output_arg:
        if argument.name == output:
            return position
        if argument.number_attr:
            position += node.attr[argument.number_attr].i
        elif argument.type_list_attr:
            position += len(node.attr[argument.type_list_attr].list.type)
        else:
            position += 1
    raise ValueError(f"{node.name}: operation {node.op} has no output {output!r}")
