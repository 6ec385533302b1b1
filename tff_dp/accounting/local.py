"""Rounds whose every report is noised by its client."""

from __future__ import annotations

import abc
from typing import ClassVar

from tff_dp.accounting.events import GaussianRound, IndependentRound, Round
from tff_dp.accounting.laplace import LaplaceRound
from tff_dp.sampling import Adjacency, FullParticipation, Sampler


class _LocalRound(Round, abc.ABC):
    """One round of a local mechanism; the arguments are those of `Round`.

    The reports themselves are seen: that a client was one of many drawn amplifies nothing. Neighbours
    are two data sets of one client, hence replace-one.
    """

    _central: ClassVar[type[IndependentRound]]

    @classmethod
    def adjacencies(cls, sampler: Sampler) -> tuple[Adjacency, ...]:
        """Returns replace-one, whoever takes part."""
        del sampler
        return (Adjacency.REPLACE_ONE,)

    def equivalent(self, runs: tuple[range, ...]) -> tuple[IndependentRound, int]:
        """Returns one report, and the most that a client may send."""
        one = self._central(
            noise_multiplier=self.noise_multiplier,
            sampler=FullParticipation(),
            population=self.population,
            adjacency=self.adjacency,
        )
        # As many as a client that goes on from an earlier state may have sent in this run alone.
        most = (min(self.sampler.participation(run.stop - 1)[0], len(run)) for run in runs)
        return one, sum(most)

    def _remedy(self) -> str:
        return "A local mechanism hides which data a client has, not that it takes part."


class LocalGaussianRound(_LocalRound):
    """One round of `LocalGaussianMechanism`; the arguments are those of `Round`."""

    _central = GaussianRound


class LocalLaplaceRound(_LocalRound):
    """One round of `LocalLaplaceMechanism`; the arguments are those of `Round`."""

    _central = LaplaceRound
