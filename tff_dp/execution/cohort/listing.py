"""Cohorts whose batches are listed one by one, and how they relate to those of regular batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from tff_dp._arrays import CohortArrays


@dataclasses.dataclass(frozen=True, eq=False)
class Listing:
    """A cohort whose batches may have any sizes, as data sets may give them.

    Attributes:
      fields: Arrays or tensors [rows, ...].
      first: int64 [clients + 1]: the number of each client's first batch, and of all batches.
      starts: int64 [batches]: rows of their first examples.
      counts: int64 [batches]: their numbers of examples.
    """

    fields: Sequence[Any]
    first: np.ndarray
    starts: np.ndarray
    counts: np.ndarray

    def __len__(self) -> int:
        return len(self.first) - 1


def as_listing(cohort: CohortArrays) -> Listing:
    """Returns the list of all batches of a cohort.

    Args:
      cohort: The cohort. Its positions become the rows of the list.
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
    """Returns the cohort in which all of a client's batches but the last have the same size.

    Args:
      listing: All batches.

    Returns:
      The cohort, with one epoch; None if some client's batches are not so.
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
