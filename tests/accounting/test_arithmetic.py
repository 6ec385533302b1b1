"""The charge for computed noise: its bound against exact laws, and that no epsilon goes without it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

import tff_dp
from tff_dp import ledger
from tff_dp.accounting import (
    Arithmetic,
    GaussianRound,
    arithmetic,
    calibrate_cohort,
    calibrate_noise,
    calibrate_rounds,
    quick_epsilon,
    spend,
)
from tff_dp.accounting.accountants import leading_epsilon, rough_epsilon
from tff_dp.accounting.laplace import LaplaceRound
from tff_dp.errors import AccountingError, ArgumentError
from tff_dp.sampling import Adjacency, FullParticipation, PoissonSampler

DRAWS = Arithmetic(draws_per_round=200_000_000)


def a_round(z: float = 1.0, q: float | None = 0.01, kind=GaussianRound):
    return kind(
        noise_multiplier=z,
        sampler=FullParticipation() if q is None else PoissonSampler(rate=q),
        population=1000,
        adjacency=Adjacency.ADD_OR_REMOVE_ONE,
    )


# --- The bound --------------------------------------------------------------------------------------


def excess(p: float, r: float, draws: int, gamma: float) -> float:
    """The largest P(S) - e^gamma R(S) for `draws` coins of either kind, exactly."""
    heads = np.arange(draws + 1)
    one, other = stats.binom(draws, p).pmf(heads), stats.binom(draws, r).pmf(heads)
    return float(np.maximum(one - math.exp(gamma) * other, 0).sum())


def check_close(draws: int, tau: float, monkeypatch) -> None:
    """Asserts that two laws, tau apart in each draw, are as close as the charge says."""
    ideal = 0.5
    computed = 0.5 * math.exp(-tau)  # tails; heads are a little less than tau away
    monkeypatch.setattr(arithmetic, "RMS_LOG_RATIO", tau)
    monkeypatch.setattr(arithmetic, "LARGEST_LOG_RATIO", tau)
    delta, ceiling = 1e-2, 1.0
    charge = Arithmetic(draws_per_round=draws).charge(1, delta, ceiling)
    if charge is None:  # laws this far apart are refused
        assert draws * tau**2 + tau * math.sqrt(30 * draws) > 7
        return
    deviation = delta * 2**-20 / (1 + math.exp(ceiling))
    for p, r in ((ideal, computed), (computed, ideal)):
        assert excess(p, r, draws, charge.gamma) <= deviation


@pytest.mark.parametrize("draws", [1, 10, 1000, 100_000])
@pytest.mark.parametrize("tau", [1e-4, 1e-2, 0.2])
def test_laws_that_differ_in_each_draw_are_as_close_as_is_charged(draws, tau, monkeypatch):
    check_close(draws, tau, monkeypatch)


def test_a_charge_for_the_mean_alone_would_be_caught(monkeypatch):
    full = Arithmetic.charge

    def mean_alone(self, rounds, delta, ceiling, of_one_round=math.inf):
        found = full(self, rounds, delta, ceiling, of_one_round)
        return found._replace(gamma=rounds * self.draws_per_round * arithmetic.RMS_LOG_RATIO**2)

    monkeypatch.setattr(Arithmetic, "charge", mean_alone)
    with pytest.raises(AssertionError):
        check_close(1000, 1e-2, monkeypatch)


def test_golden_charge():
    # By hand: L = ln(2^20 (1 + e^8) / 1e-5) = 33.376; gamma = 2e11 2^-74 + 2^-37 sqrt(4e11 L) + ...
    charge = DRAWS.charge(1000, 1e-5, 8.0)
    assert charge.gamma == pytest.approx(2.66264e-5, rel=1e-4)
    rare = 2e11 * 2**-100 * (1 + math.exp(8))
    taken = 1e-5 * 2**-20 + rare
    assert charge.delta * math.exp(charge.gamma) + taken == pytest.approx(1e-5, rel=1e-14)
    assert charge.delta_above == pytest.approx((1e-5 + taken) * math.exp(charge.gamma), rel=1e-14)


def test_where_the_rare_event_would_take_delta_one_round_bounds_it_or_there_is_no_charge():
    assert DRAWS.charge(100, 1e-5, 128.0) is None
    with_round = DRAWS.charge(100, 1e-5, 128.0, of_one_round=8.0)
    assert 0 < with_round.gamma < 1e-4
    assert 0.5e-5 < with_round.delta < 1e-5
    assert DRAWS.charge(100, 1e-5, 128.0, of_one_round=60.0) is None
    assert DRAWS.charge(100, 1e-5, 1e4) is None  # whose exponential no float holds


@pytest.mark.parametrize("draws", [0, -1, 1.5])
def test_draws_outside_their_bound_are_refused(draws):
    with pytest.raises(ArgumentError, match="draws_per_round"):
        Arithmetic(draws_per_round=draws)


# --- Reports ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one_round", "rounds", "delta"),
    [
        (a_round(), 1000, 1e-5),
        (a_round(1.0, 0.1), 100, 1e-5),
        (a_round(1.0, None), 100, 1e-5),  # epsilon 92
        (a_round(20.0, None), 100, 1e-9),
        (a_round(2.0, 0.01, LaplaceRound), 1000, 1e-7),
        (a_round(1.0, 1e-4), 10**6, 1e-10),
    ],
    ids=str,
)
def test_every_way_to_an_epsilon_has_the_charge(one_round, rounds, delta):
    ideal = spend(one_round, rounds, delta)
    charged = spend(one_round, rounds, delta, DRAWS)
    added = charged.arithmetic_epsilon
    assert 0 < added < 5e-3
    assert 0 < charged.arithmetic_delta < delta / 2
    assert charged.delta == delta
    for name, value in charged.values.items():
        assert value >= ideal.values[name] + added
        assert value <= (ideal.values[name] + added) * 1.01
    assert charged.lower_bound <= ideal.lower_bound + 1e-12
    assert charged.lower_bound >= 0.99 * ideal.lower_bound - added
    for other in (quick_epsilon, rough_epsilon, leading_epsilon):
        try:
            assert other(one_round, rounds, delta, DRAWS) >= charged.epsilon * (1 - 1e-12)
        except AccountingError:
            assert isinstance(one_round, LaplaceRound)


def test_no_noise_and_no_rounds_cost_nothing_more():
    for one_round, rounds in ((a_round(0.0), 10), (a_round(), 0)):
        charged = spend(one_round, rounds, 1e-5, DRAWS)
        assert charged == spend(one_round, rounds, 1e-5)
        assert (charged.arithmetic_epsilon, charged.arithmetic_delta) == (0.0, 0.0)


def test_noise_too_small_for_any_charge_has_no_epsilon_and_says_why():
    report = spend(a_round(0.05, None), 100, 1e-5, DRAWS)
    assert report.epsilon == math.inf
    for part in ("delta=1e-05", "2e+10 draws", "more noise", "max_dimension"):
        assert part in report.refused["arithmetic"]
    assert quick_epsilon(a_round(0.05, None), 100, 1e-5, DRAWS) == math.inf
    assert leading_epsilon(a_round(0.05, None), 100, 1e-5, DRAWS) == math.inf


def test_calibration_pays_for_arithmetic_too():
    many = Arithmetic(draws_per_round=10**14)  # so many that the charge shows
    z = calibrate_noise(a_round(), rounds=1000, delta=1e-5, target_epsilon=2.0, arithmetic=many)
    assert spend(a_round(z), 1000, 1e-5, many).epsilon <= 2.0
    assert spend(a_round(z / 1.002), 1000, 1e-5, many).epsilon > 2.0
    assert z > calibrate_noise(a_round(), rounds=1000, delta=1e-5, target_epsilon=2.0)
    rounds = calibrate_rounds(a_round(), delta=1e-5, target_epsilon=2.0, arithmetic=many)
    assert spend(a_round(), rounds, 1e-5, many).epsilon <= 2.0
    assert rounds < calibrate_rounds(a_round(), delta=1e-5, target_epsilon=2.0)
    cohort = calibrate_cohort(
        a_round(), rounds=1000, delta=1e-5, target_epsilon=2.0, arithmetic=many
    )
    assert spend(a_round(q=cohort / 1000), 1000, 1e-5, many).epsilon <= 2.0


# --- Plans ------------------------------------------------------------------------------------------


def a_plan(mechanism=None, **changes) -> tff_dp.PrivacyPlan:
    mechanism = mechanism or tff_dp.GaussianMechanism(clip_norm=1.0, noise_multiplier=1.0)
    arguments = {"population": 1000, "rounds": 100, "delta": 1e-5, "cohort": 10, **changes}
    return tff_dp.PrivacyPlan(mechanism=mechanism, **arguments)


def test_draws_of_a_round_by_mechanism():
    assert a_plan().arithmetic == Arithmetic(draws_per_round=200_000_000)
    assert a_plan(max_dimension=7).arithmetic == Arithmetic(draws_per_round=14)
    records = tff_dp.PrivacyPlan(
        unit="record", rounds=10, delta=1e-5, records=(400, 500), max_dimension=7,
        mechanism=tff_dp.RecordGaussianMechanism(
            clip_norm=1.0, noise_multiplier=1.0, batch_size=32, local_steps=5
        ),
    )  # fmt: skip
    assert records.arithmetic == Arithmetic(draws_per_round=70)
    apart = {"cohort": None, "sampler": tff_dp.MinSeparationSampler(size=10, min_separation=10)}
    tree = tff_dp.TreeMechanism(clip_norm=1.0, noise_multiplier=5.0)
    plan = a_plan(tree, max_dimension=7, **apart)
    assert plan.arithmetic == Arithmetic(
        draws_per_round=2 * 7 * 7
    )  # nodes of 1, 2, 4, ... 64 rounds
    skellam = tff_dp.DistributedSkellamMechanism(clip_norm=1.0, noise_multiplier=1.0, dimension=3)
    plan = a_plan(skellam, cohort=None, sampler=tff_dp.FixedSizeSampler(size=40), rounds=2)
    assert plan.arithmetic is None
    assert plan.epsilon().arithmetic_epsilon == 0
    assert plan.epsilon().lower_bound is None


def test_every_epsilon_of_a_plan_has_the_charge(tmp_path):
    plan = a_plan(max_dimension=10**12)
    charged = spend(plan.one_round(), 100, 1e-5, plan.arithmetic)
    assert charged.epsilon > spend(plan.one_round(), 100, 1e-5).epsilon
    assert plan.epsilon() == charged
    assert plan.epsilon_by_client()[0] == charged
    assert plan.quick_epsilon(100) >= charged.epsilon
    assert plan.calibrated(1.0).epsilon().epsilon <= 1.0
    with ledger.Ledger(tmp_path / "ledger", plan) as book:
        book.charge(1, 100)
        assert book.spent() == charged
    assert ledger.replay(tmp_path / "ledger") == charged


def test_a_plan_from_before_the_field_has_the_default():
    values = a_plan().to_dict()
    assert values.pop("max_dimension") == 100_000_000
    assert tff_dp.PrivacyPlan.from_dict(values) == a_plan()


@pytest.mark.parametrize("dimension", [0, -5, 2.5])
def test_a_dimension_outside_its_bound_is_refused(dimension):
    with pytest.raises(ArgumentError, match=f"max_dimension={dimension}.*trainable parameters"):
        a_plan(max_dimension=dimension)


def test_a_larger_model_than_the_plan_covers_is_refused_with_the_remedy():
    a_plan(max_dimension=10).check_dimension(10)
    with pytest.raises(ArgumentError) as caught:
        a_plan(max_dimension=10).check_dimension(11)
    for part in ("max_dimension=10", "11", "max_dimension=11"):
        assert part in str(caught.value)
