"""Rounds whose noise is the sum of the clients' shares: discrete Gaussian or Skellam."""

from __future__ import annotations

import abc
import dataclasses
import functools
import math
from collections.abc import Mapping

import dp_accounting
import numpy as np
from dp_accounting import rdp

from tff_dp.accounting.accountants import Accountant, accountants_of
from tff_dp.accounting.events import IndependentRound
from tff_dp.mechanisms.distributed import Grid, grid_of
from tff_dp.sampling import Adjacency, FixedSizeSampler, FullParticipation, Sampler

# Norms are measured, and standard deviations kept, in float32; each error is below these shares.
_NORM_SLACK = 1e-5
_STDDEV_SLACK = 1e-6
_ORDERS = (
    *np.arange(1.1, 11, 0.1).round(1).tolist(),
    *range(11, 64),
    *(2**k for k in range(6, 15)),
)


def sum_of_discrete_gaussians_rdp(
    orders: np.ndarray,
    *,
    l1_sensitivity: float,
    l2_sensitivity: float,
    local_stddev: float,
    clients: int,
    dimension: int,
) -> np.ndarray:
    """Returns RDP of a vector of integers plus n shares of discrete Gaussian noise a coordinate.

    Source: Kairouz, Liu and Steinke, arXiv:2102.06387, proposition 14 and theorem 1.

    Args:
      orders: Rényi orders, shape [orders]; >= 1.
      l1_sensitivity: The largest L1 distance between neighbouring vectors.
      l2_sensitivity: The largest L2 distance.
      local_stddev: sigma of one share; >= 1/2.
      clients: n.
      dimension: d, coordinates of the vector.

    Returns:
      The divergence's upper bound at each order, shape [orders].
    """
    k = np.arange(1, clients)
    tau = 10 * np.sum(np.exp(-2 * (math.pi * local_stddev) ** 2 * k / (k + 1)))
    sigma = math.sqrt(clients) * local_stddev
    l1, l2 = l1_sensitivity / sigma, l2_sensitivity / sigma
    concentrated = min(
        l2**2 + 2 * l1 * tau + tau**2 * dimension, (l2 + math.sqrt(dimension) * tau) ** 2
    )
    bound: np.ndarray = np.minimum(orders / 2 * concentrated, orders / 2 * l2**2 + tau * dimension)
    return bound


