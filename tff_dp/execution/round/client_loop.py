"""The clients of a group, in one graph: one after another, or side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tff_dp.execution.cohort import batches
from tff_dp.execution.cohort.tables import Limits
from tff_dp.execution.graph import randomness
from tff_dp.execution.graph.style import Style
from tff_dp.execution.round.programs import MERGE, RoundPrograms, status_of


@dataclasses.dataclass(frozen=True)
class Shape:
    """What a graph over clients is made for.

    Attributes:
      batch_size: Examples in a full batch; 0 where batches come from a table.
      remainder: Examples in the last batch of an epoch; 0 for none.
      full: Full batches in an epoch where all clients have as many; None otherwise.
      epochs: Passes over the examples.
      apart: Whether each epoch has positions of its own.
      side_by_side: Clients at once, for `vmap`; 0 for one after another.
      xla: Whether XLA compiles it.
      inside: Whether what is around it is compiled by XLA already.
      limits: The least and the largest of each field's numbers, where they are known; see `Block`.
      places: Devices that take a part of the clients each; empty names for threads.
    """

    batch_size: int = 0
    remainder: int = 0
    full: int | None = None
    epochs: int = 1
    apart: bool = False
    side_by_side: int = 0
    xla: bool = False
    inside: bool = False
    limits: tuple[Limits, ...] = ()
    places: tuple[str, ...] = ("",)

    @property
    def style(self) -> Style:
        """What becomes of the graph over the clients."""
        return Style(xla=self.xla, vmap=bool(self.side_by_side))


def clients(
    parts: RoundPrograms,
    shape: Shape,
    tables: dict[str, tf.Tensor],
    fields: Sequence[tf.Tensor],
    common: list[tf.Tensor],
    carry: list[tf.Tensor],
    root: tf.Tensor,
) -> list[tf.Tensor]:
    """Writes the clients of a group.

    Args:
      parts: The round's programs.
      shape: What the group has in common.
      tables: By name: with a batch size, "clients" [1 + .., 3], the number of clients in the first row,
        then the position in the cohort, the first example's position and the number of full batches of
        each; without, "count" [], "positions" [..] in the cohort, and for sequences "first" [.. + 1],
        "starts" [batches] and "counts" [batches]; "rows" [..] if positions are looked up.
      fields: The examples.
      common: What clients get from the server.
      carry: Sums and status before.
      root: The call's key.

    Returns:
      The carry after.
    """
    by_itself = shape.xla and not shape.side_by_side
    examples = batches.Examples(fields, tables.get("rows"), xla=by_itself, limits=shape.limits)
    table: Any = tables.get("clients")
    known: Any = None if table is None else table[1:]
    count = tables["count"] if table is None else table[0, 0]
    positions = tables["positions"] if table is None else known[:, 0]

    def data(i: tf.Tensor) -> list[Any]:
        if not parts.takes_sequence:
            return [field[i] for field in fields]
        if not shape.batch_size:
            first = tables["first"]
            return [
                batches.Listed(examples, tables["starts"], tables["counts"], first[i], first[i + 1])
            ]
        return [
            batches.Regular(
                examples,
                known[i, 1],
                known[i, 2] if shape.full is None else shape.full,
                shape.batch_size,
                shape.remainder,
                shape.epochs,
                shape.apart,
            )
        ]

    def contribution(i: tf.Tensor) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        return parts.client(data(i), common, positions[i], root, shape.style)

    def span(low: tf.Tensor, high: tf.Tensor, carry: list[tf.Tensor]) -> list[tf.Tensor]:
        if shape.side_by_side:
            return _side_by_side(parts, shape, contribution, positions, low, high, carry, root)
        return _one_by_one(parts, shape, contribution, positions, low, high, carry, root)

    run = jitted(span, shape.xla and not shape.inside)
    if len(shape.places) == 1:
        return list(run(tf.constant(0), count, carry))
    # Whole rows of clients side by side: a part that ended within one would count its clients twice.
    width = max(shape.side_by_side, 1)
    per = (count // width + len(shape.places) - 1) // len(shape.places) * width
    zeros = [*parts.zero(root), *status_of(tf.constant(0), 0)]
    joined: list[tf.Tensor] = []
    for part, place in enumerate(shape.places):
        low, high = tf.minimum(part * per, count), tf.minimum((part + 1) * per, count)
        with tf.device(place or None):
            sums = run(low, high, zeros if part else carry)
        joined = parts.join(joined, sums, randomness.fold(root, MERGE)) if part else sums
    return joined


def _one_by_one(
    parts: RoundPrograms,
    shape: Shape,
    contribution: Callable[[tf.Tensor], tuple[list[tf.Tensor], list[tf.Tensor]]],
    positions: tf.Tensor,
    low: tf.Tensor,
    high: tf.Tensor,
    carry: list[tf.Tensor],
    root: tf.Tensor,
) -> list[tf.Tensor]:
    def body(i: tf.Tensor, *carry: tf.Tensor) -> list[tf.Tensor]:
        results, status = contribution(i)
        added = parts.add(list(carry), results, status, positions[i], root, shape.style)
        return [i + 1, *added]

    return _advance(body, low, high, carry, parts.carry_shapes)


def _side_by_side(
    parts: RoundPrograms,
    shape: Shape,
    contribution: Callable[[tf.Tensor], tuple[list[tf.Tensor], list[tf.Tensor]]],
    positions: tf.Tensor,
    low: tf.Tensor,
    high: tf.Tensor,
    carry: list[tf.Tensor],
    root: tf.Tensor,
) -> list[tf.Tensor]:
    key = randomness.fold(root, MERGE)
    width, style = shape.side_by_side, shape.style

    def one(i: tf.Tensor) -> list[tf.Tensor]:
        results, status = contribution(i)
        start = [*parts.zero(root, style), *status_of(tf.constant(0), 0)]
        return parts.add(start, results, status, positions[i], root, style)

    def join(pair: Sequence[list[tf.Tensor]]) -> list[tf.Tensor]:
        return parts.join(pair[0], pair[1], key, style)

    def body(i: tf.Tensor, *carry: tf.Tensor) -> list[tf.Tensor]:
        each = _vectorized(one, i + tf.range(width))
        count = width
        while count > 1:
            half = count // 2
            pairs = [[t[:half] for t in each], [t[half : 2 * half] for t in each]]
            joined = _vectorized(join, pairs)
            rest = [t[2 * half :] for t in each]
            each = [
                tf.concat([a, b], 0) if count % 2 else a for a, b in zip(joined, rest, strict=True)
            ]
            count -= half
        return [i + width, *parts.join(list(carry), [t[0] for t in each], key, style)]

    # Rows are full, which `cohort_runner.shape_of` sees to: none reaches past the last client.
    return _advance(body, low, high, carry, parts.carry_shapes)


def _vectorized(function: Callable[[Any], Any], elements: Any) -> Any:
    """Returns what a function gives for each element, side by side."""
    raised: list[Exception] = []

    def run(element: Any) -> Any:
        try:
            return function(element)
        except Exception as error:
            raised.append(error)
            raise

    try:
        return tf.vectorized_map(run, elements)
    except Exception:
        if raised:  # which TensorFlow hides in one of its own
            raise raised[0] from None
        raise


def _advance(
    body: Callable[..., list[tf.Tensor]],
    low: tf.Tensor,
    high: tf.Tensor,
    carry: list[tf.Tensor],
    shapes: Sequence[tf.TensorShape],
) -> list[tf.Tensor]:
    _, *final = tf.while_loop(
        lambda i, *_: i < high,
        body,
        [low, *carry],
        shape_invariants=[tf.TensorShape([]), *shapes],
        parallel_iterations=1,
    )
    return list(final)


def jitted(function: Callable[..., Any], xla: bool) -> Callable[..., Any]:
    """Returns a function that XLA compiles, or the function itself."""
    return tf.function(function, jit_compile=True, autograph=False) if xla else function
