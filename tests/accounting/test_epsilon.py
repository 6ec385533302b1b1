"""Epsilon: published values, independent oracles, both neighbouring relations, calibration."""

from __future__ import annotations

import dataclasses
import decimal
import fractions
import math
from collections.abc import Callable

import dp_accounting
import numpy as np
import pytest
from dp_accounting import pld, rdp
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import oracles
from tff_dp.accounting import (
    EpsilonReport,
    GaussianRound,
    accountants,
    calibrate_cohort,
    calibrate_noise,
    calibrate_rounds,
    calibration,
    recommended_delta,
    spend,
)
from tff_dp.accounting.accountants import (
    exact_epsilon,
    pld_epsilon,
    rdp_epsilon,
)
from tff_dp.accounting.report import format_epsilon
from tff_dp.errors import AccountingError, ArgumentError
from tff_dp.mechanisms import AdaptiveGaussianMechanism
from tff_dp.sampling import (
    Adjacency,
    FixedSizeSampler,
    FullParticipation,
    PoissonSampler,
    Sampler,
)

# No deadline and no random choice of examples: the outcome depends on nothing but the code.
examples = settings(max_examples=50, deadline=None, derandomize=True)

AOR, REPLACE = Adjacency.ADD_OR_REMOVE_ONE, Adjacency.REPLACE_ONE


def a_round(
    z: float,
    sampler: Sampler | None = None,
    *,
    q: float | None = None,
    adjacency: Adjacency = AOR,
    population: int = 1000,
    kind: type[GaussianRound] = GaussianRound,
) -> GaussianRound:
    sampler = sampler or (FullParticipation() if q is None else PoissonSampler(rate=q))
    return kind(noise_multiplier=z, sampler=sampler, population=population, adjacency=adjacency)


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


# --- Independent oracles ------------------------------------------------------------------------


def test_the_oracles_of_rdp_agree_with_each_other():
    for q, z, order in [(0.01, 2.5, 5), (0.25, 0.8, 3), (0.1, 1.0, 12)]:
        assert oracles.rdp_quadrature(q, z, order) == pytest.approx(
            oracles.rdp_integer(q, z, order), rel=1e-9
        )


@pytest.mark.parametrize("q", [0.001, 0.04, 0.25, 0.9])
@pytest.mark.parametrize("z", [0.5, 1.0, 4.0])
def test_rdp_at_whole_orders_is_the_oracles(q, z):
    orders, curve = accountants._rdp_curve(a_round(z, q=q))
    for order in (2, 3, 5, 8, 32, 63, 256):
        (index,) = np.flatnonzero(np.isclose(orders, order))
        assert curve[index] == pytest.approx(oracles.rdp_integer(q, z, order), rel=1e-6)


@pytest.mark.parametrize(("q", "z"), [(0.01, 2.5), (0.1, 1.0), (0.25, 0.8)])
def test_rdp_at_fractional_orders_is_never_below_the_oracles(q, z):
    orders, curve = accountants._rdp_curve(a_round(z, q=q))
    for order, slack in [(1.5, math.inf), (2.5, 2e-2), (4.7, 1e-3), (9.9, 1e-6)]:
        (index,) = np.flatnonzero(np.isclose(orders, order))
        truth = oracles.rdp_quadrature(q, z, order)
        assert truth * (1 - 1e-9) <= curve[index] <= truth * (1 + slack)


