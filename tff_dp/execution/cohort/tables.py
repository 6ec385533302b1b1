"""A cohort's data as tensors and tables, for graphs that hold all of its clients."""

from __future__ import annotations

import collections
import dataclasses
import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tff_dp._arrays import CohortArrays

# Whether a graph of static shapes is wanted for a kind of clients, by what they and all clients train on.
IsRegular = Callable[[Any, int, int], bool]
Limits = tuple[int, int] | None  # the least and the largest of some numbers, where they are known

WIDEST = 64  # clients side by side, at most
_SMALLEST_TABLE = 8
_MANY = 32  # clients that do not have as many batches by chance


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """Some clients of a cohort, for one graph.

    Attributes:
      remainder: Examples in the last batch of an epoch; None where batches are listed one by one.
      full: Full batches in an epoch where all clients have as many; None otherwise.
      columns: Arrays by name, as `groups.clients` takes them.
      count: Clients.
    """

    remainder: int | None
    full: int | None
    columns: dict[str, Any]
    count: int


@dataclasses.dataclass(frozen=True, eq=False)
class Listing:
    """A cohort whose batches have sizes that follow no rule: as data sets may give them.

    Attributes:
      fields: Arrays or tensors [rows, ...].
      first: int64 [clients + 1]: each client's first batch.
      starts: int64 [batches]: rows of their first examples.
      counts: int64 [batches]: their examples.
    """

    fields: Sequence[Any]
    first: np.ndarray
    starts: np.ndarray
    counts: np.ndarray

    def __len__(self) -> int:
        return len(self.first) - 1


def as_listing(cohort: CohortArrays) -> Listing:
    """Returns a table of all batches of a cohort."""
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
    """Returns the cohort in which each client's batches but the last have one size, if it is so."""
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


def listed_table(listing: Listing, positions: np.ndarray) -> Table:
    """Returns the table of clients for a graph that takes batches of any sizes.

    Args:
      listing: Their batches.
      positions: Theirs in the cohort.
    """
    count = len(listing)
    columns = {
        "count": np.int32(count),
        "positions": positions.astype(np.int32),
        "first": listing.first.astype(np.int32),
        "starts": listing.starts.astype(np.int32),
        "counts": listing.counts.astype(np.int32),
    }
    return Table(None, None, columns, count)


def regular_tables(
    cohort: CohortArrays,
    is_regular: IsRegular,
    *,
    by_size: bool,
    offset: int = 0,
) -> Iterator[Table]:
    """Yields tables of clients that graphs of static shapes can hold together, then the others'.

    Args:
      cohort: The cohort.
      is_regular: Whether a graph of static shapes is wanted for a kind of clients.
      by_size: Whether clients of a table have as many full batches each, or only the same remainder.
      offset: The position in the cohort of the first client.
    """
    full, remainder = np.divmod(cohort.sizes, cohort.batch_size)
    label = cohort.sizes if by_size else remainder
    batches = (full + (remainder > 0)) * cohort.epochs
    total = int(batches.sum())
    values, counts = _distinct(label)
    others = []
    for place in np.argsort(-counts, kind="stable"):
        kind = (cohort.batch_size, int(values[place]), cohort.epochs, cohort.apart)
        chosen = np.flatnonzero(label == values[place])
        if not is_regular(kind, int(batches[chosen].sum()), total):
            others.append(chosen)
            continue
        for some in parts(chosen, WIDEST if by_size else 0):
            # One array, not four: each costs a small round as much as its training does.
            clients = np.zeros([1 + roomy_length(len(some), len(some)), 3], np.int32)
            clients[0, 0] = len(some)
            own = clients[1 : 1 + len(some)]
            own[:, 0], own[:, 1], own[:, 2] = some + offset, cohort.starts[some], full[some]
            # Without a loop around its one batch, a small client's training is a tenth faster. Without
            # any full batch there must be no loop: the arrays may have fewer rows than a batch has.
            most, least = full[some].max(), full[some].min()
            known = by_size or most == 0 or (len(some) >= _MANY and most == least == 1)
            yield Table(
                int(remainder[some[0]]),
                int(most) if known else None,
                {"clients": clients},
                len(some),
            )
    if others:
        chosen = np.sort(np.concatenate(others))
        part = dataclasses.replace(cohort, starts=cohort.starts[chosen], sizes=cohort.sizes[chosen])
        yield listed_table(as_listing(part), chosen + offset)


