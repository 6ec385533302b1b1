"""Calibration: the least noise, the most rounds and the largest cohort for an epsilon."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.accounting import AOR, REPLACE, a_round, examples
from tff_dp.accounting import (
    accountants,
    calibrate_cohort,
    calibrate_noise,
    calibrate_rounds,
    calibration,
    spend,
)
from tff_dp.accounting.accountants import (
    rdp_epsilon,
)
from tff_dp.errors import AccountingError, ArgumentError
from tff_dp.sampling import (
    Adjacency,
    FixedSizeSampler,
    PoissonSampler,
)


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
