"""The settings of `experiments.images_mechanisms`."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

from experiments import _trials
from experiments._image_mechanisms import KINDS
from tff_dp import _checks
from tff_dp.config import Config
from tff_dp.errors import ArgumentError


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrivacySettings(Config):
    """The [privacy] section.

    Attributes:
      learning_rate: Of the clients.
      cohort: Clients a round, or their expected number.
      alpha: Of the Dirichlet law by which labels are dealt out.
      target_epsilons: One training of each mechanism for each.
    """

    learning_rate: float
    cohort: int
    alpha: float
    target_epsilons: Sequence[float]

    def __post_init__(self) -> None:
        _checks.real("learning_rate", self.learning_rate, "(0, inf)")
        _checks.real("alpha", self.alpha, "(0, 1e6]")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MechanismTuning(Config):
    """The [tuning] section: what is tried for each row, equally many.

    Attributes:
      seed: Of all trials.
      validation: The share of the training images that trials are scored on.
      epsilons: At which trials are made; each target takes the choice of the nearest one, by ratio.
      server_rates: The server's learning rates, each with each bound of the row's kind.
      clip_norms: L2 clip norms.
      l1_clip_norms: L1 clip norms.
      quantiles: Shares of clients that adaptive clipping leaves unclipped.
      reference_rates: The server's learning rates without privacy.
    """

    seed: int
    validation: float
    epsilons: Sequence[float]
    server_rates: Sequence[float]
    clip_norms: Sequence[float]
    l1_clip_norms: Sequence[float]
    quantiles: Sequence[float]
    reference_rates: Sequence[float]

    def __post_init__(self) -> None:
        _checks.integer("epsilons", len(self.epsilons), "[1, inf)", "Give at least one.")

    def candidates(self, kind: str | None) -> list[_trials.Candidate]:
        """Returns what is tried for a kind of mechanism.

        Args:
          kind: One of `KINDS`; None without privacy.
        """
        if kind is None:
            return [{"server rate": rate} for rate in self.reference_rates]
        bound = KINDS[kind].bound
        bounds = {
            "clip norm": self.clip_norms,
            "L1 clip norm": self.l1_clip_norms,
            "quantile": self.quantiles,
        }[bound]
        return [
            {bound: b, "server rate": r} for b, r in itertools.product(bounds, self.server_rates)
        ]

    def nearest(self, epsilon: float) -> float:
        """Returns the epsilon whose trials a target takes.

        Args:
          epsilon: The target.
        """
        return min(self.epsilons, key=lambda other: abs(math.log(other / epsilon)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class PopulationSettings(Config):
    """The sections [small] and [large].

    Attributes:
      clients: Over how many the images are dealt out.
      delta: Of each epsilon.
      mechanisms: Names of `KINDS`, which are trained. A population without any is left out.
      by_formula: Names of others, of which only the noise in the model is computed.
    """

    clients: int
    delta: float
    mechanisms: Sequence[str]
    by_formula: Sequence[str]

    def __post_init__(self) -> None:
        for name in (*self.mechanisms, *self.by_formula):
            if name not in KINDS:
                raise ArgumentError(
                    f"mechanisms and by_formula have {name!r}: expected names among "
                    f"{', '.join(KINDS)}."
                )
