"""Privacy loss distributions of Gaussian rounds, and epsilon of many rounds, in milliseconds.

dp-accounting defines both; what is here gives the same distributions without a Python loop over their
tens of thousands of points, and reads epsilon at one delta from a composition that is never built.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from dp_accounting import NeighboringRelation
from scipy import fft, signal

from tff_dp._compat.dp_accounting import (
    DensePLDPmf,
    PLDPmf,
    PrivacyLossDistribution,
    directions_of,
    numbers_of,
)
from tff_dp.accounting.pairs import TRUNCATIONS, Floats, Pair, gaussian_pairs


def gaussian_distribution(
    noise_multiplier: float, rate: float, relation: NeighboringRelation, interval: float
) -> PrivacyLossDistribution:
    """Returns dp-accounting's `from_gaussian_mechanism`, without its Python loop over the losses.

    Args:
      noise_multiplier: The noise's standard deviation over the clip norm; > 0.
      rate: The rate of Poisson sampling, in (0, 1].
      relation: The neighbouring relation, which sets the sensitivity.
      interval: Of the grid of losses; > 0.

    Returns:
      Pessimistic distributions of removal and of addition, or of replacement.
    """
    return distribution_of(gaussian_pairs(noise_multiplier, rate, relation), interval)


def distribution_of(
    pairs: tuple[Pair, ...], interval: float, log_truncated: float = TRUNCATIONS[0]
) -> PrivacyLossDistribution:
    """Returns the pessimistic distributions of a round's pairs, on a grid of their losses."""
    return PrivacyLossDistribution(
        *(
            DensePLDPmf(interval, *pair.cells(interval, log_truncated).pessimistic(), True)
            for pair in pairs
        )
    )


_ORDERS_PER_OCTAVE = 3
_OCTAVES = range(-9, 9)  # of an end's distance from the mean; exp(-2^9) is far from underflow
_LEAST_DISTANCE = 32.0  # in points: a tilt by more than exp(2^9 / 32) a point would leave only one
_TAIL = 1e-15  # mass of a tilted composition that each end of its window may leave out
_SLACKS = (1e2, 1e4, 1e6)  # how much worse than the best a tilt with a narrower window may be
_ROUNDOFF = (
    1e-16  # of delta, for each round and squared slack: allows for ten times what is measured
)
# Of delta, for each round: the masses of cells and their shares are right to this part of themselves.
_ROUNDOFF_OF_MASSES = 1e-12
_LARGEST_TRANSFORM = 2**21  # beyond it, some milliseconds, more slack is better
_LOG_NOTHING = -80.0  # of what cannot be told from roundoff beside 1


