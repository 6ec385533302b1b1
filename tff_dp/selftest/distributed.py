"""The self-test of distributed plans: the integers that clients send, and the noise in their sum.

Clients round at random and rotate by random signs that change in each round, and the sum has no
density. Of the properties that are tested for other plans, only some can therefore be measured.
Sums of squares can, since no rotation changes them. If the dimension of the model is not a power of
two, the next power of two is tested, on the same grid.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from tff_dp import _compat
from tff_dp.errors import ComputationError
from tff_dp.execution.stock import is_managed
from tff_dp.mechanisms import DistributedGaussianMechanism, DistributedMechanism
from tff_dp.plan import PrivacyPlan
from tff_dp.selftest import provenance
from tff_dp.selftest.noise import FALSE_POSITIVE
from tff_dp.selftest.probes import HOSTILE, Aggregator
from tff_dp.selftest.report import Check

tff = _compat.tff.load()

UNTESTED = (
    "noise: its distribution and freshness, which a rotation by new signs in each round hides; the "
    "source of its random bits is checked",
    "the tail of the noise: TensorFlow draws it in whole numbers, and not from words that can be chosen",
    "the learning processes of FedAvg and FedSGD: the test model has another dimension than the plan; "
    "only the aggregator is tested",
)
_MOST = 2**22  # integers that all clients together send in a round
_LEAST_LOG, _LARGEST_LOG = 6, 14  # logarithms of the dimension
_SAMPLE = 2**14  # integers of sums, in all rounds together
_ROUNDS = 8, 64  # the smallest and the largest number of rounds
_SELDOM = 1e-3  # the largest rate of wrapped sums for which the denominator can be measured
_ROUNDING = 1e-4  # roundoff of float32 in norms of results
_UNIT = "of what is allowed"


class Setting:
    """The common setting of the parts of a distributed self-test.

    Args:
      plan: The plan.
    """

    def __init__(self, plan: PrivacyPlan) -> None:
        mechanism = plan.mechanism
        assert isinstance(mechanism, DistributedMechanism)
        self.plan, self.mechanism, self.clients = plan, mechanism, int(plan.clients_per_round)
        padded = mechanism.grid(self.clients).padded_dimension
        room = max(int(math.log2(_MOST / self.clients)), _LEAST_LOG)
        self.dimension = min(padded, 2 ** min(room, _LARGEST_LOG))
        self.untested = list(UNTESTED)
        self.parts: Mapping[str, Callable[[], Iterator[Check]]] = {
            "influence": lambda: influence_part(self),
            "provenance": lambda: provenance_part(self),
            "noise": lambda: noise_part(self),
        }
        if self.dimension < padded:
            self.untested.append(
                f"{mechanism.dimension} weights: a grid for {self.dimension} was tested instead"
            )
        if mechanism.modclip_prob > _SELDOM:
            self.untested.append("denominator: sums wrap around too often to measure it")

        if is_managed(tff.framework.get_context_stack().current):
            self.parts = {"provenance": lambda: provenance_part(self)}
            self.untested.append("sensitivity and noise: stock TFF has no secure sums to run")

    @property
    def noised(self) -> list[Aggregator]:
        """The aggregator, which draws noise."""
        return [self.noisy[0]]

    def aggregator(self, noise_multiplier: float) -> tuple[Aggregator, Any]:
        """Makes an aggregator over one tensor of `dimension` coordinates.

        Args:
          noise_multiplier: z, instead of that of the plan.

        Returns:
          The aggregator, and the grid of the integers that clients send.
        """
        mechanism = dataclasses.replace(
            self.mechanism, noise_multiplier=noise_multiplier, dimension=self.dimension
        )
        plan = dataclasses.replace(self.plan, mechanism=mechanism)
        return Aggregator(plan, {}, [self.dimension]), mechanism.grid(self.clients)

    @functools.cached_property
    def silent(self) -> tuple[Aggregator, Any]:
        """The aggregator without noise, and its grid."""
        return self.aggregator(0.0)

    @functools.cached_property
    def noisy(self) -> tuple[Aggregator, Any]:
        """The aggregator with the noise of the plan, and its grid."""
        return self.aggregator(self.mechanism.noise_multiplier)

    def in_steps(self, part: np.ndarray, grid: Any) -> np.ndarray:
        """Converts a mean back to the sum of the integers, up to a rotation.

        Args:
          part: The mean, [dimension].
          grid: The grid.

        Returns:
          The sum, [dimension], in grid steps.
        """
        return np.asarray(part * (self.clients / self.mechanism.clip_norm * grid.scale), float)


def influence_part(of: Setting) -> Iterator[Check]:
    """Checks what one client sends, and that no sum of too few clients is released.

    Args:
      of: The setting.

    Yields:
      The checks.
    """
    aggregator, grid = of.silent
    state = aggregator.start()
    zero = [np.zeros(of.dimension, np.float32)]
    for name, update in hostile_updates(of.mechanism.clip_norm, of.dimension).items():
        clients = [zero] * (of.clients - 1) + [[update]]
        try:
            (part,) = aggregator.round_of(state, clients).mean
            norm = float(np.linalg.norm(of.in_steps(part, grid)))
        except ComputationError:  # the client was able to stop the round
            norm = math.inf
        yield Check(
            name=f"sensitivity: {name}",
            measured=norm / grid.l2_sensitivity,  # the other clients' zeros are rounded to zeros
            low=-math.inf,
            high=1 + _ROUNDING,
            unit=_UNIT,
        )
    if of.mechanism.modclip_prob <= _SELDOM:
        yield _denominator(of)
    yield _too_few(of)


def hostile_updates(clip_norm: float, dimension: int) -> dict[str, np.ndarray]:
    """Returns the updates of hostile clients.

    Args:
      clip_norm: C, the clip norm.
      dimension: The number of coordinates.

    Returns:
      The updates by name, float32 [dimension].
    """
    one = np.zeros(dimension, np.float32)
    one[0] = 1
    ones = np.ones(dimension, np.float32)
    bound = clip_norm / math.sqrt(dimension)
    found = {
        "norm 1e9": ones * np.float32(max(1e9, 10 * clip_norm)),
        "norm 1e9 in one coordinate": one * np.float32(max(1e9, 10 * clip_norm)),
        "overflowing norm": ones * np.float32(1e30),
        "NaN": np.where(one > 0, np.float32(np.nan), np.float32(bound)),
        "infinity": np.where(one > 0, np.float32(np.inf), np.float32(bound)),
        "zero": 0 * one,
        "at the bound": ones * np.float32(bound),
    }
    assert found.keys() == set(HOSTILE)
    return {name: update.astype(np.float32) for name, update in found.items()}


def _denominator(of: Setting) -> Check:
    aggregator, grid = of.silent
    state = aggregator.start()
    twin = np.full(of.dimension, 0.5 * of.mechanism.clip_norm / math.sqrt(of.dimension), np.float32)
    (part,) = aggregator.round_of(state, [[twin]] * of.clients).mean
    # Rounding changes each coordinate of each client by less than one step.
    slack = math.sqrt(of.dimension) * 2 / (0.5 * grid.scale) + _ROUNDING
    held = float(np.vdot(part, twin) / np.vdot(twin, twin))
    return Check(
        name="denominator: that of all clients alike",
        measured=of.clients / held if held else math.inf,
        low=of.clients / (1 + slack),
        high=of.clients / (1 - slack) if slack < 1 else math.inf,
        unit="clients",
    )


def _too_few(of: Setting) -> Check:
    aggregator, _ = of.noisy
    zero = [np.zeros(of.dimension, np.float32)]
    released = 1.0
    try:
        aggregator.round_of(aggregator.start(), [zero] * (of.clients - 1))
    except ComputationError as error:
        # Another failure does not show that this sum is refused.
        released = float("fewer than the" not in str(error))
    return Check(
        name="noise: no sum of too few clients is released",
        measured=released,
        low=-math.inf,
        high=0.0,
        unit="sums",
    )


def provenance_part(of: Setting) -> Iterator[Check]:
    """Checks the source of random bits.

    Args:
      of: The setting.

    Yields:
      The checks.
    """
    yield provenance.keyed_check(of.noised, by_clients=True, alone=False)
    yield provenance.seed_check()


def noise_part(of: Setting) -> Iterator[Check]:
    """Checks the size of the noise by its variance.

    Args:
      of: The setting.

    Yields:
      The check.
    """
    aggregator, grid = of.noisy
    state = aggregator.start()
    zeros = [[np.zeros(of.dimension, np.float32)]] * of.clients
    rounds = min(max(_SAMPLE // of.dimension, _ROUNDS[0]), _ROUNDS[1])
    total = 0.0
    for _ in range(rounds):
        done = aggregator.round_of(state, zeros)
        state = done.state
        total += float(np.sum(np.square(of.in_steps(done.mean[0], grid))))
    count = rounds * of.dimension
    stddev = grid.local_stddev
    if isinstance(of.mechanism, DistributedGaussianMechanism):
        stddev = math.ceil(stddev)
    variance = of.clients * stddev**2
    low, high = variance_bounds(variance, count, of.mechanism.modclip_prob)
    yield Check(
        name="noise: standard deviation",
        measured=math.sqrt(total / count / variance),
        low=math.sqrt(max(low, 0.0)) * (1 - _ROUNDING),
        high=math.sqrt(high) * (1 + _ROUNDING),
        unit="of the plan's (Bernstein)",
        false_positive=FALSE_POSITIVE,
    )


def variance_bounds(variance: float, count: int, wraps: float = 0.0) -> tuple[float, float]:
    """Returns bounds on the mean square of independent integer noise, in units of its variance.

    They hold for Skellam noise, and for sums of discrete Gaussian noise, whose fourth moments and
    tails are no larger. A correct sample is outside the bounds with probability at most
    `FALSE_POSITIVE`. The lower bound uses that E exp(-t x^2) is at most exp(-t E x^2 + t^2 E x^4 /
    2). For the upper bound, x is truncated at a value that no number of the sample reaches, by
    Chernoff's bound, and Bernstein's inequality is applied.

    Source: Boucheron, Lugosi and Massart, "Concentration Inequalities" (2013), section 2.8.

    Args:
      variance: The variance of the noise, in steps squared; > 0.
      count: The size of the sample.
      wraps: The probability that a number wraps around, which makes it smaller.

    Returns:
      The lower and the upper bound.
    """
    t = math.log(3 / FALSE_POSITIVE)
    fourth = 3 + 1 / variance  # E x^4 / variance^2
    # Wrapping around subtracts at most E x^2 [x wraps], bounded by the Cauchy-Schwarz inequality.
    low = 1 - math.sqrt(2 * t * fourth / count) - math.sqrt(2 * wraps * fourth)
    largest = _largest(variance, t + math.log(2 * count))
    linear = largest**2 / variance * t / 3
    high = 1 + (linear + math.sqrt(linear**2 + 2 * t * fourth * count)) / count
    return low, high


def _largest(variance: float, t: float) -> float:
    """Returns a value that Skellam noise exceeds with probability at most exp(-t), by Chernoff."""

    def exponent(x: float) -> float:
        s = math.asinh(x / variance)
        return s * x - variance * (math.cosh(s) - 1)

    high = math.sqrt(variance)
    while exponent(high) < t:
        high *= 2
    low = high / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if exponent(middle) < t else (low, middle)
    return high
