"""What several plans spend together: an upper bound, a tight one, and none that adds or forgets."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution

from tests.support import oracles
from tests.support.tables import slow
from tff_dp.accounting import (
    Arithmetic,
    DistributedSkellamRound,
    GaussianRound,
    RecordRound,
    Round,
    joint,
    joint_losses,
    quick_joint_epsilon,
    spend,
    spend_jointly,
)
from tff_dp.accounting.correlated import BandedRound, TreeRound
from tff_dp.accounting.joint_losses import JointComposition
from tff_dp.accounting.laplace import LaplaceRound
from tff_dp.accounting.local import LocalLaplaceRound
from tff_dp.accounting.privacy_loss import gaussian_distribution
from tff_dp.errors import AccountingError, ArgumentError
from tff_dp.sampling import (
    Adjacency,
    CyclicPoissonSampler,
    FixedSizeSampler,
    FullParticipation,
    MinSeparationSampler,
    PoissonSampler,
)

ADD_REMOVE, REPLACE = Adjacency.ADD_OR_REMOVE_ONE, Adjacency.REPLACE_ONE
DELTA = 1e-5


def a_round(
    kind=GaussianRound, z=1.0, q=1.0, adjacency=ADD_REMOVE, sampler=None, **fields
) -> Round:
    sampler = sampler or (FullParticipation() if q == 1 else PoissonSampler(rate=q))
    return kind(noise_multiplier=z, sampler=sampler, population=1000, adjacency=adjacency, **fields)


SEPARATED = MinSeparationSampler(size=5, min_separation=10)
TREE = a_round(TreeRound, 20.0, sampler=SEPARATED, adjacency=Adjacency.ZERO_OUT)
SKELLAM = a_round(
    DistributedSkellamRound, 20.0, adjacency=REPLACE,
    dimension=100, bits=20, beta=math.exp(-0.5), modclip_prob=1e-4,
)  # fmt: skip

# One kind of rounds, and so many of them.
ALONE = [
    (a_round(z=1.0, q=0.01), 1000),
    (a_round(z=2.0, q=0.05, adjacency=REPLACE), 50),
    (a_round(z=20.0), 30),
    (a_round(z=20.0, adjacency=REPLACE), 30),
    (a_round(z=2.0, adjacency=REPLACE, sampler=FixedSizeSampler(size=10)), 40),
    (a_round(LaplaceRound, 20.0), 20),
    (a_round(LaplaceRound, 5.0, q=0.1), 20),
    (a_round(LocalLaplaceRound, 50.0, adjacency=REPLACE), 20),
    (TREE, 20),
    (SKELLAM, 4),
]  # fmt: skip


@pytest.mark.parametrize("case", ALONE, ids=lambda case: type(case[0]).__name__)
def test_one_kind_alone_spends_what_it_spends_and_twice_is_twice_the_rounds(case):
    one_round, rounds = case
    assert spend_jointly([case], DELTA) == spend(one_round, rounds, DELTA)
    run = range(1, rounds + 1)
    assert spend_jointly([case, case], DELTA) == spend(one_round, (run, run), DELTA)
    assert spend_jointly([case, (a_round(z=9.0, adjacency=one_round.adjacency), 0)], DELTA) == (
        spend(one_round, rounds, DELTA)
    )


@pytest.mark.parametrize("case", ALONE[:2] + ALONE[5:7], ids=lambda case: type(case[0]).__name__)
@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-9, 1e-12])
def test_the_composition_of_two_halves_is_that_of_the_whole(case, delta):
    # The same rounds as two components: the joint code against the single-plan one.
    one_round, rounds = case
    components = [(one_round, rounds // 2), (one_round, rounds - rounds // 2)]
    whole = spend(one_round, rounds, delta).values
    found = joint._pld_epsilon(components, delta, 1e-4)
    assert whole["pld"] * (1 - 1e-9) <= found <= whole["pld"] * (1 + 1e-4)
    if "rdp" in whole:
        assert joint._rdp_epsilon(components, delta) == pytest.approx(whole["rdp"], rel=1e-12)


def test_gaussians_of_everybody_compose_exactly():
    parts = [(a_round(z=10.0), 5), (a_round(z=20.0), 8), (a_round(z=7.0), 1)]
    sigma = (5 / 100 + 8 / 400 + 1 / 49) ** -0.5
    report = spend_jointly(parts, DELTA)
    assert report.accountant == "exact"
    assert oracles.gaussian_delta(sigma, report.epsilon) == pytest.approx(DELTA, rel=1e-6)
    assert report.rounds == 14
    # Replacing a client moves every sum twice as far.
    replaced = [(dataclasses.replace(r, adjacency=REPLACE), n) for r, n in parts]
    doubled = spend_jointly(replaced, DELTA)
    assert oracles.gaussian_delta(sigma, doubled.epsilon, 2.0) == pytest.approx(DELTA, rel=1e-6)
    assert doubled.adjacency is REPLACE


def test_runs_that_share_noise_count_run_by_run_beside_others():
    runs = (range(1, 21), range(18, 20), range(1, 4))
    banded = a_round(BandedRound, 30.0, sampler=SEPARATED, adjacency=Adjacency.ZERO_OUT, bands=4)
    report = spend_jointly([(TREE, runs), (banded, 30)], DELTA)
    gaussians = [part.equivalent(r)[0] for part, r in ((TREE, runs), (banded, (range(1, 31),)))]
    sigma = sum(g.noise_multiplier**-2 for g in gaussians) ** -0.5
    assert oracles.gaussian_delta(sigma, report.epsilon) == pytest.approx(DELTA, rel=1e-6)
    assert report.rounds == 25 + 30
    assert report.epsilon > spend_jointly([(TREE, 25), (banded, 30)], DELTA).epsilon
    cyclic = a_round(
        BandedRound, 2.0, sampler=CyclicPoissonSampler(rate=0.1, cycle=4),
        adjacency=Adjacency.ZERO_OUT, bands=4,
    )  # fmt: skip
    mixed = spend_jointly([(TREE, runs), (cyclic, 40)], DELTA)
    assert set(mixed.values) == {"rdp", "pld"}
    assert mixed.epsilon > max(spend(TREE, runs, DELTA).epsilon, spend(cyclic, 40, DELTA).epsilon)


# --- An independent composition of two different plans ------------------------------------------


@functools.cache
def truth(first, second, delta: float, replace: bool) -> float:
    """Epsilon of two kinds of Poisson-sampled Gaussian rounds, without tilt and without dp-accounting.

    Each kind's losses by quadrature of the densities on a fine grid of outputs, rounded to the nearest
    point of a grid of losses (so that errors cancel), and convolved by adding up products.
    """
    step = 2e-3
    results = []
    for swap in (False, True):
        low, mass = 0, np.ones(1)
        for q, z, rounds in (first, second):
            x = np.linspace(-1 - 11 * z, 1 + 11 * z, 500_001)
            with_one = (1 - q) * _normal(x, 0, z) + q * _normal(x, 1, z)
            other = _normal(x, 0, z)
            if replace:
                other = (1 - q) * other + q * _normal(x, -1, z)
            p, r = (other, with_one) if swap else (with_one, other)
            cells = np.rint(np.log(p / r) / step).astype(np.int64)
            one = np.bincount(cells - cells.min(), weights=p / p.sum())
            start, many = oracles.direct_power(one, rounds)
            low += start + rounds * int(cells.min())
            mass = np.convolve(mass, many)
        losses = (low + np.arange(len(mass))) * step
        results.append(oracles.epsilon_of_losses(losses, mass, delta))
    return max(results)


def _normal(x: np.ndarray, center: float, z: float) -> np.ndarray:
    return np.exp(-0.5 * ((x - center) / z) ** 2)


MIXTURES = [  # rate, noise multiplier, rounds of each
    ((0.05, 1.0, 30), (0.2, 2.0, 10), 1e-5, False),
    ((0.02, 0.8, 40), (0.5, 4.0, 6), 1e-9, False),
    ((0.1, 1.5, 20), (0.02, 1.0, 30), 1e-3, False),
    ((0.1, 2.0, 20), (0.3, 5.0, 10), 1e-5, True),
]


def check_mixture(case) -> None:
    """Asserts that an epsilon is the oracle's: not below it, and at most a thousandth above."""
    first, second, delta, replace = case
    adjacency = REPLACE if replace else ADD_REMOVE
    parts = [(a_round(z=z, q=q, adjacency=adjacency), n) for q, z, n in (first, second)]
    found = spend_jointly(parts, delta).epsilon
    expected = truth(first, second, delta, replace)
    assert expected * (1 - 3e-4) <= found <= expected * (1 + 1e-3), (found, expected)


