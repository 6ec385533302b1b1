"""Files that are written whole or not at all, and appended content that is on the disk.

A writer that dies leaves the old file as it was, and at most a file with `.new` appended to its
name, which the next writer replaces.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Iterator

_FRESH = ".new"


def write(file: int, content: bytes) -> None:
    """Appends to an open file, and returns when the content is on the disk.

    Args:
      file: The file descriptor.
      content: The bytes to append.

    Raises:
      OSError: The content could not be written. A part of it may be in the file.
    """
    _write_all(file, content)
    os.fsync(file)


def replace(path: pathlib.Path, *parts: bytes, mode: int = 0o600) -> None:
    """Replaces a file atomically, or makes it; returns when it is on the disk.

    Args:
      path: The path of the file.
      *parts: The content, in parts that follow each other.
      mode: The permissions of the file, from which those that the process's umask names are taken.

    Raises:
      OSError: The file could not be written. The file at `path` is then the old one, or (if only the
        last step failed) the new one, and there is no other file.
    """
    fresh = path.with_name(path.name + _FRESH)
    try:
        file = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        try:
            for part in parts:
                _write_all(file, part)
            os.fsync(file)
        finally:
            os.close(file)
        os.replace(fresh, path)
    except BaseException:
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise
    sync_folder(path.parent)


def sync_folder(folder: pathlib.Path) -> None:
    """Returns when the names of the files in a folder are on the disk.

    Args:
      folder: The path of the folder.

    Raises:
      OSError: The folder cannot be opened or synced.
    """
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def leftovers(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Finds the files that writers of a file have left when they died.

    Args:
      path: The path of the file, or of a folder for all files in it.

    Yields:
      Their paths. They may be removed if nobody else writes the files now.
    """
    if path.is_dir():
        yield from sorted(path.glob(f"*{_FRESH}"))
        return
    fresh = path.with_name(path.name + _FRESH)
    if fresh.exists():
        yield fresh


def _write_all(file: int, content: bytes) -> None:
    while content:
        content = content[os.write(file, content) :]
