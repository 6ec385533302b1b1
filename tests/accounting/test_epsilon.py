"""Epsilon: independent oracles, limits, monotonicity and reports."""

from __future__ import annotations

import dataclasses
import decimal
import fractions
import math

import numpy as np
import pytest
from dp_accounting import rdp
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import oracles
from tests.support.accounting import AOR, REPLACE, a_round, examples
from tests.support.tables import covered
from tff_dp.accounting import (
    EpsilonReport,
    GaussianRound,
    accountants,
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
from tff_dp.sampling import (
    Adjacency,
    FixedSizeSampler,
    FullParticipation,
    PoissonSampler,
)

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


Z_AND_Q = [0.3, 0.6, 1.0, 3.0, 10.0], [0.001, 0.01, 0.1, 0.5, 0.9, 1.0]


@pytest.mark.parametrize(
    ("z", "q"),
    covered(
        *Z_AND_Q,
        by=[
            (z, q)
            for i, z in enumerate(Z_AND_Q[0])
            for j, q in enumerate(Z_AND_Q[1])
            if (i + j) % 2
        ],
        slow=None,
    ),
)
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
    for part in ("not computed", "above 100"):
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
