"""Cohorts whose batches are listed one by one, and conversions from and to regular batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from tff_dp._arrays import CohortArrays


@dataclasses.dataclass(frozen=True, eq=False)
class Listing:
    """A cohort whose batches may have any sizes, such as those of data sets.

    Attributes:
      fields: An array or tensor [rows, ...] for each field.
      first: The number of each client's first batch, then the number of all batches, int64
        [clients + 1].
      starts: The row of the first example of each batch, int64 [batches].
      counts: The number of examples in each batch, int64 [batches].
    """

    fields: Sequence[Any]
    first: np.ndarray
    starts: np.ndarray
    counts: np.ndarray

    def __len__(self) -> int:
        return len(self.first) - 1


def as_listing(cohort: CohortArrays) -> Listing:
    """Lists all batches of a cohort.

    Args:
      cohort: The cohort.

    Returns:
      The list of batches, client by client and epoch by epoch. Its `starts` are positions of the
      cohort, which are rows only if the cohort has no `rows`.
    """
    sizes, batch_size = cohort.sizes, cohort.batch_size
    in_epoch = -(-sizes // batch_size)
    batches = in_epoch * cohort.epochs
    first = np.concatenate([[0], np.cumsum(batches)])
    number = np.arange(first[-1]) - np.repeat(first[:-1], batches)
    each = np.repeat(np.maximum(in_epoch, 1), batches)
    epoch, place = number // each, number % each * batch_size
    all_sizes = np.repeat(sizes, batches)
    starts = np.repeat(cohort.starts, batches) + place
    if cohort.apart:
        starts = starts + epoch * all_sizes
    return Listing(cohort.fields, first, starts, np.minimum(batch_size, all_sizes - place))


def as_regular(listing: Listing) -> CohortArrays | None:
    """Returns a listed cohort as one of regular batches, if it is regular.

    It is regular if all batches have the same size, except that the last one of a client may be
    smaller.

    Args:
      listing: The list of batches, whose examples follow each other without gaps.

    Returns:
      The cohort, with one epoch; None if the batches are not regular.
    """
    counts, ends = listing.counts, listing.first[1:]
    has_batches = np.diff(listing.first) > 0
    batch_size = int(counts.max()) if len(counts) else 1
    is_last = np.zeros(len(counts), bool)
    is_last[ends[has_batches] - 1] = True
    if (counts[~is_last] != batch_size).any():
        return None
    total = np.concatenate([[0], np.cumsum(counts)])
    sizes = np.diff(total[listing.first])
    starts = total[listing.first[:-1]]
    return CohortArrays(listing.fields, None, starts, sizes, batch_size, 1, False)
