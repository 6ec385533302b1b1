"""Keeps XLA's compiled code on disk, so that a second process need not compile it again."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib

_MOST_BYTES = 1 << 29
_VARIABLE = "TFF_DP_CACHE"
_FLAG = "--tf_xla_persistent_cache_directory"


def keep_compiled() -> pathlib.Path | None:
    """Tells XLA to keep compiled code in a folder, unless its own flag names one already.

    XLA looks compiled code up by a hash of its source. It reads its flags when TensorFlow runs its
    first operation: after that, this function has no effect. The code in the folder is executed, so
    that nobody but the user may write to it; and it is valid for one version of TensorFlow and one
    kind of processor. If the folder exceeds 512 MiB, the least recently used files are removed.

    Returns:
      The folder: below the one that the environment variable TFF_DP_CACHE names, or below the
      user's cache folder. None if the variable is empty, the folder cannot be made or is not safe,
      or XLA's own flag is set.
    """
    flags = os.environ.get("TF_XLA_FLAGS", "")
    if _FLAG in flags:
        return None
    base = os.environ.get(_VARIABLE)
    if base is None:
        home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        base = os.path.join(home, "tff_dp")
    if not base:
        return None
    folder = pathlib.Path(base) / f"xla-{_machine()}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        owned = folder.stat().st_uid == os.getuid() and not folder.stat().st_mode & 0o022
        if not owned or not os.access(folder, os.W_OK):
            return None
        remove_oldest(folder, _MOST_BYTES)
    except OSError:
        return None
    os.environ["TF_XLA_FLAGS"] = f"{flags} {_FLAG}={folder}".strip()
    return folder


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


def _machine() -> str:
    """Returns a hash of what compiled code depends on: TensorFlow's version and the processor."""
    processor = ""
    with contextlib.suppress(OSError):
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        processor = "".join(sorted({x for x in lines if x.startswith(("flags", "model name"))}))
    import importlib.metadata

    try:
        version = importlib.metadata.version("tensorflow")
    except importlib.metadata.PackageNotFoundError:
        version = ""
    return hashlib.sha256(f"{version}/{processor}".encode()).hexdigest()[:16]
