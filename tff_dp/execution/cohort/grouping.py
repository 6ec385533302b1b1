"""Groups the clients of a cohort into blocks that one graph can hold together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tff_dp._arrays import CohortArrays
from tff_dp.execution.cohort.listing import Listing, as_listing
from tff_dp.execution.cohort.tables import Batching, Block, ClientTable, Form, Limits, padded

# Whether a graph of static shapes is wanted for a kind of clients, given the number of batches that they
# and that all clients train on.
IsRegular = Callable[[Any, int, int], bool]

WIDEST = 64
"""Clients side by side, at most."""
_MANY = 32  # clients that do not have as many batches by chance


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
