"""Trees and banded factorization: what a run costs, and noise that is what accounting takes it for."""

from __future__ import annotations

import functools
import itertools
import math

import dp_accounting
import numpy as np
import pytest
from scipy import optimize

from tests.support.noise import (
    Aggregator,
    are_uncorrelated,
    has_standard_deviation,
    is_normal,
    process_of,
)
from tests.support.tables import covered
from tff_dp.accounting import calibrate_rounds, quick_epsilon, round_of, spend
from tff_dp.accounting.sensitivity import tree_sensitivity_squared
from tff_dp.aggregation import build_aggregator
from tff_dp.errors import AccountingError, ArgumentError
from tff_dp.mechanisms import BandedMechanism, TreeMechanism
from tff_dp.mechanisms.strategy import _log_error, banded_strategy, running_sum_error
from tff_dp.plan import PrivacyPlan
from tff_dp.sampling import (
    Adjacency,
    CyclicPoissonSampler,
    FixedSizeSampler,
    FullParticipation,
    MinSeparationSampler,
    PoissonSampler,
)

CLIP = 0.5
ONCE = MinSeparationSampler(size=1, min_separation=1600)


def tree(z: float, **changes) -> TreeMechanism:
    return TreeMechanism(clip_norm=CLIP, noise_multiplier=z, **changes)


def banded(z: float, bands: int) -> BandedMechanism:
    return BandedMechanism(clip_norm=CLIP, noise_multiplier=z, bands=bands)


# --- What a run costs ---------------------------------------------------------------------------


@pytest.mark.parametrize(("z", "by_rdp"), [(1.13, 18.709610), (8.83, 1.773192)])
def test_golden_tree_with_one_participation(z, by_rdp):
    report = spend(round_of(tree(z), ONCE, 1600), 1600, 1e-6)
    # The golden value takes dp-accounting's orders, the more the better; ours are its default as well.
    assert report.values["rdp"] == pytest.approx(by_rdp, rel=5e-4)
    event = dp_accounting.SingleEpochTreeAggregationDpEvent(z, 1600)
    relation = dp_accounting.NeighboringRelation.REPLACE_SPECIAL
    theirs = dp_accounting.rdp.RdpAccountant(neighboring_relation=relation).compose(event)
    assert report.values["rdp"] == pytest.approx(theirs.get_epsilon(1e-6), rel=1e-9)
    assert report.epsilon == report.values["exact"] < report.values["rdp"]
    assert report.adjacency is Adjacency.ZERO_OUT


def test_golden_zero_concentrated_guarantee():
    # rho = .81, as published for a keyboard's language model: rho = sensitivity^2 / (2 z^2).
    sampler = MinSeparationSampler(size=7, min_separation=50, max_participations=4)
    z = math.sqrt(tree_sensitivity_squared(200, 4, 50) / (2 * 0.81))
    report = spend(round_of(tree(z), sampler, 700), 200, 1e-10)
    assert report.values["rdp"] == pytest.approx(8.9223, abs=1e-4)
    assert report.values["exact"] == pytest.approx(8.548917, abs=1e-6)


def test_a_tree_restarted_each_epoch_is_a_composition_of_trees():
    sampler = MinSeparationSampler(size=10, min_separation=64)
    one_round = round_of(tree(4.0, restart_every=64), sampler, 640)
    relation = dp_accounting.NeighboringRelation.REPLACE_SPECIAL
    theirs = dp_accounting.rdp.RdpAccountant(neighboring_relation=relation)
    theirs.compose(dp_accounting.SingleEpochTreeAggregationDpEvent(4.0, 64), 5)
    found = spend(one_round, 320, 1e-5)
    assert found.values["rdp"] == pytest.approx(theirs.get_epsilon(1e-5), rel=1e-9)
    # Without restarts, participations meet in higher nodes.
    assert spend(round_of(tree(4.0), sampler, 640), 320, 1e-5).epsilon > found.epsilon


