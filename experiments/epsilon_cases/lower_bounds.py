"""Proven lower bounds on epsilon, without any accountant.

Each comes from two neighboring data sets whose output distributions P and Q are known exactly. An
event A proves that no epsilon below log((P(A) - delta) / Q(A)) holds at delta. For rounds with
independent noise and sampling, the events are about a statistic: every round's output is mapped to a
cell, the cell to a whole number, and the numbers of all rounds are added. Whatever is computed from
the outputs, privacy cannot get worse by it; so what the statistic reveals is a lower bound, whichever
cells and numbers were chosen. They are chosen such that the sum is close to the privacy loss, which
makes the bound tight.

The distributions of sums are computed by direct convolution. Its terms are positive, so that the
error is relative, and bounded by the number of operations: below 1e-8 here. `_SLACK` allows for more.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy import optimize, special

_SLACK = 1e-6  # relative error allowed to probabilities, always against the bound
_LEAST = (
    1e-250  # smaller probabilities may have lost digits to underflow: no event is taken from them
)
_RARE = 1e-22
_MOST = 60.0  # the largest privacy loss of one round that is told apart from larger ones
_CELLS = 4000


@dataclasses.dataclass(frozen=True)
class Pair:
    """What one round's output, as a cell, reveals: probabilities of the same cells under P and Q.

    Attributes:
      p: Probabilities under P, [cells]; they sum to 1.
      q: Probabilities under Q, [cells].
    """

    p: np.ndarray
    q: np.ndarray

    @property
    def swapped(self) -> Pair:
        """The pair with P and Q exchanged."""
        return Pair(self.q, self.p)


Distribution = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Gives the probabilities of outputs below and of outputs above each of some points."""


