"""Epsilon of many rounds from below and from above, on a grid as fine as its losses need."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
from scipy import special

from tff_dp._compat.dp_accounting import DensePLDPmf
from tff_dp.accounting.pairs import TRUNCATIONS, Floats, Pair
from tff_dp.accounting.privacy_loss import Composition

COARSEST = 1e-4  # of the grid for the upper bound, which costs little; dp-accounting's own
_COARSEST_BELOW = 64 * COARSEST  # of the one for the lower bound
_AIMED = 1e-3  # relative excess of the upper bound that the grid is chosen for
_ACCEPTED = 8e-3  # relative distance of the two bounds, beyond which the grid is made finer
_NEGLIGIBLE = 1e-9  # an epsilon that nobody sees
_MOST_POINTS = 2**20
_MOST_TRIES = 4  # of grids for the lower bound
_MARGINS = (0.002, 0.02, 0.2)  # in standard deviations
# Rounds over delta, above which the mass that the first truncation leaves out would show in epsilon.
_RARE = 1e17


class Bounds(NamedTuple):
    """The smallest epsilon lies between `lower` and `upper`; below are losses that tell so."""

    lower: float
    upper: float
    below: Composition | None = None


@functools.lru_cache(maxsize=1024)
def bounds(pairs: tuple[Pair, ...], rounds: int, delta: float) -> Bounds:
    """Returns bounds of the smallest epsilon of some rounds, whose worst pairs are given.

    The upper one is of pessimistic losses on a grid, the lower one of optimistic ones: both hold for
    any grid. Where they are more than 0.8 % apart, both grids are made finer. For Gaussian noise at
    rates in [1e-5, 1], noise multipliers in [0.3, 50], up to 10^6 rounds and deltas in [1e-15, 0.01]
    the upper bound is within 1 % of the smallest epsilon (or 1e-9), as long as that is at most 100;
    for Laplace noise as well. Beyond that region both are bounds still, but 2^20 points of a
    grid may be too few for 1 %: at smaller rates with large losses that are rare, above all.

    Args:
      pairs: A round's; the worse one counts.
      rounds: T >= 1.
      delta: In (0, 1).
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
        # Spreading each loss over an interval h adds h^2 / 6 to its variance, and at most h to itself.
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
    """Returns a lower bound of the smallest epsilon at a delta `above` one for which bounds are known.

    The other arguments are those of `bounds`.
    """
    found = bounds(pairs, rounds, delta)
    if above == delta or found.below is None:
        return found.lower
    return min(found.below.epsilon_below(rounds, above), found.lower)


def clear_caches() -> None:
    """Forgets all distributions, for measurements."""
    for cached in (bounds, _pessimistic, _optimistic, _log_moments):
        cached.cache_clear()


@functools.lru_cache(maxsize=16)
def _pessimistic(pair: Pair, interval: float, log_truncated: float) -> Composition:
    found = pair.cells(interval, log_truncated).pessimistic()
    return Composition(DensePLDPmf(interval, *found, True))


@functools.lru_cache(maxsize=16)
def _optimistic(pair: Pair, interval: float, log_truncated: float) -> Composition | None:
    # Where most losses are closer to each other than the grid's points, one point is their mean: or a
    # little above it, since next to the lowest loss they can be moved up, and not down.
    mean, spread = pair.centre(interval)
    for margin in _MARGINS:
        centre = mean + margin * spread
        offset = math.remainder(centre, interval)
        found = pair.cells(interval, log_truncated, offset).optimistic(centre)
        if found:
            return Composition(DensePLDPmf(interval, *found, 0.0, False), offset)
    return None


@functools.lru_cache(maxsize=64)
def _range(pair: Pair, log_truncated: float) -> float:
    lowest, highest = pair.bounds(log_truncated)
    return highest - lowest


def _on_ladder(interval: float) -> float:
    """Returns an interval that is not larger, such that near ones share their distributions."""
    return COARSEST * 2.0 ** math.floor(math.log2(interval / COARSEST))


def _first_interval(pairs: tuple[Pair, ...], rounds: int, delta: float) -> float:
    """Returns an interval at which epsilon may already be as precise as is aimed at.

    Spreading a loss over an interval h, at its mean of e^-loss, multiplies its moment of an order s by
    about 1 + s (s + 1) h^2 / 12. By Chernoff's bound at the best order, epsilon grows by 1 / s times
    the logarithm of all rounds' factors. Where few losses decide, that bound is far above epsilon.
    """
    epsilon, order = max(_chernoff(pair, rounds, delta) for pair in pairs)
    if epsilon <= 0:
        return COARSEST
    return math.sqrt(12 * _AIMED * epsilon / (rounds * (order + 1)))


def _chernoff(pair: Pair, rounds: int, delta: float) -> tuple[float, float]:
    """Returns an estimate of epsilon from above, and the order that gives it.

    Source: Canonne et al., arXiv:2004.00010, proposition 12.
    """
    orders, log_moments = _log_moments(pair)
    entropies = np.log1p(orders) + orders * np.log1p(1 / orders)
    by_order = (rounds * log_moments - math.log(delta) - entropies) / orders
    best = int(np.argmin(by_order))
    return float(by_order[best]), float(orders[best])


@functools.lru_cache(maxsize=64)
def _log_moments(pair: Pair) -> tuple[Floats, Floats]:
    """Returns orders, and the logs of the means of exp(order * loss), nearly."""
    losses, log_masses = pair.sample_losses()
    orders = 2.0 ** np.arange(-4, 44, 0.5)
    return orders, special.logsumexp(orders[:, None] * losses + log_masses, axis=1)
