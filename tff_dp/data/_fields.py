"""Fields: one array [examples, ...], or a flat dictionary or tuple of arrays for several inputs."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tff_dp.errors import ArgumentError, DataError

Array: TypeAlias = NDArray[Any]
Fields: TypeAlias = Array | dict[str, Array] | tuple[Array, ...]

# Bounds the memory for a pass over an array that may be mapped from a file larger than memory.
CHUNK_BYTES = 1 << 24


def leaves(name: str, fields: Fields) -> Iterator[tuple[str, Array]]:
    """Yields the arrays of fields with their labels.

    Args:
      name: "x" or "y".
      fields: The fields.

    Yields:
      Pairs of a label, such as "x" or "x['age']", and an array.
    """
    if isinstance(fields, dict):
        for key, array in fields.items():
            yield f"{name}[{key!r}]", array
    elif isinstance(fields, tuple):
        for place, array in enumerate(fields):
            yield f"{name}[{place}]", array
    else:
        yield name, fields


def in_order(name: str, fields: Fields) -> list[tuple[str, Array]]:
    """Returns the arrays of fields in the order in which TensorFlow flattens them.

    Args:
      name: "x" or "y".
      fields: The fields.

    Returns:
      What `leaves` yields; of a dictionary, sorted by key.
    """
    return list(leaves(name, dict(sorted(fields.items())) if isinstance(fields, dict) else fields))


def is_several(value: Any) -> bool:
    """Says whether a value is a list or a tuple of arrays, which are several fields, as in Keras.

    Args:
      value: An array-like, or several of them.

    Returns:
      True if all entries are arrays or tensors with at least one dimension. Lists of numbers and lists
      of lists are array-likes.
    """
    return (
        isinstance(value, list | tuple)
        and len(value) > 0
        and all(hasattr(each, "dtype") and len(getattr(each, "shape", ())) > 0 for each in value)
    )


def packed(fields: Fields, arrays: Sequence[Array]) -> Fields:
    """Packs arrays in the structure of fields.

    Args:
      fields: The fields.
      arrays: As many arrays as fields has, in their order.

    Returns:
      The arrays in the same structure.
    """
    if isinstance(fields, dict):
        return dict(zip(fields, arrays, strict=True))
    return tuple(arrays) if isinstance(fields, tuple) else arrays[0]


def apply(function: Callable[[Array], Array], fields: Fields) -> Fields:
    """Applies a function to each array of fields.

    Args:
      function: The function.
      fields: The fields.

    Returns:
      The results, in the same structure.
    """
    if isinstance(fields, dict):
        return {key: function(array) for key, array in fields.items()}
    if isinstance(fields, tuple):
        return tuple(map(function, fields))
    return function(fields)


def row_chunks(array: Array) -> Iterator[slice]:
    """Divides the rows of an array into pieces of about CHUNK_BYTES.

    Args:
      array: The array, [rows, ...].

    Yields:
      Slices that cover the rows, in order.
    """
    row_bytes = max(1, array.nbytes // max(1, len(array)))
    rows = max(1, CHUNK_BYTES // row_bytes)
    for start in range(0, len(array), rows):
        yield slice(start, start + rows)


def checked(name: str, fields: Any) -> Fields:
    """Checks structure and types, and returns read-only views of the same memory.

    Args:
      name: "x" or "y".
      fields: An array [examples, ...], or a mapping of names to such arrays, or several of them.

    Returns:
      Fields that share their memory with the argument.

    Raises:
      DataError: A value is not a numpy array, is a scalar, or has a type that TensorFlow cannot
        hold; or a mapping is empty or nested.
    """
    if isinstance(fields, Mapping):
        _check_keys(name, fields)
        return {key: _view(f"{name}[{key!r}]", array) for key, array in fields.items()}
    if is_several(fields):
        return tuple(_view(f"{name}[{place}]", array) for place, array in enumerate(fields))
    return _view(name, fields)


def converted(name: str, value: Any) -> Fields:
    """Converts array-likes to fields. Floats wider than 32 bits become float32; other types stay.

    Args:
      name: The name in messages, such as "client 'a': x".
      value: An array-like [examples, ...], a mapping of names to array-likes, or a list or tuple of
        arrays.

    Returns:
      Fields of arrays in native byte order, copied only if the conversion changes something.

    Raises:
      DataError: A value is not a regular array, or has a type that TensorFlow cannot hold.
    """
    if isinstance(value, Mapping):
        _check_keys(name, value)
        return {key: convert(f"{name}[{key!r}]", leaf) for key, leaf in value.items()}
    if is_several(value):
        return tuple(convert(f"{name}[{place}]", leaf) for place, leaf in enumerate(value))
    return convert(name, value)


def convert(label: str, value: Any) -> Array:
    """Converts one array-like, as `converted`.

    Args:
      label: The name in messages.
      value: An array-like [examples, ...].

    Returns:
      The array.

    Raises:
      DataError: The value is not a regular array, or has a type that TensorFlow cannot hold.
    """
    array = as_array(label, value)
    # Numbers above the largest float32 become infinite, which the check for finite values reports.
    with np.errstate(over="ignore"):
        array = array.astype(kept_dtype(array.dtype), copy=False)
    _check_array(label, array)
    return array


def as_array(label: str, value: Any) -> Array:
    """Makes an array of an array-like. Objects that are all strings become an array of strings.

    Args:
      label: The name in messages.
      value: An array-like.

    Returns:
      The array; the same object if it is one already.

    Raises:
      DataError: Rows have different lengths, the array is masked, or objects are not strings.
    """
    _refuse_masked(label, value)
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise DataError(
            f"{label} is not a regular array: {error}. Pad its rows to one shape; give several inputs "
            "or outputs as a dictionary of arrays by name."
        ) from None
    return _strings(label, array) if array.dtype == object else array


def kept_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Returns the type in which data are stored.

    Args:
      dtype: The type of the data.

    Returns:
      float32 for wider floats, and otherwise the same type in native byte order.
    """
    if dtype.kind == "f" and dtype.itemsize > 4:
        return np.dtype(np.float32)
    return dtype.newbyteorder("=")


