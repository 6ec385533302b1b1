"""The privacy plan: every combination has a number or a refusal, and nothing invalid is made."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import json
import math
import pickle

import dp_accounting
import numpy as np
import pytest

from tff_dp.accounting import accountants
from tff_dp.config import Config
from tff_dp.errors import AccountingError, ArgumentError
from tff_dp.mechanisms import (
    AdaptiveGaussianMechanism,
    BandedMechanism,
    DistributedGaussianMechanism,
    DistributedSkellamMechanism,
    GaussianMechanism,
    LaplaceMechanism,
    LocalGaussianMechanism,
    LocalLaplaceMechanism,
    PerLayerGaussianMechanism,
    PrivateMetric,
    RecordGaussianMechanism,
    TreeMechanism,
)
from tff_dp.plan import NoPrivacy, PrivacyPlan, Unit
from tff_dp.sampling import (
    Adjacency,
    CyclicPoissonSampler,
    FixedSizeSampler,
    FullParticipation,
    MinSeparationSampler,
    PoissonSampler,
)

AOR, REPLACE = Adjacency.ADD_OR_REMOVE_ONE, Adjacency.REPLACE_ONE


def gaussian(z: float = 1.0) -> GaussianMechanism:
    return GaussianMechanism(clip_norm=0.5, noise_multiplier=z)


def a_plan(**changes: object) -> PrivacyPlan:
    """A plan whose epsilon costs no privacy loss distribution, but for what is changed."""
    arguments = {
        "mechanism": gaussian(10.0),
        "population": 1000,
        "rounds": 100,
        "delta": 1e-5,
        "sampler": FullParticipation(),
    }
    return PrivacyPlan(**(arguments | changes))


# --- Samplers and adjacencies -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [
        (PoissonSampler(rate=0.01), AOR),
        (FixedSizeSampler(size=10), REPLACE),
        (FullParticipation(), AOR),
    ],
)
def test_the_default_adjacency_is_one_that_the_sampler_has_a_proof_for(sampler, expected):
    assert a_plan(sampler=sampler, rounds=10).adjacency is expected


def test_what_only_some_of_the_rounds_can_be_accounted_for_is_refused_when_made():
    # One round has an epsilon, a thousand have none: not to be found out in the midst of training.
    arguments = {
        "mechanism": gaussian(0.5),
        "sampler": PoissonSampler(rate=0.1),
        "adjacency": REPLACE,
    }
    assert a_plan(**arguments, rounds=1).epsilon().epsilon > 0
    with pytest.raises(AccountingError, match=r"replace-one.*pld: not computed"):
        a_plan(**arguments, rounds=1000)


@pytest.mark.parametrize("adjacency", list(Adjacency))
def test_without_noise_a_plan_has_infinite_epsilon(adjacency):
    plan = a_plan(mechanism=gaussian(0.0), adjacency=adjacency)
    assert plan.epsilon().epsilon == math.inf
    assert plan.quick_epsilon(1) == math.inf
    assert plan.epsilon(0).epsilon == 0


# --- Validation ---------------------------------------------------------------------------------

BAD_REALS = [math.nan, math.inf, -math.inf, True, None, "1", 1j]


def _refused(make, *parts: str, kind: type[Exception] = ArgumentError) -> None:
    with pytest.raises(kind) as caught:
        make()
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize("value", [-0.1, *BAD_REALS])
def test_noise_multiplier_out_of_bounds(value):
    parts = (f"noise_multiplier={value!r}", "[0, 1e9]")
    _refused(lambda: GaussianMechanism(clip_norm=1.0, noise_multiplier=value), *parts)
    _refused(lambda: AdaptiveGaussianMechanism(noise_multiplier=value), *parts)
    _refused(lambda: gaussian().with_noise(value), *parts)


@pytest.mark.parametrize("value", [0.0, -1.0, *BAD_REALS])
def test_clip_norm_out_of_bounds(value):
    _refused(
        lambda: GaussianMechanism(clip_norm=value, noise_multiplier=1.0),
        f"clip_norm={value!r}",
        "[1e-10, 1e+10]",
    )
    _refused(
        lambda: AdaptiveGaussianMechanism(noise_multiplier=1.0, initial_clip_norm=value),
        f"initial_clip_norm={value!r}",
        "[1e-10, 1e+10]",
    )


@pytest.mark.parametrize(
    ("name", "value", "bound"),
    [
        ("target_quantile", -0.01, "[0, 1]"),
        ("target_quantile", 1.01, "[0, 1]"),
        ("target_quantile", math.nan, "[0, 1]"),
        ("clip_learning_rate", -1.0, "[0, inf)"),
        ("clip_learning_rate", True, "[0, inf)"),
        ("clipped_count_stddev", 0.0, "(0, inf)"),
        ("clipped_count_stddev", math.inf, "(0, inf)"),
    ],
)
def test_adaptive_clipping_out_of_bounds(name, value, bound):
    _refused(
        lambda: AdaptiveGaussianMechanism(noise_multiplier=1.0, **{name: value}),
        f"{name}={value!r}",
        bound,
    )


@pytest.mark.parametrize("value", [0.0, -0.1, 1.0 + 1e-12, 2, *BAD_REALS])
def test_rate_out_of_bounds(value):
    _refused(lambda: PoissonSampler(rate=value), f"rate={value!r}", "(0, 1]")


@pytest.mark.parametrize("value", [0, -1, 1.0, 2.5, *BAD_REALS])
def test_size_out_of_bounds(value):
    _refused(lambda: FixedSizeSampler(size=value), f"size={value!r}", "[1, inf)")


def test_size_beyond_the_population():
    sampler = FixedSizeSampler(size=1001)
    _refused(lambda: a_plan(sampler=sampler), "size=1001", "[1, 1000]")
    assert a_plan(sampler=FixedSizeSampler(size=1000)).clients_per_round == 1000


@pytest.mark.parametrize("value", [0, -5, 1, 2.0, *BAD_REALS])
def test_population_out_of_bounds(value):
    _refused(lambda: a_plan(population=value), f"population={value!r}", "[2, inf)")


@pytest.mark.parametrize("value", [0, -1, 1.5, 100.0, *BAD_REALS])
def test_rounds_out_of_bounds(value):
    _refused(lambda: a_plan(rounds=value), f"rounds={value!r}", "[1, inf)")


@pytest.mark.parametrize("value", [0.0, -1e-5, 0.001, 0.5, 1, *BAD_REALS])
def test_delta_out_of_bounds(value):
    _refused(lambda: a_plan(delta=value), f"delta={value!r}", "(0, 0.001)", "1000 clients")


@pytest.mark.parametrize("population", [2, 3, 6, 7, 60, 97, 999, 1000, 123457, 600000])
def test_delta_of_exactly_one_over_n_is_refused_and_the_next_smaller_is_not(population):
    # 1/6 written with twelve digits is above 1/6: a bound that is rounded lets 1/N in.
    edge = 1 / population
    arguments = {"population": population, "rounds": 1}
    _refused(lambda: a_plan(**arguments, delta=edge), f"delta={edge!r}", f"(0, {edge!r})")
    assert a_plan(**arguments, delta=math.nextafter(edge, 0)).delta < edge


@pytest.mark.parametrize("value", [0, -1.0, 1000.5, 1001, math.nan, math.inf, True, "10"])
def test_cohort_out_of_bounds(value):
    _refused(
        lambda: a_plan(sampler=None, cohort=value), f"cohort={value!r}", "(0, 1000]", "population"
    )


def test_cohort_or_sampler_but_neither_none_nor_both():
    _refused(lambda: a_plan(sampler=None), "sampler=None", "cohort=None", "exactly one")
    _refused(
        lambda: a_plan(cohort=10), "sampler=FullParticipation()", "cohort=10", "exactly one of them"
    )


def test_cohort_is_short_for_poisson_sampling():
    plan = a_plan(sampler=None, cohort=10, mechanism=gaussian(1.0))
    assert plan.sampler == PoissonSampler(rate=0.01)
    assert plan.clients_per_round == 10
    assert plan == a_plan(sampler=PoissonSampler(rate=0.01), mechanism=gaussian(1.0))


@pytest.mark.parametrize("value", ["add-or-remove", "", "REPLACE_ONE", 0, False, [1], Unit.CLIENT])
def test_unknown_adjacency(value):
    _refused(
        lambda: a_plan(adjacency=value),
        f"adjacency={value!r}",
        "one of 'add-or-remove-one', 'replace-one'",
    )


@pytest.mark.parametrize("value", ["example", "", 0, 1])
def test_unknown_unit(value):
    _refused(lambda: a_plan(unit=value), f"unit={value!r}", "one of 'client'")


def test_the_unit_follows_from_the_mechanism_and_may_be_said_as_well():
    for unit in (None, "client", Unit.CLIENT):
        assert a_plan(unit=unit) == a_plan()
        assert a_plan(unit=unit).unit is Unit.CLIENT
    for unit in (None, "record", Unit.RECORD):
        plan = PrivacyPlan(**RECORDS | {"unit": unit})
        assert (plan.unit, plan.population) == (Unit.RECORD, 4)
        assert plan == PrivacyPlan(**RECORDS)
        assert plan.to_dict()["unit"] == "record"
    other = RECORDS["mechanism"]
    _refused(lambda: a_plan(unit="record"), "unit='record'", "leave it out")
    _refused(lambda: PrivacyPlan(**RECORDS | {"unit": "client"}), "unit='client'", "leave it out")
    _refused(lambda: a_plan(mechanism=other), "records=None")
    # Of plans that others replace, too: the unit is that of the new mechanism.
    of_records = dataclasses.replace(
        PrivacyPlan(**CENTRAL, cohort=2), mechanism=other, records=(9, 8), population=None
    )
    assert of_records.unit is Unit.RECORD
    values = a_plan().to_dict() | {"unit": "record"}
    _refused(lambda: Config.from_dict(values), "unit='record'", "does not fit")


@pytest.mark.parametrize("value", ["replace-one", REPLACE])
def test_adjacency_by_name_or_member(value):
    plan = a_plan(adjacency=value, unit="client")
    assert plan.adjacency is REPLACE
    assert plan.unit is Unit.CLIENT


@pytest.mark.parametrize("value", [None, 1.0, "gaussian", GaussianMechanism, NoPrivacy()])
def test_mechanism_of_a_wrong_type(value):
    _refused(lambda: a_plan(mechanism=value), f"mechanism={value!r}", "Mechanism", "NoPrivacy()")


@pytest.mark.parametrize("value", ["poisson", 0.1, PoissonSampler, AOR])
def test_sampler_of_a_wrong_type(value):
    _refused(lambda: a_plan(sampler=value), f"sampler={value!r}", "an instance of Sampler")
    _refused(lambda: NoPrivacy(sampler=value), f"sampler={value!r}", "an instance of Sampler")


def test_adaptive_clipping_needs_a_cohort_that_can_carry_its_noise():
    # Half of the clipped count's noise, 0.05 m, is spent on the count: z < 0.1 m, here 1.
    mechanism = AdaptiveGaussianMechanism(noise_multiplier=1.0)
    _refused(
        lambda: a_plan(mechanism=mechanism, sampler=None, cohort=10),
        "noise_multiplier=1.0",
        "(0, 1.0)",
        "10 clients",
        "GaussianMechanism",
    )
    wider = a_plan(mechanism=mechanism, sampler=None, cohort=20)
    # What is accounted for is the total noise.
    assert wider.epsilon() == a_plan(mechanism=gaussian(1.0), sampler=None, cohort=20).epsilon()


def test_a_plan_cannot_be_changed():
    plan = a_plan()
    for field in dataclasses.fields(plan):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(plan, field.name, getattr(plan, field.name))


# --- Rounds and epsilon -------------------------------------------------------------------------


def test_more_rounds_than_the_plan_covers():
    plan = a_plan()
    before, spent = plan.to_dict(), plan.epsilon()
    for ask in (
        plan.epsilon,
        plan.quick_epsilon,
        plan.event,
        plan.check_rounds,
        lambda r: plan.draw_cohort(r, population=1000, seed=0),
    ):
        _refused(lambda ask=ask: ask(101), "rounds=101", "at most the 100", kind=AccountingError)
        _refused(lambda ask=ask: ask(-1), "rounds=-1", "[0, inf)")
        _refused(lambda ask=ask: ask(1.0), "rounds=1.0", "[0, inf)")
    assert plan.to_dict() == before
    assert plan.epsilon() == spent


def test_epsilon_grows_to_that_of_the_whole_plan():
    plan = a_plan(max_dimension=1)
    assert plan.epsilon() == plan.epsilon(100)
    assert plan.epsilon().epsilon == pytest.approx(4.377178, rel=1e-6)
    values = [plan.epsilon(rounds).epsilon for rounds in range(0, 101, 10)]
    assert values[0] == 0
    assert values == sorted(set(values))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"adjacency": REPLACE},
        {"sampler": FixedSizeSampler(size=10)},
        {"sampler": PoissonSampler(rate=0.01)},
        {"sampler": PoissonSampler(rate=0.01), "adjacency": REPLACE},
    ],
)
def test_quick_epsilon_is_never_below_the_reported_one(changes):
    plan = a_plan(mechanism=gaussian(2.0), **changes)
    for rounds in (1, 100):
        assert plan.quick_epsilon(rounds) >= plan.epsilon(rounds).epsilon


def test_event_is_what_is_drawn_and_what_is_accounted_for():
    plan = a_plan(sampler=PoissonSampler(rate=0.02), mechanism=gaussian(1.5), max_dimension=1)
    one = dp_accounting.PoissonSampledDpEvent(0.02, dp_accounting.GaussianDpEvent(1.5))
    assert plan.event() == dp_accounting.SelfComposedDpEvent(one, 100)
    assert plan.event(7) == dp_accounting.SelfComposedDpEvent(one, 7)
    accountant = dp_accounting.pld.PLDAccountant(plan.adjacency.relation)
    accountant.compose(plan.event())
    assert plan.epsilon().epsilon == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-6)


@pytest.mark.parametrize(
    ("adjacency", "golden"), [(AOR, 19.938), (REPLACE, 2 * 19.938)], ids=["add/remove", "replace"]
)
def test_calibrated(adjacency, golden):
    plan = a_plan(mechanism=gaussian(0.0), adjacency=adjacency)
    before = plan.to_dict()
    result = plan.calibrated(2.0)
    assert plan.to_dict() == before
    assert result.epsilon().epsilon <= 2.0
    assert golden * (1 - 1e-5) <= result.mechanism.noise_multiplier <= golden * (1 + 1e-3)
    noise = result.mechanism.noise_multiplier
    assert result == dataclasses.replace(plan, mechanism=plan.mechanism.with_noise(noise))


def test_calibrated_keeps_what_the_mechanism_is():
    mechanism = AdaptiveGaussianMechanism(noise_multiplier=5.0, target_quantile=0.8)
    result = a_plan(mechanism=mechanism).calibrated(3.0).mechanism
    assert result == dataclasses.replace(mechanism, noise_multiplier=result.noise_multiplier)


def test_calibrated_to_noise_that_the_mechanism_cannot_carry():
    plan = a_plan(
        mechanism=AdaptiveGaussianMechanism(noise_multiplier=0.5),
        population=10,
        rounds=100,
        delta=1e-3,
    )
    _refused(lambda: plan.calibrated(1.0), "noise_multiplier=", "(0, 1.0)", "10 clients")


@pytest.mark.parametrize("value", [0.0, -1.0, 101, math.nan, True, None])
def test_target_epsilon_out_of_bounds(value):
    _refused(lambda: a_plan().calibrated(value), f"target_epsilon={value!r}", "(0, 100]")


# --- Cohorts ------------------------------------------------------------------------------------


def test_draw_cohort_refuses_another_population():
    plan = a_plan()
    for population in (999, 1001, 0):
        _refused(
            lambda population=population: plan.draw_cohort(1, population=population, seed=0),
            "population=1000",
            str(population),
        )


@pytest.mark.parametrize("value", [0, None])
def test_rounds_are_drawn_from_one_on(value):
    _refused(
        lambda: a_plan().draw_cohort(value, population=1000, seed=0),
        f"round_number={value!r}",
        "[1, inf)",
    )


@pytest.mark.parametrize("value", [-1, 1.5, True, 2**128])
def test_seed_out_of_bounds(value):
    for plan in (a_plan(), NoPrivacy()):
        _refused(
            lambda plan=plan: plan.draw_cohort(1, population=1000, seed=value),
            f"seed={value!r}",
            f"[0, {2**128})",
        )


def test_draw_cohort_is_that_of_the_sampler():
    plan = a_plan(sampler=PoissonSampler(rate=0.3))
    drawn = plan.draw_cohort(4, population=1000, seed=9)
    np.testing.assert_array_equal(drawn, plan.sampler.cohort(1000, 4, 9))
    np.testing.assert_array_equal(
        drawn, NoPrivacy(sampler=plan.sampler).draw_cohort(4, population=1000, seed=9)
    )
    assert drawn.dtype == np.int64


@pytest.mark.parametrize("sampler", [
    MinSeparationSampler(size=3, min_separation=4), CyclicPoissonSampler(rate=0.1, cycle=4)
])  # fmt: skip
def test_cohorts_that_depend_on_each_other_need_one_seed(sampler):
    mechanism = BandedMechanism(clip_norm=0.5, noise_multiplier=9.0, bands=4)
    for plan in (a_plan(mechanism=mechanism, sampler=sampler), NoPrivacy(sampler=sampler)):
        _refused(
            lambda plan=plan: plan.draw_cohort(1, population=1000, seed=None),
            "seed=None",
            "one whole",
        )
        drawn = [plan.draw_cohort(number, population=1000, seed=5) for number in range(1, 5)]
        assert len(set(np.concatenate(drawn))) == sum(len(cohort) for cohort in drawn)


def test_a_plan_whose_rounds_need_more_participations_than_there_are_is_refused():
    sampler = MinSeparationSampler(size=100, min_separation=5, max_participations=1)
    mechanism = TreeMechanism(clip_norm=0.5, noise_multiplier=9.0)
    assert a_plan(mechanism=mechanism, sampler=sampler, rounds=10).rounds == 10
    _refused(
        lambda: a_plan(mechanism=mechanism, sampler=sampler, rounds=11), "rounds=11", "[1, 10]"
    )


def test_no_privacy_takes_every_client_by_default():
    cohort = NoPrivacy().draw_cohort(1, population=5, seed=None)
    np.testing.assert_array_equal(cohort, np.arange(5))


# --- Plans that replace others ------------------------------------------------------------------

RECORDS = {
    "mechanism": RecordGaussianMechanism(clip_norm=0.1, noise_multiplier=10.0, batch_size=8),
    "unit": "record",
    "records": (8, 30, 9, 12),
    "rounds": 5,
    "delta": 1e-3,
}
CENTRAL = {"mechanism": gaussian(10.0), "population": 100, "rounds": 5, "delta": 1e-4}
# Every way to make a plan, by its arguments.
MADE = {
    "cohort": CENTRAL | {"cohort": 10},
    "fractional cohort": CENTRAL | {"cohort": 7.3},
    "whole cohort": CENTRAL | {"cohort": 100},
    "cohort and adjacency": CENTRAL | {"cohort": 10, "adjacency": "replace-one"},
    "rate": CENTRAL | {"sampler": PoissonSampler(rate=0.1)},
    "size": CENTRAL | {"sampler": FixedSizeSampler(size=10)},
    "all": CENTRAL | {"sampler": FullParticipation()},
    "metrics": CENTRAL | {"cohort": 10, "metrics": (PrivateMetric(name="loss", clip_value=4.0),)},
    "apart": CENTRAL
    | {
        "mechanism": BandedMechanism(clip_norm=0.5, noise_multiplier=10.0, bands=2),
        "sampler": MinSeparationSampler(size=10, min_separation=4),
    },
    "cyclic": CENTRAL
    | {
        "mechanism": BandedMechanism(clip_norm=0.5, noise_multiplier=10.0, bands=2),
        "sampler": CyclicPoissonSampler(rate=0.1, cycle=2),
    },
    "records": RECORDS,
    "records and cohort": RECORDS | {"cohort": 2},
    "records and rate": RECORDS | {"sampler": PoissonSampler(rate=0.5)},
}
# Changes of every field, one at a time or together.
CHANGES = [
    {"population": 50},
    {"population": 200},
    {"population": 9},
    {"population": None},
    {"rounds": 7},
    {"delta": 1e-5},
    {"mechanism": gaussian(12.0)},
    {"mechanism": RecordGaussianMechanism(clip_norm=1, noise_multiplier=12.0, batch_size=4)},
    {"sampler": PoissonSampler(rate=0.25)},
    {"sampler": PoissonSampler(rate=0.25), "population": 200},
    {"sampler": FullParticipation()},
    {"sampler": None, "cohort": 3},
    {"sampler": None, "cohort": 3, "population": 60},
    {"adjacency": "add-or-remove-one"},
    {"adjacency": "zero-out"},
    {"adjacency": None},
    {"adjacency": None, "sampler": FixedSizeSampler(size=4)},
    {"unit": "record"},
    {"metrics": ()},
    {"metrics": (PrivateMetric(name="loss", clip_value=2.0, budget_fraction=0.1),)},
    {"records": (9, 30, 20, 12)},
    {"records": (8, 30, 9, 12, 14)},
    {"records": (8, 30, 9, 12, 14), "population": None},
    {"max_dimension": 1000},
]


def _made_or_refused(make):
    try:
        return make()
    except ArgumentError as error:
        return type(error)


def test_every_field_is_changed():
    fields = {field.name for field in dataclasses.fields(PrivacyPlan)} | {"cohort", "unit"}
    assert {name for changes in CHANGES for name in changes} == fields


@pytest.mark.parametrize("way", MADE)
def test_a_replaced_plan_is_the_one_of_the_same_arguments_with_the_changes(way):
    given = MADE[way]
    plan = PrivacyPlan(**given)
    for changes in CHANGES:
        # The relation that a guarantee holds for does not change by itself. None is that of the sampler.
        arguments = given | {"adjacency": plan.adjacency, "population": plan.population} | changes
        if "sampler" in changes and "cohort" not in changes:
            arguments.pop("cohort", None)
        expected = _made_or_refused(lambda a=arguments: PrivacyPlan(**a))
        found = _made_or_refused(lambda c=changes: dataclasses.replace(plan, **c))
        assert found == expected, changes
        if isinstance(found, PrivacyPlan):
            assert found.epsilon() == expected.epsilon(), changes
            assert found.clients_per_round == expected.clients_per_round, changes
            # And once more: the arguments have not been lost on the way.
            again = _made_or_refused(lambda f=found: dataclasses.replace(f, rounds=3))
            assert again == _made_or_refused(lambda a=arguments: PrivacyPlan(**a | {"rounds": 3}))


def test_another_population_keeps_a_cohort_that_was_given_and_a_rate_that_was_given():
    of_cohort = PrivacyPlan(**CENTRAL, cohort=10)
    of_rate = PrivacyPlan(**CENTRAL, sampler=PoissonSampler(rate=0.1))
    assert of_cohort == of_rate  # which does not show where they come from
    larger = dataclasses.replace(of_cohort, population=200)
    assert (larger.clients_per_round, larger.sampler) == (10, PoissonSampler(rate=0.05))
    assert larger.epsilon().epsilon < of_cohort.epsilon().epsilon
    larger = dataclasses.replace(of_rate, population=200)
    assert (larger.clients_per_round, larger.sampler) == (20, PoissonSampler(rate=0.1))
    with pytest.raises(ArgumentError, match=r"cohort=10\.0 .*\(0, 9\]"):
        dataclasses.replace(of_cohort, population=9)


@pytest.mark.parametrize(
    "copied",
    [
        lambda plan: pickle.loads(pickle.dumps(plan)),
        copy.deepcopy,
        copy.copy,
        lambda plan: plan.calibrated(target_epsilon=2.0),
        lambda plan: dataclasses.replace(plan, rounds=6),
    ],
)
def test_a_cohort_that_was_given_goes_along_with_copies(copied):
    plan = copied(PrivacyPlan(**CENTRAL, cohort=10))
    assert dataclasses.replace(plan, population=200).clients_per_round == 10
    other = dataclasses.replace(plan, sampler=PoissonSampler(rate=0.1))
    assert dataclasses.replace(other, population=200).clients_per_round == 20


def test_a_sampler_of_another_plan_keeps_its_rate():
    plan = PrivacyPlan(**CENTRAL, cohort=10)
    other = PrivacyPlan(**CENTRAL | {"population": 200}, sampler=plan.sampler)
    assert other.clients_per_round == 20
    restored = PrivacyPlan.from_dict(plan.to_dict())
    assert restored == plan
    assert dataclasses.replace(restored, population=200).clients_per_round == 20


def test_a_cohort_beside_a_sampler_is_refused_with_what_to_pass():
    plan = PrivacyPlan(**CENTRAL, cohort=10)
    with pytest.raises(ArgumentError, match=r"cohort=20: give exactly one.*replace, sampler=None"):
        dataclasses.replace(plan, cohort=20)
    assert dataclasses.replace(plan, cohort=20, sampler=None).clients_per_round == 20
    assert dataclasses.replace(plan, sampler=None) == plan


# --- Dictionaries -------------------------------------------------------------------------------

CONFIGS = [
    GaussianMechanism(clip_norm=0.5, noise_multiplier=1.0),
    AdaptiveGaussianMechanism(noise_multiplier=1.0),
    AdaptiveGaussianMechanism(noise_multiplier=1.0, clipped_count_stddev=3.0),
    DistributedGaussianMechanism(clip_norm=0.5, noise_multiplier=1.0, dimension=10, beta=0.5),
    DistributedSkellamMechanism(clip_norm=0.5, noise_multiplier=1.0, dimension=10, bits=16),
    RecordGaussianMechanism(clip_norm=0.1, noise_multiplier=1.0, batch_size=8, local_steps=3),
    PoissonSampler(rate=0.1),
    FixedSizeSampler(size=3),
    FullParticipation(),
    NoPrivacy(),
    NoPrivacy(sampler=FixedSizeSampler(size=3)),
    a_plan(),
    a_plan(sampler=FixedSizeSampler(size=10)),
    a_plan(sampler=None, cohort=500, adjacency="replace-one"),
    a_plan(mechanism=AdaptiveGaussianMechanism(noise_multiplier=5.0)),
    PerLayerGaussianMechanism(clip_norms=(0.1, 0.2), noise_multiplier=1.0),
    LaplaceMechanism(clip_norm=0.5, noise_multiplier=1.0),
    TreeMechanism(clip_norm=0.5, noise_multiplier=1.0, restart_every=16),
    BandedMechanism(clip_norm=0.5, noise_multiplier=1.0, bands=4),
    LocalGaussianMechanism(clip_norm=0.5, noise_multiplier=1.0),
    LocalLaplaceMechanism(clip_norm=0.5, noise_multiplier=1.0),
    PrivateMetric(name="loss", clip_value=4.0),
    MinSeparationSampler(size=3, min_separation=4),
    MinSeparationSampler(size=3, min_separation=4, max_participations=2),
    CyclicPoissonSampler(rate=0.1, cycle=4),
    a_plan(
        mechanism=TreeMechanism(clip_norm=0.5, noise_multiplier=9.0),
        sampler=MinSeparationSampler(size=10, min_separation=20),
    ),
    a_plan(
        mechanism=BandedMechanism(clip_norm=0.5, noise_multiplier=9.0, bands=4),
        sampler=CyclicPoissonSampler(rate=0.1, cycle=4),
    ),
    a_plan(
        unit="record",
        mechanism=RecordGaussianMechanism(clip_norm=0.1, noise_multiplier=10.0, batch_size=8),
        population=None,
        sampler=None,
        records=(8, 30, 9),
    ),
]


def test_every_configuration_of_these_modules_is_tried():
    names = {
        name
        for name, kind in Config._classes.items()
        if dataclasses.is_dataclass(kind)
        and not inspect.isabstract(kind)
        and kind.__module__.startswith(("tff_dp.mechanisms", "tff_dp.sampling", "tff_dp.plan"))
    }
    assert names == {type(config).__name__ for config in CONFIGS}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_round_trip_through_json(config):
    values = config.to_dict()
    assert values["type"] == type(config).__name__
    text = json.dumps(values, allow_nan=False)
    assert Config.from_dict(json.loads(text)) == config
    assert type(config).from_dict(json.loads(text)) == config
    del values["type"]
    assert type(config).from_dict(values) == config


def test_numpy_scalars_become_plain_ones():
    plan = a_plan(
        population=np.int64(1000),
        rounds=np.int32(100),
        delta=np.float64(1e-5),
        mechanism=GaussianMechanism(clip_norm=np.float32(0.5), noise_multiplier=np.float64(10)),
    )
    assert json.dumps(plan.to_dict()) == json.dumps(a_plan().to_dict())
    assert Config.from_dict(plan.to_dict()) == a_plan()
    _refused(lambda: a_plan(population=np.int64(6), delta=np.float64(1 / 6)), "delta=", "(0, 0.16")


def test_from_dict_leaves_its_argument_as_it_is():
    values = a_plan().to_dict()
    copy = json.loads(json.dumps(values))
    Config.from_dict(values)
    assert values == copy


@pytest.mark.parametrize(
    "name", ["Nothing", "", None, 1, ["PoissonSampler"], "Sampler", "Mechanism", "Config"]
)
def test_unknown_type(name):
    _refused(
        lambda: Config.from_dict({"type": name, "rate": 0.1}),
        f"type={name!r} is unknown",
        "PoissonSampler",
    )


def test_a_type_from_elsewhere_is_unknown_to_a_class():
    values = gaussian().to_dict()
    _refused(lambda: PoissonSampler.from_dict(values), "type='GaussianMechanism'", "PoissonSampler")
    values = a_plan().to_dict() | {"sampler": gaussian().to_dict()}
    _refused(lambda: PrivacyPlan.from_dict(values), "sampler=GaussianMechanism", "Sampler")


def test_unknown_missing_and_wrong_fields():
    _refused(lambda: PoissonSampler.from_dict({"rat": 0.1}), "no field 'rat'", "rate")
    _refused(lambda: PoissonSampler.from_dict({}), "PoissonSampler", "rate")
    _refused(lambda: PoissonSampler.from_dict({"rate": 1.5}), "rate=1.5", "(0, 1]")
    values = a_plan().to_dict()
    _refused(lambda: Config.from_dict(values | {"noise": 1}), "no field 'noise'", "mechanism")
    del values["delta"]
    _refused(lambda: Config.from_dict(values), "PrivacyPlan", "delta")


def test_a_restored_plan_is_checked_again():
    values = a_plan(sampler=FixedSizeSampler(size=10)).to_dict()
    values["adjacency"] = "add-or-remove-one"
    _refused(lambda: Config.from_dict(values), "FixedSizeSampler", kind=AccountingError)


def test_refusals_leave_no_report_behind():
    before = accountants._spend.cache_info().currsize
    _refused(lambda: a_plan(delta=0.5), "delta=0.5")
    _refused(lambda: a_plan(sampler=FixedSizeSampler(size=2000)), "size=2000")
    assert accountants._spend.cache_info().currsize == before


def test_values_that_are_nearly_right_are_told_the_remedy():
    remedy = "metrics=(PrivateMetric(name='loss', clip_value=10.0),)"
    _refused(lambda: a_plan(metrics="loss"), "metrics='loss'", "a tuple of PrivateMetric", remedy)
    _refused(lambda: a_plan(metrics=("loss",)), "metrics='loss'", "PrivateMetric", remedy)
    loss = PrivateMetric(name="mae", clip_value=2.0)
    _refused(lambda: a_plan(metrics=loss), "metrics=PrivateMetric(", "(name='mae'")
    _refused(lambda: a_plan(metrics=3), "metrics=3", "a tuple of PrivateMetric")
    for mechanism in ("gaussian", GaussianMechanism):
        _refused(
            lambda mechanism=mechanism: a_plan(mechanism=mechanism),
            "mechanism=",
            "GaussianMechanism(clip_norm=1.0, noise_multiplier=1.0)",
            "privacy=NoPrivacy()",
        )
    assert a_plan(metrics=[loss], sampler=PoissonSampler(rate=0.01)).metrics == (loss,)
