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
    """The numbers of a privacy loss distribution of one direction (removal, addition or replacement).

    Attributes:
      probabilities: Of the losses on the grid, ascending, float64 [losses].
      interval: Of the grid.
      lowest: The lowest loss, in intervals.
      infinite: The probability of an infinite loss.
    """

    probabilities: np.ndarray
    interval: float
    lowest: int
    infinite: float


def numbers_of(pmf: PLDPmf) -> Direction:
    """Returns the numbers of a distribution, for which there is no public way."""
    dense: Any = pmf.to_dense_pmf()
    return Direction(dense._probs, dense._discretization, dense._lower_loss, dense._infinity_mass)


def directions_of(distribution: PrivacyLossDistribution) -> tuple[PLDPmf, PLDPmf | None]:
    """Returns the distributions of removal and of addition; None for the latter if it is the same."""
    held: Any = distribution
    return held._pmf_remove, None if held._symmetric else held._pmf_add


def default_orders() -> np.ndarray:
    """Returns the orders at which dp-accounting computes Rényi divergences by default."""
    accountant: Any = rdp.RdpAccountant()
    return np.asarray(accountant._orders, np.float64)


def rdp_curve(accountant: rdp.RdpAccountant) -> tuple[np.ndarray, np.ndarray]:
    """Returns an accountant's orders, and the Rényi divergence that it has composed at each."""
    held: Any = accountant
    return np.asarray(held._orders), np.asarray(held._rdp)
