"""Epsilon: published and precomputed values, the neighboring relations, and adaptive clipping."""

from __future__ import annotations

import math

import dp_accounting
import numpy as np
import pytest
from dp_accounting import pld, rdp
from hypothesis import given
from hypothesis import strategies as st

from tests.support import oracles
from tests.support.accounting import AOR, REPLACE, a_round, examples
from tff_dp.accounting import (
    GaussianRound,
    accountants,
    spend,
)
from tff_dp.accounting.accountants import (
    exact_epsilon,
    pld_epsilon,
    rdp_epsilon,
)
from tff_dp.errors import AccountingError, ArgumentError
from tff_dp.mechanisms import AdaptiveGaussianMechanism
from tff_dp.sampling import (
    FixedSizeSampler,
)

# --- Published and precomputed values -----------------------------------------------------------


@pytest.mark.parametrize(
    ("q", "z", "rounds", "delta", "by_rdp", "by_pld"),
    [
        (0.0025, 1.3, 6000, 1e-5, 0.7242234026, 0.640111),  # RDP: tensorflow-privacy's tests
        (0.001, 1.0, 30000, 1e-7, 1.4154988495, 1.098199),  # RDP: tensorflow-privacy's tests
        (0.04, 1.5, 2250, 1e-5, 7.32911117143, 6.768787),  # RDP: opacus' tests
        (0.01, 1.0, 1000, 1e-5, 2.101365, 1.828244),
        (1024 / 50000, 1.54, 1464, 1e-5, 2.608252, 2.386302),
        (0.001, 1.0, 1500, 1e-6, 0.875810, 0.221348),
    ],
)
def test_golden_poisson(q, z, rounds, delta, by_rdp, by_pld):
    report = spend(a_round(z, q=q), rounds, delta)
    assert report.values["rdp"] == pytest.approx(by_rdp, rel=1e-4)
    assert report.values["pld"] == pytest.approx(by_pld, rel=1e-5)
    assert report.epsilon == report.values["pld"]
    assert report.accountant == "pld"


def test_golden_poisson_where_rdp_is_bounded_from_above():
    # dp-accounting adds up the absolute values of an alternating series at the fractional orders:
    # at the best order here, 3.2, it lies above the true RDP value, 7.899255, by less than 1e-3.
    report = spend(a_round(1.0, q=0.1), 100, 1e-5)
    orders = [3 + i / 10 for i in range(6)]
    truth = oracles.epsilon_from_rdp(
        orders, [100 * oracles.rdp_quadrature(0.1, 1.0, a) for a in orders], 1e-5
    )
    assert truth == pytest.approx(7.899255, rel=1e-6)
    assert truth <= report.values["rdp"] <= truth * 1.001
    assert report.values["pld"] == pytest.approx(7.046603, rel=1e-6)


@pytest.mark.parametrize(
    ("z", "adjacency", "by_rdp", "exact"),
    [
        (1.0, AOR, 96.116308, 91.817290),
        (10.0, AOR, 4.728507, 4.377178),
        (20.0, AOR, 2.165716, 1.993091),
        (1.0, REPLACE, None, 284.39),
        (10.0, REPLACE, None, 9.9973),
        (20.0, REPLACE, 4.728507, 4.377178),  # twice the sensitivity of z = 10
    ],
)
def test_golden_full_participation(z, adjacency, by_rdp, exact):
    # Four clients, all of them in each of 100 rounds.
    report = spend(a_round(z, adjacency=adjacency, population=4), 100, 1e-5)
    assert report.epsilon == report.values["exact"] == pytest.approx(exact, rel=1e-5)
    assert report.accountant == "exact"
    if by_rdp is not None:
        assert report.values["rdp"] == pytest.approx(by_rdp, rel=1e-6)
    assert report.values["rdp"] > report.values["exact"]
    assert set(report.values) == {"rdp", "exact"}
    assert set(report.refused) == {"pld"}


def test_golden_without_replacement():
    sampler = FixedSizeSampler(size=10)
    report = spend(a_round(1.0, sampler, adjacency=REPLACE), 1000, 1e-5)
    assert report.epsilon == pytest.approx(20.987, rel=1e-4)
    assert set(report.values) == {"rdp"}
    assert "Unsupported event" in report.refused["pld"]


def test_golden_rdp_of_fifty_rounds_by_order():
    # dp-accounting's own tests, to their tolerance.
    orders, curve = accountants._rdp_curve(a_round(2.5, q=0.01))
    golden = {1.5: 6.70579741e-4, 2.5: 1.08548710e-3, 5: 2.18075656e-3, 50: 2.38460375e-2}
    for order, value in golden.items():
        (index,) = np.flatnonzero(np.isclose(orders, order))
        assert 50 * curve[index] == pytest.approx(value, rel=1e-4)


