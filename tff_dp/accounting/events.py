"""What one round costs, in the terms that each accountant expects."""

from __future__ import annotations

import dataclasses

import dp_accounting

from tff_dp import _checks
from tff_dp.errors import AccountingError
from tff_dp.sampling import Adjacency, Sampler


def recommended_delta(population: int) -> float:
    """Returns N^-1.1, a customary delta for N units, always below 1/N for N > 1."""
    return float(max(population, 2) ** -1.1)


def check_delta(name: str, delta: float, population: int) -> None:
    """Raises ArgumentError unless delta is below 1/N.

    Args:
      name: What the caller calls it.
      delta: The probability with which the guarantee may fail.
      population: N, the number of units.
    """
    _checks.real(
        name,
        delta,
        f"(0, {float(1 / population)!r})",
        f"A delta of 1/population or more allows one client's data to be published outright; "
        f"{recommended_delta(population):.2g} is customary for {population} clients.",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class GaussianRound:
    """One round of a Gaussian mechanism under a sampler.

    Adaptive clipping is such a round as well: its composed event (updates and clipped count) is
    equivalent to a single Gaussian of the total noise multiplier, and the PLD accountant accepts only
    the single one under Poisson sampling.

    Args:
      noise_multiplier: The total z: noise standard deviation over the clip norm; >= 0.
      sampler: Who takes part.
      population: Number of clients, N; >= 1.
      adjacency: One of those under which the sampler can be accounted for.

    Raises:
      ArgumentError: A value is outside its bound.
      AccountingError: The sampler has no valid accounting under this adjacency.
    """

    noise_multiplier: float
    sampler: Sampler
    population: int
    adjacency: Adjacency

    def __post_init__(self) -> None:
        _checks.real("noise_multiplier", self.noise_multiplier, "[0, inf)")
        _checks.instance("sampler", self.sampler, Sampler)
        _checks.instance("adjacency", self.adjacency, Adjacency)
        self.sampler.check(self.population)
        if self.adjacency not in self.sampler.adjacencies:
            valid = " or ".join(repr(a.value) for a in self.sampler.adjacencies)
            raise AccountingError(
                f"adjacency={self.adjacency.value!r} has no valid accounting with "
                f"{type(self.sampler).__name__}: expected {valid}. Use that adjacency, or "
                "PoissonSampler, whose amplification is proven under both."
            )

    def scaled_event(self) -> dp_accounting.DpEvent:
        """Returns the event for an accountant that takes every sensitivity for one clip norm.

        dp-accounting's RDP accountant is of this kind: its REPLACE_ONE never doubles the sensitivity.
        Replacing one client moves a clipped sum by up to twice the clip norm, hence z / 2.
        """
        doubled = self.adjacency is Adjacency.REPLACE_ONE
        z = self.noise_multiplier / 2 if doubled else self.noise_multiplier
        return self.sampler.wrap(dp_accounting.GaussianDpEvent(z), self.population)

    def event(self) -> dp_accounting.DpEvent:
        """Returns the event for an accountant that derives the sensitivity from the relation.

        dp-accounting's PLD accountant (since 0.6.0; 0.4.3 gives too small a value) is of this kind.
        """
        event = dp_accounting.GaussianDpEvent(self.noise_multiplier)
        return self.sampler.wrap(event, self.population)
