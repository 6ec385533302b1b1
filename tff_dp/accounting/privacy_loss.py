"""Privacy loss distributions of Gaussian rounds, and epsilon of many rounds, in milliseconds.

dp-accounting defines both. This module computes the same distributions without a Python loop over
their tens of thousands of points, and reads epsilon at one delta off a composition of which only a
part is computed.
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
      noise_multiplier: z > 0, the standard deviation of the noise over the clip norm.
      rate: q, the rate of Poisson sampling, in (0, 1].
      relation: The neighboring relation, which determines the sensitivity.
      interval: The step of the grid of losses; > 0.

    Returns:
      Pessimistic distributions for removing and for adding a client, or for replacing one.
    """
    return distribution_of(gaussian_pairs(noise_multiplier, rate, relation), interval)


def distribution_of(
    pairs: tuple[Pair, ...], interval: float, log_truncated: float = TRUNCATIONS[0]
) -> PrivacyLossDistribution:
    """Returns the pessimistic privacy loss distributions of a round.

    Args:
      pairs: The dominating pairs of the round; one, or one for each direction.
      interval: The step of the grid of losses; > 0.
      log_truncated: The logarithm of the mass that the grid may leave out at each end.

    Returns:
      The distributions, one for each pair.
    """
    return PrivacyLossDistribution(
        *(
            DensePLDPmf(interval, *pair.cells(interval, log_truncated).pessimistic(), True)
            for pair in pairs
        )
    )


_ORDERS_PER_OCTAVE = 3
_OCTAVES = range(
    -9, 9
)  # orders, times an end's distance from the mean; exp(-2^9) does not underflow
_LEAST_DISTANCE = 32.0  # in points: a tilt by more than exp(2^9 / 32) a point would leave only one
_TAIL = 1e-15  # mass of a tilted composition that each end of its window may leave out
_SLACKS = (1e2, 1e4, 1e6)  # how much worse than the best a tilt with a narrower window may be
# As a share of delta, for each round and squared slack; ten times the measured roundoff.
_ROUNDOFF = 1e-16
# As a share of delta, for each round: the relative error of the masses of cells.
_ROUNDOFF_OF_MASSES = 1e-12
_LARGEST_TRANSFORM = 2**21  # takes some milliseconds; rather than a larger one, more slack is used
_LOG_NOTHING = -80.0  # the logarithm of a value that roundoff hides beside 1


class Composition:
    """The composition of many rounds of a privacy loss distribution in one direction.

    Only a part of its tail is computed. The losses are tilted, p exp(order * loss), so that the
    losses that determine delta become the bulk of the composed distribution, and are tilted back
    after the Fourier transform. The roundoff of the transform, 1e-16 of the bulk for each round, is
    then small compared with any delta. Without the tilt it is not: after 30,000 rounds (q = .001, z
    = 1) it lowers the epsilon of adding a client at delta 1e-12 by 2 %.

    Chernoff bounds at a ladder of orders are computed once. They give, for any number of rounds,
    the order and the window that the transform needs. Losses outside of the window wrap around and
    add to those inside; losses above it are in addition counted as infinite. The result is an upper
    bound.

    Source: Koskela et al., arXiv:1906.03049 (composition by Fourier transform); Wilson and Keich,
    "Accurate pairwise convolutions of non-negative vectors via FFT", 2016 (tilting).

    Args:
      pmf: The distribution of one round in one direction, with losses on a grid.
      offset: A number that is added to each loss of the grid.
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
        # The difference between a loss, in intervals, and its point.
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
        """Returns an upper bound on the epsilon of some rounds, for pessimistic losses.

        Args:
          rounds: T >= 1.
          delta: In (0, 1).

        Returns:
          Epsilon >= 0; infinity if infinite losses have a probability of delta or more.
        """
        return self._epsilon(rounds, delta, 1)[0]

    def epsilon_and_fall(self, rounds: int, delta: float) -> tuple[float, float]:
        """Returns an upper bound on epsilon, and the relative slope of delta there.

        Args:
          rounds: T >= 1.
          delta: In (0, 1).

        Returns:
          `epsilon`, and -d log(delta) / d epsilon.
        """
        return self._epsilon(rounds, delta, 1)

    def epsilon_below(self, rounds: int, delta: float) -> float:
        """Returns a lower bound on the epsilon of some rounds, for optimistic losses.

        A bound on the mass that wraps around into the window is subtracted, and the allowance for
        roundoff has the opposite sign.

        Args:
          rounds: T >= 1.
          delta: In (0, 1).

        Returns:
          Epsilon >= 0; 0 if nothing larger can be shown.
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
            # If the tilt was chosen for a point far above the one found, roundoff hides the latter.
            lifts = log_moments - orders * min(found, guess)
            if found >= guess or lifts[tilt] <= lifts[orders >= 0].min() + 2 * math.log(slack):
                if side < 0 and fall == 0:
                    return 0.0, fall
                return max(0.0, (found + rounds * self._shift) * self._interval), fall

    def _window(self, rounds: int, point: float, slack: float) -> tuple[int, int, int]:
        """Returns a tilt for a point, and the last point and the size of the transform that it needs.

        A tilt is the index of its order. Of the tilts that lift the tail nearly as well as the
        best, up to a factor, it is the one with the narrowest window.
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
        """Returns the point where delta falls to a given value, and the relative slope of delta there.

        If delta is below that value at the first point of the window already, that point and a
        slope of 0 are returned. Points err upward for side 1, infinity included, and downward for
        side -1.
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
        # delta(l) = e^-h delta(l + h) + (1 - e^-h) P(loss > l) is a sum of positive terms, however
        # small the interval h is, and has no exponential of a whole loss, which may be in the
        # hundreds.
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
        # Not a dot product: BLAS would start threads, which takes longer than the sum itself.
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
    """Returns the compositions of a distribution, which serve all numbers of rounds and all deltas.

    Args:
      distribution: A privacy loss distribution, in one direction or in two.

    Returns:
      One composition for each direction.
    """
    removal, addition = directions_of(distribution)
    directions = [removal] if addition is None else [removal, addition]
    return tuple(map(Composition, directions))


def _ladder(probabilities: Floats, distance: float) -> tuple[Floats, Floats]:
    """Returns orders, ascending, and the logarithms of sum probabilities[i] exp(-order * i).

    Args:
      probabilities: The probabilities of the points, counted from one end; shape [points].
      distance: The distance of the mean from that end, in points.
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
