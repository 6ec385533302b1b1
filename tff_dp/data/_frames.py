"""Reads a pandas DataFrame through its methods only, without importing pandas."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence, Set
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from tff_dp.data import _fields, _ids
from tff_dp.data._fields import Array
from tff_dp.errors import ArgumentError, DataError


def read(
    frame: Any,
    client: Hashable,
    features: Sequence[Hashable],
    label: Hashable,
    dtype: DTypeLike,
    label_dtype: DTypeLike | None,
) -> tuple[Array, Array, tuple[str, ...], Array, Array]:
    """Reads the columns of a frame.

    Args:
      frame: As for `sources.from_frame`.
      client: As for `sources.from_frame`.
      features: As for `sources.from_frame`.
      label: As for `sources.from_frame`.
      dtype: As for `sources.from_frame`.
      label_dtype: As for `sources.from_frame`.

    Returns:
      x [examples, features] and y [examples], in the order of the frame; and the clients' ids, the
      rows in the order of their clients, and the offsets, as `_ids.group` returns them.

    Raises:
      ArgumentError: As `sources.from_frame`.
      DataError: As `sources.from_frame`.
    """
    if not hasattr(frame, "columns"):
        raise DataError(f"frame is a {type(frame).__name__}: expected a pandas DataFrame.")
    columns = _columns(features)
    _fields.check_apart("features", columns, {"client": client, "label": label})
    if client == label:
        raise ArgumentError(
            f"label={label!r} is also the column of the client ids: expected another column. To predict "
            "the client, copy the column under another name."
        )
    for name, column in [("client", client), ("label", label), *(("features", c) for c in columns)]:
        _check_column(frame, name, column)
    if len(frame) == 0:
        raise DataError("frame has no rows: expected at least one. Check how they were selected.")
    ids, order, offsets = _ids.group(f"column {client!r}", frame[client].to_numpy())

    def client_of(row: int) -> str:
        place = int(np.flatnonzero(order == row)[0])
        return ids[int(np.searchsorted(offsets, place, side="right")) - 1]

    x = np.empty((len(frame), len(columns)), _dtype("dtype", dtype, "biuf"))
    for place, column in enumerate(columns):
        x[:, place] = _values(frame[column], column, x.dtype, client_of)
    kind = None if label_dtype is None else _dtype("label_dtype", label_dtype, "biufSU")
    return x, _values(frame[label], label, kind, client_of), ids, order, offsets


def _columns(features: Any) -> list[Hashable]:
    if isinstance(features, str):
        raise ArgumentError(
            f"features={features!r} is one string: expected a list. Pass [{features!r}]."
        )
    try:
        columns = list(features)
    except TypeError:
        raise ArgumentError(
            f"features={features!r} is not a list: expected the names of columns."
        ) from None
    if isinstance(features, Set):
        raise ArgumentError(
            f"features={features!r} has no order: expected a list, in the order of the columns of x. "
            f"Pass {sorted(map(str, columns))!r}."
        )
    if not columns:
        raise ArgumentError("features is empty: expected at least one column. Name the inputs.")
    return columns


def _check_column(frame: Any, name: str, column: Hashable) -> None:
    known = list(frame.columns)
    if column not in known:
        choices = ", ".join(repr(choice) for choice in known)
        raise ArgumentError(
            f"{name}={column!r} is not a column of the frame: expected one of {choices}."
        )
    if known.count(column) > 1:
        raise ArgumentError(
            f"{name}={column!r} names {known.count(column)} columns of the frame: expected one. "
            "Rename them."
        )


def _dtype(name: str, dtype: DTypeLike, kinds: str) -> np.dtype[Any]:
    try:
        checked = np.dtype(dtype)
    except TypeError as error:
        raise ArgumentError(f"{name}={dtype!r} is not a numpy dtype: {error}.") from None
    _fields.check_dtype(name, checked)
    if checked.kind not in kinds:
        raise ArgumentError(
            f"{name}={dtype!r}: expected a number or bool. Encode strings as numbers."
        )
    return checked


def _values(
    series: Any, column: Hashable, dtype: np.dtype[Any] | None, client_of: Callable[[int], str]
) -> Array:
    """Returns a column as an array [examples] of a type; of the column's own type if None."""
    missing = series.isna().to_numpy()
    if missing.any():
        row = int(np.argmax(missing))
        raise DataError(
            f"client {client_of(row)!r}: column {column!r} is missing in row {row}: expected a "
            "value. Drop the row or impute it."
        )
    given = series.to_numpy()
    if dtype is None:
        return _fields.convert(f"column {column!r}", given)
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # a later check reports infinities
            values: Array = np.asarray(given).astype(dtype)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"column {column!r} does not fit {dtype}: {error}. Encode it first."
        ) from None
    if dtype.kind in "biu":  # casts to these types truncate and wrap around silently
        changed = np.asarray(values != given)
        if changed.any():
            row = int(np.argmax(changed))
            raise DataError(
                f"client {client_of(row)!r}: column {column!r} is {given[row]!r} in row {row}, "
                f"which does not fit {dtype}. Choose a wider type or encode the column."
            )
    return values