def test_replace_one_doubles_the_sensitivity_of_a_run():
    def found(z, adjacency):
        return spend(round_of(tree(z), ONCE, 1600, adjacency), 1600, 1e-6)

    twice = found(2.0, Adjacency.REPLACE_ONE)
    assert twice.values == pytest.approx(found(1.0, Adjacency.ZERO_OUT).values)


@pytest.mark.parametrize(("rounds", "cycles"), [(1000, 100), (991, 100), (1001, 101)])
def test_a_cycle_of_banded_rounds_costs_one_poisson_round(rounds, cycles):
    sampler = CyclicPoissonSampler(rate=0.1, cycle=10)
    found = spend(round_of(banded(1.0, 10), sampler, 1000), rounds, 1e-5)
    plain = spend(
        round_of(banded(1.0, 1), CyclicPoissonSampler(rate=0.1, cycle=1), 1000), cycles, 1e-5
    )
    assert found.values == plain.values
    assert found.rounds == rounds
    if cycles == 100:  # the golden values of q=.1, z=1, T=100
        assert found.values["rdp"] == pytest.approx(7.899255, rel=1e-3)
        assert found.values["pld"] == pytest.approx(7.046603, rel=1e-6)


def test_banded_rounds_without_sampling_are_a_gaussian_for_each_participation():
    sampler = MinSeparationSampler(size=5, min_separation=20)
    found = spend(round_of(banded(10.0, 20), sampler, 100), 2000, 1e-5)
    assert found.epsilon == pytest.approx(4.377178, rel=1e-6)  # q=1, z=10, T=100
    few = MinSeparationSampler(size=5, min_separation=20, max_participations=25)
    half = spend(round_of(banded(5.0, 20), few, 1000), 2000, 1e-5)
    assert half.epsilon == pytest.approx(found.epsilon)


def strategy_matrix(bands: int, rounds: int) -> np.ndarray:
    """Returns S, written out."""
    matrix = np.zeros([rounds, rounds])
    for offset, coefficient in enumerate(banded_strategy(bands, rounds)):
        matrix += coefficient * np.eye(rounds, k=-offset)
    return matrix


def sensitivity_squared(matrix: np.ndarray, separation: int) -> float:
    """Returns the largest squared norm of the sum of columns that are so far apart, all patterns tried.

    The coefficients are positive here, so that updates in one direction are the worst.
    """
    rounds, largest = len(matrix), 0.0
    for count in range(1, rounds + 1):
        for chosen in itertools.combinations(range(rounds), count):
            if all(b - a >= separation for a, b in itertools.pairwise(chosen)):
                largest = max(largest, float(np.sum(matrix[:, list(chosen)].sum(axis=1) ** 2)))
    return largest


