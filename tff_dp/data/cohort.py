"""The data of some clients for one round: a sequence of data sets that are made only when read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tff_dp._arrays import CohortArrays
from tff_dp.data import _fields
from tff_dp.data._fields import Array, Fields

_MOST_SIZES = 16  # passes for each distinct size, from which passes of one size are sorted together


class Cohort(Sequence[Any]):
    """The data of a round's clients, from `Clients.cohort`.

    It behaves like a list with one `tf.data.Dataset` for each client when its entries are read, as
    stock TFF does. `tff_dp.execution.fast` uses the arrays behind it instead, and makes no data
    set.

    Args:
      x: Inputs of all clients, [examples, ...], or a dictionary of such arrays.
      y: Targets, in the same form.
      starts: The row of each client's first example, int64 [clients].
      sizes: The number of each client's examples, int64 [clients].
      batch_size: Examples in a batch; >= 1.
      epochs: The number of times that each example occurs; >= 1.
      rng: The generator from which the order of each client's epoch is drawn; None for no
        shuffling.
    """

    __slots__ = ("_arrays", "_x", "_y")

    def __new__(cls, *arguments: Any, **named: Any) -> Any:
        """Makes a cohort, or a list if a sequence is the only argument.

        Stock TFF maps a function over a sequence by calling the type of the sequence with the
        mapped entries.
        """
        if len(arguments) == 1 and not named:
            return list(arguments[0])
        return super().__new__(cls)

    def __init__(
        self,
        x: Fields,
        y: Fields,
        starts: Array,
        sizes: Array,
        *,
        batch_size: int,
        epochs: int,
        rng: np.random.Generator | None,
    ) -> None:
        self._x, self._y = x, y
        rows = None
        if rng is not None:
            rows = _shuffled(starts, sizes, epochs, rng)
            starts = np.concatenate([[0], np.cumsum(sizes * epochs)])[:-1]
        named = [*_fields.in_order("x", x), *_fields.in_order("y", y)]
        self._arrays = CohortArrays(
            [array for _, array in named],
            rows,
            starts,
            sizes,
            batch_size,
            epochs,
            apart=rng is not None,
            names=tuple(name for name, _ in named),
        )

    def arrays(self) -> CohortArrays:
        """Returns the cohort as positions in arrays that all clients share."""
        return self._arrays

    def __len__(self) -> int:
        return len(self._arrays)

    def __getitem__(self, position: Any) -> Any:
        """Returns the data set of the client at a position of the cohort, or a list for a slice."""
        if isinstance(position, slice):
            return [self[i] for i in range(*position.indices(len(self)))]
        position = range(len(self))[position]
        import tensorflow as tf  # here: clients can be made, and accounted for, without it

        arrays = self._arrays
        start, size = int(arrays.starts[position]), int(arrays.sizes[position])

        def batched(rows: Any) -> Any:
            x, y = (_fields.apply(lambda a: a[rows], part) for part in (self._x, self._y))
            return tf.data.Dataset.from_tensor_slices((x, y)).batch(arrays.batch_size)

        if arrays.rows is None:
            return batched(slice(start, start + size)).repeat(arrays.epochs)
        orders = arrays.rows[start : start + size * arrays.epochs].reshape(arrays.epochs, size)

        def joined(orders: Array) -> Any:
            # Joined as a balanced tree: a chain of data sets would take time quadratic in the
            # epochs.
            half = len(orders) // 2
            if not half:
                return batched(orders[0])
            return joined(orders[:half]).concatenate(joined(orders[half:]))

        return joined(orders)

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        a = self._arrays
        shuffled = "" if a.rows is None else ", shuffled"
        return (
            f"Cohort({len(self)} clients, batches of {a.batch_size}, {a.epochs} epochs{shuffled})"
        )


def _shuffled(starts: Array, sizes: Array, epochs: int, rng: np.random.Generator) -> Array:
    """Returns the rows of all clients, with a random order for each client and epoch."""
    passes = np.repeat(sizes, epochs)
    ends = np.cumsum(passes)
    begins, total = ends - passes, int(ends[-1]) if len(ends) else 0
    first_rows = np.repeat(starts, epochs)
    # Sorting by a random number within each pass permutes it uniformly (ties: probability 2^-53 each).
    numbers = rng.random(total)
    values, counts = np.unique(passes, return_counts=True)
    if _MOST_SIZES * len(values) >= len(passes):
        pass_of = np.repeat(np.arange(len(passes)), passes)
        rows = np.arange(total) + np.repeat(first_rows - begins, passes)
        shuffled: Array = rows[np.lexsort((numbers, pass_of))]
        return shuffled
    # The same order, as stable sorts of many short rows: one long sort takes several times as long.
    shuffled = np.empty(total, np.int64)
    by_size = np.split(np.argsort(passes, kind="stable"), np.cumsum(counts)[:-1])
    for size, same in zip(values.tolist(), by_size, strict=True):
        places = begins[same, None] + np.arange(size)
        order = np.argsort(numbers[places], axis=1, kind="stable")
        shuffled[places] = first_rows[same, None] + order
    return shuffled
