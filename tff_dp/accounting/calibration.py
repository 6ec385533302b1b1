"""The smallest noise, the most rounds, or the largest cohort that stays within an epsilon."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

from tff_dp import _checks
from tff_dp.accounting.accountants import quick_epsilon, spend
from tff_dp.accounting.events import Round
from tff_dp.errors import AccountingError, ArgumentError
from tff_dp.sampling import FixedSizeSampler, PoissonSampler

_RELATIVE_TOLERANCE = 5e-4
_LARGEST_NOISE = 1e6
_SMALLEST_EPSILON = 1e-9
_MOST_ROUNDS = 10**9


def calibrate_noise(one_round: Round, *, rounds: int, delta: float, target_epsilon: float) -> float:
    """Returns the smallest noise multiplier whose reported epsilon is at most the target.

    Args:
      one_round: The round; its own noise multiplier is ignored.
      rounds: T >= 1.
      delta: In (0, 1).
      target_epsilon: In (0, 100].

    Returns:
      A noise multiplier within a relative 1e-3 above the smallest valid one: the search keeps the
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

    def excess(z: float) -> float:
        return _excess(at(z), rounds, delta, target)

    high = _safe_start(at, rounds, delta, target)
    while excess(high) > 0:
        high *= 2
        if high > _LARGEST_NOISE:
            spend(at(high), rounds, delta)  # raises with the reason where no accountant applies
            raise AccountingError(
                f"target_epsilon={target!r} is not reached with noise_multiplier up to "
                f"{_LARGEST_NOISE:g}. Take fewer rounds, a lower sampling rate or a larger target."
            )
    low = high / 1.5
    while excess(low) <= 0:
        high, low = low, low / 1.5
    return _smallest_safe(excess, low, high)


def calibrate_rounds(
    one_round: Round, *, delta: float, target_epsilon: float, earlier: Sequence[range] = ()
) -> int:
    """Returns how many rounds a budget allows.

    Args:
      one_round: The round; its noise multiplier must be positive.
      delta: In (0, 1).
      target_epsilon: In (0, 100].
      earlier: Runs that the budget has to pay for as well.

    Returns:
      A number of rounds whose reported epsilon is at most the target: the largest one, or at most a
      relative 1e-3 below it; 10^9 if even those stay within the target.

    Raises:
      ArgumentError: A value is outside its bound.
      AccountingError: A single round exceeds the target, or no accountant applies.
    """
    delta = _checks.real("delta", delta, "(0, 1)")
    target = _checks.real("target_epsilon", target_epsilon, "(0, 100]")

    def runs(rounds: int) -> list[range]:
        return [*earlier, range(1, rounds + 1)]

    def excess(rounds: int) -> float:
        return _excess(one_round, runs(rounds), delta, target)

    def is_surely_safe(rounds: int) -> bool:
        return _is_surely_safe(one_round, runs(rounds), delta, target)

    found = _largest_safe(excess, is_surely_safe, _MOST_ROUNDS)
    if not found:
        spent = spend(
            one_round, runs(1), delta
        )  # raises with the reason where no accountant applies
        raise AccountingError(
            f"target_epsilon={target!r} is exceeded by a single round, which spends {spent.epsilon:.4g}. "
            "Take more noise, a lower sampling rate or a larger target."
        )
    return found


