"""Rounds of Gaussian noise, and how hypothesis draws examples, for the tests of accounting."""

from __future__ import annotations

from hypothesis import settings

from tff_dp.accounting import GaussianRound
from tff_dp.sampling import Adjacency, FullParticipation, PoissonSampler, Sampler

# No deadline and no random choice of examples: the outcome depends on nothing but the code.
examples = settings(max_examples=50, deadline=None, derandomize=True)

AOR, REPLACE = Adjacency.ADD_OR_REMOVE_ONE, Adjacency.REPLACE_ONE


def a_round(
    z: float,
    sampler: Sampler | None = None,
    *,
    q: float | None = None,
    adjacency: Adjacency = AOR,
    population: int = 1000,
    kind: type[GaussianRound] = GaussianRound,
) -> GaussianRound:
    sampler = sampler or (FullParticipation() if q is None else PoissonSampler(rate=q))
    return kind(noise_multiplier=z, sampler=sampler, population=population, adjacency=adjacency)
