"""What samplers and neighbouring relations are."""

from __future__ import annotations

import abc
import enum
from typing import ClassVar

import dp_accounting
import numpy as np

from tff_dp import _checks
from tff_dp.config import Config


class Adjacency(enum.Enum):
    """When two data sets are neighbours, that is, what an adversary may not tell apart."""

    ADD_OR_REMOVE_ONE = "add-or-remove-one"
    REPLACE_ONE = "replace-one"
    ZERO_OUT = "zero-out"  # one client's updates are zeros; who takes part when stays the same

    @property
    def relation(self) -> dp_accounting.NeighboringRelation:
        """This relation in dp-accounting, which calls zero-out REPLACE_SPECIAL."""
        name = "REPLACE_SPECIAL" if self is Adjacency.ZERO_OUT else self.name
        return dp_accounting.NeighboringRelation[name]


class Sampler(Config, abc.ABC):
    """Draws cohorts.

    Attributes:
      adjacencies: The relations under which this sampler's amplification is accounted for, the
        default first.
      of_one_seed: Whether a round's cohort depends on those of earlier rounds, so that all of a run must
        be drawn from the same seed.
    """

    adjacencies: ClassVar[tuple[Adjacency, ...]]
    of_one_seed: ClassVar[bool] = False

    def check(self, population: int) -> None:
        """Checks that the sampler can draw from a population.

        Args:
          population: Number of clients, N.

        Raises:
          ArgumentError: The sampler cannot draw from so many, or so few, clients.
        """
        _checks.integer("population", population, "[1, inf)", "Give at least one client.")

    @abc.abstractmethod
    def expected_clients(self, population: int) -> float:
        """Returns the expected size of a cohort.

        Args:
          population: Number of clients, N; >= 1.

        Returns:
          m, the expected number of clients in a round. It is public.
        """

    @abc.abstractmethod
    def wrap(self, event: dp_accounting.DpEvent, population: int) -> dp_accounting.DpEvent:
        """Returns the privacy event of one round under this sampler.

        Args:
          event: The event of the mechanism, for a client that participates.
          population: Number of clients, N; >= 1.

        Returns:
          The event with the amplification that this sampler gives.
        """

    def participation(self, rounds: int) -> tuple[int, int]:
        """Returns how often, and at what distance, one client may take part.

        Args:
          rounds: T, the rounds of a run; >= 1.

        Returns:
          The largest number of its rounds, and the smallest difference between two of them.
        """
        return rounds, 1

    def check_rounds(self, population: int, rounds: int) -> None:
        """Checks that there are enough clients for a number of rounds.

        Args:
          population: Number of clients, N; >= 1.
          rounds: T, the number of rounds; >= 1.

        Raises:
          ArgumentError: There are too few clients.
        """

    @abc.abstractmethod
    def _draw(self, population: int, round_number: int, root_seed: int) -> np.ndarray:
        """Draws positions in [0, population), sorted, without repetition."""

    def cohort(self, population: int, round_number: int, root_seed: int) -> np.ndarray:
        """Draws one round's cohort.

        Args:
          population: Number of clients, N.
          round_number: The round, from 1.
          root_seed: The run's root, from which the round's stream derives.

        Returns:
          Sorted positions in [0, N), shape [cohort], int64. May be empty under Poisson sampling.

        Raises:
          ArgumentError: The sampler cannot draw from so many clients, or the round is below 1.
        """
        self.check(population)
        _checks.integer("round_number", round_number, "[1, inf)", "Rounds count from 1.")
        return self._draw(population, round_number, root_seed).astype(np.int64)
