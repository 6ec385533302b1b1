"""The emission of a program into the graph that is being traced.

An `Emission` visits the nodes of a body in topological order and creates a copy of each in the
graph that is being traced. It keeps track of the context of the node that is being written:

- the path of the nodes that called the body. It determines the keys of the random draws. A function
  that is called twice is written twice, under two paths, so that its two copies draw under
  different keys;
- the iteration numbers of the enclosing loops, which are folded into the keys, so that an operation
  in a loop draws new numbers in each iteration;
- the conditions of the enclosing branches. A branch that is written as a select always runs, so
  that its side effects (assignments and failed checks) must be conditional on its being taken;
- the carried state (`carried`).

Operations that are not simply copied have handlers, functions of (emission, node, inputs, path),
which `emitter` supplies.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf

from tff_dp._compat import tensorflow as tf_compat
from tff_dp.execution.graph import (
    bodies,
    carried,
    constant_folding,
    random_sources,
    randomness,
    range_checks,
    tensor_lists,
    xla_numerics,
    xla_reductions,
)
from tff_dp.execution.graph.program import Program
from tff_dp.execution.graph.style import ShapeVariesError, Style

Handler = Callable[["Emission", Any, list[Any], tuple[str, ...]], list[Any]]


class _Guards:
    """The conditions under which each node runs: {the condition's tensor: its value}.

    In graphs of TensorFlow 1, a branch is not a function: its nodes are those that depend on one of
    the two outputs of a `Switch`. Each node inherits the conditions of the nodes that it depends
    on.
    """

    def __init__(self) -> None:
        # The outputs of a Switch have an entry each, since the condition is true for one and false
        # for the other. Every other node has one entry for all its outputs, under (node, AFTER).
        self.of: dict[bodies.Reference, dict[bodies.Reference, bool]] = {}

    def inherit(self, references: list[bodies.Reference]) -> dict[bodies.Reference, bool]:
        """Returns the conditions under which a node with these inputs runs."""
        found: dict[bodies.Reference, bool] = {}
        for reference in references:
            found |= self.of.get(reference, self.of.get((reference[0], bodies.AFTER), {}))
        return found


class Emission:
    """The state of writing one program once.

    Args:
      program: The program.
      key: The key that the random operations derive theirs from, uint64 [2].
      style: How the graph is compiled; see `emitter.emit`.
      words: The source of random words for a plan's noise, or None; see `emitter.emit`.
      handlers: The functions that write the operations which are not copied, by operation.

    Attributes:
      program: The program.
      style: How the graph is compiled.
      carried: The carried state: a tensor for `carried.FAILED`, for each `carried.Variable` that
        has a value, and for each `carried.Iterator`.
      variables: The variables of the graph by name.
      conditions: The conditions of the enclosing branches that are written as selects, bool []
        each.
      limits: The known ranges of integer tensors.
      transposed: The transposed matrices that loops use, by the references of the matrices.
      is_unchecked: Whether kernels may accept an index that is out of range, so that the graph
        itself has to check it (`range_checks`).
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
        self.transposed: dict[Any, tf.Tensor] = {}
        self.is_unchecked = style.is_static or range_checks.has_gpu()
        self._key = key
        self._words = words
        self._handlers = handlers
        self._steps: list[tf.Tensor] = []  # iterations of the enclosing loops, outermost first
        self._clock: set[Any] = set()  # references to tensors computed from the current time
        # Whether the result of the node that is being written reaches a step function (such as
        # Floor), which would amplify XLA's roundoff: see `xla_numerics.before_steps`.
        self._is_before_step = False

    @property
    def failed(self) -> tf.Tensor:
        """The number of the first check that has failed, int32 []; 0 if none has."""
        return self.carried[carried.FAILED]

    def run(
        self,
        body: bodies.Body,
        bound: dict[str, list[Any]],
        targets: list[bodies.Reference],
        path: tuple[str, ...],
    ) -> list[Any]:
        """Writes the nodes of a body that its targets and effects depend on.

        Args:
          body: The body.
          bound: The value of each argument, by name, in a list of one: tensors, or
            `program.Batches`, `carried.Variable`, `carried.Iterator`, `carried.Optional` or
            `tensor_lists.TensorList` in place of a resource or variant.
          targets: The outputs that are wanted.
          path: The names of the nodes that called the body, the outermost first.

        Returns:
          The values of the targets, in order; None for a target that is a control edge.

        Raises:
          NotImplementedError: An operation cannot be written for its inputs.
          ShapeVariesError: The style requires static shapes, and the shape of a tensor depends on
            values.
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
                # Shape inference does not look through the captures of a loop's graph. A known
                # number from outside of the loop therefore becomes a constant inside of it.
                inputs = [constant_folding.within(value) for value in inputs]
            held = guards.inherit(sources)
            if node.op == "Switch":
                # Both outputs are the input. TensorFlow would run only the nodes behind one of
                # them; here the nodes behind both run, and `_merge` selects. The nodes behind an
                # output inherit the value of the condition that the output stands for.
                condition = body.origin(sources[1])
                values[name] = [inputs[0], inputs[0]]
                for way in (0, 1):  # output 0 is the branch for false
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
        """Writes a `Merge`: selects between its two inputs by the condition in which they differ.

        Nodes behind it no longer depend on that condition, since the result exists for both values.

        Returns the outputs of the `Merge` (the value and the index of the input that it is from),
        and the conditions under which it runs.
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
        """Writes a node, using the handler of its operation if there is one."""
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
        """Copies an operation into the graph, with the corrections that it needs there.

        - An operation on known integers becomes constants (`constant_folding`).
        - A check of index ranges is added if kernels do not make it (`range_checks`).
        - An operation whose results XLA would change is written in another form (`xla_numerics`).
        - A cast of the current time to an integer becomes a random integer. TFF and
          tensorflow-privacy seed rotations, roundings and noise with the time in microseconds. All
          clients in one graph would share such a seed, and an adversary could guess it.

        Args:
          node: The `NodeDef`.
          inputs: The values of its inputs.
          path: The names of the nodes that lead to it, its own name last.

        Returns:
          The values of its outputs.

        Raises:
          NotImplementedError: The operation needs a correction that does not exist for these
            inputs.
        """
        if any(isinstance(value, tensor_lists.TensorList) for value in inputs):
            raise NotImplementedError(f"a list of tensors goes into {node.op} ({node.name})")
        folded = constant_folding.fold(node, inputs) if self.style.is_static else None
        if folded is not None:
            return folded
        if self.is_unchecked:
            self.keep(range_checks.check(node, inputs, self.limits))
        if node.op in xla_numerics.RECTIFIERS and inputs[0].dtype.is_floating:
            return xla_numerics.rectified(node, inputs, for_xla=self.style.xla)
        if self.style.xla:
            written = xla_numerics.write(node, inputs, self._key, self._is_before_step)
            written = xla_reductions.write(node, inputs) if written is None else written
            if written is not None:
                return written
        from_clock = any(isinstance(i, tf.Tensor) and i.ref() in self._clock for i in inputs)
        # Attributes that begin with an underscore are TensorFlow's annotations for the graph that
        # the node comes from, such as "_class", which names colocated nodes. They do not apply to
        # this graph.
        attributes = {k: v for k, v in node.attr.items() if not k.startswith("_")}
        outputs = tf_compat.outputs_of(node.op, inputs, attributes)
        if from_clock and node.op == "Cast" and outputs[0].dtype.is_integer:
            return [randomness.integers(outputs[0], self.key_at(path))]
        if from_clock or node.op == "Timestamp":
            self._clock |= {output.ref() for output in outputs}
        return outputs

    def call(
        self,
        function: str,
        arguments: list[Any],
        path: tuple[str, ...],
        targets: Sequence[bodies.Reference] | None = None,
    ) -> list[Any]:
        """Writes the body of a function in place of a call.

        Args:
          function: The name of the function in the program's library.
          arguments: The values of its arguments, in the order of its signature.
          path: The names of the nodes that lead to the call, that of the calling node last.
          targets: The tensors of the body that are wanted; None for its results.

        Returns:
          The values of its results, in the order of its signature, or of `targets`.
        """
        body = self.program.body_of(function)
        bound = {n: [a] for n, a in zip(body.arguments, arguments, strict=True)}
        return self.run(body, bound, list(body.results if targets is None else targets), path)

    def call_in_step(
        self,
        number: tf.Tensor,
        function: str,
        arguments: list[Any],
        path: tuple[str, ...],
        targets: Sequence[bodies.Reference] | None = None,
    ) -> list[Any]:
        """Writes the body of a function that a loop calls in each iteration.

        Args:
          number: The number of the iteration, an integer tensor [] of the loop's graph. It is
            folded into the keys of all random draws in the function.
          function: The name of the function in the program's library.
          arguments: The values of its arguments, in the order of its signature.
          path: The names of the nodes that lead to the call, that of the loop last.
          targets: The tensors of the body that are wanted; None for its results.

        Returns:
          The values of its results, in the order of its signature, or of `targets`.
        """
        self._steps.append(number)
        try:
            return self.call(function, arguments, path, targets)
        finally:
            self._steps.pop()

    def key_at(self, path: tuple[str, ...]) -> tf.Tensor:
        """Returns the key of a node's random draws in this call and iteration.

        Args:
          path: The names of the nodes that lead to the node, its own name last.

        Returns:
          A key, uint64 [2], derived from the emission's key, the path, and the iterations of the
          enclosing loops.
        """
        # The operations have no seeds that could tell them apart, because TFF refuses to serialize
        # operations with seeds. The place in the program identifies them instead.
        key = randomness.fold(self._key, randomness.place(path))
        for step in self._steps:
            key = randomness.fold(key, step)
        return key

    def apart(
        self, function: Callable[..., list[Any]], *arguments: Any
    ) -> tuple[list[Any], list[tf.Tensor]]:
        """Runs a function that writes into another graph, of a branch or of the body of a loop.

        The carried tensors that the function leaves behind belong to the other graph, which
        therefore has to return them as results. The carried state of this emission is restored,
        until `resume` replaces it with what the `tf.cond` or `tf.while_loop` has returned. Keys
        that the function adds (variables that it alone uses) are dropped, since nothing outside
        refers to them.

        Args:
          function: Writes into the other graph and returns its results.
          *arguments: Its arguments.

        Returns:
          The results of the function, and the carried tensors at its end, in the order of
          `carried`.
        """
        kept = dict(self.carried)
        results = function(*arguments)
        out = [self.carried[name] for name in kept]
        self.carried = kept
        return results, out

    def resume(self, names: list[Any], tensors: Sequence[tf.Tensor]) -> None:
        """Replaces carried tensors with those that a conditional or a loop has returned.

        Args:
          names: The keys of `carried`, in the order in which `apart` returned their tensors.
          tensors: The new tensor for each key. Their static shapes are restored.
        """
        for name, value in zip(names, tensors, strict=True):
            value.set_shape(carried.shape_of(name))
            self.carried[name] = value

    @contextlib.contextmanager
    def styled(self, style: Style) -> Iterator[None]:
        """Returns a context in which nodes are written for a graph that is compiled in another way.

        Args:
          style: How it is compiled.

        Yields:
          None.
        """
        kept = self.style, self.is_unchecked
        self.style, self.is_unchecked = style, style.is_static or range_checks.has_gpu()
        try:
            yield
        finally:
            self.style, self.is_unchecked = kept

    def is_taken(self) -> tf.Tensor | None:
        """Returns whether all enclosing branches are taken, bool []; None outside of branches.

        Only branches that are written as selects count. In a branch of a `tf.cond`, code runs only
        if the branch is taken.
        """
        return tf.reduce_all(tf.stack(self.conditions)) if self.conditions else None

    def keep(self, check: range_checks.Check | None) -> None:
        """Records a check, which counts only if the enclosing branches are taken.

        A check cannot be an operation that raises an exception: XLA has no such operation, and in a
        vectorized graph the failure of one client would end the computation for all. Instead, the
        number of the first failed check is carried to the end of the graph and returned as an
        additional result. The caller looks up its message in `Program.checks`.

        Args:
          check: The check; None has no effect.
        """
        if check is None:
            return
        number = self.program.check_number(check.message)
        taken = self.is_taken()
        holds = check.holds
        holds = holds if taken is None else tf.logical_or(holds, tf.logical_not(taken))
        fails = tf.logical_and(tf.equal(self.failed, 0), tf.logical_not(holds))
        self.carried[carried.FAILED] = tf.where(fails, number, self.failed)


# Outputs whose shape TensorFlow leaves open, though it does not depend on values: the space that a GPU's
# library reserves for the gradient, which is empty elsewhere.
_RESERVED = {"FusedBatchNormV3": 5}


def _require_static(node: Any, outputs: Sequence[Any]) -> None:
    for output in outputs:
        if (
            isinstance(output, tf.Tensor)
            and output.value_index != _RESERVED.get(output.op.type)
            and output.dtype not in (tf.variant, tf.resource)
            and not output.shape.is_fully_defined()
        ):
            raise ShapeVariesError(
                f"a tensor has a shape that depends on values: that of {node.op} ({node.name})"
            )