def _distinct(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the values that occur, and how often each does."""
    if len(labels) and (labels == labels[0]).all():  # most cohorts; faster than sorting
        return labels[:1], np.array([len(labels)])
    return np.unique(labels, return_counts=True)


def parts(chosen: np.ndarray, widest: int) -> Iterator[np.ndarray]:
    """Yields positions in numbers of 2^k or multiples of `widest`; all at once if that is 0.

    Each number is a multiple of min(number, `widest`): so many clients run side by side, and all rows
    of them are full.
    """
    begin = 0
    while begin < len(chosen):
        count = rest = len(chosen) - begin
        if widest:
            count = rest // widest * widest or 1 << (rest.bit_length() - 1)
        yield chosen[begin : begin + count]
        begin += count


def padded_length(count: int) -> int:
    """Returns the length to which `padded` fills an array of a length."""
    return max(_SMALLEST_TABLE, 1 << (count - 1).bit_length()) if count else _SMALLEST_TABLE


def roomy_length(count: int, clients: int) -> int:
    """Returns a length for an array of a cohort of which others, drawn likewise, hardly exceed it.

    XLA compiles anew for each length. Under Poisson sampling, the number of clients has the standard
    deviation of its square root.

    Args:
      count: Entries.
      clients: In the cohort.
    """
    return padded_length(count + math.ceil(count * min(1, 4 / math.sqrt(clients or 1))))


def padded(column: np.ndarray, clients: int) -> np.ndarray:
    """Returns an array of a cohort that is filled up with zeros to its `roomy_length`."""
    length = roomy_length(len(column), clients)
    return np.concatenate(
        [column, np.zeros([length - len(column), *column.shape[1:]], column.dtype)]
    )


class Resident:
    """Arrays that were copied to the device, as long as they live and their sizes allow.

    Args:
      limit: Bytes to hold at most.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._held: collections.OrderedDict[int, tuple[Any, tf.Tensor, int]] = (
            collections.OrderedDict()
        )
        self._limits: dict[int, tuple[Any, Limits]] = {}

    def fits(self, arrays: Sequence[Any]) -> bool:
        """Returns whether arrays are small enough to be held together."""
        return sum(array.nbytes for array in arrays if isinstance(array, np.ndarray)) <= self.limit

    def tensor(self, array: Any) -> tf.Tensor:
        """Returns an array's tensor, copied at the first call for it."""
        if not isinstance(array, np.ndarray):
            return tf.convert_to_tensor(array)
        key = id(array)
        held = self._held.get(key)
        if held is not None and held[0]() is array:
            self._held.move_to_end(key)
            return held[1]
        tensor = tf.convert_to_tensor(array)
        reference = weakref.ref(array, lambda _: self._held.pop(key, None))
        self._held[key] = (reference, tensor, array.nbytes)
        while sum(size for _, _, size in self._held.values()) > self.limit and len(self._held) > 1:
            self._held.popitem(last=False)
        return tensor

    def limits(self, array: Any) -> Limits:
        """Returns the least and the largest of an array's whole numbers, looked at once.

        Of those that may be indices or labels, rows of them at most: None for any other array. An array
        that has been changed since is not looked at again, nor is its copy on the device made anew.
        """
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "iu" or array.ndim > 2:
            return None
        key = id(array)
        held = self._limits.get(key)
        if held is None or held[0]() is not array:
            found = (int(array.min()), int(array.max())) if array.size else None
            held = weakref.ref(array, lambda _: self._limits.pop(key, None)), found
            self._limits[key] = held
        return held[1]
