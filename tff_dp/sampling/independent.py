"""Samplers whose cohorts are independent from round to round."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import dp_accounting
import numpy as np

from tff_dp import _checks, _seeds
from tff_dp.sampling.base import Adjacency, Sampler

_DRAWN_AT_ONCE = 1 << 18  # numbers, which stay in a core's cache


def participants(rng: np.random.Generator, count: int, rate: float) -> np.ndarray:
    """Draws which of some clients participate, each independently of the others.

    The numbers are drawn in pieces, which is the same as at once: those of millions of clients would
    take more memory than anything else in a round.

    Args:
      rng: The generator, from which `count` numbers are drawn.
      count: The number of clients; >= 0.
      rate: The probability that a client participates.

    Returns:
      The numbers of those who do, in [0, count), ascending, int64.
    """
    found = [
        begin + np.flatnonzero(rng.random(min(_DRAWN_AT_ONCE, count - begin)) < rate)
        for begin in range(0, count, _DRAWN_AT_ONCE)
    ]
    return np.concatenate(found) if found else np.zeros(0, np.int64)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PoissonSampler(Sampler):
    """Each client participates in each round independently with probability `rate`.

    This is the default under differential privacy.

    Source: Mironov, Talwar and Zhang, "Rényi Differential Privacy of the Sampled Gaussian
    Mechanism", arXiv:1908.10530.

    Args:
      rate: The probability q that a client participates in a round, in (0, 1].

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
        """Returns the mean size of a cohort, q N."""
        return self.rate * population

    def wrap(self, event: dp_accounting.DpEvent, population: int) -> dp_accounting.DpEvent:
        """Returns the Poisson-sampled event."""
        del population  # the guarantee of Poisson sampling does not depend on it
        return dp_accounting.PoissonSampledDpEvent(self.rate, event)

    def _draw(self, population: int, round_number: int, root_seed: int) -> np.ndarray:
        rng = _seeds.generator(root_seed, "cohort", round_number=round_number)
        return participants(rng, population, self.rate)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FixedSizeSampler(Sampler):
    """Draws the same number of clients each round, uniformly without replacement, as TFF's own sampler.

    Its amplification is proven under replace-one only, where a clipped sum has a sensitivity of
    twice the clip norm. The accounting of Poisson sampling does not hold for it.

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
        """Checks that the size does not exceed the population.

        Args:
          population: Number of clients, N.

        Raises:
          ArgumentError: The size exceeds the population, or there are no clients.
        """
        super().check(population)
        _checks.integer(
            "size",
            self.size,
            f"[1, {population}]",
            "A round cannot have more clients than the population.",
        )

    def expected_clients(self, population: int) -> float:
        """Returns the size of every cohort."""
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
    """Every client participates in every round; sampling amplifies nothing."""

    adjacencies: ClassVar[tuple[Adjacency, ...]] = (
        Adjacency.ADD_OR_REMOVE_ONE,
        Adjacency.REPLACE_ONE,
        Adjacency.ZERO_OUT,
    )

    def expected_clients(self, population: int) -> float:
        """Returns the size of every cohort, N."""
        return float(population)

    def wrap(self, event: dp_accounting.DpEvent, population: int) -> dp_accounting.DpEvent:
        """Returns the event unchanged."""
        del population
        return event

    def _draw(self, population: int, round_number: int, root_seed: int) -> np.ndarray:
        del round_number, root_seed
        return np.arange(population)
