"""Training metrics that are released with separate noise."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import ClassVar

from tff_dp import _checks
from tff_dp.config import Config
from tff_dp.errors import ArgumentError


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrivateMetric(Config):
    """A metric of the clients' training whose mean over the clients is released after each round.

    What it protects: the whole contribution of one client to one round's mean.

    Formal guarantee: a client's own value (its loss over all its batches, say) is clipped to [0, B],
    B = `clip_value`, so that it moves the sum over clients by at most B. The sum gets Gaussian
    noise of standard deviation z B / sqrt(s), and the updates that of noise multiplier
    z / sqrt(1 - S), where s = `budget_fraction` and S is the sum of all metrics' fractions: together
    they are one Gaussian mechanism of the plan's noise multiplier z, under the plan's sampling.

    Edge cases: a value that is not a number (NaN) counts as 0. The noised sum is divided by the
    public expected number of clients, so that the mean is too small in a small Poisson cohort and
    too large in a large one; noise may make it negative.

    Source: composition of Gaussian mechanisms: Mironov, "Rényi Differential Privacy", arXiv:1702.07476,
    propositions 1 and 7; the split is that of Andrew et al., arXiv:1905.03871, theorem 1.

    Args:
      name: The metric's name: "loss", or one of the model's own.
      clip_value: B, in units of the metric; in [1e-30, 1e30]. Larger values are clipped to it.
      budget_fraction: s in [1e-6, 1), the fraction of the budget, measured in inverse squared noise
        multipliers, that this metric takes.

    Raises:
      ArgumentError: A value is outside its bound.
    """

    stored_as: ClassVar[Mapping[str, str]] = MappingProxyType(
        {"clip_value": "largest", "budget_fraction": "share"}
    )

    name: str
    clip_value: float
    budget_fraction: float = 0.02

    def __post_init__(self) -> None:
        _checks.instance("name", self.name, str, "It is a metric's, such as 'loss'.")
        _checks.real(
            "clip_value", self.clip_value, "[1e-30, 1e30]", "It bounds one client's value."
        )
        _checks.real(
            "budget_fraction",
            self.budget_fraction,
            "[1e-6, 1)",
            "It is this metric's part of the budget.",
        )

    def stddev(self, noise_multiplier: float) -> float:
        """Returns the standard deviation of the noise on the sum over the clients.

        Args:
          noise_multiplier: z, the noise multiplier of the plan's mechanism, without unit.

        Returns:
          z B / sqrt(s), in units of the metric.
        """
        return noise_multiplier * self.clip_value / math.sqrt(self.budget_fraction)


def check_metrics(metrics: object) -> tuple[PrivateMetric, ...]:
    """Checks the metrics of a plan.

    Args:
      metrics: An iterable of `PrivateMetric`.

    Returns:
      The metrics as a tuple.

    Raises:
      ArgumentError: It is not an iterable of `PrivateMetric`, two metrics have the same name, or
        their fractions add up to 1 or more, which leaves no budget for the updates.
    """
    name = metrics if isinstance(metrics, str) else getattr(metrics, "name", "loss")
    remedy = (
        f"Each has a bound of its own: metrics=(PrivateMetric(name={name!r}, clip_value=10.0),)."
    )
    if isinstance(metrics, str) or not isinstance(metrics, Iterable):
        raise ArgumentError(
            f"metrics={metrics!r} is outside its bound: expected a tuple of PrivateMetric. {remedy}"
        )
    found = tuple(_checks.instance("metrics", each, PrivateMetric, remedy) for each in metrics)
    names = [metric.name for metric in found]
    if len(set(names)) < len(names):
        raise ArgumentError(f"metrics={found!r} have a name twice: give each one once.")
    _checks.real(
        "the sum of all budget_fractions of metrics",
        sum(metric.budget_fraction for metric in found),
        "[0, 1)",
        "Something has to be left for the updates.",
    )
    return found
