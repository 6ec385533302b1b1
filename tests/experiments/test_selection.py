"""The cost of choosing the best of several runs, against mechanisms whose cost is computed exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest

import tff_dp
from experiments import _selection
from experiments._selection import Stopping, calibrated, composed_epsilon, selected_epsilon
from experiments.epsilon_cases import lower_bounds
from tff_dp.errors import AccountingError, ArgumentError

DELTA = 1e-5
KINDS = {
    "gaussian": (tff_dp.GaussianMechanism, lower_bounds.normal, 9),
    "laplace": (tff_dp.LaplaceMechanism, lower_bounds.laplace, 30),
}


def plan(kind="gaussian", z=3.0, rounds=1, sampler=None):
    return tff_dp.PrivacyPlan(
        mechanism=KINDS[kind][0](clip_norm=1.0, noise_multiplier=z), population=1000,
        rounds=rounds, delta=DELTA, sampler=sampler or tff_dp.FullParticipation(),
    )  # fmt: skip


def exact_epsilon(p, q):
    def excess(epsilon):
        pairs = ((p, q), (q, p))
        return max(np.maximum(a - np.exp(epsilon) * b, 0).sum() for a, b in pairs) - DELTA

    low, high = 0.0, 60.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return low


def best_of_runs(kind, z, stopping):
    """The exact epsilon of the best of K runs of one round, for scores that were chosen to reveal much.

    A run's output is the cell in which its noisy sum is. Each order of the cells is a score; whatever
    is best of K runs is at most the cell of rank r with probability E[F(r)^K].
    """
    _, law, reach = KINDS[kind]
    pair = lower_bounds.cells(law(1.0, z), law(0.0, z), -reach * z, 1 + reach * z)
    position, below, found = np.arange(len(pair.p)), np.cumsum(pair.q), 0.0
    for share in (0.02, 0.1, 0.5, 0.9, 0.98):
        low = position < np.searchsorted(below, share)
        for first in (low, ~low):
            for way in (1, -1):
                ranks = np.argsort(np.where(first, 1e9, 0) + way * position)
                best = []
                for masses in (pair.p, pair.q):
                    share_below = np.concatenate([[0.0], np.cumsum(masses[ranks])]).clip(0, 1)
                    within = stopping.generating(share_below)
                    best.append(np.append(np.diff(within), within[0]))  # the last one: no run
                found = max(found, exact_epsilon(*best))
    return found


LAWS = [(law, mean) for law in _selection.SHAPES for mean in (2, 10, 40)]


@pytest.mark.parametrize(("law", "mean"), LAWS)
@pytest.mark.parametrize(("kind", "z"), [("gaussian", 3.0), ("laplace", 1.0), ("laplace", 5.0)])
def test_the_bound_is_above_the_exact_cost_and_that_is_above_the_cost_of_one_run(
    kind, z, law, mean
):
    stopping = Stopping(mean=mean, law=law)
    exact, one = best_of_runs(kind, z, stopping), plan(kind, z).epsilon().epsilon
    assert exact > 1.1 * one  # whoever reports one run is wrong
    try:
        assert exact <= selected_epsilon(plan(kind, z), stopping)
    except AccountingError:
        assert law == "Poisson"  # above what is accounted for


@pytest.mark.parametrize(
    ("run_by", "accounted_for_as"),
    [
        (("geometric", 40), ("logarithmic", 40)),  # 3 epsilon and 2 epsilon
        (("Poisson", 10), ("geometric", 10)),
        (("Poisson", 10), ("Poisson", 2)),
        (("geometric", 40), ("geometric", 2)),
    ],
)
def test_a_bound_for_another_law_is_proven_wrong(run_by, accounted_for_as):
    runs, wrong = (Stopping(mean=mean, law=law) for law, mean in (run_by, accounted_for_as))
    exact = best_of_runs("laplace", 1.0, runs)
    assert exact > selected_epsilon(plan("laplace", 1.0), wrong)
    assert exact <= selected_epsilon(plan("laplace", 1.0), runs)


@pytest.mark.parametrize(("law", "factor"), [("geometric", 3.0), ("logarithmic", 2.0)])
def test_pure_epsilon_is_doubled_or_tripled_for_many_runs(law, factor):
    # Liu and Talwar's 3 epsilon, and 2 epsilon of Papernot and Steinke's corollary 3.
    found = selected_epsilon(plan("laplace", 2.0), Stopping(mean=1000, law=law))
    assert factor * 0.5 <= found <= factor * 0.5 * 1.05


def test_a_fixed_number_of_runs_costs_what_the_ledger_of_all_would_say():
    one = plan(z=20.0, rounds=10)
    assert composed_epsilon(one, 7) == plan(z=20.0, rounds=70).epsilon().epsilon
    assert composed_epsilon(one, 1) == one.epsilon().epsilon


@pytest.mark.parametrize(("law", "mean"), LAWS)
def test_the_law_of_the_number_of_runs_is_what_it_says(law, mean):
    stopping = Stopping(mean=mean, law=law)
    probabilities = np.array([stopping.probability(k) for k in range(8000)])
    assert probabilities.sum() == pytest.approx(1, abs=1e-9)
    assert probabilities @ np.arange(8000) == pytest.approx(mean, rel=1e-6)
    for x in (0.0, 0.3, 0.99, 1.0):
        by_terms = probabilities @ x ** np.arange(8000.0)
        assert stopping.generating(np.array([x]))[0] == pytest.approx(by_terms, abs=1e-9)
    for beyond in (0.1, 1e-6):
        assert probabilities[stopping.most(beyond) + 1 :].sum() <= beyond
    # The mean of 4000 draws is within 5 deviations but for a probability below 1e-5.
    spread = math.sqrt(probabilities @ (np.arange(8000) - mean) ** 2 / 4000)
    drawn = np.array([stopping.draw() for _ in range(4000)])
    assert abs(drawn.mean() - mean) < 5 * spread
    assert abs((drawn == 1).mean() - probabilities[1]) < 5 * math.sqrt(0.25 / 4000)
    assert (drawn == 0).any() == (law == "Poisson" and mean == 2) or mean > 2


@pytest.mark.parametrize("law", [None, *_selection.SHAPES])
def test_calibrated_noise_stays_within_the_target_and_is_not_much_larger(law):
    one = plan(rounds=5, sampler=tff_dp.PoissonSampler(rate=0.05))
    stopping = None if law is None else Stopping(mean=6, law=law)
    for target in (2.0,) if law else (0.5, 2.0):
        found = calibrated(one, target, runs=6, stopping=stopping)
        spent = selected_epsilon(found, stopping) if stopping else composed_epsilon(found, 6)
        assert 0.99 * target <= spent <= target
        assert found.rounds == 5
    assert calibrated(one, 2.0).epsilon().epsilon <= 2.0


def test_computed_noise_is_charged_for():
    one, stopping = plan(), Stopping(mean=5, law="geometric")
    charged = selected_epsilon(one, stopping)
    ideal = _selection._ideal(one, stopping, DELTA)
    assert ideal < charged < ideal * (1 + 1e-3)


def test_replace_one_is_charged_for_twice_the_change():
    stopping = Stopping(mean=5, law="geometric")
    twice = tff_dp.PrivacyPlan(
        mechanism=tff_dp.GaussianMechanism(clip_norm=1.0, noise_multiplier=6.0), population=1000,
        rounds=1, delta=DELTA, sampler=tff_dp.FullParticipation(), adjacency="replace-one",
    )  # fmt: skip
    found, expected = selected_epsilon(twice, stopping), selected_epsilon(plan(), stopping)
    assert found == pytest.approx(expected, rel=1e-6)


def test_what_is_not_accounted_for_is_refused_by_name():
    tree = tff_dp.PrivacyPlan(
        mechanism=tff_dp.TreeMechanism(clip_norm=1.0, noise_multiplier=5.0), population=1000,
        rounds=10, delta=DELTA, sampler=tff_dp.MinSeparationSampler(size=10, min_separation=10),
    )  # fmt: skip
    with pytest.raises(AccountingError, match=r"TreeMechanism shares noise.*GaussianMechanism"):
        selected_epsilon(tree, Stopping(mean=5, law="geometric"))
    with pytest.raises(AccountingError, match=r"best of 50 runs.*at most 8\. Take more noise"):
        selected_epsilon(plan(z=0.5), Stopping(mean=50, law="geometric"))


@pytest.mark.parametrize(
    ("mean", "law", "message"),
    [
        (5, "fixed", r"law='fixed'.*'geometric', 'Poisson'"),
        (1, "geometric", r"mean=1 .*\(1, 1e4\]"),
        (0.5, "Poisson", r"mean=0\.5 .*\[1, 1e4\]"),
        (float("nan"), "logarithmic", r"mean=nan"),
    ],
)
def test_laws_outside_their_bounds_are_named(mean, law, message):
    with pytest.raises(ArgumentError, match=message):
        Stopping(mean=mean, law=law)


@pytest.mark.parametrize("target", [0.0, 8.0, -1.0])
def test_targets_outside_their_bounds_are_named(target):
    with pytest.raises(ArgumentError, match=r"target=.*\(0, 8\)"):
        calibrated(plan(), target, stopping=Stopping(mean=5, law="geometric"))
