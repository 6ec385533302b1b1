"""The graph over the clients of a block: in sequence or side by side, in one or several parts."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tff_dp._compat import vectorizing
from tff_dp.execution.cohort import batches
from tff_dp.execution.cohort.grouping import WIDEST
from tff_dp.execution.cohort.tables import (
    Batching,
    Block,
    ClientTable,
    Form,
    Limits,
    roomy_length,
)
from tff_dp.execution.graph.style import Style
from tff_dp.execution.round.programs import RoundPrograms

# The most parts of a block, unless they would be very long: each is a separate call and holds its own
# sums.
_MOST_PARTS = 8
_MOST_LONG_PARTS = 16  # of graphs in which a part has more to do
# The fewest entries of a block's table per part. A part takes a call and a join, about 0.1 ms. A client
# of a small model takes a few microseconds in XLA's code. It takes 0.3 ms or more in a graph that
# TensorFlow runs one operation at a time, or if it runs a loop in each step, as recurrent layers do.
# That leaves most cores idle: operations of one client are too small to share.
_ENTRIES_OF_A_PART = 128
_ENTRIES_OF_A_LONG_PART = 16
# The most entries of a block's table per part, up to the most parts of any block. A part then takes
# milliseconds or more, and a cluster may have more workers than this machine has cores.
_MOST_ENTRIES_OF_A_PART = 1 << 13
_MOST_ENTRIES_OF_A_LONG_PART = 1 << 11
_MOST_PARTS_OF_ALL = 256
_BYTES_OF_PARTS = 1 << 27  # the most memory that the sums of all parts may take


@dataclasses.dataclass(frozen=True)
class Shape:
    """What a graph over the clients of a block is specialized for; set by block and strategy.

    Attributes:
      form: Which columns the table has.
      batching: What the batches of all clients have in common.
      side_by_side: The number of clients that run at once under "vmap"; 0 for one after another.
      xla: Whether XLA compiles the graph.
      parts: The number of parts of the block that are summed separately.
      limits: For each field, the smallest and the largest of its numbers, or None if they are not
        known; see `Block`.
      masked: Whether the last row of clients side by side may extend past the last client. The table
        is then as long as the rows, and what it says beyond its count is computed and not counted.
    """

    form: Form
    batching: Batching
    side_by_side: int = 0
    xla: bool = False
    parts: int = 1
    limits: tuple[Limits, ...] = ()
    masked: bool = False

    @property
    def style(self) -> Style:
        """How the graph over the clients is compiled and vectorized."""
        return Style(xla=self.xla, vmap=bool(self.side_by_side))


def shape_of(
    block: Block, *, side_by_side: bool, xla: bool, carry_bytes: int | None, loops: bool = False
) -> Shape:
    """Determines what the graph over a block's clients is specialized for.

    Args:
      block: The block.
      side_by_side: Whether its clients run side by side.
      xla: Whether XLA compiles graphs of static shapes.
      carry_bytes: The size of the sums over clients, in bytes; None if it is not known.
      loops: Whether a client's part has loops besides that over its batches.

    Returns:
      The shape. Blocks whose batches are listed one by one run one after another and without XLA.

    Raises:
      ValueError: The number of clients is not a multiple of the number that run side by side.
    """
    count, form = block.table.count, block.table.form
    width = 0
    if side_by_side and form.kind != "listed":
        width = min(count, WIDEST)
        if count % width:
            raise ValueError(f"{count} clients do not fill rows of {width} side by side")
    xla = xla and form.kind != "listed"
    parts = part_count(count, width, carry_bytes, xla and not loops)
    return _shape(form, block.batching, width, xla, parts, block.limits)


# Successive rounds rarely differ in shape, and making a `Shape` takes about as long as a fused
# round.
_shape = functools.lru_cache(1 << 8)(Shape)


def part_count(count: int, width: int, carry_bytes: int | None, quick: bool) -> int:
    """Computes the number of parts that the clients of a block are summed in.

    The number must not depend on what runs the parts, since the result of a floating-point sum
    depends on the order of its terms. It follows from the length of the block's table, because XLA
    compiles anew for another length anyway, and is small enough for the sums of all parts to fit
    into memory. Where XLA compiles, 91 clients make two parts and 430 make eight; from about 65,000
    clients on, the number doubles whenever theirs does. Elsewhere, 9 make two and 91 make sixteen,
    which doubles from about 32,000 on. A block of a million clients has 128 or 256 parts.

    Args:
      count: The number of clients.
      width: The number of clients side by side, or 0 for one after another.
      carry_bytes: The size of the sums over clients, in bytes; None if it is not known.
      quick: Whether a client takes microseconds rather than milliseconds: XLA compiles the graph
        over the clients, and their part has no loops besides that over batches.

    Returns:
      The number of parts, a power of two; 1 if the size of the sums is not known.
    """
    if carry_bytes is None:
        return 1
    least = _ENTRIES_OF_A_PART if quick else _ENTRIES_OF_A_LONG_PART
    longest = _MOST_ENTRIES_OF_A_PART if quick else _MOST_ENTRIES_OF_A_LONG_PART
    most = _MOST_PARTS if quick else _MOST_LONG_PARTS
    entries = roomy_length(count, count)
    most = max(most, min(entries // longest, _MOST_PARTS_OF_ALL))
    most = min(most, entries // least)
    most = min(most, _BYTES_OF_PARTS // max(carry_bytes, 1))
    if width:
        most = min(most, count // width)
    return 1 << max(most, 1).bit_length() - 1


def clients(
    parts: RoundPrograms,
    shape: Shape,
    tensors: Sequence[tf.Tensor],
    common: list[tf.Tensor],
    root: tf.Tensor,
    *,
    places: Sequence[str] = ("",),
    inside: bool = False,
) -> list[tf.Tensor]:
    """Writes the sums over the clients of a block, which start from zero.

    Args:
      parts: The programs of the round.
      shape: What the graph is specialized for.
      tensors: The fields of the examples, then the table, as `ClientTable.arrays` returns it.
      common: The tensors that the server sends to all clients.
      root: The root key of the call, uint64 [2].
      places: The names of the devices that run the parts at the same time; empty names for threads.
      inside: Whether XLA compiles the surrounding function. Then there must be one part.

    Returns:
      The sums, and the status.
    """
    table = _table(shape, tensors)
    span = _span(parts, shape, tensors, common, root)
    if shape.parts == 1:
        run = jitted(span) if shape.xla and not inside else span
        return list(run(tf.constant(0), table.count))
    # All parts call the same function, so that it is traced and compiled once.
    run = jitted(span) if shape.xla else tf.function(span, **_CALLED)
    bounds = bounds_of(shape, table.count)
    sums: list[list[tf.Tensor]] = []
    for part in range(shape.parts):
        place = part * len(places) // shape.parts
        follows = part and place == (part - 1) * len(places) // shape.parts
        with tf.device(places[place] or None), tf.control_dependencies(sums[-1] if follows else []):
            sums.append(list(run(bounds[part], bounds[part + 1])))
    both = tf.function(parts.join, **_CALLED)  # traced once for all joins

    def join(left: int, right: int) -> list[tf.Tensor]:
        """Returns the sums over the parts from `left` to `right` - 1."""
        if right - left == 1:
            return sums[left]
        middle = (left + right) // 2
        # The last parts may be empty; they would begin after the last client.
        last = tf.maximum(table.count - 1, 0)
        key = parts.merge_key(table.positions[tf.minimum(bounds[middle], last)], root)
        return list(both(join(left, middle), join(middle, right), key))

    return join(0, shape.parts)


def part(
    parts: RoundPrograms,
    shape: Shape,
    tensors: Sequence[tf.Tensor],
    common: list[tf.Tensor],
    root: tf.Tensor,
    low: tf.Tensor,
    high: tf.Tensor,
) -> list[tf.Tensor]:
    """Writes the sums over one part of a block, with the same bits as within `clients`.

    Args:
      parts: The programs of the round.
      shape: What the graph over the block's clients is specialized for.
      tensors: The fields of the examples, then the table, as `ClientTable.arrays` returns it.
      common: The tensors that the server sends to all clients.
      root: The root key of the call, uint64 [2].
      low: The number of the part's first client in the table, int32 [].
      high: The number after that of its last client, int32 [].

    Returns:
      The sums, and the status.
    """
    span = _span(parts, shape, tensors, common, root)
    run = jitted(span) if shape.xla else tf.function(span, **_CALLED)
    return list(run(low, high))


def bounds_of(shape: Shape, count: Any) -> list[Any]:
    """Computes where the parts of a block begin and end.

    Parts hold whole rows of clients that run side by side. If a part ended within a row, the clients
    of that row would be counted twice. They differ by one row at most, so that no core waits for a
    part that is larger than the others.

    Args:
      shape: What the graph over the block's clients is specialized for.
      count: The number of the clients, a number or a tensor.

    Returns:
      The number of each part's first client, then the number of clients in rows.
    """
    row = max(shape.side_by_side, 1)
    return [count // row * part // shape.parts * row for part in range(shape.parts + 1)]


def _table(shape: Shape, tensors: Sequence[tf.Tensor]) -> ClientTable:
    return ClientTable.read(shape.form, tensors[len(tensors) - shape.form.width :])


def _span(
    parts: RoundPrograms,
    shape: Shape,
    tensors: Sequence[tf.Tensor],
    common: list[tf.Tensor],
    root: tf.Tensor,
) -> Callable[[tf.Tensor, tf.Tensor], list[tf.Tensor]]:
    """Returns the function that writes the sums over consecutive clients of a block's table."""
    fields, table = tensors[: len(tensors) - shape.form.width], _table(shape, tensors)
    contribution = _contribution(parts, shape, fields, table, common, root)
    step = _rows if shape.side_by_side else _one_by_one
    body = step(parts, shape, contribution, table, root)

    def span(low: tf.Tensor, high: tf.Tensor) -> list[tf.Tensor]:
        start = parts.nobody(root, shape.style)
        return _advance(body, low, high, start, parts.carry_shapes)

    return span


