"""Epsilon from both sides: valid, close to each other, and right by an independent inversion."""

from __future__ import annotations

import dataclasses
import itertools
import math

import mpmath
import numpy as np
import pytest
from dp_accounting import NeighboringRelation
from dp_accounting.pld.privacy_loss_mechanism import AdjacencyType

from tests.support import oracles
from tff_dp.accounting import GaussianRound, RecordRound, loss_bounds, spend
from tff_dp.accounting.laplace import LaplaceRound
from tff_dp.accounting.loss_bounds import bounds
from tff_dp.accounting.pairs import Cells, GaussianPair, LaplacePair, gaussian_pairs, laplace_pairs
from tff_dp.accounting.report import format_epsilon, format_lower
from tff_dp.sampling import Adjacency, FixedSizeSampler, FullParticipation, PoissonSampler

AOR, REPLACE = NeighboringRelation.ADD_OR_REMOVE_ONE, NeighboringRelation.REPLACE_ONE
# Of the oracle itself, relative and absolute: `oracles.inverted_epsilon` says where it comes from.
ORACLE = 1e-6
NEGLIGIBLE = 1e-9


def truth_of(pairs, rounds: int, delta: float) -> float | None:
    """The smallest epsilon, or None where the oracle cannot tell."""
    try:
        return max(
            oracles.inverted_epsilon(
                pair.rate,
                pair.noise_multiplier,
                rounds,
                delta,
                pair.direction.name.lower(),
                "gaussian" if isinstance(pair, GaussianPair) else "laplace",
            )
            for pair in pairs
        )
    except ArithmeticError:
        return None


def check(pairs, rounds: int, delta: float) -> bool:
    """Asserts that the bounds hold and are close; returns whether the oracle could tell."""
    found = bounds(pairs, rounds, delta)
    case = (pairs, rounds, delta, found[:2])
    assert 0 <= found.lower <= found.upper, case
    truth = truth_of(pairs, rounds, delta)
    if truth is None:
        return False
    assert found.lower <= truth * (1 + ORACLE) + 1e-12, (case, truth)
    assert truth * (1 - ORACLE) - 1e-12 <= found.upper, (case, truth)
    assert found.upper <= 1.01 * truth + NEGLIGIBLE, (case, truth)
    assert found.lower >= 0.98 * truth - NEGLIGIBLE, (case, truth)
    return True


def cases(seed: int, count: int, noise: str):
    """Plans from the region that `bounds` speaks of, uniform in the logarithms."""
    rng = np.random.default_rng(seed)
    found = []
    while len(found) < count:
        rate = 1.0 if rng.random() < 0.1 else 10 ** rng.uniform(-5, 0)
        z = 10 ** rng.uniform(math.log10(0.3), math.log10(50))
        rounds, delta = int(10 ** rng.uniform(0, 6)), 10 ** rng.uniform(-15, -2)
        replace = noise == "gaussian" and rng.random() < 0.3
        if noise == "gaussian":
            pairs = gaussian_pairs(z, rate, REPLACE if replace else AOR)
        else:
            pairs = laplace_pairs(z, rate)
        # A distribution is not made for epsilons above 100; the oracle fails for few rounds above 2.
        least = 30 if noise == "gaussian" else 40 * z
        if loss_bounds._chernoff(pairs[0], rounds, delta)[0] < 100 and not 2 < rounds < least:
            found.append((pairs, rounds, delta))
    return found


# --- Against the oracle ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("q", "z", "rounds", "delta", "truth"),
    [
        (1e-4, 1.0, 300_000, 1e-12, 0.4658),  # by direct convolution; on a grid of 1e-4 it is .4891
        (2.6e-5, 1.26, 800_000, 1e-9, 0.1101),  # on a grid of 1e-4 it is 66 % too high
        (0.01, 1.0, 1000, 1e-5, 1.8282),
        (1.0, 10.0, 100, 1e-5, 4.37718),
    ],
)
def test_bounds_of_known_plans(q, z, rounds, delta, truth):
    pairs = gaussian_pairs(z, q, AOR)
    assert check(pairs, rounds, delta)
    assert truth_of(pairs, rounds, delta) == pytest.approx(truth, rel=1e-3)


def test_bounds_of_random_gaussian_plans():
    known = [check(*case) for case in cases(1, 10, "gaussian")]
    assert sum(known) >= 5


def test_bounds_of_random_laplace_plans():
    known = [check(*case) for case in cases(2, 8, "laplace")]
    assert sum(known) >= 5


@pytest.mark.full
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("noise", ["gaussian", "laplace"])
def test_bounds_of_many_random_plans(noise, seed):
    known = [check(*case) for case in cases(100 + seed, 40, noise)]
    assert sum(known) >= 10


