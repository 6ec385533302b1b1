"""The wrong epsilons, each by the formula with which it is got.

Where a sound accountant is given the wrong thing, it is dp-accounting's, as others call it.
"""

from __future__ import annotations

import math

import dp_accounting
import numpy as np
from dp_accounting import NeighboringRelation, pld, rdp

from experiments.epsilon_cases import lower_bounds


def poisson(rate: float, z: float, rounds: int, delta: float) -> float:
    """Returns epsilon of Poisson-sampled Gaussian rounds, for a client that is added or removed.

    Args:
      rate: The sampling rate, in (0, 1].
      z: Noise multiplier, > 0.
      rounds: T >= 1.
      delta: In (0, 1).
    """
    accountant = pld.PLDAccountant()
    gaussian = dp_accounting.GaussianDpEvent(z)
    accountant.compose(dp_accounting.PoissonSampledDpEvent(rate, gaussian), rounds)
    return float(accountant.get_epsilon(delta))


def without_replacement(population: int, cohort: int, z: float, rounds: int, delta: float) -> float:
    """Returns what dp-accounting says of cohorts drawn without replacement, under replace-one.

    Its sensitivity is that of one clip norm, although a replaced client changes the sum by two.

    Args:
      population: N.
      cohort: Clients of a round, <= N.
      z: Noise multiplier, > 0.
      rounds: T >= 1.
      delta: In (0, 1).
    """
    accountant = rdp.RdpAccountant(neighboring_relation=NeighboringRelation.REPLACE_ONE)
    gaussian = dp_accounting.GaussianDpEvent(z)
    accountant.compose(
        dp_accounting.SampledWithoutReplacementDpEvent(population, cohort, gaussian), rounds
    )
    return float(accountant.get_epsilon(delta))


def replace_one(z: float, rounds: int, delta: float) -> float:
    """Returns what dp-accounting's RDP says of full participation, under replace-one.

    Args:
      z: Noise multiplier, > 0.
      rounds: T >= 1.
      delta: In (0, 1).
    """
    accountant = rdp.RdpAccountant(neighboring_relation=NeighboringRelation.REPLACE_ONE)
    accountant.compose(dp_accounting.GaussianDpEvent(z), rounds)
    return float(accountant.get_epsilon(delta))


def full(z: float, rounds: int, delta: float) -> float:
    """Returns the exact epsilon of Gaussian rounds in which every client participates.

    Args:
      z: Noise multiplier, > 0.
      rounds: T >= 1.
      delta: In (0, 1).
    """
    return lower_bounds.gaussian(math.sqrt(rounds) / z, delta)


def classic(z: float, delta: float) -> float:
    """Returns the epsilon of sigma = sqrt(2 log(1.25 / delta)) / epsilon, which holds up to 1 only.

    Args:
      z: Noise multiplier, > 0.
      delta: In (0, 1).
    """
    return math.sqrt(2 * math.log(1.25 / delta)) / z


def half_composition(epsilon: float, rounds: int, delta: float) -> float:
    """Returns advanced composition without its second term, T epsilon (e^epsilon - 1).

    Args:
      epsilon: Of one round.
      rounds: T >= 1.
      delta: In (0, 1).
    """
    return epsilon * math.sqrt(2 * rounds * math.log(1 / delta))


def conversion_by_order(z: float, rounds: int, delta: float) -> float:
    """Returns the RDP of Gaussian rounds, a T / 2 z^2, converted with log(1 / delta) / a.

    The denominator is a - 1.

    Args:
      z: Noise multiplier, > 0.
      rounds: T >= 1.
      delta: In (0, 1).
    """
    orders = np.concatenate([np.arange(1.01, 10, 0.01), np.arange(10, 512)])
    return float(np.min(orders * rounds / (2 * z**2) + math.log(1 / delta) / orders))


def shared_noise(z: float, bit_noise: float) -> float:
    """Returns the noise multiplier for updates that adaptive clipping takes for a total of z.

    It holds if a client changes the count of unclipped updates by 1/2, so that the bits are -1/2 or 1/2.
    Source: Andrew et al., arXiv:1905.03871, section 2.1.

    Args:
      z: The noise multiplier of both releases together.
      bit_noise: The deviation of the noise on the count, > z / 2.
    """
    return 1 / math.sqrt(1 / z**2 - 1 / (2 * bit_noise) ** 2)
