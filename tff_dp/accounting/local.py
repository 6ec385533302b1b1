"""Rounds in which each client adds noise to its own report."""

from __future__ import annotations

import abc
from typing import ClassVar

from tff_dp.accounting.events import GaussianRound, IndependentRound, Round
from tff_dp.accounting.laplace import LaplaceRound
from tff_dp.sampling import Adjacency, FullParticipation, Sampler


class _LocalRound(Round, abc.ABC):
    """One round of a local mechanism; the arguments are those of `Round`.

    The adversary sees each report, so that sampling of clients amplifies nothing. Neighboring data
    sets differ in the data of one client, which is replace-one.
    """

    _central: ClassVar[type[IndependentRound]]

    @classmethod
    def adjacencies(cls, sampler: Sampler) -> tuple[Adjacency, ...]:
        """Returns replace-one, whatever the sampler."""
        del sampler
        return (Adjacency.REPLACE_ONE,)

    def equivalent(self, runs: tuple[range, ...]) -> tuple[IndependentRound, int]:
        """Returns one report, and the largest number of reports of one client."""
        one = self._central(
            noise_multiplier=self.noise_multiplier,
            sampler=FullParticipation(),
            population=self.population,
            adjacency=self.adjacency,
        )
        # A run that continues from an earlier state has fewer rounds than its last round's number.
        most = (min(self.sampler.participation(run.stop - 1)[0], len(run)) for run in runs)
        return one, sum(most)

    def _remedy(self) -> str:
        return "A local mechanism hides a client's data, but not whether the client participates."


class LocalGaussianRound(_LocalRound):
    """One round of `LocalGaussianMechanism`; the arguments are those of `Round`."""

    _central = GaussianRound


class LocalLaplaceRound(_LocalRound):
    """One round of `LocalLaplaceMechanism`; the arguments are those of `Round`."""

    _central = LaplaceRound
