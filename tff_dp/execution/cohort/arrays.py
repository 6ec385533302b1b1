"""Blocks of cohorts whose examples are in numpy arrays."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from tff_dp._arrays import CohortArrays
from tff_dp.execution.cohort import grouping, references, resident, tables

_BYTES = 1 << 24  # of examples in a copy, for arrays that do not fit on the device


def blocks_of_arrays(
    cohort: CohortArrays,
    held: resident.Resident | references.ByReference,
    *,
    is_regular: grouping.IsRegular,
    by_size: bool,
) -> Iterator[tables.Block]:
    """Yields the blocks of a cohort of arrays.

    Arrays that fit on the device are copied there once and shared by all blocks. Of larger arrays,
    the rows of consecutive clients are copied for each block.

    Args:
      cohort: The cohort.
      held: The arrays that stay on the device between rounds, or what makes references to arrays.
      is_regular: Whether a graph of static shapes is wanted for a kind of clients.
      by_size: Whether the clients of a block must have the same number of examples, and not only
        last batches of the same size.

    Yields:
      The blocks. Those of smaller arrays come in the order of `grouping.grouped`; those of larger
      ones do so for each range of consecutive clients.
    """
    if held.fits(cohort.fields):
        fields = [held.tensor(field) for field in cohort.fields]
        limits = tuple(held.limits(field) for field in cohort.fields)
        yield from grouping.grouped(fields, cohort, is_regular, by_size=by_size, limits=limits)
        return
    for low, high in _spans(cohort):
        part, rows = _alone(cohort, low, high)
        fields = [held.rows(field, rows) for field in cohort.fields]
        yield from grouping.grouped(fields, part, is_regular, by_size=by_size, offset=low)


def _spans(cohort: CohortArrays) -> Iterator[tuple[int, int]]:
    """Yields ranges [low, high) of clients whose examples fit a copy together.

    A client whose own examples do not fit is alone in its range.
    """
    row = sum(field.nbytes // max(len(field), 1) for field in cohort.fields)
    # The most rows of a copy: a power of two, which needs no padding.
    most = 1 << max(_BYTES // max(row, 1), 1).bit_length() - 1
    passes = cohort.epochs if cohort.apart else 1
    ends = np.cumsum(cohort.sizes * passes)
    low = 0
    while low < len(cohort):
        before = ends[low - 1] if low else 0
        high = max(low + 1, int(np.searchsorted(ends, before + most, side="right")))
        yield low, high
        low = high


def _alone(cohort: CohortArrays, low: int, high: int) -> tuple[CohortArrays, Any]:
    """Returns a cohort of the clients in [low, high) alone, and the rows of their examples."""
    sizes = cohort.sizes[low:high]
    lengths = sizes * (cohort.epochs if cohort.apart else 1)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    firsts = cohort.starts[low:high]
    if cohort.rows is None and (firsts[:-1] + lengths[:-1] == firsts[1:]).all():
        rows: Any = slice(int(firsts[0]), int(firsts[0] + starts[-1]))  # consecutive rows
    else:
        positions = np.arange(starts[-1]) + np.repeat(firsts - starts[:-1], lengths)
        rows = positions if cohort.rows is None else cohort.rows[positions]
    alone = dataclasses.replace(cohort, rows=None, starts=starts[:-1], sizes=sizes)
    return alone, rows