@pytest.mark.parametrize(("bands", "rounds"), [(1, 4), (2, 7), (3, 9), (4, 12)])
def test_no_pattern_of_separated_rounds_moves_banded_rounds_further(bands, rounds):
    matrix = strategy_matrix(bands, rounds)
    assert (matrix >= 0).all()
    participations = -(-rounds // bands)
    assert sensitivity_squared(matrix, bands) <= participations * (1 + 1e-9)
    # Sooner again, or without the norm of the columns, it would: the check sees both.
    if bands > 1:
        assert sensitivity_squared(matrix, bands - 1) > -(-rounds // (bands - 1)) * (1 + 1e-3)
    assert sensitivity_squared(1.05 * matrix, bands) > participations


def test_runs_add_up_and_one_that_goes_on_counts_from_its_first_round():
    sampler = MinSeparationSampler(size=5, min_separation=4)
    for mechanism in (tree(20.0), banded(20.0, 4)):
        one_round = round_of(mechanism, sampler, 100)

        def epsilon(*runs, one_round=one_round):
            return spend(one_round, runs, 1e-5).epsilon

        one, two = epsilon(range(1, 17)), epsilon(range(1, 17), range(1, 17))
        assert one < two < 2 * one
        assert epsilon(range(1, 17), range(9, 17)) == two
        assert epsilon(range(1, 9), range(8, 17)) > one
        assert epsilon() == epsilon(range(1, 1)) == 0


def test_the_quick_epsilon_is_never_below():
    for sampler in (MinSeparationSampler(size=5, min_separation=9), FullParticipation()):
        for mechanism in (tree(5.0), tree(5.0, restart_every=30), banded(5.0, 1)):
            one_round = round_of(mechanism, sampler, 100)
            for rounds in (1, 2, 50, 127):
                report = spend(one_round, rounds, 1e-5)
                quick = quick_epsilon(one_round, rounds, 1e-5)
                assert report.epsilon <= quick <= 1.1 * report.values["rdp"]


REFUSED = [
    (tree(1.0), PoissonSampler(rate=0.1), None, "MinSeparationSampler"),
    (tree(1.0), FixedSizeSampler(size=5), None, "MinSeparationSampler"),
    (tree(1.0), CyclicPoissonSampler(rate=0.1, cycle=4), None, "MinSeparationSampler"),
    (tree(1.0), ONCE, "add-or-remove-one", "zero-out"),
    (banded(1.0, 2), PoissonSampler(rate=0.1), None, "MinSeparationSampler"),
    (banded(1.0, 2), FullParticipation(), None, r"bands=2 .*at most 1"),
    (banded(1.0, 5), CyclicPoissonSampler(rate=0.1, cycle=4), None, r"bands=5 .*at most 4"),
    (banded(1.0, 4), CyclicPoissonSampler(rate=0.1, cycle=4), "replace-one", "zero-out"),
]


@pytest.mark.parametrize(("mechanism", "sampler", "adjacency", "reason"), REFUSED)
def test_what_bounds_no_participation_is_refused(mechanism, sampler, adjacency, reason):
    with pytest.raises(AccountingError, match=reason):
        PrivacyPlan(
            mechanism=mechanism,
            population=1600,
            rounds=10,
            delta=1e-5,
            sampler=sampler,
            adjacency=adjacency,
        )


@pytest.mark.parametrize("mechanism", [tree(1.0), banded(1.0, 8)])
def test_noise_and_rounds_are_found_for_an_epsilon(mechanism):
    sampler = MinSeparationSampler(size=10, min_separation=16)
    plan = PrivacyPlan(
        mechanism=mechanism, population=200, rounds=100, delta=1e-4, sampler=sampler
    ).calibrated(2.0)
    assert 1.99 < plan.epsilon().epsilon <= 2.0
    assert plan.mechanism.with_noise(1.0) == mechanism
    rounds = calibrate_rounds(plan.one_round(), delta=1e-4, target_epsilon=2.0)
    assert rounds >= 100
    assert spend(plan.one_round(), rounds, 1e-4).epsilon <= 2.0
    assert spend(plan.one_round(), rounds + 16, 1e-4).epsilon > 2.0


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "2"])
def test_numbers_of_rounds_out_of_bounds(value):
    for name, make in (
        ("bands", lambda: banded(1.0, value)),
        ("restart_every", lambda: tree(1.0, restart_every=value)),
    ):
        with pytest.raises(ArgumentError, match=rf"{name}={value!r}.*\[1, inf\)"):
            make()


# --- The strategy -------------------------------------------------------------------------------


def dense_error(coefficients, rounds: int) -> float:
    """Returns the root mean square of the running sums' noise, with matrices written out."""
    matrix = sum(c * np.eye(rounds, k=-offset) for offset, c in enumerate(coefficients))
    sums = np.tril(np.ones([rounds, rounds])) @ np.linalg.inv(matrix)
    return float(np.sqrt(np.sum(sums**2) / rounds))


