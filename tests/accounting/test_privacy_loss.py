"""Privacy loss distributions: equal to dp-accounting's; composed right, to the smallest delta."""

from __future__ import annotations

import functools
import itertools
import math

import mpmath
import numpy as np
import pytest
from dp_accounting import NeighboringRelation, pld
from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution
from scipy import fft

from tests.support import oracles
from tff_dp.accounting import loss_bounds, privacy_loss
from tff_dp.accounting.privacy_loss import Composition, compositions, gaussian_distribution

AOR, REPLACE = NeighboringRelation.ADD_OR_REMOVE_ONE, NeighboringRelation.REPLACE_ONE


def directions(distribution: PrivacyLossDistribution) -> list[pld.pld_pmf.DensePLDPmf]:
    pmfs = [distribution._pmf_remove]
    pmfs += [] if distribution._symmetric else [distribution._pmf_add]
    return [pmf.to_dense_pmf() for pmf in pmfs]


# --- One round ----------------------------------------------------------------------------------


@pytest.mark.parametrize("relation", [AOR, REPLACE], ids=["add-or-remove-one", "replace-one"])
@pytest.mark.parametrize("rate", [1e-6, 0.001, 0.04, 0.25, 0.9, 1.0])
@pytest.mark.parametrize(("z", "interval"), [(0.3, 1e-2), (0.6, 1e-3), (1.0, 1e-3), (8.0, 1e-4)])
def test_distribution_is_that_of_the_exact_divergences(rate, z, interval, relation):
    check_distribution(rate, z, interval, relation)


