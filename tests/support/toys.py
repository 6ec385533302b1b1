"""A mechanism and a sampler as users add them: everything of theirs is in this module.

docs/architecture.md has the recipes that this module follows. Nothing here imports TensorFlow at the top:
`tff-dp epsilon --mechanism tests.support.toys:RepeatedMechanism` does without it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import dp_accounting
import numpy as np

from tff_dp import accounting, mechanisms
from tff_dp.accounting import IndependentRound
from tff_dp.errors import AccountingError, ArgumentError
from tff_dp.mechanisms import Mechanism
from tff_dp.mechanisms.base import check_clip, check_noise
from tff_dp.sampling import Adjacency, FullParticipation, Sampler


@dataclasses.dataclass(frozen=True, kw_only=True)
class RepeatedMechanism(Mechanism):
    """The mean of several noised releases of the sum of updates, which are clipped in L1 norm.

    What it protects: the whole contribution of one client to one round.

    Formal guarantee: every update is scaled to L1 norm at most C, and so has L2 norm at most C. Each of R
    releases adds noise N(0, (z C)^2) of its own to each coordinate of the sum: together they are one
    Gaussian mechanism of noise multiplier z / sqrt(R), and their mean is post-processing.

    Args:
      clip_norm: C, an L1 norm, in units of the model's weights; > 0.
      noise_multiplier: z, of one release, without unit; >= 0.
      releases: R, how often a sum is released; >= 1.
    """

    clip_norm: float
    noise_multiplier: float
    releases: int = 2

    def __post_init__(self) -> None:
        check_clip("clip_norm", self.clip_norm, "L1")
        check_noise(self.noise_multiplier)
        if not isinstance(self.releases, int) or self.releases < 1:
            raise ArgumentError(f"releases={self.releases!r}: expected a whole number in [1, inf).")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RepeatedRound(IndependentRound):
    """One round of `RepeatedMechanism`: a Gaussian mechanism of noise multiplier z / sqrt(R)."""

    releases: int

    @classmethod
    def adjacencies(cls, sampler: Sampler) -> tuple[Adjacency, ...]:
        """Returns the relations under which the sampler's amplification of a Gaussian is proven."""
        return sampler.adjacencies

    def _mechanism_event(self, noise_multiplier: float) -> dp_accounting.DpEvent:
        return dp_accounting.GaussianDpEvent(noise_multiplier / math.sqrt(self.releases))


def zcdp_epsilon(one_round: RepeatedRound, rounds: int, delta: float) -> float:
    """Returns epsilon by zero-concentrated DP, where everybody takes part.

    Source: Bun and Steinke, arXiv:1605.02065, propositions 1.3 and 1.6, lemma 1.7.
    """
    if not isinstance(one_round.sampler, FullParticipation):
        raise AccountingError(f"zCDP is not amplified by {one_round.sampler}")
    sensitivity = 2 if one_round.adjacency is Adjacency.REPLACE_ONE else 1
    releases = rounds * one_round.releases
    rho = releases * (sensitivity / one_round.noise_multiplier) ** 2 / 2
    return rho + 2 * math.sqrt(rho * math.log(1 / delta))


@accounting.register_accountants(RepeatedRound)
def accountants(one_round: RepeatedRound) -> Mapping[str, Any]:
    return {"rdp": accounting.rdp_epsilon, "zcdp": zcdp_epsilon}


accounting.register_round(
    RepeatedMechanism,
    RepeatedRound,
    fields=["releases"],
    draws_per_coordinate=lambda mechanism, rounds: mechanism.releases,
)


@mechanisms.register_aggregator(RepeatedMechanism)
def build(mechanism: RepeatedMechanism, clients_per_round: float, rounds: int) -> Any:
    """Returns the aggregator: R times the sum, plus R draws of noise, over R m."""
    from tff_dp import aggregation, noise

    del rounds  # each has noise of its own
    releases = mechanism.releases

    def clip(update: Any, grid: noise.Grid) -> Any:
        return [releases * part for part in noise.clip_l1(update, mechanism.clip_norm, grid).parts]

    def draw(shape: Any, stddev: float) -> Any:
        return sum(noise.gaussian(shape, stddev) for _ in range(releases))

    return aggregation.independent_noise(
        noise_multiplier=mechanism.noise_multiplier,
        clip_norm=mechanism.clip_norm,
        clients_per_round=releases * clients_per_round,
        clip=clip,
        draw=draw,
    )


@mechanisms.register_law(RepeatedMechanism)
def law() -> Any:
    """Returns what the accounting takes for granted, from the guarantee and not from the aggregator."""
    from scipy import stats

    from tff_dp.selftest import GAUSSIAN_LAW, l1_norm

    return dataclasses.replace(
        GAUSSIAN_LAW,
        size=lambda mechanism, parts: l1_norm(parts) / mechanism.clip_norm,
        noise=lambda mechanism, m, clip: stats.norm(
            scale=mechanism.noise_multiplier * clip / math.sqrt(mechanism.releases)
        ),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PartsSampler(Sampler):
    """In each round, a public coin says which part of the clients takes part, as a whole.

    The coin is public, so that it amplifies nothing: a round costs what one of everybody does. Clients
    are cut into parts by their positions, which have to stay: neighbors are data sets of as many
    clients.

    Args:
      parts: The number of parts, of one size; >= 1.
    """

    adjacencies: ClassVar[tuple[Adjacency, ...]] = (Adjacency.ZERO_OUT, Adjacency.REPLACE_ONE)

    parts: int = 2

    def check(self, population: int) -> None:
        """Raises ArgumentError unless the clients can be cut into parts of one size."""
        super().check(population)
        if population % self.parts:
            raise ArgumentError(
                f"parts={self.parts}: expected a divisor of {population}, the clients."
            )

    def expected_clients(self, population: int) -> float:
        """Returns the size of a part."""
        return population / self.parts

    def wrap(self, event: dp_accounting.DpEvent, population: int) -> dp_accounting.DpEvent:
        """Returns the event as it is."""
        del population
        return event

    def _draw(self, population: int, round_number: int, root_seed: int) -> np.ndarray:
        part = int(np.random.default_rng([root_seed, round_number]).integers(self.parts))
        size = population // self.parts
        return np.arange(part * size, (part + 1) * size)