@pytest.mark.parametrize(("bands", "rounds"), [(1, 20), (2, 20), (5, 40), (40, 40)])
def test_the_strategy_is_the_best_of_its_kind(bands, rounds):
    found = banded_strategy(bands, rounds)
    assert len(found) == bands
    assert np.linalg.norm(found) == pytest.approx(1.0)
    error = running_sum_error(found, rounds)
    assert error == pytest.approx(dense_error(found, rounds), rel=1e-9)
    rng = np.random.default_rng(0)
    for size in (1e-3, 1e-2, 1e-1):  # no neighbor is better, as far as the search's tolerance goes
        for _ in range(50):
            other = np.array(found) + size * rng.normal(size=bands) / math.sqrt(bands)
            assert dense_error(other / np.linalg.norm(other), rounds) > error * (1 - 1e-4)
    if bands > 1:  # an oracle without gradients, from another start
        best = optimize.minimize(
            lambda tail: math.log(dense_error([1.0, *tail], rounds) * np.linalg.norm([1.0, *tail])),
            np.zeros(bands - 1),
            method="Powell",
            options={"maxiter": 2000, "xtol": 1e-6},
        )
        assert error <= math.exp(best.fun) * (1 + 1e-4)


def test_the_gradient_is_the_slope():
    for rounds in (3, 30):
        found = optimize.check_grad(
            lambda tail, rounds=rounds: _log_error(tail, rounds)[0],
            lambda tail, rounds=rounds: _log_error(tail, rounds)[1],
            np.array([0.5, 0.3]),
        )
        assert found < 1e-6


def test_more_bands_leave_less_noise_in_the_sums():
    errors = [running_sum_error(banded_strategy(bands, 200), 200) for bands in (1, 2, 4, 16, 200)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] == pytest.approx(math.sqrt(201 / 2))  # independent noise adds up
    assert errors[-1] < 0.3 * errors[0]
    assert len(banded_strategy(500, 200)) == 200


# --- The noise, on both contexts ----------------------------------------------------------------

DIMENSION = 10_000
M = 4.0
ROUNDS = 9


def tree_matrix(period: int, rounds: int) -> np.ndarray:
    """Returns what each round releases of each node's noise, from the definition of the estimator.

    A running sum is made of the nodes of the bits of its length; a node's estimate is the mean, weighted
    by inverse variances, of its own noise and of the sum of its children's estimates.
    """
    columns: list[tuple[int, int, int]] = []  # tree, level, place

    def estimate(number: int, level: int, place: int) -> tuple[dict, float]:
        columns.append((number, level, place))
        own = {(number, level, place): 1.0}
        if level == 0:
            return own, 1.0
        left, _ = estimate(number, level - 1, 2 * place)
        right, variance = estimate(number, level - 1, 2 * place + 1)
        weight = 2 * variance / (1 + 2 * variance)
        mixed = {key: (1 - weight) * value for key, value in (left | right).items()}
        return mixed | dict.fromkeys(own, weight), weight

    releases, before = [], {}
    for leaf in range(rounds):
        number, length = leaf // period, leaf % period + 1
        now, place = {}, 0
        for level in reversed(range(length.bit_length())):
            if length >> level & 1:
                now |= estimate(number, level, place >> level)[0]
                place += 1 << level
        releases.append({key: now.get(key, 0) - before.get(key, 0) for key in now | before})
        before = now if length < period else {}
    keys = sorted({key for release in releases for key in release})
    return np.array([[release.get(key, 0.0) for key in keys] for release in releases])


def banded_matrix(bands: int, rounds: int) -> np.ndarray:
    return np.linalg.inv(strategy_matrix(bands, rounds))


CORRELATED = {
    "tree": (tree(2.0), tree_matrix(ROUNDS, ROUNDS)),
    "restarted tree": (tree(2.0, restart_every=4), tree_matrix(4, ROUNDS)),
    "banded": (banded(2.0, 3), banded_matrix(3, ROUNDS)),
    "independent": (banded(2.0, 1), np.eye(ROUNDS)),
}


