"""Offsets: the rows of the fields at which the clients' examples begin and end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tff_dp.data._fields import Array, row_chunks
from tff_dp.errors import DataError


def as_offsets(offsets: Any, examples: int) -> Array:
    """Checks the positions at which the clients' examples begin and end.

    Args:
      offsets: Whole numbers [clients + 1].
      examples: The number of examples, which must be the last offset.

    Returns:
      A read-only copy, int64 [clients + 1].

    Raises:
      DataError: The offsets have another shape or type, do not go from 0 to `examples`, or
        decrease.
    """
    given = np.asarray(offsets)
    if given.dtype.kind not in "iu" or given.ndim != 1 or len(given) < 2:
        raise DataError(
            f"offsets has shape {list(given.shape)} and dtype {given.dtype}: expected whole "
            "numbers [clients + 1] of at least one client."
        )
    checked = given.astype(np.int64)  # a copy: what was checked must not change
    if checked[0] != 0 or checked[-1] != examples:
        raise DataError(
            f"offsets goes from {checked[0]} to {checked[-1]}: expected 0 to {examples}, the "
            "number of examples."
        )
    falls = np.flatnonzero(np.diff(checked) < 0)
    if falls.size:
        at = int(falls[0])
        raise DataError(
            f"offsets falls from {checked[at]} to {checked[at + 1]} at client {at}: expected no "
            "decrease."
        )
    checked.flags.writeable = False
    return checked


def check_finite(label: str, array: Array, offsets: Array, ids: Sequence[str]) -> None:
    """Checks that floats are finite, piece by piece, so that a mapped file stays on disk.

    Args:
      label: The label of the field, such as "x['age']".
      array: The field, [examples, ...].
      offsets: The clients' offsets, int64 [clients + 1].
      ids: The clients' ids.

    Raises:
      DataError: There is a NaN or an infinity. The message names the client, the field and the
        index within the client's examples.
    """
    if array.dtype.kind != "f":
        return
    for rows in row_chunks(array):
        finite = np.isfinite(array[rows])
        if finite.all():
            continue
        row, *inner = (int(i) for i in np.argwhere(~finite)[0])
        value = array[rows][(row, *inner)]
        row += rows.start
        # The last client that starts at or before the row: empty ones that start there are skipped.
        client = int(np.searchsorted(offsets, row, side="right")) - 1
        raise DataError(
            f"client {ids[client]!r}: {label} is {value} at index "
            f"{[row - int(offsets[client]), *inner]} of its examples: expected a finite number (as "
            "float32, at most 3.4e38). Drop or impute it, or pass allow_nonfinite=True."
        )