class Composition:
    """Many rounds of one direction's privacy loss distribution, of which only a tail is needed.

    The losses are tilted, p exp(order * loss), so that those that decide about delta become the bulk
    of the composed distribution, and tilted back after the Fourier transform. Its roundoff, 1e-16 of
    the bulk for each round, is thus small beside any delta. Without the tilt it is not: after 30,000
    rounds (q = .001, z = 1) it takes 2 % off the epsilon of additions at delta 1e-12.

    Chernoff bounds at a ladder of orders, made once, give for any number of rounds the order and the
    window that the transform needs. Losses outside of the window wrap around and add to those inside;
    those above it are counted as infinite as well: the result is an upper bound.

    Source: Koskela et al., arXiv:1906.03049 (composition by Fourier transform); Wilson and Keich,
    "Accurate pairwise convolutions of non-negative vectors via FFT", 2016 (tilting).

    Args:
      pmf: A direction's distribution of one round, of losses on a grid.
      offset: What each of its losses is more than the grid says.
    """

    def __init__(self, pmf: PLDPmf, offset: float = 0.0) -> None:
        numbers = numbers_of(pmf)
        self._probabilities: Floats = numbers.probabilities
        self._interval = numbers.interval
        self._infinite = numbers.infinite
        # Points are counted from the mean, which keeps the exponents small.
        size, total = len(self._probabilities), float(self._probabilities.sum())
        mean = float(np.sum(np.arange(size) * self._probabilities)) / total
        self._first = -round(mean)
        self._last = self._first + size - 1
        # From a point to its loss, in intervals.
        self._shift: float = numbers.lowest - self._first + offset / self._interval
        above, log_above = _ladder(self._probabilities[::-1], size - 1 - mean)
        below, log_below = _ladder(self._probabilities, mean)
        self._orders = np.concatenate([-below[::-1], [0.0], above])
        self._log_moments = np.concatenate(
            [
                (log_below - below * self._first)[::-1],
                [math.log(total)],
                log_above + above * self._last,
            ]
        )

    def epsilon(self, rounds: int, delta: float) -> float:
        """Returns an upper bound on the epsilon of some rounds, of pessimistic losses.

        Args:
          rounds: T >= 1.
          delta: In (0, 1).
        """
        return self._epsilon(rounds, delta, 1)[0]

    def epsilon_and_fall(self, rounds: int, delta: float) -> tuple[float, float]:
        """Returns `epsilon`, and by which factor of itself delta falls there: -d log(delta)/d epsilon."""
        return self._epsilon(rounds, delta, 1)

    def epsilon_below(self, rounds: int, delta: float) -> float:
        """Returns a lower bound on the epsilon of some rounds, of optimistic losses; or 0.

        The arguments are those of `epsilon`. What wraps around into the window is taken off again, and
        roundoff counts the other way.
        """
        return self._epsilon(rounds, delta, -1)[0]

    def _epsilon(self, rounds: int, delta: float, side: int) -> tuple[float, float]:
        orders, log_moments = self._orders, rounds * self._log_moments
        is_above = orders > 0
        found = float(np.min((log_moments[is_above] - math.log(delta)) / orders[is_above]))
        while True:
            guess = found
            for slack in _SLACKS:
                tilt, high, size = self._window(rounds, guess, slack)
                if size <= _LARGEST_TRANSFORM:
                    break
            allowed = delta * (1 + (_ROUNDOFF * slack**2 + _ROUNDOFF_OF_MASSES) * rounds) ** -side
            found, fall = self._crossing(rounds, allowed, tilt, high, size, side)
            # A tilt to a point far above the one found loses it in roundoff, as no tilt would.
            lifts = log_moments - orders * min(found, guess)
            if found >= guess or lifts[tilt] <= lifts[orders >= 0].min() + 2 * math.log(slack):
                if side < 0 and fall == 0:
                    return 0.0, fall
                return max(0.0, (found + rounds * self._shift) * self._interval), fall

    def _window(self, rounds: int, point: float, slack: float) -> tuple[int, int, int]:
        """Returns a tilt to a point, and the last point and size of the transform that it needs.

        A tilt is the position of its order. Of those that lift the tail as well as the best, up to a
        factor, it is the one with the narrowest window.
        """
        orders, log_moments = self._orders, rounds * self._log_moments
        lifts = np.where(orders >= 0, log_moments - orders * point, np.inf)
        (tilts,) = np.nonzero(lifts <= lifts.min() + math.log(slack))
        gaps = orders - orders[tilts, None]
        with np.errstate(divide="ignore"):
            reach = (log_moments - log_moments[tilts, None] - math.log(_TAIL)) / gaps
        high = np.where(gaps > 0, reach, np.inf).min(axis=1).clip(max=rounds * self._last)
        low = np.where(gaps < 0, reach, -np.inf).max(axis=1).clip(min=rounds * self._first)
        best = np.argmin(high - low)
        last = math.ceil(high[best])
        size = max(last - math.floor(low[best]) + 1, len(self._probabilities))
        return int(tilts[best]), last, fft.next_fast_len(size, real=True)

    def _crossing(
        self, rounds: int, delta: float, tilt: int, high: int, size: int, side: int
    ) -> tuple[float, float]:
        """Returns the point at which delta falls to a value, and by which factor of itself it does.

        The factor is 0 where it is below that value already at the first point that was looked at,
        which is returned then. Points err upwards for side 1, infinity included, and downwards for -1.
        """
        order, log_moment = self._orders[tilt], rounds * self._log_moments[tilt]
        infinite = 0.0
        if side > 0:
            infinite = -math.expm1(rounds * math.log1p(-self._infinite))
            infinite += _TAIL * math.exp(log_moment - order * high)
        if infinite >= delta:
            return math.inf, 0.0
        start = max(high - size + 1, math.floor(-rounds * self._shift))  # epsilon is not negative
        if order > 0:
            start = max(start, math.ceil((log_moment + _LOG_NOTHING) / order))
        points = np.arange(start, high + 1)
        if len(points) == 0:
            return start, 0.0
        weights = np.exp(log_moment - order * points)
        probabilities = self._tilted(rounds, tilt, high, size)[size - len(points) :]
        probabilities = np.maximum(probabilities, 0) * weights
        # delta(l) = e^-h delta(l + h) + (1 - e^-h) P(loss > l): sums of what is positive, however small
        # the interval h is, without an exponent of a whole loss, which may be hundreds.
        shrunk = -math.expm1(-self._interval)
        above = np.cumsum(probabilities[::-1])
        deltas = shrunk * signal.lfilter([0.0, 1.0], [1.0, shrunk - 1], above)[::-1]
        if side < 0:
            reach = np.minimum((high - points) * self._interval, 1.0)
            deltas -= 2 * _TAIL * weights * reach
        (too_large,) = np.nonzero(deltas > delta - infinite)
        if len(too_large) == 0:
            return start, 0.0
        last = int(too_large[-1])  # delta is linear in e^epsilon from there to the next point
        beyond = probabilities[last + 1 :]
        # No product of vectors: BLAS would start threads, which take longer than this.
        discounted = float(np.sum(beyond * np.exp(-self._interval * np.arange(1, len(beyond) + 1))))
        step = math.log1p((deltas[last] + infinite - delta) / discounted) / self._interval
        return start + last + min(step, 1.0), discounted / delta

    def _tilted(self, rounds: int, tilt: int, high: int, size: int) -> Floats:
        """Returns the tilted composition's probabilities at the points up to the last one."""
        points = np.arange(self._first, self._last + 1)
        exponents = self._orders[tilt] * points - self._log_moments[tilt]
        coefficients = fft.rfft(self._probabilities * np.exp(exponents), size)
        kept = np.abs(coefficients) > math.exp(_LOG_NOTHING / rounds)
        powers = np.zeros_like(coefficients)
        powers[kept] = coefficients[kept] ** rounds
        return np.roll(fft.irfft(powers, size), (rounds * self._first - high - 1) % size)


