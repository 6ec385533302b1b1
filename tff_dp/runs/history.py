"""The history of a run on the disk: one line of JSON for each record.

Lines are appended, and are on the disk before the checkpoint that counts them. A checkpoint names
the number of its records and the hash of their lines, so that whatever follows them in the file, of
rounds whose state was never saved, is recognized and dropped.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tff_dp import _disk
from tff_dp.errors import RunFolderError

START = hashlib.sha256().hexdigest()  # of no lines
_SPECIAL = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}


class History:
    """The file of a history, open for appending.

    Args:
      path: The path of the file, which is made if there is none.
      records: The number of records to keep; lines after them are dropped.

    Attributes:
      records: The number of records in the file.

    Raises:
      RunFolderError: The file has fewer records.
      OSError: The file cannot be read or written.
    """

    def __init__(self, path: pathlib.Path, records: int = 0) -> None:
        self._path = path
        found = read_lines(path)
        if len(found) < records:
            raise RunFolderError(f"{path} has {len(found)} records: expected at least {records}.")
        self._size = sum(map(len, found[:records]))
        if not path.exists() or path.stat().st_size != self._size:
            _disk.replace(path, *found[:records])
        self.records = records
        self._hashed = hashlib.sha256(b"".join(found[:records]))

    @property
    def sha256(self) -> str:
        """The hash of the lines of all records."""
        return self._hashed.hexdigest()

    def append(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Appends records. When this returns, they are on the disk.

        Args:
          records: The fields of each record.

        Raises:
          OSError: They could not be written. A part of them may be in the file, and is dropped by
            the next call.
        """
        if not records:
            return
        content = b"".join(line_of(record) for record in records)
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        try:
            os.ftruncate(file, self._size)
            _disk.write(file, content)
        finally:
            os.close(file)
        self._hashed.update(content)
        self._size += len(content)
        self.records += len(records)


def line_of(record: Mapping[str, Any]) -> bytes:
    """Returns the line of a record.

    Args:
      record: Its fields.

    Returns:
      JSON and a line break.
    """
    return (
        json.dumps(_stored(dict(record)), separators=(",", ":"), allow_nan=False).encode() + b"\n"
    )


def record_of(line: bytes) -> dict[str, Any]:
    """Returns the fields of a record from its line.

    Args:
      line: The line.

    Returns:
      The fields.
    """
    return {name: _restored(value) for name, value in json.loads(line).items()}


def read_lines(path: pathlib.Path) -> list[bytes]:
    """Reads the whole lines of a history.

    Args:
      path: The path of the file; there may be none.

    Returns:
      The lines, each with its line break. A torn last line is left out.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    return content[: content.rfind(b"\n") + 1].splitlines(keepends=True)


def hash_of_lines(found: Sequence[bytes]) -> str:
    """Returns the hash of some lines, as `History.sha256`.

    Args:
      found: The lines.

    Returns:
      The hash, in hexadecimal.
    """
    return hashlib.sha256(b"".join(found)).hexdigest()


def _stored(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _stored(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_stored(each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(float(value))}
    return value


def _restored(value: Any) -> Any:
    if isinstance(value, Mapping):
        if value.keys() == {"float"} and isinstance(value["float"], str):
            return _SPECIAL[value["float"]]
        return {key: _restored(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_restored(each) for each in value]
    return value
