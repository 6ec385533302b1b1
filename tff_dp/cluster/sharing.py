"""Client data by reference: in which file, or in which shards of the object store, an array is."""

from __future__ import annotations

import itertools
import mmap
import os
import pathlib
import uuid
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tff_dp.cluster.messages import Array, Field, Mapped, Stored
from tff_dp.cluster.worker import fingerprint

_SHARD_BYTES = 1 << 26
_SAMPLED_ROWS = 64
_LEAST_MAPPED = 1 << 16  # bytes; smaller arrays are not worth a look at the file


class Shared:
    """Arrays that workers read themselves, each put where they find it once.

    An array that is mapped from a file, read-only, is named by the file. Any other array is put into
    the object store in shards of consecutive rows, when a block first needs rows of a shard, and stays
    there while the array exists.

    Args:
      put: Puts an array into the object store, and returns the reference.
    """

    def __init__(self, put: Callable[[Array], Any]) -> None:
        self._put = put
        self._known: dict[int, tuple[Any, _Known]] = {}
        self._numbers = itertools.count()
        self._prefix = uuid.uuid4().hex

    def key(self) -> str:
        """Returns a key that no other process or call returns."""
        return f"{self._prefix}-{next(self._numbers)}"

    def keys(self) -> tuple[str, ...]:
        """Returns the keys of the arrays that are known and exist."""
        return tuple(known.key for _, known in list(self._known.values()))

    def whole(self, array: Array, shards: list[Any]) -> Field:
        """Names all rows of an array that rounds have in common.

        Args:
          array: The array.
          shards: The references that are passed with the block, to which those of the array are added.

        Returns:
          The field.
        """
        known = self._of(array)
        place = known.place or known.stored(self._put, 0, len(array), shards)
        return Field(known.key, place)

    def rows(self, array: Array, rows: Any, length: int, shards: list[Any]) -> Field:
        """Names some rows of an array that rounds have in common.

        Args:
          array: The array.
          rows: The rows, a slice of consecutive ones or an array of numbers.
          length: The number of rows to which they are padded with zeros.
          shards: As for `whole`.

        Returns:
          The field.
        """
        known = self._of(array)
        if isinstance(rows, slice):
            first, last, kept = rows.start, rows.stop, (rows.start, rows.stop)
        else:
            first, last = (int(rows.min()), int(rows.max()) + 1) if len(rows) else (0, 0)
            kept = rows
        place = known.place or known.stored(self._put, first, last, shards, rows)
        return Field(known.key, place, kept, length)

    def once(self, array: Array, shards: list[Any]) -> Field:
        """Puts an array that serves one block alone.

        Args:
          array: The array.
          shards: As for `whole`.

        Returns:
          The field.
        """
        place = Stored(array.shape, array.dtype.str, (0,), (len(array),), len(shards))
        shards.append(self._put(array))
        return Field(None, place)

    def _of(self, array: Array) -> _Known:
        key = id(array)
        held = self._known.get(key)
        if held is None or held[0]() is not array:
            reference = weakref.ref(array, lambda _: self._known.pop(key, None))
            held = self._known[key] = reference, _Known(array, self.key())
        return held[1]


class _Known:
    """What is known of an array.

    Attributes:
      key: Of the array.
      place: The file that it is mapped from; None if there is none.
    """

    def __init__(self, array: Array, key: str) -> None:
        self.key = key
        self.place = mapped(array)
        self._array = weakref.ref(array)
        bytes_of_row = max(array.nbytes // max(len(array), 1), 1)
        self._rows = max(_SHARD_BYTES // bytes_of_row, 1)
        self._references: dict[int, Any] = {}

    def stored(
        self,
        put: Callable[[Array], Any],
        first: int,
        last: int,
        shards: list[Any],
        rows: Any = None,
    ) -> Stored:
        """Returns the shards that hold some rows, which are put into the object store if need be.

        Args:
          put: As for `Shared`.
          first: The first row.
          last: The row after the last one.
          shards: As for `Shared.whole`.
          rows: The numbers of the rows, if they are not all of those between; None or a slice if so.
        """
        array = self._array()
        assert array is not None  # whoever calls this holds it
        numbers: Sequence[int] = range(first // self._rows, max(-(-last // self._rows), 1))
        if isinstance(rows, np.ndarray) and len(rows):
            numbers = np.unique(rows // self._rows).tolist()
        begins = [number * self._rows for number in numbers]
        ends = [min(begin + self._rows, len(array)) for begin in begins]
        place = Stored(array.shape, array.dtype.str, tuple(begins), tuple(ends), len(shards))
        for number, begin, end in zip(numbers, begins, ends, strict=True):
            if number not in self._references:
                self._references[number] = put(array[begin:end])
            shards.append(self._references[number])
        return place


def mapped(array: Array) -> Mapped | None:
    """Finds the file that an array is mapped from.

    Args:
      array: Any array.

    Returns:
      The place in the file; None if the array is in memory, is not contiguous, may differ from the
      file (it is not mapped read-only), or the file has no name, or another file has the name by now.
    """
    if array.nbytes < _LEAST_MAPPED or not array.flags.c_contiguous or array.dtype.hasobject:
        return None
    owner: Any = array
    memmap: Any = None
    while owner is not None and not isinstance(owner, mmap.mmap):
        memmap = owner if isinstance(owner, np.memmap) else memmap
        owner = owner.base if isinstance(owner, np.ndarray) else None
    if owner is None or memmap is None or memmap.mode != "r" or memmap.filename is None:
        return None
    path = os.path.realpath(memmap.filename)
    try:
        digest = fingerprint(path)
    except OSError:
        return None
    # A slice of a mapped array keeps the offset of the whole: where it is follows from its memory.
    start = np.frombuffer(owner, np.uint8).ctypes.data
    if _is_replaced(path, start):
        return None
    page = memmap.offset - memmap.offset % mmap.ALLOCATIONGRANULARITY
    offset = page + array.ctypes.data - start
    place = Mapped(path, offset, array.shape, array.dtype.str, digest)
    try:  # the name may be that of another file by now
        same = np.memmap(path, place.dtype, "r", offset, array.shape)
    except (OSError, ValueError):
        return None
    some = np.unique(np.linspace(0, len(array) - 1, _SAMPLED_ROWS).astype(np.int64))
    return place if same[some].tobytes() == array[some].tobytes() else None


def _is_replaced(path: str, address: int) -> bool:
    """Returns whether memory is known to be mapped from another file than the one with a name now.

    A file that was written anew under its name may have most of the old content.

    Args:
      path: The name.
      address: Of the memory.
    """
    try:
        mappings = pathlib.Path("/proc/self/maps").read_text(errors="replace").splitlines()
        inode = pathlib.Path(path).stat().st_ino
    except OSError:  # not Linux, or the file is gone, which opening it will tell
        return False
    for mapping in mappings:
        addresses, _, _, _, number = mapping.split(maxsplit=5)[:5]
        begin, end = (int(bound, 16) for bound in addresses.split("-"))
        if begin <= address < end:
            return int(number) != inode
    return False
