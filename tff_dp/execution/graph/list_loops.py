"""Lists of tensors, and sums of products, as the state of a loop that XLA compiles.

A loop variable is a tensor. What of a list has to be one, and of which shape, is known only once
the loop's body has been written: the first element that is written tells the shape of all; a list
whose elements are equal, or that is only read, needs no tensor of its own. The body is therefore
written for inspection until a `Layout` fits, and then for the loop itself.

The gradient of a weight in a loop over steps is a sum of one product of matrices for each step,
each of the size of the weight. One product of all steps together is faster: it reads and writes the
weight's gradient once, where the steps do so in each of them. `sums_of` finds such sums. Their
factors are kept in two lists, which the loop only writes, and `Sum.total` multiplies them after it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tff_dp.execution.graph import bodies
from tff_dp.execution.graph.program import Program
from tff_dp.execution.graph.tensor_lists import TensorList


@dataclasses.dataclass(frozen=True, eq=False)
class Layout:
    """What of a list is carried through a loop.

    Attributes:
      shape: The shape of an element, as far as it is known.
      same: The known value of all elements that the loop writes; None if they differ.
      has_rows: Whether the elements are in one tensor.
      has_cleared: Whether there is a tensor that says which elements are cleared.
      moves_rows: Whether that tensor is a loop variable. Otherwise the loop does not write it.
      moves_cleared: The same for what is cleared.
      moves_length: Whether the length is a loop variable. Otherwise the loop does not change it.
    """

    shape: tf.TensorShape
    same: np.ndarray | None
    has_rows: bool
    has_cleared: bool
    moves_rows: bool = False
    moves_cleared: bool = False
    moves_length: bool = False

    @classmethod
    def of(cls, start: TensorList) -> Layout:
        """Returns the layout of a list that a loop does not change.

        Args:
          start: The list before the loop.

        Returns:
          The layout.
        """
        has_rows = start.rows is not None or start.only is not None
        return cls(start.shape, start.same, has_rows, start.cleared is not None)

    def extended(self, start: TensorList, before: TensorList, after: TensorList) -> Layout:
        """Returns the layout for what an iteration does to a list.

        Args:
          start: The list before the loop.
          before: The list before an iteration, in this layout.
          after: The list after that iteration.

        Returns:
          This layout if it is sufficient; otherwise one that carries more.
        """
        same = after.same if after.rows is None and after.only is None else None
        fits = same is None or _is_empty(start)
        if same is not None and start.same is not None:
            fits = bool(np.array_equal(same, start.same))
        has_rows = self.has_rows or after.rows is not None or after.only is not None or not fits
        has_cleared = self.has_cleared or after.cleared is not None
        found = Layout(
            before.of_shape(after.shape).shape,
            None if has_rows else same,
            has_rows,
            has_cleared,
            self.moves_rows or (has_rows and after.rows is not before.rows),
            self.moves_cleared or (has_cleared and after.cleared is not before.cleared),
            self.moves_length or not _is_equal(before.length, after.length),
        )
        return self if found.key == self.key else found

    @property
    def key(self) -> Any:
        """What distinguishes this layout from others."""
        same = None if self.same is None else (self.same.dtype.name, self.same.tolist())
        moves = self.moves_rows, self.moves_cleared, self.moves_length
        return str(self.shape), same, self.has_rows, self.has_cleared, *moves

    def started(self, start: TensorList) -> TensorList:
        """Returns the list before the loop in this layout.

        Args:
          start: The list before the loop.

        Returns:
          A list of the same elements.
        """
        start = start.of_shape(self.shape)
        if self.has_cleared:
            start = start.with_cleared()
        if self.has_rows:
            return start.with_rows()
        return start if self.same is None else dataclasses.replace(start, same=self.same)

    def tensors(self, listed: TensorList) -> list[tf.Tensor]:
        """Returns the loop variables of a list.

        Args:
          listed: The list in this layout, before the loop or after an iteration.

        Returns:
          The tensors, in the order in which `read` takes them.
        """
        found = [listed.with_rows().rows] if self.moves_rows else []
        if self.moves_cleared:
            found.append(listed.with_cleared().cleared)
        length = tf.convert_to_tensor(listed.length, tf.int32)
        return [*found, length] if self.moves_length else found

    def shapes(self, start: TensorList) -> list[tf.TensorShape]:
        """Returns the shapes of the loop variables of a list.

        Args:
          start: The list before the loop.

        Returns:
          A shape for each of the `tensors`.
        """
        found = [tf.TensorShape([start.capacity, *self.shape])] if self.moves_rows else []
        if self.moves_cleared:
            found.append(tf.TensorShape([start.capacity]))
        return [*found, tf.TensorShape([])] if self.moves_length else found

    def read(self, started: TensorList, tensors: list[tf.Tensor]) -> TensorList:
        """Returns a list of given loop variables, which are removed from the front of `tensors`.

        Args:
          started: The list before the loop, in this layout.
          tensors: The loop variables.

        Returns:
          The list.
        """
        found = started
        if self.moves_rows:
            found = dataclasses.replace(found, rows=tensors.pop(0))
        if self.moves_cleared:
            found = dataclasses.replace(found, cleared=tensors.pop(0))
        if self.moves_length:
            found = dataclasses.replace(found, length=tensors.pop(0))
        return found


def _is_empty(start: TensorList) -> bool:
    return start.is_blank and isinstance(start.length, int) and start.length == 0


def _is_equal(length: int | tf.Tensor, other: int | tf.Tensor) -> bool:
    if isinstance(length, int) and isinstance(other, int):
        return length == other
    return length is other


@dataclasses.dataclass(frozen=True)
class Sum:
    """A loop variable that each iteration adds a product of matrices to, and that nothing else reads.

    Attributes:
      place: Its position among the loop's variables.
      factors: The two matrices in the body, A [m, k] and B [m, n], of which A^T B is added.
    """

    place: int
    factors: tuple[bodies.Reference, bodies.Reference]

    def total(self, start: tf.Tensor, rows: Sequence[TensorList]) -> tf.Tensor:
        """Returns the variable after the loop.

        Args:
          start: The variable before the loop, [k, n].
          rows: The factors of all iterations, a list for each of the two.

        Returns:
          The sum, [k, n].
        """
        # Rows of iterations that there have not been are zeros in both factors.
        left, right = (tf.reshape(f.resolved(), [-1, f.shape[-1]]) for f in rows)
        return start + tf.matmul(left, right, transpose_a=True)


def sums_of(program: Program, node: Any, inputs: Sequence[Any]) -> tuple[list[Sum], int]:
    """Finds the sums of products in a loop.

    Args:
      program: The program that the loop belongs to.
      node: The `NodeDef` of the loop.
      inputs: The values before the loop of all its variables.

    Returns:
      The sums, and the largest number of iterations. There are none where that number is unknown:
      it follows from a list that the loop takes an element of in each iteration.
    """
    body = program.body_of(node.attr["body"].func.name)
    test = program.body_of(node.attr["cond"].func.name)
    # A list that becomes shorter by one in each iteration. An iteration too many would fail.
    popped = [
        value.capacity
        for place, value in enumerate(inputs)
        if isinstance(value, TensorList) and _is_popped(body, place)
    ]
    if not popped:
        return [], 0
    tested = {source for name in test.ordered(test.results) for source in test.inputs[name]}
    found = []
    for place, value in enumerate(inputs):
        if not isinstance(value, tf.Tensor) or value.dtype not in (tf.float32, tf.float64):
            continue
        factors = _factors(body, place)
        if factors and (test.arguments[place], 0) not in tested:
            found.append(Sum(place, factors))
    return found, min(popped)


def _is_popped(body: bodies.Body, place: int) -> bool:
    """Returns whether each iteration takes one element off the end of a list."""
    name, output = body.origin(body.results[place])
    node = body.nodes.get(name)
    if node is None or node.op != "TensorListPopBack" or output != 0:
        return False
    return body.origin(body.inputs[name][0]) == (body.arguments[place], 0)


def _factors(body: bodies.Body, place: int) -> tuple[bodies.Reference, bodies.Reference] | None:
    """Returns the matrices whose product an iteration adds to a variable, if that is all it does."""
    total = body.origin(body.results[place])
    adding = body.nodes.get(total[0])
    if adding is None or adding.op != "AddN" or len(body.inputs[total[0]]) != 2:
        return None
    first, second = map(body.origin, body.inputs[total[0]])
    own = (body.arguments[place], 0)
    product = second if first == own else first
    multiplying = body.nodes.get(product[0])
    if own not in (first, second) or multiplying is None or multiplying.op != "MatMul":
        return None
    if not multiplying.attr["transpose_a"].b or multiplying.attr["transpose_b"].b:
        return None
    left, right, *control = body.inputs[product[0]]
    if control or _readers(body, own) != {total[0]} or _readers(body, total):
        return None
    if [r for r in map(body.origin, body.results) if r in (own, total)] != [total]:
        return None
    return left, right


def _readers(body: bodies.Body, reference: bodies.Reference) -> set[str]:
    """Returns the nodes that read a tensor, identities left out."""
    return {
        name
        for name in body.ordered([*body.results, *body.effects])
        if body.nodes[name].op != "Identity"
        and any(body.origin(source) == reference for source in body.inputs[name])
    }
