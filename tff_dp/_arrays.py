"""A cohort's examples as arrays: what the data layer gives and the execution layer takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class CohortArrays:
    """The batches of a cohort's clients, described by positions in arrays that are shared.

    In each epoch, a client's batches hold `batch_size` examples each, and the last one the rest. An
    example is a row of every field.

    Attributes:
      fields: Arrays [rows, ...] in the flattened order of a batch. Not copied where it can be helped.
      rows: Whole numbers [positions]: the row at each position; None where position p is row p.
      starts: int64 [clients]: the position of each client's first example.
      sizes: int64 [clients]: each client's examples in an epoch.
      batch_size: Examples in a batch.
      epochs: How often a client passes over its examples.
      apart: Whether an epoch's positions follow the last epoch's; otherwise they are the same.
      names: The fields' names in a batch, in their order; empty where they are not told.
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
    """Returns the arrays behind a cohort, if it has a method `arrays` that gives them."""
    method = getattr(data, "arrays", None)
    return method() if method is not None else None