@pytest.mark.parametrize(
    ("one_round", "rounds", "delta"),
    [
        (a_round(math.sqrt(3)), 3, 0.126936),
        (a_round(0.5, q=0.2), 3, 0.15594),
    ],
    ids=["Gaussian", "Poisson"],
)
def test_golden_delta_at_epsilon_one(one_round, rounds, delta):
    assert spend(one_round, rounds, delta).epsilon == pytest.approx(1.0, rel=1e-4)


def test_classic_calibration_is_found_unsafe_above_epsilon_one():
    # z = sqrt(2 ln(1.25/delta))/epsilon is invalid above epsilon 1 and wasteful below.
    classic = {target: math.sqrt(2 * math.log(1.25e5)) / target for target in (10, 1)}
    assert spend(a_round(classic[10]), 1, 1e-5).epsilon == pytest.approx(10.394, rel=1e-4)
    assert spend(a_round(classic[1]), 1, 1e-5).epsilon == pytest.approx(0.75098, rel=1e-4)


# --- Neighbouring relations ---------------------------------------------------------------------


def check_replace_one_doubles_the_sensitivity(kind: type[GaussianRound]) -> None:
    """Asserts that a kind of round passes each accountant the noise that it expects."""
    sampler = FixedSizeSampler(size=10)
    sampled = a_round(1.0, sampler, adjacency=REPLACE, kind=kind)
    assert rdp_epsilon(sampled, 1000, 1e-5) == pytest.approx(20.987, rel=1e-4)

    # Full participation has an exact value, which bounds RDP from below, and which the PLD, which
    # learns of the doubled sensitivity by the relation, must meet.
    truth = 9.9972561
    assert oracles.gaussian_delta(1.0, truth, sensitivity=2.0) == pytest.approx(1e-5, rel=1e-5)
    full = a_round(10.0, adjacency=REPLACE, kind=kind)
    assert exact_epsilon(full, 100, 1e-5) == pytest.approx(truth, rel=1e-6)
    assert rdp_epsilon(full, 100, 1e-5) > truth
    assert pld_epsilon(full, 100, 1e-5) == pytest.approx(truth, rel=1e-4)


class NotHalvedRound(GaussianRound):
    """Passes z to RDP under replace-one, as if dp-accounting doubled the sensitivity itself."""

    def scaled_event(self):
        return self.event()


class TwiceHalvedRound(GaussianRound):
    """Passes z/2 to PLD under replace-one, which doubles the sensitivity once more."""

    def event(self):
        return self.scaled_event()


def test_replace_one_doubles_the_sensitivity():
    check_replace_one_doubles_the_sensitivity(GaussianRound)


@pytest.mark.parametrize("wrong", [NotHalvedRound, TwiceHalvedRound])
def test_wrong_sensitivity_is_caught(wrong):
    with pytest.raises(AssertionError):
        check_replace_one_doubles_the_sensitivity(wrong)


def test_a_monkeypatched_event_is_caught(monkeypatch):
    monkeypatch.setattr(GaussianRound, "scaled_event", GaussianRound.event)
    accountants.clear_caches()
    try:
        with pytest.raises(AssertionError):
            check_replace_one_doubles_the_sensitivity(GaussianRound)
        # What the mistake would report: too small by far.
        sampler = FixedSizeSampler(size=10)
        wrong = rdp_epsilon(a_round(1.0, sampler, adjacency=REPLACE), 1000, 1e-5)
        assert wrong == pytest.approx(3.5761, rel=1e-4)
        wrong = rdp_epsilon(a_round(10.0, adjacency=REPLACE), 100, 1e-5)
        assert wrong == pytest.approx(4.7285, rel=1e-4)
    finally:
        accountants.clear_caches()


def test_add_or_remove_one_takes_the_noise_as_it_is():
    one_round = a_round(3.0)
    assert one_round.event() == one_round.scaled_event() == dp_accounting.GaussianDpEvent(3.0)


@pytest.mark.heavy
def test_pld_of_the_installed_version_meets_the_exact_value_at_a_large_epsilon():
    accountant = pld.PLDAccountant(AOR.relation)
    accountant.compose(a_round(1.0).event(), 100)
    exact = exact_epsilon(a_round(1.0), 100, 1e-5)
    # Far above roundoff, and far below the error of the version before: 4.38 in place of 10.
    assert accountant.get_epsilon(1e-5) == pytest.approx(exact, rel=1e-3)


