"""The privacy plan: every combination has a number or a refusal, and nothing invalid is made."""

from __future__ import annotations

import dataclasses
import math

import dp_accounting
import numpy as np
import pytest

from tests.support.plans import AOR, REPLACE, a_plan, gaussian, refused
from tff_dp.errors import AccountingError
from tff_dp.mechanisms import (
    AdaptiveGaussianMechanism,
    BandedMechanism,
    GaussianMechanism,
    TreeMechanism,
)
from tff_dp.plan import NoPrivacy, Unit
from tff_dp.sampling import (
    Adjacency,
    CyclicPoissonSampler,
    FixedSizeSampler,
    FullParticipation,
    MinSeparationSampler,
    PoissonSampler,
)

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


@pytest.mark.parametrize("value", [-0.1, *BAD_REALS])
def test_noise_multiplier_out_of_bounds(value):
    parts = (f"noise_multiplier={value!r}", "[0, 1e9]")
    refused(lambda: GaussianMechanism(clip_norm=1.0, noise_multiplier=value), *parts)
    refused(lambda: AdaptiveGaussianMechanism(noise_multiplier=value), *parts)
    refused(lambda: gaussian().with_noise(value), *parts)


@pytest.mark.parametrize("value", [0.0, -1.0, *BAD_REALS])
def test_clip_norm_out_of_bounds(value):
    refused(
        lambda: GaussianMechanism(clip_norm=value, noise_multiplier=1.0),
        f"clip_norm={value!r}",
        "[1e-10, 1e+10]",
    )
    refused(
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
    refused(
        lambda: AdaptiveGaussianMechanism(noise_multiplier=1.0, **{name: value}),
        f"{name}={value!r}",
        bound,
    )


@pytest.mark.parametrize("value", [0.0, -0.1, 1.0 + 1e-12, 2, *BAD_REALS])
def test_rate_out_of_bounds(value):
    refused(lambda: PoissonSampler(rate=value), f"rate={value!r}", "(0, 1]")


@pytest.mark.parametrize("value", [0, -1, 1.0, 2.5, *BAD_REALS])
def test_size_out_of_bounds(value):
    refused(lambda: FixedSizeSampler(size=value), f"size={value!r}", "[1, inf)")


def test_size_beyond_the_population():
    sampler = FixedSizeSampler(size=1001)
    refused(lambda: a_plan(sampler=sampler), "size=1001", "[1, 1000]")
    assert a_plan(sampler=FixedSizeSampler(size=1000)).clients_per_round == 1000


@pytest.mark.parametrize("value", [0, -5, 1, 2.0, *BAD_REALS])
def test_population_out_of_bounds(value):
    refused(lambda: a_plan(population=value), f"population={value!r}", "[2, inf)")


@pytest.mark.parametrize("value", [0, -1, 1.5, 100.0, *BAD_REALS])
def test_rounds_out_of_bounds(value):
    refused(lambda: a_plan(rounds=value), f"rounds={value!r}", "[1, inf)")


@pytest.mark.parametrize("value", [0.0, -1e-5, 0.001, 0.5, 1, *BAD_REALS])
def test_delta_out_of_bounds(value):
    refused(lambda: a_plan(delta=value), f"delta={value!r}", "(0, 0.001)", "1000 clients")


@pytest.mark.parametrize("population", [2, 3, 6, 7, 60, 97, 999, 1000, 123457, 600000])
def test_delta_of_exactly_one_over_n_is_refused_and_the_next_smaller_is_not(population):
    # 1/6 written with twelve digits is above 1/6: a bound that is rounded lets 1/N in.
    edge = 1 / population
    arguments = {"population": population, "rounds": 1}
    refused(lambda: a_plan(**arguments, delta=edge), f"delta={edge!r}", f"(0, {edge!r})")
    assert a_plan(**arguments, delta=math.nextafter(edge, 0)).delta < edge


@pytest.mark.parametrize("value", [0, -1.0, 1000.5, 1001, math.nan, math.inf, True, "10"])
def test_cohort_out_of_bounds(value):
    refused(
        lambda: a_plan(sampler=None, cohort=value), f"cohort={value!r}", "(0, 1000]", "population"
    )


def test_cohort_or_sampler_but_neither_none_nor_both():
    refused(lambda: a_plan(sampler=None), "sampler=None", "cohort=None", "exactly one")
    refused(
        lambda: a_plan(cohort=10), "sampler=FullParticipation()", "cohort=10", "exactly one of them"
    )


def test_cohort_is_short_for_poisson_sampling():
    plan = a_plan(sampler=None, cohort=10, mechanism=gaussian(1.0))
    assert plan.sampler == PoissonSampler(rate=0.01)
    assert plan.clients_per_round == 10
    assert plan == a_plan(sampler=PoissonSampler(rate=0.01), mechanism=gaussian(1.0))


@pytest.mark.parametrize("value", ["add-or-remove", "", "REPLACE_ONE", 0, False, [1], Unit.CLIENT])
def test_unknown_adjacency(value):
    refused(
        lambda: a_plan(adjacency=value),
        f"adjacency={value!r}",
        "one of 'add-or-remove-one', 'replace-one'",
    )


@pytest.mark.parametrize("value", ["example", "", 0, 1])
def test_unknown_unit(value):
    refused(lambda: a_plan(unit=value), f"unit={value!r}", "one of 'client'")


@pytest.mark.parametrize("value", ["replace-one", REPLACE])
def test_adjacency_by_name_or_member(value):
    plan = a_plan(adjacency=value, unit="client")
    assert plan.adjacency is REPLACE
    assert plan.unit is Unit.CLIENT


@pytest.mark.parametrize("value", [None, 1.0, "gaussian", GaussianMechanism, NoPrivacy()])
def test_mechanism_of_a_wrong_type(value):
    refused(lambda: a_plan(mechanism=value), f"mechanism={value!r}", "Mechanism", "NoPrivacy()")


@pytest.mark.parametrize("value", ["poisson", 0.1, PoissonSampler, AOR])
def test_sampler_of_a_wrong_type(value):
    refused(lambda: a_plan(sampler=value), f"sampler={value!r}", "an instance of Sampler")
    refused(lambda: NoPrivacy(sampler=value), f"sampler={value!r}", "an instance of Sampler")


def test_adaptive_clipping_needs_a_cohort_that_can_carry_its_noise():
    # Half of the clipped count's noise, 0.05 m, is spent on the count: z < 0.1 m, here 1.
    mechanism = AdaptiveGaussianMechanism(noise_multiplier=1.0)
    refused(
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
        refused(lambda ask=ask: ask(101), "rounds=101", "at most the 100", kind=AccountingError)
        refused(lambda ask=ask: ask(-1), "rounds=-1", "[0, inf)")
        refused(lambda ask=ask: ask(1.0), "rounds=1.0", "[0, inf)")
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
    refused(lambda: plan.calibrated(1.0), "noise_multiplier=", "(0, 1.0)", "10 clients")


@pytest.mark.parametrize("value", [0.0, -1.0, 101, math.nan, True, None])
def test_target_epsilon_out_of_bounds(value):
    refused(lambda: a_plan().calibrated(value), f"target_epsilon={value!r}", "(0, 100]")


# --- Cohorts ------------------------------------------------------------------------------------


def test_draw_cohort_refuses_another_population():
    plan = a_plan()
    for population in (999, 1001, 0):
        refused(
            lambda population=population: plan.draw_cohort(1, population=population, seed=0),
            "population=1000",
            str(population),
        )


@pytest.mark.parametrize("value", [0, None])
def test_rounds_are_drawn_from_one_on(value):
    refused(
        lambda: a_plan().draw_cohort(value, population=1000, seed=0),
        f"round_number={value!r}",
        "[1, inf)",
    )


@pytest.mark.parametrize("value", [-1, 1.5, True, 2**128])
def test_seed_out_of_bounds(value):
    for plan in (a_plan(), NoPrivacy()):
        refused(
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
        refused(
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
    refused(lambda: a_plan(mechanism=mechanism, sampler=sampler, rounds=11), "rounds=11", "[1, 10]")


def test_no_privacy_takes_every_client_by_default():
    cohort = NoPrivacy().draw_cohort(1, population=5, seed=None)
    np.testing.assert_array_equal(cohort, np.arange(5))
