"""The settings of `experiments.tune`, and the candidates that they give."""

from __future__ import annotations

import dataclasses
import itertools

import tff_dp
from tff_dp import _checks
from tff_dp.config import Config

LARGEST_SEED = 10**6


@dataclasses.dataclass(frozen=True, kw_only=True)
class TuneSettings(Config):
    """The [tune] section.

    Args:
      held_out: Share of the schools that are tested on.
      public: Share of the other schools whose data count as public.
      rounds: Of each training.
      cohort: Expected schools a round, by Poisson sampling.
      epochs: Local epochs.
      batch_size: Examples in a local batch.
      momentum: The server's momentum.
      clip_norms: Candidates.
      learning_rates: Candidates, of the clients; each is tried with each clip norm.
      default_clip_norm: Without a search.
      default_learning_rate: Without a search.
      target_epsilon: Of the whole tuning, in (0, 8).
      delta: Of epsilon.
      costs: The numbers of runs whose cost is computed.
      seeds: Of the schools, the cohorts and the order of examples.
    """

    held_out: float
    public: float
    rounds: int
    cohort: float
    epochs: int
    batch_size: int
    momentum: float
    clip_norms: list[float]
    learning_rates: list[float]
    default_clip_norm: float
    default_learning_rate: float
    target_epsilon: float
    delta: float
    costs: list[int]
    seeds: list[int]

    def __post_init__(self) -> None:
        _checks.real("public", self.public, "(0, 1)")
        for seed in self.seeds:
            _checks.integer("seeds", seed, f"[0, {LARGEST_SEED}]")
        for runs in self.costs:
            _checks.integer("costs", runs, "[2, 1000]")
        _checks.integer("epochs", self.epochs, "[1, inf)")
        _checks.integer("batch_size", self.batch_size, "[1, inf)")
        _checks.real("momentum", self.momentum, "[0, 1)")
        for candidate in (*self.candidates, self.default):
            _checks.real("learning_rates", candidate.learning_rate, "(0, inf)")
            _checks.real("clip_norms", candidate.clip_norm, "[1e-10, 1e10]")
        _checks.integer(
            "candidates", len(self.candidates), "[2, 1000]", "Give more clip_norms or rates."
        )

    @property
    def candidates(self) -> list[Candidate]:
        """Every clip norm with every learning rate."""
        pairs = itertools.product(self.clip_norms, self.learning_rates)
        return [Candidate(clip_norm=c, learning_rate=rate) for c, rate in pairs]

    @property
    def default(self) -> Candidate:
        """The candidate without a search."""
        return Candidate(clip_norm=self.default_clip_norm, learning_rate=self.default_learning_rate)

    def plan(self, population: int) -> tff_dp.PrivacyPlan:
        """Returns the plan of one run, whose noise is still to be found.

        Args:
          population: The number of private schools.
        """
        return tff_dp.PrivacyPlan(
            mechanism=tff_dp.GaussianMechanism(
                clip_norm=self.default_clip_norm, noise_multiplier=1.0
            ),
            population=population,
            cohort=self.cohort,
            rounds=self.rounds,
            delta=self.delta,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """What is searched for.

    Attributes:
      clip_norm: L2, on a school's change of weights in one round.
      learning_rate: The clients'.
    """

    clip_norm: float
    learning_rate: float
