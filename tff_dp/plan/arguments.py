"""Checks the arguments of a plan: the unit, the numbers of records, and the sampler."""

from __future__ import annotations

import typing

from tff_dp import _checks, _seeds
from tff_dp.accounting import check_records
from tff_dp.errors import ArgumentError
from tff_dp.mechanisms import Mechanism, Unit
from tff_dp.plan.foreign import check_part, check_sampler
from tff_dp.sampling import FullParticipation, PoissonSampler, Sampler


class KeptCohort(float):
    """The `cohort` argument of a plan, with the sampler that was made from it.

    `dataclasses.replace` makes a plan from the attributes of another one. From the sampler alone,
    the new plan could not tell which argument was given: a rate, which stays the same when the
    population changes, or a cohort, which stays the same while the rate changes.

    Attributes:
      sampler: The sampler that was made from the cohort.
    """

    sampler: PoissonSampler

    def __new__(cls, cohort: float, sampler: PoissonSampler) -> KeptCohort:
        """Makes a number that stores the sampler that was made from it.

        Args:
          cohort: The expected number of clients a round.
          sampler: The sampler that was made from it.

        Returns:
          The number.
        """
        kept = super().__new__(cls, cohort)
        kept.sampler = sampler
        return kept

    def __getnewargs__(self) -> tuple[float, PoissonSampler]:  # type: ignore[override]
        return float(self), self.sampler


def unit_of(mechanism: object, unit: object) -> Unit:
    """Finds the unit of privacy, and checks the mechanism.

    Args:
      mechanism: The mechanism of the plan.
      unit: The `unit` argument of the plan: a `Unit`, its value, or None.

    Returns:
      The unit that the mechanism protects.

    Raises:
      ArgumentError: `mechanism` is not a mechanism or not hashable, or `unit` differs from the unit
        that it protects.
    """
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
    check_part("mechanism", checked)
    return protected


def clients_of(
    unit: Unit, population: object, records: object
) -> tuple[tuple[int, ...] | None, int]:
    """Checks the population and the numbers of records.

    Args:
      unit: The unit of privacy.
      population: The `population` argument of the plan: N, or None where `records` are given.
      records: The `records` argument of the plan: each client's number of records, or None.

    Returns:
      Each client's number of records, None if clients are protected; and the number of clients.

    Raises:
      ArgumentError: A value is outside its bound, or `records` are given although clients are
        protected.
    """
    if unit is Unit.RECORD:
        counts = check_records(records)
        if population is None:
            return counts, len(counts)
        # `round_of` checks that the population is the number of clients in `records`.
        _checks.integer("population", population, "[1, inf)")
        return counts, typing.cast(int, population)
    if records is not None:
        raise ArgumentError(
            f"records={records!r} has no meaning under unit='client': leave it out, or protect records "
            "by RecordGaussianMechanism, whose unit='record'."
        )
    remedy = "A guarantee for a client needs other clients."
    _checks.integer("population", population, "[2, inf)", remedy)
    return None, typing.cast(int, population)


def sampler_of(
    unit: Unit, population: int, sampler: Sampler | None, cohort: float | None
) -> tuple[Sampler, KeptCohort | None]:
    """Finds the sampler from the arguments `sampler` and `cohort`, of which exactly one may be given.

    Args:
      unit: The unit of privacy. For records, both arguments may be None: every client participates.
      population: N, the number of clients.
      sampler: The `sampler` argument of the plan, or None.
      cohort: The `cohort` argument of the plan, an expected number of clients in (0, N], or None.

    Returns:
      The sampler; and the cohort if the sampler was made from one, otherwise None.

    Raises:
      ArgumentError: Both or neither is given, or the given one is outside its bound.
    """
    if isinstance(cohort, KeptCohort):  # from the plan that `dataclasses.replace` copies
        if sampler is None or sampler is cohort.sampler:
            sampler, cohort = None, float(cohort)
        else:  # a new sampler replaces the cohort
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
        check_part("sampler", checked)
        check_sampler(checked, population)
        return checked, None
    bound = f"(0, {population}]"
    cohort = _checks.real("cohort", cohort, bound, "It is at most the population.")
    made = PoissonSampler(rate=cohort / population)
    return made, KeptCohort(cohort, made)


def root(sampler: Sampler, seed: int | None) -> int:
    """Returns the root seed from which the cohorts of a run are derived.

    Args:
      sampler: The sampler.
      seed: The seed of the run; None for entropy of the operating system.

    Returns:
      A nonnegative integer.

    Raises:
      ArgumentError: The seed is outside its bound, or it is None although the cohorts of the
        sampler depend on earlier ones, so that all rounds need the same seed.
    """
    if seed is None and sampler.of_one_seed:
        raise ArgumentError(
            f"seed=None is not allowed with {sampler}, whose cohorts depend on earlier ones: expected "
            "one whole number for all rounds of a run. secrets.randbits(128) makes one."
        )
    return _seeds.root(seed)
