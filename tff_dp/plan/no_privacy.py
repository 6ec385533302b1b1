"""Training without a privacy plan."""

from __future__ import annotations

import dataclasses

import numpy as np

from tff_dp import _checks
from tff_dp.config import Config
from tff_dp.plan.arguments import root
from tff_dp.sampling import FullParticipation, Sampler


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoPrivacy(Config):
    """Training without differential privacy, which has to be chosen explicitly.

    Args:
      sampler: Draws the clients of each round; all clients by default.

    Raises:
      ArgumentError: `sampler` is not a `Sampler`.
    """

    sampler: Sampler = dataclasses.field(default_factory=FullParticipation)

    def __post_init__(self) -> None:
        _checks.instance("sampler", self.sampler, Sampler)

    def draw_cohort(self, round_number: int, *, population: int, seed: int | None) -> np.ndarray:
        """Draws the cohort of a round.

        Args:
          round_number: The round, from 1.
          population: The number of clients.
          seed: The seed of the run, or None for entropy of the operating system.

        Returns:
          The sorted positions of the clients, int64 [cohort].

        Raises:
          ArgumentError: The sampler cannot draw from this population, or requires a seed.
        """
        return self.sampler.cohort(population, round_number, root(self.sampler, seed))
