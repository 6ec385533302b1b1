"""A run: the state of training after some rounds, and the step to the next ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from tff_dp.charges import Charges
from tff_dp.errors import AccountingError, ArgumentError
from tff_dp.execution import iterate
from tff_dp.training.budget import Account
from tff_dp.training.progress import round_record
from tff_dp.training.results import RoundRecord
from tff_dp.training.setup import Setup

_FUSED = 64  # rounds that one graph call holds
_FUSED_FROM = 256  # rounds of a run


@dataclasses.dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What of a run changes from step to step. All else follows from its `Setup` and `Account`.

    Under `TreeMechanism` and `BandedMechanism` the state holds noise that has been released, and is as
    secret as the data.

    Attributes:
      state: The process's state after the last round that has come to its end.
      history: The records of the rounds up to that one, from round 1 on.
      begun: How many rounds have been begun, and are charged. More than `round_number` after a step
        that has failed or was interrupted.
    """

    state: Any
    history: tuple[RoundRecord, ...] = ()
    begun: int = 0

    @property
    def round_number(self) -> int:
        """The last round that has come to its end; 0 before any."""
        return len(self.history)


class Run:
    """Training, one step at a time.

    A step is one round, or several that are fused to one graph call: their rounds are charged, their
    cohorts drawn, they are run, and their records are kept. Whatever interrupts a step leaves the state,
    the round number and the history of the last complete one, and the charge of the one that was begun.

    A run can begin at any round: `Run(setup, account, run.snapshot())` goes on where `run` was. A
    round's cohort depends on the account's `root` and on the round's number, and on nothing that was
    drawn before, so that a process without noise comes to the same weights as in `run`.

    Args:
      setup: What the run is made of.
      account: What it may spend, and where it is charged. Its `before` has nothing of the run itself.
      start: Where it begins; by default before the first round, with the model's own weights.
      fuse: Whether a step may have several rounds.

    Attributes:
      setup: As given.
      account: As given.

    Raises:
      ArgumentError: `start` has records of other rounds than 1 to its own, or more of them than the
        account allows, or rounds other than those that the ledger has.
      AccountingError: `start` was taken in the midst of a step.
    """

    def __init__(
        self,
        setup: Setup,
        account: Account,
        start: Snapshot | None = None,
        *,
        fuse: bool = True,
    ) -> None:
        if start is None:
            start = Snapshot(state=setup.first_state())
        _check_start(start, account)
        self.setup, self.account, self._fuse = setup, account, fuse
        self._records = list(start.history)
        # What has been computed, in one value: an interrupt finds a state and a count that agree.
        self._reached = start.state, start.round_number
        self._begun = start.begun

    @property
    def state(self) -> Any:
        """The process's state after the last round that has come to its end."""
        return self._reached[0]

    @property
    def round_number(self) -> int:
        """The last round that has come to its end; 0 before any."""
        return self._reached[1]

    @property
    def history(self) -> tuple[RoundRecord, ...]:
        """The records of these rounds."""
        return tuple(self._records[: self.round_number])

    @property
    def charges(self) -> Charges:
        """All that is known to have been spent on the data; a round counts once it is begun."""
        return self.account.charges(self._begun)

    @property
    def is_finished(self) -> bool:
        """Whether all rounds of the account have been run."""
        return self.round_number >= self.account.rounds

    def snapshot(self) -> Snapshot:
        """Returns what another run needs to go on where this one is.

        Returns:
          The state, the history, and how many rounds have been begun.
        """
        return Snapshot(state=self.state, history=self.history, begun=self._begun)

    def step(self) -> Sequence[RoundRecord]:
        """Charges the next rounds, draws their cohorts, and runs them.

        Returns:
          The records of these rounds.

        Raises:
          AccountingError: There are no more rounds; or the step before has failed, so that rounds are
            charged which cannot be told from those that would be run now.
          LedgerError: The rounds could not be charged, and were not run.
          ComputationError: A client's computation fails.
        """
        state, done = self._reached
        self._check_step()
        first, count = _next_rounds(done, self.account.rounds, fuse=self._fuse)
        last = first + count - 1
        self._begun = last
        self.account.charge(first, count)  # before anything of these rounds can be seen
        root, process = self.account.root, self.setup.process
        cohorts = [self.setup.draw(number, root) for number in range(first, last + 1)]
        if count == 1:
            output = process.next(state, cohorts[0])
            state, outputs = output.state, [output.metrics]
        else:
            state, outputs = iterate(process.next, state, cohorts)
        records = [
            round_record(
                number,
                self.account.bound_after(number),
                measured if self.setup.release else None,
                covered=self.setup.covered,
            )
            for number, measured in enumerate(outputs, first)
        ]
        self._records += records
        self._reached = state, last
        return records

    def _check_step(self) -> None:
        if self.is_finished:
            raise AccountingError(
                f"Round {self.round_number + 1} is outside of the run: expected at most its "
                f"{self.account.rounds} rounds. Begin another run for more of them."
            )
        if self._begun != self.round_number:
            raise AccountingError(_unfinished(self.round_number, self._begun))


def _check_start(start: Snapshot, account: Account) -> None:
    numbers, done = [record.round_number for record in start.history], start.round_number
    if numbers != [*range(1, done + 1)] or done > account.rounds:
        raise ArgumentError(
            f"start has records of the rounds {numbers[:3]} to {numbers[-1:]}: expected those of "
            f"rounds 1 to k, each once, and k at most {account.rounds}. Pass a snapshot of this run."
        )
    if start.begun != done:
        raise AccountingError(_unfinished(done, start.begun))
    if done and account.book is not None and account.book.last_round != done:
        raise ArgumentError(
            f"start has rounds 1 to {done}, and the last round in the ledger is "
            f"{account.book.last_round}: expected the same. Pass the snapshot that was taken after the "
            "last round in the ledger, or begin another run."
        )


def _unfinished(done: int, begun: int) -> str:
    return (
        f"Rounds {done + 1} to {begun} are charged and did not come to their end: run again, they would "
        f"spend more than their charge. Begin another run from the model of round {done}, which counts "
        "what this one has spent by its ledger or by spent_before."
    )


def _next_rounds(done: int, rounds: int, *, fuse: bool) -> tuple[int, int]:
    """Returns the first round of the next step, and how many rounds the step has.

    Fused rounds cost a compilation once and save a millisecond each, which only many rounds repay.

    Args:
      done: Rounds that have been run; fewer than `rounds`.
      rounds: All rounds of the run.
      fuse: Whether a step may have several rounds.
    """
    size, single = _FUSED, rounds
    if fuse and rounds >= _FUSED_FROM:
        # XLA makes a graph for each size of call: one size, with next to nothing left over.
        size = min(range(_FUSED, _FUSED // 2, -1), key=lambda each: rounds % each)
        single = rounds % size
    is_fused = done >= single and (done - single) % size == 0
    return done + 1, size if is_fused else 1
