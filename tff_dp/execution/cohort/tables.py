"""Tables that tell a graph who the clients of a block are, and how clients are grouped into blocks."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tff_dp._arrays import CohortArrays
from tff_dp.execution.cohort.listing import Listing, as_listing

# Whether a graph of static shapes is wanted for a kind of clients, given the number of batches that they
# and that all clients train on.
IsRegular = Callable[[Any, int, int], bool]
Limits = (
    tuple[int, int] | None
)  # the smallest and the largest of some numbers, where they are known

WIDEST = 64  # clients side by side, at most
_SMALLEST_TABLE = 8
_MANY = 32  # clients that do not have as many batches by chance


class Form(NamedTuple):
    """Which columns a table has: what a graph must know to read it back.

    Attributes:
      kind: "regular" (each client's batches have one size, but for the last), "listed" (batches are
        listed one by one), or "tensors" (a client's data is no sequence of batches).
      looks_up: Whether examples are found through `ClientTable.rows`.
    """

    kind: str
    looks_up: bool = False

    @property
    def width(self) -> int:
        """The number of tensors that a table of this form is."""
        return (4 if self.kind == "listed" else 1) + self.looks_up

    def specs(self) -> list[tf.TensorSpec]:
        """Returns the specifications of those tensors."""
        if self.kind == "regular":
            first = [tf.TensorSpec([None, 3], tf.int32)]
        else:
            first = [tf.TensorSpec([None], tf.int32)]
        return first + [tf.TensorSpec([None], tf.int32)] * (self.width - 1)


@dataclasses.dataclass(frozen=True, eq=False)
class ClientTable:
    """The clients of a block: who they are, and where their batches begin.

    Its columns are numpy arrays, or tensors where a graph has read it back from what `arrays` gives.

    Attributes:
      form: Which of the columns there are.
      count: The number of clients.
      positions: int32 [clients]: their positions in the cohort, ascending.
      starts: int32: for "regular", [clients], the positions of their first examples; for "listed",
        [batches], those of each batch.
      full: int32 [clients]: their numbers of full batches in an epoch, or one number for all; for
        "regular".
      first: int32 [clients + 1]: the number of each client's first batch, and of all batches; for
        "listed".
      counts: int32 [batches]: the number of examples of each batch; for "listed".
      rows: int32 [positions]: the row of the example at each position, or None if position p is row p.
    """

    form: Form
    count: Any
    positions: Any
    starts: Any = None
    full: Any = None
    first: Any = None
    counts: Any = None
    rows: Any = None

    def arrays(self) -> list[np.ndarray]:
        """Returns the table as few arrays, which `read` takes apart.

        Each array that a graph is called with costs a small round as much as its training does.
        Therefore the columns of a regular table are packed into one, filled up with zeros to a length
        for which XLA has compiled already, and the count is packed in front of them.
        """
        rows = [self.rows] if self.form.looks_up else []
        if self.form.kind == "regular":
            packed = np.zeros([1 + roomy_length(self.count, self.count), 3], np.int32)
            packed[0, 0] = self.count
            own = packed[1 : 1 + self.count]
            own[:, 0], own[:, 1], own[:, 2] = self.positions, self.starts, self.full
            return [packed, *rows]
        packed = np.concatenate([[self.count], self.positions]).astype(np.int32)
        if self.form.kind == "listed":
            listed = [column.astype(np.int32) for column in (self.first, self.starts, self.counts)]
            return [packed, *listed, *rows]
        return [packed, *rows]

    @classmethod
    def read(cls, form: Form, tensors: Sequence[tf.Tensor]) -> ClientTable:
        """Writes the inverse of `arrays` into a graph.

        Args:
          form: The table's.
          tensors: What `arrays` gave.

        Returns:
          The table. Its columns may be longer than its count: what follows is padding.
        """
        packed, *others = tensors
        rows = others.pop() if form.looks_up else None
        if form.kind == "regular":
            known = packed[1:]
            return cls(
                form, packed[0, 0], known[:, 0], starts=known[:, 1], full=known[:, 2], rows=rows
            )
        if form.kind == "listed":
            first, starts, counts = others
            return cls(form, packed[0], packed[1:], starts, None, first, counts, rows)
        return cls(form, packed[0], packed[1:], rows=rows)


class Batching(NamedTuple):
    """What the batches of all clients of a block have in common.

    Attributes:
      batch_size: Examples in a full batch; 0 where batches are listed, or data is no sequence.
      remainder: Examples in the last batch of an epoch; 0 for no such batch.
      full: The number of full batches in an epoch, if all clients have the same; None otherwise.
      epochs: Passes over the examples.
      apart: Whether each epoch has positions of its own.
    """

    batch_size: int = 0
    remainder: int = 0
    full: int | None = None
    epochs: int = 1
    apart: bool = False


NO_BATCHES = Batching()


@dataclasses.dataclass(frozen=True, eq=False)
class Block:
    """Some clients of a cohort, as one graph takes them.

    Attributes:
      fields: Tensors [rows, ...].
      table: Who they are, and where their batches begin.
      batching: What their batches have in common.
      limits: The smallest and the largest of each field's numbers, None where they are not known; empty
        if none is known.
    """

    fields: Sequence[tf.Tensor]
    table: ClientTable
    batching: Batching = NO_BATCHES
    limits: tuple[Limits, ...] = ()


def listed_table(
    listing: Listing, positions: np.ndarray, rows: np.ndarray | None = None
) -> ClientTable:
    """Returns the table of clients for a graph that takes batches of any sizes.

    Args:
      listing: Their batches.
      positions: Their positions in the cohort.
      rows: See `ClientTable`.
    """
    return ClientTable(
        Form("listed", rows is not None),
        len(listing),
        positions,
        starts=listing.starts,
        first=listing.first,
        counts=listing.counts,
        rows=rows,
    )


def grouped(
    fields: Sequence[tf.Tensor],
    cohort: CohortArrays,
    is_regular: IsRegular,
    *,
    by_size: bool,
    offset: int = 0,
    limits: tuple[Limits, ...] = (),
) -> Iterator[Block]:
    """Yields blocks of clients that graphs of static shapes can hold together, then the others'.

    Args:
      fields: The examples, as tensors.
      cohort: The clients.
      is_regular: Whether a graph of static shapes is wanted for a kind of clients.
      by_size: Whether the clients of a block must have the same number of full batches, and not only
        last batches of the same size.
      offset: The position in the cohort of the first client.
      limits: See `Block`.

    Yields:
      The blocks. Kinds of clients come in the order of their numbers of clients.
    """
    rows = None
    if cohort.rows is not None:
        rows = padded(cohort.rows.astype(np.int32), len(cohort))
    form = Form("regular", rows is not None)
    kinds = list(_kinds(cohort, by_size=by_size))
    total = sum(kind.batches for kind in kinds)
    others = []
    for kind in kinds:
        if not is_regular(
            (cohort.batch_size, kind.label, cohort.epochs, cohort.apart), kind.batches, total
        ):
            others.append(kind.places)
            continue
        same = kind.most == kind.least
        for some in parts(kind.places, WIDEST if by_size else 0):
            # Without a loop around its one batch, a small client's training is a tenth faster. Without
            # any full batch there must be no loop: the arrays may have fewer rows than a batch has.
            known = by_size or kind.most == 0 or (same and kind.most == 1 and len(some) >= _MANY)
            batching = Batching(
                cohort.batch_size,
                kind.remainder,
                kind.most if known else None,
                cohort.epochs,
                cohort.apart,
            )
            full = kind.most if same else cohort.sizes[some] // cohort.batch_size
            table = ClientTable(
                form, len(some), some + offset, cohort.starts[some], full, rows=rows
            )
            yield Block(fields, table, batching, limits)
    if others:
        places = np.sort(np.concatenate(others))
        part = dataclasses.replace(cohort, starts=cohort.starts[places], sizes=cohort.sizes[places])
        table = listed_table(as_listing(part), places + offset, rows)
        yield Block(fields, table, limits=limits)


class _Kind(NamedTuple):
    """Clients that a graph of static shapes can hold together.

    Attributes:
      label: What they have in common: the size of the last batch, or all examples.
      places: int64 [clients]: who they are.
      remainder: Examples in the last batch of an epoch.
      most: The largest number of full batches in an epoch.
      least: The smallest.
      batches: The number of batches that they train on.
    """

    label: int
    places: np.ndarray
    remainder: int
    most: int
    least: int
    batches: int


def _kinds(cohort: CohortArrays, *, by_size: bool) -> Iterator[_Kind]:
    """Yields the kinds of clients that there are, the most frequent first."""
    sizes, count = cohort.sizes, len(cohort)
    if not count:
        return
    if (sizes == sizes[0]).all():  # most cohorts: numbers, which take less time than small arrays
        size = int(sizes[0])
        full, remainder = divmod(size, cohort.batch_size)
        batches = count * (full + (remainder > 0)) * cohort.epochs
        label = size if by_size else remainder
        yield _Kind(label, np.arange(count), remainder, full, full, batches)
        return
    every_full, every_remainder = np.divmod(sizes, cohort.batch_size)
    every_batches = (every_full + (every_remainder > 0)) * cohort.epochs
    labels = sizes if by_size else every_remainder
    values, counts = np.unique(labels, return_counts=True)
    for place in np.argsort(-counts, kind="stable"):
        places = np.flatnonzero(labels == values[place])
        own = every_full[places]
        yield _Kind(
            int(values[place]),
            places,
            int(every_remainder[places[0]]),
            int(own.max()),
            int(own.min()),
            int(every_batches[places].sum()),
        )


def parts(chosen: np.ndarray, widest: int) -> Iterator[np.ndarray]:
    """Yields positions in numbers of 2^k or multiples of `widest`.

    So many clients run side by side, and all rows of them are full: each number is a multiple of
    min(number, `widest`).

    Args:
      chosen: The positions.
      widest: Clients in a row, at most; 0 to yield all positions at once.

    Yields:
      Consecutive parts of the positions.
    """
    begin = 0
    while begin < len(chosen):
        count = rest = len(chosen) - begin
        if widest:
            count = rest // widest * widest or 1 << (rest.bit_length() - 1)
        yield chosen[begin : begin + count]
        begin += count


def padded_length(count: int) -> int:
    """Returns the length to which an array of a length is filled up: a power of two."""
    return max(_SMALLEST_TABLE, 1 << (count - 1).bit_length()) if count else _SMALLEST_TABLE


@functools.lru_cache(1 << 12)
def roomy_length(count: int, clients: int) -> int:
    """Returns a length for an array of a cohort that other cohorts, drawn likewise, hardly exceed.

    XLA compiles anew for each length. Under Poisson sampling, the number of clients has the standard
    deviation of its square root.

    Args:
      count: Entries of the array.
      clients: Clients of the cohort.
    """
    return padded_length(count + math.ceil(count * min(1, 4 / math.sqrt(clients or 1))))


def padded(column: np.ndarray, clients: int) -> np.ndarray:
    """Returns an array of a cohort that is filled up with zeros to its `roomy_length`.

    Args:
      column: The array.
      clients: Clients of the cohort.
    """
    length = roomy_length(len(column), clients)
    return np.concatenate(
        [column, np.zeros([length - len(column), *column.shape[1:]], column.dtype)]
    )
