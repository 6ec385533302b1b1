"""Observers of a run, which act between its steps: progress, callbacks, validation, checkpoints."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence

from tff_dp.training.results import RoundRecord
from tff_dp.training.run import Run


class Observer:
    """Acts on a run before its first step, around each step, and after the last one.

    The methods of this class do nothing. An exception of a method ends the run like an exception of
    a round.

    Attributes:
      period: The observer acts after the rounds whose number is a multiple of this. No step contains
        rounds on both sides of such a round. None if it needs no particular rounds.
    """

    period: int | None = None

    def on_begin(self, run: Run) -> None:
        """Acts before the first step.

        Args:
          run: The run, which has completed `run.round_number` rounds if it was resumed.
        """

    def before_step(self, run: Run) -> None:
        """Acts before the rounds of a step are charged; for example, sets their learning rates.

        Args:
          run: The run.
        """

    def after_step(self, run: Run, records: Sequence[RoundRecord]) -> None:
        """Acts after a step; for example, adds to its last record, or stops the run.

        Args:
          run: The run.
          records: The records of the step's rounds.
        """

    def on_end(self, run: Run) -> None:
        """Acts after the last step, also if the run ends early or with an exception.

        Args:
          run: The run.
        """


def common_period(observers: Sequence[Observer]) -> int | None:
    """Returns a number of rounds after which a step has to end for all observers.

    Args:
      observers: The observers of a run.

    Returns:
      The greatest common divisor of their periods, in rounds; None if none has a period.
    """
    periods = [each.period for each in observers if each.period is not None]
    return math.gcd(*periods) if periods else None


@contextlib.contextmanager
def observed(run: Run, observers: Sequence[Observer]) -> Iterator[None]:
    """Begins the observers in their order, and ends those that have begun in the opposite order.

    Args:
      run: The run.
      observers: Its observers.

    Yields:
      None. The steps are run inside.
    """
    with contextlib.ExitStack() as stack:
        for each in observers:
            each.on_begin(run)
            stack.callback(each.on_end, run)
        yield


def observed_step(run: Run, observers: Sequence[Observer]) -> None:
    """Runs one step of a run with its observers, in their order.

    Args:
      run: The run.
      observers: Its observers.

    Raises:
      AccountingError: As for `Run.step`.
      LedgerError: As for `Run.step`.
      ComputationError: As for `Run.step`.
    """
    for each in observers:
        each.before_step(run)
    count = len(run.step())
    for each in observers:
        each.after_step(run, run.history[-count:])  # with what observers have added