def skellam_rdp(
    orders: np.ndarray, *, l1_sensitivity: float, l2_sensitivity: float, variance: float
) -> np.ndarray:
    """Returns RDP of a vector of integers plus Skellam noise of a variance on each coordinate.

    Source: Agarwal, Kairouz and Liu, arXiv:2110.04995, theorem 3.5, for whole orders. The divergence
    times (order - 1) is convex in the order (van Erven and Harremoës, arXiv:1206.2459, corollary 2) and
    0 at order 1, so that a line between the bounds at whole orders bounds those between.

    Args:
      orders: Rényi orders, shape [orders]; > 1.
      l1_sensitivity: The largest L1 distance between neighbouring vectors.
      l2_sensitivity: The largest L2 distance.
      variance: mu, of the noise that all clients add together.

    Returns:
      The divergence's upper bound at each order, shape [orders].
    """

    def moments(whole: np.ndarray) -> np.ndarray:
        gaussian = whole * l2_sensitivity**2 / (2 * variance)
        rest = np.minimum(
            ((2 * whole - 1) * l2_sensitivity**2 + 6 * l1_sensitivity) / (4 * variance**2),
            3 * l1_sensitivity / (2 * variance),
        )
        return np.where(whole > 1, (whole - 1) * (gaussian + rest), 0.0)

    below = np.floor(orders)
    part = orders - below
    bound: np.ndarray = ((1 - part) * moments(below) + part * moments(below + 1)) / (orders - 1)
    return bound


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistributedRound(IndependentRound):
    """One round of a distributed mechanism: its noise is that of all clients who take part.

    The number of clients is fixed, and the same in neighbouring data sets: a client that is not there
    would take its noise along. Nothing is proven here on amplification by sampling, so that a client
    counts as if it took part in every round. The clip norm does not matter.

    Args:
      noise_multiplier: As `Round`.
      sampler: As `Round`.
      population: As `Round`.
      adjacency: As `Round`.
      dimension: As `DistributedSkellamMechanism`.
      bits: As `DistributedSkellamMechanism`.
      beta: As `DistributedSkellamMechanism`.
      modclip_prob: As `DistributedSkellamMechanism`.

    Raises:
      ArgumentError: A value is outside its bound.
      AccountingError: The sampler's number of clients varies, or the adjacency's does.
    """

    dimension: int
    bits: int
    beta: float
    modclip_prob: float

    @classmethod
    def adjacencies(cls, sampler: Sampler) -> tuple[Adjacency, ...]:
        """Returns the relations that keep the number of clients, if the sampler does."""
        if isinstance(sampler, FullParticipation | FixedSizeSampler):
            return (Adjacency.ZERO_OUT, Adjacency.REPLACE_ONE)
        return ()

    def _remedy(self) -> str:
        return (
            "The noise is the sum of the clients' shares, and large enough only if a fixed number of "
            "them takes part, in neighbouring data sets as well. Use FixedSizeSampler or "
            "FullParticipation, and 'zero-out' or 'replace-one'."
        )

    def grid(self) -> Grid:
        """Returns the integers that clients send.

        Raises:
          ArgumentError: There is no such grid.
        """
        return grid_of(
            noise_multiplier=self.noise_multiplier,
            clients=self.sampler.expected_clients(self.population),
            dimension=self.dimension,
            bits=self.bits,
            beta=self.beta,
            modclip_prob=self.modclip_prob,
        )

    def sensitivities(self) -> tuple[float, float]:
        """Returns by how much one client moves the sum, in L1 and L2 norm, in steps of the grid."""
        grid = self.grid()
        factor = (2 if self.adjacency is Adjacency.REPLACE_ONE else 1) * (1 + _NORM_SLACK)
        return factor * grid.l1_sensitivity, factor * grid.l2_sensitivity

    @abc.abstractmethod
    def rdp(self, orders: np.ndarray) -> np.ndarray:
        """Returns the round's RDP at some orders, shape [orders]."""

    def _mechanism_event(self, noise_multiplier: float) -> dp_accounting.DpEvent:
        del noise_multiplier
        return dp_accounting.UnsupportedDpEvent()  # it has none of this kind


class DistributedGaussianRound(DistributedRound):
    """One round of `DistributedGaussianMechanism`; the arguments are those of `DistributedRound`."""

    def rdp(self, orders: np.ndarray) -> np.ndarray:
        """Returns the round's RDP at some orders, shape [orders]."""
        grid = self.grid()
        l1, l2 = self.sensitivities()
        return sum_of_discrete_gaussians_rdp(
            orders,
            l1_sensitivity=l1,
            l2_sensitivity=l2,
            # The sampler takes whole numbers alone, and rounds up what is in float32.
            local_stddev=math.ceil(grid.local_stddev * (1 - _STDDEV_SLACK)),
            clients=grid.clients,
            dimension=grid.padded_dimension,
        )


class DistributedSkellamRound(DistributedRound):
    """One round of `DistributedSkellamMechanism`; the arguments are those of `DistributedRound`."""

    def rdp(self, orders: np.ndarray) -> np.ndarray:
        """Returns the round's RDP at some orders, shape [orders]."""
        grid = self.grid()
        l1, l2 = self.sensitivities()
        stddev = grid.local_stddev * (1 - _STDDEV_SLACK)
        return skellam_rdp(
            orders, l1_sensitivity=l1, l2_sensitivity=l2, variance=grid.clients * stddev**2
        )


@accountants_of.register
def _(one_round: DistributedRound) -> Mapping[str, Accountant]:
    return {"rdp": distributed_rdp_epsilon}


def distributed_rdp_epsilon(one_round: DistributedRound, rounds: int, delta: float) -> float:
    """Returns epsilon by Rényi DP; see `spend` for the arguments.

    Source: Canonne et al., arXiv:2004.00010, proposition 12 (conversion); otherwise the rounds'.
    """
    return float(rdp.compute_epsilon(_ORDERS, rounds * _curve(one_round), delta)[0])


@functools.lru_cache(maxsize=256)
def _curve(one_round: DistributedRound) -> np.ndarray:
    return one_round.rdp(np.array(_ORDERS))