def whitened(noise: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Returns what should be independent N(0, 1): the noise of all rounds [T, n], whitened."""
    return np.linalg.solve(np.linalg.cholesky(matrix @ matrix.T), noise)


def is_white(noise: np.ndarray) -> bool:
    """Tests each round's noise and each pair of rounds: at most 2 T + T^2 / 2 times FALSE_POSITIVE."""
    return (
        all(has_standard_deviation(row, 1.0) and is_normal(row, 1.0) for row in noise)
        and all(are_uncorrelated(a, b) for a, b in itertools.combinations(noise, 2))
        and all(are_uncorrelated(a[1:], b[:-1]) for a, b in itertools.product(noise, repeat=2))
    )


@pytest.fixture(scope="module")
def aggregator_of(tff):
    """A function to an aggregator of a mechanism; contexts share its process."""
    process = functools.cache(
        lambda own, *wide: process_of(build_aggregator(own, M, ROUNDS), *wide)
    )
    return lambda own, *wide: Aggregator(None, *wide, process=process(own, *wide))


@pytest.mark.parametrize(
    ("name", "context"),
    # The draws are the aggregator's, whatever runs it: stock TFF runs one of them by default.
    covered(
        CORRELATED,
        ["stock", "fast"],
        by=[(name, "fast") for name in CORRELATED] + [("tree", "stock")],
        slow=None,
    ),
    indirect=["context"],
)
def test_the_noise_of_a_run_has_the_planned_covariance(aggregator_of, name, context):
    mechanism, matrix = CORRELATED[name]
    aggregator = aggregator_of(mechanism, DIMENSION, DIMENSION)
    zero = [np.zeros(DIMENSION), np.zeros(DIMENSION)]
    # Both tensors one after another: draws that they share, in any round, would be correlations.
    noise = np.array([np.concatenate(aggregator([zero] * 3)) for _ in range(ROUNDS)])
    noise *= M / (2.0 * CLIP)
    assert is_white(whitened(noise, matrix))
    shared = np.array([are_uncorrelated(a[:DIMENSION], b[DIMENSION:])
                       for a, b in itertools.product(whitened(noise, matrix), repeat=2)])  # fmt: skip
    assert shared.all()
    for factor in (2 / 3, 3 / 2):  # negative controls
        assert not is_white(factor * whitened(noise, matrix))
    if name != "independent":
        assert not is_white(noise)
        _, other = CORRELATED["tree" if name != "tree" else "banded"]
        assert not is_white(whitened(noise, other))


@pytest.mark.parametrize("mechanism", [tree(2.0), banded(2.0, 3)], ids=["tree", "banded"])
def test_a_state_that_is_used_twice_gives_two_draws(aggregator_of, mechanism, context):
    first, second = two_draws_from_one_state(aggregator_of(mechanism, DIMENSION))
    # What both have in common is the earlier noise that they take off; it is not all.
    assert np.corrcoef(first, second)[0, 1] < 0.9


def two_draws_from_one_state(aggregator) -> list[np.ndarray]:
    for _ in range(2):
        aggregator([np.zeros(DIMENSION)])
    state, draws = aggregator.state, []
    for _ in range(2):
        aggregator.state = state
        draws.append(aggregator([np.zeros(DIMENSION)]))
    return draws


def test_tensorflow_privacys_tree_adds_the_same_noise_twice(tff, stock):
    import tensorflow as tf

    factory = tff.aggregators.DifferentiallyPrivateFactory.tree_aggregation(
        noise_multiplier=1.0,
        clients_per_round=1.0,
        record_specs=tf.TensorSpec([DIMENSION]),
        l2_norm_clip=1.0,
    )
    first, second = two_draws_from_one_state(Aggregator(factory, DIMENSION))
    assert np.array_equal(first, second)


@pytest.mark.parametrize("mechanism", [tree(2.0), banded(2.0, 3)], ids=["tree", "banded"])
def test_a_global_seed_does_not_seed_the_noise(mechanism, tff, stock):
    import tensorflow as tf

    found = []
    try:
        for _ in range(2):
            tf.random.set_seed(1)
            found.append(Aggregator(build_aggregator(mechanism, M, ROUNDS), 3)([np.zeros(3)]))
    finally:
        tf.random.set_seed(None)
    assert np.all(found[0] != found[1])
