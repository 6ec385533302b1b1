"""The privacy profile of some rounds, and what it says about the best test of membership."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

from scipy import special

from tff_dp import _checks
from tff_dp.accounting.arithmetic import Arithmetic
from tff_dp.accounting.events import Round
from tff_dp.accounting.joint import Rounds, spend_jointly
from tff_dp.errors import AccountingError, ArgumentError

FALSE_POSITIVE_RATES = (0.001, 0.01, 0.1)
"""The false positive rates for which a profile is computed most precisely."""

_PER_DECADE = 4  # points of the curve for each power of ten of delta
_LARGE_DELTAS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97, 0.99)
_GOLDEN = (math.sqrt(5) - 1) / 2
_SEARCHES = 9  # golden sections for each false positive rate; each needs an epsilon
_SEARCHES_OF_ALL = 18  # golden sections for all tests together, whose bound has a sharp minimum
_LARGEST_MU = 1e3
_MU_ERROR = 1e-9  # relative; more than the roundoff of the Gaussian's delta


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrivacyProfile:
    """Many guarantees of the same rounds: at each of these deltas, the epsilon that holds.

    Every point is a valid guarantee by itself, and all of them hold together. They bound the curve
    of every test that tells from the output whether a client (or a record) took part, with a false
    positive rate a and a true positive rate t: for each point (epsilon, delta),

        t <= e^epsilon a + delta    and    t <= 1 - e^-epsilon (1 - a - delta).

    Source: Dong, Roth and Su, "Gaussian Differential Privacy", arXiv:1905.02383, propositions 2.5
    and 2.13; Kulynych et al., "Attack-Aware Noise Calibration for Differential Privacy",
    arXiv:2407.02191.

    Args:
      epsilons: The epsilons of the points, each >= 0 and finite, descending; empty if nothing is
        guaranteed.
      deltas: The deltas of the points, in [0, 1], ascending.

    Raises:
      ArgumentError: The numbers are not those of points, or are not in this order.
    """

    epsilons: tuple[float, ...]
    deltas: tuple[float, ...]

    def __post_init__(self) -> None:
        for name, bound in (("epsilons", "[0, inf)"), ("deltas", "[0, 1]")):
            values = tuple(_checks.real(name, each, bound) for each in getattr(self, name))
            object.__setattr__(self, name, values)
        descending = (*self.epsilons[::-1],) == tuple(sorted(self.epsilons))
        if (
            len(self.epsilons) != len(self.deltas)
            or not descending
            or self.deltas != tuple(sorted(self.deltas))
        ):
            raise ArgumentError(
                f"epsilons={_checks.brief(self.epsilons)} and deltas={_checks.brief(self.deltas)} are "
                "no points of a profile: expected as many of one as of the other, epsilons descending "
                "and deltas ascending. privacy_profile makes one."
            )

    @property
    def is_private(self) -> bool:
        """Whether anything is guaranteed at all."""
        return bool(self.epsilons)

    @property
    def advantage(self) -> float:
        """A bound on how far the true positive rate of any test is above its false positive rate."""
        return min([1.0, *(_advantage(*point) for point in self._points)])

    @property
    def mu(self) -> float:
        """The mu of the smallest Gaussian mechanism whose profile is nowhere below these points.

        That is the mechanism that adds noise of standard deviation 1 / mu to a value that a client
        changes by 1. The comparison holds for the deltas of the points; below the smallest of them,
        nothing is said. Infinite if nothing is guaranteed.

        Source: Dong, Roth and Su, arXiv:1905.02383, corollary 2.13.
        """
        return max((_mu(*point) for point in self._points), default=math.inf)

    def true_positive_rate(self, false_positive_rate: float) -> float:
        """Returns an upper bound on the true positive rate of the best test of membership.

        Args:
          false_positive_rate: The probability that the test takes a client for a participant who
            was none; in [0, 1].

        Returns:
          The largest probability with which it can recognize a participant; in
          [`false_positive_rate`, 1].

        Raises:
          ArgumentError: The rate is outside its bound.
        """
        rate = _checks.real("false_positive_rate", false_positive_rate, "[0, 1]")
        bounds = [line(*point, rate) for point in self._points for line in (_steep, _flat)]
        return max(rate, min([1.0, *bounds]))

    def epsilon(self, delta: float) -> float:
        """Returns an epsilon that holds at a delta.

        Args:
          delta: In [0, 1].

        Returns:
          The epsilon of the last point whose delta is at most this one; infinite if there is none.

        Raises:
          ArgumentError: delta is outside its bound.
        """
        delta = _checks.real("delta", delta, "[0, 1]")
        return min((e for e, d in self._points if d <= delta), default=math.inf)

    @property
    def _points(self) -> list[tuple[float, float]]:
        return [*zip(self.epsilons, self.deltas, strict=True)]


def privacy_profile(
    parts: Sequence[tuple[Round, Rounds]],
    *,
    arithmetic: Sequence[Arithmetic | None] = (),
    least_delta: float = 1e-10,
    false_positive_rates: Sequence[float] = FALSE_POSITIVE_RATES,
) -> PrivacyProfile:
    """Returns the profile of rounds of one kind or of several, composed on the same clients.

    Each epsilon is that of `spend_jointly`: a valid upper bound, with the charge for computed noise.
    Deltas at which no bound is known have no point. Beside a grid of deltas, the profile has the
    deltas that bound best the tests of some false positive rates, and all tests together.

    Args:
      parts: As for `spend_jointly`.
      arithmetic: As for `spend_jointly`.
      least_delta: The smallest delta of the grid; in (0, 0.1].
      false_positive_rates: The rates for which the bound is to be as small as it can be; each in
        (0, 1).

    Returns:
      The profile. It has no point if nothing is guaranteed at any of these deltas.

    Raises:
      ArgumentError: A value is outside its bound, or there is no part.
      AccountingError: The parts have different neighboring relations, or no accountant applies at
        any delta.
    """
    least_delta = _checks.real("least_delta", least_delta, "(0, 0.1]")
    rates = [_checks.real("false_positive_rates", a, "(0, 1)") for a in false_positive_rates]
    found: dict[float, float] = {}
    refusals: list[AccountingError] = []

    def epsilon(delta: float) -> float:
        if delta not in found:
            try:
                found[delta] = spend_jointly(parts, delta, arithmetic=arithmetic).epsilon
            except AccountingError as error:
                refusals.append(error)
                found[delta] = math.inf
        return found[delta]

    grid = _grid(least_delta)
    for delta in grid:
        epsilon(delta)
    if len(refusals) == len(grid):
        raise refusals[-1]
    if any(math.isfinite(each) for each in found.values()):
        _refine(epsilon, grid, _advantage, _SEARCHES_OF_ALL)
        for rate in rates:
            heights = [functools.partial(line, rate=rate) for line in (_steep, _flat)]
            lowest = [min(height(epsilon(delta), delta) for delta in grid) for height in heights]
            _refine(epsilon, grid, heights[lowest.index(min(lowest))], _SEARCHES)
    return _frontier(found)


def _grid(least_delta: float) -> list[float]:
    decades = math.log10(0.1 / least_delta)
    count = math.ceil(decades * _PER_DECADE)
    powers = [0.1 * 10 ** (-decades * k / max(count, 1)) for k in range(count, 0, -1)]
    return [*powers, 0.1, *_LARGE_DELTAS]


def _refine(
    epsilon: Callable[[float], float],
    grid: Sequence[float],
    height: Callable[[float, float], float],
    searches: int,
) -> None:
    """Asks for epsilon near the delta whose guarantee gives the lowest bound.

    Each guarantee gives a line that lies above the curve of the best test, and touches it where the
    slope is e^epsilon (or e^-epsilon). Along a convex curve, the height of these lines at one rate
    falls and then rises, so that a golden section search finds the lowest one. Where the search
    ends matters for how tight the bound is, and not for whether it holds.
    """
    place = min(range(len(grid)), key=lambda k: height(epsilon(grid[k]), grid[k]))
    # In log-odds, since the best delta may be near 0 or near 1.
    low = _log_odds(grid[max(place - 1, 0)])
    high = _log_odds(grid[min(place + 1, len(grid) - 1)])

    def at(odds: float) -> float:
        delta = float(special.expit(odds))
        return height(epsilon(delta), delta)

    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = at(left), at(right)
    for _ in range(searches):
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - _GOLDEN * (high - low)
            at_left = at(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + _GOLDEN * (high - low)
            at_right = at(right)


def _frontier(found: dict[float, float]) -> PrivacyProfile:
    """Returns the points that no other point implies."""
    points = [(e, d) for d, e in sorted(found.items()) if math.isfinite(e)]
    kept: list[tuple[float, float]] = []
    for epsilon, delta in points:
        if not kept or (epsilon < kept[-1][0] and delta < _implied(epsilon, kept)):
            kept.append((epsilon, delta))
    return PrivacyProfile(
        epsilons=tuple(epsilon for epsilon, _ in kept), deltas=tuple(delta for _, delta in kept)
    )


def _implied(epsilon: float, points: Sequence[tuple[float, float]]) -> float:
    """Returns the smallest delta at a small epsilon that follows from guarantees at larger ones.

    The two lines of a guarantee (epsilon', delta') meet on the antidiagonal, at the false positive
    rate (1 - delta') / (1 + e^epsilon'); a line of slope e^epsilon through that point is above both.
    """
    return min(
        delta + (1 - delta) * -math.expm1(epsilon - other) / (1 + math.exp(-other))
        for other, delta in points
    )


def _steep(epsilon: float, delta: float, rate: float) -> float:
    """Returns the bound on the true positive rate by what a participant adds to an outcome."""
    return math.exp(epsilon) * rate + delta if epsilon < 700 else math.inf


def _flat(epsilon: float, delta: float, rate: float) -> float:
    """Returns the bound on the true positive rate by what a participant takes from an outcome."""
    return 1 - math.exp(-epsilon) * (1 - rate - delta)


def _advantage(epsilon: float, delta: float) -> float:
    """Returns the largest distance of both lines of a guarantee above the diagonal."""
    # They meet at a = (1 - delta) / (1 + e^epsilon), where t - a = tanh(epsilon / 2) (1 - delta) + delta.
    return math.tanh(epsilon / 2) * (1 - delta) + delta


def _log_odds(delta: float) -> float:
    return math.log(delta) - math.log1p(-delta)


def _mu(epsilon: float, delta: float) -> float:
    """Returns the smallest mu of a Gaussian mechanism that has at least this delta at an epsilon."""
    if _gaussian_delta(epsilon, _LARGEST_MU) < delta:
        return math.inf
    low, high = 0.0, _LARGEST_MU
    while high - low > _MU_ERROR / 4 * high:
        middle = (low + high) / 2
        if _gaussian_delta(epsilon, middle) >= delta:
            high = middle
        else:
            low = middle
    return high * (1 + _MU_ERROR)


def _gaussian_delta(epsilon: float, mu: float) -> float:
    """Returns the delta of the Gaussian mechanism of a mu > 0 at an epsilon.

    Source: Balle and Wang, arXiv:1805.06530, theorem 8, with mu for the sensitivity over the
    standard deviation.
    """
    if epsilon == 0:
        return float(special.erf(mu / math.sqrt(8)))
    above, below = mu / 2 - epsilon / mu, -mu / 2 - epsilon / mu
    return float(special.ndtr(above) - math.exp(epsilon + float(special.log_ndtr(below))))
