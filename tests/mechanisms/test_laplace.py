"""The Laplace mechanism: epsilon, clipping in L1 norm, and the distribution of its noise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from tests.support import oracles
from tests.support.noise import Aggregator, is_laplace
from tests.support.tables import slow
from tff_dp.accounting import laplace, round_of, spend
from tff_dp.accounting.accountants import rdp_epsilon
from tff_dp.accounting.laplace import LaplaceRound, pld_epsilon, pure_epsilon
from tff_dp.aggregation import build_aggregator
from tff_dp.errors import AccountingError, ArgumentError
from tff_dp.mechanisms import LaplaceMechanism
from tff_dp.plan import PrivacyPlan
from tff_dp.sampling import Adjacency, FixedSizeSampler, FullParticipation, PoissonSampler

AOR, REPLACE, ZERO_OUT = Adjacency
CLIP = 0.5


def a_round(z: float, sampler=None, adjacency: Adjacency = AOR, kind=LaplaceRound) -> LaplaceRound:
    return kind(
        noise_multiplier=z,
        sampler=sampler or FullParticipation(),
        population=1000,
        adjacency=adjacency,
    )


# --- Epsilon ------------------------------------------------------------------------------------


def test_pure_epsilon_is_the_rounds_over_the_noise():
    assert pure_epsilon(a_round(4.0), 3, 1e-5) == 0.75
    assert pure_epsilon(a_round(4.0, adjacency=ZERO_OUT), 3, 1e-5) == 0.75
    assert pure_epsilon(a_round(4.0, adjacency=REPLACE), 3, 1e-5) == 1.5  # moves by 2 C


@pytest.mark.parametrize("rate", [0.01, 0.5, 1.0])
@pytest.mark.parametrize("z", [0.001, 0.5, 3.0])
def test_pure_epsilon_under_sampling_is_the_largest_loss_of_the_mixture(rate, z):
    found = pure_epsilon(a_round(z, PoissonSampler(rate=rate)), 1, 1e-5)
    if z > 0.01:
        assert found == pytest.approx(math.log(1 - rate + rate * math.exp(1 / z)), rel=1e-12)
    assert found <= 1 / z * (1 + 1e-12)
    assert found >= 1 / z + math.log(rate) - 1e-9


@pytest.mark.parametrize("z", [0.5, 2.0, 10.0])
def test_renyi_curve_is_that_of_the_definition(z):
    from tff_dp.accounting.accountants import _rdp_curve

    orders, curve = _rdp_curve(a_round(z))
    for order in (1.5, 2.0, 8.0, 32.0):
        found = float(curve[list(orders).index(order)])
        assert found == pytest.approx(oracles.laplace_rdp(z, order), rel=1e-9)
    # Negative control: the curve of twice the sensitivity is another.
    twice = float(_rdp_curve(a_round(z, adjacency=REPLACE))[1][list(orders).index(2.0)])
    assert twice == pytest.approx(oracles.laplace_rdp(z / 2, 2.0), rel=1e-9)


def one_round_delta(z: float, rate: float, shift: float, epsilon: float) -> float:
    """Delta of one round by quadrature; the larger of both directions."""
    law = stats.laplace(scale=z)

    def still(x):
        return law.pdf(x)

    def moved(x):
        return (1 - rate) * law.pdf(x) + rate * law.pdf(x - shift)

    reach = 40 * z
    return max(
        oracles.hockey_stick(moved, still, epsilon, -reach, shift + reach),
        oracles.hockey_stick(still, moved, epsilon, -reach, shift + reach),
    )


@pytest.mark.parametrize(
    ("z", "rate", "adjacency"),
    [slow(1.0, 1.0, AOR), (2.0, 1.0, REPLACE), slow(1.0, 0.25, AOR), (0.7, 0.05, ZERO_OUT)],
)
def test_pld_of_one_round_bounds_the_quadrature_tightly(z, rate, adjacency):
    sampler = FullParticipation() if rate == 1 else PoissonSampler(rate=rate)
    for delta in (0.1, 0.01, 1e-3):
        epsilon = pld_epsilon(a_round(z, sampler, adjacency), 1, delta)
        shift = 2.0 if adjacency is REPLACE else 1.0
        if epsilon > 0:
            assert one_round_delta(z, rate, shift, epsilon) <= delta * (
                1 + 1e-3
            )  # the quadrature's
            assert one_round_delta(z, rate, shift, epsilon - 1e-3) > delta


@pytest.mark.parametrize("rounds", [2, 20])
def test_pld_of_many_rounds_is_that_of_an_independent_composition(rounds):
    # T rounds at noise z are one release of T coordinates, each moved by 1 / z.
    points, mass = oracles.laplace_losses([1 / 5.0] * rounds, step=1e-4)
    for delta in (1e-2, 1e-5):
        epsilon = pld_epsilon(a_round(5.0), rounds, delta)
        found = oracles.delta_of_losses(points, mass, epsilon)
        assert found == pytest.approx(delta, rel=0.02)


@pytest.mark.parametrize(
    "split", [(0.5, 0.5), (0.9, 0.1), (0.25, 0.25, 0.25, 0.25), (0.6, 0.3, 0.1)]
)
@pytest.mark.parametrize("total", [0.2, 1.0, 4.0])
def test_an_l1_shift_in_one_coordinate_is_the_worst(split, total):
    # What lets the one-dimensional distribution stand for vectors: delta is never larger for a split.
    together, apart = (
        oracles.laplace_losses(np.round(np.array(shifts) * total, 3)) for shifts in ((1.0,), split)
    )
    for epsilon in np.linspace(0, total, 41):
        whole, parts = (oracles.delta_of_losses(*loss, epsilon) for loss in (together, apart))
        assert parts <= whole + 1e-3 * total  # the rounding of losses to a grid of 1e-3


def test_the_reported_epsilon_is_the_tightest_and_all_are_shown():
    report = spend(a_round(10.0), 100, 1e-5)
    assert set(report.values) == {"pure", "rdp", "pld"}
    assert report.values["pure"] == pytest.approx(10.0)
    assert report.epsilon == report.values["pld"] < report.values["rdp"] < report.values["pure"]
    # One round at a small delta: nothing is better than the pure one.
    one = spend(a_round(1.0), 1, 1e-9)
    assert one.epsilon == pytest.approx(1.0, rel=1e-3)
    sampled = spend(a_round(1.0, PoissonSampler(rate=0.01)), 1000, 1e-5)
    assert set(sampled.values) == {"pure", "pld"}
    assert "PoissonSampled" in sampled.refused["rdp"]


def test_little_noise_starts_no_distribution_that_would_not_end(monkeypatch):
    monkeypatch.setattr(laplace.loss_bounds, "bounds", lambda *_: pytest.fail("started"))
    report = spend(a_round(0.005), 10, 1e-5)
    assert "not computed" in report.refused["pld"]
    assert report.epsilon == pytest.approx(2000.0, rel=1e-5)


@pytest.mark.parametrize(
    ("sampler", "adjacency"),
    [(PoissonSampler(rate=0.1), REPLACE), (FixedSizeSampler(size=10), REPLACE)],
)
def test_what_no_proof_covers_is_refused(sampler, adjacency):
    with pytest.raises(AccountingError, match=r"LaplaceRound|add-or-remove-one"):
        a_round(1.0, sampler, adjacency)


class NotDoubled(LaplaceRound):
    """Takes replace-one for a shift by one clip norm."""

    def scaled_event(self):
        return self.event()


def test_a_sensitivity_that_is_not_doubled_is_caught():
    def check(kind):
        by_kind = a_round(4.0, adjacency=REPLACE, kind=kind)
        halved = a_round(2.0)
        for accountant in (rdp_epsilon, pld_epsilon):
            assert accountant(by_kind, 5, 1e-5) == pytest.approx(accountant(halved, 5, 1e-5))

    check(LaplaceRound)
    with pytest.raises(AssertionError):
        check(NotDoubled)


def test_a_plan_is_calibrated():
    plan = PrivacyPlan(
        mechanism=LaplaceMechanism(clip_norm=CLIP, noise_multiplier=1.0),
        population=1000,
        rounds=20,
        delta=1e-5,
        sampler=FullParticipation(),
    ).calibrated(2.0)
    assert 1.99 < plan.epsilon().epsilon <= 2.0
    assert round_of(plan.mechanism, plan.sampler, 1000) == plan.one_round()


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_the_l1_norm_is_checked(value):
    with pytest.raises(ArgumentError, match=rf"clip_norm={value!r}.*\[1e-10, 1e+\+10\].*L1"):
        LaplaceMechanism(clip_norm=value, noise_multiplier=1.0)


# --- The aggregator, on both contexts -----------------------------------------------------------

DIMENSION = 20_000
M = 4.0


def test_the_noise_is_laplace_and_no_other(context):
    mechanism = LaplaceMechanism(clip_norm=CLIP, noise_multiplier=2.0)
    noise = Aggregator(build_aggregator(mechanism, M), DIMENSION)([np.zeros(DIMENSION)] * 3)
    scale = 2.0 * CLIP / M
    assert is_laplace(noise, scale)
    for wrong in (2 / 3 * noise, 3 / 2 * noise):  # negative controls
        assert not is_laplace(wrong, scale)
    rng = np.random.default_rng(0)
    assert not is_laplace(rng.normal(scale=math.sqrt(2) * scale, size=DIMENSION), scale)


def test_updates_are_clipped_in_l1_norm(context):
    mechanism = LaplaceMechanism(clip_norm=CLIP, noise_multiplier=0.0)
    aggregator = Aggregator(build_aggregator(mechanism, M), 3, 2)
    long, short = [[1.0, -2.0, 0.0], [3.0, 4.0]], [[0.1, 0.0, -0.2], [0.0, 0.1]]
    total = aggregator([long, short])
    for found, a, b in zip(total, long, short, strict=True):
        expected = (np.array(a) * CLIP / 10.0 + np.array(b)) / M  # the L1 norm of `long` is 10
        np.testing.assert_allclose(found, expected, rtol=4e-5, atol=1e-7)


def test_the_state_has_the_rounds_event(tff, stock):
    import dp_accounting
    from tensorflow_federated.python.aggregators import differential_privacy as dp

    mechanism = LaplaceMechanism(clip_norm=CLIP, noise_multiplier=2.0)
    aggregator = Aggregator(build_aggregator(mechanism, M), 3)
    aggregator([np.zeros(3)])
    event = dp.extract_dp_event_from_state(aggregator.state)
    assert isinstance(event, dp_accounting.LaplaceDpEvent)
    assert event.noise_multiplier == pytest.approx(2.0)
