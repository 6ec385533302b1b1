"""What private validation has been charged on the held-out clients: in memory, or in a ledger."""

from __future__ import annotations

import pathlib

from tff_dp import _warnings
from tff_dp.charges import ChargedRun, Charges, new_run
from tff_dp.errors import AccountingError, LedgerError
from tff_dp.execution import is_seeded
from tff_dp.ledger import Ledger, summarize
from tff_dp.plan import PrivacyPlan


class ValidationAccount:
    """The evaluations of one run on held-out clients, each charged before anything of it is released.

    In a run folder they are charged in a ledger of their own. A run that is resumed goes on there: an
    evaluation that was charged and whose result was lost stays charged, and the next one has the next
    number and new random bits.

    Args:
      plan: The plan of the validation.
    """

    def __init__(self, plan: PrivacyPlan) -> None:
        self.plan = plan
        self._run, self._count = new_run(), 0
        self._book: Ledger | None = None
        self._resumed = False

    @property
    def charges(self) -> Charges:
        """What is charged on the held-out clients."""
        if self._book is not None:
            return self._book.all_charges
        if not self._count:
            return Charges()
        rounds = range(1, self._count + 1)
        own = ChargedRun(plan=self.plan, rounds=rounds, run=self._run)
        return Charges(runs=(own,), unbounded=is_seeded())

    @property
    def is_spent(self) -> bool:
        """Whether the plan covers no further evaluation."""
        return self._used >= self.plan.rounds

    @property
    def _used(self) -> int:
        if self._book is None:
            return self._count
        return sum(len(run) for run in self._book.runs)

    def keep(self, book: Ledger, *, resumed: bool) -> None:
        """Charges in a ledger from here on.

        Args:
          book: The ledger, open with the plan.
          resumed: Whether the run goes on whose charges the ledger has.
        """
        self._book, self._resumed = book, resumed
        if resumed:
            own = [run for run in book.all_charges.runs if run.plan == self.plan]
            if own:
                self._run, self._count = own[-1].run, own[-1].rounds.stop - 1

    def check(self, due: int, released: int) -> None:
        """Checks that the plan covers the evaluations to come.

        Args:
          due: How many they are.
          released: How many evaluations the history of the run has.

        Raises:
          AccountingError: The plan covers fewer evaluations, also without those that were lost.
          LedgerError: The ledger has fewer charges than the history has evaluations.
        """
        charged = self._used if self._book is None else self._book.charges
        refuse_lost(charged, released)
        lost = charged - released if self._resumed else 0
        used, covered = self._used, self.plan.rounds
        if due + max(used - lost, 0) > covered:
            raise AccountingError(
                f"validation_privacy covers {covered} evaluations, and there are {due} beside {used} "
                f"that are charged: expected rounds={due + used} or more in the plan. Make it for more "
                "rounds, or raise validation_freq."
            )
        if due + used > covered:
            _warnings.warn(
                f"{lost} evaluations of the held-out clients were charged, and their results were lost "
                f"when the run ended. The plan of the validation covers {covered - used} more, so that "
                f"the last {due + used - covered} of the rounds to come are not validated."
            )

    def charge(self) -> int:
        """Charges the next evaluation. When it returns, the charge is where the others are.

        Returns:
          The number of the evaluation, from 1.

        Raises:
          LedgerError: The charge could not be written. The evaluation must not be run then.
        """
        if self._book is not None:
            self._book.charge(self._count + 1, run=self._run)
        self._count += 1
        return self._count


def charged_in(path: pathlib.Path, released: int) -> Charges:
    """Reads what validation has charged in the ledger of a run folder.

    Args:
      path: The path of the ledger.
      released: How many evaluations the history of the run has.

    Returns:
      The charges; none if there is no ledger.

    Raises:
      LedgerError: Lines are missing or edited, or there are fewer charges than evaluations.
    """
    charges = summarize(path).charges if path.exists() else Charges()
    refuse_lost(charges.rounds, released)
    return charges


def refuse_lost(charged: int, released: int) -> None:
    """Refuses a ledger of the validation that has lost charges.

    Args:
      charged: How many evaluations the ledger has.
      released: How many evaluations the history of the run has.

    Raises:
      LedgerError: There are fewer charges than evaluations.
    """
    if charged < released:
        raise LedgerError(
            f"The ledger of the validation has {charged} evaluations, and the history of the run has "
            f"{released}: it has lost charges. Restore it and its .head file from a backup."
        )