def test_the_oracle_is_that_of_a_formula_and_of_a_direct_composition():
    for z, rounds, delta in [(10.0, 100, 1e-5), (3.0, 40, 1e-12)]:
        found = oracles.inverted_epsilon(1.0, z, rounds, delta, "remove")
        assert oracles.gaussian_delta(z / math.sqrt(rounds), found) == pytest.approx(
            delta, rel=1e-6
        )
    for direction in ("remove", "add"):
        one = oracles.inverted_epsilon(0.25, 1.0, 1, 1e-6, direction)
        reached = oracles.one_round_delta(0.25, 1.0, one, replace=False)
        assert reached == pytest.approx(1e-6, rel=1e-6) or direction == "add"
    for replace in (False, True):
        names = ["replace"] if replace else ["remove", "add"]
        found = max(oracles.inverted_epsilon(0.04, 1.5, 300, 1e-5, name) for name in names)
        composed = oracles.composed_epsilon(0.04, 1.5, 300, 1e-5, replace=replace)
        assert found == pytest.approx(composed, rel=1e-4)


# --- One round's losses in cells ------------------------------------------------------------------


def pairs_of_all_kinds():
    for rate, z in [(1e-5, 0.4), (0.01, 1.0), (0.3, 5.0), (1.0, 2.0)]:
        for direction in AdjacencyType:
            yield GaussianPair(z, rate, direction)
        for direction in (AdjacencyType.REMOVE, AdjacencyType.ADD):
            yield LaplacePair(z, rate, direction)


def one_delta(pair, epsilon: float) -> float:
    noise = "gaussian" if isinstance(pair, GaussianPair) else "laplace"
    with mpmath.workdps(50):
        arguments = (mpmath.mpf(x) for x in (epsilon, pair.rate, pair.noise_multiplier))
        return float(oracles._one_delta(*arguments, pair.direction.name.lower(), noise, mpmath))


def delta_of(losses: np.ndarray, probabilities: np.ndarray, epsilon: float) -> float:
    above = losses > epsilon
    return math.fsum(-np.expm1(epsilon - losses[above]) * probabilities[above])


@pytest.mark.parametrize("pair", list(pairs_of_all_kinds()), ids=str)
def test_cells_bound_every_divergence_of_one_round(pair):
    lowest, highest = pair.bounds(-50.0)
    for cells in (100, 2000, 20_000):
        interval = (highest - lowest) / cells
        center, _ = pair.center(interval)
        offset = math.remainder(center, interval)
        first, above, infinite = pair.cells(interval).pessimistic()
        optimistic = pair.cells(interval, offset=offset).optimistic(center)
        assert above.min() >= 0
        assert above.sum() + infinite == pytest.approx(1, abs=1e-12)
        for epsilon in np.linspace(0.7 * lowest, 0.7 * highest, 41):
            truth = one_delta(pair, epsilon)
            losses = interval * (first + np.arange(len(above)))
            upper = delta_of(losses, above, epsilon) + infinite
            assert truth <= upper * (1 + 1e-9) + 1e-24, (cells, epsilon)
            if optimistic:
                start, below = optimistic
                assert below.min() >= 0
                assert below.sum() == pytest.approx(1, abs=1e-9)
                points = offset + interval * (start + np.arange(len(below)))
                lower = delta_of(points, below, epsilon)
                assert lower <= truth * (1 + 1e-9) + 1e-15, (cells, epsilon)


def test_shares_are_precise_on_a_grid_far_finer_than_roundoff_of_deltas():
    # Second differences of deltas, divided by the interval, would be right to 1e-16 / 1e-8 at best.
    interval = 1e-8
    pair = GaussianPair(50.0, 1e-5, AdjacencyType.REMOVE)
    first, probabilities, _ = pair.cells(interval).pessimistic()
    with mpmath.workdps(50):

        def delta(point: int) -> mpmath.mpf:
            rate, z = mpmath.mpf(pair.rate), mpmath.mpf(pair.noise_multiplier)
            loss = mpmath.mpf(point) * mpmath.mpf(interval)
            return oracles._one_delta(loss, rate, z, "remove", "gaussian", mpmath)

        growth = mpmath.expm1(mpmath.mpf(interval))
        for point in (-20, 0, 30, 60):
            low, here, high = (delta(point + k) for k in (-1, 0, 1))
            expected = ((high - here) - (1 + growth) * (here - low)) / growth
            found = probabilities[point - first]
            assert found == pytest.approx(float(expected), rel=1e-8)


# --- The pair of replace-one under Poisson sampling -------------------------------------------------


def plane_divergences(q: float, z: float, x, y, epsilons) -> list[float]:
    """Divergences, both ways, of a round in which a client's update is x against one in which it is y."""
    step = z / 20
    axis = np.arange(-1 - 7 * z, 1 + 7 * z, step)
    a, b = np.meshgrid(axis, axis)

    def density(moved) -> np.ndarray:
        def law(center):
            square = (a - center[0]) ** 2 + (b - center[1]) ** 2
            return np.exp(-square / (2 * z * z)) / (2 * math.pi * z * z)

        return ((1 - q) * law((0.0, 0.0)) + q * law(moved)) * step**2

    p, r = density(x), density(y)
    return [
        max(
            float(np.maximum(one - math.exp(e) * other, 0).sum()) for one, other in ((p, r), (r, p))
        )
        for e in epsilons
    ]