@functools.lru_cache(maxsize=16)
def compositions(distribution: PrivacyLossDistribution) -> tuple[Composition, ...]:
    """Returns the compositions of a distribution's directions, which share all rounds and deltas."""
    removal, addition = directions_of(distribution)
    directions = [removal] if addition is None else [removal, addition]
    return tuple(map(Composition, directions))


def _ladder(probabilities: Floats, distance: float) -> tuple[Floats, Floats]:
    """Returns orders, ascending, and the logs of the sums of probabilities[i] exp(-order * i).

    Args:
      probabilities: Of the points, counted from an end; shape [points].
      distance: The mean's, from that end.
    """
    distance = max(distance, _LEAST_DISTANCE)
    steps = np.arange(len(probabilities)) / distance
    sums = np.empty((len(_OCTAVES), _ORDERS_PER_OCTAVE))
    for k in range(_ORDERS_PER_OCTAVE):
        decays = np.exp(-steps * 2.0 ** (_OCTAVES[0] + k / _ORDERS_PER_OCTAVE))
        for octave in range(len(_OCTAVES)):
            sums[octave, k] = np.einsum("i,i->", decays, probabilities)
            decays *= decays
    exponents = np.arange(sums.size) / _ORDERS_PER_OCTAVE + _OCTAVES[0]
    return 2.0**exponents / distance, np.log(sums.ravel())
