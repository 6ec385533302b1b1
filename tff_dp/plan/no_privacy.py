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
    """Training without differential privacy: an explicit choice, never an omission.

    Args:
      sampler: Who takes part in a round; every client by default.
    """

    sampler: Sampler = dataclasses.field(default_factory=FullParticipation)

    def __post_init__(self) -> None:
        _checks.instance("sampler", self.sampler, Sampler)

    def draw_cohort(self, round_number: int, *, population: int, seed: int | None) -> np.ndarray:
        """Draws one round's cohort; see `Sampler.cohort`."""
        return self.sampler.cohort(population, round_number, root(self.sampler, seed))