@pytest.mark.parametrize("case", MIXTURES, ids=str)
def test_two_different_plans_spend_what_an_independent_composition_says(case):
    check_mixture(case)


PAIRS = [
    [(a_round(z=1.0, q=0.01), 1000), (a_round(z=1.3, q=0.0025), 6000)],
    [(a_round(z=1.0, q=0.1), 100), (a_round(z=20.0), 30)],
    [(a_round(z=1.0, q=0.05), 50), (a_round(LaplaceRound, 10.0), 3)],
    [(a_round(LaplaceRound, 10.0), 3), (a_round(LaplaceRound, 5.0, q=0.1), 30)],
    [(a_round(z=2.0, q=0.05, adjacency=REPLACE), 50), (a_round(z=20.0, adjacency=REPLACE), 9)],
    [(SKELLAM, 4), (a_round(z=20.0, adjacency=REPLACE), 9)],
    [(SKELLAM, 4), (a_round(z=2.0, q=0.05, adjacency=REPLACE), 50)],
]


@pytest.mark.parametrize("parts", PAIRS, ids=range(len(PAIRS)))
@pytest.mark.parametrize("delta", [slow(1e-3), 1e-5, 1e-9])
def test_together_costs_no_less_than_each_and_no_more_than_the_sum_at_half_of_delta(parts, delta):
    report = spend_jointly(parts, delta)
    halves = [spend(one_round, rounds, delta / 2) for one_round, rounds in parts]
    for name, value in report.values.items():
        if all(name in half.values for half in halves):
            total = sum(half.values[name] for half in halves)
            assert value <= total * (1 + 1e-9), name
    for one_round, rounds in parts:
        alone = spend(one_round, rounds, delta)
        for name, value in report.values.items():
            if name in alone.values:
                assert value >= alone.values[name] * (1 - 1e-9), name
        assert report.epsilon >= alone.epsilon * (1 - 1e-6)
    assert report.epsilon <= sum(half.epsilon for half in halves) * (1 + 1e-9)
    assert spend_jointly(parts[::-1], delta).epsilon == pytest.approx(report.epsilon, rel=1e-6)


