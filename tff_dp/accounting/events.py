"""What rounds of a mechanism cost, in the terms that each accountant expects."""

from __future__ import annotations

import abc
import dataclasses

import dp_accounting

from tff_dp import _checks
from tff_dp.config import Config
from tff_dp.errors import AccountingError
from tff_dp.sampling import Adjacency, Sampler


def recommended_delta(population: int) -> float:
    """Returns N^-1.1, a customary delta for N units, always below 1/N for N > 1."""
    return float(max(population, 2) ** -1.1)


def check_delta(name: str, delta: float, population: int, unit: str = "client") -> None:
    """Raises ArgumentError unless delta is below 1/N.

    Args:
      name: What the caller calls it.
      delta: The probability with which the guarantee may fail.
      population: N, the number of units.
      unit: What they are called.
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
    """One round of a mechanism under a sampler, and what runs of such rounds come to.

    Args:
      noise_multiplier: z: the scale of the noise over the clip norm; >= 0.
      sampler: Who takes part.
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
        """Returns the relations under which these rounds can be accounted for, the default first."""

    @abc.abstractmethod
    def equivalent(self, runs: tuple[range, ...]) -> tuple[IndependentRound, int]:
        """Returns a round, and how many independent ones cost what these runs do, or more.

        Args:
          runs: The rounds of each run, counted from 1. A run that begins later goes on from the state
            after the round before its first: it may share noise with what was seen of earlier rounds.
        """

    def quick_equivalent(self, runs: tuple[range, ...]) -> tuple[IndependentRound, int]:
        """Returns what `equivalent` does, or what costs more and takes no time."""
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
    """Rounds that each draw noise of their own: T of them are T times the same event."""

    def equivalent(self, runs: tuple[range, ...]) -> tuple[IndependentRound, int]:
        """Returns this round, and the number of rounds in all runs."""
        return self, sum(len(run) for run in runs)

    @abc.abstractmethod
    def _mechanism_event(self, noise_multiplier: float) -> dp_accounting.DpEvent:
        """Returns the event of a round in which everybody takes part."""

    def scaled_event(self) -> dp_accounting.DpEvent:
        """Returns the event for an accountant that takes every sensitivity for one clip norm.

        dp-accounting's RDP accountant is of this kind: its REPLACE_ONE never doubles the sensitivity.
        Replacing one client moves a clipped sum by up to twice the clip norm, hence z / 2.
        """
        doubled = self.adjacency is Adjacency.REPLACE_ONE
        z = self.noise_multiplier / 2 if doubled else self.noise_multiplier
        return self.sampler.wrap(self._mechanism_event(z), self.population)

    def event(self) -> dp_accounting.DpEvent:
        """Returns the event for an accountant that derives the sensitivity from the relation.

        dp-accounting's PLD accountant (since 0.6.0; 0.4.3 gives too small a value) is of this kind.
        """
        return self.sampler.wrap(self._mechanism_event(self.noise_multiplier), self.population)


class GaussianRound(IndependentRound):
    """One round of a Gaussian mechanism under a sampler; the arguments are those of `Round`.

    The noise multiplier is the noise's standard deviation over the clip norm, in total: adaptive
    clipping is such a round as well. Its composed event (updates and clipped count) is equivalent to a
    single Gaussian of the total noise multiplier, and the PLD accountant accepts only the single one
    under Poisson sampling.
    """

    @classmethod
    def adjacencies(cls, sampler: Sampler) -> tuple[Adjacency, ...]:
        """Returns the relations under which the sampler's amplification of a Gaussian is accounted for.

        It is proven but for Poisson sampling under replace-one; see `tff_dp.accounting.pairs.Pair`.
        """
        return sampler.adjacencies

    def _mechanism_event(self, noise_multiplier: float) -> dp_accounting.DpEvent:
        return dp_accounting.GaussianDpEvent(noise_multiplier)


class AdaptiveGaussianRound(GaussianRound):
    """One round of adaptive clipping; the arguments are those of `Round`.

    A client whose update is zeros still says that it was not clipped: under zero-out its bit may move
    from -1/2 to 1/2, by twice what is accounted for. A client that is not there has no bit, and one that
    is replaced moves bit and update by twice as much each, as replace-one has it.
    """

    @classmethod
    def adjacencies(cls, sampler: Sampler) -> tuple[Adjacency, ...]:
        """Returns those of a Gaussian without zero-out."""
        return tuple(a for a in super().adjacencies(sampler) if a is not Adjacency.ZERO_OUT)

    def _remedy(self) -> str:
        if self.adjacency is Adjacency.ZERO_OUT:
            return "A client without an update still counts as unclipped, which zero-out shows."
        return super()._remedy()
