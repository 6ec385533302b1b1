"""Samplers whose rounds do not depend on each other."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import dp_accounting
import numpy as np

from tff_dp import _checks, _seeds
from tff_dp.sampling.base import Adjacency, Sampler


@dataclasses.dataclass(frozen=True, kw_only=True)
class PoissonSampler(Sampler):
    """Each client takes part in each round by a coin of its own. The default under DP.

    Source: Mironov, Talwar and Zhang, "Rényi Differential Privacy of the Sampled Gaussian
    Mechanism", arXiv:1908.10530.

    Args:
      rate: The coin's probability q, in (0, 1].

    Raises:
      ArgumentError: The rate is outside its bound.
    """

    adjacencies: ClassVar[tuple[Adjacency, ...]] = (
        Adjacency.ADD_OR_REMOVE_ONE,
        Adjacency.REPLACE_ONE,
        Adjacency.ZERO_OUT,
    )

    rate: float

    def __post_init__(self) -> None:
        _checks.real("rate", self.rate, "(0, 1]", "It is the share of the clients in a round.")

    def expected_clients(self, population: int) -> float:
        """Returns q N."""
        return self.rate * population

    def wrap(self, event: dp_accounting.DpEvent, population: int) -> dp_accounting.DpEvent:
        """Returns the Poisson-sampled event."""
        del population  # the guarantee of Poisson sampling does not depend on it
        return dp_accounting.PoissonSampledDpEvent(self.rate, event)

    def _draw(self, population: int, round_number: int, root_seed: int) -> np.ndarray:
        rng = _seeds.generator(root_seed, "cohort", round_number=round_number)
        return np.flatnonzero(rng.random(population) < self.rate)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FixedSizeSampler(Sampler):
    """The same number of clients each round, uniformly without replacement, as TFF's own sampler.

    Its amplification is proven under replace-one only, where a clipped sum has sensitivity twice the
    clip norm; Poisson accounting does not hold for it.

    Source: Wang, Balle and Kasiviswanathan, "Subsampled Rényi Differential Privacy and Analytical
    Moments Accountant", arXiv:1808.00087.

    Args:
      size: Clients in each round, in [1, population].

    Raises:
      ArgumentError: The size is outside its bound.
    """

    adjacencies: ClassVar[tuple[Adjacency, ...]] = (Adjacency.REPLACE_ONE,)

    size: int

    def __post_init__(self) -> None:
        _checks.integer("size", self.size, "[1, inf)", "It is the number of clients in each round.")

    def check(self, population: int) -> None:
        """Raises ArgumentError if the size exceeds the population."""
        super().check(population)
        _checks.integer(
            "size",
            self.size,
            f"[1, {population}]",
            "A round cannot hold more clients than there are.",
        )

    def expected_clients(self, population: int) -> float:
        """Returns the size."""
        del population
        return float(self.size)

    def wrap(self, event: dp_accounting.DpEvent, population: int) -> dp_accounting.DpEvent:
        """Returns the event sampled without replacement."""
        return dp_accounting.SampledWithoutReplacementDpEvent(population, self.size, event)

    def _draw(self, population: int, round_number: int, root_seed: int) -> np.ndarray:
        rng = _seeds.generator(root_seed, "cohort", round_number=round_number)
        return np.sort(rng.choice(population, size=self.size, replace=False))


@dataclasses.dataclass(frozen=True, kw_only=True)
class FullParticipation(Sampler):
    """Every client, every round; no amplification."""

    adjacencies: ClassVar[tuple[Adjacency, ...]] = (
        Adjacency.ADD_OR_REMOVE_ONE,
        Adjacency.REPLACE_ONE,
        Adjacency.ZERO_OUT,
    )

    def expected_clients(self, population: int) -> float:
        """Returns N."""
        return float(population)

    def wrap(self, event: dp_accounting.DpEvent, population: int) -> dp_accounting.DpEvent:
        """Returns the event as it is."""
        del population
        return event

    def _draw(self, population: int, round_number: int, root_seed: int) -> np.ndarray:
        del round_number, root_seed
        return np.arange(population)