@pytest.mark.parametrize("q", [0.02, 0.3])
@pytest.mark.parametrize("z", [0.5, 1.0])
def test_a_search_finds_no_worse_pair_than_opposite_updates_under_replace_one(q, z):
    # A search is no proof, and docs/privacy.md says so.
    epsilons = (0.0, 0.1, 0.5, 1.0, 2.0)
    worst = plane_divergences(q, z, (1.0, 0.0), (-1.0, 0.0), epsilons)
    for length, other, angle in itertools.product((1.0, 0.6), (1.0, 0.5, 0.0), (1.6, 2.4, math.pi)):
        y = (other * math.cos(angle), other * math.sin(angle))
        found = plane_divergences(q, z, (length, 0.0), y, epsilons)
        assert all(f <= w * (1 + 4e-3) + 1e-9 for f, w in zip(found, worst, strict=True))


# --- Planted defects --------------------------------------------------------------------------------


def test_a_grid_that_does_not_follow_the_losses_is_caught(monkeypatch):
    monkeypatch.setattr(loss_bounds, "_first_interval", lambda *_: 1e-4)
    monkeypatch.setattr(loss_bounds, "_AIMED", 1.0)
    monkeypatch.setattr(loss_bounds, "_ACCEPTED", 10.0)
    loss_bounds.clear_caches()
    try:
        with pytest.raises(AssertionError):
            check(gaussian_pairs(1.0, 1e-4, AOR), 300_000, 1e-12)
    finally:
        loss_bounds.clear_caches()


@pytest.mark.parametrize("defect", ["not lowered", "lowered by a tenth"])
def test_an_optimistic_distribution_that_is_not_lowered_enough_is_caught(defect, monkeypatch):
    factor = 0.0 if defect == "not lowered" else 0.1
    optimistic = Cells.optimistic

    def higher(self, center):
        found = optimistic(self, center)
        if found is None:
            return None
        first, probabilities = found
        start, chords, _ = self.pessimistic()
        mixed = factor * np.pad(probabilities, (first - start, len(chords)))[: len(chords)]
        return start, mixed + (1 - factor) * chords

    monkeypatch.setattr(Cells, "optimistic", higher)
    with pytest.raises(AssertionError):
        test_cells_bound_every_divergence_of_one_round(
            GaussianPair(1.0, 0.01, AdjacencyType.REMOVE)
        )


# --- Reports ----------------------------------------------------------------------------------------


def a_round(z: float, sampler, adjacency=Adjacency.ADD_OR_REMOVE_ONE, kind=GaussianRound):
    return kind(noise_multiplier=z, sampler=sampler, population=1000, adjacency=adjacency)


def test_a_report_has_a_lower_bound_where_one_is_known():
    poisson = spend(a_round(1.0, PoissonSampler(rate=0.01)), 1000, 1e-5)
    assert 0.99 * poisson.epsilon < poisson.lower_bound <= poisson.epsilon
    exact = spend(a_round(10.0, FullParticipation()), 100, 1e-5)
    assert exact.lower_bound == pytest.approx(exact.epsilon, rel=1e-8)
    assert exact.lower_bound < 4.377178095681 < exact.epsilon  # the exact value lies between
    laplace = spend(a_round(2.0, FullParticipation(), kind=LaplaceRound), 20, 1e-5)
    assert 0.99 * laplace.epsilon < laplace.lower_bound <= laplace.epsilon
    fixed = spend(a_round(1.0, FixedSizeSampler(size=10), Adjacency.REPLACE_ONE), 1000, 1e-5)
    assert fixed.lower_bound is None
    records = RecordRound(
        noise_multiplier=1.0, sampler=FullParticipation(), population=2, batch_size=10,
        adjacency=Adjacency.ADD_OR_REMOVE_ONE, local_steps=5, records=(1000, 2000),
    )  # fmt: skip
    steps = spend(records, 200, 1e-5)
    assert steps.lower_bound == poisson.lower_bound  # 1000 steps at .01


@pytest.mark.parametrize("sampler", [FullParticipation(), PoissonSampler(rate=0.5)])
def test_lower_bounds_without_noise_and_without_rounds(sampler):
    assert spend(a_round(0.0, sampler), 3, 1e-5).lower_bound == math.inf
    assert spend(a_round(1.0, sampler), 0, 1e-5).lower_bound == 0


def test_a_lower_bound_is_shown_rounded_down():
    assert (format_lower(1.23999), format_epsilon(1.23001)) == ("1.239", "1.231")
    assert (format_lower(math.inf), format_lower(0.0)) == ("inf", "0.000")
    report = spend(a_round(1.0, PoissonSampler(rate=0.01)), 1000, 1e-5)
    assert f"at least {format_lower(report.lower_bound)}" in str(report)
    assert "at least" not in str(dataclasses.replace(report, lower_bound=None))


def test_the_lower_bound_is_monotone_in_rounds_and_noise():
    lows = [
        spend(a_round(1.0, PoissonSampler(rate=0.01)), t, 1e-5).lower_bound for t in (10, 99, 800)
    ]
    assert all(one < other for one, other in itertools.pairwise(lows))
