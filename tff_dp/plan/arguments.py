"""What the arguments of a plan come to: the unit, the clients, and who takes part."""

from __future__ import annotations

import typing

from tff_dp import _checks, _seeds
from tff_dp.accounting import check_records
from tff_dp.errors import ArgumentError
from tff_dp.mechanisms import Mechanism, Unit
from tff_dp.sampling import FullParticipation, PoissonSampler, Sampler


class KeptCohort(float):
    """The cohort that a plan was given, beside the sampler that was made of it.

    `dataclasses.replace` makes a plan from the attributes of another one. Of a sampler alone, the new
    plan could not tell whether the rate was given, which stays, or the cohort, which stays in place of
    the rate when the population changes.
    """

    sampler: PoissonSampler

    def __new__(cls, cohort: float, sampler: PoissonSampler) -> KeptCohort:
        """Returns the cohort as a number that remembers the sampler that was made of it."""
        kept = super().__new__(cls, cohort)
        kept.sampler = sampler
        return kept

    def __getnewargs__(self) -> tuple[float, PoissonSampler]:  # type: ignore[override]
        return float(self), self.sampler


def unit_of(mechanism: object, unit: object) -> Unit:
    """Returns the unit that a mechanism protects; one that is given must be that."""
    checked = _checks.instance(
        "mechanism",
        mechanism,
        Mechanism,
        "Give one, such as GaussianMechanism(clip_norm=1.0, noise_multiplier=1.0); training without "
        "differential privacy takes privacy=NoPrivacy() in place of a plan.",
    )
    protected = type(checked).unit
    if unit is not None and _checks.member("unit", unit, Unit) is not protected:
        raise ArgumentError(
            f"unit={_checks.member('unit', unit, Unit).value!r} does not fit mechanism={mechanism!r}: "
            "expected unit='record' with RecordGaussianMechanism, and unit='client' with any other. The "
            "unit follows from the mechanism: leave it out."
        )
    check_hash("mechanism", checked)
    return protected


def check_hash(name: str, value: object) -> None:
    """Raises ArgumentError unless a value can be looked up, as plans are in ledgers and caches."""
    try:
        hash(value)
    except TypeError as error:  # a field of a user's class
        raise ArgumentError(
            f"{name}={value!r} cannot be looked up: {error}. Its class has to be a frozen dataclass of "
            "values that cannot change, such as tuples in place of lists."
        ) from None


def clients_of(
    unit: Unit, population: object, records: object
) -> tuple[tuple[int, ...] | None, int]:
    """Returns each client's number of records, where records are protected, and how many clients."""
    if unit is Unit.RECORD:
        counts = check_records(records)
        if population is None:
            return counts, len(counts)
        # The round checks that it is that of the records, and says what differs.
        _checks.integer("population", population, "[1, inf)")
        return counts, typing.cast(int, population)
    if records is not None:
        raise ArgumentError(
            f"records={records!r} says nothing under unit='client': leave it out, or protect records "
            "by RecordGaussianMechanism, whose unit='record'."
        )
    remedy = "A guarantee for a client needs other clients."
    _checks.integer("population", population, "[2, inf)", remedy)
    return None, typing.cast(int, population)


def sampler_of(
    unit: Unit, population: int, sampler: Sampler | None, cohort: float | None
) -> tuple[Sampler, KeptCohort | None]:
    """Returns the sampler, and the cohort that it was made of, if one was given."""
    if isinstance(cohort, KeptCohort):  # of the plan that this one replaces
        if sampler is None or sampler is cohort.sampler:
            sampler, cohort = None, float(cohort)
        else:  # another sampler, in place of the cohort
            cohort = None
    given = (sampler is not None) + (cohort is not None)
    if unit is Unit.RECORD and not given:
        return FullParticipation(), None
    if given != 1:
        raise ArgumentError(
            f"sampler={sampler!r} and cohort={cohort!r}: give exactly one of them. cohort is "
            "the expected number of clients a round under Poisson sampling. In dataclasses.replace, "
            "sampler=None goes with a cohort, and a sampler alone takes the place of a cohort."
        )
    if cohort is None:
        checked = _checks.instance("sampler", sampler, Sampler)
        check_hash("sampler", checked)
        return checked, None
    bound = f"(0, {population}]"
    cohort = _checks.real("cohort", cohort, bound, "It is at most the population.")
    made = PoissonSampler(rate=cohort / population)
    return made, KeptCohort(cohort, made)


def root(sampler: Sampler, seed: int | None) -> int:
    """Returns the root from which the cohorts of a run derive, or refuses to choose one."""
    if seed is None and sampler.of_one_seed:
        raise ArgumentError(
            f"seed=None does not do for {sampler}, whose cohorts depend on those before: expected one "
            "whole number for all rounds of a run. secrets.randbits(128) makes one."
        )
    return _seeds.root(seed)
