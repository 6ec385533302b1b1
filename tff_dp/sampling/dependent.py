"""Samplers that bound how often a client participates, and after how many rounds again."""

from __future__ import annotations

import dataclasses
import functools
from typing import ClassVar

import dp_accounting
import numpy as np

from tff_dp import _checks, _seeds
from tff_dp.sampling.base import Adjacency, Sampler
from tff_dp.sampling.independent import PoissonSampler, participants


@dataclasses.dataclass(frozen=True, kw_only=True)
class MinSeparationSampler(Sampler):
    """Cohorts of a fixed size, with a minimum number of rounds between a client's participations.

    Each round draws uniformly among the clients that are eligible, as a server does that makes
    devices wait after they have contributed. Sampling amplifies nothing here. It bounds the
    influence of one client on a run, which is what mechanisms with correlated noise require. When
    few clients are left that have participated fewer than `max_participations` times, a round may
    have fewer clients than `size`; which clients and how many does not depend on any data.

    The cohorts depend on each other: all rounds of a run must be drawn from one seed.

    Source: Kairouz et al., arXiv:2103.00039, appendix D.2; the name is Choquette-Choo et al.'s,
    arXiv:2306.08153, section 2.

    Args:
      size: Clients in each round; >= 1.
      min_separation: The smallest number of rounds from one participation of a client to its next;
        >= 1, and at most population / size.
      max_participations: The largest number of rounds of a run in which a client participates; >=
        1, or None for as many as the separation allows.

    Raises:
      ArgumentError: A value is outside its bound.
    """

    adjacencies: ClassVar[tuple[Adjacency, ...]] = ()  # `tff_dp.accounting.correlated` knows more
    of_one_seed: ClassVar[bool] = True

    size: int
    min_separation: int
    max_participations: int | None = None

    def __post_init__(self) -> None:
        _checks.integer("size", self.size, "[1, inf)", "It is the number of clients in each round.")
        _checks.integer("min_separation", self.min_separation, "[1, inf)", "It counts rounds.")
        if self.max_participations is not None:
            _checks.integer("max_participations", self.max_participations, "[1, inf)")

    def check(self, population: int) -> None:
        """Checks that there are enough clients for full cohorts at this separation.

        Args:
          population: Number of clients, N.

        Raises:
          ArgumentError: `min_separation` exceeds population / size, or there are no clients.
        """
        super().check(population)
        _checks.integer(
            "min_separation",
            self.min_separation,
            f"[1, {population // self.size}]",
            f"{population} clients in cohorts of {self.size} cannot be further apart. Take smaller "
            "cohorts or a smaller min_separation.",
        )

    def check_rounds(self, population: int, rounds: int) -> None:
        """Checks that the clients' participations suffice for a number of rounds.

        Args:
          population: Number of clients, N.
          rounds: T, the number of rounds; >= 1.

        Raises:
          ArgumentError: `max_participations` does not allow so many full cohorts.
        """
        if self.max_participations is not None:
            _checks.integer(
                "rounds",
                rounds,
                f"[1, {population * self.max_participations // self.size}]",
                f"{population} clients may participate {self.max_participations} times each, in "
                f"cohorts of {self.size}. Take smaller cohorts or a larger max_participations.",
            )

    def expected_clients(self, population: int) -> float:
        """Returns the size of a full cohort."""
        del population
        return float(self.size)

    def participation(self, rounds: int) -> tuple[int, int]:
        """Returns the bounds on participation that the draws respect; see `Sampler.participation`."""
        possible = -(-rounds // self.min_separation)
        return min(possible, self.max_participations or possible), self.min_separation

    def wrap(self, event: dp_accounting.DpEvent, population: int) -> dp_accounting.DpEvent:
        """Returns the event unchanged: this sampler amplifies nothing."""
        del population
        return event

    def _draw(self, population: int, round_number: int, root_seed: int) -> np.ndarray:
        history = _participations(self, population, root_seed)
        while len(history.cohorts) < round_number:
            number = len(history.cohorts) + 1
            eligible = history.resting_until < number
            if self.max_participations is not None:
                eligible &= history.counts < self.max_participations
            candidates = np.flatnonzero(eligible)
            rng = _seeds.generator(root_seed, "cohort", round_number=number)
            size = min(self.size, len(candidates))
            drawn = np.sort(rng.choice(candidates, size=size, replace=False))
            history.counts[drawn] += 1
            history.resting_until[drawn] = number + self.min_separation - 1
            history.cohorts.append(drawn)
        return history.cohorts[round_number - 1]


@dataclasses.dataclass
class _Participations:
    """What has been drawn from one seed so far."""

    cohorts: list[np.ndarray]
    counts: np.ndarray
    resting_until: np.ndarray  # the last round in which each client is not eligible


@functools.lru_cache(maxsize=4)
def _participations(
    sampler: MinSeparationSampler, population: int, root_seed: int
) -> _Participations:
    del sampler, root_seed  # they are the key of the cache
    # Rounds do not exceed int32, and half the memory stays.
    return _Participations([], np.zeros(population, np.int32), np.zeros(population, np.int32))


@dataclasses.dataclass(frozen=True, kw_only=True)
class CyclicPoissonSampler(Sampler):
    """Poisson sampling from one part of the clients after another, the sampler of DP-BandMF.

    The clients are divided once, at random, into as many parts as a cycle has rounds. Each round
    samples from one part only; each client of that part participates independently with probability
    `rate`. A client's participations are therefore a multiple of `cycle` rounds apart.

    The cohorts depend on each other: all rounds of a run must be drawn from one seed.

    Source: Choquette-Choo et al., arXiv:2306.08153, algorithm 2.

    Args:
      rate: The probability q, in (0, 1], that a client participates in a round of its part.
      cycle: The number of parts, and of rounds in a cycle; >= 1, and at most the population.

    Raises:
      ArgumentError: A value is outside its bound.
    """

    adjacencies: ClassVar[tuple[Adjacency, ...]] = ()  # `tff_dp.accounting.correlated` knows more
    of_one_seed: ClassVar[bool] = True

    rate: float
    cycle: int

    def __post_init__(self) -> None:
        _checks.real(
            "rate",
            self.rate,
            "(0, 1]",
            "It is the probability that a client participates in a round of its part.",
        )
        _checks.integer("cycle", self.cycle, "[1, inf)", "It counts rounds.")

    def check(self, population: int) -> None:
        """Checks that each part of the cycle has at least one client.

        Args:
          population: Number of clients, N.

        Raises:
          ArgumentError: The cycle is longer than the population, or there are no clients.
        """
        super().check(population)
        _checks.integer(
            "cycle", self.cycle, f"[1, {population}]", "Each part needs at least one client."
        )

    def expected_clients(self, population: int) -> float:
        """Returns q N / cycle, the mean over the parts, whose sizes differ by at most one."""
        return self.rate * population / self.cycle

    def participation(self, rounds: int) -> tuple[int, int]:
        """Returns one participation in each cycle; see `Sampler.participation`."""
        return -(-rounds // self.cycle), self.cycle

    def coin(self) -> PoissonSampler:
        """Returns the sampling of one cycle: a client has one chance to participate in it."""
        return PoissonSampler(rate=self.rate)

    def wrap(self, event: dp_accounting.DpEvent, population: int) -> dp_accounting.DpEvent:
        """Returns the event of one round under Poisson sampling with probability `rate`."""
        return self.coin().wrap(event, population)

    def _draw(self, population: int, round_number: int, root_seed: int) -> np.ndarray:
        part = _order(population, root_seed)[(round_number - 1) % self.cycle :: self.cycle]
        rng = _seeds.generator(root_seed, "cohort", round_number=round_number)
        return np.sort(part[participants(rng, len(part), self.rate)])


@functools.lru_cache(maxsize=4)
def _order(population: int, root_seed: int) -> np.ndarray:
    order = _seeds.generator(root_seed, "parts").permutation(population)
    # Half the memory, of an array that stays.
    return order.astype(np.int32) if population <= np.iinfo(np.int32).max else order
