"""Independent values of what the accountants compute: formulas and quadrature, no dp-accounting."""

from __future__ import annotations

import contextlib
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


def _mixture(q: float, z: float, center: float) -> Density:
    def density(x: float) -> float:
        unmoved, moved = math.exp(-0.5 * (x / z) ** 2), math.exp(-0.5 * ((x - center) / z) ** 2)
        return ((1 - q) * unmoved + q * moved) / (z * math.sqrt(2 * math.pi))

    return density


def one_round_delta(q: float, z: float, epsilon: float, *, replace: bool) -> float:
    """Delta of one round of the Poisson-subsampled Gaussian, by quadrature.

    Args:
      q: The sampling rate.
      z: The noise multiplier.
      epsilon: Epsilon >= 0.
      replace: Whether a neighbor replaces a client, which moves the sum from +1 to -1, or adds or
        removes one, which moves it from 0 to 1; of the latter's two directions the larger counts.
    """
    low, high = -1 - 12 * z, 1 + 12 * z
    with_one = _mixture(q, z, 1.0)
    other = _mixture(q, z, -1.0) if replace else _mixture(0.0, z, 0.0)
    return max(
        hockey_stick(with_one, other, epsilon, low, high),
        hockey_stick(other, with_one, epsilon, low, high),
    )


def exact_divergence(q: float, z: float, direction: str, epsilon: mpmath.mpf) -> mpmath.mpf:
    """The hockey-stick divergence of one Poisson-subsampled Gaussian round, by its closed form.

    The privacy loss is monotonic in the sum, so that the divergence is a difference of tails beyond
    the point at which the loss is epsilon.

    Args:
      q: The sampling rate.
      z: The noise multiplier.
      direction: "remove", "add" or "replace".
      epsilon: Of either sign, in mpmath's precision.
    """
    rate, sigma, factor = mpmath.mpf(q), mpmath.mpf(z), mpmath.exp(epsilon)

    def tails(x: mpmath.mpf, center: int) -> mpmath.mpf:  # of the mixture, above x
        return (1 - rate) * mpmath.ncdf(-x / sigma) + rate * mpmath.ncdf((center - x) / sigma)

    if direction == "replace":
        # With u = e^(x / z^2) and c = q e^(-1 / 2 z^2): 1 - q + c u = e^epsilon (1 - q + c / u).
        c = rate * mpmath.exp(-1 / (2 * sigma**2))
        b = (1 - rate) * (1 - factor)
        u = (-b + mpmath.sqrt(b * b + 4 * c * c * factor)) / (2 * c)
        at = sigma**2 * mpmath.log(u)
        return tails(at, 1) - factor * tails(at, -1)
    sign = 1 if direction == "remove" else -1
    # The loss of removal, log(1 - q + q e^((2 x - 1) / 2 z^2)), is epsilon (of addition: -epsilon).
    inner = mpmath.exp(sign * epsilon) - 1 + rate
    at = sigma**2 * mpmath.log(inner / rate) + mpmath.mpf(1) / 2 if inner > 0 else -mpmath.inf
    if direction == "remove":
        return (
            mpmath.mpf(1) - factor
            if inner <= 0
            else tails(at, 1) - factor * mpmath.ncdf(-at / sigma)
        )
    if inner <= 0:
        return mpmath.mpf(0)
    return mpmath.ncdf(at / sigma) - factor * (1 - tails(at, 1))


def connected_dots(q: float, z: float, direction: str, point: int, interval: float) -> float:
    """The probability of a point of a grid inside the grid's range, from the exact divergences.

    Between the points the divergence is linear in e^epsilon; a point's probability is the change of its
    slope there, times e^epsilon. Doroshenko et al., arXiv:2207.04380, algorithm 1.
    """
    with mpmath.workdps(60):
        losses = [(point + k) * mpmath.mpf(interval) for k in (-1, 0, 1)]
        factors = [mpmath.exp(loss) for loss in losses]
        deltas = [exact_divergence(q, z, direction, loss) for loss in losses]
        slopes = [(deltas[k + 1] - deltas[k]) / (factors[k + 1] - factors[k]) for k in (0, 1)]
        return float(factors[1] * (slopes[1] - slopes[0]))


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

    def density(rate: float, center: float) -> np.ndarray:
        law = stats.norm
        return (1 - rate) * law.pdf(x, 0, z) + rate * law.pdf(x, center, z)

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


