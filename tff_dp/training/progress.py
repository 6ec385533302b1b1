"""The progress bar of a run."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tff_dp.accounting.report import format_epsilon
from tff_dp.training.observers import Observer
from tff_dp.training.results import RoundRecord
from tff_dp.training.run import Run


class ProgressBar(Observer):
    """Shows a progress bar, which stays visible after the run."""

    period = 1

    def on_begin(self, run: Run) -> None:
        """Shows the bar.

        Args:
          run: The run.
        """
        import tqdm

        self._bar = tqdm.tqdm(total=run.account.rounds, initial=run.round_number, unit="round")

    def after_step(self, run: Run, records: Sequence[RoundRecord]) -> None:
        """Advances the bar, and shows the last record.

        Args:
          run: The run.
          records: The records of the step's rounds.
        """
        record, parts = records[-1], []
        if not math.isinf(record.epsilon):
            shown, of = (format_epsilon(e, 2) for e in (record.epsilon, run.account.total))
            parts.append(f"epsilon <= {shown} of {of}")
        if record.metrics and "loss" in record.metrics:
            parts.append(f"loss {record.metrics['loss']:.4g}")
        self._bar.set_postfix_str(", ".join(parts), refresh=False)
        self._bar.update(len(records))

    def on_end(self, run: Run) -> None:
        """Leaves the bar as it is.

        Args:
          run: The run.
        """
        del run
        self._bar.close()
