"""What samplers and neighboring relations are."""

from __future__ import annotations

import abc
import enum
import inspect
from typing import Any, ClassVar

import dp_accounting
import numpy as np

from tff_dp import _checks
from tff_dp.config import Config
from tff_dp.errors import ArgumentError


class Adjacency(enum.Enum):
    """When two data sets are neighbors, that is, what an adversary may not tell apart."""

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

    A sampler of your own is a frozen, keyword-only dataclass that derives from this class: it defines
    `adjacencies`, `expected_clients`, `wrap` and `_draw`, and states in `wrap` and `adjacencies` what is
    proven of what `_draw` does. Accountants know the samplers of tff_dp by their classes, so that a
    sampler that can draw has no subclasses.

    Attributes:
      adjacencies: The relations under which this sampler's amplification of Gaussian noise is accounted
        for, the default first.
      of_one_seed: Whether a round's cohort depends on those of earlier rounds, so that all of a run must
        be drawn from the same seed.

    Raises:
      ArgumentError: A class is defined that derives from a sampler that can draw.
    """

    adjacencies: ClassVar[tuple[Adjacency, ...]]
    of_one_seed: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for base in cls.__mro__[1:]:
            if issubclass(base, Sampler) and not inspect.isabstract(base):
                raise ArgumentError(
                    f"class {cls.__qualname__} derives from {base.__name__}: expected Sampler itself. "
                    f"What is known of cohorts that {base.__name__} draws need not hold of another "
                    "class's. Derive from Sampler, and state its adjacencies and its event."
                )

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
          ArgumentError: The sampler cannot draw from so many clients, or the round is below 1; or it is
            a user's, and what it draws is no cohort.
        """
        self.check(population)
        _checks.integer("round_number", round_number, "[1, inf)", "Rounds count from 1.")
        drawn = self._draw(population, round_number, root_seed)
        is_integers = (
            isinstance(drawn, np.ndarray)
            and drawn.ndim == 1
            and (drawn.size == 0 or np.issubdtype(drawn.dtype, np.integer))
        )
        # A copy, as samplers keep what they have drawn.
        cohort = drawn.astype(np.int64) if is_integers else np.array([-1])
        is_cohort = cohort.size == 0 or (
            cohort[0] >= 0 and cohort[-1] < population and bool((cohort[1:] > cohort[:-1]).all())
        )
        if not is_cohort:  # a client that is in a cohort twice has twice the influence
            raise ArgumentError(
                f"{self}._draw has drawn {_checks.brief(np.asarray(drawn).tolist())} in round "
                f"{round_number}: expected an array of different client positions in "
                f"[0, {population}), sorted, of whole numbers."
            )
        return cohort
