"""Samplers that bound how often, and how soon again, a client takes part."""

from __future__ import annotations

import dataclasses
import functools
from typing import ClassVar

import dp_accounting
import numpy as np

from tff_dp import _checks, _seeds
from tff_dp.sampling.base import Adjacency, Sampler
from tff_dp.sampling.independent import PoissonSampler


@dataclasses.dataclass(frozen=True, kw_only=True)
class MinSeparationSampler(Sampler):
    """Cohorts of one size in which no client takes part again too soon, or too often.

    Each round draws uniformly among the clients that may take part, as a server does that makes devices
    wait after they have contributed. It amplifies nothing; it bounds what one client can move, which is
    what mechanisms with correlated noise need. Near the end of what `max_participations` allows, a
    round may find fewer clients than `size`; who they are, and how many, depends on no data.

    Rounds depend on each other: they must be drawn from one seed.

    Source: Kairouz et al., arXiv:2103.00039, appendix D.2; the name is Choquette-Choo et al.'s,
    arXiv:2306.08153, section 2.

    Args:
      size: Clients in each round; >= 1.
      min_separation: Rounds from one participation of a client to its next, at least; >= 1, at most
        population / size.
      max_participations: The most rounds of a run that a client takes part in, >= 1; None for as many
        as the separation allows.

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
        """Raises ArgumentError if full cohorts cannot be that far apart."""
        super().check(population)
        _checks.integer(
            "min_separation",
            self.min_separation,
            f"[1, {population // self.size}]",
            f"{population} clients in cohorts of {self.size} cannot rest longer.",
        )

    def check_rounds(self, population: int, rounds: int) -> None:
        """Raises ArgumentError if the clients' participations do not suffice for so many rounds."""
        if self.max_participations is not None:
            _checks.integer(
                "rounds",
                rounds,
                f"[1, {population * self.max_participations // self.size}]",
                f"{population} clients may take part {self.max_participations} times each, in cohorts "
                f"of {self.size}. Take smaller cohorts or a larger max_participations.",
            )

    def expected_clients(self, population: int) -> float:
        """Returns the size."""
        del population
        return float(self.size)

    def participation(self, rounds: int) -> tuple[int, int]:
        """Returns the bounds that the draws keep; see `Sampler.participation`."""
        possible = -(-rounds // self.min_separation)
        return min(possible, self.max_participations or possible), self.min_separation

    def wrap(self, event: dp_accounting.DpEvent, population: int) -> dp_accounting.DpEvent:
        """Returns the event as it is."""
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
    resting_until: np.ndarray  # the last round of each client's rest


@functools.lru_cache(maxsize=4)
def _participations(
    sampler: MinSeparationSampler, population: int, root_seed: int
) -> _Participations:
    del sampler, root_seed  # what is drawn depends on them
    return _Participations([], np.zeros(population, np.int64), np.zeros(population, np.int64))


@dataclasses.dataclass(frozen=True, kw_only=True)
class CyclicPoissonSampler(Sampler):
    """Poisson sampling from one part of the clients after another: the sampler of DP-BandMF.

    The clients are divided once, at random, into as many parts as the cycle has rounds. A round draws
    from its part alone, each client by a coin of its own, so that a client's rounds lie whole cycles
    apart.

    Rounds depend on each other: they must be drawn from one seed.

    Source: Choquette-Choo et al., arXiv:2306.08153, algorithm 2.

    Args:
      rate: The coin's probability q, in (0, 1], in the rounds of a client's part.
      cycle: The number of parts, >= 1, at most the population.

    Raises:
      ArgumentError: A value is outside its bound.
    """

    adjacencies: ClassVar[tuple[Adjacency, ...]] = ()  # `tff_dp.accounting.correlated` knows more
    of_one_seed: ClassVar[bool] = True

    rate: float
    cycle: int

    def __post_init__(self) -> None:
        _checks.real("rate", self.rate, "(0, 1]", "It is the share of a part that a round draws.")
        _checks.integer("cycle", self.cycle, "[1, inf)", "It counts rounds.")

    def check(self, population: int) -> None:
        """Raises ArgumentError if a part of the cycle would have no client."""
        super().check(population)
        _checks.integer(
            "cycle", self.cycle, f"[1, {population}]", "Each part needs a client at least."
        )

    def expected_clients(self, population: int) -> float:
        """Returns q N / cycle, the mean over the parts, whose sizes differ by one at most."""
        return self.rate * population / self.cycle

    def participation(self, rounds: int) -> tuple[int, int]:
        """Returns once a cycle; see `Sampler.participation`."""
        return -(-rounds // self.cycle), self.cycle

    def coin(self) -> PoissonSampler:
        """Returns the sampling of one cycle: a client's only chance in it."""
        return PoissonSampler(rate=self.rate)

    def wrap(self, event: dp_accounting.DpEvent, population: int) -> dp_accounting.DpEvent:
        """Returns the event sampled by the coin."""
        return self.coin().wrap(event, population)

    def _draw(self, population: int, round_number: int, root_seed: int) -> np.ndarray:
        part = _order(population, root_seed)[(round_number - 1) % self.cycle :: self.cycle]
        rng = _seeds.generator(root_seed, "cohort", round_number=round_number)
        return np.sort(part[rng.random(len(part)) < self.rate])


@functools.lru_cache(maxsize=4)
def _order(population: int, root_seed: int) -> np.ndarray:
    return _seeds.generator(root_seed, "parts").permutation(population)
