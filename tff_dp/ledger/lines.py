"""The lines of a ledger: their hashes, and how they get to the disk."""

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

from tff_dp import _checks
from tff_dp.errors import LedgerError
from tff_dp.plan import PrivacyPlan

FORMAT = 2
START = "0" * 64  # what stands for the hash before the first line's
CIRCUMSTANCES = ("sampler", "population", "adjacency")  # of an event
RESTORE = (
    "Restore the ledger and its .head file from the same backup; or start a new ledger elsewhere, "
    "and add what this one had spent to whatever the new one reports"
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
    """Returns the line of a plan: a file's first, or that before the plan's first charge."""
    return {"ledger": FORMAT, "plan": plan.to_dict(), "versions": versions()}


def facts(plan: PrivacyPlan) -> dict[str, Any]:
    """Returns what a charge says of its round. Nothing in it depends on the data."""
    event = plan.one_round().to_dict()
    circumstances = {name: event.pop(name) for name in CIRCUMSTANCES}
    return {"event": event, **circumstances, "expected_clients": plan.clients_per_round}


@functools.cache
def versions() -> dict[str, str]:
    """Returns the versions of the packages that noise and accounting depend on."""
    found = {}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def chained(entry: dict[str, Any], before: str) -> tuple[bytes, str]:
    """Returns an entry's line, and its hash."""
    entry = {**entry, "previous": before}
    own = hash_of(entry)
    return canonical({**entry, "hash": own}) + b"\n", own


def hash_of(value: Any) -> str:
    """Returns the SHA-256 of a value's one representation."""
    return hashlib.sha256(canonical(value)).hexdigest()


def canonical(value: Any) -> bytes:
    """Returns the one JSON representation of a value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def checked_path(name: str, path: Any) -> pathlib.Path:
    """Returns the path of a ledger, if there is one or one can be made there. Changes nothing.

    Args:
      name: Of the argument.
      path: Its value.

    Raises:
      ArgumentError: It is no path; a number would be taken for an open file.
      LedgerError: There can be no ledger.
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
                "of a ledger, or one at which there is no file yet."
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
    """Returns the error of a ledger that the operating system does not let be opened."""
    return LedgerError(
        f"The ledger {str(path)!r} cannot be opened: {error}. Make room or repair what that says, "
        "or give another path."
    )


def head_path(path: pathlib.Path) -> pathlib.Path:
    """Returns where the head of a ledger is."""
    return path.with_name(path.name + ".head")


def read_head(path: pathlib.Path) -> dict[str, Any] | None:
    """Returns the head of a ledger, or None where there is none.

    Raises:
      LedgerError: It is damaged.
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
    """Writes, in one step, that so many charges may be acted on."""
    head = head_path(path)
    fresh = head.with_name(head.name + ".new")
    file = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        write(file, canonical({"charges": charges, "hash": last_hash}) + b"\n")
    finally:
        os.close(file)
    os.replace(fresh, head)
    folder = os.open(head.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read(file: int) -> bytes:
    """Returns the content of an open file."""
    with open(os.dup(file), "rb") as stream:
        stream.seek(0)
        return stream.read()


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Holds Ctrl-C back until the block is left, so that what is on the disk is whole and known.

    Python gives signals to its main thread alone. Where that has another handler, such as a program's
    own, it is called afterwards; where Ctrl-C is ignored or ends the process at once, so it stays.
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


def write(file: int, content: bytes) -> None:
    """Appends to an open file, and returns when the content is on the disk."""
    while content:
        content = content[os.write(file, content) :]
    os.fsync(file)
