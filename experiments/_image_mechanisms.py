"""The client-level mechanisms that can train on images, each with the sampler that its accounting needs.

What every one of them adds to the model is noise on the running sum of the average updates, since
server SGD adds up the averages. `noise_of` says how much that is, by formula, and
`experiments.images_mechanisms` compares it with what the models are worth.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import cast

import tff_dp
from tff_dp.mechanisms.strategy import banded_strategy, running_sum_error

_BANDS = (2, 5, 10, 20, 50, 100)  # candidates of "banded, sampled"
_INITIAL_CLIP_NORM = 0.3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Population:
    """What plans have in common.

    Attributes:
      clients: N.
      cohort: m, a whole number of clients a round, or the expected one.
      rounds: T.
      delta: Of each epsilon.
      dimension: The model's weights.
    """

    clients: int
    cohort: int
    rounds: int
    delta: float
    dimension: int

    @property
    def separation(self) -> int:
        """The largest number of rounds that all clients can wait between two participations."""
        return self.clients // self.cohort

    def plan(
        self, mechanism: tff_dp.mechanisms.Mechanism, sampler: tff_dp.sampling.Sampler
    ) -> tff_dp.PrivacyPlan:
        """Returns the plan of a mechanism and a sampler.

        Args:
          mechanism: The mechanism.
          sampler: The sampler.
        """
        return tff_dp.PrivacyPlan(
            mechanism=mechanism, sampler=sampler, population=self.clients, rounds=self.rounds,
            delta=self.delta,
        )  # fmt: skip

    @property
    def poisson(self) -> tff_dp.sampling.Sampler:
        """Everybody takes part in every round with one probability."""
        return tff_dp.PoissonSampler(rate=self.cohort / self.clients)

    @property
    def apart(self) -> tff_dp.sampling.Sampler:
        """Nobody takes part again before everybody could have."""
        return tff_dp.MinSeparationSampler(size=self.cohort, min_separation=self.separation)

    @property
    def fixed(self) -> tff_dp.sampling.Sampler:
        """Every round has as many clients, drawn without replacement."""
        return tff_dp.FixedSizeSampler(size=self.cohort)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of mechanism.

    Attributes:
      bound: What is tuned of it: "clip norm" (L2), "L1 clip norm", or "quantile".
      plan: From what plans have in common, an epsilon and the bound to the plan with the smallest
        noise.
      noise: From a plan to the standard deviation of the noise on one weight of the running sum of
        average updates, root mean square over rounds, in clip norms.
    """

    bound: str
    plan: Callable[[Population, float, float], tff_dp.PrivacyPlan]
    noise: Callable[[tff_dp.PrivacyPlan], float]


def plan_of(name: str, population: Population, epsilon: float, bound: float) -> tff_dp.PrivacyPlan:
    """Returns the plan with the smallest noise that stays within an epsilon.

    Args:
      name: One of `KINDS`.
      population: What plans have in common.
      epsilon: The target.
      bound: The clip norm, or the quantile, as the kind has it.
    """
    return KINDS[name].plan(population, epsilon, bound)


def noise_of(name: str, plan: tff_dp.PrivacyPlan) -> float:
    """Returns the noise in the model.

    Args:
      name: One of `KINDS`.
      plan: Its plan.

    Returns:
      The standard deviation of the noise on one weight of the running sum of average updates, root
      mean square over rounds, in clip norms of the mechanism.
    """
    return KINDS[name].noise(plan)


def tree_error(rounds: int) -> float:
    """Returns the noise of running sums by tree aggregation.

    Args:
      rounds: T.

    Returns:
      The root mean square over T running sums, in standard deviations of the noise of one node. A
      complete subtree of 2^h rounds, estimated from all of its nodes, has the variance 1 / (2 - 2^-h).

    Source: Honaker, "Efficient Use of Differentially Private Binary Trees" (2015), the estimator from
      below.
    """
    variances = [
        sum(1 / (2 - 2.0**-h) for h in range(t.bit_length()) if t >> h & 1)
        for t in range(1, rounds + 1)
    ]
    return math.sqrt(sum(variances) / rounds)


def _calibrated(
    mechanism: Callable[[Population, float], tff_dp.mechanisms.Mechanism],
    sampler: Callable[[Population], tff_dp.sampling.Sampler],
) -> Callable[[Population, float, float], tff_dp.PrivacyPlan]:
    """Returns a function that calibrates once for all bounds, since the noise is in units of them."""

    @functools.cache
    def noise_multiplier(population: Population, epsilon: float) -> float:
        plan = population.plan(mechanism(population, 0.5), sampler(population))
        return plan.calibrated(epsilon).mechanism.noise_multiplier

    def plan(population: Population, epsilon: float, bound: float) -> tff_dp.PrivacyPlan:
        made = mechanism(population, bound).with_noise(noise_multiplier(population, epsilon))
        return population.plan(made, sampler(population))

    return plan


@functools.cache
def _sampled_bands(population: Population, epsilon: float) -> tuple[int, float]:
    """Returns the bands with the least noise in the model, and its noise multiplier; no data decide."""
    found = []
    for bands in (b for b in _BANDS if b <= min(population.separation, population.rounds)):
        plan = _sampled_plan(population, bands, 0.5, 1.0).calibrated(epsilon)
        found.append((_banded_noise(plan), bands, plan.mechanism.noise_multiplier))
    _, bands, z = min(found)
    return bands, z


