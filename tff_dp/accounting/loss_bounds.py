"""Lower and upper bounds on the epsilon of many rounds, on a grid as fine as the losses require."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
from scipy import special

from tff_dp._compat.dp_accounting import DensePLDPmf
from tff_dp.accounting.pairs import TRUNCATIONS, Floats, Pair
from tff_dp.accounting.privacy_loss import Composition

COARSEST = (
    1e-4  # the largest step of the grid for the upper bound; dp-accounting's own, which is cheap
)
_COARSEST_BELOW = 64 * COARSEST  # the largest step of the grid for the lower bound
_AIMED = 1e-3  # the relative excess of the upper bound for which the grid is chosen
_ACCEPTED = 8e-3  # the relative distance of the two bounds above which the grid is made finer
_NEGLIGIBLE = 1e-9  # an epsilon too small to matter
_MOST_POINTS = 2**20
_MOST_TRIES = 4  # of grids for the lower bound
_MARGINS = (0.002, 0.02, 0.2)  # in standard deviations
# If rounds / delta is larger, the mass that the first truncation leaves out would be visible in
# epsilon.
_RARE = 1e17


class Bounds(NamedTuple):
    """Bounds on the smallest epsilon.

    Attributes:
      lower: A lower bound on epsilon; >= 0.
      upper: An upper bound on epsilon.
      below: The optimistic losses from which `lower` was computed; None if `lower` is 0 without
        any.
    """

    lower: float
    upper: float
    below: Composition | None = None


@functools.lru_cache(maxsize=1024)
def bounds(pairs: tuple[Pair, ...], rounds: int, delta: float) -> Bounds:
    """Returns bounds on the smallest epsilon of some rounds, given the dominating pairs of one round.

    The upper bound uses pessimistic losses on a grid, and the lower bound optimistic ones. Both
    hold for any grid. If they are more than 0.8 % apart, both grids are made finer. For Gaussian
    noise at rates in [1e-5, 1], noise multipliers in [0.3, 50], up to 10^6 rounds and deltas in
    [1e-15, 0.01], the upper bound is within 1 % (or 1e-9) of the smallest epsilon if that is at
    most 100; the same holds for Laplace noise. Outside of this region both are still bounds, but a
    grid of 2^20 points may be too coarse for 1 %, above all at smaller rates with large losses that
    are rare.

    Args:
      pairs: The dominating pairs of one round; the one with the larger epsilon counts.
      rounds: T >= 1.
      delta: In (0, 1).

    Returns:
      The bounds.
    """
    log_truncated = TRUNCATIONS[rounds / delta > _RARE]
    finest = max(_range(pair, log_truncated) for pair in pairs) / _MOST_POINTS
    above = max(_on_ladder(min(_first_interval(pairs, rounds, delta), COARSEST)), finest)
    while True:
        by_pair = [
            _pessimistic(pair, above, log_truncated).epsilon_and_fall(rounds, delta)
            for pair in pairs
        ]
        upper, fall = max(by_pair)
        if math.isinf(upper) or upper <= _NEGLIGIBLE:
            return Bounds(0.0, upper)
        # Spreading each loss over an interval h adds at most h to it, and h^2 / 6 to its variance.
        needed = math.sqrt(12 * _AIMED * upper / (rounds * max(fall, 1.0)))
        needed = max(needed, _AIMED * upper / rounds)
        if above <= needed or above <= finest:
            break
        above = max(_on_ladder(max(needed, above / 16)), finest)
    worst = pairs[by_pair.index((upper, fall))]
    below = max(_on_ladder(min(needed, _COARSEST_BELOW)), finest)
    best = Bounds(0.0, upper)
    for _ in range(_MOST_TRIES):
        found = _optimistic(worst, below, log_truncated)
        lower = min(found.epsilon_below(rounds, delta), best.upper) if found else 0.0
        if lower > best.lower:
            best = Bounds(lower, best.upper, found)
        if best.upper - best.lower <= _ACCEPTED * best.lower + _NEGLIGIBLE or below <= finest:
            break
        below = max(below / 4, finest)
        if below < above / 4:
            above = below
            finer = max(_pessimistic(p, above, log_truncated).epsilon(rounds, delta) for p in pairs)
            best = best._replace(upper=min(best.upper, finer))
    return best


def lower_bound(pairs: tuple[Pair, ...], rounds: int, delta: float, above: float) -> float:
    """Returns a lower bound on the smallest epsilon at a larger delta than one with known bounds.

    Args:
      pairs: As for `bounds`.
      rounds: As for `bounds`.
      delta: As for `bounds`: the delta for which bounds are known or are computed.
      above: The delta of the lower bound; >= `delta`.

    Returns:
      Epsilon >= 0.
    """
    found = bounds(pairs, rounds, delta)
    if above == delta or found.below is None:
        return found.lower
    return min(found.below.epsilon_below(rounds, above), found.lower)


def clear_caches() -> None:
    """Forgets all cached distributions, for benchmarks."""
    for cached in (bounds, _pessimistic, _optimistic, _log_moments):
        cached.cache_clear()


@functools.lru_cache(maxsize=16)
def _pessimistic(pair: Pair, interval: float, log_truncated: float) -> Composition:
    found = pair.cells(interval, log_truncated).pessimistic()
    return Composition(DensePLDPmf(interval, *found, True))


@functools.lru_cache(maxsize=16)
def _optimistic(pair: Pair, interval: float, log_truncated: float) -> Composition | None:
    # If most losses are closer to each other than the points of the grid, one point is placed at
    # their mean, or slightly above it, since losses next to the lowest loss can be moved up but not
    # down.
    mean, spread = pair.center(interval)
    for margin in _MARGINS:
        center = mean + margin * spread
        offset = math.remainder(center, interval)
        found = pair.cells(interval, log_truncated, offset).optimistic(center)
        if found:
            return Composition(DensePLDPmf(interval, *found, 0.0, False), offset)
    return None


@functools.lru_cache(maxsize=64)
def _range(pair: Pair, log_truncated: float) -> float:
    lowest, highest = pair.bounds(log_truncated)
    return highest - lowest


def _on_ladder(interval: float) -> float:
    """Rounds an interval down to a power of two times COARSEST, so that distributions are reused."""
    return COARSEST * 2.0 ** math.floor(math.log2(interval / COARSEST))


def _first_interval(pairs: tuple[Pair, ...], rounds: int, delta: float) -> float:
    """Returns an interval at which epsilon may already have the precision that is aimed at.

    Spreading a loss over an interval h, while the mean of e^-loss is kept, multiplies its moment of
    order s by about 1 + s (s + 1) h^2 / 12. By Chernoff's bound at the best order, epsilon grows by
    1 / s times the logarithm of the factors of all rounds. If few losses determine epsilon, that
    bound is far above it.
    """
    epsilon, order = max(_chernoff(pair, rounds, delta) for pair in pairs)
    if epsilon <= 0:
        return COARSEST
    return math.sqrt(12 * _AIMED * epsilon / (rounds * (order + 1)))


def _chernoff(pair: Pair, rounds: int, delta: float) -> tuple[float, float]:
    """Returns an approximate upper bound on epsilon, and the order that gives it.

    Source: Canonne et al., arXiv:2004.00010, proposition 12.
    """
    orders, log_moments = _log_moments(pair)
    entropies = np.log1p(orders) + orders * np.log1p(1 / orders)
    by_order = (rounds * log_moments - math.log(delta) - entropies) / orders
    best = int(np.argmin(by_order))
    return float(by_order[best]), float(orders[best])


@functools.lru_cache(maxsize=64)
def _log_moments(pair: Pair) -> tuple[Floats, Floats]:
    """Returns orders, and approximate logarithms of the means of exp(order * loss)."""
    losses, log_masses = pair.sample_losses()
    orders = 2.0 ** np.arange(-4, 44, 0.5)
    return orders, special.logsumexp(orders[:, None] * losses + log_masses, axis=1)