_CALLED: dict[str, Any] = {
    "autograph": False,
    # Without this, TensorFlow would copy the function's operations into the graph for each call.
    "experimental_attributes": {"_noinline": True},
}

Contribution = Callable[[tf.Tensor], tuple[list[tf.Tensor], list[tf.Tensor]]]
Body = Callable[..., list[tf.Tensor]]


def _contribution(
    parts: RoundPrograms,
    shape: Shape,
    fields: Sequence[tf.Tensor],
    table: ClientTable,
    common: list[tf.Tensor],
    root: tf.Tensor,
) -> Contribution:
    """Returns the function that writes a client's contribution, given its place in the table."""
    by_itself = shape.xla and not shape.side_by_side
    examples = batches.Examples(
        fields,
        table.rows,
        xla=by_itself,
        side_by_side=bool(shape.side_by_side),
        limits=shape.limits,
    )
    batching = shape.batching

    def data(i: tf.Tensor) -> list[Any]:
        if not parts.takes_sequence:
            return [field[i] for field in fields]
        if table.form.kind == "listed":
            first = table.first
            return [batches.Listed(examples, table.starts, table.counts, first[i], first[i + 1])]
        return [
            batches.Regular(
                examples,
                table.starts[i],
                table.full[i] if batching.full is None else batching.full,
                batching.batch_size,
                batching.remainder,
                batching.epochs,
                batching.apart,
            )
        ]

    return lambda i: parts.client(data(i), common, table.positions[i], root, shape.style)


