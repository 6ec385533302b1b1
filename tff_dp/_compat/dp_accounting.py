"""Private and version-dependent names of dp-accounting."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from dp_accounting import rdp
from dp_accounting.pld.pld_pmf import DensePLDPmf, PLDPmf
from dp_accounting.pld.privacy_loss_distribution import (
    PrivacyLossDistribution,
    from_laplace_mechanism,
)
from dp_accounting.pld.privacy_loss_mechanism import AdjacencyType, GaussianPrivacyLoss

__all__ = [
    "AdjacencyType",
    "DensePLDPmf",
    "Direction",
    "GaussianPrivacyLoss",
    "PLDPmf",
    "PrivacyLossDistribution",
    "default_orders",
    "directions_of",
    "from_laplace_mechanism",
    "numbers_of",
    "rdp_curve",
]


class Direction(NamedTuple):
    """A discretized privacy loss distribution in one direction (removal, addition or replacement).

    Attributes:
      probabilities: The probability of each loss on the grid, in ascending order of the losses,
        float64 [losses].
      interval: The distance between neighboring losses on the grid.
      lowest: The smallest loss, as a number of intervals.
      infinite: The probability of an infinite loss.
    """

    probabilities: np.ndarray
    interval: float
    lowest: int
    infinite: float


def numbers_of(pmf: PLDPmf) -> Direction:
    """Reads the probabilities of a distribution, which dp-accounting does not expose.

    Args:
      pmf: A probability mass function of privacy losses, dense or sparse.

    Returns:
      Its grid and probabilities. The array is not copied if `pmf` is dense.
    """
    dense: Any = pmf.to_dense_pmf()
    return Direction(dense._probs, dense._discretization, dense._lower_loss, dense._infinity_mass)


def directions_of(distribution: PrivacyLossDistribution) -> tuple[PLDPmf, PLDPmf | None]:
    """Splits a privacy loss distribution into its two directions.

    Args:
      distribution: A privacy loss distribution.

    Returns:
      The distributions of removal and of addition. The second is None if the distribution is
      symmetric, that is, if both are the same.
    """
    held: Any = distribution
    return held._pmf_remove, None if held._symmetric else held._pmf_add


def default_orders() -> np.ndarray:
    """Returns the orders at which dp-accounting computes Rényi divergences by default."""
    accountant: Any = rdp.RdpAccountant()
    return np.asarray(accountant._orders, np.float64)


def rdp_curve(accountant: rdp.RdpAccountant) -> tuple[np.ndarray, np.ndarray]:
    """Reads the Rényi divergences that an accountant has composed.

    Args:
      accountant: An RDP accountant of dp-accounting.

    Returns:
      The orders, and the composed divergence at each order; two arrays of shape [orders].
    """
    held: Any = accountant
    return np.asarray(held._orders), np.asarray(held._rdp)
