"""The privacy ledger: what a plan has spent, on disk before anybody can see what it was spent on.

A round is charged before it is run. Whatever happens afterwards (a crash, a kill, a power cut), the
charge stays: a round that is run again is charged again, so that the ledger may count too much and never
too little.

The file has one JSON object a line: first the plan, then an entry a charge. Each holds the hash of the
one before it and its own, so that gaps and edits show. A second file, with `.head` after the name, says
how many charges had been acknowledged; without it, a ledger that lost its last lines would look like one
that never had them. The hashes find accidents and careless edits. They do not stop a forger, who can
write both files anew.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import importlib.metadata
import json
import os
import pathlib
import warnings
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from tff_dp import _checks
from tff_dp.accounting import EpsilonReport, Round, spend
from tff_dp.errors import LedgerError
from tff_dp.plan import PrivacyPlan

_FORMAT = 1
_CIRCUMSTANCES = ("sampler", "population", "adjacency")  # of an event
_START = "0" * 64  # what stands for the hash before the first line's
_PACKAGES = (
    "dp-accounting",
    "numpy",
    "tensorflow",
    "tensorflow-federated",
    "tensorflow-privacy",
    "tff-dp",
)
_RESTORE = (
    "Restore the ledger and its .head file from the same backup; or start a new ledger elsewhere, and "
    "add what this one had spent to whatever the new one reports"
)


class Ledger:
    """The charges of one plan. One process at a time has it open.

    Args:
      path: The file; made, with its `.head`, where there is none.
      plan: Whose charges these are.

    Attributes:
      runs: The rounds that were charged, run by run; a round that is charged again begins a run.
      dropped: What was dropped when the ledger was opened, or None.

    Raises:
      LedgerError: Another process has it open; it is another plan's; or lines are missing, torn or
        edited. The message says what to do; nothing has been changed then.
    """

    def __init__(self, path: str | os.PathLike[str], plan: PrivacyPlan) -> None:
        _checks.instance("plan", plan, PrivacyPlan, "Only a privacy plan spends anything.")
        self._path = pathlib.Path(path)
        self._plan = plan
        self._plan_hash = _hash(plan.to_dict())
        self.runs: tuple[range, ...] = ()
        self._last_hash = _START
        self.dropped: str | None = None
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            self._lock()
            self._open()
        except BaseException:
            os.close(self._file)
            self._file = -1
            raise

    @property
    def charges(self) -> int:
        """How many rounds have been charged, those that were charged again included."""
        return sum(len(run) for run in self.runs)

    @property
    def last_round(self) -> int:
        """The number of the last round that was charged; 0 before any."""
        return self.runs[-1].stop - 1 if self.runs else 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Lets other processes open the ledger."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def charge(self, round_number: int, count: int = 1) -> None:
        """Charges rounds that follow on each other. When it returns, the charges are on the disk.

        Args:
          round_number: The first of them, from 1; at most one after the last that was charged. Earlier
            ones are rounds that are run again, and cost again.
          count: How many; >= 1.

        Raises:
          ArgumentError: A number is outside its bound.
          LedgerError: The ledger is closed, or could not be written. The rounds must not be run then.
        """
        if self._file < 0:
            raise LedgerError(
                f"The ledger {self._path} is closed: open it again to charge a round."
            )
        _checks.integer(
            "round_number",
            round_number,
            f"[1, {self.last_round + 1}]",
            "Rounds are charged one after another.",
        )
        _checks.integer("count", count, "[1, inf)")
        facts = _facts(self._plan)
        lines, before = [], self._last_hash
        for number in range(count):
            entry = {
                "entry": self.charges + number + 1,
                "round": round_number + number,
                "plan": self._plan_hash,
                "versions": _versions(),
                **facts,
            }
            line, before = _chained(entry, before)
            lines.append(line)
        try:
            _write(self._file, b"".join(lines))
            self.runs = _extended(self.runs, range(round_number, round_number + count))
            self._last_hash = before
            self._acknowledge()
        except OSError as error:
            self.close()  # what is on the disk is found out when it is opened again
            raise LedgerError(
                f"The ledger {self._path} could not be written: {error}. Make room or repair the disk, "
                "and open it again; the round has not been run."
            ) from error

    def spent(self) -> EpsilonReport:
        """Returns what all charges together have spent."""
        return spend(self._plan.one_round(), self.runs, self._plan.delta, self._plan.arithmetic)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LedgerError(
                f"The ledger {self._path} is open in another process or in this one: two runs would "
                "charge one budget at the same time. Wait for the other to end, or give this run a "
                "ledger and a budget of its own."
            ) from None

    def _open(self) -> None:
        content = _read(self._file)
        whole = content[: content.rfind(b"\n") + 1]
        acknowledged = _head(self._path)
        if not whole and acknowledged is None:
            self._begin(content)
            return
        found = _verified(self._path, whole, acknowledged)
        if found.plan_hash != self._plan_hash:
            raise LedgerError(
                f"The ledger {self._path} is of another plan: {found.plan}. This one is "
                f"{self._plan.to_dict()}. Give each plan a ledger of its own; epsilons of several plans "
                "on the same clients add up."
            )
        self.runs = found.runs
        self._last_hash = found.last_hash
        if whole != content:
            # The head knows no charge beyond the whole lines, so that nobody has acted on this one.
            os.ftruncate(self._file, len(whole))
            os.fsync(self._file)
            self._report(f"the torn line {len(found.hashes) + 1}, whose round had not been run")
        self._acknowledge()

    def _begin(self, torn: bytes) -> None:
        head = {"ledger": _FORMAT, "plan": self._plan.to_dict(), "versions": _versions()}
        line, self._last_hash = _chained(head, _START)
        if not line.startswith(torn):
            raise LedgerError(
                f"{self._path} is no ledger: it begins with {torn[:20]!r}. Give the path of a ledger, or "
                "one at which there is no file yet."
            )
        if torn:
            os.ftruncate(self._file, 0)
            self._report("a torn first line, before any charge")
        _write(self._file, line)
        self._acknowledge()

    def _acknowledge(self) -> None:
        """Writes that all charges so far may be acted on."""
        head = {"charges": self.charges, "hash": self._last_hash}
        path = _head_path(self._path)
        fresh = path.with_name(path.name + ".new")
        file = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            _write(file, _canonical(head) + b"\n")
        finally:
            os.close(file)
        os.replace(fresh, path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _report(self, what: str) -> None:
        self.dropped = what
        warnings.warn(f"The ledger {self._path}: dropped {what}.", RuntimeWarning, stacklevel=5)


def replay(path: str | os.PathLike[str]) -> EpsilonReport:
    """Returns what a ledger's charges have spent, from the ledger alone.

    Args:
      path: The ledger; it may be open elsewhere, and is not changed.

    Returns:
      The report: that of `Ledger.spent`, to the last bit.

    Raises:
      LedgerError: There is no ledger, or lines are missing or edited. A torn last line, which nobody
        has acted on, does not count.
    """
    path = pathlib.Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise LedgerError(f"The ledger {path} cannot be read: {error}.") from error
    found = _verified(path, content[: content.rfind(b"\n") + 1], _head(path))
    plan = PrivacyPlan.from_dict(found.plan)
    rounds = {
        Round.from_dict({**entry["event"], **{name: entry[name] for name in _CIRCUMSTANCES}})
        for entry in found.entries
    }
    (one_round,) = rounds or {plan.one_round()}  # one: each entry's facts are the plan's
    return spend(one_round, found.runs, plan.delta, plan.arithmetic)


@dataclasses.dataclass(frozen=True)
class _Found:
    plan: Mapping[str, Any]
    plan_hash: str
    entries: list[dict[str, Any]]
    hashes: list[str]

    @property
    def runs(self) -> tuple[range, ...]:
        runs: tuple[range, ...] = ()
        for entry in self.entries:
            runs = _extended(runs, range(entry["round"], entry["round"] + 1))
        return runs

    @property
    def last_hash(self) -> str:
        return self.hashes[-1]


def _verified(path: pathlib.Path, whole: bytes, head: Mapping[str, Any] | None) -> _Found:
    """Returns what the whole lines of a ledger say, if they are as they were written."""

    def damaged(what: str) -> LedgerError:
        return LedgerError(f"The ledger {path} is damaged: {what}. {_RESTORE}.")

    entries, hashes, before = [], [], _START
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            entry = json.loads(line)
            own, previous = entry.pop("hash"), entry["previous"]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise damaged(f"line {number} is no entry") from None
        if previous != before:
            raise damaged(f"line {number} does not follow on the line before it")
        if own != _hash(entry):
            raise damaged(f"line {number} was edited: its hash is not that of its content")
        entries.append(entry)
        hashes.append(own)
        before = own
    if not entries or entries[0].get("ledger") != _FORMAT:
        raise damaged(f"its first line is not that of a ledger of format {_FORMAT}")
    first, *charges = entries
    plan_hash, facts = _hash(first["plan"]), _facts(PrivacyPlan.from_dict(first["plan"]))
    last_round = 0
    for number, entry in enumerate(charges, 1):
        same = entry.get("plan") == plan_hash and all(entry.get(k) == v for k, v in facts.items())
        if entry.get("entry") != number or not same:
            raise damaged(f"line {number + 1} is not entry {number} of its plan")
        if not 1 <= entry["round"] <= last_round + 1:
            raise damaged(f"round {entry['round']} in line {number + 1} comes after a gap")
        last_round = entry["round"]
    if head is None:
        if charges:
            raise damaged(f"it has charges, and its head {_head_path(path)} is missing")
    elif head["charges"] > len(charges):
        raise damaged(
            f"{head['charges']} charges were acknowledged, and it has {len(charges)}: its end is missing"
        )
    elif hashes[head["charges"]] != head["hash"]:
        raise damaged(f"charge {head['charges']} is not the one that was acknowledged")
    return _Found(first["plan"], plan_hash, charges, hashes)


def _facts(plan: PrivacyPlan) -> dict[str, Any]:
    """Returns what a charge says of its round. Nothing in it depends on the data."""
    event = plan.one_round().to_dict()
    circumstances = {name: event.pop(name) for name in _CIRCUMSTANCES}
    return {"event": event, **circumstances, "expected_clients": plan.clients_per_round}


def _extended(runs: tuple[range, ...], more: range) -> tuple[range, ...]:
    """Returns runs with more rounds at the end: of the last run, if they follow on it."""
    if runs and runs[-1].stop == more.start:
        return (*runs[:-1], range(runs[-1].start, more.stop))
    return (*runs, more)


@functools.cache
def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _chained(entry: dict[str, Any], before: str) -> tuple[bytes, str]:
    """Returns an entry's line, and its hash."""
    entry = {**entry, "previous": before}
    own = _hash(entry)
    return _canonical({**entry, "hash": own}) + b"\n", own


def _hash(value: Any) -> str:
    return hashlib.sha256(_canonical(value)).hexdigest()


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _head_path(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(path.name + ".head")


def _head(path: pathlib.Path) -> dict[str, Any] | None:
    head = _head_path(path)
    try:
        found = json.loads(head.read_bytes())
        return {"charges": _checks.integer("charges", found["charges"], "[0, inf)"),
                "hash": str(found["hash"])}  # fmt: skip
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        raise LedgerError(f"The head {head} of a ledger is damaged. {_RESTORE}.") from None


def _read(file: int) -> bytes:
    with open(os.dup(file), "rb") as stream:
        stream.seek(0)
        return stream.read()


def _write(file: int, content: bytes) -> None:
    while content:
        content = content[os.write(file, content) :]
    os.fsync(file)
