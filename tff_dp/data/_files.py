"""A folder of clients on disk: one .npy file for each field, the offsets, and the ids in JSON."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tff_dp.data._fields import Array, Fields
from tff_dp.errors import DataError

_FORMAT = 1
_MANIFEST = "clients.json"


def write(folder: Path, ids: Sequence[str] | None, offsets: Array, x: Fields, y: Fields) -> None:
    """Writes clients into a new folder, which appears under its name only when it is complete.

    Args:
      folder: The folder, which must be empty or not exist. Its parents are made.
      ids: The clients' ids; None for "0", "1", ...
      offsets: The clients' offsets, int64 [clients + 1].
      x: Inputs.
      y: Targets.

    Raises:
      DataError: The folder is not empty, is a file, or cannot be written.
    """
    try:
        _write(folder, ids, offsets, x, y)
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"folder={str(folder)!r} cannot be written: {error}. Make room on the disk, or give another "
            "folder; nothing has been left there."
        ) from error


def _write(folder: Path, ids: Sequence[str] | None, offsets: Array, x: Fields, y: Fields) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"folder={str(folder)!r} is not empty: expected a new or an empty folder.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    # In the same parent folder, so that renaming stays within one file system and is atomic.
    unfinished = folder.parent / f".{folder.name}.{secrets.token_hex(4)}.tmp"
    unfinished.mkdir()
    try:
        np.save(unfinished / "offsets.npy", offsets)
        for file, array in [*_files("x", x), *_files("y", y)]:
            np.save(unfinished / file, array, allow_pickle=False)
        manifest = {"format": _FORMAT, "ids": ids, "x": _names(x), "y": _names(y)}
        (unfinished / _MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
        os.replace(unfinished, folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def read(folder: Path, *, mmap: bool) -> tuple[tuple[str, ...] | None, Array, Fields, Fields]:
    """Reads clients that `write` wrote.

    Args:
      folder: The folder.
      mmap: Whether to map the files of the fields, read-only, instead of reading them.

    Returns:
      ids (None for "0", "1", ...), offsets, x and y.

    Raises:
      DataError: The folder is missing, incomplete, damaged, or of another format.
    """
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        if manifest["format"] != _FORMAT:
            raise DataError(
                f"folder={str(folder)!r} has format {manifest['format']!r}: expected {_FORMAT}. "
                "Save the clients again."
            )
        offsets = np.load(folder / "offsets.npy", allow_pickle=False)
        x, y = (_read_fields(folder, part, manifest[part], mmap=mmap) for part in ("x", "y"))
        ids = manifest["ids"]
        return None if ids is None else tuple(ids), offsets, x, y
    except DataError:
        raise
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"folder={str(folder)!r} has no complete clients ({type(error).__name__}: {error}): "
            "expected a folder that Clients.save wrote. Save the clients again."
        ) from error


def _read_fields(folder: Path, part: str, names: list[str] | int | None, *, mmap: bool) -> Fields:
    def load(file: str) -> Array:
        array: Array = np.load(folder / file, mmap_mode="r" if mmap else None, allow_pickle=False)
        return array

    if names is None:
        return load(f"{part}.npy")
    if isinstance(names, int):
        return tuple(load(_file(part, position)) for position in range(names))
    return {name: load(_file(part, position)) for position, name in enumerate(names)}


def _names(fields: Fields) -> list[str] | int | None:
    """Returns the names of fields; of a tuple, their number; of a single one, None."""
    if isinstance(fields, tuple):
        return len(fields)
    return list(fields) if isinstance(fields, dict) else None


def _files(part: str, fields: Fields) -> Iterator[tuple[str, Any]]:
    if isinstance(fields, dict):
        fields = tuple(fields.values())
    if not isinstance(fields, tuple):
        yield f"{part}.npy", fields
        return
    for position, array in enumerate(fields):
        yield _file(part, position), array


def _file(part: str, position: int) -> str:
    # Numbered, because the name of a field may have characters that the name of a file may not.
    return f"{part}_{position}.npy"
