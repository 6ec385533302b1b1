"""Keeps what XLA has compiled on disk, so that a second process does not compile it again.

XLA reads its flags when TensorFlow runs its first operation. So `tell_xla` names the folder as soon as
tff_dp is imported: in an environment variable, and nowhere else. `prepare` makes the folder and empties
it of what is old, when a context that runs graphs is made.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import os
import pathlib
import stat

_MOST_BYTES = 1 << 29
_VARIABLE = "TFF_DP_CACHE"
_FLAGS = "TF_XLA_FLAGS"
_FLAG = "--tf_xla_persistent_cache_directory"


def tell_xla() -> pathlib.Path | None:
    """Tells XLA to keep compiled code in a folder, where it has not been told anything about that.

    XLA finds code there by what was compiled. What is in the folder is run, so it must be the user's
    alone, and is for one TensorFlow on one kind of processor. Nothing is written to the disk. Once
    TensorFlow has run an operation, this has no effect.

    Returns:
      The folder: below the one that the environment variable TFF_DP_CACHE names, or the user's cache
      folder. None if the variable is empty or XLA's own flag is set; or if others could write to the
      folder, or to the one in which it would be made.
    """
    flags = os.environ.get(_FLAGS, "")
    folder = None if _FLAG in flags else _folder()
    if folder is None or not _is_own(folder):
        return None
    os.environ[_FLAGS] = f"{flags} {_FLAG}={folder}".strip()
    return folder


@functools.cache
def prepare() -> pathlib.Path | None:
    """Makes the folder for compiled code ready to be used; once in a process.

    It is made for the user alone. Beyond 512 MiB, what was used longest ago is removed. Where the folder
    cannot be had, XLA is no longer told of it.

    Returns:
      The folder; None if XLA has not been told of one of ours.
    """
    folder = _folder()
    flags = os.environ.get(_FLAGS, "")
    told = f"{_FLAG}={folder}"
    if folder is None or (_FLAG in flags and told not in flags):
        return None
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _is_own(folder):
            remove_oldest(folder, _MOST_BYTES)
            if told not in flags:
                os.environ[_FLAGS] = f"{flags} {told}".strip()
            return folder
    os.environ[_FLAGS] = flags.replace(told, "").strip()
    return None


def remove_oldest(folder: pathlib.Path, most_bytes: int) -> None:
    """Removes the least recently used files of a folder until the rest is small enough.

    Args:
      folder: The folder; other processes may remove files from it at the same time.
      most_bytes: The total size that may stay, in bytes.
    """
    found = []
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            status = path.stat()
            found.append((max(status.st_atime, status.st_mtime), status.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= most_bytes:
            break
        with contextlib.suppress(OSError):
            path.unlink()
        total -= size


def _folder() -> pathlib.Path | None:
    """Returns where compiled code is kept, whether or not it is there; None if it is not kept."""
    base = os.environ.get(_VARIABLE)
    if base is None:
        home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        base = os.path.join(home, "tff_dp")
    return pathlib.Path(base) / f"xla-{_machine()}" if base else None


def _is_own(folder: pathlib.Path) -> bool:
    """Returns whether nobody else can write to a folder, or to the one in which it would be made."""
    for path in (folder, *folder.parents):
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        except OSError:
            return False
        return (
            stat.S_ISDIR(status.st_mode)
            and status.st_uid == os.getuid()
            and not status.st_mode & 0o022
            and os.access(path, os.W_OK)
        )
    return False


def _machine() -> str:
    """Returns a hash of what compiled code depends on: TensorFlow's version and the processor."""
    processor = ""
    with contextlib.suppress(OSError):
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        processor = "".join(sorted({x for x in lines if x.startswith(("flags", "model name"))}))
    try:
        version = importlib.metadata.version("tensorflow")
    except importlib.metadata.PackageNotFoundError:
        version = ""
    return hashlib.sha256(f"{version}/{processor}".encode()).hexdigest()[:16]