# --- Epsilon of many rounds, by inversion of the exact moment generating function ---------------------

Direction = str  # "remove", "add" or "replace"
_QUIET = 15.0  # scales of noise beyond the centers that count; beyond them lie masses below 1e-49


def _losses(
    q: float, z: float, direction: Direction, noise: str, finer: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Privacy losses at the nodes of a rule of quadrature, and their masses.

    Gaussian: the trapezoidal rule, with a step of which the integrand's singularities are 15 away
    (`rdp_quadrature`). Laplace: Gauss and Legendre's rule between the two points at which losses stay
    as they are.
    """
    if noise == "gaussian":
        step = min(z / 32, z * z / 10) / finer
        x = np.arange(-1 - _QUIET * z, 1 + _QUIET * z + step, step)

        def log_density(center: float) -> np.ndarray:
            return (
                -0.5 * ((x - center) / z) ** 2
                - math.log(z * math.sqrt(2 * math.pi))
                + math.log(step)
            )

        def log_ratio(sign: float) -> np.ndarray:
            return (sign * x - 0.5) / z**2
    else:
        nodes, weights = np.polynomial.legendre.leggauss(400)
        x = np.concatenate([[0.0], (nodes + 1) / 2, [1.0]])
        inner = np.log(weights / (4 * z))

        def log_density(center: float) -> np.ndarray:
            low, high = (math.log(0.5) - abs(end - center) / z for end in (0, 1))
            return np.concatenate([[low], inner - np.abs(x[1:-1] - center) / z, [high]])

        def log_ratio(sign: float) -> np.ndarray:
            return (2 * x - 1) / z

    def sampled(ratio: np.ndarray) -> np.ndarray:  # log(1 - q + q e^ratio)
        with np.errstate(over="ignore", divide="ignore"):
            large = np.logaddexp(np.log1p(-q), math.log(q) + ratio)
            return np.where(ratio < 1, np.log1p(q * np.expm1(np.minimum(ratio, 1))), large)

    moved = sampled(log_ratio(1.0))
    if direction == "add":
        return -moved, np.exp(log_density(0.0))
    losses = moved - sampled(log_ratio(-1.0)) if direction == "replace" else moved
    return losses, (1 - q) * np.exp(log_density(0.0)) + q * np.exp(log_density(1.0))


def inverted_epsilon(
    q: float, z: float, rounds: int, delta: float, direction: Direction, noise: str = "gaussian"
) -> float:
    """The epsilon of many rounds under Poisson sampling, from the moment generating function.

    With M(s) = E exp(s loss), for any c > 0,

        delta(epsilon) = 1 / (2 pi i) times the integral over c + iy of
                         M(s)^T exp(-s epsilon) / (s (s + 1)) ds.

    M is a sum over the nodes of a rule that is exact to roundoff; c is the saddle point, so that the
    integral is of the size of delta, and its trapezoidal rule's error is what lies a whole period away,
    here 1e-13 of it. M(s)^T is right to T 1e-16 or so, and what is left of the integral to 1e-8:
    epsilon to some 1e-8 of itself. For one round and for two, delta is evaluated directly.

    Raises:
      ArithmeticError: The integrand falls off too slowly, as it does for few rounds.
    """
    if rounds <= 2:
        return _few_rounds(q, z, rounds, delta, direction, noise)
    for finer in (1, 4) if noise == "gaussian" else (1,):
        with contextlib.suppress(ArithmeticError):
            return _inverted(*_losses(q, z, direction, noise, finer), rounds, delta, noise)
    raise ArithmeticError("the integrand falls off too slowly")


def _inverted(
    losses: np.ndarray, masses: np.ndarray, rounds: int, delta: float, noise: str
) -> float:
    """See `inverted_epsilon`."""
    kept = masses > 0
    losses, masses = losses[kept], masses[kept]
    log_masses = np.log(masses)

    def log_moment(c: float) -> float:
        return float(special.logsumexp(c * losses + log_masses))

    def chernoff(log_c: float) -> float:
        c = math.exp(log_c)
        entropy = -math.log1p(c) - c * math.log1p(1 / c)
        return (rounds * log_moment(c) - math.log(delta) + entropy) / c

    scale = math.sqrt(float(masses @ losses**2))
    ladder = np.linspace(-6, 12, 60) + math.log(1 / scale / math.sqrt(rounds))
    at = int(np.argmin([chernoff(x) for x in ladder]))
    best = optimize.minimize_scalar(
        chernoff, bounds=(ladder[max(at - 1, 0)], ladder[min(at + 1, 59)]), method="bounded"
    )
    c = math.exp(best.x)
    log_m = log_moment(c)
    tilted = np.exp(c * losses + log_masses - log_m)
    mean = float(tilted @ losses)
    spread = math.sqrt(rounds * float(tilted @ (losses - mean) ** 2))
    period = 60 * spread + 60 / c + 4 * float(np.max(np.where(tilted > 1e-13, losses - mean, 0)))
    step = 2 * math.pi / period
    atoms = float(tilted[0] + tilted[-1])  # of Laplace noise, which may come back to that at any y
    gaps = np.abs(np.diff(losses, append=losses[-1])) if noise == "gaussian" else 0 * losses
    until = atoms**rounds * c * (c + 1) / (1e-8 * min(c, 1 / spread))
    if until / step * len(losses) > 2e7:
        raise ArithmeticError("the integrand falls off too slowly")
    ys, powers, count = [np.zeros(1)], [np.ones(1, complex)], 1
    while True:
        y = step * np.arange(count, count + 128)
        power = (np.exp(1j * y[:, None] * (losses - mean)) @ tilted) ** rounds
        ys.append(y)
        powers.append(power)
        count += 128
        s = c + 1j * y
        if rounds * tilted[y[-1] * gaps > 2].sum() > 1e-6:
            raise ArithmeticError("the integrand falls off too slowly for the nodes")
        size = max(float(np.abs(power).max()), atoms**rounds)
        if size * y[-1] / np.abs(s[-1] * (s[-1] + 1)) < 1e-8 / (c * (c + 1)) * min(c, 1 / spread):
            break
        if count * len(losses) > 2e7:
            raise ArithmeticError("the integrand falls off too slowly")
    y, power = np.concatenate(ys), np.concatenate(powers)
    s = c + 1j * y
    kernel = power / (s * (s + 1)) * step / math.pi
    kernel[0] /= 2

    def log_delta(epsilon: float) -> float:
        phase = np.exp(1j * y * (rounds * mean - epsilon))
        total = float(np.sum((kernel * phase).real))
        return rounds * log_m - c * epsilon + math.log(total) if total > 0 else -math.inf

    # The integral is right to roundoff of its largest value, which is near the epsilon that c is for.
    high = max(chernoff(best.x), 1e-12) * 1.001  # Chernoff's bound
    low = high
    while log_delta(low) <= math.log(delta):
        if low < 1e-4 * high:
            return 0.0 if log_delta(0.0) <= math.log(delta) else math.nan
        low -= min(high / 100, low)
    return float(optimize.brentq(lambda e: log_delta(e) - math.log(delta), low, high, rtol=1e-12))


def _few_rounds(
    q: float, z: float, rounds: int, delta: float, direction: Direction, noise: str
) -> float:
    """The epsilon of one round, in high precision; or of two: the second one's delta, averaged.

    Raises:
      ArithmeticError: The average has not converged.
    """
    if rounds == 1:

        def found(epsilon: float) -> float:
            with mpmath.workdps(50):
                value = _one_delta(
                    mpmath.mpf(epsilon), mpmath.mpf(q), mpmath.mpf(z), direction, noise, mpmath
                )
                return float(value)

        high = 1.0
        while found(high) > delta and high < 1e3:
            high *= 2
        return _solved(found, delta, high)
    if noise == "laplace":
        return _two_rounds(q, z, delta, direction, noise, 1)
    # At a small rate, the second round's delta rises within about the rate around epsilon less the first
    # round's loss, which can be narrow beside the distances of losses at the nodes.
    before = math.nan
    for finer in (1, 4, 16, 64, 256):
        now = _two_rounds(q, z, delta, direction, noise, finer)
        if math.isclose(now, before, rel_tol=1e-7, abs_tol=1e-13):
            return now
        before = now
    raise ArithmeticError("the average over the first round's losses has not converged")


def _two_rounds(
    q: float, z: float, delta: float, direction: Direction, noise: str, finer: int
) -> float:
    losses, masses = _losses(q, z, direction, noise, finer)

    def found(epsilon: float) -> float:
        return float(masses @ _one_delta(epsilon - losses, q, z, direction, noise))

    return _solved(found, delta, 2 * float(losses[masses > 0].max()))


def _solved(found, delta: float, high: float) -> float:
    """The epsilon at which a falling function is delta; 0 where it is not above delta at 0."""
    if found(0.0) <= delta:
        return 0.0
    return float(optimize.brentq(lambda e: found(e) - delta, 0.0, high, rtol=1e-12, xtol=1e-18))


def _one_delta(epsilon, q, z, direction, noise, lib=np):
    """One round's delta, by its definition: P(loss > epsilon) - e^epsilon Q(loss > epsilon)."""
    absent = 1 - q
    # Not 1 + growth, which is 0 for an epsilon below -37.
    factor, growth = lib.exp(epsilon), lib.expm1(epsilon)
    infinity = math.inf

    if direction == "replace":
        damping = lib.exp(-1 / (2 * z * z)) * q
        middle = absent * growth
        size = lib.sqrt(middle * middle + 4 * factor * damping * damping)
        # Of the two ways to write the root, the one without a difference.
        rising = (abs(middle) + size) / (2 * damping)
        falling = 2 * factor * damping / (abs(middle) + size)
        is_rising = middle >= 0
        cut = z * z * lib.log(is_rising * rising + (1 - is_rising) * falling)
    else:
        # The likelihood ratio of a client that takes part, at which the loss is epsilon.
        shift = lib.expm1(-epsilon) if direction == "add" else growth
        ratio = 1 + shift / q
        if lib is np:
            with np.errstate(divide="ignore", invalid="ignore"):
                log_ratio = np.where(ratio > 0, np.log(ratio), -infinity)
        else:
            log_ratio = lib.log(ratio) if ratio > 0 else -lib.inf
        cut = 0.5 + z * z * log_ratio if noise == "gaussian" else (1 + z * log_ratio) / 2
        if noise == "laplace":
            if lib is np:
                cut = np.where(cut < 0, -infinity, np.where(cut > 1, infinity, cut))
            else:
                cut = -lib.inf if cut < 0 else (lib.inf if cut > 1 else cut)

    def mass(center: int):  # of the side of the cut on which losses are larger
        at = (center - cut) / z if direction != "add" else (cut - center) / z
        if noise == "gaussian":
            return special.ndtr(at) if lib is np else lib.ncdf(at)
        if lib is np:
            return np.where(
                at < 0, np.exp(np.minimum(at, 0)) / 2, 1 - np.exp(-np.maximum(at, 0)) / 2
            )
        return lib.exp(at) / 2 if at < 0 else 1 - lib.exp(-at) / 2

    here, there = mass(0), mass(1)
    if direction == "remove":
        found = q * there - (growth + q) * here
    elif direction == "add":
        found = here * (1 - absent * factor) - factor * q * there
    else:
        found = q * there - absent * growth * here - factor * q * mass(-1)
    return np.maximum(found, 0.0) if lib is np else max(found, lib.mpf(0))
