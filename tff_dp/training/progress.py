"""What is known after each round, and the bar that shows it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

from tff_dp.accounting.report import format_epsilon
from tff_dp.charges import Charges
from tff_dp.plan import NoPrivacy, PrivacyPlan
from tff_dp.training.results import RoundRecord


def round_record(
    round_number: int,
    privacy: PrivacyPlan | NoPrivacy,
    before: Charges,
    metrics: Any,
    *,
    covered: bool,
    total: float,
) -> RoundRecord:
    """Returns what is known after a round.

    Args:
      round_number: The round, from 1.
      privacy: The run's plan, or none.
      before: What had been spent on the data before the run.
      metrics: The process's metrics of the round, or None where they are not released.
      covered: Whether the plan's epsilon covers them.
      total: What all rounds of the run and those before it spend. Whoever sees all rounds sees the
        first ones, so that these spend no more: it bounds the quick accountant's larger values.
    """
    epsilon = math.inf
    if isinstance(privacy, PrivacyPlan) and privacy.mechanism.noise_multiplier > 0:
        epsilon = float(min(before.with_run(privacy, round_number).quick_epsilon(), total))
    values = None
    if metrics is not None:
        train = metrics["client_work"]["train"] if "client_work" in metrics else {}
        values = {name: float(value) for name, value in train.items()}
    return RoundRecord(
        round_number=round_number,
        epsilon=epsilon,
        metrics=values,
        metrics_private=covered and values is not None,
    )


@contextlib.contextmanager
def progress_bar(rounds: int, total: float, show: bool) -> Iterator[Callable[[RoundRecord], None]]:
    """Shows a bar that stays when the block is left.

    Args:
      rounds: That are to be run.
      total: As for `round_record`.
      show: Whether there is a bar at all.

    Yields:
      A function that shows the record of a round.
    """
    if not show:
        yield lambda record: None
        return
    import tqdm

    with tqdm.tqdm(total=rounds, unit="round") as bar:

        def advance(record: RoundRecord) -> None:
            parts = []
            if not math.isinf(record.epsilon):
                shown, of = (format_epsilon(value, 2) for value in (record.epsilon, total))
                parts.append(f"epsilon <= {shown} of {of}")
            if record.metrics and "loss" in record.metrics:
                parts.append(f"loss {record.metrics['loss']:.4g}")
            bar.set_postfix_str(", ".join(parts), refresh=False)
            bar.update()

        yield advance
