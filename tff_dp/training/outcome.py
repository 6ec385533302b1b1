"""The result of a run, whether it came to its end, was interrupted, or failed."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from tff_dp.charges import Charges
from tff_dp.ledger import Ledger
from tff_dp.model import BoundModel
from tff_dp.plan import NoPrivacy, PrivacyPlan
from tff_dp.process import model_weights
from tff_dp.provenance import mark
from tff_dp.training.results import FitResult, RoundRecord
from tff_dp.training.warm_start import elsewhere


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """What does not change while rounds are run.

    Attributes:
      process: The learning process.
      bound: The model.
      compile_model: Compiles a trained model with what it was trained with.
      privacy: The plan, or none.
      wanted: Rounds to run.
      stopped: Why these are not all that were asked for, or None.
      before: What had been spent on the data before.
      charged_before: How many rounds had been charged before.
      book: The ledger, or None.
      coins: As for `ChargedRun`.
      carried: What the model had spent before, by data set.
      disjoint_data: As for `fit`.
      ids: The clients, where each has a report of its own; else None.
      seeded: As for `FitResult`.
      noise_seeded: As for `FitResult`.
      random_bits: As for `FitResult`.
    """

    process: Any
    bound: BoundModel
    compile_model: Callable[[Any], None]
    privacy: PrivacyPlan | NoPrivacy
    wanted: int
    stopped: str | None
    before: Charges
    charged_before: int
    book: Ledger | None
    coins: str | None
    carried: Sequence[Charges]
    disjoint_data: bool
    ids: Sequence[str] | None
    seeded: bool
    noise_seeded: bool
    random_bits: str

    def result(
        self, state: Any, history: Sequence[RoundRecord], begun: int, why: str | None = None
    ) -> FitResult:
        """Returns the result of the rounds that have been run.

        Args:
          state: The process's state after them.
          history: Their records.
          begun: How many rounds have been begun. They are charged, whether or not they came to an end:
            what was computed in them may have been seen.
          why: Why not all rounds were run, where something came in between.
        """
        history = tuple(history)
        charges, stopped = self._charges(begun), self.stopped
        if why is not None:
            more = max(charges.rounds - self.charged_before - len(history), 0)
            stopped = f"Training {why} after {len(history)} of {self.wanted} rounds" + (
                f"; epsilon counts {more} more, which had been begun." if more else "."
            )
        if self.noise_seeded:
            history = tuple(
                dataclasses.replace(record, epsilon=math.inf, metrics_private=False)
                for record in history
            )
        others = elsewhere(
            self.carried,
            charges,
            private=isinstance(self.privacy, PrivacyPlan),
            disjoint_data=self.disjoint_data,
        )
        trained = self.bound.to_keras(model_weights(self.process, state))
        self.compile_model(trained)
        mark(trained, [*others, charges])
        spent, spent_by_client = None, None
        if isinstance(self.privacy, PrivacyPlan) and charges.runs and not self.noise_seeded:
            spent = charges.spent()
            if self.ids is not None:
                spent_by_client = dict(zip(self.ids, charges.spent_by_unit(), strict=True))
        return FitResult(
            model=trained,
            history=history,
            epsilon=spent.epsilon if spent else math.inf,
            spent=spent,
            privacy=self.privacy,
            charges=charges,
            other_data=others,
            seeded=self.seeded,
            noise_seeded=self.noise_seeded,
            stopped=stopped,
            spent_by_client=spent_by_client,
            random_bits=self.random_bits,
        )

    def attach_result(
        self, error: Exception, state: Any, history: Sequence[RoundRecord], begun: int
    ) -> None:
        """Gives an error the result of the rounds before it; the arguments are those of `result`."""
        with contextlib.suppress(Exception):  # the error itself is what has to be seen
            if not history and not self._charges(begun).runs:
                return  # nothing has been trained, and nothing charged
            lines = [type(error).__name__, *str(error).splitlines()[:1]]
            why = f"failed ({': '.join(lines)[:200].rstrip('.')})"
            error.result = self.result(state, history, begun, why)  # type: ignore[attr-defined]
            error.add_note(
                f"{len(history)} of {self.wanted} rounds had been run. The attribute `result` of this "
                "error holds their model, and what all rounds that were begun have spent."
            )

    def _charges(self, begun: int) -> Charges:
        if not isinstance(self.privacy, PrivacyPlan):
            return self.before
        if self.book is not None:
            charges = self.book.all_charges
        elif begun:
            charges = self.before.with_run(self.privacy, begun, self.coins)
        else:
            charges = self.before
        unbounded = self.before.unbounded or self.noise_seeded
        return dataclasses.replace(charges, unbounded=unbounded)
