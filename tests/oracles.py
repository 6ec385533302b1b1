"""Independent values of what the accountants compute: formulas and quadrature, no dp-accounting."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence

import mpmath
import numpy as np
from scipy import integrate, optimize, special, stats

Density = Callable[[float], float]


def rdp_integer(q: float, z: float, order: int) -> float:
    """RDP of the Poisson-subsampled Gaussian at a whole order >= 2, by the binomial sum.

    Mironov, Talwar and Zhang, arXiv:1908.10530, section 3.3: the order's power of the likelihood
    ratio (1-q) + q exp((2x-1)/(2 z^2)) is expanded and each Gaussian moment is exact.
    """
    with mpmath.workdps(60):
        rate, sigma = mpmath.mpf(q), mpmath.mpf(z)
        total = mpmath.fsum(
            mpmath.binomial(order, k)
            * (1 - rate) ** (order - k)
            * rate**k
            * mpmath.exp(mpmath.mpf(k * k - k) / (2 * sigma**2))
            for k in range(order + 1)
        )
        return float(mpmath.log(total) / (order - 1))


def rdp_quadrature(q: float, z: float, order: float) -> float:
    """RDP of the Poisson-subsampled Gaussian at any order > 1: the larger of both directions.

    By the trapezoidal rule, whose error for an analytic integrand falls exponentially with the step:
    the nearest singularities, zeros of the likelihood ratio, are pi z^2 off the real line, which leaves
    exp(-16 pi^2 z), below 1e-20 for z >= .3.
    """
    with mpmath.workdps(30):
        rate, sigma, alpha = mpmath.mpf(q), mpmath.mpf(z), mpmath.mpf(order)
        step = sigma / 8
        # The integrand's bumps lie between -order and order, each of width sigma.
        last = math.ceil((order + 25 * z) / step)
        removed, added = [], []
        for k in range(-last, last + 1):
            x = k * step
            ratio = (1 - rate) + rate * mpmath.exp((2 * x - 1) / (2 * sigma**2))
            density = step * mpmath.npdf(x, 0, sigma)
            power = ratio**alpha
            removed.append(density * power)
            added.append(density * ratio / power)
        return float(mpmath.log(max(mpmath.fsum(removed), mpmath.fsum(added))) / (alpha - 1))


def epsilon_from_rdp(orders: Sequence[float], values: Sequence[float], delta: float) -> float:
    """Epsilon from RDP; Canonne, Kamath and Steinke, arXiv:2004.00010, proposition 12."""
    return min(
        rho + math.log1p(-1 / a) - (math.log(delta) + math.log(a)) / (a - 1)
        for a, rho in zip(orders, values, strict=True)
    )


def gaussian_delta(z: float, epsilon: float, sensitivity: float = 1.0) -> float:
    """The exact delta of the Gaussian mechanism; Balle and Wang, arXiv:1805.06530, theorem 8."""
    with mpmath.workdps(60):
        mu, eps = mpmath.mpf(sensitivity) / mpmath.mpf(z), mpmath.mpf(epsilon)
        return float(
            mpmath.ncdf(mu / 2 - eps / mu) - mpmath.exp(eps) * mpmath.ncdf(-mu / 2 - eps / mu)
        )


def hockey_stick(p: Density, q: Density, epsilon: float, low: float, high: float) -> float:
    """The integral of max(p - exp(epsilon) q, 0) over [low, high], kinks located before."""

    def difference(x: float) -> float:
        return p(x) - math.exp(epsilon) * q(x)

    grid = np.linspace(low, high, 2001)
    signs = [difference(x) > 0 for x in grid]
    edges = [low, high]
    edges += [
        optimize.brentq(difference, a, b, xtol=1e-14)
        for a, b, s, t in zip(grid[:-1], grid[1:], signs[:-1], signs[1:], strict=True)
        if s != t
    ]
    edges = sorted(set(edges) | set(np.linspace(low, high, 41)))
    return math.fsum(
        integrate.quad(difference, a, b, epsabs=1e-15, epsrel=1e-11)[0]
        for a, b in itertools.pairwise(edges)
        if difference((a + b) / 2) > 0
    )


def _mixture(q: float, z: float, centre: float) -> Density:
    def density(x: float) -> float:
        unmoved, moved = math.exp(-0.5 * (x / z) ** 2), math.exp(-0.5 * ((x - centre) / z) ** 2)
        return ((1 - q) * unmoved + q * moved) / (z * math.sqrt(2 * math.pi))

    return density


def one_round_delta(q: float, z: float, epsilon: float, *, replace: bool) -> float:
    """Delta of one round of the Poisson-subsampled Gaussian, by quadrature.

    Args:
      q: The sampling rate.
      z: The noise multiplier.
      epsilon: Epsilon >= 0.
      replace: Whether a neighbour replaces a client, which moves the sum from +1 to -1, or adds or
        removes one, which moves it from 0 to 1; of the latter's two directions the larger counts.
    """
    low, high = -1 - 12 * z, 1 + 12 * z
    with_one = _mixture(q, z, 1.0)
    other = _mixture(q, z, -1.0) if replace else _mixture(0.0, z, 0.0)
    return max(
        hockey_stick(with_one, other, epsilon, low, high),
        hockey_stick(other, with_one, epsilon, low, high),
    )


def one_round_epsilon(q: float, z: float, delta: float, *, replace: bool) -> float:
    """The epsilon of one round at a delta; see `one_round_delta`."""

    def excess(epsilon: float) -> float:
        return one_round_delta(q, z, epsilon, replace=replace) - delta

    if excess(0.0) <= 0:
        return 0.0
    high = 1.0
    while excess(high) > 0:
        high *= 2
    return float(optimize.brentq(excess, 0.0, high, xtol=1e-8))


def composed_epsilon(q: float, z: float, rounds: int, delta: float, *, replace: bool) -> float:
    """The epsilon of many rounds of the Poisson-subsampled Gaussian, to about 1e-3.

    The privacy loss is rounded to the nearest point of a grid, so that the errors of the rounds
    cancel on average, and composed by one Fourier transform. Neither an upper nor a lower bound.
    """
    step, reach = 2e-4, 40.0
    cells = round(2 * reach / step)
    x = np.linspace(-1 - 10 * z, 1 + 10 * z, 2_000_001)

    def density(rate: float, centre: float) -> np.ndarray:
        law = stats.norm
        return (1 - rate) * law.pdf(x, 0, z) + rate * law.pdf(x, centre, z)

    with_one = density(q, 1.0)
    other = density(q, -1.0) if replace else density(0.0, 0.0)
    grid = (np.arange(cells) - cells // 2) * step
    results = []
    for p, r in ((with_one, other), (other, with_one)):
        cell = np.rint(np.log(p / r) / step).astype(np.int64) % cells
        one = np.bincount(cell, weights=p / p.sum(), minlength=cells)
        many = np.fft.fftshift(np.fft.irfft(np.fft.rfft(one) ** rounds, cells))

        def excess(epsilon: float, many: np.ndarray = many) -> float:
            above = grid > epsilon
            return float(many[above] @ -np.expm1(epsilon - grid[above])) - delta

        results.append(float(optimize.brentq(excess, 0.0, reach, xtol=1e-6)))
    return max(results)


def laplace_rdp(z: float, order: float) -> float:
    """RDP of the Laplace mechanism by quadrature of its definition."""
    with mpmath.workdps(30):
        scale, alpha = mpmath.mpf(z), mpmath.mpf(order)

        def integrand(x: mpmath.mpf) -> mpmath.mpf:
            loss = (abs(x - 1) - abs(x)) / scale  # of Laplace noise around 0 and around 1
            return mpmath.exp(-abs(x - 1) / scale + alpha * loss) / (2 * scale)

        reach = 60 * scale
        total = mpmath.quad(integrand, [-reach, -1, 0, 0.5, 1, 2, 1 + reach])
        return float(mpmath.log(total) / (alpha - 1))


def laplace_losses(shifts: Sequence[float], step: float = 1e-3) -> tuple[np.ndarray, np.ndarray]:
    """The privacy loss of a vector with Laplace noise of scale 1 that is moved by `shifts`.

    Each coordinate's loss is rounded to the nearest point of a grid, and the losses of coordinates add.

    Returns:
      The points and their probabilities.
    """
    law, low, mass = stats.laplace(), 0, np.ones(1)
    for shift in shifts:
        cells = round(shift / step)
        # The loss at x in [0, shift] is shift - 2 x: it is above l for x below (shift - l) / 2.
        edges = (np.arange(-cells, cells) + 0.5) * step
        above = np.concatenate([[1.0], law.cdf((shift - edges) / 2), [0.0]])
        one = -np.diff(above)  # from the largest loss, with the atom at the end, downwards
        low, mass = low - cells, np.convolve(mass, one)
    return (low + np.arange(len(mass))) * step, mass


def delta_of_losses(points: np.ndarray, mass: np.ndarray, epsilon: float) -> float:
    """Delta at an epsilon, from a distribution of the privacy loss."""
    above = points > epsilon
    return float(mass[above] @ -np.expm1(epsilon - points[above]))


def direct_power(probabilities: np.ndarray, times: int) -> tuple[int, np.ndarray]:
    """A distribution's convolution with itself by adding up products, which no roundoff can swamp.

    Every value is right to some 1e-15 of itself for each factor, however small it is, where a Fourier
    transform is right to 1e-16 of the largest one. Values below 1e-60 are left out.

    Returns:
      The position of the first value that is kept, and the values.
    """
    result, base = (0, np.ones(1)), (0, np.asarray(probabilities, np.float64))

    def convolve(
        one: tuple[int, np.ndarray], other: tuple[int, np.ndarray]
    ) -> tuple[int, np.ndarray]:
        values = np.convolve(one[1], other[1])
        (kept,) = np.nonzero(values > 1e-60)
        return one[0] + other[0] + int(kept[0]), values[kept[0] : kept[-1] + 1]

    while times:
        if times & 1:
            result = convolve(result, base)
        times >>= 1
        if times:
            base = convolve(base, base)
    return result


def epsilon_of_losses(losses: np.ndarray, probabilities: np.ndarray, delta: float) -> float:
    """Epsilon of discrete privacy losses; those missing from a mass of 1 are not counted."""

    def excess(epsilon: float) -> float:
        above = losses > epsilon
        return math.fsum(-np.expm1(epsilon - losses[above]) * probabilities[above]) - delta

    if excess(0.0) <= 0:
        return 0.0
    return float(optimize.brentq(excess, 0.0, losses[-1] + 1, xtol=1e-15, rtol=1e-14))


def binomial_p(count: int, trials: int, probability: float) -> float:
    """The two-sided p-value of a count."""
    return float(stats.binomtest(int(count), int(trials), probability).pvalue)


def variance_p(samples: np.ndarray, variance: float) -> float:
    """The two-sided p-value of a variance, by the chi-square law of nearly normal samples."""
    statistic = (len(samples) - 1) * np.var(samples, ddof=1) / variance
    law = stats.chi2(len(samples) - 1)
    return float(2 * min(law.cdf(statistic), law.sf(statistic)))


@functools.cache
def skellam_log_pmf(variance: float, reach: float) -> np.ndarray:
    """The log of Skellam's probabilities around 0: of the difference of two equal Poisson variables.

    They are exp(-mu) I_|k|(mu), of the modified Bessel function I, for all |k| that matter to moments
    about `reach`.
    """
    half = math.ceil(reach + 14 * math.sqrt(variance) + 14)
    with mpmath.workdps(40):
        upper = [
            float(mpmath.log(mpmath.besseli(k, mpmath.mpf(variance))) - variance)
            for k in range(half + 1)
        ]
    return np.array([*upper[:0:-1], *upper])


@functools.cache
def discrete_gaussian_sum_log_pmf(stddev: float, clients: int, reach: float) -> np.ndarray:
    """The log of the probabilities of a sum of discrete Gaussians around 0, by convolution."""
    half = math.ceil(reach + 14 * stddev + 14)
    with mpmath.workdps(40):
        upper = [
            mpmath.exp(-(mpmath.mpf(k) ** 2) / (2 * mpmath.mpf(stddev) ** 2)) for k in range(half)
        ]
        one = [*upper[:0:-1], *upper]
        total = mpmath.fsum(one)
        one = [weight / total for weight in one]
        sum_ = np.array(one, dtype=object)
        for _ in range(clients - 1):
            sum_ = np.convolve(sum_, np.array(one, dtype=object))
        return np.array([float(mpmath.log(weight)) for weight in sum_])


def renyi_of_shift(log_pmf: np.ndarray, shift: int, order: float) -> float:
    """The Rényi divergence between an integer variable and the same variable plus a shift.

    The larger of both directions, over the integers on which both have a probability in `log_pmf`.
    """
    a, b = log_pmf[int(shift) :], log_pmf[: -int(shift)]
    return max(
        float(special.logsumexp(order * p + (1 - order) * q)) / (order - 1)
        for p, q in ((a, b), (b, a))
    )