@pytest.mark.parametrize("adjacency", [AOR, REPLACE])
def test_poisson_at_rate_one_is_full_participation(adjacency):
    sampled = spend(a_round(10.0, q=1.0, adjacency=adjacency), 100, 1e-5)
    exact = spend(a_round(10.0, adjacency=adjacency), 100, 1e-5)
    assert exact.epsilon - 1e-6 <= sampled.epsilon <= exact.epsilon * (1 + 1e-4)


def test_no_poisson_accounting_for_cohorts_of_fixed_size():
    with pytest.raises(AccountingError, match=r"add-or-remove-one.*FixedSizeSampler.*replace-one"):
        a_round(1.0, FixedSizeSampler(size=10))
    sampler = FixedSizeSampler(size=10)
    fixed = spend(a_round(1.0, sampler, adjacency=REPLACE), 1000, 1e-5)
    poisson = spend(a_round(1.0, q=0.01, adjacency=REPLACE), 1000, 1e-5)
    assert fixed.epsilon > poisson.epsilon  # never the tighter Poisson value in its place


def test_poisson_under_replace_one_has_no_rdp_bound_and_says_so():
    report = spend(a_round(1.0, q=0.01, adjacency=REPLACE), 1000, 1e-5)
    assert set(report.values) == {"pld"}
    assert "ADD_OR_REMOVE_ONE" in report.refused["rdp"]
    add_or_remove = spend(a_round(1.0, q=0.01), 1000, 1e-5)
    assert add_or_remove.epsilon < report.epsilon < 2 * add_or_remove.epsilon


# --- Adaptive clipping --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("clients", "expected"), [(20, 1.1547005), (50, 1.0206207), (100, 1.0050378)]
)
def test_golden_noise_split_of_adaptive_clipping(clients, expected):
    mechanism = AdaptiveGaussianMechanism(noise_multiplier=1.0)
    assert mechanism.value_noise_multiplier(clients) == pytest.approx(expected, rel=1e-7)


@examples
@given(s_b=st.floats(1e-3, 1e3), share=st.floats(1e-6, 1, exclude_max=True))
def test_noise_split_of_adaptive_clipping_adds_up(s_b, share):
    z = share * 2 * s_b
    if z >= 2 * s_b:  # rounded up to the bound
        return
    mechanism = AdaptiveGaussianMechanism(noise_multiplier=z, clipped_count_stddev=s_b)
    value = mechanism.value_noise_multiplier(10)
    assert z <= value < math.inf
    assert value**-2 + (2 * s_b) ** -2 == pytest.approx(z**-2, rel=1e-9)


@pytest.mark.parametrize("clients", [4, 66.66666, 100])
def test_adaptive_clipping_needs_noise_below_twice_that_of_the_count(clients):
    bound = 2 * 0.05 * clients
    for z in (bound, math.nextafter(bound, math.inf), bound * (1 + 2e-7)):
        with pytest.raises(ArgumentError) as caught:
            AdaptiveGaussianMechanism(noise_multiplier=z).value_noise_multiplier(clients)
        for part in (f"noise_multiplier={z!r}", f"(0, {bound!r})", "clients"):
            assert part in str(caught.value)
    below = AdaptiveGaussianMechanism(noise_multiplier=math.nextafter(bound, 0))
    assert below.value_noise_multiplier(clients) < math.inf


def test_adaptive_clipping_without_noise_splits_none():
    assert AdaptiveGaussianMechanism(noise_multiplier=0.0).value_noise_multiplier(1) == 0


def test_one_gaussian_stands_for_the_composed_event_of_adaptive_clipping():
    clients, total = 100, 1.0
    mechanism = AdaptiveGaussianMechanism(noise_multiplier=total)
    composed = dp_accounting.PoissonSampledDpEvent(
        0.01,
        dp_accounting.ComposedDpEvent(
            [
                dp_accounting.GaussianDpEvent(mechanism.value_noise_multiplier(clients)),
                dp_accounting.GaussianDpEvent(2 * mechanism.count_stddev(clients)),
            ]
        ),
    )
    with pytest.raises(dp_accounting.UnsupportedEventError):
        pld.PLDAccountant(AOR.relation).compose(composed)

    accountant = rdp.RdpAccountant(neighboring_relation=AOR.relation)
    accountant.compose(composed, 1000)
    ours = rdp_epsilon(a_round(total, q=0.01), 1000, 1e-5)
    assert ours == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-9)
    assert ours == pytest.approx(2.1013652716, rel=1e-6)
