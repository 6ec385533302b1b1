"""A run: the state of training, and the step to the next rounds."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from tff_dp.charges import Charges
from tff_dp.errors import AccountingError, ArgumentError, LedgerError
from tff_dp.execution import iterate
from tff_dp.training.budget import Account
from tff_dp.training.results import RoundRecord, round_record
from tff_dp.training.setup import Setup

_FUSED = 64  # largest number of rounds in one graph call
_FUSED_FROM = 256  # smallest number of rounds of a run for which rounds are fused


@dataclasses.dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The part of a run that changes from step to step; the rest follows from its `Setup` and `Account`.

    Under `TreeMechanism` and `BandedMechanism` the state contains the noise of released rounds, so
    that it is as secret as the data.

    Attributes:
      state: The state of the process after the last completed round.
      history: The records of the completed rounds, from round 1 on.
      begun: The number of rounds that have been started and charged. It exceeds `round_number`
        after a step that has failed or was interrupted.
    """

    state: Any
    history: tuple[RoundRecord, ...] = ()
    begun: int = 0

    @property
    def round_number(self) -> int:
        """The last completed round; 0 if there is none."""
        return len(self.history)


class Run:
    """Training, one step at a time.

    A step is one round, or several rounds that are fused into one graph call. The rounds are
    charged, their cohorts are drawn, the rounds are run, and their records are stored. If a step is
    interrupted, the state, the round number and the history are those of the last completed step,
    while the rounds of the interrupted step stay charged.

    A run can be continued from any step: `Run(setup, account, run.snapshot())` continues `run`. The
    cohort of a round depends only on the account's `root` and on the round number, not on earlier
    draws, so that a process without noise arrives at the same weights as `run`: to the last bit if
    the same graphs run, as they do without XLA, and otherwise up to the order of floating-point
    operations, since XLA's graphs are used from a number of rounds on that counts from the start.

    Args:
      setup: The prepared arguments of `fit`.
      account: The budget of the run, and where it is charged. Its `before` does not include the
        charges under its `run`.
      start: The snapshot to continue from; by default, the run starts before the first round with
        the initial weights of the model.
      period: No step contains rounds on both sides of a round whose number is a multiple of this; 1
        for steps of one round. By default, steps may have any number of rounds.

    Attributes:
      setup: The argument `setup`.
      account: The argument `account`.
      validation_charges: What evaluations of held-out clients have spent.

    Raises:
      ArgumentError: The records in `start` are not those of rounds 1 to k, or k exceeds the rounds
        of the account, or k is not the last round that the ledger has of the run.
      AccountingError: `start` was taken after a step that had failed or was interrupted.
    """

    def __init__(
        self,
        setup: Setup,
        account: Account,
        start: Snapshot | None = None,
        *,
        period: int | None = None,
    ) -> None:
        if start is None:
            start = Snapshot(state=setup.first_state())
        _check_start(start, account)
        self.setup, self.account, self._period = setup, account, period
        self._records = list(start.history)
        # State and round number are assigned as one value, so that they agree after an interrupt.
        self._reached = start.state, start.round_number
        self._begun = start.begun
        self._ended: str | None = None
        self.validation_charges = Charges()

    @property
    def state(self) -> Any:
        """The state of the process after the last completed round."""
        return self._reached[0]

    @property
    def round_number(self) -> int:
        """The last completed round; 0 if there is none."""
        return self._reached[1]

    @property
    def history(self) -> tuple[RoundRecord, ...]:
        """The records of the completed rounds."""
        return tuple(self._records[: self.round_number])

    @property
    def charges(self) -> Charges:
        """All known charges on the data. A round counts as soon as it has been started."""
        return self.account.charges(self._begun)

    @property
    def is_finished(self) -> bool:
        """Whether all rounds of the account have been run, or the run has been ended early."""
        return self.round_number >= self.account.rounds or self._ended is not None

    @property
    def ended(self) -> str | None:
        """Why the run was ended before all of its rounds were run; None if it was not."""
        return self._ended

    def end(self, why: str) -> None:
        """Ends the run early: there are no more steps.

        Args:
          why: The reason, which completes the sentence "Training ... after k of n rounds", such as
            "was stopped by EarlyStopping".
        """
        self._ended = why

    def replace_state(self, state: Any) -> None:
        """Replaces the state of the last completed round, for example by one with other learning rates.

        Args:
          state: A state of the process. The guarantee of the plan holds only if its weights, its
            clip norm and its noise are those of the state that it replaces, or follow from what has
            been released.
        """
        self._reached = state, self.round_number

    def amend(self, record: RoundRecord) -> None:
        """Replaces the record of the last completed round, for example by one with validation metrics.

        Args:
          record: The new record.

        Raises:
          ArgumentError: It is the record of another round.
        """
        if record.round_number != self.round_number:
            raise ArgumentError(
                f"record is that of round {record.round_number}: expected that of the last completed "
                f"round, {self.round_number}. Change the record that the step has returned."
            )
        self._records[self.round_number - 1] = record

    def snapshot(self) -> Snapshot:
        """Takes a snapshot, from which another run can continue.

        Returns:
          The state, the history, and the number of rounds that have been started.
        """
        return Snapshot(state=self.state, history=self.history, begun=self._begun)

    def step(self) -> Sequence[RoundRecord]:
        """Charges the next rounds, draws their cohorts, and runs them.

        Returns:
          The records of these rounds.

        Raises:
          AccountingError: All rounds have been run; or the previous step has failed, so that its
            rounds are charged and running them again would exceed their charge.
          LedgerError: The rounds could not be charged, and were not run.
          ComputationError: A client's computation fails.
        """
        state, done = self._reached
        self._check_step()
        first, count = _next_rounds(done, self.account.rounds, self._period)
        last = first + count - 1
        self._begun = last
        try:
            self.account.charge(first, count)  # before any result of these rounds can be observed
        except (AccountingError, LedgerError):
            self._begun = done  # these rounds are not run; what is on the disk, the ledger knows
            raise
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
        if self._ended is not None:
            raise AccountingError(
                f"The run has ended after round {self.round_number}: it {self._ended}. Begin another run "
                "for more rounds."
            )
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
    if account.plan is not None and account.last_charged != done:
        where = "in the ledger" if account.book is not None else "of the account"
        raise ArgumentError(
            f"start has rounds 1 to {done}, and the last round {where} is {account.last_charged}: "
            f"expected the same. Pass the snapshot that was taken after the last round {where}, or "
            "begin another run."
        )


def _unfinished(done: int, begun: int) -> str:
    return (
        f"Rounds {done + 1} to {begun} are charged and did not come to their end: run again, they would "
        f"spend more than their charge. Begin another run from the model of round {done}, which counts "
        "what this one has spent by its ledger or by spent_before."
    )


def _next_rounds(done: int, rounds: int, period: int | None) -> tuple[int, int]:
    """Returns the first round of the next step, and the number of rounds in the step.

    Fusing rounds requires one more compilation and saves about a millisecond a round, which pays
    off only for many rounds.

    Args:
      done: The number of completed rounds; less than `rounds`.
      rounds: The number of rounds of the run.
      period: As for `Run`.
    """
    if rounds < _FUSED_FROM:
        return done + 1, 1
    span = rounds if period is None else min(period, rounds)
    # XLA compiles a graph for each number of rounds in a call: use one size, which leaves few
    # single rounds in each span.
    smallest = min(span, _FUSED // 2 + 1)
    size = min(range(min(span, _FUSED), smallest - 1, -1), key=lambda each: span % each)
    place = done % span - span % size  # single rounds first
    fits = place >= 0 and place % size == 0 and done + size <= rounds
    return done + 1, size if fits else 1