def check_dtype(label: str, dtype: np.dtype[Any]) -> None:
    """Checks that a tf.data.Dataset for Keras can hold a type.

    Args:
      label: The name in messages.
      dtype: The type.

    Raises:
      DataError: The type is not boolean, integer, a float of at most 64 bits, or a string.
    """
    if dtype.kind not in "biuSU" and (dtype.kind != "f" or dtype.itemsize > 8):
        raise DataError(
            f"{label} has dtype {dtype}: expected booleans, integers, floats of at most 64 bits or "
            "strings. Convert it with astype."
        )


def check_apart(argument: str, names: Sequence[Hashable], others: Mapping[str, Hashable]) -> None:
    """Checks that no name of an input occurs twice or also names a column with another use.

    Args:
      argument: The argument that has the names, such as "features".
      names: The columns or fields of x.
      others: Other arguments and the columns that they name, such as {"label": "y"}.

    Raises:
      ArgumentError: A name occurs twice, or also occurs in `others`.
    """
    seen: list[Hashable] = []
    for name in names:
        if name in seen:
            raise ArgumentError(
                f"{argument}={list(names)!r} has {name!r} twice: expected every name once. Remove one "
                "of them."
            )
        seen.append(name)
    for other, taken in others.items():
        if taken in seen:
            raise ArgumentError(
                f"{argument}={list(names)!r} has {taken!r}, which is also {other}={taken!r}: expected "
                "inputs that are neither the label nor the client's id. Remove it from "
                f"{argument}, or copy the column under another name if it is meant to be an input."
            )


def count_examples(x: Fields, y: Fields, where: str = "") -> int:
    """Returns the number of examples, which is the leading dimension of all fields.

    Args:
      x: Inputs.
      y: Targets.
      where: The beginning of messages, such as "client 'a': ".

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
                "Give every field one entry for each example, and several inputs or outputs as a "
                "dictionary or tuple of arrays. A list of arrays is several fields, as in Keras; "
                "np.stack makes one field of it."
            )
    return len(reference)


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
            f"{label} has a string that ends in a zero byte, which numpy would drop. Decode it to "
            "numbers."
        )
    return np.asarray(values, dtype=kind).reshape(array.shape)