def normal(mean: float, deviation: float) -> Distribution:
    """Returns a Gaussian distribution.

    Args:
      mean: Its mean.
      deviation: Its standard deviation, > 0.
    """

    def tails(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        at = (x - mean) / deviation
        return special.ndtr(at), special.ndtr(-at)

    return tails


def laplace(mean: float, scale: float) -> Distribution:
    """Returns a Laplace distribution.

    Args:
      mean: Its mean.
      scale: Its scale, > 0.
    """

    def tails(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        at = (x - mean) / scale
        small = np.exp(-np.abs(at)) / 2
        return np.where(at < 0, small, 1 - small), np.where(at > 0, small, 1 - small)

    return tails


def mixture(parts: Sequence[tuple[float, Distribution]]) -> Distribution:
    """Returns a mixture.

    Args:
      parts: Weights, which sum to 1, and distributions.
    """

    def tails(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        low, high = np.zeros(len(x)), np.zeros(len(x))
        for weight, part in parts:
            below, above = part(x)
            low += weight * below
            high += weight * above
        return low, high

    return tails


def cells(p: Distribution, q: Distribution, low: float, high: float) -> Pair:
    """Divides the line into cells of equal width between two ends, and two beyond them.

    Args:
      p: The distribution of outputs for one data set.
      q: For its neighbor.
      low: The lower end.
      high: The upper end.

    Returns:
      The cells' probabilities.
    """
    points = np.linspace(low, high, _CELLS)
    return Pair(_masses(p, points), _masses(q, points))


def _masses(distribution: Distribution, points: np.ndarray) -> np.ndarray:
    below, above = distribution(points)
    # A difference of the smaller tails keeps the digits of cells far out.
    inner = np.where(below[1:] < 0.5, below[1:] - below[:-1], above[:-1] - above[1:])
    return np.concatenate([below[:1], inner, above[-1:]])


def composed(pair: Pair, rounds: int, delta: float, *, step: float = 0.01) -> float:
    """Returns a lower bound on epsilon of independent rounds whose outputs are those of a pair.

    Args:
      pair: One round.
      rounds: T >= 1.
      delta: Of the guarantee, in (0, 1).
      step: The privacy loss that one unit of the statistic stands for, > 0: smaller is tighter.

    Returns:
      The larger bound of both directions; >= 0.
    """
    keep = pair.p + pair.q > 0
    p, q = pair.p[keep], pair.q[keep]
    most = _MOST / step
    with np.errstate(divide="ignore"):
        numbers = np.rint(np.clip((np.log(p) - np.log(q)) / step, -most, most)).astype(int)
    numbers -= numbers.min()
    one = np.stack([np.bincount(numbers, weights=masses) for masses in (p, q)])
    p, q = _power(one, rounds)
    return max(_one_way(p[::-1], q[::-1], delta), _one_way(q, p, delta))


def _one_way(p: np.ndarray, q: np.ndarray, delta: float) -> float:
    """Returns the best bound of the events that are the first cells."""
    under_p, under_q = np.cumsum(p), np.cumsum(q)
    counted = (under_p * (1 - _SLACK) > delta) & (under_q > _LEAST)
    if not counted.any():
        return 0.0
    excess = under_p[counted] * (1 - _SLACK) - delta
    return max(0.0, float(np.max(np.log(excess) - np.log(under_q[counted] * (1 + _SLACK)))))


def _power(one: np.ndarray, rounds: int) -> np.ndarray:
    """Returns the distributions, [2, numbers], of the sum of `rounds` numbers, but for a constant."""
    if rounds == 1:
        return one
    half = _power(one, rounds // 2)
    even = _sum(half, half)
    return _sum(even, one) if rounds % 2 else even


def _sum(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns the distributions of the sum of two numbers.

    Numbers beyond which there is next to no probability count as the last one before: that is a function
    of the outputs as well, and the same one for both data sets.
    """
    both = np.stack([np.convolve(a[row], b[row]) for row in (0, 1)])
    rare = both.max(axis=0) < _RARE
    first, last = int(np.argmin(rare)), len(rare) - int(np.argmin(rare[::-1]))
    kept = both[:, first:last].copy()
    kept[:, 0] += both[:, :first].sum(axis=1)
    kept[:, -1] += both[:, last:].sum(axis=1)
    return kept


def sampled_gaussian(rate: float, z: float, rounds: int, delta: float) -> float:
    """Returns a lower bound for a client that moves a sum by 1 in a share of the rounds.

    Q is N(0, z^2), and P is N(1, z^2) with probability `rate` and else Q: the sum of the others is
    known.

    Args:
      rate: The probability of the client's participation, independent in each round.
      z: The deviation of the noise over the change, > 0.
      rounds: T >= 1.
      delta: In (0, 1).
    """
    absent = normal(0.0, z)
    present = mixture([(1 - rate, absent), (rate, normal(1.0, z))])
    return composed(cells(present, absent, -10 * z, 1 + 10 * z), rounds, delta)


def gaussian(mu: float, delta: float) -> float:
    """Returns the epsilon of a Gaussian of deviation 1 / mu around a value that changes by 1.

    It is exact but for the last digits. T rounds of noise multiplier z are one of mu = sqrt(T) / z.
    Source: Balle and Wang, arXiv:1805.06530, theorem 8.

    Args:
      mu: The change over the deviation, > 0.
      delta: In (0, 1).

    Returns:
      Epsilon, rounded down in the ninth digit.
    """

    def excess(epsilon: float) -> float:
        above, below = mu / 2 - epsilon / mu, -mu / 2 - epsilon / mu
        return float(
            special.ndtr(above) - math.exp(epsilon + float(special.log_ndtr(below))) - delta
        )

    if excess(0.0) <= 0:
        return 0.0
    high = mu * mu / 2 + 40 * mu
    return float(optimize.brentq(excess, 0.0, high, xtol=1e-13, rtol=1e-13)) * (1 - 1e-9)


def event(p: float, q: float, delta: float) -> float:
    """Returns the lower bound that one event proves.

    Args:
      p: Its probability, or a lower bound on it, for one data set.
      q: Its probability, or an upper bound on it, for the neighbor.
      delta: In (0, 1).

    Returns:
      Epsilon >= 0; infinite if the neighbor excludes the event.
    """
    if p * (1 - _SLACK) <= delta:
        return 0.0
    if q == 0:
        return math.inf
    return max(0.0, math.log((p * (1 - _SLACK) - delta) / (q * (1 + _SLACK))))


def shuffled(batches: int, epochs: int, z: float, delta: float) -> float:
    """Returns a lower bound for batches of a random order, drawn anew in each epoch.

    All others move the sum by -1, the client by +1 or, in the neighboring data set, by 0 (zero-out).
    Against batches of others alone, its batch is higher by 2, or by 1. The statistic of an epoch is the
    highest batch.

    Source: Chua et al., "How Private are DP-SGD Implementations?", arXiv:2403.17673, section 4.

    Args:
      batches: Of an epoch, >= 1.
      epochs: >= 1.
      z: The deviation of the noise over the clip norm, > 0.
      delta: In (0, 1).
    """

    def highest(change: float) -> Distribution:
        def tails(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            log_below = special.log_ndtr((x - change) / z) + (batches - 1) * special.log_ndtr(x / z)
            return np.exp(log_below), -np.expm1(log_below)

        return tails

    pair = cells(highest(2.0), highest(1.0), -5 * z, 2 + 10 * z)
    return composed(pair, epochs, delta)


def best_of(runs: int, mu: float, delta: float) -> float:
    """Returns a lower bound for the best of some runs, each of which is a Gaussian of a mu.

    The score by which the best run is chosen is the output itself: its largest value is released. It
    exceeds c with probability 1 - Phi(c - mu)^runs, and 1 - Phi(c)^runs without the client.

    Args:
      runs: >= 1.
      mu: The change over the deviation, > 0.
      delta: In (0, 1).
    """
    found = 0.0
    for c in np.linspace(0, 12, 1201):
        p, q = (-math.expm1(runs * float(special.log_ndtr(c - m))) for m in (mu, 0.0))
        found = max(found, event(p, q, delta)) if q > 0 else found
    return found
