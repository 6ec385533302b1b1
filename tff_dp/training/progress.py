"""The progress of a run on the screen."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from tff_dp.accounting.report import format_epsilon
from tff_dp.execution import gpu_memory
from tff_dp.training.observers import Observer
from tff_dp.training.results import RoundRecord
from tff_dp.training.run import Run

_SHOWN = 4  # at most so many metrics are shown


def described(run: Run, record: RoundRecord) -> list[str]:
    """Describes a round: epsilon, loss, other metrics, validation.

    Args:
      run: The run.
      record: The record of the round.

    Returns:
      Short texts, the most important one first.
    """
    parts = []
    if math.isfinite(record.epsilon) and not run.account.noise_seeded:
        shown, of = (format_epsilon(e, 2) for e in (record.epsilon, run.account.total))
        parts.append(f"epsilon <= {shown} of {of}")
    values = dict(record.metrics or {})
    values.pop("num_examples", None)
    values |= record.validation or {}
    ordered = sorted(values, key=lambda name: name.removeprefix("val_") != "loss")
    return parts + [f"{name} {values[name]:.4g}" for name in ordered[:_SHOWN]]


class _Speed:
    """Measures how many clients train in a second, by the expected number of a round."""

    def __init__(self, run: Run) -> None:
        clients = run.setup.clients.num_clients
        self._expected = run.setup.privacy.sampler.expected_clients(clients)
        self._last = time.perf_counter()

    def after(self, rounds: int) -> str:
        now = time.perf_counter()
        elapsed, self._last = now - self._last, now
        return f"{rounds * self._expected / max(elapsed, 1e-9):.3g} clients/s"


def _standing(run: Run, record: RoundRecord, speed: str) -> str:
    """Returns a line about a round: what it has brought, the speed, and how full the GPUs are."""
    parts = [*described(run, record), speed, gpu_memory.of_context()]
    return ", ".join(part for part in parts if part)


class ProgressBar(Observer):
    """Shows a progress bar, which stays visible after the run; in a notebook, the notebook's bar."""

    period = 1

    def on_begin(self, run: Run) -> None:
        """Shows the bar.

        Args:
          run: The run.
        """
        from tqdm.auto import tqdm

        self._bar = tqdm(total=run.account.rounds, initial=run.round_number, unit="round")
        self._speed = _Speed(run)

    def after_step(self, run: Run, records: Sequence[RoundRecord]) -> None:
        """Advances the bar, and shows the last record.

        Args:
          run: The run.
          records: The records of the step's rounds.
        """
        text = _standing(run, records[-1], self._speed.after(len(records)))
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(len(records))

    def on_end(self, run: Run) -> None:
        """Leaves the bar as it is.

        Args:
          run: The run.
        """
        del run
        self._bar.close()


class ProgressLines(Observer):
    """Prints one line a round, for logs."""

    period = 1

    def on_begin(self, run: Run) -> None:
        """Starts the clock.

        Args:
          run: The run.
        """
        self._speed = _Speed(run)

    def after_step(self, run: Run, records: Sequence[RoundRecord]) -> None:
        """Prints the line of each round.

        Args:
          run: The run.
          records: The records of the step's rounds.
        """
        speed = self._speed.after(len(records))
        width = len(str(run.account.rounds))
        for record in records:
            text = _standing(run, record, speed)
            print(f"round {record.round_number:{width}}/{run.account.rounds}: {text}", flush=True)