def test_what_no_accountant_covers_together_is_added_at_half_of_delta_each():
    parts = PAIRS[-1]
    report = spend_jointly(parts, DELTA)
    assert set(report.values) == {"sum"}
    assert report.epsilon == sum(spend(r, n, DELTA / 2).epsilon for r, n in parts)
    assert {"rdp", "pld"} <= set(report.refused)
    with pytest.raises(AccountingError):
        quick_joint_epsilon(parts, DELTA)


def test_pure_epsilons_add_up_and_mixed_ones_are_not_called_pure():
    both = spend_jointly(PAIRS[3], DELTA)
    pure = 3 / 10 + 30 * math.log1p(0.1 * math.expm1(1 / 5))
    assert both.values["pure"] == pytest.approx(pure, rel=1e-12)
    assert "pure" in spend_jointly(PAIRS[2], DELTA).refused


@pytest.mark.parametrize("parts", [*PAIRS[:3], PAIRS[5]], ids=range(4))
def test_the_quick_bound_is_one(parts):
    assert quick_joint_epsilon(parts, DELTA) >= spend_jointly(parts, DELTA).epsilon * (1 - 1e-12)


def test_nothing_costs_nothing_and_no_noise_costs_everything():
    nothing = [(a_round(z=1.0), 0), (a_round(z=2.0, q=0.1), 0)]
    assert spend_jointly(nothing, DELTA).epsilon == quick_joint_epsilon(nothing, DELTA) == 0
    silent = [(a_round(z=1.0, q=0.1), 5), (a_round(z=0.0, q=0.1), 1)]
    assert spend_jointly(silent, DELTA).epsilon == quick_joint_epsilon(silent, DELTA) == math.inf
    everybody = [(a_round(z=1.0), 5), (a_round(z=0.0), 1)]
    assert spend_jointly(everybody, DELTA).epsilon == math.inf