def check_distribution(rate, z, interval, relation) -> None:
    """Compares probabilities with the exact divergences' second differences, in 60 digits."""
    kinds = ["remove", "add"] if relation is AOR and rate < 1 else ["remove"]
    kinds = ["replace"] if relation is REPLACE else kinds
    distribution = gaussian_distribution(z, rate, relation, interval)
    for kind, pmf in zip(kinds, directions(distribution), strict=True):
        assert pmf._probs.sum() + pmf._infinity_mass == pytest.approx(1, abs=1e-14)
        inner = np.arange(1, pmf.size - 1)
        chosen = inner[:: max(1, len(inner) // 12)]
        exact = [
            oracles.connected_dots(rate, z, kind, int(pmf._lower_loss + at), interval)
            for at in chosen
        ]
        found = pmf._probs[chosen]
        np.testing.assert_allclose(found, exact, rtol=1e-6, atol=1e-14)
        with mpmath.workdps(60):  # what counts as infinite is the divergence at the last point
            last = (int(pmf._lower_loss) + pmf.size - 1) * mpmath.mpf(interval)
            infinite = float(oracles.exact_divergence(rate, z, kind, last))
        assert pmf._infinity_mass == pytest.approx(infinite, rel=1e-6, abs=1e-30)


@pytest.mark.parametrize("relation", [AOR, REPLACE], ids=["add-or-remove-one", "replace-one"])
@pytest.mark.parametrize(("rate", "z", "interval"), [(0.04, 0.6, 1e-3), (1.0, 1.0, 1e-3)])
def test_distribution_is_dp_accountings(rate, z, interval, relation):
    # The same grid and the same discretization. Theirs are second differences over the interval:
    # what roundoff leaves of these is theirs, and far below what is compared.
    ours = gaussian_distribution(z, rate, relation, interval)
    theirs = pld.privacy_loss_distribution.from_gaussian_mechanism(
        z,
        sampling_prob=rate,
        value_discretization_interval=interval,
        neighboring_relation=relation,
    )
    assert ours._symmetric == theirs._symmetric
    for one, other in zip(directions(ours), directions(theirs), strict=True):
        for loss in (-2.0, -0.5, 0.0, 0.5, 2.0):
            above = [
                float(pmf._probs[max(0, round(loss / interval) - pmf._lower_loss) :].sum())
                for pmf in (one, other)
            ]
            assert above[0] == pytest.approx(above[1], abs=1e-6)


def test_distribution_of_extreme_noise_neither_overflows_nor_loses_mass():
    # Warnings are errors here. The losses reach 1750 at z = .02.
    for rate, z, relation in itertools.product([1e-6, 0.5], [0.02, 1000.0], [AOR, REPLACE]):
        for pmf in directions(gaussian_distribution(z, rate, relation, 1e-2)):
            assert pmf._probs.sum() + pmf._infinity_mass == pytest.approx(1, abs=1e-8)


# --- Many rounds --------------------------------------------------------------------------------

CASES = [  # rate, noise multiplier, rounds, interval: coarse, for an oracle without a transform
    (0.01, 1.0, 1000, 5e-3),
    (0.001, 1.0, 30_000, 4e-3),
    (1e-4, 1.0, 300_000, 2e-3),
    (0.1, 1.0, 100, 1e-2),
    (0.25, 1.0, 30, 2e-2),
    (0.25, 1.0, 2, 1e-2),
    (0.25, 1.0, 1, 1e-2),
    (0.04, 1.5, 2250, 1e-2),
    (0.9, 3.0, 7, 1e-2),
]
DELTAS = (0.3, 0.1, 1e-3, 1e-5, 1e-9, 1e-12)


@functools.cache
def one_round(case: tuple[float, float, int, float]) -> PrivacyLossDistribution:
    rate, z, _, interval = case
    return gaussian_distribution(z, rate, AOR, interval)


@functools.cache
def truths(case: tuple[float, float, int, float], direction: int) -> tuple[float, ...]:
    """Epsilon of a composition of exactly these numbers, at each of DELTAS."""
    rounds, interval = case[2:]
    pmf = directions(one_round(case))[direction]
    first, probabilities = oracles.direct_power(pmf._probs, rounds)
    losses = (np.arange(len(probabilities)) + first + rounds * pmf._lower_loss) * interval
    infinite = -math.expm1(rounds * math.log1p(-pmf._infinity_mass))
    return tuple(
        oracles.epsilon_of_losses(losses, probabilities, delta - infinite) for delta in DELTAS
    )


def check_composed(cases=CASES) -> None:
    """Asserts that epsilon is never below the truth, and hardly above."""
    for case, direction in itertools.product(cases, (0, 1)):
        composition = Composition(directions(one_round(case))[direction])
        for delta, truth in zip(DELTAS, truths(case, direction), strict=True):
            ours = composition.epsilon(case[2], delta)
            assert truth * (1 - 1e-11) <= ours <= truth * (1 + 1e-6), (case, direction, delta)


def test_composition_is_an_upper_bound_and_tight_to_the_smallest_delta():
    check_composed()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_roundoff_is_within_what_is_allowed_for_it(case, monkeypatch):
    # Without the allowance the error in delta is at most a tenth of it: a margin, not a guess.
    allowed = privacy_loss._ROUNDOFF * privacy_loss._SLACKS[0] ** 2
    monkeypatch.setattr(privacy_loss, "_ROUNDOFF", 0.0)
    for direction in (0, 1):
        pmf = directions(one_round(case))[direction]
        first, probabilities = oracles.direct_power(pmf._probs, case[2])
        losses = (np.arange(len(probabilities)) + first + case[2] * pmf._lower_loss) * case[3]
        for delta in DELTAS:
            epsilon = Composition(pmf).epsilon(case[2], delta)
            if epsilon == 0:
                continue
            epsilon *= 1 + 1e-15  # its own last bit is none of the composition's roundoff
            above = losses > epsilon
            infinite = -math.expm1(case[2] * math.log1p(-pmf._infinity_mass))
            reached = infinite + math.fsum(
                -np.expm1(epsilon - losses[above]) * probabilities[above]
            )
            assert reached / delta - 1 <= allowed / 10 * case[2]


def to_the_largest_value(values: np.ndarray, rounds: int) -> np.ndarray:
    """Rounds down as coarsely as a transform does: a power's error is that of its base, T times."""
    unit = values.max() * rounds * 2.0**-53
    return np.floor(values / unit) * unit


def test_what_is_lost_beside_the_largest_value_matters_without_tilt_and_not_with_it():
    # What tilting is for, whichever way the roundoff of a library's transform falls: the exact
    # composition is rounded as it is, and tilted as ours is.
    case, delta = (0.04, 1.5, 2250, 1e-2), 1e-12
    rounds, interval = case[2:]
    pmf = directions(one_round(case))[1]
    first, probabilities = oracles.direct_power(pmf._probs, rounds)
    losses = (np.arange(len(probabilities)) + first + rounds * pmf._lower_loss) * interval
    truth = truths(case, 1)[DELTAS.index(delta)]
    tilt = 5.0  # lifts losses of about epsilon to where most mass is
    lifted = np.exp(tilt * (losses - truth))
    kept = to_the_largest_value(probabilities * lifted, rounds) / lifted
    infinite = -math.expm1(rounds * math.log1p(-pmf._infinity_mass))

    def epsilon(values: np.ndarray) -> float:
        return oracles.epsilon_of_losses(losses, values, delta - infinite)

    assert epsilon(to_the_largest_value(probabilities, rounds)) < truth * (1 - 5e-5)
    assert epsilon(kept) == pytest.approx(truth, rel=1e-9)
    assert truth * (1 - 1e-11) <= Composition(pmf).epsilon(rounds, delta) <= truth * (1 + 1e-6)


@pytest.mark.parametrize(
    ("q", "z", "rounds"), [(0.0025, 1.3, 6000), (0.01, 1.0, 1000), (0.25, 1.0, 30)]
)
def test_epsilon_on_the_fine_grid_is_dp_accountings(q, z, rounds):
    theirs = pld.privacy_loss_distribution.from_gaussian_mechanism(z, sampling_prob=q)
    ours = [direction.epsilon(rounds, 1e-5) for direction in compositions(theirs)]
    composed = theirs.self_compose(rounds)
    for mine, pmf in zip(ours, (composed._pmf_remove, composed._pmf_add), strict=True):
        # Far above the roundoff of their transform; the oracle above is for more digits.
        assert mine == pytest.approx(pmf.get_epsilon_for_delta(1e-5), rel=1e-5)


def pmf_of(losses: dict[int, float], infinite: float = 0.0) -> pld.pld_pmf.DensePLDPmf:
    lowest = min(losses)
    probabilities = np.zeros(max(losses) - lowest + 1)
    for loss, probability in losses.items():
        probabilities[loss - lowest] = probability
    return pld.pld_pmf.DensePLDPmf(1e-2, lowest, probabilities, infinite, True)


def test_infinite_losses_add_up_over_the_rounds():
    # 1000 rounds of 1e-7 make 1e-4: no epsilon at any delta up to that, and a larger one above it.
    with_infinite = Composition(pmf_of({-10: 0.5, 10: 0.5 - 1e-7}, 1e-7))
    without = Composition(pmf_of({-10: 0.5, 10: 0.5}))
    assert with_infinite.epsilon(1000, 9.9e-5) == math.inf
    assert with_infinite.epsilon(1000, 1.1e-4) > without.epsilon(1000, 1.1e-5) - 1e-3
    assert with_infinite.epsilon(1000, 1.1e-4) > without.epsilon(1000, 1.1e-4) + 0.1
    assert with_infinite.epsilon(1, 1e-8) == math.inf


def test_two_points_compose_to_a_binomial():
    # Randomized response: the losses are +e and -e; delta after T rounds is a sum of T + 1 terms.
    loss, rounds = 0.1, 200
    p = math.exp(loss) / (1 + math.exp(loss))
    composition = Composition(pmf_of({10: p, -10: 1 - p}))
    heads = np.arange(rounds + 1)
    masses = np.array([math.comb(rounds, k) * p**k * (1 - p) ** (rounds - k) for k in heads])
    losses = (2 * heads - rounds) * loss
    for delta in DELTAS:
        truth = oracles.epsilon_of_losses(losses, masses, delta)
        assert truth <= composition.epsilon(rounds, delta) <= truth + 1e-9
    # Where only the largest loss is above epsilon: 1e-56 of the mass.
    assert composition.epsilon(rounds, masses[-1] / 10) == pytest.approx(
        rounds * loss + math.log1p(-0.1), abs=1e-9
    )


def test_tails_too_heavy_for_a_narrow_window_stay_bounded_and_small(monkeypatch):
    # At a rate this small, the best tilt of delta 1e-13 leads into a tail that would need 84 million
    # points. With the first slack alone epsilon is nearly the same, from a far larger transform: the
    # last slack's allowance for roundoff halves delta here.
    sizes = []
    tilted = Composition._tilted

    def noting(self, rounds, tilt, high, size):
        sizes.append(size)
        return tilted(self, rounds, tilt, high, size)

    monkeypatch.setattr(Composition, "_tilted", noting)
    (composition,) = compositions(gaussian_distribution(0.78, 3.6e-5, REPLACE, 2e-3))
    monkeypatch.setattr(privacy_loss, "_LARGEST_TRANSFORM", 2**14)
    narrow = composition.epsilon(10_000, 3.4e-13)
    assert max(sizes) <= 2**14
    monkeypatch.setattr(privacy_loss, "_SLACKS", privacy_loss._SLACKS[:1])
    wide = composition.epsilon(10_000, 3.4e-13)
    assert max(sizes) > 2**20
    assert narrow == pytest.approx(wide, rel=1e-4)


@pytest.mark.parametrize("rounds", [1, 2, 6])
def test_losses_within_one_interval_of_the_grid_are_not_rounded_up_to_it(rounds):
    # Total variation is below delta: nothing is spent.
    for q, z, delta in [(4.6e-5, 43.0, 6.7e-4), (5.4e-5, 0.34, 5.4e-4), (9.5e-5, 0.56, 1.2e-3)]:
        for direction in compositions(gaussian_distribution(z, q, AOR, 1e-4)):
            assert direction.epsilon(rounds, delta) == 0


@pytest.mark.parametrize("reverse", [False, True])
def test_the_worse_direction_counts(reverse, monkeypatch):
    quiet, loud = pmf_of({-5: 0.5, 5: 0.5}), pmf_of({-20: 0.45, 20: 0.55})
    pair = ("loud", "quiet") if reverse else ("quiet", "loud")
    pmfs = {"quiet": quiet, "loud": loud}
    monkeypatch.setattr(loss_bounds, "_pessimistic", lambda name, *_: Composition(pmfs[name]))
    monkeypatch.setattr(loss_bounds, "_optimistic", lambda *_: None)
    monkeypatch.setattr(loss_bounds, "_first_interval", lambda *_: 1.0)
    monkeypatch.setattr(loss_bounds, "_range", lambda *_: 1.0)
    found = loss_bounds.bounds.__wrapped__(pair, 50, 1e-5).upper
    assert found == Composition(loud).epsilon(50, 1e-5) > Composition(quiet).epsilon(50, 1e-5) + 1


# --- Planted defects ----------------------------------------------------------------------------


@pytest.mark.parametrize("relation", [AOR, REPLACE], ids=["add-or-remove-one", "replace-one"])
@pytest.mark.parametrize("defect", ["noise", "rate", "grid"])
def test_a_distribution_of_other_noise_or_rate_or_half_a_grid_point_is_caught(
    defect, relation, monkeypatch
):
    exact = oracles.connected_dots

    def other(q, z, direction, point, interval):
        if defect == "grid":
            return exact(q, z, direction, 2 * point + 1, interval / 2)
        scale = 1 + 1e-4
        return exact(
            q * scale if defect == "rate" else q,
            z * scale if defect == "noise" else z,
            direction,
            point,
            interval,
        )

    monkeypatch.setattr(oracles, "connected_dots", other)
    with pytest.raises(AssertionError):
        check_distribution(0.04, 1.0, 1e-3, relation)


@pytest.mark.parametrize("defect", ["forgotten", "of one round"])
def test_a_composition_that_loses_infinite_mass_is_caught(defect, monkeypatch):
    make = Composition.__init__

    def forgetful(self, pmf, offset=0.0):
        make(self, pmf, offset)
        self._infinite = 0.0 if defect == "forgotten" else self._infinite / 1000

    monkeypatch.setattr(Composition, "__init__", forgetful)
    with pytest.raises(AssertionError):
        test_infinite_losses_add_up_over_the_rounds()


def test_a_window_that_cuts_off_the_tail_uncounted_is_caught(monkeypatch):
    # What lies above the window has to wrap around or be counted as infinite.
    tilted = Composition._tilted

    def cut(self, rounds, tilt, high, size):
        values = tilted(self, rounds, tilt, high, size)
        values[-size // 2 :] = 0
        return values

    monkeypatch.setattr(Composition, "_tilted", cut)
    with pytest.raises(AssertionError):
        check_composed(CASES[3:4])


def test_a_composition_without_tilt_is_caught(monkeypatch):
    def untilted(self, rounds, *_):
        size = fft.next_fast_len(rounds * (self._last - self._first) + 1, real=True)
        return int(np.flatnonzero(self._orders == 0)[0]), rounds * self._last, size

    monkeypatch.setattr(Composition, "_window", untilted)
    with pytest.raises((AssertionError, RuntimeWarning)):
        check_composed([CASES[3]])


def test_a_composition_of_too_few_rounds_is_caught(monkeypatch):
    epsilon = Composition.epsilon
    monkeypatch.setattr(
        Composition, "epsilon", lambda self, rounds, delta: epsilon(self, max(1, rounds - 1), delta)
    )
    with pytest.raises(AssertionError):
        check_composed(CASES[3:4])


@pytest.mark.parametrize("rounds", [300, 1000])
@pytest.mark.parametrize("delta", [1e-5, 1e-9])
def test_losses_of_hundreds_neither_overflow_nor_underflow(rounds, delta):
    # exp(-1300) is no float: epsilon of a thousand loud rounds of Laplace noise, its mean 1135.
    distribution = pld.privacy_loss_distribution.from_laplace_mechanism(
        parameter=0.5, value_discretization_interval=0.05
    )
    (pmf,) = directions(distribution)
    first, values = oracles.direct_power(pmf._probs, rounds)
    losses = 0.05 * (np.arange(len(values)) + first + rounds * pmf._lower_loss)
    expected = oracles.epsilon_of_losses(losses, values, delta)
    found = max(direction.epsilon(rounds, delta) for direction in compositions(distribution))
    assert expected <= found <= expected * (1 + 1e-6)
