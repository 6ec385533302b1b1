"""Writes the nodes of a `Program` into the graph that is being traced."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tff_dp.execution.graph import (
    bodies,
    constant_folding,
    program,
    random_sources,
    randomness,
    range_checks,
    xla_numerics,
)
from tff_dp.execution.graph.style import ShapeVariesError, Style

_FAILED = "failed"
_LARGE = 1 << 14  # elements


class Variable:
    """A variable of the graph; its value is kept by the emitter."""

    def __init__(self, dtype: tf.DType, shape: tf.TensorShape) -> None:
        self.dtype, self.shape = dtype, shape


class _Iterator:
    """An iterator over a client's batches; how far it is flows along like a variable's value."""

    def __init__(self) -> None:
        self.batches: Any = None


class _Optional:
    """What an iterator gave: a batch, unless it has ended."""

    def __init__(self, batches: Any, number: tf.Tensor) -> None:
        self.batches, self.number = batches, number


class _Guards:
    """Which way each condition went where a node runs: {(node, position) of the condition: way}."""

    def __init__(self) -> None:
        self.of: dict[bodies.Reference, dict[bodies.Reference, bool]] = {}

    def inherit(self, references: list[bodies.Reference]) -> dict[bodies.Reference, bool]:
        found: dict[bodies.Reference, bool] = {}
        for reference in references:
            found |= self.of.get(reference, self.of.get((reference[0], bodies.AFTER), {}))
        return found


class Emitter:
    """One writing of a program.

    Args:
      written: The program.
      key: The key of its random operations, uint64 [2].
      style: See `Program.emit`.
      words: See `Program.emit`.
    """

    def __init__(
        self, written: program.Program, key: tf.Tensor, style: Style, words: Any = None
    ) -> None:
        self._program = written
        self._style = style
        self._key = key
        self._words = words
        # What flows along beside the tensors: variables' values, and the number of a failed check.
        self._carried: dict[Any, tf.Tensor] = {_FAILED: tf.constant(0)}
        self._variables: dict[str, Variable] = {}
        self._steps: list[tf.Tensor] = []
        self._conditions: list[tf.Tensor] = []
        self._clock: set[Any] = set()
        self._is_before_step = False  # whether what is written now leads to a step: see `faithful`
        self._limits = range_checks.Limits()
        # Whether nothing but the graph itself raises where an index is out of range.
        self._is_unchecked = style.is_static or range_checks.has_gpu()

    @property
    def failed(self) -> tf.Tensor:
        """The number of the first check that has failed, int32 [], 0 for none."""
        return self._carried[_FAILED]

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
        before_steps = xla_numerics.before_steps(body) if self._style.xla else frozenset()
        for name in body.ordered([*body.effects, *targets]):
            if name in values:
                continue
            node, sources = body.nodes[name], body.inputs[name]
            inputs = [values[source][index] for source, index in sources if index >= 0]
            if self._style.is_static:
                inputs = [constant_folding.within(value) for value in inputs]
            held = guards.inherit(sources)
            if node.op == "Switch":
                condition = _origin(body, sources[1])
                values[name] = [inputs[0], inputs[0]]
                for way in (0, 1):
                    guards.of[name, way] = held | {condition: bool(way)}
                continue
            if node.op == "Merge":
                values[name], held = self._merge(body, values, sources, guards)
            else:
                self._is_before_step = name in before_steps
                values[name] = self._write(node, inputs, (*path, name), held, values)
                self._limits.hand_on(node, inputs, values[name])
            if self._style.is_static:
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
        """Selects between the two inputs of a `Merge` by the condition on which they differ."""
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
        op = node.op
        if op in randomness.OPERATIONS:
            key = self._key_at(path)
            if self._words is not None and random_sources.is_noise(path):
                drawn: list[Any] = self._words.draw(node, inputs, path, key, bool(self._steps))
                return drawn
            return randomness.draw(node, inputs, key)
        handler: Callable[..., list[Any]] | None = _HANDLERS.get(op)
        if op in self._program.functions:  # a call by the function's own name
            return self.call(op, inputs, path)
        if op == "Identity":
            return inputs
        outer = self._conditions
        ways = [values[c[0]][c[1]] if way else ~values[c[0]][c[1]] for c, way in held.items()]
        self._conditions = [*outer, *ways]
        try:
            return (handler or Emitter._copy)(self, node, inputs, path)
        finally:
            self._conditions = outer

    def _copy(self, node: Any, inputs: list[Any], path: tuple[str, ...]) -> list[Any]:
        """Writes an operation as it is, but for one thing: a clock that becomes an integer is a seed.

        TFF and tensorflow-privacy seed rotations, roundings and noise by the time in microseconds,
        which clients of one graph would share, and others could guess.
        """
        folded = constant_folding.fold(node, inputs) if self._style.is_static else None
        if folded is not None:
            return folded
        if self._is_unchecked:
            self._keep(range_checks.check(node, inputs, self._limits))
        if node.op in xla_numerics.RECTIFIERS and inputs[0].dtype.is_floating:
            return xla_numerics.rectified(node, inputs, for_xla=self._style.xla)
        if self._style.xla:
            written = xla_numerics.write(node, inputs, self._key, self._is_before_step)
            if written is not None:
                return written
        from_clock = any(isinstance(i, tf.Tensor) and i.ref() in self._clock for i in inputs)
        attributes = {k: v for k, v in node.attr.items() if not k.startswith("_")}
        graph = tf.compat.v1.get_default_graph()
        outputs = list(graph.create_op(node.op, inputs, attrs=attributes).outputs)
        if from_clock and node.op == "Cast" and outputs[0].dtype.is_integer:
            return [randomness.integers(outputs[0], self._key_at(path))]
        if from_clock or node.op == "Timestamp":
            self._clock |= {output.ref() for output in outputs}
        return outputs

    def _is_taken(self) -> tf.Tensor | None:
        """Whether the branches that lead here are taken; None outside branches."""
        return tf.reduce_all(tf.stack(self._conditions)) if self._conditions else None

    def _key_at(self, path: tuple[str, ...]) -> tf.Tensor:
        # No operation has a seed of its own: TFF refuses to serialize such graphs.
        key = randomness.fold(self._key, randomness.place(path))
        for step in self._steps:
            key = randomness.fold(key, step)
        return key

    def call(self, function: str, arguments: list[Any], path: tuple[str, ...]) -> list[Any]:
        """Writes the body of a function in place of its call."""
        body = self._program.body_of(function)
        bound = {n: [a] for n, a in zip(body.arguments, arguments, strict=True)}
        return self.run(body, bound, list(body.results), path)

    def _apart(
        self, function: Callable[..., list[Any]], *arguments: Any
    ) -> tuple[list[Any], list[tf.Tensor]]:
        """Runs a function in a graph of its own; returns its results and what it carries out."""
        kept = dict(self._carried)
        results = function(*arguments)
        carried = [self._carried[name] for name in kept]
        self._carried = kept
        return results, carried

    def _resume(self, names: list[Any], carried: list[tf.Tensor]) -> None:
        for name, value in zip(names, carried, strict=True):
            value.set_shape(_carried_shape(name))
            self._carried[name] = value

    def _call_function(self, node: Any, inputs: list[Any], path: tuple[str, ...]) -> list[Any]:
        return self.call(node.attr["f"].func.name, inputs, path)

    def _branch(self, node: Any, inputs: list[Any], path: tuple[str, ...]) -> list[Any]:
        condition, *arguments = inputs
        if condition.dtype != tf.bool:
            condition = tf.cast(condition, tf.bool)
        names = ("then_branch", "else_branch")
        functions = [node.attr[name].func.name for name in names]
        ways = [
            functools.partial(self.call, function, arguments, (*path, name))
            for function, name in zip(functions, names, strict=True)
        ]
        plain = all(self._program.is_plain(function) for function in functions)
        return self._choose(condition, *ways, plain=plain, shapes=_output_shapes(node))

    def _case(self, node: Any, inputs: list[Any], path: tuple[str, ...]) -> list[Any]:
        """Writes a choice among several branches as choices between two, which vectorize."""
        index, *arguments = inputs
        functions = [function.name for function in node.attr["branches"].list.func]
        last = len(functions) - 1
        index = tf.where(tf.logical_and(index >= 0, index < last), index, last)
        shapes = _output_shapes(node)

        def among(low: int, high: int) -> list[Any]:
            if high - low == 1:
                return self.call(functions[low], arguments, (*path, f"branch_{low}"))
            middle = (low + high) // 2
            plain = all(self._program.is_plain(function) for function in functions[low:high])
            ways = (functools.partial(among, *half) for half in ((low, middle), (middle, high)))
            return self._choose(index < middle, *ways, plain=plain, shapes=shapes)

        return among(0, len(functions))

    def _choose(
        self,
        condition: tf.Tensor,
        then: Callable[[], list[Any]],
        otherwise: Callable[[], list[Any]],
        *,
        plain: bool,
        shapes: Sequence[tf.TensorShape],
    ) -> list[Any]:
        """Writes a choice between two ways, of which both may run if they are plain."""
        if plain:
            kept = dict(self._carried)
            selected = self._both(condition, then, otherwise)
            # Where no compiler fuses it, selecting copies a tensor, and a choice does not.
            if self._style.is_static or not any(_is_large(tensor) for tensor in selected):
                return selected
            self._carried = kept  # what has been written for nothing is pruned
        names = list(self._carried)

        def way(write: Callable[[], list[Any]]) -> Callable[[], list[tf.Tensor]]:
            def run() -> list[tf.Tensor]:
                results, carried = self._apart(write)
                return [tf.identity(tensor) for tensor in (*results, *carried)]

            return run

        merged = tf.cond(condition, way(then), way(otherwise))
        count = len(merged) - len(names)
        self._resume(names, merged[count:])
        for tensor, shape in zip(merged, shapes, strict=False):
            tensor.set_shape(shape)
        return list(merged[:count])

    def _both(
        self,
        condition: tf.Tensor,
        then: Callable[[], list[Any]],
        otherwise: Callable[[], list[Any]],
    ) -> list[Any]:
        """Writes both ways and selects: for small ones faster than a choice, and it vectorizes."""
        outer = self._conditions
        results = []
        for write, taken in ((then, condition), (otherwise, ~condition)):
            self._conditions = [*outer, taken]
            results.append(write())
        self._conditions = outer
        return [a if a is b else tf.where(condition, a, b) for a, b in zip(*results, strict=True)]

    def _loop(self, node: Any, inputs: list[Any], path: tuple[str, ...]) -> list[Any]:
        test, step = (node.attr[name].func.name for name in ("cond", "body"))
        body = self._program.body_of(step)
        # What a step hands on as it got it stays outside of the loop, where it may be a known number.
        places = [
            i
            for i, value in enumerate(inputs)
            if isinstance(value, tf.Tensor)
            and _origin(body, body.results[i])[0] != body.arguments[i]
        ]
        shapes = [tf.TensorShape(shape) for shape in node.attr["output_shapes"].list.shape]
        names = list(self._carried)

        def arguments(tensors: Sequence[tf.Tensor]) -> list[Any]:
            given = list(inputs)
            for position, tensor in zip(places, tensors, strict=False):
                given[position] = tensor
            return given

        def enter(tensors: tuple[tf.Tensor, ...]) -> None:
            self._carried.update(zip(names, tensors[len(places) :], strict=True))

        def goes_on(number: tf.Tensor, *tensors: tf.Tensor) -> tf.Tensor:
            def test_it() -> list[Any]:
                enter(tensors)
                return self._in_step(number, test, arguments(tensors), (*path, "cond"))

            (result,), _ = self._apart(test_it)
            return result if result.dtype == tf.bool else tf.cast(result, tf.bool)

        def run(number: tf.Tensor, *tensors: tf.Tensor) -> list[tf.Tensor]:
            def step_it() -> list[Any]:
                enter(tensors)
                return self._in_step(number, step, arguments(tensors), (*path, "body"))

            results, carried = self._apart(step_it)
            moved = [results[position] for position in places]
            for tensor, shape in zip(moved, invariants, strict=True):
                tensor.set_shape(shape)
            return [number + 1, *moved, *carried]

        state = [inputs[position] for position in places]
        invariants = [shapes[p] if shapes else inputs[p].shape for p in places]
        _, *final = tf.while_loop(
            goes_on,
            run,
            [tf.constant(0, tf.int64), *state, *(self._carried[name] for name in names)],
            shape_invariants=[
                tf.TensorShape([]),
                *invariants,
                *(_carried_shape(name) for name in names),
            ],
        )
        self._resume(names, final[len(places) :])
        return arguments(final[: len(places)])

    def _in_step(
        self, number: tf.Tensor, function: str, arguments: list[Any], path: tuple[str, ...]
    ) -> list[Any]:
        self._steps.append(number)
        try:
            return self.call(function, arguments, path)
        finally:
            self._steps.pop()

    def _reduce(self, node: Any, inputs: list[Any], path: tuple[str, ...]) -> list[Any]:
        attributes = node.attr
        count = len(attributes["output_types"].list.type)
        batches, state, captured = inputs[0], inputs[1 : 1 + count], inputs[1 + count :]
        shapes = [tf.TensorShape(shape) for shape in attributes["output_shapes"].list.shape]
        function = attributes["f"].func.name
        names = list(self._carried)

        def step(
            number: tf.Tensor, tensors: list[tf.Tensor], batch: list[tf.Tensor]
        ) -> list[tf.Tensor]:
            def step_it() -> list[Any]:
                self._carried.update(zip(names, tensors[count:], strict=True))
                arguments = [*tensors[:count], *batch, *captured]
                self._limits.learn(batch, batches.limits)
                return self._in_step(number, function, arguments, path)

            results, carried = self._apart(step_it)
            return [*results, *carried]

        if not self._style.is_static and self._program.convolves:
            step = _as_call(step)
        final: list[Any] = batches.reduce(
            step,
            [*state, *(self._carried[name] for name in names)],
            [*shapes, *(_carried_shape(name) for name in names)],
        )
        self._resume(names, final[count:])
        return final[:count]

    def _check(self, node: Any, inputs: list[Any], path: tuple[str, ...]) -> list[Any]:
        del path
        if node.op == "CheckNumerics":
            holds = tf.reduce_all(tf.math.is_finite(inputs[0]))
            message = node.attr["message"].s.decode(errors="replace")
        else:
            holds = tf.reduce_all(inputs[0])
            texts = (tf.get_static_value(part) for part in inputs[1:] if part.dtype == tf.string)
            message = " ".join(_text(text) for text in texts if text is not None) or node.name
        self._keep(range_checks.Check(holds, message))
        return inputs[:1]

    def _keep(self, check: range_checks.Check | None) -> None:
        """Keeps a check that nothing else makes, unless it is in a branch that is not taken."""
        if check is None:
            return
        number = self._program.check_number(check.message)
        taken = self._is_taken()
        holds = check.holds
        holds = holds if taken is None else tf.logical_or(holds, tf.logical_not(taken))
        fails = tf.logical_and(tf.equal(self.failed, 0), tf.logical_not(holds))
        self._carried[_FAILED] = tf.where(fails, number, self.failed)

    def _variable(self, node: Any, inputs: list[Any], path: tuple[str, ...]) -> list[Any]:
        op = node.op
        if op == "VarHandleOp":
            name = node.attr["shared_name"].s.decode() or "/".join(path)
            if name not in self._variables:
                shape = tf.TensorShape(node.attr["shape"].shape)
                self._variables[name] = Variable(tf.as_dtype(node.attr["dtype"].type), shape)
            return [self._variables[name]]
        handle, *operands = inputs
        value = self._carried.get(handle)
        if op == "VarIsInitializedOp":
            return [tf.constant(value is not None)]
        if op == "AssignVariableOp":
            self._assign(handle, operands[0])
            return []
        if value is None:
            raise NotImplementedError("a variable that is read before it has a value")
        if op == "ReadVariableOp":
            return [value]
        if op == "ResourceGather":
            dimensions = node.attr["batch_dims"].i
            if self._is_unchecked:
                limit = tf.shape(value)[dimensions]
                limit = limit if value.shape[dimensions] is None else value.shape[dimensions]
                check = range_checks.gather(f"{op} ({node.name})", operands[0], limit)
                self._keep(None if check is None or self._limits.allow(check) else check)
            return [tf.gather(value, operands[0], batch_dims=dimensions)]
        self._assign(handle, value + operands[0] if "Add" in op else value - operands[0])
        return []

    def _assign(self, handle: Variable, value: tf.Tensor) -> None:
        taken = self._is_taken()
        if taken is not None:
            if handle not in self._carried:
                raise NotImplementedError("a variable that has its first value in a branch")
            value = tf.where(taken, value, self._carried[handle])
        self._carried[handle] = value

    def _iterate(self, node: Any, inputs: list[Any], path: tuple[str, ...]) -> list[Any]:
        op = node.op
        if op == "AnonymousIteratorV3":
            iterator = _Iterator()
            self._carried[iterator] = tf.constant(0)
            return [iterator]
        if op == "MakeIterator":
            inputs[1].batches = inputs[0]
            return []
        if op == "IteratorGetNextAsOptional":
            (iterator,) = inputs
            number = self._carried[iterator]
            if self._is_taken() is not None:
                raise NotImplementedError("an iterator that moves in a branch")
            self._carried[iterator] = number + 1
            return [_Optional(iterator.batches, number)]
        (optional,) = inputs
        if isinstance(optional, tf.Tensor):  # of a branch's gradient, not of an iterator
            return self._copy(node, inputs, path)
        if op == "OptionalHasValue":
            return [optional.number < optional.batches.count()]
        return list(optional.batches.take(optional.number))

    def _skip(self, node: Any, inputs: list[Any], path: tuple[str, ...]) -> list[Any]:
        del node, path
        return list(inputs)


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


def _output_shapes(node: Any) -> list[tf.TensorShape]:
    return [tf.TensorShape(shape) for shape in node.attr["output_shapes"].list.shape]


def _carried_shape(name: Any) -> tf.TensorShape:
    return name.shape if isinstance(name, Variable) else tf.TensorShape([])


def _origin(body: bodies.Body, reference: bodies.Reference) -> bodies.Reference:
    """Returns the tensor that a chain of identities begins with."""
    name, _ = reference
    while name in body.nodes and body.nodes[name].op == "Identity":
        reference = body.inputs[name][0]
        name, _ = reference
    return reference


def _text(value: Any) -> str:
    parts = value.ravel().tolist() if hasattr(value, "ravel") else [value]
    return " ".join(p.decode(errors="replace") if isinstance(p, bytes) else str(p) for p in parts)


def _as_call(step: Callable[..., list[tf.Tensor]]) -> Callable[..., list[tf.Tensor]]:
    """Returns a step whose graph stays a function of its own.

    In a loop's graph, which has a cycle, TensorFlow's rewriting for oneDNN seems to meet the gradient
    of a pooling before the pooling, and leaves it to a kernel that takes five times as long.
    """
    call: Callable[..., list[tf.Tensor]] = tf.function(
        step, autograph=False, experimental_attributes={"_noinline": True}
    )
    return lambda *arguments: list(call(*arguments))


def _is_large(tensor: tf.Tensor) -> bool:
    count = tensor.shape.num_elements()
    return count is not None and count > _LARGE


def _l2_loss(emitter: Emitter, node: Any, inputs: list[Any], path: tuple[str, ...]) -> list[Any]:
    """Half the sum of squares: `L2Loss` itself cannot be vectorized."""
    if not emitter._style.vmap:
        return emitter._copy(node, inputs, path)
    return [tf.reduce_sum(tf.square(inputs[0])) / 2]


_HANDLERS: dict[str, Callable[..., list[Any]]] = {
    "PartitionedCall": Emitter._call_function,
    "StatefulPartitionedCall": Emitter._call_function,
    "If": Emitter._branch,
    "StatelessIf": Emitter._branch,
    "Case": Emitter._case,
    "StatelessCase": Emitter._case,
    "While": Emitter._loop,
    "StatelessWhile": Emitter._loop,
    "ReduceDataset": Emitter._reduce,
    "Assert": Emitter._check,
    "CheckNumerics": Emitter._check,
    "L2Loss": _l2_loss,
    "PlaceholderWithDefault": Emitter._skip,
    **dict.fromkeys(("NoOp", "Print", "PrintV2"), Emitter._skip),
    **dict.fromkeys(program.ITERATION, Emitter._iterate),
    **dict.fromkeys(program.VARIABLES, Emitter._variable),
}
