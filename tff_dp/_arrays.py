"""A cohort's examples as arrays: what the data layer hands to the execution layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class CohortArrays:
    """The batches of a cohort's clients, described by positions in arrays that all clients share.

    In each epoch, a client's batches hold `batch_size` examples each; the last batch holds the
    remaining ones. An example is one row of every field.

    Attributes:
      fields: One array [rows, ...] for each field, in the order of a flattened batch. They are
        copied only where that cannot be avoided.
      rows: Integers [positions], the row at each position; None if position p is row p.
      starts: int64 [clients], the position of each client's first example.
      sizes: int64 [clients], the number of each client's examples in one epoch.
      batch_size: Examples in a batch; >= 1.
      epochs: How many times a client passes over its examples; >= 1.
      apart: Whether each epoch has positions of its own, which follow those of the epoch before;
        otherwise all epochs of a client read the same positions.
      names: The names of the fields in a batch, in the same order; empty if they are not known.
    """

    fields: Sequence[Any]
    rows: np.ndarray | None
    starts: np.ndarray
    sizes: np.ndarray
    batch_size: int
    epochs: int
    apart: bool
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.sizes)


def arrays_of(data: Any) -> CohortArrays | None:
    """Returns the arrays behind a cohort.

    Args:
      data: A cohort of any kind; one of `tff_dp.data` has a method `arrays`.

    Returns:
      What `data.arrays()` returns, or None if there is no such method.
    """
    method = getattr(data, "arrays", None)
    return method() if method is not None else None
