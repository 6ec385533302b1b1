"""Rounds of a mechanism under a sampler, described in the terms that each accountant expects."""

from __future__ import annotations

import abc
import dataclasses

import dp_accounting

from tff_dp import _checks
from tff_dp.config import Config
from tff_dp.errors import AccountingError
from tff_dp.sampling import Adjacency, Sampler


def recommended_delta(population: int) -> float:
    """Returns a customary delta for a number of protected units.

    Args:
      population: N, the number of units.

    Returns:
      N^-1.1, which is below 1/N for N > 1.
    """
    return float(max(population, 2) ** -1.1)


def check_delta(name: str, delta: float, population: int, unit: str = "client") -> None:
    """Checks that delta is below 1/N.

    Args:
      name: The name of the argument, as the caller wrote it.
      delta: The delta to check.
      population: N, the number of units; >= 1.
      unit: The name of a unit, for the message.

    Raises:
      ArgumentError: Delta is not in (0, 1/N).
    """
    _checks.real(
        name,
        delta,
        f"(0, {float(1 / population)!r})",
        f"A delta of 1/N or more allows one {unit}'s data to be published outright; "
        f"{recommended_delta(population):.2g} is customary for {population} {unit}s.",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Round(Config, abc.ABC):
    """One round of a mechanism under a sampler, and the privacy cost of runs of such rounds.

    Args:
      noise_multiplier: z, the scale of the noise over the clip norm; >= 0.
      sampler: The sampler, which determines who participates.
      population: Number of clients, N; >= 1.
      adjacency: One of `adjacencies(sampler)`.

    Raises:
      ArgumentError: A value is outside its bound.
      AccountingError: The sampler has no valid accounting with this mechanism or adjacency.
    """

    noise_multiplier: float
    sampler: Sampler
    population: int
    adjacency: Adjacency

    def __post_init__(self) -> None:
        _checks.real("noise_multiplier", self.noise_multiplier, "[0, inf)")
        _checks.instance("sampler", self.sampler, Sampler)
        adjacency = _checks.member("adjacency", self.adjacency, Adjacency)
        object.__setattr__(self, "adjacency", adjacency)
        self.sampler.check(self.population)
        valid = self.adjacencies(self.sampler)
        if self.adjacency not in valid:
            raise AccountingError(self._refusal(valid))

    @classmethod
    @abc.abstractmethod
    def adjacencies(cls, sampler: Sampler) -> tuple[Adjacency, ...]:
        """Returns the neighboring relations under which such rounds can be accounted for.

        Args:
          sampler: The sampler of the rounds.

        Returns:
          The relations, the default first; empty if there is no valid accounting under this
          sampler.
        """

    @abc.abstractmethod
    def equivalent(self, runs: tuple[range, ...]) -> tuple[IndependentRound, int]:
        """Reduces runs of such rounds to a number of independent rounds of one kind.

        Args:
          runs: The rounds of each run, counted from 1. A run whose first round is above 1 continues
            from the state after the round before; it may share noise with earlier released rounds.

        Returns:
          An independent round, and the number of such rounds that cost at least as much as the
          runs.
        """

    def quick_equivalent(self, runs: tuple[range, ...]) -> tuple[IndependentRound, int]:
        """Does the same as `equivalent` in less time; the rounds it returns may cost more.

        Args:
          runs: As for `equivalent`.

        Returns:
          As `equivalent`.
        """
        return self.equivalent(runs)

    def _refusal(self, valid: tuple[Adjacency, ...]) -> str:
        name = type(self.sampler).__name__
        if not valid:
            return f"sampler={name} has no valid accounting with {type(self).__name__}: {self._remedy()}"
        expected = " or ".join(repr(a.value) for a in valid)
        return (
            f"adjacency={self.adjacency.value!r} has no valid accounting with {name}: expected "
            f"{expected}. {self._remedy()}"
        )

    def _remedy(self) -> str:
        return (
            "Use PoissonSampler, whose amplification of a Gaussian is accounted for under every "
            "adjacency. "
            "Bounded participation is for TreeMechanism and BandedMechanism; the latter with bands=1 has "
            "independent noise."
        )


class IndependentRound(Round):
    """A round with noise of its own: T such rounds are T times the same event."""

    def equivalent(self, runs: tuple[range, ...]) -> tuple[IndependentRound, int]:
        """Returns this round itself, and the number of rounds in all runs."""
        return self, sum(len(run) for run in runs)

    @abc.abstractmethod
    def _mechanism_event(self, noise_multiplier: float) -> dp_accounting.DpEvent:
        """Returns the event of a round in which every client participates."""

    def scaled_event(self) -> dp_accounting.DpEvent:
        """Returns the event for an accountant that assumes a sensitivity of one clip norm.

        dp-accounting's RDP accountant is of this kind: under REPLACE_ONE it does not double the
        sensitivity. Replacing one client changes a clipped sum by up to twice the clip norm, so
        that the event has z / 2.
        """
        doubled = self.adjacency is Adjacency.REPLACE_ONE
        z = self.noise_multiplier / 2 if doubled else self.noise_multiplier
        return self.sampler.wrap(self._mechanism_event(z), self.population)

    def event(self) -> dp_accounting.DpEvent:
        """Returns the event for an accountant that derives the sensitivity from the relation.

        dp-accounting's PLD accountant is of this kind since version 0.6.0; version 0.4.3 returns
        too small an epsilon.
        """
        return self.sampler.wrap(self._mechanism_event(self.noise_multiplier), self.population)


class GaussianRound(IndependentRound):
    """One round of a Gaussian mechanism under a sampler; the arguments are those of `Round`.

    The noise multiplier is that of everything the round releases, as one Gaussian. Adaptive
    clipping is such a round as well: its composed event (updates and clipped count) is equivalent
    to a single Gaussian of the total noise multiplier, and the PLD accountant accepts only a single
    Gaussian under Poisson sampling.
    """

    @classmethod
    def adjacencies(cls, sampler: Sampler) -> tuple[Adjacency, ...]:
        """Returns the relations under which the sampler's amplification of a Gaussian is accounted for.

        The amplification is proven for all of them except Poisson sampling under replace-one; see
        `tff_dp.accounting.pairs.Pair`.
        """
        return sampler.adjacencies

    def _mechanism_event(self, noise_multiplier: float) -> dp_accounting.DpEvent:
        return dp_accounting.GaussianDpEvent(noise_multiplier)


class AdaptiveGaussianRound(GaussianRound):
    """One round of adaptive clipping; the arguments are those of `Round`.

    A client whose update is zeros still reports that it was not clipped. Under zero-out, its bit
    may change from -1/2 to 1/2, which is twice the change that is accounted for. An absent client
    has no bit; and a replaced client changes both bit and update by twice as much, which
    replace-one includes.
    """

    @classmethod
    def adjacencies(cls, sampler: Sampler) -> tuple[Adjacency, ...]:
        """Returns the relations of a Gaussian round except zero-out."""
        return tuple(a for a in super().adjacencies(sampler) if a is not Adjacency.ZERO_OUT)

    def _remedy(self) -> str:
        if self.adjacency is Adjacency.ZERO_OUT:
            return (
                "A client without an update still counts as unclipped, which zero-out would reveal."
            )
        return super()._remedy()