def _one_by_one(
    parts: RoundPrograms,
    shape: Shape,
    contribution: Contribution,
    table: ClientTable,
    root: tf.Tensor,
) -> Body:
    """Returns the body of a loop over clients."""

    def body(i: tf.Tensor, *carry: tf.Tensor) -> list[tf.Tensor]:
        results, status = contribution(i)
        position = table.positions[i]
        added = parts.add(list(carry), results, status, position, root, shape.style)
        return [i + 1, *added]

    return body


def _rows(
    parts: RoundPrograms,
    shape: Shape,
    contribution: Contribution,
    table: ClientTable,
    root: tf.Tensor,
) -> Body:
    """Returns the body of a loop over rows of clients side by side.

    The sums of a row are joined as a tree.
    """
    width, style, positions = shape.side_by_side, shape.style, table.positions

    def one(i: tf.Tensor) -> list[tf.Tensor]:
        results, status = contribution(i)
        nobody = parts.nobody(root, style)
        own = parts.add(nobody, results, status, positions[i], root, style)
        if not shape.masked:
            return own
        return [
            tf.where(i < table.count, sum_, zero) for sum_, zero in zip(own, nobody, strict=True)
        ]

    def join(pair: Sequence[Any]) -> list[tf.Tensor]:
        left, right, i = pair
        return parts.join(left, right, parts.merge_key(positions[i], root), style)

    def body(i: tf.Tensor, *carry: tf.Tensor) -> list[tf.Tensor]:
        each = _vectorized(one, i + tf.range(width), xla=style.xla)
        count = width
        while count > 1:
            half = count // 2
            halves = [[t[:half] for t in each], [t[half : 2 * half] for t in each]]
            joined = _vectorized(join, [*halves, i + tf.range(half, 2 * half)], xla=style.xla)
            rest = [t[2 * half :] for t in each]
            each = [
                tf.concat([a, b], 0) if count % 2 else a for a, b in zip(joined, rest, strict=True)
            ]
            count -= half
        return [i + width, *join([list(carry), [t[0] for t in each], i])]

    # Rows are full, which `shape_of` ensures, or masked: nothing is counted past the last client.
    return body


def _vectorized(function: Callable[[Any], Any], elements: Any, *, xla: bool) -> Any:
    """Returns the results of a function for each element, computed side by side."""
    raised: list[Exception] = []

    def run(element: Any) -> Any:
        try:
            return function(element)
        except Exception as error:
            raised.append(error)
            raise

    try:
        with vectorizing.without_loops(xla=xla):
            return tf.vectorized_map(run, elements)
    except Exception:
        if raised:  # TensorFlow wraps the original error in one of its own
            raise raised[0] from None
        raise


def _advance(
    body: Body,
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


def jitted(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps a function so that XLA compiles it.

    Args:
      function: From tensors to tensors.

    Returns:
      The `tf.function`.
    """
    compiled: Callable[..., Any] = tf.function(function, jit_compile=True, autograph=False)
    return compiled