def calibrate_cohort(one_round: Round, *, rounds: int, delta: float, target_epsilon: float) -> int:
    """Returns how many clients a round may have at a noise multiplier.

    Args:
      one_round: The round, with a population; the rate or size of its sampler is ignored.
      rounds: T >= 1.
      delta: In (0, 1).
      target_epsilon: In (0, 100].

    Returns:
      A number of clients in [1, N], expected (Poisson sampling) or drawn (fixed size), at which the
      reported epsilon is at most the target: the largest one, or at most a relative 1e-3 below it.

    Raises:
      ArgumentError: A value is outside its bound, or the sampler takes no cohort.
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
                f"one_round.sampler={one_round.sampler!r} takes every client: expected PoissonSampler "
                "or FixedSizeSampler, whose cohort can be chosen."
            )
        return dataclasses.replace(one_round, sampler=sampler)

    found = _largest_safe(
        lambda cohort: _excess(at(cohort), rounds, delta, target),
        lambda cohort: _is_surely_safe(at(cohort), rounds, delta, target),
        population,
    )
    if not found:
        spent = spend(at(1), rounds, delta)
        raise AccountingError(
            f"target_epsilon={target!r} is exceeded by cohorts of one client, which spend "
            f"{spent.epsilon:.4g}. Take more noise, fewer rounds or a larger target."
        )
    return found


def _excess(one_round: Round, rounds: int | Sequence[range], delta: float, target: float) -> float:
    """Returns the log of the reported epsilon over the target: positive if unsafe.

    It is nearly linear in the log of the noise multiplier, of the rounds and of the cohort.
    """
    try:
        epsilon = spend(one_round, rounds, delta).epsilon
    except AccountingError:  # too little noise for any accountant
        return math.inf
    return math.log(max(epsilon, _SMALLEST_EPSILON) / target)


def _is_surely_safe(
    one_round: Round, rounds: int | Sequence[range], delta: float, target: float
) -> bool:
    try:
        return quick_epsilon(one_round, rounds, delta) <= target
    except AccountingError:  # no quick accountant applies
        return False


def _largest_safe(
    excess: Callable[[int], float], surely_safe: Callable[[int], bool], most: int
) -> int:
    """Returns the largest number in [1, most] without excess, but for the tolerance; 0 for none.

    Args:
      excess: Positive for numbers that are too large.
      surely_safe: A fast test, true only for numbers that are not.
      most: The largest number there is.
    """
    high = 1
    while high < most and surely_safe(high):
        high = min(2 * high, most)
    low = high // 2
    while excess(high) <= 0:
        if high == most:
            return most
        low, high = high, min(2 * high, most)
    if high == 1:
        return 0
    # In n^-1, the safe side is above, as it is for noise. Where the tolerance is finer than whole
    # numbers, the steps between them end the search at neighbours.
    safe = _smallest_safe(lambda x: excess(_whole(x)), 1 / high, 1 / low)
    found = _whole(safe)
    while found + 1 < high and found < 2 / _RELATIVE_TOLERANCE and excess(found + 1) <= 0:
        found += 1
    return found


def _whole(inverse: float) -> int:
    return int(1 / inverse * (1 + 1e-12))


def _safe_start(at: Callable[[float], Round], rounds: int, delta: float, target: float) -> float:
    """Returns a noise multiplier not far above the answer, by an accountant that takes no time."""
    z = 1.0
    try:
        while quick_epsilon(at(z), rounds, delta) > target and z < _LARGEST_NOISE:
            z *= 1.5
    except AccountingError:  # no quick accountant applies
        z = 8.0
    return z


def _smallest_safe(excess: Callable[[float], float], low: float, high: float) -> float:
    """Returns the safe end of a bracket of relative width `_RELATIVE_TOLERANCE` around the root.

    False position: `excess` is nearly a straight line in log z, and each evaluation may cost a privacy
    loss distribution, so the steps aim just past the estimated root, on the side of the farther end:
    the bracket closes from both sides within a few steps. Where `excess` jumps (epsilon reaches 0, or
    the noise is too small for an accountant) the line misleads: two poor steps are followed by a
    halving.
    """
    f_low, f_high = excess(low), excess(high)  # f_low > 0 >= f_high, throughout
    poor_steps = 0
    while (width := math.log(high / low)) > _RELATIVE_TOLERANCE:
        root = width * f_low / (f_low - f_high) if math.isfinite(f_low) else width / 2
        past = 0.4 * _RELATIVE_TOLERANCE
        step = root + past if width - root > root else root - past
        if poor_steps > 1 or not 0.1 * past < step < width - 0.1 * past:
            step = width / 2
        middle = low * math.exp(step)
        f_middle = excess(middle)
        if f_middle > 0:
            low, f_low = middle, f_middle
        else:
            high, f_high = middle, f_middle
        poor_steps = poor_steps + 1 if math.log(high / low) > 0.5 * width else 0
    return high
