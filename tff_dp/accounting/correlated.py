"""Rounds that share noise: the cost of a run depends on how often a client participates in it."""

from __future__ import annotations

import dataclasses
import math

from tff_dp.accounting.events import GaussianRound, IndependentRound, Round
from tff_dp.accounting.sensitivity import tree_sensitivity_squared
from tff_dp.errors import AccountingError
from tff_dp.sampling import (
    Adjacency,
    CyclicPoissonSampler,
    FullParticipation,
    MinSeparationSampler,
    Sampler,
)


class _CorrelatedRound(Round):
    """A round of which a whole run is one Gaussian mechanism on all participations of a client.

    A run that continues from an earlier state is counted from its first round on. That is more than
    it costs, since the earlier rounds are counted already.
    """

    @classmethod
    def adjacencies(cls, sampler: Sampler) -> tuple[Adjacency, ...]:
        """Returns zero-out and replace-one, which do not change who else participates.

        Without a bound on participation, no relation is valid; see `Round.adjacencies`.
        """
        if isinstance(sampler, MinSeparationSampler | FullParticipation):
            return (Adjacency.ZERO_OUT, Adjacency.REPLACE_ONE)
        return ()

    def _gaussian(self, sensitivity_squared: float) -> tuple[IndependentRound, int]:
        """Returns one Gaussian mechanism whose sensitivity is given in clip norms."""
        if sensitivity_squared == 0:
            return self._independent(self.noise_multiplier, FullParticipation()), 0
        z = self.noise_multiplier / math.sqrt(sensitivity_squared)
        return self._independent(z, FullParticipation()), 1

    def _independent(self, noise_multiplier: float, sampler: Sampler) -> GaussianRound:
        return GaussianRound(
            noise_multiplier=noise_multiplier,
            sampler=sampler,
            population=self.population,
            adjacency=self.adjacency,
        )

    def _remedy(self) -> str:
        return (
            "Use MinSeparationSampler, which bounds how often a client participates, under 'zero-out': "
            "the participation of other clients must not depend on the client."
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TreeRound(_CorrelatedRound):
    """One round of `TreeMechanism`; see `Round` for the other arguments.

    Args:
      restart_every: The number of rounds after which a new tree begins; None for one tree over a
        run.

    Raises:
      ArgumentError: A value is outside its bound.
      AccountingError: The sampler does not bound how often a client participates, or the adjacency
        changes the participation of other clients.
    """

    restart_every: int | None = None

    def equivalent(self, runs: tuple[range, ...]) -> tuple[IndependentRound, int]:
        """Returns one Gaussian mechanism on the nodes of the trees of all runs."""
        return self._of_trees(runs, quick=False)

    def quick_equivalent(self, runs: tuple[range, ...]) -> tuple[IndependentRound, int]:
        """Returns the same, from an upper bound on the sensitivity that requires no search."""
        return self._of_trees(runs, quick=True)

    def _of_trees(self, runs: tuple[range, ...], quick: bool) -> tuple[IndependentRound, int]:
        return self._gaussian(
            sum(
                tree_sensitivity_squared(
                    run.stop - 1,
                    *self.sampler.participation(run.stop - 1),
                    self.restart_every,
                    quick=quick,
                )
                for run in runs
            )
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class BandedRound(_CorrelatedRound):
    """One round of `BandedMechanism`; see `Round` for the other arguments.

    Args:
      bands: b, the number of consecutive rounds that share noise; >= 1, and at most the smallest
        number of rounds between two participations of a client.

    Raises:
      ArgumentError: A value is outside its bound.
      AccountingError: A client may participate again within b rounds, or the adjacency changes the
        participation of other clients.
    """

    bands: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        _, separation = self.sampler.participation(1)
        if self.bands > separation:
            raise AccountingError(
                f"bands={self.bands} is outside its bound: expected at most {separation}, the rounds "
                f"from one participation of a client to its next under {self.sampler}. Take fewer "
                "bands, a larger min_separation, or a longer cycle."
            )

    @classmethod
    def adjacencies(cls, sampler: Sampler) -> tuple[Adjacency, ...]:
        """Returns those of all correlated rounds; only zero-out if sampling amplifies."""
        if isinstance(sampler, CyclicPoissonSampler):
            return (Adjacency.ZERO_OUT,)
        return super().adjacencies(sampler)

    def equivalent(self, runs: tuple[range, ...]) -> tuple[IndependentRound, int]:
        """Returns one Gaussian mechanism, or a Poisson-sampled one for each cycle."""
        participations = sum(self.sampler.participation(run.stop - 1)[0] for run in runs)
        if isinstance(self.sampler, CyclicPoissonSampler):
            return self._independent(self.noise_multiplier, self.sampler.coin()), participations
        return self._gaussian(participations)