def test_too_little_noise_for_a_grid_is_left_to_the_other_accountants():
    parts = [(a_round(z=0.01), 1), (a_round(z=1.0, q=0.1), 5)]
    report = spend_jointly(parts, DELTA)
    assert set(report.values) == {"rdp"}
    assert "Take more noise" in report.refused["pld"]


def test_a_finer_grid_is_an_argument_and_gives_no_more():
    parts = [(a_round(z=1.0, q=0.001), 3000), (a_round(z=2.0, q=0.002), 1000)]
    coarse, fine = (spend_jointly(parts, 1e-9, interval=i).values["pld"] for i in (1e-3, 5e-5))
    assert fine < coarse
    assert fine == pytest.approx(spend_jointly(parts, 1e-9).values["pld"], rel=1e-2)


@pytest.mark.parametrize(
    ("parts", "error", "message"),
    [
        ([], ArgumentError, "parts=.* is empty"),
        ([(1.0, 3)], ArgumentError, "parts=1.0"),
        ([(a_round(), -1)], ArgumentError, "rounds=-1"),
        ([(a_round(), 1), (a_round(adjacency=REPLACE), 1)], AccountingError,
         "adjacency: the parts have 'add-or-remove-one' and 'replace-one'"),
    ],
)  # fmt: skip
def test_what_cannot_be_composed_is_refused(parts, error, message):
    with pytest.raises(error, match=message):
        spend_jointly(parts, DELTA)
    with pytest.raises(error, match=message):
        quick_joint_epsilon(parts, DELTA)
    with pytest.raises(ArgumentError, match="delta"):
        spend_jointly([(a_round(), 1)], 1.0)


def test_records_count_for_the_client_that_has_fewest():
    def silo(batch_size, z):
        return RecordRound(
            noise_multiplier=z, sampler=FullParticipation(), population=3, adjacency=ADD_REMOVE,
            batch_size=batch_size, local_steps=5, records=(400, 1000, 300),
        )  # fmt: skip

    parts = [(silo(32, 1.0), 10), (silo(8, 1.5), 20)]
    worst = spend_jointly(parts, DELTA).epsilon
    each = [spend_jointly([(r.of_client(k), n) for r, n in parts], DELTA).epsilon for k in range(3)]
    assert each[2] == worst > each[0] > each[1]


def test_two_plans_on_160_schools_spend_what_the_documentation_says():
    # A cohort of 40, 20 rounds each; the noise for epsilon 4 and for .94. Their sum would be 4.939.
    parts = [(a_round(z=z, q=0.25), 20) for z in (1.19752, 3.26309)]
    assert [spend(r, n, 1e-3).epsilon for r, n in parts] == pytest.approx([3.999, 0.94], rel=1e-3)
    assert spend_jointly(parts, 1e-3).epsilon == pytest.approx(4.183, rel=1e-3)


# --- Computed noise -------------------------------------------------------------------------------

MILLION, FEW = Arithmetic(draws_per_round=10**6), Arithmetic(draws_per_round=10)


def check_charge() -> None:
    """Asserts that the draws of all parts are charged, once."""
    parts = PAIRS[1]
    (_, first), (_, second) = parts
    ideal = spend_jointly(parts, DELTA)
    for kinds, draws in (
        ((MILLION, MILLION), (first + second) * 10**6),
        ((MILLION, FEW), first * 10**6 + second * 10),
        ((None, MILLION), second * 10**6),
    ):
        report = spend_jointly(parts, DELTA, arithmetic=kinds)
        of_all = Arithmetic(draws_per_round=draws)
        low, high = (2 * of_all.charge(1, DELTA, ceiling).gamma for ceiling in (1.0, 32.0))
        assert low <= report.arithmetic_epsilon <= high
        assert 0 < report.arithmetic_delta < DELTA / 2
        assert report.delta == DELTA
        assert report.epsilon == pytest.approx(ideal.epsilon + report.arithmetic_epsilon, rel=1e-5)
        assert report.lower_bound <= ideal.epsilon < report.epsilon
        quick = quick_joint_epsilon(parts, DELTA, arithmetic=kinds)
        assert quick >= report.epsilon * (1 - 1e-12)


