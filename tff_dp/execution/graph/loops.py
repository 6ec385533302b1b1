"""Loops: `While`, and the reduction of a client's data set, which becomes a loop over its batches.

Carried tensors (`carried`) become loop variables after those of the original loop. The bodies are
traced into graphs of their own, so that `Emission.apart` and `Emission.resume` surround them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tff_dp.execution.graph import carried, list_loops
from tff_dp.execution.graph.emission import Emission
from tff_dp.execution.graph.style import ShapeVariesError, Style
from tff_dp.execution.graph.tensor_lists import TensorList


def write_while(
    emission: Emission, node: Any, inputs: list[Any], path: tuple[str, ...]
) -> list[Any]:
    """Writes `While` and `StatelessWhile` as a `tf.while_loop`.

    The loop variables are the number of the iteration, int64 [], which the keys of random draws
    depend on; those tensors of the original loop that its body changes; the carried tensors; and
    what lists of tensors need (`list_loops`).

    Args:
      emission: The emission that writes the node.
      node: The `NodeDef`.
      inputs: The values of the node's inputs, control edges left out.
      path: The names of the nodes that lead to the node, its own name last.

    Returns:
      The final values of the loop variables of the node.
    """
    return _While(emission, node, inputs, path).write()


class _While:
    """A loop that is being written; see `write_while`."""

    def __init__(
        self, emission: Emission, node: Any, inputs: list[Any], path: tuple[str, ...]
    ) -> None:
        self._emission, self._inputs, self._path = emission, inputs, path
        self._test, self._step = (node.attr[name].func.name for name in ("cond", "body"))
        body = emission.program.body_of(self._step)
        # A value that the body returns unchanged stays outside of the loop variables, because it
        # may be a known number: a bound or a size as a loop variable would make shapes in the loop
        # depend on values. Variables and iterators are not tensors and cannot be loop variables;
        # their tensors are carried.
        moved = [
            place
            for place in range(len(inputs))
            if body.origin(body.results[place])[0] != body.arguments[place]
        ]
        self._sums, most = list_loops.sums_of(emission.program, node, inputs)
        summed = {each.place for each in self._sums}
        self._places = [p for p in moved if isinstance(inputs[p], tf.Tensor) and p not in summed]
        self._list_places = [p for p in moved if isinstance(inputs[p], TensorList)]
        # The lists of the loop, and those of the factors of sums, each of which occurs once.
        factors = {ref: inputs[s.place].dtype for s in self._sums for ref in s.factors}
        self._factors = list(factors)
        unknown = tf.TensorShape(None)
        self._lists = [
            *(inputs[place] for place in self._list_places),
            *(TensorList(dtype, unknown, most, 0) for dtype in factors.values()),
        ]
        self._layouts = [list_loops.Layout.of(listed) for listed in self._lists]
        self._targets = [
            *(body.results[p] for p in (*self._places, *self._list_places)),
            *self._factors,
        ]
        shapes = [tf.TensorShape(shape) for shape in node.attr["output_shapes"].list.shape]
        if shapes and not emission.style.is_static:
            self._shapes = [shapes[place] for place in self._places]
        else:  # where all shapes are known, that before the loop must hold in all of it
            self._shapes = [inputs[place].shape for place in self._places]
        self._names = list(emission.carried)
        self._started: list[TensorList] = []
        self._changed: list[list_loops.Layout] = []

    def write(self) -> list[Any]:
        """Writes the loop, and returns the final values."""
        self._start()
        if self._lists:
            self._find_layouts()
        first = [
            *(self._inputs[place] for place in self._places),
            *(self._emission.carried[name] for name in self._names),
            *self._flat(self._started),
        ]
        _, *final = tf.while_loop(
            self._goes_on,
            self._run,
            [tf.constant(0, tf.int64), *first],
            shape_invariants=[tf.TensorShape([]), *self._invariants()],
        )
        tensors, out, lists = self._split(final)
        self._emission.resume(self._names, out)
        results = self._arguments(tensors, lists)
        rows = dict(zip(self._factors, lists[len(self._list_places) :], strict=True))
        for each in self._sums:
            start = self._inputs[each.place]
            results[each.place] = each.total(start, [rows[ref] for ref in each.factors])
        return results

    def _find_layouts(self) -> None:
        """Writes the body into graphs of its own until the layouts of all lists are sufficient."""
        dtypes = [self._inputs[place].dtype for place in self._places]
        dtypes += [self._emission.carried[name].dtype for name in self._names]
        while True:
            listed = [tensor.dtype for tensor in self._flat(self._started)]
            specs = [
                tf.TensorSpec(shape, dtype)
                for shape, dtype in zip(self._invariants(), [*dtypes, *listed], strict=True)
            ]
            traced = tf.function(self._run, autograph=False)
            traced.get_concrete_function(tf.TensorSpec([], tf.int64), *specs)
            if all(new is old for new, old in zip(self._changed, self._layouts, strict=True)):
                return
            self._layouts = self._changed
            self._start()

    def _start(self) -> None:
        pairs = zip(self._layouts, self._lists, strict=True)
        self._started = [layout.started(listed) for layout, listed in pairs]

    def _flat(self, lists: Sequence[TensorList]) -> list[tf.Tensor]:
        pairs = zip(self._layouts, lists, strict=True)
        return [tensor for layout, listed in pairs for tensor in layout.tensors(listed)]

    def _invariants(self) -> list[tf.TensorShape]:
        pairs = zip(self._layouts, self._lists, strict=True)
        return [
            *self._shapes,
            *(carried.shape_of(name) for name in self._names),
            *(shape for layout, listed in pairs for shape in layout.shapes(listed)),
        ]

    def _split(
        self, tensors: Sequence[tf.Tensor]
    ) -> tuple[list[tf.Tensor], list[tf.Tensor], list[TensorList]]:
        """Returns the tensors of the loop, the carried ones, and the lists of given loop variables."""
        width, names = len(self._places), len(self._names)
        rest = list(tensors[width + names :])
        pairs = zip(self._layouts, self._started, strict=True)
        lists = [layout.read(listed, rest) for layout, listed in pairs]
        return list(tensors[:width]), list(tensors[width : width + names]), lists

    def _arguments(self, tensors: Sequence[tf.Tensor], lists: Sequence[TensorList]) -> list[Any]:
        given = list(self._inputs)
        for place, value in zip(self._places, tensors, strict=True):
            given[place] = value
        for place, listed in zip(self._list_places, lists, strict=False):
            given[place] = listed
        return given

    def _goes_on(self, number: tf.Tensor, *flat: tf.Tensor) -> tf.Tensor:
        tensors, out, lists = self._split(flat)

        def test_it() -> list[Any]:
            self._emission.carried.update(zip(self._names, out, strict=True))
            arguments = self._arguments(tensors, lists)
            path = (*self._path, "cond")
            return self._emission.call_in_step(number, self._test, arguments, path)

        # Carried tensors that the condition changes are dropped, since a condition returns a truth
        # value only.
        (result,), _ = self._emission.apart(test_it)
        return result if result.dtype == tf.bool else tf.cast(result, tf.bool)

    def _run(self, number: tf.Tensor, *flat: tf.Tensor) -> list[tf.Tensor]:
        tensors, out, before = self._split(flat)

        def step_it() -> list[Any]:
            self._emission.carried.update(zip(self._names, out, strict=True))
            arguments = self._arguments(tensors, before)
            path = (*self._path, "body")
            return self._emission.call_in_step(number, self._step, arguments, path, self._targets)

        results, moved_out = self._emission.apart(step_it)
        width, listed = len(self._places), len(self._list_places)
        moved, after = results[:width], results[width : width + listed]
        for tensor, shape in zip(moved, self._shapes, strict=True):
            if not shape.is_compatible_with(tensor.shape):
                raise ShapeVariesError(
                    "a tensor has a shape that depends on values: that of a variable of the loop "
                    f"{self._path[-1]}"
                )
            tensor.set_shape(shape)
        factors = zip(before[listed:], results[width + listed :], strict=True)
        after += [rows.pushed(factor) for rows, factor in factors]
        triples = zip(self._layouts, self._lists, before, after, strict=True)
        self._changed = [layout.extended(*lists) for layout, *lists in triples]
        if self._changed != self._layouts:  # written for inspection; what it returns is not used
            return [number + 1]
        return [number + 1, *moved, *moved_out, *self._flat(after)]


def write_product(
    emission: Emission, node: Any, inputs: list[Any], path: tuple[str, ...]
) -> list[Any]:
    """Writes `MatMul`. A matrix that a loop takes transposed is transposed before the loop.

    XLA would transpose it in each iteration.

    Args:
      emission: The emission that writes the node.
      node: The `NodeDef`.
      inputs: The values of the node's inputs, control edges left out.
      path: The names of the nodes that lead to the node, its own name last.

    Returns:
      The product, in a list of one.
    """
    left, right = inputs
    here = tf.compat.v1.get_default_graph()
    if emission.style != Style(xla=True) or not node.attr["transpose_b"].b or right.graph is here:
        return emission.copy(node, inputs, path)
    if right.ref() not in emission.transposed:
        with right.graph.as_default():
            emission.transposed[right.ref()] = tf.transpose(right)
    plain = type(node)()
    plain.CopyFrom(node)
    plain.attr["transpose_b"].b = False
    return emission.copy(plain, [left, emission.transposed[right.ref()]], path)


def write_reduction(
    emission: Emission, node: Any, inputs: list[Any], path: tuple[str, ...]
) -> list[Any]:
    """Writes `ReduceDataset` as a loop over the batches that the caller supplied.

    The first of the inputs is the `program.Batches` that stands for the data set.

    Args:
      emission: The emission that writes the node.
      node: The `NodeDef`.
      inputs: The values of the node's inputs, control edges left out.
      path: The names of the nodes that lead to the node, its own name last.

    Returns:
      The final state of the reduction, one value for each output of the node.
    """
    attributes = node.attr
    count = len(attributes["output_types"].list.type)
    batches, state, captured = inputs[0], inputs[1 : 1 + count], inputs[1 + count :]
    shapes = [tf.TensorShape(shape) for shape in attributes["output_shapes"].list.shape]
    function = attributes["f"].func.name
    names = list(emission.carried)

    def step(
        number: tf.Tensor, tensors: list[tf.Tensor], batch: list[tf.Tensor]
    ) -> list[tf.Tensor]:
        def step_it() -> list[Any]:
            emission.carried.update(zip(names, tensors[count:], strict=True))
            arguments = [*tensors[:count], *batch, *captured]
            emission.limits.learn(batch, batches.limits)
            return emission.call_in_step(number, function, arguments, path)

        results, out = emission.apart(step_it)
        return [*results, *out]

    if not emission.style.is_static and emission.program.convolves:
        step = _as_call(step)
    final: list[Any] = batches.reduce(
        step,
        [*state, *(emission.carried[name] for name in names)],
        [*shapes, *(carried.shape_of(name) for name in names)],
    )
    emission.resume(names, final[count:])
    return final[:count]


def _as_call(step: Callable[..., list[tf.Tensor]]) -> Callable[..., list[tf.Tensor]]:
    """Returns a step whose graph stays a separate function, which is not inlined into the loop.

    Inlined into a loop, whose graph has a cycle, the gradient of a pooling runs in a kernel that
    takes five times as long. Apparently TensorFlow's rewriting for oneDNN then visits the gradient
    before the pooling itself, and does not replace it.
    """
    call: Callable[..., list[tf.Tensor]] = tf.function(
        step, autograph=False, experimental_attributes={"_noinline": True}
    )
    return lambda *arguments: list(call(*arguments))
