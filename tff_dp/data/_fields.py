"""Fields: one array [examples, ...], or a flat dictionary of such arrays for several inputs."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tff_dp.errors import ArgumentError, DataError

Array: TypeAlias = NDArray[Any]
Fields: TypeAlias = Array | dict[str, Array]

# Bounds the scratch memory of a pass over an array that may lie in a file larger than memory.
CHUNK_BYTES = 1 << 24


def leaves(name: str, fields: Fields) -> Iterator[tuple[str, Array]]:
    """Yields the arrays with their labels, such as "x" or "x['age']"."""
    if isinstance(fields, dict):
        for key, array in fields.items():
            yield f"{name}[{key!r}]", array
    else:
        yield name, fields


def apply(function: Callable[[Array], Array], fields: Fields) -> Fields:
    """Returns fields of the same structure with the function applied to each array."""
    if isinstance(fields, dict):
        return {key: function(array) for key, array in fields.items()}
    return function(fields)


def row_chunks(array: Array) -> Iterator[slice]:
    """Yields slices that cover an array's rows in pieces of about CHUNK_BYTES."""
    row_bytes = max(1, array.nbytes // max(1, len(array)))
    rows = max(1, CHUNK_BYTES // row_bytes)
    for start in range(0, len(array), rows):
        yield slice(start, start + rows)


def checked(name: str, fields: Any) -> Fields:
    """Checks structure and types, and returns read-only views of the same memory.

    Args:
      name: "x" or "y".
      fields: An array [examples, ...], or a mapping of names to such arrays.

    Returns:
      Fields that share their memory with the argument.

    Raises:
      DataError: No numpy array, no dimension, a type that TensorFlow cannot hold, or an empty or
        nested mapping.
    """
    if isinstance(fields, Mapping):
        _check_keys(name, fields)
        return {key: _view(f"{name}[{key!r}]", array) for key, array in fields.items()}
    return _view(name, fields)


def converted(name: str, value: Any) -> Fields:
    """Makes fields of array-likes: 64-bit and wider floats become float32, other types stay.

    Args:
      name: What errors call it, such as "client 'a': x".
      value: An array-like [examples, ...], or a mapping of names to array-likes.

    Returns:
      Fields of arrays in native byte order, copied only where that changes something.

    Raises:
      DataError: A value that is no regular array, or of a type that TensorFlow cannot hold.
    """
    if isinstance(value, Mapping):
        _check_keys(name, value)
        return {key: convert(f"{name}[{key!r}]", leaf) for key, leaf in value.items()}
    return convert(name, value)


def convert(label: str, value: Any) -> Array:
    """Makes one array, as `converted`."""
    array = as_array(label, value)
    with np.errstate(over="ignore"):  # beyond float32 is infinite, which the finite check reports
        array = array.astype(kept_dtype(array.dtype), copy=False)
    _check_array(label, array)
    return array


def as_array(label: str, value: Any) -> Array:
    """Makes an array of an array-like, with strings in place of objects that are all strings.

    Raises:
      DataError: Rows of different lengths, a masked array, or objects that are no strings.
    """
    _refuse_masked(label, value)
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise DataError(
            f"{label} is no regular array: {error}. Pad its rows to one shape; give several inputs or "
            "outputs as a dictionary of arrays by name."
        ) from None
    return _strings(label, array) if array.dtype == object else array


def kept_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Returns the type that data of a type are kept in: float32 for wider floats, native order."""
    if dtype.kind == "f" and dtype.itemsize > 4:
        return np.dtype(np.float32)
    return dtype.newbyteorder("=")


def check_dtype(label: str, dtype: np.dtype[Any]) -> None:
    """Raises DataError for a type that a tf.data.Dataset for Keras cannot hold."""
    if dtype.kind not in "biuSU" and (dtype.kind != "f" or dtype.itemsize > 8):
        raise DataError(
            f"{label} has dtype {dtype}: expected booleans, integers, floats of at most 64 bits or "
            "strings. Convert it with astype."
        )


def check_apart(argument: str, names: Sequence[Hashable], others: Mapping[str, Hashable]) -> None:
    """Checks that no name of an input occurs twice, or is that of a column with another use.

    Args:
      argument: What the names are given as, such as "features".
      names: The columns or fields of x.
      others: Arguments with the columns that they name, such as {"label": "y"}.

    Raises:
      ArgumentError: A name occurs twice, or in `others`.
    """
    seen: list[Hashable] = []
    for name in names:
        if name in seen:
            raise ArgumentError(
                f"{argument}={list(names)!r} has {name!r} twice: expected every name once. Drop one of "
                "them."
            )
        seen.append(name)
    for other, taken in others.items():
        if taken in seen:
            raise ArgumentError(
                f"{argument}={list(names)!r} has {taken!r}, which is {other}={taken!r} as well: expected "
                "inputs that are neither the label nor the client's id. Drop it from "
                f"{argument}, or copy the column under another name if it is meant to be an input."
            )


def count_examples(x: Fields, y: Fields, where: str = "") -> int:
    """Returns the number of examples, the leading dimension that all fields share.

    Args:
      x: Inputs.
      y: Targets.
      where: What errors start with, such as "client 'a': ".

    Returns:
      The number of examples.

    Raises:
      DataError: A field's leading dimension differs from the first field's.
    """
    (first, reference), *others = [*leaves("x", x), *leaves("y", y)]
    for label, array in others:
        if len(array) != len(reference):
            raise DataError(
                f"{where}{label} has {len(array)} examples where {first} has {len(reference)}. "
                "Give every field one entry an example, and several inputs or outputs as a dictionary "
                "of arrays by name."
            )
    return len(reference)


def as_offsets(offsets: Any, examples: int) -> Array:
    """Checks where the clients' examples begin and end.

    Args:
      offsets: Whole numbers [clients + 1].
      examples: The number of examples, which the last of them must be.

    Returns:
      A read-only copy, int64 [clients + 1].

    Raises:
      DataError: Another shape or type, another beginning or end than 0 and `examples`, or a
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


def check_finite(label: str, array: Array, offsets: Array, ids: tuple[str, ...]) -> None:
    """Checks that floats are finite, piece by piece, so that a mapped file stays on disk.

    Args:
      label: The field, such as "x['age']".
      array: [examples, ...].
      offsets: [clients + 1], int64.
      ids: The clients' ids.

    Raises:
      DataError: A NaN or an infinity; names its client, field and index in the client's examples.
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


def _check_keys(name: str, fields: Mapping[Any, Any]) -> None:
    if not fields:
        raise DataError(f"{name} is an empty dictionary: expected at least one named array.")
    for key, value in fields.items():
        if not isinstance(key, str):
            raise DataError(f"{name} has the key {key!r}: expected names that are strings.")
        if isinstance(value, Mapping):
            raise DataError(
                f"{name}[{key!r}] is a dictionary: expected an array. Flatten the names."
            )


def _view(label: str, array: Any) -> Array:
    if not isinstance(array, np.ndarray):
        raise DataError(
            f"{label} is of type {type(array).__name__}: expected a numpy array [examples, ...]. "
            "Use from_arrays, which converts."
        )
    _refuse_masked(label, array)
    _check_array(label, array)
    # A plain view of a memmap: it keeps the file open, and its slices cost less than a memmap's.
    view = array.view(np.ndarray)
    view.flags.writeable = False
    return view


def _refuse_masked(label: str, value: Any) -> None:
    if isinstance(value, np.ma.MaskedArray):
        raise DataError(
            f"{label} is a masked array: its mask would be lost. Fill it with filled()."
        )


def _check_array(label: str, array: Array) -> None:
    check_dtype(label, array.dtype)
    if array.ndim == 0:
        raise DataError(f"{label} is a scalar: expected an array [examples, ...].")


def _strings(label: str, array: Array) -> Array:
    values = array.ravel().tolist()
    kind = next((k for k in (str, bytes) if all(isinstance(v, k) for v in values)), None)
    if kind is None:
        odd = next(v for v in values if not isinstance(v, str))
        raise DataError(
            f"{label} has dtype object, with a {type(odd).__name__} in it: expected numbers, "
            "booleans or strings only. Convert it with astype."
        )
    if any(v.endswith(b"\0" if kind is bytes else "\0") for v in values):
        raise DataError(
            f"{label} has a string that ends in a zero byte, which numpy drops. Decode it to "
            "numbers."
        )
    return np.asarray(values, dtype=kind).reshape(array.shape)
