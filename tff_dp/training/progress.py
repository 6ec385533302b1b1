"""The record of a round, and the progress bar that shows it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

from tff_dp.accounting.report import format_epsilon
from tff_dp.training.results import RoundRecord


def round_record(round_number: int, epsilon: float, metrics: Any, *, covered: bool) -> RoundRecord:
    """Makes the record of a round.

    Args:
      round_number: The round, from 1.
      epsilon: An upper bound on the epsilon spent after the round.
      metrics: The metrics that the process has returned for the round; None if they are not
        released.
      covered: Whether the plan's epsilon covers them.

    Returns:
      The record.
    """
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
    """Shows a progress bar, which stays visible on exit.

    Args:
      rounds: The number of rounds to run.
      total: The joint epsilon of all rounds of the run and of earlier charges.
      show: Whether to show a bar at all.

    Yields:
      A function that advances the bar by one round and shows the record of that round.
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
