"""A ledger that is open for charges."""

from __future__ import annotations

import dataclasses
import fcntl
import os
from types import TracebackType
from typing import Any, Self

from tff_dp import _checks, _disk, _warnings
from tff_dp.accounting import EpsilonReport
from tff_dp.charges import ChargedRun, Charges, incompatibility, new_run
from tff_dp.errors import ArgumentError, LedgerError
from tff_dp.ledger import lines
from tff_dp.ledger.verify import Found, verified
from tff_dp.plan import PrivacyPlan


class Ledger:
    """The charges of one or several plans on one data set. Only one process can have it open at a time.

    Args:
      path: The path of the file. If there is none, it is made, together with its `.head`.
      plan: The plan under which the next charges are made. A plan that is new to the ledger must
        have the population, the unit, the neighboring relation and the numbers of records of the
        plans that the ledger has charges for.

    Attributes:
      dropped: A description of the incomplete line that was dropped when the ledger was opened, or
        None.

    Raises:
      ArgumentError: `path` is not a path, or `plan` is not a plan.
      LedgerError: Another process has the ledger open; its plans cannot be accounted for together
        with this one; or lines are missing, torn or edited. Or no file can be made or written
        there: the folder does not exist, the path is that of a folder or a device, or the disk is
        full. The message says what to do; nothing has been changed.
    """

    def __init__(self, path: str | os.PathLike[str], plan: PrivacyPlan) -> None:
        _checks.instance("plan", plan, PrivacyPlan, "Only a privacy plan spends anything.")
        self._path = lines.checked_path("path", path)
        self._plan = plan
        self._found = Found()
        self._file = -1
        self.dropped: str | None = None
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        try:
            self._file = os.open(self._path, flags, 0o600)
            self._lock()
            self._open()
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise lines.cannot_be_opened(self._path, error) from error
            raise

    @property
    def runs(self) -> tuple[range, ...]:
        """The rounds charged under this plan, for each run; a round charged again begins a new run."""
        return self.all_charges.of(self._plan)

    @property
    def all_charges(self) -> Charges:
        """The charges under all plans together."""
        return self._found.all_charges()

    @property
    def plans(self) -> tuple[PrivacyPlan, ...]:
        """The plans that have a line in the file, in the order of these lines."""
        return tuple(self._found.plans.values())

    @property
    def charges(self) -> int:
        """The number of rounds charged under all plans; a round charged twice counts twice."""
        return self._found.charges

    @property
    def last_round(self) -> int:
        """The number of the last round that was charged under this plan; 0 before any."""
        return self._found.last_round(self._found.hash_of(self._plan))

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
        """Closes the ledger, so that other processes can open it."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def charge(
        self,
        round_number: int,
        count: int = 1,
        *,
        coins: str | None = None,
        run: str | None = None,
    ) -> None:
        """Charges consecutive rounds. When this returns, the charges are on the disk.

        Args:
          round_number: The first of the rounds, counted from 1. The round after the last one that
            was charged under this plan continues that run. An earlier round begins a new run, whose
            rounds are paid for again. A later round is refused.
          count: The number of rounds; >= 1.
          coins: A hash of the seed of the cohorts, or None; as for `ChargedRun`. It is the same for
            all rounds of a run.
          run: The name of the run that the rounds belong to. That of a run under this plan continues
            it, whatever was charged since; `round_number` has to be its next round. Another name,
            from `tff_dp.charges.new_run`, begins a new run, at a round that was charged before or
            at round 1. By default, the round's number decides.

        Raises:
          ArgumentError: A number is outside its bound, another run has the same `coins`, or `run`
            is a run under another plan.
          LedgerError: The ledger is closed, or could not be written. The rounds must then not be
            run.
        """
        self._refuse_closed()
        if run is not None:
            self._charge_run(run, round_number, count, coins)
            return
        last = self.last_round
        _checks.integer(
            "round_number",
            round_number,
            f"[1, {last + 1}]",
            "Rounds are charged in order, without gaps.",
        )
        _checks.integer("count", count, "[1, inf)")
        name = new_run()
        if last and round_number == last + 1:
            name = self._found.last_run[self._found.hash_of(self._plan) or ""]
            coins = self._found.runs[name].coins
        rounds = range(round_number, round_number + count)
        self._append(ChargedRun(plan=self._plan, rounds=rounds, run=name, coins=coins))

    def _charge_run(self, name: str, round_number: int, count: int, coins: str | None) -> None:
        """Charges consecutive rounds of a run of a given name."""
        known = self._found.runs.get(name)
        if known is None:
            furthest = self._found.furthest.get(self._found.hash_of(self._plan) or "", 0)
            _checks.integer(
                "round_number",
                round_number,
                f"[1, {max(furthest, 1)}]",
                "A new run begins at round 1, or repeats rounds that were charged.",
            )
        else:
            if known.plan != self._plan:
                raise ArgumentError(
                    f"run={name!r} was charged under another plan: expected a run under the plan with "
                    "which the ledger was opened. Open it with the plan of the run."
                )
            following = known.rounds.stop
            _checks.integer(
                "round_number",
                round_number,
                f"[{following}, {following}]",
                "Rounds of a run are charged in order, each once. To repeat some, begin another run.",
            )
            coins = known.coins
        _checks.integer("count", count, "[1, inf)")
        rounds = range(round_number, round_number + count)
        self._append(ChargedRun(plan=self._plan, rounds=rounds, run=name, coins=coins))

    def include(self, charges: Charges) -> None:
        """Charges runs that were charged elsewhere on the same data and are not in this ledger yet.

        A run that was charged from a later round on is counted from its first round: too much, and
        never too little.

        Args:
          charges: The charges to include, such as `FitResult.charges` of a run without this ledger.

        Raises:
          ArgumentError: The charges are unbounded, or two runs have the same `coins`.
          LedgerError: The ledger is closed, or could not be written; the plans cannot be accounted
            for together; or the ledger has lost rounds that the charges contain.
        """
        self._refuse_closed()
        if charges.unbounded:
            raise ArgumentError(
                f"The ledger {self._path} cannot hold charges without a bound: the data were used "
                "without differential privacy, and no later charge can bound that."
            )
        for plan in charges.plans:
            self._refuse_incompatible(plan)
        missing = []
        for run in charges.runs:
            known = self._found.runs.get(run.run)
            if known is None:
                missing.append(run)
            elif not self.all_charges.covers(Charges(runs=(run,))):
                raise LedgerError(
                    f"The ledger {self._path} has rounds {known.rounds.start} to "
                    f"{known.rounds.stop - 1} of a run that has rounds up to "
                    f"{run.rounds.stop - 1}: it has lost charges. {lines.RESTORE}."
                )
        if missing:  # refuses equal coins, before anything is written
            _ = self.all_charges | Charges(runs=tuple(missing))
        for run in missing:
            self._append(dataclasses.replace(run, rounds=range(1, run.rounds.stop)))

    def spent(self, delta: float | None = None) -> EpsilonReport:
        """Returns what all charges under all plans have spent together.

        Args:
          delta: The delta of the joint epsilon, in (0, 1/N), with N as for `PrivacyPlan`. By
            default the smallest delta of the plans that have charges.

        Returns:
          The report; its epsilon is 0 if nothing has been charged.

        Raises:
          ArgumentError: delta is outside its bound.
          AccountingError: No accountant applies to all plans together.
        """
        return self._found.spent(delta)

    def _append(self, run: ChargedRun) -> None:
        """Writes charges of a run, after the line of its plan if that is new, and acknowledges them."""
        if run.coins is not None and run.run not in self._found.runs:
            _ = self.all_charges | Charges(runs=(run,))  # refuses equal coins
        plan, name, rounds = run.plan, run.run, run.rounds
        found, texts, before = self._found, [], self._found.last_hash
        plan_hash, fresh = found.hash_of(plan), {}
        if plan_hash is None:
            plan_hash = lines.hash_of(plan.to_dict())
            fresh = {plan_hash: plan}
            line, before = lines.chained(lines.plan_line(plan), before)
            texts.append(line)
        facts = lines.facts(plan)
        for number, round_number in enumerate(rounds, found.charges + 1):
            entry: dict[str, Any] = {
                "entry": number,
                "round": round_number,
                "run": name,
                **({} if run.coins is None else {"coins": run.coins}),
                "plan": plan_hash,
                "versions": lines.versions(),
                **facts,
            }
            line, before = lines.chained(entry, before)
            texts.append(line)
        try:
            with lines.uninterrupted():
                _disk.write(self._file, b"".join(texts))
                found.plans |= fresh
                found.add(plan_hash, name, rounds, run.coins)
                found.charges += len(rounds)
                found.last_hash = found.charge_hash = before
                self._acknowledge()
        except OSError as error:
            self.close()  # what has reached the disk is only known when the file is opened again
            raise LedgerError(
                f"The ledger {self._path} could not be written: {error}. Make room or repair the "
                "disk, and open it again; the round has not been run."
            ) from error

    def _refuse_closed(self) -> None:
        if self._file < 0:
            raise LedgerError(
                f"The ledger {self._path} is closed: open it again to charge a round."
            )

    def _refuse_incompatible(self, plan: PrivacyPlan) -> None:
        # Only plans with charges matter: the plan of a run that was refused has none.
        charged = self.all_charges.plans
        difference = incompatibility(charged[0], plan) if charged else ""
        if difference:
            raise LedgerError(
                f"The ledger {self._path} cannot take this plan, since no joint epsilon could be "
                "stated for it and for the ledger's plans. The fields of the ledger's plans and of "
                f"this plan differ in {difference}. Make the plan with the ledger's values, or use "
                "another ledger if the plan is for other data."
            )

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LedgerError(
                f"The ledger {self._path} is open in another process or in this one: two runs "
                "would charge one budget at the same time. Wait for the other to end, or give "
                "this run a ledger and a budget of its own."
            ) from None

    def _open(self) -> None:
        for left in _disk.leftovers(lines.head_path(self._path)):
            left.unlink()
        content = lines.read(self._file)
        whole = content[: content.rfind(b"\n") + 1]
        acknowledged = lines.read_head(self._path)
        if not whole and acknowledged is None:
            self._begin(content)
            return
        self._found = verified(self._path, whole, acknowledged)
        self._refuse_incompatible(self._plan)
        if whole != content:
            # The head acknowledges only whole lines, so that nobody has acted on the torn one.
            os.ftruncate(self._file, len(whole))
            os.fsync(self._file)
            number = whole.count(b"\n") + 1
            self._report(f"the torn line {number}, whose round had not been run")
        if acknowledged != {"charges": self.charges, "hash": self._found.charge_hash}:
            self._acknowledge()

    def _begin(self, torn: bytes) -> None:
        line, last_hash = lines.chained(lines.plan_line(self._plan), lines.START)
        if not line.startswith(torn):
            raise LedgerError(
                f"{self._path} is not a ledger: it begins with {torn[:20]!r}. Give the path of a "
                "ledger, or a path at which there is no file yet."
            )
        if torn:
            os.ftruncate(self._file, 0)
            self._report("a torn first line, before any charge")
        _disk.write(self._file, line)
        self._found.plans[lines.hash_of(self._plan.to_dict())] = self._plan
        self._found.last_hash = self._found.charge_hash = last_hash
        self._acknowledge()

    def _acknowledge(self) -> None:
        """Records in the head that all charges so far are on the disk and may be acted on."""
        lines.write_head(self._path, self.charges, self._found.charge_hash)

    def _report(self, what: str) -> None:
        self.dropped = what
        _warnings.warn(f"The ledger {self._path}: dropped {what}.", RuntimeWarning)
