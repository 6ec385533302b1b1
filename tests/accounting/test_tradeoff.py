"""Privacy profiles: against closed forms, against riskcal, and never below what a test achieves."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tests.support.tables import slow
from tff_dp import (
    BandedMechanism,
    DistributedSkellamMechanism,
    FixedSizeSampler,
    FullParticipation,
    GaussianMechanism,
    LaplaceMechanism,
    MinSeparationSampler,
    PrivacyPlan,
    TreeMechanism,
)
from tff_dp.accounting import FALSE_POSITIVE_RATES, PrivacyProfile, privacy_profile
from tff_dp.charges import Charges
from tff_dp.errors import AccountingError, ArgumentError

RATES = np.array(FALSE_POSITIVE_RATES)


def gaussian(mu: float, rates=RATES):
    """Returns the true positive rates of the best test of a Gaussian mechanism (the closed form)."""
    return stats.norm.cdf(stats.norm.ppf(rates) + mu)


def plan_of(mechanism=None, **changes) -> PrivacyPlan:
    arguments = {"population": 1000, "sampler": FullParticipation(), "rounds": 100, "delta": 1e-4}
    if "cohort" in changes:
        del arguments["sampler"]
    mechanism = mechanism or GaussianMechanism(clip_norm=1.0, noise_multiplier=20.0)
    return PrivacyPlan(mechanism=mechanism, **{**arguments, **changes})


def ideal(plan: PrivacyPlan, **more) -> PrivacyProfile:
    """Returns the profile without the charge for computed noise."""
    return privacy_profile([(plan.one_round(), plan.rounds)], **more)


def bounds(profile: PrivacyProfile, rates=RATES):
    return np.array([profile.true_positive_rate(float(rate)) for rate in rates])


@pytest.mark.parametrize("z", [300.0, 20.0, 10.0, 4.0, 2.0])
def test_of_a_gaussian_everything_is_its_closed_form(z):
    plan = plan_of(GaussianMechanism(clip_norm=1.0, noise_multiplier=z))
    mu = math.sqrt(plan.rounds) / z
    profile = ideal(plan)
    excess = bounds(profile) - gaussian(mu)
    assert np.all(excess > -1e-12)
    assert np.all(excess < 1e-5)
    assert 0 <= profile.mu / mu - 1 < 1e-6
    assert 0 <= profile.advantage - (2 * stats.norm.cdf(mu / 2) - 1) < 1e-6


def test_the_charge_for_computed_noise_only_adds():
    plan = plan_of()
    charged = Charges().with_run(plan, plan.rounds).profile()
    assert np.all(bounds(charged) >= bounds(ideal(plan)))
    assert np.all(bounds(charged) <= gaussian(0.5) + 1e-4)
    assert 0 < charged.mu - 0.5 < 1e-3
    assert charged.epsilon(plan.delta * 1.0001) >= plan.epsilon().lower_bound
    assert charged.deltas[0] == pytest.approx(plan.delta / 1000)


def sampled(z: float, rate: float, fpr):
    """Returns the best test of one Poisson-sampled Gaussian round: a threshold on its output."""
    at = -stats.norm.ppf(fpr)
    return (1 - rate) * fpr + rate * stats.norm.cdf(1 / z - at)


@settings(max_examples=8, deadline=None)
@given(
    z=st.floats(0.5, 20),
    rate=st.floats(0.001, 1),
    fpr=st.sampled_from([*FALSE_POSITIVE_RATES, 0.5]),
)
def test_one_sampled_round_is_never_understated(z, rate, fpr):
    mechanism = GaussianMechanism(clip_norm=1.0, noise_multiplier=z)
    plan = plan_of(mechanism, cohort=1000 * rate, rounds=1)
    profile = Charges().with_run(plan, 1).profile(1e-6)
    achieved = sampled(z, rate, fpr)
    assert profile.true_positive_rate(fpr) >= achieved - 1e-12
    if fpr in FALSE_POSITIVE_RATES:
        assert profile.true_positive_rate(fpr) <= achieved + 1e-4
    assert profile.advantage >= sampled(z, rate, stats.norm.sf(1 / z / 2)) - stats.norm.sf(
        1 / z / 2
    )


@settings(max_examples=12, deadline=None)
@given(z=st.floats(1, 50), rounds=st.integers(1, 200), fpr=st.floats(1e-6, 0.9))
def test_many_full_rounds_are_never_understated(z, rounds, fpr):
    mechanism = GaussianMechanism(clip_norm=1.0, noise_multiplier=z)
    profile = Charges().with_run(plan_of(mechanism, rounds=rounds), rounds).profile(1e-6)
    achieved = gaussian(math.sqrt(rounds) / z, fpr)
    assert profile.true_positive_rate(fpr) >= achieved - 1e-12
    assert gaussian(profile.mu, fpr) >= achieved - 1e-12


@settings(max_examples=8, deadline=None)
@given(z=st.floats(0.3, 20), fpr=st.floats(1e-4, 0.9))
def test_laplace_noise_is_never_understated(z, fpr):
    # A threshold on the output of one round, Laplace noise of scale z around 0 or 1.
    achieved = stats.laplace.sf(stats.laplace.isf(fpr, scale=z), loc=1, scale=z)
    plan = plan_of(LaplaceMechanism(clip_norm=1.0, noise_multiplier=z), rounds=1)
    profile = Charges().with_run(plan, 1).profile(1e-6)
    assert profile.true_positive_rate(fpr) >= achieved - 1e-12


@pytest.mark.parametrize(
    ("mechanism", "sampler"),
    [
        (TreeMechanism(clip_norm=1.0, noise_multiplier=8.0), FullParticipation()),
        (
            BandedMechanism(clip_norm=1.0, noise_multiplier=2.0, bands=4),
            MinSeparationSampler(size=20, min_separation=4, max_participations=3),
        ),
        (GaussianMechanism(clip_norm=1.0, noise_multiplier=4.0), FixedSizeSampler(size=50)),
        (
            DistributedSkellamMechanism(
                clip_norm=1.0, noise_multiplier=4.0, dimension=1000, bits=20
            ),
            FixedSizeSampler(size=50),
        ),
    ],
    ids=["tree", "banded", "fixed", "skellam"],
)
def test_every_kind_of_round_has_a_profile_that_is_a_curve(mechanism, sampler):
    plan = plan_of(mechanism, sampler=sampler, rounds=12)
    profile = Charges().with_run(plan, 12).profile()
    report = plan.epsilon()
    assert profile.is_private
    assert profile.epsilon(plan.delta) >= report.epsilon
    assert profile.epsilon(plan.delta / 2) >= report.epsilon
    rates = np.linspace(0, 1, 101)
    found = bounds(profile, rates)
    assert np.all(np.diff(found) >= 0)
    assert np.all(np.diff(found, 2) <= 1e-9)  # concave
    assert np.all(found >= rates)
    assert max(found - rates) <= profile.advantage + 1e-9


def test_more_noise_fewer_rounds_and_several_plans_are_in_order():
    plan = plan_of()
    base = Charges().with_run(plan, 100).profile()
    fewer = Charges().with_run(plan, 50).profile()
    both = Charges().with_run(plan, 100)
    other = dataclasses.replace(
        plan, mechanism=GaussianMechanism(clip_norm=1.0, noise_multiplier=10.0)
    )
    both = both.with_run(other, 40).profile()
    assert np.all(bounds(fewer) < bounds(base))
    assert np.all(bounds(base) < bounds(both))
    joint = math.sqrt(100 / 20**2 + 40 / 10**2)
    assert np.all(np.abs(bounds(both) - gaussian(joint)) < 1e-4)


def test_without_a_guarantee_nothing_is_bounded():
    silent = plan_of(GaussianMechanism(clip_norm=1.0, noise_multiplier=0.0))
    unbounded = dataclasses.replace(Charges().with_run(plan_of(), 1), unbounded=True)
    for charges in (Charges().with_run(silent, 1), unbounded):
        profile = charges.profile()
        assert not profile.is_private
        assert (profile.mu, profile.advantage) == (math.inf, 1.0)
        assert np.all(bounds(profile) == 1)
        assert profile.epsilon(1e-4) == math.inf


def test_before_the_first_round_there_is_nothing_to_recognize():
    plan = plan_of()
    profile = privacy_profile([(plan.one_round(), 0)])
    assert profile.epsilons == (0.0,)
    assert bounds(profile) == pytest.approx(RATES, abs=1e-9)


def test_wrong_arguments_are_refused():
    one_round = plan_of().one_round()
    for arguments, reason in (
        ({"least_delta": 0.0}, "least_delta=0.0"),
        ({"least_delta": 0.5}, r"a number in \(0, 0.1\]"),
        ({"false_positive_rates": [1.0]}, "false_positive_rates=1.0"),
    ):
        with pytest.raises(ArgumentError, match=reason):
            privacy_profile([(one_round, 1)], **arguments)
    with pytest.raises(ArgumentError, match="parts"):
        privacy_profile([])
    with pytest.raises(ArgumentError, match="no points of a profile"):
        PrivacyProfile(epsilons=(1.0, 2.0), deltas=(0.1, 0.2))
    with pytest.raises(ArgumentError, match="false_positive_rate=2"):
        ideal(plan_of()).true_positive_rate(2)


def test_what_no_accountant_covers_is_refused(monkeypatch):
    from tff_dp.accounting import tradeoff

    def refuse(*_, **__):
        raise AccountingError("nothing applies")

    monkeypatch.setattr(tradeoff, "spend_jointly", refuse)
    with pytest.raises(AccountingError, match="nothing applies"):
        ideal(plan_of())


# (z, rate, rounds); with riskcal 1.5.1, a finer grid or smaller rates make its own answer unstable.
@pytest.mark.parametrize(
    ("z", "rate", "rounds"),
    [(1.0, 0.01, 1000), slow(0.7, 0.1, 50), slow(2.0, 0.3, 300), (10.0, 1.0, 100)],
)
def test_riskcal_finds_the_same(z, rate, rounds):
    from riskcal import analysis

    mechanism = GaussianMechanism(clip_norm=1.0, noise_multiplier=z)
    plan = plan_of(mechanism, population=10_000, cohort=rate * 10_000, rounds=rounds, delta=1e-5)
    losses = privacy_loss_distribution.from_gaussian_mechanism(z, sampling_prob=rate)
    losses = losses.self_compose(rounds)
    profile = ideal(plan)
    assert bounds(profile) == pytest.approx(
        1 - analysis.get_beta_from_pld(losses, alpha=RATES), abs=1e-4
    )
    assert profile.advantage == pytest.approx(analysis.get_advantage_from_pld(losses), abs=1e-4)
