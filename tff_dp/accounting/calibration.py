"""Calibration: the smallest noise, the most rounds, or the largest cohort for a target epsilon."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

from tff_dp import _checks
from tff_dp.accounting.accountants import leading_epsilon, rough_epsilon, spend
from tff_dp.accounting.arithmetic import Arithmetic
from tff_dp.accounting.events import Round
from tff_dp.errors import AccountingError, ArgumentError
from tff_dp.sampling import FixedSizeSampler, PoissonSampler

_TOLERANCE = 1e-3  # the relative tolerance that is documented
_RELATIVE_TOLERANCE = 5e-4  # the relative tolerance of the searches
_SMALLEST_NOISE = 1e-6
_LARGEST_NOISE = 1e6
_SMALLEST_EPSILON = 1e-9
_MOST_ROUNDS = 10**9

# Maps a round, rounds, a delta and arithmetic to an upper bound on the epsilon that is reported.
EpsilonOf = Callable[[Round, int | Sequence[range], float, Arithmetic | None], float]


def calibrate_noise(
    one_round: Round,
    *,
    rounds: int,
    delta: float,
    target_epsilon: float,
    arithmetic: Arithmetic | None = None,
) -> float:
    """Returns the smallest noise multiplier whose reported epsilon is at most the target.

    Args:
      one_round: The round; its own noise multiplier is ignored.
      rounds: T, the number of rounds; >= 1.
      delta: In (0, 1).
      target_epsilon: In (0, 100].
      arithmetic: The draws that are charged for; see `spend`.

    Returns:
      A noise multiplier, at most a relative 1e-3 above the smallest valid one. The search keeps the
      safe end of its bracket, so that `spend` at the result never exceeds the target.

    Raises:
      ArgumentError: A value is outside its bound.
      AccountingError: No noise reaches the target, or no accountant applies.
    """
    rounds = _checks.integer("rounds", rounds, "[1, inf)")
    delta = _checks.real("delta", delta, "(0, 1)")
    target = _checks.real("target_epsilon", target_epsilon, "(0, 100]")

    def at(z: float) -> Round:
        return dataclasses.replace(one_round, noise_multiplier=z)

    def search(epsilon_of: EpsilonOf, start: float) -> float:
        def excess(z: float) -> float:
            return _excess(epsilon_of, at(z), rounds, delta, target, arithmetic)

        high = start
        while (f_high := excess(high)) > 0:
            high *= 2
            if high > _LARGEST_NOISE:
                # If no accountant applies, this raises with the reason.
                spend(at(high), rounds, delta, arithmetic)
                raise AccountingError(
                    f"target_epsilon={target!r} is not reached with noise_multiplier up to "
                    f"{_LARGEST_NOISE:g}. Take fewer rounds, a lower sampling rate or a larger target."
                )
        # Epsilon falls at least as fast as 1 / z: `low` is slightly below the answer.
        while (f_low := excess(low := high * math.exp(max(1.05 * f_high, -0.5) - 0.01))) <= 0:
            high, f_high = low, f_low
            if high < _SMALLEST_NOISE:  # under a tiny sampling rate, no noise exceeds the target
                return high
        return _smallest_safe(excess, low, high)

    found = search(leading_epsilon, _safe_start(at, rounds, delta, target, arithmetic))
    reported, beyond = (
        _excess(_reported, at(z), rounds, delta, target, arithmetic)
        for z in (found, found / (1 + _TOLERANCE))
    )
    return found if reported <= 0 < beyond else search(_reported, found)


def calibrate_rounds(
    one_round: Round,
    *,
    delta: float,
    target_epsilon: float,
    earlier: Sequence[range] = (),
    arithmetic: Arithmetic | None = None,
) -> int:
    """Returns how many rounds a budget allows.

    Args:
      one_round: The round; its noise multiplier must be positive.
      delta: In (0, 1).
      target_epsilon: In (0, 100].
      earlier: Runs that the budget must pay for as well, each as its rounds, counted from 1.
      arithmetic: The draws that are charged for; see `spend`.

    Returns:
      A number of rounds whose reported epsilon is at most the target: the largest such number, or
      at most a relative 1e-3 below it. 10^9 if even so many rounds stay within the target.

    Raises:
      ArgumentError: A value is outside its bound.
      AccountingError: A single round exceeds the target, or no accountant applies.
    """
    delta = _checks.real("delta", delta, "(0, 1)")
    target = _checks.real("target_epsilon", target_epsilon, "(0, 100]")

    def runs(rounds: int) -> list[range]:
        return [*earlier, range(1, rounds + 1)]

    found = _largest_safe(
        lambda epsilon_of, rounds: _excess(
            epsilon_of, one_round, runs(rounds), delta, target, arithmetic
        ),
        _MOST_ROUNDS,
    )
    if not found:
        # If no accountant applies, this raises with the reason.
        spent = spend(one_round, runs(1), delta, arithmetic)
        raise AccountingError(
            f"target_epsilon={target!r} is exceeded by a single round, which spends {spent.epsilon:.4g}. "
            "Take more noise, a lower sampling rate or a larger target."
        )
    return found


def calibrate_cohort(
    one_round: Round,
    *,
    rounds: int,
    delta: float,
    target_epsilon: float,
    arithmetic: Arithmetic | None = None,
) -> int:
    """Returns how many clients a round may have at a noise multiplier.

    Args:
      one_round: The round, with a population; the rate or size of its sampler is ignored.
      rounds: T, the number of rounds; >= 1.
      delta: In (0, 1).
      target_epsilon: In (0, 100].
      arithmetic: The draws that are charged for; see `spend`.

    Returns:
      A number of clients in [1, N], expected (Poisson sampling) or drawn (fixed size), at which the
      reported epsilon is at most the target: the largest such number, or at most a relative 1e-3
      below it.

    Raises:
      ArgumentError: A value is outside its bound, or the sampler has no cohort size to choose.
      AccountingError: One client a round exceeds the target, or no accountant applies.
    """
    rounds = _checks.integer("rounds", rounds, "[1, inf)")
    delta = _checks.real("delta", delta, "(0, 1)")
    target = _checks.real("target_epsilon", target_epsilon, "(0, 100]")
    population = one_round.population

    def at(cohort: int) -> Round:
        sampler: PoissonSampler | FixedSizeSampler
        if isinstance(one_round.sampler, PoissonSampler):
            sampler = PoissonSampler(rate=cohort / population)
        elif isinstance(one_round.sampler, FixedSizeSampler):
            sampler = FixedSizeSampler(size=cohort)
        else:
            raise ArgumentError(
                f"one_round.sampler={one_round.sampler!r} has no cohort size to choose: expected "
                "PoissonSampler or FixedSizeSampler."
            )
        return dataclasses.replace(one_round, sampler=sampler)

    found = _largest_safe(
        lambda epsilon_of, cohort: _excess(
            epsilon_of, at(cohort), rounds, delta, target, arithmetic
        ),
        population,
    )
    if not found:
        spent = spend(at(1), rounds, delta, arithmetic)
        raise AccountingError(
            f"target_epsilon={target!r} is exceeded by cohorts of one client, which spend "
            f"{spent.epsilon:.4g}. Take more noise, fewer rounds or a larger target."
        )
    return found


def _reported(
    one_round: Round, rounds: int | Sequence[range], delta: float, arithmetic: Arithmetic | None
) -> float:
    return spend(one_round, rounds, delta, arithmetic).epsilon


def _excess(
    epsilon_of: EpsilonOf,
    one_round: Round,
    rounds: int | Sequence[range],
    delta: float,
    target: float,
    arithmetic: Arithmetic | None,
) -> float:
    """Returns the logarithm of epsilon over the target, which is positive if epsilon is too large.

    It is nearly linear in the logarithm of the noise multiplier, of the rounds and of the cohort.
    """
    try:
        epsilon = epsilon_of(one_round, rounds, delta, arithmetic)
    except AccountingError:  # too little noise, or this accountant does not apply
        return math.inf
    return math.log(max(epsilon, _SMALLEST_EPSILON) / target)


def _largest_safe(excess_by: Callable[[EpsilonOf, int], float], most: int) -> int:
    """Returns the largest number in [1, most] without excess, up to the tolerance; 0 if there is none.

    Args:
      excess_by: Maps a function that computes epsilon, and a number, to the excess of that number,
        which is positive if the number is too large.
      most: The largest number to consider.
    """

    def search(epsilon_of: EpsilonOf) -> int:
        def excess(number: int) -> float:
            return excess_by(epsilon_of, number)

        high = 1
        while high < most and excess_by(rough_epsilon, high) <= 0:
            high = min(2 * high, most)
        low = high // 2
        while excess(high) <= 0:
            if high == most:
                return most
            low, high = high, min(2 * high, most)
        if high == 1:
            return 0
        # In terms of 1 / n, larger is safer, as it is for noise. If the tolerance is finer than
        # whole numbers, the search ends at two adjacent ones.
        safe = _smallest_safe(lambda x: excess(_whole(x)), 1 / high, 1 / low)
        found = _whole(safe)
        while found + 1 < high and found < 2 / _RELATIVE_TOLERANCE and excess(found + 1) <= 0:
            found += 1
        return found

    found = search(leading_epsilon)
    beyond = found + 1 + int(_TOLERANCE * found)
    is_safe = found == 0 or excess_by(_reported, found) <= 0
    is_largest = found == most or excess_by(_reported, min(beyond, most)) > 0
    return found if is_safe and is_largest else search(_reported)


def _whole(inverse: float) -> int:
    return int(1 / inverse * (1 + 1e-12))


def _safe_start(
    at: Callable[[float], Round],
    rounds: int,
    delta: float,
    target: float,
    arithmetic: Arithmetic | None,
) -> float:
    """Returns a noise multiplier slightly above the answer, by a cheap accountant."""

    def is_safe(z: float) -> bool:
        return rough_epsilon(at(z), rounds, delta, arithmetic) <= target

    z = 1.0
    try:
        while not is_safe(z) and z < _LARGEST_NOISE:
            z *= 1.5
        while z > _SMALLEST_NOISE and is_safe(z / 1.15):
            z /= 1.15
    except AccountingError:  # no cheap accountant applies
        z = 8.0
    return z


def _smallest_safe(excess: Callable[[float], float], low: float, high: float) -> float:
    """Returns the safe end of a bracket of relative width `_RELATIVE_TOLERANCE` around the root.

    `excess` is nearly a straight line in log z, and each evaluation may cost a privacy loss
    distribution. Each step therefore aims just past the root of the line through the two points
    nearest to it, on the side of the farther end, and the bracket closes from both sides within a
    few steps. Where `excess` jumps (epsilon reaches 0, or the noise is too small for an accountant)
    the line is misleading: after two poor steps, the bracket is halved.
    """
    left, right = math.log(low), math.log(high)
    points = [(excess(low), left), (excess(high), right)]
    past = 0.4 * _RELATIVE_TOLERANCE
    poor_steps = 0
    while (width := right - left) > _RELATIVE_TOLERANCE:
        (f, x), (g, y) = sorted(points, key=lambda point: abs(point[0]))[:2]
        root = x - f * (y - x) / (g - f) if f != g and math.isfinite(g) else math.nan
        middle = root + past if right - root > root - left else root - past
        if poor_steps > 1 or not left + 0.1 * past < middle < right - 0.1 * past:
            middle = (left + right) / 2
        points.append((excess(math.exp(middle)), middle))
        if points[-1][0] > 0:
            left = middle
        else:
            right = middle
        poor_steps = poor_steps + 1 if right - left > 0.5 * width else 0
    return high if right == math.log(high) else math.exp(right)
