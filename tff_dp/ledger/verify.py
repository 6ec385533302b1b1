"""Verifies that the lines of a ledger are as they were written, and reads them."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from tff_dp.accounting import EpsilonReport, Round, spend
from tff_dp.charges import ChargedRun, Charges, checked_delta, incompatibility
from tff_dp.errors import ArgumentError, LedgerError
from tff_dp.ledger import lines
from tff_dp.plan import PrivacyPlan


@dataclasses.dataclass
class Found:
    """The verified content of a ledger.

    Attributes:
      plans: The plans by their hashes, which entries refer to, in the order of their lines.
      runs: The charged runs by name, in the order in which they began.
      last_run: The name of each plan's last run, by the plan's hash.
      furthest: The largest number of a round that was charged under each plan, in any of its runs,
        by the plan's hash.
      charges: The number of rounds that have been charged.
      versions: The sets of package versions under which lines were written, in the order of the
        lines.
      last_hash: The hash of the last line.
      charge_hash: The hash of the line of the last charge, or of the first line before any charge.
    """

    plans: dict[str, PrivacyPlan] = dataclasses.field(default_factory=dict)
    runs: dict[str, ChargedRun] = dataclasses.field(default_factory=dict)
    last_run: dict[str, str] = dataclasses.field(default_factory=dict)
    furthest: dict[str, int] = dataclasses.field(default_factory=dict)
    charges: int = 0
    versions: list[Mapping[str, str]] = dataclasses.field(default_factory=list)
    last_hash: str = lines.START
    charge_hash: str = lines.START

    def hash_of(self, plan: PrivacyPlan) -> str | None:
        """Returns the hash by which entries refer to a plan.

        Args:
          plan: The plan.

        Returns:
          The hash, or None if the plan has no line yet.
        """
        return next((key for key, known in self.plans.items() if known == plan), None)

    def last_round(self, plan_hash: str | None) -> int:
        """Returns the last round that was charged under a plan.

        Args:
          plan_hash: The hash of the plan, or None for a plan without a line.

        Returns:
          The number of the round; 0 if none was charged.
        """
        name = self.last_run.get(plan_hash or "")
        return self.runs[name].rounds.stop - 1 if name is not None else 0

    def add(self, plan_hash: str, name: str, rounds: range, coins: str | None = None) -> None:
        """Adds rounds to a run, or begins a new one.

        Args:
          plan_hash: The hash of the plan.
          name: The name of the run.
          rounds: The rounds, which follow those that the run has.
          coins: As for `ChargedRun`.
        """
        if name in self.runs:
            run = self.runs[name]
            rounds = range(run.rounds.start, rounds.stop)
        self.runs[name] = ChargedRun(
            plan=self.plans[plan_hash], rounds=rounds, run=name, coins=coins
        )
        self.last_run[plan_hash] = name
        self.furthest[plan_hash] = max(self.furthest.get(plan_hash, 0), rounds.stop - 1)

    def all_charges(self) -> Charges:
        """Returns the charges under all plans."""
        return Charges(runs=tuple(self.runs.values()))

    def spent(self, delta: float | None = None) -> EpsilonReport:
        """Returns what all charges have spent together.

        Args:
          delta: As for `Ledger.spent`.

        Returns:
          The report; its epsilon is 0 if nothing has been charged.

        Raises:
          ArgumentError: delta is outside its bound.
          AccountingError: No accountant applies to all plans together.
        """
        if self.runs:
            return self.all_charges().spent(delta)
        plan = next(iter(self.plans.values()))
        at = plan.delta if delta is None else checked_delta(plan, delta)
        return spend(plan.one_round(), (), at)


def verified(path: pathlib.Path, whole: bytes, head: Mapping[str, Any] | None) -> Found:
    """Verifies and reads the complete lines of a ledger.

    Args:
      path: The path of the ledger, for messages.
      whole: The complete lines.
      head: The head, as `lines.read_head` returns it.

    Returns:
      The content.

    Raises:
      LedgerError: The lines are not as they were written, or this version refuses a plan in them.
    """
    return _Verifier(path).found(whole, head)


class _Verifier:
    def __init__(self, path: pathlib.Path) -> None:
        self._path = path
        self._found = Found()
        self._facts: dict[str, Mapping[str, Any]] = {}
        self._hashes: list[str] = []  # of the first line, and of each charge

    def found(self, whole: bytes, head: Mapping[str, Any] | None) -> Found:
        for number, line in enumerate(whole.splitlines(), 1):
            self._line(number, line)
        if not self._hashes:
            raise self._damaged(self._no_first_line())
        self._check_head(head)
        return self._found

    def _damaged(self, what: str) -> LedgerError:
        return LedgerError(f"The ledger {self._path} is damaged: {what}. {lines.RESTORE}.")

    def _no_first_line(self) -> str:
        return f"its first line is not that of a ledger of format 1 or {lines.FORMAT}"

    def _line(self, number: int, line: bytes) -> None:
        try:
            entry = json.loads(line)
            own, previous = entry.pop("hash"), entry["previous"]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise self._damaged(f"line {number} is not an entry") from None
        if previous != self._found.last_hash:
            raise self._damaged(f"line {number} does not continue the line before it")
        if own != lines.hash_of(entry):
            raise self._damaged(f"line {number} was edited: its hash is not that of its content")
        if number == 1 and entry.get("ledger") not in (1, lines.FORMAT):
            raise self._damaged(self._no_first_line())
        if "ledger" in entry:
            self._plan(number, entry)
        else:
            self._charge(number, entry, own)
        if number == 1 or "ledger" not in entry:
            self._hashes.append(own)
            self._found.charge_hash = own
        versions = entry.get("versions", {})
        if versions not in self._found.versions:
            self._found.versions.append(versions)
        self._found.last_hash = own

    def _plan(self, number: int, entry: Mapping[str, Any]) -> None:
        known = self._found.plans
        if number > 1 and entry["ledger"] != lines.FORMAT:
            raise self._damaged(f"line {number} begins a ledger within another one")
        try:
            plan = PrivacyPlan.from_dict(entry["plan"])
        except (ArgumentError, KeyError, TypeError, ValueError) as error:
            raise LedgerError(
                f"The ledger {self._path} has a plan in line {number} that this version of tff_dp "
                f"does not accept: {error} Read it with the version that wrote it: "
                f"{entry.get('versions')}."
            ) from None
        if plan in known.values():
            raise self._damaged(f"line {number} repeats a plan")
        charged = next((run.plan for run in self._found.runs.values()), plan)
        difference = incompatibility(charged, plan)
        if difference:
            raise self._damaged(f"line {number} is of a plan for other data ({difference})")
        plan_hash = lines.hash_of(entry["plan"])
        known[plan_hash] = plan
        self._facts[plan_hash] = lines.facts(plan)

    def _charge(self, number: int, entry: Mapping[str, Any], own: str) -> None:
        found, plan_hash = self._found, str(entry.get("plan"))
        expected = found.charges + 1
        is_next = plan_hash in found.plans and entry.get("entry") == expected
        if not is_next or not self._is_of(plan_hash, entry):
            raise self._damaged(f"line {number} is not entry {expected} of its plan")
        current, last = entry.get("round"), found.last_round(plan_hash)
        furthest = found.furthest.get(plan_hash, 0)
        if not isinstance(current, int) or not 1 <= current <= furthest + 1:
            raise self._damaged(f"round {current} in line {number} comes after a gap")
        latest = found.last_run.get(plan_hash)
        # Format 1 has no names of runs: a run's name is then the hash of its first entry.
        follows = latest is not None and current == last + 1
        name = entry.get("run", latest if follows else own[:32])
        known = found.runs.get(name) if isinstance(name, str) else None
        begins = known is None and current <= max(furthest, 1)
        continues = (
            known is not None
            and known.plan == found.plans[plan_hash]
            and current == known.rounds.stop
        )
        if not isinstance(name, str) or not (begins or continues):
            raise self._damaged(f"line {number} neither continues its run nor begins another")
        coins = entry.get("coins")
        others = [run.coins for run in found.runs.values() if run.run != name]
        if coins is not None and (not isinstance(coins, str) or coins in others):
            raise self._damaged(f"line {number} has the cohorts of another run")
        if known is not None and coins != known.coins:
            raise self._damaged(f"line {number} has other cohorts than its run")
        found.add(plan_hash, name, range(current, current + 1), coins)
        found.charges += 1

    def _is_of(self, plan_hash: str, entry: Mapping[str, Any]) -> bool:
        facts = self._facts[plan_hash]
        if all(entry.get(name) == value for name, value in facts.items()):
            return True
        try:  # a newer version may have added fields with defaults since the entry was written
            circumstances = {name: entry[name] for name in lines.CIRCUMSTANCES}
            written = Round.from_dict({**entry["event"], **circumstances})
        except (ArgumentError, KeyError, TypeError):
            return False
        same = written == self._found.plans[plan_hash].one_round()
        return same and entry.get("expected_clients") == facts["expected_clients"]

    def _check_head(self, head: Mapping[str, Any] | None) -> None:
        charges = self._found.charges
        if head is None:
            if charges:
                raise self._damaged(
                    f"it has charges, and its head {lines.head_path(self._path)} is missing"
                )
        elif head["charges"] > charges:
            raise self._damaged(
                f"{head['charges']} charges were acknowledged, and it has {charges}: its end is "
                "missing"
            )
        elif self._hashes[head["charges"]] != head["hash"]:
            raise self._damaged(f"charge {head['charges']} is not the one that was acknowledged")
