"""Joins and reorders arrays: in memory, or in unnamed temporary files if they are large.

The files are in Python's temporary folder (`tempfile.gettempdir()`, which TMPDIR sets) and
disappear with the last array that uses them.
"""

from __future__ import annotations

import contextlib
import tempfile
from typing import IO, Any, Self

import numpy as np

from tff_dp.data import _fields
from tff_dp.data._fields import Array, Fields
from tff_dp.errors import DataError


def take(
    x: Fields, y: Fields, rows: Array, *, map_above: int, convert: bool
) -> tuple[Fields, Fields]:
    """Copies rows of all fields, piece by piece, so that a mapped file is never in memory as a whole.

    Args:
      x: Inputs.
      y: Targets.
      rows: Rows to copy, in their new order, int64 [rows].
      map_above: If the copies have more bytes in total, they go into temporary files.
      convert: Whether floats wider than 32 bits become float32.

    Returns:
      The copies of x and y.
    """
    arrays = [
        array for name, part in (("x", x), ("y", y)) for _, array in _fields.leaves(name, part)
    ]
    row_bytes = sum(array.nbytes // max(1, len(array)) for array in arrays)
    mapped = row_bytes * len(rows) > map_above

    def copy(array: Array) -> Array:
        dtype = _fields.kept_dtype(array.dtype) if convert else array.dtype
        copied = _allocate((len(rows), *array.shape[1:]), dtype, mapped=mapped)
        with np.errstate(over="ignore"):  # as in _fields.convert
            for piece in _fields.row_chunks(copied):
                copied[piece] = array[rows[piece]]
        return copied

    return _fields.apply(copy, x), _fields.apply(copy, y)


def _allocate(shape: tuple[int, ...], dtype: np.dtype[Any], *, mapped: bool) -> Array:
    if not mapped or 0 in shape or dtype.itemsize == 0:  # an empty file cannot be mapped
        return np.empty(shape, dtype)
    with tempfile.TemporaryFile() as file:  # the mapping outlives the file's name and descriptor
        return np.memmap(file, dtype=dtype, mode="w+", shape=shape)


class Builder:
    """Joins clients one at a time, with little more than `map_above` bytes in memory.

    It is a context manager, which closes the files. The arrays that `finish` returns outlive it.

    Args:
      map_above: When more bytes than this have been added in total, all of them, and whatever
        follows, go into temporary files. Strings stay in memory, since their width may still grow.
    """

    def __init__(self, map_above: int) -> None:
        self._map_above = map_above
        self._files = contextlib.ExitStack()
        self._bytes = 0
        self._offsets = [0]
        self._columns: dict[str, _Column] = {}
        self._example: tuple[Fields, Fields] | None = None  # fields without rows: names and types

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._files.close()

    def append(self, client: str, x: Fields, y: Fields) -> None:
        """Adds a client.

        The fields of an empty client are not compared with those of others, since it has no
        examples.

        Args:
          client: The client's id, for messages.
          x: Inputs, [examples, ...].
          y: Targets, [examples, ...].

        Raises:
          DataError: x and y differ in length; or the fields, the shape of an example or a type
            differ from those of earlier clients.
        """
        size = _fields.count_examples(x, y, where=f"client {client!r}: ")
        if size and self._columns and self._example:
            self._check(client, x, y, self._example)
        elif size or self._example is None:  # taken from the first client with examples, if any
            self._example = (_fields.apply(_no_rows, x), _fields.apply(_no_rows, y))
        self._offsets.append(self._offsets[-1] + size)
        if size == 0:
            return
        for label, array in _labeled(x, y).items():
            self._columns.setdefault(label, _Column()).append(array)
            self._bytes += array.nbytes
        if self._bytes > self._map_above:
            for column in self._columns.values():
                column.spill(self._files)

    def finish(self) -> tuple[Fields, Fields, Array]:
        """Returns x, y and the offsets, int64 [clients + 1]. The builder cannot be used afterwards.

        Raises:
          DataError: No client was added.
        """
        if self._example is None:
            raise DataError("clients is empty: expected at least one client.")
        joined = {label: column.finish() for label, column in self._columns.items()}
        x, y = (
            self._joined(name, part, joined) for name, part in zip("xy", self._example, strict=True)
        )
        return x, y, np.asarray(self._offsets, np.int64)

    @staticmethod
    def _joined(name: str, example: Fields, joined: dict[str, Array]) -> Fields:
        arrays = [joined.get(label, empty) for label, empty in _fields.leaves(name, example)]
        return _fields.packed(example, arrays)

    @staticmethod
    def _check(client: str, x: Fields, y: Fields, example: tuple[Fields, Fields]) -> None:
        others = _labeled(*example)
        mine = _labeled(x, y)
        if mine.keys() != others.keys():
            raise DataError(
                f"client {client!r} has the fields {', '.join(mine)} where the clients before it "
                f"have {', '.join(others)}. Give every client the same fields."
            )
        for label, array in mine.items():
            if _signature(array) != _signature(others[label]):
                raise DataError(
                    f"client {client!r}: {label} has {_signature(array)} for each example where the "
                    f"clients before it have {_signature(others[label])}. Give every client one "
                    "shape and dtype."
                )


class _Column:
    """The parts of one field: in a list, or in a file."""

    def __init__(self) -> None:
        self._parts: list[Array] = []
        self._file: IO[bytes] | None = None
        self._rows = 0

    def append(self, part: Array) -> None:
        self._parts.append(part)
        self._rows += len(part)

    def spill(self, files: contextlib.ExitStack) -> None:
        last = self._parts[-1]
        if last.dtype.kind in "SU" or 0 in last.shape:  # an empty file cannot be mapped
            return
        if self._file is None:
            self._file = files.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        for part in self._parts:
            for piece in _fields.row_chunks(part):
                self._file.write(np.ascontiguousarray(part[piece]).data)
        self._parts = [_no_rows(last)]

    def finish(self) -> Array:
        if self._file is None:
            return np.concatenate(self._parts)
        self._file.flush()
        example = self._parts[0]  # without rows: above the bound, every client is written at once
        shape = (self._rows, *example.shape[1:])
        return np.memmap(self._file, dtype=example.dtype, mode="r", shape=shape)


def _no_rows(array: Array) -> Array:
    return np.empty((0, *array.shape[1:]), array.dtype)  # a view would keep the client's data alive


def _labeled(x: Fields, y: Fields) -> dict[str, Array]:
    return dict([*_fields.leaves("x", x), *_fields.leaves("y", y)])


def _signature(array: Array) -> str:
    # Strings of different widths can be joined; bytes and text cannot.
    dtype = {"S": "bytes", "U": "str"}.get(array.dtype.kind, str(array.dtype))
    return f"shape {list(array.shape[1:])} and dtype {dtype}"
