"""The lines of a ledger: their hashes, and how they are written to the disk."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import os
import pathlib
import signal
import stat
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from tff_dp import _checks, _disk
from tff_dp.errors import LedgerError
from tff_dp.plan import PrivacyPlan

FORMAT = 2
START = "0" * 64  # the first line has no line before it, whose hash this replaces
CIRCUMSTANCES = ("sampler", "population", "adjacency")  # fields of a round beside its event
RESTORE = (
    "Restore the ledger and its .head file from the same backup; or start a new ledger elsewhere, "
    "and add what this one had spent to everything that the new one reports"
)
_PACKAGES = (
    "dp-accounting",
    "numpy",
    "tensorflow",
    "tensorflow-federated",
    "tensorflow-privacy",
    "tff-dp",
)


def plan_line(plan: PrivacyPlan) -> dict[str, Any]:
    """Returns the content of the line that stands before the first charge under a plan.

    Args:
      plan: The plan.

    Returns:
      Plain values.
    """
    return {"ledger": FORMAT, "plan": plan.to_dict(), "versions": versions()}


def facts(plan: PrivacyPlan) -> dict[str, Any]:
    """Returns what a charge records about its round. Nothing in it depends on the data.

    Args:
      plan: The plan of the round.

    Returns:
      The event, the sampler, the population, the adjacency and the expected number of clients, as
      plain values.
    """
    event = plan.one_round().to_dict()
    circumstances = {name: event.pop(name) for name in CIRCUMSTANCES}
    return {"event": event, **circumstances, "expected_clients": plan.clients_per_round}


@functools.cache
def versions() -> dict[str, str]:
    """Returns the installed versions of the packages that noise and accounting depend on."""
    found = {}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def chained(entry: dict[str, Any], before: str) -> tuple[bytes, str]:
    """Adds an entry to the chain of hashes.

    Args:
      entry: The content of the line.
      before: The hash of the line before it.

    Returns:
      The line, with both hashes and a line break, and its own hash.
    """
    entry = {**entry, "previous": before}
    own = hash_of(entry)
    return canonical({**entry, "hash": own}) + b"\n", own


def hash_of(value: Any) -> str:
    """Returns the SHA-256 hash of a value.

    Args:
      value: Plain values that JSON can hold.

    Returns:
      The hash of the canonical representation, in hexadecimal.
    """
    return hashlib.sha256(canonical(value)).hexdigest()


def canonical(value: Any) -> bytes:
    """Returns the canonical JSON representation of a value, the same for equal values.

    Args:
      value: Plain values that JSON can hold; no NaN and no infinity.

    Returns:
      JSON with sorted keys and no spaces, as UTF-8.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def checked_path(name: str, path: Any) -> pathlib.Path:
    """Checks that there is a ledger at a path, or that one can be made there. Changes nothing.

    Args:
      name: The name of the argument, as the caller wrote it.
      path: The path to check.

    Returns:
      The path.

    Raises:
      ArgumentError: The value is not a path. (A number would be used as an open file descriptor.)
      LedgerError: There cannot be a ledger at this path.
    """
    _checks.instance(
        name, path, (str, os.PathLike), "Give the path of a file, as a string or a Path."
    )
    found = pathlib.Path(path)
    where = f"{name}={os.fspath(path)!r}"
    try:
        mode = found.stat().st_mode
        if stat.S_ISDIR(mode):
            raise LedgerError(
                f"{where} is a folder: expected a file. Add a name, such as ledger.jsonl."
            )
        if not stat.S_ISREG(mode):
            raise LedgerError(
                f"{where} is a device or a pipe, which keeps no charges: expected a file. Give the path "
                "of a ledger, or a path at which there is no file yet."
            )
    except FileNotFoundError:
        if not found.parent.is_dir():
            raise LedgerError(
                f"{where} is in the folder {str(found.parent)!r}, which does not exist. Make the folder, "
                "or give another path."
            ) from None
    except (OSError, ValueError) as error:
        raise cannot_be_opened(found, error) from None
    for part, what in ((found, "the file"), (found.parent, "its folder")):
        if part.exists() and not os.access(part, os.W_OK):
            raise LedgerError(
                f"{where} cannot be written: there is no permission to write {what}. Change it, or give "
                "another path."
            )
    return found


def cannot_be_opened(path: pathlib.Path, error: Exception) -> LedgerError:
    """Makes the error for a ledger that the operating system does not open.

    Args:
      path: The path of the ledger.
      error: The error of the operating system.

    Returns:
      The error to raise.
    """
    return LedgerError(
        f"The ledger {str(path)!r} cannot be opened: {error}. Make room or repair what that says, "
        "or give another path."
    )


def head_path(path: pathlib.Path) -> pathlib.Path:
    """Returns the path of the head of a ledger.

    Args:
      path: The path of the ledger.

    Returns:
      The path of the head, in the same folder.
    """
    return path.with_name(path.name + ".head")


def read_head(path: pathlib.Path) -> dict[str, Any] | None:
    """Reads the head of a ledger.

    Args:
      path: The path of the ledger.

    Returns:
      The number of acknowledged charges ("charges") and the hash of the last of them ("hash"); None
      if there is no head.

    Raises:
      LedgerError: The head cannot be read, or is damaged.
    """
    head = head_path(path)
    try:
        found = json.loads(head.read_bytes())
        return {"charges": _checks.integer("charges", found["charges"], "[0, inf)"),
                "hash": str(found["hash"])}  # fmt: skip
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LedgerError(
            f"The head {head} of a ledger cannot be read: {error}. {RESTORE}."
        ) from error
    except (ValueError, KeyError, TypeError):
        raise LedgerError(f"The head {head} of a ledger is damaged. {RESTORE}.") from None


def write_head(path: pathlib.Path, charges: int, last_hash: str) -> None:
    """Replaces the head of a ledger atomically, which acknowledges charges.

    Args:
      path: The path of the ledger.
      charges: The number of charges that may be acted on.
      last_hash: The hash of the line of the last of them, or of the first line before any charge.
    """
    _disk.replace(head_path(path), canonical({"charges": charges, "hash": last_hash}) + b"\n")


def read(file: int) -> bytes:
    """Reads an open file from its beginning.

    Args:
      file: The file descriptor, which stays open.

    Returns:
      The content.
    """
    with open(os.dup(file), "rb") as stream:
        stream.seek(0)
        return stream.read()


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Delays Ctrl-C until the block is left, so that what is on the disk is complete and known.

    Python delivers signals to its main thread only; in another thread, this does nothing. A handler
    of the program's own is called after the block. If Ctrl-C is ignored, or ends the process at
    once, that is left unchanged.

    Yields:
      Nothing.
    """
    previous = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(previous):
        yield
        return
    held: list[tuple[int, FrameType | None]] = []
    signal.signal(signal.SIGINT, lambda number, frame: held.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
        if held:
            previous(*held[0])
