"""The self-test of distributed plans: integers that clients send, and the noise in the sum of them.

Clients round at random, rotate by signs that change in each round, and the sum has no density: of what
other plans are tested for, this is what can be measured. Sums of squares are, as no rotation changes
them; where the model's dimension is no power of two, the next one is tested, on the same grid.
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
    "noise: its distribution and freshness, which a rotation by new signs in each round hides; where "
    "its random bits come from is checked",
    "the tail of the noise: it is drawn in whole numbers by TensorFlow, not from words that can be given",
    "the learning processes of FedAvg and FedSGD: their model has another dimension than the plan's; "
    "the aggregator alone is tested",
)
_MOST = 2**22  # integers that all clients send in a round together
_LEAST_LOG, _LARGEST_LOG = 6, 14
_SAMPLE = 2**14  # integers of sums, in all rounds
_ROUNDS = 8, 64  # the fewest and the most
_SELDOM = 1e-3  # how often sums may wrap around, so that they still say what was divided
_ROUNDING = 1e-4  # float32's, in norms of results
_UNIT = "of what is allowed"


class Setting:
    """What the parts of a distributed self-test have in common.

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
                f"{mechanism.dimension} weights: a grid for {self.dimension} was tested in its place"
            )
        if mechanism.modclip_prob > _SELDOM:
            self.untested.append("denominator: sums wrap around too often to tell")

        if is_managed(tff.framework.get_context_stack().current):
            self.parts = {"provenance": lambda: provenance_part(self)}
            self.untested.append("sensitivity and noise: stock TFF has no secure sums to run")

    @property
    def noised(self) -> list[Aggregator]:
        """What draws noise."""
        return [self.noisy[0]]

    def aggregator(self, noise_multiplier: float) -> tuple[Aggregator, Any]:
        """Returns an aggregator over one tensor of a dimension, and its grid."""
        mechanism = dataclasses.replace(
            self.mechanism, noise_multiplier=noise_multiplier, dimension=self.dimension
        )
        plan = dataclasses.replace(self.plan, mechanism=mechanism)
        return Aggregator(plan, {}, [self.dimension]), mechanism.grid(self.clients)

    @functools.cached_property
    def silent(self) -> tuple[Aggregator, Any]:
        """Without noise."""
        return self.aggregator(0.0)

    @functools.cached_property
    def noisy(self) -> tuple[Aggregator, Any]:
        """With the plan's noise."""
        return self.aggregator(self.mechanism.noise_multiplier)

    def in_steps(self, part: np.ndarray, grid: Any) -> np.ndarray:
        """Returns a mean as the sum of the integers, rotated, in steps of the grid."""
        return np.asarray(part * (self.clients / self.mechanism.clip_norm * grid.scale), float)


def influence_part(of: Setting) -> Iterator[Check]:
    """Yields the checks of what one client sends, and that no sum of too few clients is released."""
    aggregator, grid = of.silent
    state = aggregator.start()
    zero = [np.zeros(of.dimension, np.float32)]
    for name, update in hostile_updates(of.mechanism.clip_norm, of.dimension).items():
        clients = [zero] * (of.clients - 1) + [[update]]
        try:
            (part,) = aggregator.round_of(state, clients).mean
            norm = float(np.linalg.norm(of.in_steps(part, grid)))
        except ComputationError:  # a client that can stop a round
            norm = math.inf
        yield Check(
            name=f"sensitivity: {name}",
            measured=norm / grid.l2_sensitivity,  # zeros stay zero when they are rounded
            low=-math.inf,
            high=1 + _ROUNDING,
            unit=_UNIT,
        )
    if of.mechanism.modclip_prob <= _SELDOM:
        yield _denominator(of)
    yield _too_few(of)


def hostile_updates(clip_norm: float, dimension: int) -> dict[str, np.ndarray]:
    """Returns the updates of hostile clients by name, float32 [dimension]."""
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
    # Rounding of all clients' coordinates is off by less than a step each.
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
        # Another failure says nothing of this.
        released = float("fewer than the" not in str(error))
    return Check(
        name="noise: no sum of too few clients is released",
        measured=released,
        low=-math.inf,
        high=0.0,
        unit="sums",
    )


def provenance_part(of: Setting) -> Iterator[Check]:
    """Yields the check of random bits."""
    yield provenance.keyed_check(of.noised, by_clients=True, alone=False)
    yield provenance.seed_check()


def noise_part(of: Setting) -> Iterator[Check]:
    """Yields the check of the noise's size, by its variance."""
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
    """Returns bounds on the mean square of independent noise of integers, in units of its variance.

    For Skellam noise, and for sums of discrete Gaussian noise, whose fourth moments and tails are no
    larger. A right sample is outside with probability at most `FALSE_POSITIVE`. Below, E exp(-t x^2) is
    at most exp(-t E x^2 + t^2 E x^4 / 2). Above, x is cut off where Chernoff's bound says that none of
    the sample gets to, and Bernstein's inequality does the rest.

    Args:
      variance: Of the noise, in steps squared; > 0.
      count: How many there are.
      wraps: How often one wraps around, which makes it smaller.

    Source: Boucheron, Lugosi and Massart, "Concentration Inequalities" (2013), section 2.8.
    """
    t = math.log(3 / FALSE_POSITIVE)
    fourth = 3 + 1 / variance  # E x^4 / variance^2
    # What wraps around takes E x^2 [it wraps] off, at most: Cauchy and Schwarz.
    low = 1 - math.sqrt(2 * t * fourth / count) - math.sqrt(2 * wraps * fourth)
    largest = _largest(variance, t + math.log(2 * count))
    linear = largest**2 / variance * t / 3
    high = 1 + (linear + math.sqrt(linear**2 + 2 * t * fourth * count)) / count
    return low, high


def _largest(variance: float, t: float) -> float:
    """Returns what Skellam noise exceeds with probability at most exp(-t) on a side, by Chernoff."""

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
