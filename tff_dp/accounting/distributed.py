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

from tff_dp.accounting.events import IndependentRound
from tff_dp.accounting.registry import Accountant, own_accountants
from tff_dp.mechanisms.distributed import Grid, grid_of
from tff_dp.sampling import Adjacency, FixedSizeSampler, FullParticipation, Sampler

# Norms are computed, and standard deviations stored, in float32; relative errors are below these.
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
    """Returns the RDP of an integer vector plus n shares of discrete Gaussian noise on each coordinate.

    Source: Kairouz, Liu and Steinke, arXiv:2102.06387, proposition 14 and theorem 1.

    Args:
      orders: Rényi orders, shape [orders]; >= 1.
      l1_sensitivity: The largest L1 distance between vectors of neighboring data sets.
      l2_sensitivity: The largest L2 distance between them.
      local_stddev: sigma, the standard deviation of one client's share; >= 1/2.
      clients: n, the number of clients that add a share; >= 1.
      dimension: d, the number of coordinates of the vector.

    Returns:
      An upper bound on the Rényi divergence at each order, shape [orders].
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
    """Returns the RDP of an integer vector plus Skellam noise on each coordinate.

    Source: Agarwal, Kairouz and Liu, arXiv:2110.04995, theorem 3.5, for whole orders. The divergence
    times (order - 1) is convex in the order (van Erven and Harremoës, arXiv:1206.2459, corollary 2) and
    0 at order 1, so that a line between the bounds at two whole orders is a bound between them.

    Args:
      orders: Rényi orders, shape [orders]; > 1.
      l1_sensitivity: The largest L1 distance between vectors of neighboring data sets.
      l2_sensitivity: The largest L2 distance between them.
      variance: mu, the variance of the noise that all clients add together; > 0.

    Returns:
      An upper bound on the Rényi divergence at each order, shape [orders].
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
    """One round of a distributed mechanism, whose noise is the sum of the participating clients' shares.

    The number of clients is fixed, and is the same in neighboring data sets: an absent client's
    share of the noise would be absent as well. No amplification by sampling is claimed for this
    noise, so that each client counts as if it participated in every round. The guarantee does not
    depend on the clip norm.

    Args:
      noise_multiplier: As for `Round`.
      sampler: As for `Round`.
      population: As for `Round`.
      adjacency: As for `Round`.
      dimension: As for `DistributedSkellamMechanism`.
      bits: As for `DistributedSkellamMechanism`.
      beta: As for `DistributedSkellamMechanism`.
      modclip_prob: As for `DistributedSkellamMechanism`.

    Raises:
      ArgumentError: A value is outside its bound.
      AccountingError: The number of clients varies, because of the sampler or of the adjacency.
    """

    dimension: int
    bits: int
    beta: float
    modclip_prob: float

    @classmethod
    def adjacencies(cls, sampler: Sampler) -> tuple[Adjacency, ...]:
        """Returns the relations that keep the number of clients fixed, if the sampler fixes it."""
        if isinstance(sampler, FullParticipation | FixedSizeSampler):
            return (Adjacency.ZERO_OUT, Adjacency.REPLACE_ONE)
        return ()

    def _remedy(self) -> str:
        return (
            "The noise is the sum of the clients' shares, and is large enough only if a fixed number "
            "of clients participates, in neighboring data sets as well. Use FixedSizeSampler or "
            "FullParticipation, and 'zero-out' or 'replace-one'."
        )

    def grid(self) -> Grid:
        """Returns the grid of the integers that clients send.

        Raises:
          ArgumentError: No grid satisfies the fields of this round.
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
        """Returns the L1 and the L2 sensitivity of the sum to one client, in grid steps."""
        grid = self.grid()
        factor = (2 if self.adjacency is Adjacency.REPLACE_ONE else 1) * (1 + _NORM_SLACK)
        return factor * grid.l1_sensitivity, factor * grid.l2_sensitivity

    @abc.abstractmethod
    def rdp(self, orders: np.ndarray) -> np.ndarray:
        """Returns the RDP of this round.

        Args:
          orders: Rényi orders, shape [orders]; > 1.

        Returns:
          An upper bound on the Rényi divergence at each order, shape [orders].
        """

    def _mechanism_event(self, noise_multiplier: float) -> dp_accounting.DpEvent:
        del noise_multiplier
        return dp_accounting.UnsupportedDpEvent()  # dp-accounting has no event for this noise


class DistributedGaussianRound(DistributedRound):
    """One round of `DistributedGaussianMechanism`; the arguments are those of `DistributedRound`."""

    def rdp(self, orders: np.ndarray) -> np.ndarray:
        """Returns the RDP of the sum of discrete Gaussian shares."""
        grid = self.grid()
        l1, l2 = self.sensitivities()
        return sum_of_discrete_gaussians_rdp(
            orders,
            l1_sensitivity=l1,
            l2_sensitivity=l2,
            # TFF's sampler takes whole numbers only, and rounds a float32 standard deviation up.
            local_stddev=math.ceil(grid.local_stddev * (1 - _STDDEV_SLACK)),
            clients=grid.clients,
            dimension=grid.padded_dimension,
        )


class DistributedSkellamRound(DistributedRound):
    """One round of `DistributedSkellamMechanism`; the arguments are those of `DistributedRound`."""

    def rdp(self, orders: np.ndarray) -> np.ndarray:
        """Returns the RDP of Skellam noise."""
        grid = self.grid()
        l1, l2 = self.sensitivities()
        stddev = grid.local_stddev * (1 - _STDDEV_SLACK)
        return skellam_rdp(
            orders, l1_sensitivity=l1, l2_sensitivity=l2, variance=grid.clients * stddev**2
        )


@own_accountants.register
def _(one_round: DistributedRound) -> Mapping[str, Accountant]:
    return {"rdp": distributed_rdp_epsilon}


def distributed_rdp_epsilon(one_round: DistributedRound, rounds: int, delta: float) -> float:
    """Returns epsilon of a distributed mechanism by Rényi DP.

    Source: Canonne et al., arXiv:2004.00010, proposition 12 (conversion); the Rényi divergences are
    those of `DistributedRound.rdp`.

    Args:
      one_round: The round.
      rounds: T >= 1.
      delta: In (0, 1).

    Returns:
      The smallest upper bound on epsilon over a fixed list of orders.
    """
    return float(rdp.compute_epsilon(_ORDERS, rounds * _curve(one_round), delta)[0])


@functools.lru_cache(maxsize=256)
def _curve(one_round: DistributedRound) -> np.ndarray:
    return one_round.rdp(np.array(_ORDERS))
