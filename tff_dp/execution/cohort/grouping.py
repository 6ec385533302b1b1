"""Groups the clients of a cohort into blocks, each of which one graph can process.

A graph of static shapes requires that all clients of a block have last batches of the same size; if
it is vectorized over them, also the same number of full batches. Clients that are alike in this way
are a kind.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tff_dp._arrays import CohortArrays
from tff_dp.execution.cohort.listing import Listing, as_listing
from tff_dp.execution.cohort.tables import Batching, Block, ClientTable, Form, Limits, padded

# A function that decides whether a graph of static shapes is wanted for a kind of clients. Its
# arguments are a key of the kind (batch size, label, epochs, apart), the number of batches that its
# clients train on, and the number of batches that all clients of the cohort train on.
IsRegular = Callable[[Any, int, int], bool]

WIDEST = 64
"""The most clients over which one graph is vectorized."""
_MANY = 32  # clients; so many rarely have the same number of batches by chance


def listed_table(
    listing: Listing, positions: np.ndarray, rows: np.ndarray | None = None
) -> ClientTable:
    """Returns the table of clients for a graph that takes batches of any sizes.

    Args:
      listing: The batches of the clients.
      positions: The positions of the clients in the cohort, integers [clients], ascending.
      rows: The row of the example at each position, int32 [positions]; None if position p is row p.

    Returns:
      The table.
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
    """Yields blocks for graphs of static shapes, then one block of all other clients.

    Args:
      fields: The examples, a tensor [rows, ...] for each field.
      cohort: The clients. Its own `fields` are not used.
      is_regular: Whether a graph of static shapes is wanted for a kind of clients.
      by_size: Whether the clients of a block must have the same number of examples, and not only
        last batches of the same size.
      offset: The position of the first client in the whole cohort.
      limits: The smallest and the largest value of each field, None where not known; may be empty.

    Yields:
      The blocks. Kinds come in the order of their numbers of clients, the largest first.
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
            # If the graph knows that there is one full batch, it needs no loop around it, which
            # saves a tenth of the time of a small client. Such a graph serves this number only, so
            # that many clients must have it, as they then will in later rounds. Without any full
            # batch there must be no loop at all, since the arrays may have fewer rows than a batch.
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
    """Clients that one graph of static shapes can process.

    Attributes:
      label: The size that they have in common: that of the last batch, or with `by_size` the number
        of examples.
      places: The positions of the clients in the cohort, int64 [clients].
      remainder: The number of examples in the smaller last batch of an epoch; 0 if there is none.
      most: The largest number of full batches that any of them has in an epoch.
      least: The smallest such number.
      batches: The number of batches that they train on together.
    """

    label: int
    places: np.ndarray
    remainder: int
    most: int
    least: int
    batches: int


def _kinds(cohort: CohortArrays, *, by_size: bool) -> Iterator[_Kind]:
    """Yields the kinds of clients in a cohort, the most frequent first."""
    sizes, count = cohort.sizes, len(cohort)
    if not count:
        return
    if (sizes == sizes[0]).all():  # the common case, in which numbers are faster than small arrays
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
    """Divides clients into parts that a vectorized graph processes in full rows.

    A row is the clients over which the graph is vectorized: min(n, `widest`) of a part of n
    clients. Each part has a power of two of clients, or a multiple of `widest`, so that all its
    rows are full.

    Args:
      chosen: The positions of the clients, [clients].
      widest: The most clients in a row, a power of two; 0 for a single part.

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