def _sampled_plan(
    population: Population, bands: int, clip_norm: float, z: float
) -> tff_dp.PrivacyPlan:
    rate = bands * population.cohort / population.clients
    return population.plan(
        tff_dp.BandedMechanism(clip_norm=clip_norm, noise_multiplier=z, bands=bands),
        tff_dp.CyclicPoissonSampler(rate=rate, cycle=bands),
    )


def _banded_sampled(population: Population, epsilon: float, bound: float) -> tff_dp.PrivacyPlan:
    bands, z = _sampled_bands(population, epsilon)
    return _sampled_plan(population, bands, bound, z)


def _gaussian(_: Population, bound: float) -> tff_dp.mechanisms.Mechanism:
    return tff_dp.GaussianMechanism(clip_norm=bound, noise_multiplier=1.0)


def _adaptive(_: Population, bound: float) -> tff_dp.mechanisms.Mechanism:
    return tff_dp.AdaptiveGaussianMechanism(
        noise_multiplier=1.0, initial_clip_norm=_INITIAL_CLIP_NORM, target_quantile=bound
    )


def _tree(_: Population, bound: float) -> tff_dp.mechanisms.Mechanism:
    return tff_dp.TreeMechanism(clip_norm=bound, noise_multiplier=1.0)


def _banded(population: Population, bound: float) -> tff_dp.mechanisms.Mechanism:
    bands = min(population.separation, population.rounds)
    return tff_dp.BandedMechanism(clip_norm=bound, noise_multiplier=1.0, bands=bands)


def _skellam(population: Population, bound: float) -> tff_dp.mechanisms.Mechanism:
    return tff_dp.DistributedSkellamMechanism(
        clip_norm=bound, noise_multiplier=1.0, dimension=population.dimension
    )


def _laplace(_: Population, bound: float) -> tff_dp.mechanisms.Mechanism:
    return tff_dp.LaplaceMechanism(clip_norm=bound, noise_multiplier=1.0)


def _local(_: Population, bound: float) -> tff_dp.mechanisms.Mechanism:
    return tff_dp.LocalGaussianMechanism(clip_norm=bound, noise_multiplier=1.0)


def _independent(plan: tff_dp.PrivacyPlan, deviation: float | None = None) -> float:
    """Returns the noise of running sums of independent noise, of a deviation on each sum of updates."""
    deviation = plan.mechanism.noise_multiplier if deviation is None else deviation
    return deviation * math.sqrt((plan.rounds + 1) / 2) / plan.clients_per_round


def _banded_noise(plan: tff_dp.PrivacyPlan) -> float:
    bands = cast(tff_dp.BandedMechanism, plan.mechanism).bands
    error = running_sum_error(banded_strategy(bands, plan.rounds), plan.rounds)
    return plan.mechanism.noise_multiplier * error / plan.clients_per_round


def _tree_noise(plan: tff_dp.PrivacyPlan) -> float:
    return plan.mechanism.noise_multiplier * tree_error(plan.rounds) / plan.clients_per_round


def _adaptive_noise(plan: tff_dp.PrivacyPlan) -> float:
    mechanism = cast(tff_dp.AdaptiveGaussianMechanism, plan.mechanism)
    return _independent(plan, mechanism.value_noise_multiplier(plan.clients_per_round))


def _laplace_noise(plan: tff_dp.PrivacyPlan) -> float:
    return _independent(plan, math.sqrt(2) * plan.mechanism.noise_multiplier)


def _local_noise(plan: tff_dp.PrivacyPlan) -> float:
    return _independent(plan, plan.mechanism.noise_multiplier * math.sqrt(plan.clients_per_round))


KINDS = {
    "Gaussian": Kind(
        bound="clip norm", noise=_independent,
        plan=_calibrated(_gaussian, lambda population: population.poisson),
    ),
    "Gaussian, fixed size": Kind(
        bound="clip norm", noise=_independent,
        plan=_calibrated(_gaussian, lambda population: population.fixed),
    ),
    "Gaussian, adaptive": Kind(
        bound="quantile", noise=_adaptive_noise,
        plan=_calibrated(_adaptive, lambda population: population.poisson),
    ),
    "tree": Kind(
        bound="clip norm", noise=_tree_noise,
        plan=_calibrated(_tree, lambda population: population.apart),
    ),
    "banded": Kind(
        bound="clip norm", noise=_banded_noise,
        plan=_calibrated(_banded, lambda population: population.apart),
    ),
    "banded, sampled": Kind(bound="clip norm", noise=_banded_noise, plan=_banded_sampled),
    "Skellam": Kind(
        bound="clip norm", noise=_independent,
        plan=_calibrated(_skellam, lambda population: population.fixed),
    ),
    "Laplace": Kind(
        bound="L1 clip norm", noise=_laplace_noise,
        plan=_calibrated(_laplace, lambda population: population.poisson),
    ),
    "local Gaussian": Kind(
        bound="clip norm", noise=_local_noise,
        plan=_calibrated(_local, lambda population: population.apart),
    ),
}  # fmt: skip
