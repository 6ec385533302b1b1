"""Serialized TensorFlow graphs and functions in one form.

A `GraphDef` names an output of a node by its position ("node:1"), a `FunctionDef` by the name of
the output and a position within it ("node:output:0"). Both become a `Body`, whose references all
have the first form, so that the rest of the package need not tell graphs from functions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tff_dp._compat import tensorflow as tf_compat

# An output of a node: the name of the node and the position of the output. The position AFTER
# stands for a control edge, which carries no value and only orders the execution.
Reference = tuple[str, int]
AFTER = -1


@dataclasses.dataclass(frozen=True)
class Body:
    """A graph, or the body of a function.

    Attributes:
      nodes: The `NodeDef` of each node, by its name.
      inputs: The inputs of each node, control edges included, by the name of the node.
      arguments: The names that a caller binds to values, in the order of the signature.
      results: The outputs that a caller gets, in the order of the signature.
      effects: Nodes that must run even if no result depends on them, as control edges.
    """

    nodes: dict[str, Any]
    inputs: dict[str, list[Reference]]
    arguments: tuple[str, ...]
    results: tuple[Reference, ...]
    effects: tuple[Reference, ...] = ()

    def ordered(self, targets: Iterable[Reference]) -> Iterator[str]:
        """Yields the nodes that the targets depend on, in topological order.

        Control edges are dependencies as well, so that this is an order in which TensorFlow itself
        could run the nodes.

        Args:
          targets: The outputs that are wanted.

        Yields:
          The name of each node, after those of all its inputs. Arguments are left out.
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
        """Returns the tensor at the beginning of a chain of identities.

        Args:
          reference: An output of a node.

        Returns:
          The first tensor, going backwards, that is not the output of an `Identity`; the reference
          itself if it is none.
        """
        name, _ = reference
        while name in self.nodes and self.nodes[name].op == "Identity":
            reference = self.inputs[name][0]
            name, _ = reference
        return reference


def of_graph(graph_def: Any, arguments: Iterable[str], results: Iterable[str]) -> Body:
    """Reads a graph.

    Args:
      graph_def: The `GraphDef`.
      arguments: The names of the tensors to bind; each is the only output of its node.
      results: The names of the tensors to return.

    Returns:
      The body of the graph.
    """
    return Body(
        nodes={node.name: node for node in graph_def.node},
        # The edge that closes a loop of TensorFlow 1 is left out, so that the graph has no cycle. A
        # graph with such a loop is only inspected and never rewritten (`Program.obstacle`).
        inputs={
            node.name: [_flat(name) for name in node.input if node.op != "NextIteration"]
            for node in graph_def.node
        },
        arguments=tuple(_flat(name)[0] for name in arguments),
        results=tuple(_flat(name) for name in results),
    )


def of_function(function: Any, functions: Mapping[str, Any]) -> Body:
    """Reads a function.

    Args:
      function: The `FunctionDef`.
      functions: The library that it belongs to, by name. A node may call another function with that
        function's name as its operation; its outputs are then those of the function's signature.

    Returns:
      The body of the function.

    Raises:
      ValueError: A node refers to an output that the definition of its operation does not have.
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
    """Returns the position, among all outputs of a node, of the first tensor of a named output."""
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