def test_the_noise_that_all_parts_compute_is_charged_together():
    check_charge()
    one_round, rounds = ALONE[0]
    alone = spend(one_round, rounds, DELTA, MILLION)
    assert spend_jointly([(one_round, rounds)], DELTA, arithmetic=[MILLION]) == alone
    halves = [(one_round, rounds // 2)] * 2
    run = range(1, rounds // 2 + 1)
    assert spend_jointly(halves, DELTA, arithmetic=[MILLION] * 2) == (
        spend(one_round, (run, run), DELTA, MILLION)
    )
    mixed = spend_jointly(halves, DELTA, arithmetic=[MILLION, FEW])
    assert mixed.epsilon <= alone.epsilon
    assert mixed.epsilon > spend(one_round, rounds, DELTA, FEW).epsilon
    assert mixed.lower_bound == pytest.approx(alone.lower_bound, rel=1e-3)


def test_joint_epsilon_lies_above_its_lower_bound_and_that_above_each_part_s():
    for parts in PAIRS[:5]:
        report = spend_jointly(parts, DELTA)
        each = [spend(one_round, rounds, DELTA).lower_bound for one_round, rounds in parts]
        assert report.lower_bound == max(each) <= report.epsilon
    assert spend_jointly(PAIRS[5], DELTA).lower_bound <= spend_jointly(PAIRS[5], DELTA).epsilon


def test_more_draws_than_delta_can_pay_for_leave_no_guarantee():
    huge = Arithmetic(draws_per_round=10**24)
    report = spend_jointly(PAIRS[1], 1e-12, arithmetic=[huge, FEW])
    assert report.epsilon == math.inf
    assert "max_dimension" in report.refused["arithmetic"]
    assert quick_joint_epsilon(PAIRS[1], 1e-12, arithmetic=[huge, FEW]) == math.inf
    with pytest.raises(ArgumentError, match="one entry for each"):
        spend_jointly(PAIRS[1], DELTA, arithmetic=[FEW])


def test_a_charge_for_one_part_alone_is_caught(monkeypatch):
    draws = joint._draws
    monkeypatch.setattr(joint, "_draws", lambda parts, kinds: draws(parts[-1:], kinds[-1:]))
    with pytest.raises(AssertionError):
        check_charge()


# --- Roundoff -----------------------------------------------------------------------------------

COARSE = [  # of each kind: rate, noise multiplier, rounds; and the interval
    (((0.01, 1.0, 300), (0.05, 2.0, 200)), 5e-3),
    (((0.001, 1.0, 10_000), (1.0, 30.0, 1)), 4e-3),
    (((0.25, 1.0, 20), (1e-3, 0.7, 500)), 2e-2),
]
DELTAS = (0.3, 1e-3, 1e-5, 1e-9, 1e-12)


def _pmf(q: float, z: float, interval: float, direction: int):
    distribution = gaussian_distribution(z, q, ADD_REMOVE.relation, interval)
    return distribution._pmf_add if direction and q < 1 else distribution._pmf_remove


def check_composed() -> None:
    """Asserts that epsilon is never below that of a composition without a transform, nor far above."""
    for (kinds, interval), direction in itertools.product(COARSE, (0, 1)):
        pmfs = [_pmf(q, z, interval, direction) for q, z, _ in kinds]
        low, mass, finite = 0, np.ones(1), 1.0
        for pmf, (_, _, rounds) in zip(pmfs, kinds, strict=True):
            dense = pmf.to_dense_pmf()
            first, many = oracles.direct_power(dense._probs, rounds)
            low, mass = low + first + rounds * dense._lower_loss, np.convolve(mass, many)
            finite *= (1 - dense._infinity_mass) ** rounds
        losses = (low + np.arange(len(mass))) * interval
        composition = JointComposition(pmfs)
        for delta in DELTAS:
            expected = oracles.epsilon_of_losses(losses, mass, delta - (1 - finite))
            found = composition.epsilon([rounds for _, _, rounds in kinds], delta)
            assert expected * (1 - 1e-11) <= found <= expected * (1 + 1e-5), (kinds, delta)


def test_the_transform_is_an_upper_bound_and_tight_to_the_smallest_delta():
    check_composed()


@pytest.mark.parametrize("size", [2**9, 2**10, 2**11])
def test_a_window_that_is_too_small_makes_epsilon_larger_alone(size, monkeypatch):
    (kinds, interval), delta = COARSE[0], 1e-9
    composition = JointComposition([_pmf(q, z, interval, 0) for q, z, _ in kinds])
    counts = [rounds for _, _, rounds in kinds]
    whole = composition.epsilon(counts, delta)
    monkeypatch.setattr(joint_losses, "_LARGEST_TRANSFORM", size)
    assert composition.epsilon(counts, delta) >= whole * (1 - 1e-7)


def test_infinite_losses_of_every_part_count():
    def pmf(infinite):
        return privacy_loss_distribution.pld_pmf.DensePLDPmf(
            1e-2, -10, np.array([0.5, *[0.0] * 19, 0.5 - infinite]), infinite, True
        )

    composition = JointComposition([pmf(1e-7), pmf(3e-7)])
    assert composition.epsilon([100, 300], 9.9e-5) == math.inf
    assert composition.epsilon([100, 300], 1.1e-4) < math.inf


# --- Planted defects: wrong ways to count several plans ------------------------------------------


def _of_each(components, delta):
    return [spend(one_round, count, delta).epsilon for one_round, count in components]


def _no_doubling(components, delta, interval):
    components = [
        (dataclasses.replace(r, noise_multiplier=2 * r.noise_multiplier), n) for r, n in components
    ]
    return PLD(components, delta, interval)


def _one_direction(components, delta, interval):
    rounds = tuple(one_round for one_round, _ in components)
    return joint._directions(rounds, interval)[-1].epsilon([n for _, n in components], delta)


PLD = joint._pld_epsilon
DEFECTS = {
    "the sum at the same delta": (lambda c, d, _: sum(_of_each(c, d)), 0),
    "the sum at ten times delta": (lambda c, d, _: sum(_of_each(c, 10 * d)), 2),
    "the largest": (lambda c, d, _: max(_of_each(c, d)), 0),
    "the last": (lambda c, d, _: _of_each(c, d)[-1], 0),
    "no doubling under replace-one": (_no_doubling, 3),
    "one direction": (_one_direction, 1),
    "one round less": (lambda c, d, i: PLD([(c[0][0], c[0][1] - 1), *c[1:]], d, i), 0),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_wrong_ways_to_count_are_caught(name, monkeypatch):
    wrong, case = DEFECTS[name]
    monkeypatch.setattr(joint, "_ACCOUNTANTS", {"pld": wrong})
    joint._spend.cache_clear()
    try:
        with pytest.raises(AssertionError):
            check_mixture(MIXTURES[case])
    finally:
        joint._spend.cache_clear()


def test_an_exact_curve_of_added_noise_multipliers_is_caught(monkeypatch):
    monkeypatch.setattr(joint, "_of_all", lambda found: min(r.noise_multiplier for r, _ in found))
    with pytest.raises(AssertionError):
        test_gaussians_of_everybody_compose_exactly()


def test_a_composition_without_tilt_is_caught(monkeypatch):
    window = JointComposition._window

    def untilted(self, counts, log_moments, point):
        _, high, size = window(self, counts, log_moments, point)
        return 0.0, high, size

    monkeypatch.setattr(JointComposition, "_window", untilted)
    with pytest.raises(AssertionError):  # far too large, since the roundoff is counted
        check_composed()


def test_a_composition_that_cuts_the_tail_off_is_caught(monkeypatch):
    tilted = JointComposition._tilted

    def cut(self, counts, order, high, size):
        values, log_moment = tilted(self, counts, order, high, size)
        values[-size // 2 :] = 0
        return values, log_moment

    monkeypatch.setattr(JointComposition, "_tilted", cut)
    with pytest.raises(AssertionError):
        check_composed()
