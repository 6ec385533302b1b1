"""Epsilon from the composed privacy losses of several kinds of rounds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import fft, signal

from tff_dp._compat.dp_accounting import PLDPmf, numbers_of

Floats = NDArray[np.float64]

_ORDERS_PER_OCTAVE = 3
_OCTAVES = (-9, 9)  # range of orders around the reciprocal of an end's distance from the mean
_LEAST_DISTANCE = 32.0  # in points: a tilt by more than exp(2^9 / 32) a point would leave only one
_SMALLEST = 1e-200  # the smallest probability at an end; smaller ones count as infinite losses
_TAIL = 1e-16  # mass of a tilted composition that each end of its window may leave out
_SLACKS = (1e1, 1e3, 1e5)  # how much worse than the best a tilt with a narrower window may be
_LARGEST_TRANSFORM = 2**22  # takes about a second
_LOG_NOTHING = -80.0  # the logarithm of a value that roundoff hides beside 1
_SUMMATION = 1e-8  # relative roundoff of sums over a window, as a share of delta
_EXPONENTS = 1e-14  # relative roundoff of tilting, for each round
_TRIES = 4


class JointComposition:
    """One direction of several privacy loss distributions, each composed with itself several times.

    Delta follows from the distribution of the sum of independent privacy losses, whose Fourier
    transform is the product of their Fourier transforms. As in `privacy_loss.Composition`, the
    losses are first tilted, all by the same order, p exp(order * loss), so that the losses that
    determine delta are the bulk of the composition.

    Every value that is returned is an upper bound, whatever the tilt and the window:

    - Losses outside of the window wrap around and add to those inside. The mass above the window,
      bounded by a Chernoff bound, is in addition counted as an infinite loss.
    - The roundoff of a Fourier transform is bounded in the L2 norm by a multiple of log2(size)
      units in the last place. The resulting bound for one point of the composition is added to each
      point.

    A poor tilt therefore makes epsilon too large, but never too small.

    Source: Koskela et al., arXiv:1906.03049 (composition by Fourier transform); Wilson and Keich,
    "Accurate pairwise convolutions of non-negative vectors via FFT", 2016 (tilting); Higham,
    "Accuracy and Stability of Numerical Algorithms", theorem 24.2 (roundoff of the transform).

    Args:
      pmfs: For each kind of round, the distribution of one round in this direction, with
        pessimistic losses; all on one grid.
    """

    def __init__(self, pmfs: Sequence[PLDPmf]) -> None:
        self._parts = [_Part(pmf) for pmf in pmfs]
        self._interval = self._parts[0].interval
        distances = [distance for part in self._parts for distance in part.distances]
        first = _OCTAVES[0] - math.log2(max(distances))
        octaves = math.ceil(_OCTAVES[1] - math.log2(min(distances)) - first)
        exponents = first + np.arange(octaves * _ORDERS_PER_OCTAVE) / _ORDERS_PER_OCTAVE
        orders = 2.0**exponents
        self._orders: Floats = np.concatenate([-orders[::-1], [0.0], orders])
        self._log_moments: Floats = np.stack(
            [part.log_moments(2.0**first, octaves) for part in self._parts]
        )

    def epsilon(self, counts: Sequence[int], delta: float) -> float:
        """Returns an upper bound on the epsilon of all rounds.

        Args:
          counts: The number of rounds of each kind; each >= 1.
          delta: In (0, 1).

        Returns:
          Epsilon >= 0; infinity if infinite losses have a probability of delta or more.
        """
        log_moments = np.asarray(counts, np.float64) @ self._log_moments
        is_above = self._orders > 0
        bounds = (log_moments[is_above] - math.log(delta)) / self._orders[is_above]
        guess, best = float(np.min(bounds)), math.inf
        for _ in range(_TRIES):
            found = self._crossing(counts, log_moments, guess, delta)
            if found >= best - 1e-4 / self._interval:
                best = min(best, found)
                break
            guess = best = found
        shift = sum(count * part.shift for count, part in zip(counts, self._parts, strict=True))
        return max(0.0, (best + shift) * self._interval)

    def _window(
        self, counts: Sequence[int], log_moments: Floats, point: float
    ) -> tuple[float, int, int]:
        """Returns an order whose tilt centers a point, and the last point and the size of the window.

        Of the orders that lift the tail nearly as well as the best order, up to a factor, it is the
        one with the narrowest window. A window that is still too wide is truncated.
        """
        orders = self._orders
        first, last = (
            sum(count * end for count, end in zip(counts, ends, strict=True))
            for ends in zip(*((part.first, part.last) for part in self._parts), strict=True)
        )
        lifts = np.where(orders >= 0, log_moments - orders * point, np.inf)
        for slack in _SLACKS:
            (tilts,) = np.nonzero(lifts <= lifts.min() + math.log(slack))
            gaps = orders - orders[tilts, None]
            with np.errstate(divide="ignore", invalid="ignore"):
                reach = (log_moments - log_moments[tilts, None] - math.log(_TAIL)) / gaps
            high = np.where(gaps > 0, reach, np.inf).min(axis=1).clip(max=last)
            low = np.where(gaps < 0, reach, -np.inf).max(axis=1).clip(min=first)
            best = int(np.argmin(high - low))
            top = math.ceil(high[best])
            size = top - math.floor(low[best]) + 1
            if size <= _LARGEST_TRANSFORM:
                break
        longest = max(len(part.probabilities) for part in self._parts)
        size = max(min(size, _LARGEST_TRANSFORM), longest)
        return float(orders[tilts[best]]), top, fft.next_fast_len(size, real=True)

    def _crossing(
        self, counts: Sequence[int], log_moments: Floats, guess: float, delta: float
    ) -> float:
        """Returns the point where delta falls to a given value, or a higher point, or infinity."""
        order, high, size = self._window(counts, log_moments, guess)
        tilted, log_moment = self._tilted(counts, order, high, size)
        rounds = sum(counts)
        delta /= 1 + _SUMMATION + _EXPONENTS * rounds
        infinite = -math.expm1(
            math.fsum(
                count * math.log1p(-part.infinite) if part.infinite < 1 else -math.inf
                for count, part in zip(counts, self._parts, strict=True)
            )
        )
        infinite += 2 * _TAIL * math.exp(min(log_moment - order * high, 700.0))
        if infinite >= delta:
            return math.inf
        shift = sum(count * part.shift for count, part in zip(counts, self._parts, strict=True))
        start = max(high - size + 1, -shift)  # epsilon is not negative
        if order > 0:
            start = max(start, math.ceil((log_moment + _LOG_NOTHING) / order))
        if start > high:
            return start
        points = np.arange(start, high + 1)
        probabilities = tilted[size - len(points) :] * np.exp(log_moment - order * points)
        above = infinite + np.cumsum(probabilities[::-1])[::-1]
        # The tail above each point, with each loss discounted by its distance from the point.
        discount = [1.0, -math.exp(-self._interval)]
        discounted = signal.lfilter([1.0], discount, probabilities[::-1])[::-1]
        (too_low,) = np.nonzero(above - delta > discounted)
        at = too_low[-1] + 1 if len(too_low) else 0
        if at == len(points):
            return math.inf
        if at == 0 or discounted[at] == 0 or above[at] <= delta:
            return float(start + at)
        return float(start + at + math.log((above[at] - delta) / discounted[at]) / self._interval)

    def _tilted(
        self, counts: Sequence[int], order: float, high: int, size: int
    ) -> tuple[Floats, float]:
        """Returns bounds on the tilted composition up to a point, and the logarithm of its scale."""
        logs = np.zeros(size // 2 + 1, np.complex128)
        norms, moduli, log_moment, first = [], [], 0.0, 0
        for count, part in zip(counts, self._parts, strict=True):
            values, log_scale = part.tilted(order)
            coefficients = fft.rfft(values, size)
            with np.errstate(divide="ignore"):
                log_coefficients = np.log(coefficients)
            log_coefficients.real = np.maximum(log_coefficients.real, -1e3)
            logs += count * log_coefficients
            norms.append(float(np.linalg.norm(values)))
            moduli.append(log_coefficients.real)
            log_moment += count * log_scale
            first += count * part.first
        powers = np.where(logs.real > _LOG_NOTHING, np.exp(logs), 0)
        composed = np.roll(fft.irfft(powers, size), (first - high - 1) % size)
        error = _roundoff(counts, norms, moduli, logs.real, size)
        return np.maximum(composed, 0) + error, log_moment


def _roundoff(
    counts: Sequence[int],
    norms: Sequence[float],
    moduli: Sequence[Floats],
    log_products: Floats,
    size: int,
) -> float:
    """Bounds the error of each point of an inverse transform of a product of powers.

    An error e in one part's coefficient c changes the product Y = c^T R by T |Y / c| |e|. The mean
    over all coefficients is at most the product of root mean squares (Cauchy-Schwarz inequality).
    The root mean square of e is a small multiple of the part's L2 norm, by Parseval's identity.
    """
    unit = float(np.finfo(np.float64).eps)
    of_transform = 8 * unit * math.log2(size)

    def root_mean_square(logs: Floats) -> float:
        return math.sqrt(2 * float(np.exp(2 * logs).sum()) / size)

    own = sum(
        count * of_transform * norm * root_mean_square(log_products - modulus)
        for count, norm, modulus in zip(counts, norms, moduli, strict=True)
    )
    of_powers = (16 * unit * sum(counts) + 2 * of_transform) * root_mean_square(log_products)
    return 2 * (own + of_powers + math.exp(_LOG_NOTHING))


class _Part:
    """The distribution of one round. Points are counted from the mean, which keeps exponents small."""

    def __init__(self, pmf: PLDPmf) -> None:
        numbers = numbers_of(pmf)
        probabilities = np.maximum(numbers.probabilities, 0)
        (kept,) = np.nonzero(probabilities >= _SMALLEST)
        inner = slice(int(kept[0]), int(kept[-1]) + 1)
        self.probabilities: Floats = probabilities[inner]
        total = float(self.probabilities.sum())
        dropped = float(probabilities[: inner.start].sum() + probabilities[inner.stop :].sum())
        self.infinite: float = numbers.infinite + dropped
        self.interval: float = numbers.interval
        size = len(self.probabilities)
        mean = float(np.sum(np.arange(size) * self.probabilities)) / total
        self.first = -round(mean)
        self.last = self.first + size - 1
        self.shift: int = numbers.lowest + inner.start - self.first  # from a point to its loss
        self.distances = (
            max(mean, _LEAST_DISTANCE),
            max(size - 1 - mean, _LEAST_DISTANCE),
        )

    def log_moments(self, smallest: float, octaves: int) -> Floats:
        """Returns log sum p exp(order * point) for a ladder of orders, ascending from negative ones.

        The relative error is about 1e-8, which is enough to choose a tilt and a window.

        Args:
          smallest: The smallest positive order, per point.
          octaves: The number of octaves of the ladder.

        Returns:
          The logarithms for the negative orders, for 0, and for the positive orders.
        """
        orders = smallest * 2.0 ** (np.arange(octaves * _ORDERS_PER_OCTAVE) / _ORDERS_PER_OCTAVE)
        above = _sums_of_decays(self.probabilities[::-1], smallest, octaves) + orders * self.last
        below = _sums_of_decays(self.probabilities, smallest, octaves) - orders * self.first
        none = math.log(float(self.probabilities.sum()))
        return np.concatenate([below[::-1], [none], above])

    def tilted(self, order: float) -> tuple[Floats, float]:
        """Tilts the distribution.

        Args:
          order: The order of the tilt, per point.

        Returns:
          p exp(order * point), scaled to a sum of 1, and the logarithm of the scale.
        """
        end = self.last if order >= 0 else self.first
        exponents = order * (np.arange(self.first, self.last + 1) - end)  # <= 0
        values = self.probabilities * np.exp(exponents)
        total = float(values.sum())
        return values / total, math.log(total) + order * end


def _sums_of_decays(probabilities: Floats, smallest: float, octaves: int) -> Floats:
    """Returns the logarithms of sum probabilities[i] exp(-order * i) for a ladder of orders."""
    sums = np.empty((octaves, _ORDERS_PER_OCTAVE))
    steps = np.arange(len(probabilities)) * smallest
    for k in range(_ORDERS_PER_OCTAVE):
        decays = np.exp(-steps * 2.0 ** (k / _ORDERS_PER_OCTAVE))
        for octave in range(octaves):
            sums[octave, k] = decays @ probabilities[: len(decays)]
            # Decays fall with i; the ones left out would become denormal numbers, which are slow.
            decays = decays[: np.searchsorted(-decays, -1e-150)]
            decays = decays * decays
    return np.log(sums.ravel())