@pytest.mark.parametrize("q", [0.001, 0.01, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("z", [0.3, 0.6, 1.0, 3.0, 10.0])
def test_rdp_over_a_grid_is_the_oracles(q, z):
    # At fractional orders dp-accounting adds up absolute values: far too much at some, never too little.
    orders, curve = accountants._rdp_curve(a_round(z, q=q))
    truths = {float(n): oracles.rdp_integer(q, z, n) for n in (2, 3, 5, 8, 32, 63, 256)}
    for order, truth in truths.items():
        (index,) = np.flatnonzero(np.isclose(orders, order))
        assert curve[index] == pytest.approx(truth, rel=1e-9)
    fractional = {order: oracles.rdp_quadrature(q, z, order) for order in (1.1, 1.5, 2.5, 4.7, 9.9)}
    for order, truth in fractional.items():
        (index,) = np.flatnonzero(np.isclose(orders, order))
        assert curve[index] >= truth * (1 - 1e-9)
    assert curve[index] <= truth * (1 + 1e-4)  # at 9.9
    if q == 1:
        exact = np.array(sorted(truths | fractional)) / (2 * z**2)
        oracle = [(truths | fractional)[order] for order in sorted(truths | fractional)]
        assert oracle == pytest.approx(exact, rel=1e-12)
    for delta in (1e-3, 1e-5, 1e-8, 1e-12):
        # A bound from some orders is never below that from all of them.
        values = [9 * value for value in truths.values()]
        some = oracles.epsilon_from_rdp(list(truths), values, delta)
        if -math.expm1(-min(values)) < delta**2:  # bounds the total variation: Bretagnolle, Huber
            some = 0.0
        assert rdp_epsilon(a_round(z, q=q), 9, delta) <= max(0.0, some) * (1 + 1e-9)
        whole = rdp_epsilon(a_round(z, q=q), 9, delta, tuple(truths))
        assert whole == pytest.approx(max(0.0, some), rel=1e-9)


def test_an_rdp_oracle_of_one_direction_alone_would_be_caught(monkeypatch):
    # The grid's negative control: of both directions the removal is the larger one.
    def added_alone(q, z, order):
        x = np.linspace(-20 * z - order, 20 * z + order, 200_001)
        ratio = (1 - q) + q * np.exp((2 * x - 1) / (2 * z**2))
        density = np.exp(-0.5 * (x / z) ** 2) / (z * math.sqrt(2 * math.pi))
        return float(np.log(np.sum(density * ratio ** (1 - order)) * (x[1] - x[0])) / (order - 1))

    monkeypatch.setattr(oracles, "rdp_quadrature", added_alone)
    with pytest.raises(AssertionError):
        test_rdp_over_a_grid_is_the_oracles(0.1, 1.0)


def test_rdp_rounds_add_up():
    # One curve serves every number of rounds; dp-accounting composes them one by one.
    one_round = a_round(1.1, q=0.02)
    for rounds in (1, 7, 500):
        accountant = rdp.RdpAccountant(neighboring_relation=AOR.relation)
        accountant.compose(one_round.event(), rounds)
        ours = rdp_epsilon(one_round, rounds, 1e-6)
        assert ours == pytest.approx(accountant.get_epsilon(1e-6), rel=1e-12)


@examples
@given(
    z=st.floats(0.3, 30),
    rounds=st.integers(1, 1000),
    log_delta=st.floats(-10, -2),
    adjacency=st.sampled_from(list(Adjacency)),
)
def test_exact_epsilon_inverts_the_gaussian_curve(z, rounds, log_delta, adjacency):
    delta = 10**log_delta
    epsilon = exact_epsilon(a_round(z, adjacency=adjacency), rounds, delta)
    sensitivity = (2.0 if adjacency is REPLACE else 1.0) * math.sqrt(rounds)
    if epsilon == 0:
        assert oracles.gaussian_delta(z, 0.0, sensitivity) <= delta * (1 + 1e-9)
    else:
        # Neither too small (unsafe) nor too large (wasteful): the curve passes delta between.
        assert oracles.gaussian_delta(z, epsilon * (1 + 1e-6), sensitivity) <= delta
        assert oracles.gaussian_delta(z, epsilon * (1 - 1e-6), sensitivity) >= delta


@pytest.mark.parametrize("adjacency", list(Adjacency))
@pytest.mark.parametrize("z", [0.3, 0.6, 1.0, 3.0, 10.0])
def test_exact_curve_over_a_grid_is_the_oracles_both_ways(z, adjacency):
    for rounds in (1, 100):
        sensitivity = (2.0 if adjacency is REPLACE else 1.0) * math.sqrt(rounds)
        one_round = a_round(z, adjacency=adjacency)
        for delta in (1e-3, 1e-5, 1e-8, 1e-12):  # from delta to epsilon and back
            epsilon = exact_epsilon(one_round, rounds, delta)
            assert oracles.gaussian_delta(z, epsilon, sensitivity) == pytest.approx(delta, rel=1e-5)
            assert oracles.gaussian_delta(z, epsilon * (1 + 1e-6), sensitivity) <= delta
        for epsilon in (0.05, 1.0, 8.0, 100.0):  # from epsilon to delta and back
            delta = oracles.gaussian_delta(z, epsilon, sensitivity)
            if 1e-12 <= delta <= 0.9:
                assert exact_epsilon(one_round, rounds, delta) == pytest.approx(epsilon, rel=1e-6)


@pytest.mark.parametrize("replace", [False, True], ids=["add-or-remove-one", "replace-one"])
@pytest.mark.parametrize(("q", "z"), [(0.01, 1.0), (0.25, 1.0), (0.25, 3.0), (0.9, 1.0)])
def test_pld_of_one_round_bounds_the_quadrature_tightly(q, z, replace):
    adjacency = REPLACE if replace else AOR
    for delta in (1e-6, 1e-3):
        truth = oracles.one_round_epsilon(q, z, delta, replace=replace)
        ours = pld_epsilon(a_round(z, q=q, adjacency=adjacency), 1, delta)
        assert truth - 1e-7 <= ours <= truth + 1e-5


@pytest.mark.parametrize("replace", [False, True], ids=["add-or-remove-one", "replace-one"])
@pytest.mark.parametrize(("q", "z", "rounds"), [(0.01, 1.0, 1000), (0.04, 1.5, 2250)])
def test_pld_of_many_rounds_is_that_of_an_independent_composition(q, z, rounds, replace):
    adjacency = REPLACE if replace else AOR
    truth = oracles.composed_epsilon(q, z, rounds, 1e-5, replace=replace)
    ours = spend(a_round(z, q=q, adjacency=adjacency), rounds, 1e-5)
    assert ours.values["pld"] == pytest.approx(truth, rel=1e-4)


def test_the_oracle_tells_the_relations_apart():
    # A negative control of the two tests above: the other relation's pair of mixtures is far off.
    for q, z in [(0.25, 1.0), (0.25, 3.0), (0.9, 1.0)]:
        one = oracles.one_round_epsilon(q, z, 1e-6, replace=False)
        other = oracles.one_round_epsilon(q, z, 1e-6, replace=True)
        assert other > one + 1e-2


def test_add_or_remove_one_is_the_worse_of_both_directions():
    # A PLD of the addition alone is too small: the quadrature shows how much it would miss.
    q, z, epsilon = 0.25, 1.0, 1.0
    with_one, without = oracles._mixture(q, z, 1.0), oracles._mixture(0.0, z, 0.0)
    removal = oracles.hockey_stick(with_one, without, epsilon, -13, 13)
    addition = oracles.hockey_stick(without, with_one, epsilon, -13, 13)
    assert removal > 2 * addition
    assert removal == oracles.one_round_delta(q, z, epsilon, replace=False)
    assert pld_epsilon(a_round(z, q=q), 1, removal) >= epsilon - 1e-7


# --- Limits and monotonicity --------------------------------------------------------------------


@pytest.mark.parametrize("sampler", [FullParticipation(), PoissonSampler(rate=0.5)])
@pytest.mark.parametrize("adjacency", list(Adjacency))
def test_no_noise_is_infinite_and_no_rounds_are_free(sampler, adjacency):
    silent = a_round(0.0, sampler, adjacency=adjacency)
    assert spend(silent, 1, 1e-5).epsilon == math.inf
    assert spend(silent, 0, 1e-5).epsilon == 0
    assert spend(a_round(1.0, sampler, adjacency=adjacency), 0, 1e-5).epsilon == 0
    assert rdp_epsilon(silent, 1, 1e-5) == math.inf
    assert rdp_epsilon(silent, 0, 1e-5) == 0


def _never(*args, **kwargs):
    raise AssertionError("a privacy loss distribution was started")


@pytest.mark.parametrize("z", [0.01, 0.001])
def test_tiny_noise_never_starts_a_distribution_that_would_not_end(z, monkeypatch):
    monkeypatch.setattr(accountants.pld, "PLDAccountant", _never)
    report = spend(a_round(z, q=0.25), 10, 1e-5)
    assert set(report.values) == {"rdp"}
    assert report.epsilon > 1000
    for part in ("not computed", "beyond 100"):
        assert part in report.refused["pld"]


def test_tiny_noise_under_replace_one_is_refused_with_reasons(monkeypatch):
    monkeypatch.setattr(accountants.pld, "PLDAccountant", _never)
    with pytest.raises(AccountingError) as caught:
        spend(a_round(0.01, q=0.25, adjacency=REPLACE), 10, 1e-5)
    for part in ("PoissonSampler(rate=0.25)", "replace-one", "rdp: ", "pld: not computed", "noise"):
        assert part in str(caught.value)


@examples
@given(
    z=st.floats(0.4, 10),
    rounds=st.integers(1, 2000),
    more=st.floats(1.1, 4),
    log_delta=st.floats(-8, -3),
    adjacency=st.sampled_from(list(Adjacency)),
)
def test_exact_epsilon_is_monotone(z, rounds, more, log_delta, adjacency):
    delta = 10**log_delta
    base = spend(a_round(z, adjacency=adjacency), rounds, delta).epsilon
    assert base > 0
    louder = spend(a_round(z * more, adjacency=adjacency), rounds, delta).epsilon
    longer = spend(a_round(z, adjacency=adjacency), rounds + math.ceil(more), delta).epsilon
    surer = spend(a_round(z, adjacency=adjacency), rounds, delta / more).epsilon
    assert louder < base < min(longer, surer)


@settings(examples, max_examples=25)
@given(
    q=st.floats(1e-3, 0.4),
    z=st.floats(0.5, 5),
    rounds=st.integers(1, 2000),
    more=st.floats(1.2, 2),
)
def test_rdp_epsilon_is_monotone(q, z, rounds, more):
    base = rdp_epsilon(a_round(z, q=q), rounds, 1e-6)
    assert rdp_epsilon(a_round(z * more, q=q), rounds, 1e-6) < base
    assert rdp_epsilon(a_round(z, q=q), math.ceil(rounds * more), 1e-6) > base
    assert rdp_epsilon(a_round(z, q=min(1.0, q * more)), rounds, 1e-6) > base
    assert rdp_epsilon(a_round(z, q=1.0), rounds, 1e-6) > base  # sampling amplifies


@pytest.mark.parametrize("adjacency", list(Adjacency))
def test_pld_epsilon_is_monotone(adjacency):
    def epsilon(z, q, rounds):
        return spend(a_round(z, q=q, adjacency=adjacency), rounds, 1e-5).values["pld"]

    base = epsilon(2.0, 0.05, 100)
    assert epsilon(2.2, 0.05, 100) < base
    assert epsilon(2.0, 0.06, 100) > base
    assert epsilon(2.0, 0.05, 120) > base


@pytest.mark.parametrize("size", [10, 50, 200])  # near the population the bound is loose
def test_without_replacement_epsilon_grows_with_the_cohort(size):
    def epsilon(cohort):
        sampler = FixedSizeSampler(size=cohort)
        return spend(a_round(4.0, sampler, adjacency=REPLACE), 50, 1e-5).epsilon

    assert epsilon(size) < epsilon(2 * size)


# --- Reports ------------------------------------------------------------------------------------


@examples
@given(
    epsilon=st.one_of(
        st.floats(0, 1e12), st.integers(0, 10**6).map(lambda n: n / 1000), st.just(0.1 + 0.2)
    ),
    digits=st.integers(1, 9),
)
def test_format_epsilon_never_understates(epsilon, digits):
    shown = decimal.Decimal(format_epsilon(epsilon, digits))
    excess = fractions.Fraction(shown) - fractions.Fraction(repr(epsilon))
    assert 0 <= excess < fractions.Fraction(1, 10**digits)
    assert -shown.as_tuple().exponent == digits


@pytest.mark.parametrize(
    ("epsilon", "digits", "shown"),
    [
        (4.0, 3, "4.000"),
        (4.0001, 3, "4.001"),
        (0.0, 3, "0.000"),
        (1e-13, 3, "0.001"),  # not nothing
        (1.8282436, 3, "1.829"),
        (2.675, 2, "2.68"),
        (0.29, 2, "0.29"),  # 0.29 * 100 is 28.999999999999996
        (1.1, 1, "1.1"),  # 1.1 * 10 is 11.000000000000002
        (math.inf, 3, "inf"),
        (np.float64(1.5), 1, "1.5"),
        (1e300, 1, f"{10**300}.0"),
    ],
)
def test_format_epsilon(epsilon, digits, shown):
    assert format_epsilon(epsilon, digits) == shown


def test_report_states_all_it_knows():
    report = spend(a_round(1.0, q=0.01), 1000, 1e-5)
    assert isinstance(report, EpsilonReport)
    assert (report.delta, report.rounds, report.adjacency) == (1e-5, 1000, AOR)
    assert report.epsilon == min(report.values.values())
    assert report.values[report.accountant] == report.epsilon
    assert dict(report.refused) == {}
    for part in ("1.829", "2.102", "1e-05", "1000 rounds", "add-or-remove-one", "rdp", "pld"):
        assert part in str(report)


def test_report_cannot_be_changed():
    report = spend(a_round(1.0), 1, 1e-5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.epsilon = 0.0
    with pytest.raises(TypeError):
        report.values["rdp"] = 0.0
    with pytest.raises(TypeError):
        report.refused["rdp"] = ""


def test_equal_questions_share_one_answer():
    assert spend(a_round(7.0), 3, 1e-5) is spend(a_round(7.0), 3, 1e-5)
    assert spend(a_round(7.0), 3, 1e-5) != spend(a_round(7.0, adjacency=REPLACE), 3, 1e-5)


@pytest.mark.parametrize(
    ("name", "value", "bound"),
    [
        ("rounds", -1, "[0, inf)"),
        ("rounds", 1.5, "[0, inf)"),
        ("rounds", True, "[0, inf)"),
        ("delta", 0.0, "(0, 1)"),
        ("delta", 1.0, "(0, 1)"),
        ("delta", -1e-5, "(0, 1)"),
        ("delta", math.nan, "(0, 1)"),
        ("delta", "1e-5", "(0, 1)"),
    ],
)
def test_spend_names_what_is_out_of_bounds(name, value, bound):
    arguments = {"rounds": 1, "delta": 1e-5} | {name: value}
    with pytest.raises(ArgumentError) as caught:
        spend(a_round(1.0), **arguments)
    for part in (f"{name}={value!r}", bound):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "bound"),
    [
        ("noise_multiplier", -1.0, "[0, inf)"),
        ("noise_multiplier", math.nan, "[0, inf)"),
        ("noise_multiplier", math.inf, "[0, inf)"),
        ("population", 0, "[1, inf)"),
        ("sampler", "poisson", "Sampler"),
        ("adjacency", "replace", "'replace-one'"),
    ],
)
def test_round_names_what_is_out_of_bounds(name, value, bound):
    good = {
        "noise_multiplier": 1.0,
        "sampler": FullParticipation(),
        "population": 10,
        "adjacency": AOR,
    }
    with pytest.raises(ArgumentError) as caught:
        GaussianRound(**(good | {name: value}))
    for part in (f"{name}={value!r}", bound):
        assert part in str(caught.value)


def test_exact_formula_is_refused_under_sampling():
    with pytest.raises(AccountingError, match="PoissonSampler"):
        exact_epsilon(a_round(1.0, q=0.5), 1, 1e-5)


@pytest.mark.parametrize("population", [1, 2, 10, 10**6])
def test_recommended_delta_is_below_one_over_n(population):
    assert 0 < recommended_delta(population) < 1 / population


# --- Calibration --------------------------------------------------------------------------------


def check_calibrated(find: Callable[..., float], one_round, rounds, delta, target, golden):
    z = find(one_round, rounds=rounds, delta=delta, target_epsilon=target)
    reached = spend(dataclasses.replace(one_round, noise_multiplier=z), rounds, delta).epsilon
    assert reached <= target  # to the last bit: a target is a promise
    assert golden * (1 - 1e-5) <= z <= golden * (1 + 1e-3)


@pytest.mark.parametrize(
    ("one_round", "rounds", "delta", "target", "golden"),
    [
        (a_round(1.0, q=0.01), 1000, 1e-5, 2.0, 0.959240),
        (a_round(1.0, q=0.04), 2000, 1e-5, 8.0, 1.290023),
        (a_round(1.0), 100, 1e-5, 2.0, 19.938),
        (a_round(1.0), 1, 1e-5, 10.0, 0.49988962),
        (a_round(1.0), 1, 1e-5, 1.0, 3.73063),
        (a_round(1.0, adjacency=REPLACE), 100, 1e-5, 2.0, 2 * 19.938),
    ],
    ids=["q=.01", "q=.04", "full", "one round", "one loud round", "full replace-one"],
)
def test_golden_calibration(one_round, rounds, delta, target, golden):
    check_calibrated(calibrate_noise, one_round, rounds, delta, target, golden)


def test_calibration_uses_the_tightest_accountant():
    # By RDP alone, epsilon 2 would take z = 1.022290 where 0.959240 is enough.
    one_round = a_round(1.022290, q=0.01)
    assert rdp_epsilon(one_round, 1000, 1e-5) == pytest.approx(2.0, rel=1e-4)
    assert spend(one_round, 1000, 1e-5).epsilon < 1.8


@pytest.mark.parametrize("factor", [0.9995, 1.002], ids=["unsafe", "wasteful"])
def test_wrong_calibration_is_caught(factor):
    def wrong(one_round, **kwargs):
        return factor * calibrate_noise(one_round, **kwargs)

    with pytest.raises(AssertionError):
        check_calibrated(wrong, a_round(1.0), 1, 1e-5, 1.0, 3.73063)


@settings(examples, max_examples=30)
@given(
    rounds=st.integers(1, 10**4),
    log_delta=st.floats(-10, -1),
    log_target=st.floats(-2, 2),
    adjacency=st.sampled_from(list(Adjacency)),
)
def test_calibration_is_safe_and_within_its_tolerance(rounds, log_delta, log_target, adjacency):
    delta, target = 10**log_delta, min(100.0, 10**log_target)
    one_round = a_round(5.0, adjacency=adjacency)
    z = calibrate_noise(one_round, rounds=rounds, delta=delta, target_epsilon=target)

    def epsilon(noise):
        return spend(dataclasses.replace(one_round, noise_multiplier=noise), rounds, delta).epsilon

    assert epsilon(z) <= target < epsilon(z / 1.001)


@pytest.mark.parametrize(
    ("sampler", "target"),
    [(PoissonSampler(rate=0.01), 2.0), (FixedSizeSampler(size=10), 2.0)],
    ids=["Poisson", "without replacement"],
)
def test_calibration_of_sampling_under_replace_one(sampler, target):
    one_round = a_round(1.0, sampler, adjacency=REPLACE)
    z = calibrate_noise(one_round, rounds=1000, delta=1e-5, target_epsilon=target)
    louder, softer = (
        spend(dataclasses.replace(one_round, noise_multiplier=noise), 1000, 1e-5).epsilon
        for noise in (z, z / 1.001)
    )
    assert louder <= target < softer


def check_noise(one_round, rounds, delta, target):
    z = calibrate_noise(one_round, rounds=rounds, delta=delta, target_epsilon=target)
    reached, beyond = (
        spend(dataclasses.replace(one_round, noise_multiplier=noise), rounds, delta).epsilon
        for noise in (z, z / 1.001)
    )
    assert reached <= target < beyond


@pytest.mark.parametrize("adjacency", list(Adjacency))
@pytest.mark.parametrize(
    ("q", "rounds", "delta", "target"),
    [
        (0.0025, 6000, 1e-5, 2.0),
        (0.25, 30, 1e-12, 20.0),
        (1e-4, 10**5, 1e-8, 0.1),
        (0.9, 3, 1e-3, 0.05),
        (0.01, 1000, 0.4, 0.5),
        (1.0, 10, 1e-6, 1.0),
    ],
)
def test_calibration_of_poisson_sampling_is_safe_and_tight(q, rounds, delta, target, adjacency):
    check_noise(a_round(1.0, q=q, adjacency=adjacency), rounds, delta, target)


@pytest.mark.parametrize("factor", [0.9, 0.999, 1.001, 1.1])
def test_calibration_trusts_only_what_is_reported(factor, monkeypatch):
    # Planted: the epsilon that steers the search is too small, or too large.
    monkeypatch.setattr(
        calibration, "leading_epsilon", lambda *of: factor * accountants.leading_epsilon(*of)
    )
    one_round = a_round(1.0, q=0.01)
    check_noise(one_round, 1000, 1e-5, 2.0)
    rounds = calibrate_rounds(one_round, delta=1e-5, target_epsilon=1.828245)
    assert 999 <= rounds <= 1000
    cohort = calibrate_cohort(one_round, rounds=1000, delta=1e-5, target_epsilon=1.828245)
    assert cohort == 10  # of 1000


def test_a_search_that_ends_on_the_unsafe_side_is_caught(monkeypatch):
    search = calibration._smallest_safe
    monkeypatch.setattr(
        calibration, "_smallest_safe", lambda excess, low, high: search(excess, low, high) / 1.0006
    )
    with pytest.raises(AssertionError):
        check_noise(a_round(1.0, q=0.01), 1000, 1e-5, 2.0)


def test_calibration_where_losses_are_far_below_the_coarsest_grid():
    # A million rounds of losses of 5e-5: on a grid of 1e-4, RDP was tighter than a PLD.
    quiet = a_round(20.0, q=0.001)
    report = spend(quiet, 10**6, 1e-5)
    assert report.accountant == "pld"
    assert 0.99 * report.epsilon < report.lower_bound < report.epsilon < report.values["rdp"]
    check_noise(quiet, 10**6, 1e-5, report.epsilon)
    rounds = calibrate_rounds(quiet, delta=1e-5, target_epsilon=report.epsilon)
    assert 10**6 / 1.001 <= rounds <= 10**6
    cohort = calibrate_cohort(
        dataclasses.replace(quiet, population=10**6),
        rounds=10**6, delta=1e-5, target_epsilon=report.epsilon,
    )  # fmt: skip
    assert 1000 / 1.001 <= cohort <= 1000


@pytest.mark.parametrize("adjacency", list(Adjacency))
@pytest.mark.parametrize("q", [0.0025, 0.3, 1.0])
def test_what_steers_a_search_bounds_what_is_reported(q, adjacency):
    one_round = a_round(1.5, q=q, adjacency=adjacency)
    for rounds in (0, 1, 50):
        reported = spend(one_round, rounds, 1e-5).epsilon
        assert accountants.leading_epsilon(one_round, rounds, 1e-5) >= reported
        if adjacency is AOR:
            rough = accountants.rough_epsilon(one_round, rounds, 1e-5)
            assert rough >= accountants.quick_epsilon(one_round, rounds, 1e-5) >= reported
    silent = a_round(0.0, q=q, adjacency=adjacency)
    assert accountants.leading_epsilon(silent, 1, 1e-5) == math.inf


def most(is_safe: Callable[[int], bool], low: int, high: int) -> int:
    """Returns the largest safe number by halving alone."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if is_safe(middle) else (low, middle)
    return low


@pytest.mark.parametrize(
    ("one_round", "target", "golden"),
    [
        (a_round(20.0), 2.0, 100),  # the tutorial's
        (a_round(1.0, q=0.01), 1.828245, 1000),
        (a_round(1.0, q=0.01), 1.828243, 999),
        (a_round(1.3, q=0.0025), 0.640112, 6000),
        (a_round(1.0, FixedSizeSampler(size=10), adjacency=REPLACE), 20.988, 1000),
        (a_round(0.5), 10.0, 1),
    ],
    ids=["full", "Poisson", "just less", "many", "without replacement", "one"],
)
def test_golden_rounds(one_round, target, golden):
    rounds = calibrate_rounds(one_round, delta=1e-5, target_epsilon=target)
    assert golden / 1.001 <= rounds <= golden
    assert spend(one_round, rounds, 1e-5).epsilon <= target


@settings(examples, max_examples=30)
@given(
    z=st.floats(1, 100),
    log_delta=st.floats(-10, -1),
    log_target=st.floats(-1, 2),
    adjacency=st.sampled_from(list(Adjacency)),
)
def test_rounds_are_safe_and_within_their_tolerance(z, log_delta, log_target, adjacency):
    delta, target = 10**log_delta, min(100.0, 10**log_target)
    one_round = a_round(z, adjacency=adjacency)

    def is_safe(rounds: int) -> bool:
        return spend(one_round, rounds, delta).epsilon <= target

    if not is_safe(1):
        with pytest.raises(AccountingError, match="exceeded by a single round"):
            calibrate_rounds(one_round, delta=delta, target_epsilon=target)
        return
    rounds = calibrate_rounds(one_round, delta=delta, target_epsilon=target)
    assert is_safe(rounds)
    assert rounds >= most(is_safe, 1, 10**9) / 1.001
    if rounds < 500:
        assert not is_safe(rounds + 1)


def test_a_budget_that_is_never_spent_gives_the_largest_number_of_rounds():
    assert calibrate_rounds(a_round(1e6), delta=1e-5, target_epsilon=100.0) == 10**9


@pytest.mark.parametrize(
    ("sampler", "adjacency", "z"),
    [
        (PoissonSampler(rate=0.5), Adjacency.ADD_OR_REMOVE_ONE, 2.0),
        (FixedSizeSampler(size=7), REPLACE, 6.0),
    ],
    ids=["Poisson", "without replacement"],
)
def test_the_largest_cohort_is_found_and_safe(sampler, adjacency, z):
    one_round = dataclasses.replace(a_round(z, sampler, adjacency=adjacency), population=500)

    def is_safe(cohort: int) -> bool:
        own = (
            PoissonSampler(rate=cohort / 500)
            if isinstance(sampler, PoissonSampler)
            else FixedSizeSampler(size=cohort)
        )
        return spend(dataclasses.replace(one_round, sampler=own), 100, 1e-5).epsilon <= 2.0

    found = calibrate_cohort(one_round, rounds=100, delta=1e-5, target_epsilon=2.0)
    assert is_safe(found)
    assert not is_safe(found + 1)


def test_cohorts_that_cannot_be_chosen_or_reached_are_refused():
    arguments = {"rounds": 100, "delta": 1e-5, "target_epsilon": 2.0}
    with pytest.raises(ArgumentError, match="has no cohort size to choose"):
        calibrate_cohort(a_round(1.0), **arguments)
    loud = dataclasses.replace(a_round(0.3, q=0.5), population=2)
    with pytest.raises(AccountingError, match="exceeded by cohorts of one client"):
        calibrate_cohort(loud, **arguments)
    # With enough noise every client may take part.
    quiet = dataclasses.replace(a_round(100.0, q=0.5), population=20)
    assert calibrate_cohort(quiet, **arguments) == 20


def test_calibration_passes_a_jump_and_a_refusal():
    # Epsilon falls to 0 at a finite noise where delta is large, and no accountant applies below
    # some noise: neither may mislead the search for a root.
    def jumping(log_z):
        return math.inf if log_z < 0.1 else -20.0

    calls = []

    def excess(z):
        calls.append(z)
        return jumping(math.log(z))

    found = calibration._smallest_safe(excess, 1.0, 1.5)
    assert math.exp(0.1) <= found <= math.exp(0.1) * (1 + 1e-3)
    assert len(calls) < 40

    calls.clear()

    def skewed(z):
        calls.append(z)
        return 0.01 if math.log(z) < 0.3 else -20.0

    found = calibration._smallest_safe(skewed, 1.0, 1.5)
    assert math.exp(0.3) <= found <= math.exp(0.3) * (1 + 1e-3)
    assert len(calls) < 40


@pytest.mark.parametrize(
    ("name", "value", "bound"),
    [
        ("rounds", 0, "[1, inf)"),
        ("rounds", 2.0, "[1, inf)"),
        ("delta", 0, "(0, 1)"),
        ("delta", -1.0, "(0, 1)"),
        ("delta", None, "(0, 1)"),
        ("target_epsilon", 0.0, "(0, 100]"),
        ("target_epsilon", 100.5, "(0, 100]"),
        ("target_epsilon", math.nan, "(0, 100]"),
        ("target_epsilon", True, "(0, 100]"),
    ],
)
def test_calibration_names_what_is_out_of_bounds(name, value, bound):
    arguments = {"rounds": 10, "delta": 1e-5, "target_epsilon": 1.0} | {name: value}
    with pytest.raises(ArgumentError) as caught:
        calibrate_noise(a_round(1.0), **arguments)
    for part in (f"{name}={value!r}", bound):
        assert part in str(caught.value)


def test_calibration_that_no_noise_reaches_is_refused():
    with pytest.raises(AccountingError, match=r"target_epsilon=1e-09.*noise_multiplier up to"):
        calibrate_noise(a_round(1.0), rounds=10**6, delta=1e-12, target_epsilon=1e-9)
