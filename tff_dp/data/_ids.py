"""Client ids: unique strings, in the order of the clients."""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tff_dp.data._fields import Array
from tff_dp.errors import DataError


def as_id(value: Any) -> str:
    """Converts an id to a string.

    Args:
      value: A string or a whole number.

    Returns:
      The id.

    Raises:
      DataError: The value is neither a string nor a whole number.
    """
    if isinstance(value, bool) or not isinstance(value, str | numbers.Integral):
        raise DataError(f"ids has {value!r}: expected strings or whole numbers. Convert it to str.")
    return str(value)


def as_ids(ids: Iterable[Any], count: int) -> tuple[str, ...]:
    """Checks client ids.

    Args:
      ids: One string or whole number for each client.
      count: The number of clients.

    Returns:
      The ids as strings.

    Raises:
      DataError: The number of ids is not that of the clients, an id has another type, or an id
        occurs twice (1 and "1" are the same id).
    """
    if isinstance(ids, str):
        raise DataError(f"ids={ids!r} is one string: expected a sequence of ids. Pass a list.")
    named = tuple(value if type(value) is str else as_id(value) for value in ids)
    if len(named) != count:
        raise DataError(
            f"ids has {len(named)} entries where offsets has {count} clients. Give one id for each "
            "client."
        )
    if len(set(named)) == count:
        return named
    seen: set[str] = set()
    for name in named:
        if name in seen:
            break
        seen.add(name)
    raise DataError(f"ids has {name!r} twice: expected unique ids. Rename or merge the clients.")


class Numbers(Sequence[str]):
    """The ids "0", "1", ..., each made when it is read: millions of strings take a gigabyte.

    Args:
      count: The number of clients.
    """

    def __init__(self, count: int) -> None:
        self._numbers = range(count)

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, position: Any) -> Any:
        """Returns the id at a position, or a tuple of ids for a slice."""
        found = self._numbers[position]
        return tuple(map(str, found)) if isinstance(found, range) else str(found)

    def position(self, name: str) -> int | None:
        """Looks up the position of an id.

        Args:
          name: The id.

        Returns:
          The position, or None if there is no such id.
        """
        # int() reads other forms of a number as well, such as "007", and refuses very long ones.
        if len(name) > len(str(len(self))) or not (name.isascii() and name.isdigit()):
            return None
        number = int(name)
        return number if number < len(self) and str(number) == name else None


def group(label: str, column: Any) -> tuple[tuple[str, ...], Array, Array]:
    """Groups examples by the client ids in a column.

    Args:
      label: The name of the column in messages.
      column: The id of each example's client, [examples], of any printable type: strings, numbers,
        dates.

    Returns:
      The ids, sorted as strings; the rows in the order of their clients, int64 [examples], where
      the rows of one client keep their order; and the offsets, int64 [clients + 1].

    Raises:
      DataError: The column does not have one dimension, has no entries, or has a missing or
        unreadable entry.
    """
    values = np.asarray(column)
    if values.ndim != 1 or len(values) == 0:
        raise DataError(
            f"{label} has shape {list(values.shape)}: expected [examples], at least one. Give one "
            "client id for each example."
        )
    _check_present(label, values)
    if values.dtype == object:
        values = np.asarray([_text(label, value) for value in values.tolist()])
    distinct, codes = np.unique(values, return_inverse=True)
    # Sorted as text, where 10 precedes 9, so that the order does not depend on the column's type.
    ids, places = np.unique([_text(label, value) for value in distinct], return_inverse=True)
    codes = places[codes]
    offsets = np.zeros(len(ids) + 1, np.int64)
    np.cumsum(np.bincount(codes, minlength=len(ids)), out=offsets[1:])
    return tuple(ids.tolist()), np.argsort(codes, kind="stable"), offsets


def _check_present(label: str, values: Array) -> None:
    if values.dtype.kind == "f":
        missing = np.isnan(values)
    elif values.dtype.kind in "mM":
        missing = np.isnat(values)
    elif values.dtype == object:
        missing = np.asarray([_is_missing(value) for value in values.tolist()])
    else:
        return
    if missing.any():
        raise DataError(
            f"{label} has no client id in row {int(np.argmax(missing))}: expected one in every "
            "row. Drop the row or name its client."
        )


def _is_missing(value: Any) -> bool:
    # NaN and NaT differ from themselves; a comparison with pandas' NA is neither true nor false.
    if value is None:
        return True
    try:
        return bool(value != value)
    except TypeError:
        return True


def _text(label: str, value: Any) -> str:
    if not isinstance(value, bytes):
        return str(value)
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise DataError(f"{label} has {value!r}: expected UTF-8. Rename the client.") from None
