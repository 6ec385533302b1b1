"""One writing of a program into the graph that is being traced.

An `Emission` goes over the nodes of a body in an order that TensorFlow might have chosen, and creates
each node anew. It keeps what the operations need to know of where they are:

- the path of the nodes that called the body, which keys the random draws: no two nodes share a key,
  although a function that is called twice is written twice;
- the numbers of the iterations of the loops around, which are folded into the keys: an operation in a
  loop draws anew in each iteration;
- the conditions of the branches around. A branch that is written as a select runs in any case, so that
  what it does beside returning a value (assignments, failed checks) must depend on its condition;
- what is carried (`carried`).

What happens for each operation is in the handlers, which `emitter` gives: functions of (emission, node,
inputs, path).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from tff_dp.execution.graph import (
    bodies,
    carried,
    constant_folding,
    random_sources,
    randomness,
    range_checks,
    xla_numerics,
)
from tff_dp.execution.graph.program import Program
from tff_dp.execution.graph.style import ShapeVariesError, Style

Handler = Callable[["Emission", Any, list[Any], tuple[str, ...]], list[Any]]


class _Guards:
    """Which way each condition went where a node runs: {(node, position) of the condition: way}.

    In graphs of TensorFlow 1, a branch is not a function: its nodes are those that depend on one of the
    two outputs of a `Switch`. Each node inherits the conditions of what it depends on.
    """

    def __init__(self) -> None:
        # By tensor for the outputs of a Switch, which differ in their way; by (node, AFTER) for others.
        self.of: dict[bodies.Reference, dict[bodies.Reference, bool]] = {}

    def inherit(self, references: list[bodies.Reference]) -> dict[bodies.Reference, bool]:
        """Returns the conditions under which a node runs that depends on these tensors."""
        found: dict[bodies.Reference, bool] = {}
        for reference in references:
            found |= self.of.get(reference, self.of.get((reference[0], bodies.AFTER), {}))
        return found


class Emission:
    """One writing of a program.

    Args:
      program: The program.
      key: The key of its random operations, uint64 [2].
      style: See `emitter.emit`.
      words: See `emitter.emit`.
      handlers: What writes the operations that are not created as they are, by operation.

    Attributes:
      program: The program.
      style: What becomes of the graph.
      carried: What flows along beside the tensors, by `FAILED`, `Variable` and `Iterator`.
      variables: The graph's variables by name.
      conditions: Of the branches around that are written as selects; tensors, bool [].
      limits: What is known of the ranges of whole numbers.
      is_unchecked: Whether no kernel raises where an index is out of range, so that the graph itself
        has to check it: see `range_checks`.
    """

    def __init__(
        self,
        program: Program,
        key: tf.Tensor,
        style: Style,
        words: Any,
        handlers: Mapping[str, Handler],
    ) -> None:
        self.program = program
        self.style = style
        self.carried: dict[Any, tf.Tensor] = {carried.FAILED: tf.constant(0)}
        self.variables: dict[str, carried.Variable] = {}
        self.conditions: list[tf.Tensor] = []
        self.limits = range_checks.Limits()
        self.is_unchecked = style.is_static or range_checks.has_gpu()
        self._key = key
        self._words = words
        self._handlers = handlers
        self._steps: list[tf.Tensor] = []  # the iterations of the loops around, the outermost first
        self._clock: set[Any] = set()  # references to tensors that were read off a clock
        # Whether the node that is being written leads to a step function, where XLA's roundoff would
        # be amplified: see `xla_numerics.before_steps`.
        self._is_before_step = False

    @property
    def failed(self) -> tf.Tensor:
        """The number of the first check that has failed, int32 [], 0 for none."""
        return self.carried[carried.FAILED]

    def run(
        self,
        body: bodies.Body,
        bound: dict[str, list[Any]],
        targets: list[bodies.Reference],
        path: tuple[str, ...],
    ) -> list[Any]:
        """Writes what a body's targets need.

        Args:
          body: The body.
          bound: Values by name of the argument.
          targets: What is wanted.
          path: The names of the nodes that called the body.

        Returns:
          The targets' values; None for a node whose running is all that is wanted.
        """
        values = dict(bound)
        guards = _Guards()
        before_steps = xla_numerics.before_steps(body) if self.style.xla else frozenset()
        for name in body.ordered([*body.effects, *targets]):
            if name in values:
                continue
            node, sources = body.nodes[name], body.inputs[name]
            inputs = [values[source][index] for source, index in sources if index >= 0]
            if self.style.is_static:
                # A known number from outside of a loop becomes a constant of the loop's own graph:
                # shape inference does not look through the loop's captures.
                inputs = [constant_folding.within(value) for value in inputs]
            held = guards.inherit(sources)
            if node.op == "Switch":
                # Both outputs are the input. TensorFlow would run only one side of it; here both run,
                # and `_merge` selects. Which way an output stands for is remembered for what follows.
                condition = body.origin(sources[1])
                values[name] = [inputs[0], inputs[0]]
                for way in (0, 1):
                    guards.of[name, way] = held | {condition: bool(way)}
                continue
            if node.op == "Merge":
                values[name], held = self._merge(body, values, sources, guards)
            else:
                self._is_before_step = name in before_steps
                values[name] = self._write(node, inputs, (*path, name), held, values)
                self.limits.hand_on(node, inputs, values[name])
            if self.style.is_static:
                _require_static(node, values[name])
            guards.of[name, bodies.AFTER] = held
        return [None if index < 0 else values[name][index] for name, index in targets]

    def _merge(
        self,
        body: bodies.Body,
        values: dict[str, list[Any]],
        sources: list[bodies.Reference],
        guards: _Guards,
    ) -> tuple[list[tf.Tensor], dict[bodies.Reference, bool]]:
        """Selects between the two inputs of a `Merge` by the condition on which they differ.

        Behind it that condition no longer holds: the result exists whichever way it went.
        """
        sources = [source for source in sources if source[1] != bodies.AFTER]
        sides = [guards.inherit([source]) for source in sources]
        first, second = sides
        conditions = [c for c in first if c in second and first[c] != second[c]]
        if len(conditions) != 1:
            raise NotImplementedError(f"a Merge of {len(conditions)} conditions")
        (condition,) = conditions
        taken = values[condition[0]][condition[1]]
        taken = taken if first[condition] else tf.logical_not(taken)
        a, b = (values[name][index] for name, index in sources)
        if a.dtype in (tf.variant, tf.resource):
            raise NotImplementedError("a Merge of variants")
        selected = tf.where(taken, a, b)
        held = {c: way for c, way in (first | second).items() if c != condition}
        return [selected, tf.where(taken, 0, 1)], held

    def _write(
        self,
        node: Any,
        inputs: list[Any],
        path: tuple[str, ...],
        held: dict[bodies.Reference, bool],
        values: dict[str, list[Any]],
    ) -> list[Any]:
        """Writes a node, by its handler if its operation has one."""
        op = node.op
        if op in randomness.OPERATIONS:
            key = self.key_at(path)
            if self._words is not None and random_sources.is_noise(path):
                drawn: list[Any] = self._words.draw(node, inputs, path, key, bool(self._steps))
                return drawn
            return randomness.draw(node, inputs, key)
        if op in self.program.functions:  # a call by the function's own name
            return self.call(op, inputs, path)
        if op == "Identity":
            return inputs
        outer = self.conditions
        ways = [values[c[0]][c[1]] if way else ~values[c[0]][c[1]] for c, way in held.items()]
        self.conditions = [*outer, *ways]
        try:
            handler = self._handlers.get(op)
            if handler is None:
                return self.copy(node, inputs, path)
            return handler(self, node, inputs, path)
        finally:
            self.conditions = outer

    def copy(self, node: Any, inputs: list[Any], path: tuple[str, ...]) -> list[Any]:
        """Writes an operation as it is, but for one thing: a clock that becomes an integer is a seed.

        TFF and tensorflow-privacy seed rotations, roundings and noise by the time in microseconds,
        which clients of one graph would share, and others could guess. Such a seed is replaced with one
        from the key.
        """
        folded = constant_folding.fold(node, inputs) if self.style.is_static else None
        if folded is not None:
            return folded
        if self.is_unchecked:
            self.keep(range_checks.check(node, inputs, self.limits))
        if node.op in xla_numerics.RECTIFIERS and inputs[0].dtype.is_floating:
            return xla_numerics.rectified(node, inputs, for_xla=self.style.xla)
        if self.style.xla:
            written = xla_numerics.write(node, inputs, self._key, self._is_before_step)
            if written is not None:
                return written
        from_clock = any(isinstance(i, tf.Tensor) and i.ref() in self._clock for i in inputs)
        # Attributes with an underscore are TensorFlow's notes on the graph that the node comes from, such
        # as "_class", which names nodes to be placed together. They do not hold in this graph.
        attributes = {k: v for k, v in node.attr.items() if not k.startswith("_")}
        graph = tf.compat.v1.get_default_graph()
        outputs = list(graph.create_op(node.op, inputs, attrs=attributes).outputs)
        if from_clock and node.op == "Cast" and outputs[0].dtype.is_integer:
            return [randomness.integers(outputs[0], self.key_at(path))]
        if from_clock or node.op == "Timestamp":
            self._clock |= {output.ref() for output in outputs}
        return outputs

    def call(self, function: str, arguments: list[Any], path: tuple[str, ...]) -> list[Any]:
        """Writes the body of a function in place of its call."""
        body = self.program.body_of(function)
        bound = {n: [a] for n, a in zip(body.arguments, arguments, strict=True)}
        return self.run(body, bound, list(body.results), path)

    def call_in_step(
        self, number: tf.Tensor, function: str, arguments: list[Any], path: tuple[str, ...]
    ) -> list[Any]:
        """Writes the body of a function that a loop calls in the iteration of a number, int64 []."""
        self._steps.append(number)
        try:
            return self.call(function, arguments, path)
        finally:
            self._steps.pop()

    def key_at(self, path: tuple[str, ...]) -> tf.Tensor:
        """Returns the key of a node's random draws, uint64 [2], in this call and iteration."""
        # No operation has a seed of its own to tell it by: TFF refuses to serialize such graphs. So the
        # place in the program stands for it.
        key = randomness.fold(self._key, randomness.place(path))
        for step in self._steps:
            key = randomness.fold(key, step)
        return key

    def apart(
        self, function: Callable[..., list[Any]], *arguments: Any
    ) -> tuple[list[Any], list[tf.Tensor]]:
        """Runs a function that writes into a graph of its own: a branch, or the body of a loop.

        What is carried there belongs to that graph and must leave it as its results. Here it is as
        before, until `resume` takes over what the branch or the loop has returned. Keys that are new
        (a variable that the function alone uses) are dropped: nothing outside knows them.

        Returns:
          The function's results, and what it carries out, in the order of the keys of `carried`.
        """
        kept = dict(self.carried)
        results = function(*arguments)
        out = [self.carried[name] for name in kept]
        self.carried = kept
        return results, out

    def resume(self, names: list[Any], tensors: Sequence[tf.Tensor]) -> None:
        """Carries on with the tensors that a branch or a loop has returned."""
        for name, value in zip(names, tensors, strict=True):
            value.set_shape(carried.shape_of(name))
            self.carried[name] = value

    def is_taken(self) -> tf.Tensor | None:
        """Returns whether the branches that lead here are taken, bool []; None outside branches."""
        return tf.reduce_all(tf.stack(self.conditions)) if self.conditions else None

    def keep(self, check: range_checks.Check | None) -> None:
        """Keeps a check that nothing else makes, unless it is in a branch that is not taken.

        A check is no operation that raises: XLA has none, and in a vectorized graph the error of one
        client would be everybody's. It becomes a number beside the results, that of the first check that
        has failed, which the caller looks up in the program's messages.
        """
        if check is None:
            return
        number = self.program.check_number(check.message)
        taken = self.is_taken()
        holds = check.holds
        holds = holds if taken is None else tf.logical_or(holds, tf.logical_not(taken))
        fails = tf.logical_and(tf.equal(self.failed, 0), tf.logical_not(holds))
        self.carried[carried.FAILED] = tf.where(fails, number, self.failed)


def _require_static(node: Any, outputs: Sequence[Any]) -> None:
    for output in outputs:
        if (
            isinstance(output, tf.Tensor)
            and output.dtype not in (tf.variant, tf.resource)
            and not output.shape.is_fully_defined()
        ):
            raise ShapeVariesError(
                f"a tensor has a shape that depends on values: that of {node.op} ({node.name})"
            )
