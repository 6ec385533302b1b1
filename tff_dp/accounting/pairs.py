"""Dominating pairs of output distributions, and bounds on their privacy losses on a grid."""

from __future__ import annotations

import abc
import dataclasses
import math

import numpy as np
from dp_accounting import NeighboringRelation
from numpy.typing import NDArray
from scipy import optimize, signal, special

from tff_dp._compat.dp_accounting import AdjacencyType, GaussianPrivacyLoss

Floats = NDArray[np.float64]

# The logarithm of the mass that a grid leaves out at the ends of a Gaussian. The first value is
# dp-accounting's; the second is for so many rounds and so small a delta that the first would
# matter.
TRUNCATIONS = (-50.0, -62.0)
_LARGEST_EXPONENT = 600.0  # the largest |loss| for which products of masses and e^loss are precise


@dataclasses.dataclass(frozen=True)
class Cells:
    """The privacy losses of a pair, divided into cells between the points of a grid.

    Masses are those under the first distribution of the pair.

    Attributes:
      interval: The distance of two points, h.
      offset: The difference between the points and whole multiples of the interval.
      first: The lowest point, in intervals.
      lower: For each cell, the mass that the connect-the-dots discretization gives to its lower
        point; shape [points - 1].
      upper: For each cell, the mass that it gives to the upper point; shape [points - 1].
      below: The mass of the losses below the lowest point.
      below_excess: The mass of these losses under the second distribution, times e^loss of the
        lowest point, minus `below`.
      at_last: The part of the mass above the highest point that is given to that point.
      infinite: The part of the mass above the highest point that counts as an infinite loss.
    """

    interval: float
    offset: float
    first: int
    lower: Floats
    upper: Floats
    below: float
    below_excess: float
    at_last: float
    infinite: float

    def pessimistic(self) -> tuple[int, Floats, float]:
        """Returns a distribution on the points whose pair dominates this pair.

        In each cell, losses are moved to its two points such that the masses under both
        distributions are preserved. The hockey-stick divergence becomes the chord between its
        values at the points, which is nowhere below the true divergence.

        Source: Doroshenko et al., arXiv:2207.04380, algorithm 1.

        Returns:
          The lowest point, in intervals; the probability of each point, shape [points]; and the
          probability of an infinite loss.
        """
        probabilities = np.append(self.lower, self.at_last)
        probabilities[1:] += self.upper
        probabilities[0] += self.below
        return self.first, probabilities, self.infinite

    def optimistic(self, center: float) -> tuple[int, Floats] | None:
        """Returns a distribution on the points whose pair is dominated by this pair.

        In a cell whose lower and upper points have masses l and r, the divergence is above the
        tangents at both ends. At a fraction t of the cell (in e^epsilon), the tangents are below
        the chord by a t and b (1 - t), where a = l (e^h - 1) and b = r (1 - e^-h). Hence a chord
        that is lowered at both ends by a b / (a + b), or by b at the lower end only, or by a at the
        upper end only, is nowhere above the divergence. Each point is lowered by the larger of the
        amounts that its two cells require, so that the chords are nowhere above the divergence.
        Toward the ends, the chords are replaced by 1 - e^epsilon and 0, which are below every
        divergence. Where the result is not convex, the greatest convex function below it is taken.
        The result is the divergence of a pair of distributions that the true pair dominates, for
        any number of composed rounds.

        Source: Zhu et al., arXiv:2106.08567, proposition 13 (which functions are divergences) and
        theorem 10 (composition of dominating pairs).

        Args:
          center: A loss around which losses may be closer to each other than the points. The point
            next to it is lowered alone on behalf of both of its cells, so that nearby losses are
            moved to this point and not further.

        Returns:
          The lowest point, in intervals, and the probability of each point, shape [points]; None if
          the grid is too coarse for such a pair.
        """
        shrunk, grown = -math.expm1(-self.interval), math.expm1(self.interval)
        lower, upper = self.lower, self.upper
        with np.errstate(divide="ignore", invalid="ignore"):
            gaps = np.nan_to_num(upper * lower * shrunk / (lower + upper * (1 - shrunk)))
        middle = round((center - self.offset) / self.interval) - self.first
        middle = min(max(middle, 1), len(gaps) - 1)
        gaps[middle - 1 : middle + 1] = 0.0
        drops = np.maximum(np.append(gaps, 0.0), np.insert(gaps, 0, 0.0))
        drops[middle] = max(grown * lower[middle - 1], shrunk * upper[middle])
        _, probabilities, _ = self.pessimistic()
        if len(probabilities) * self.interval > _LARGEST_EXPONENT:
            return None
        # The difference of the divergence from 1 - e^epsilon at each point, and its difference from
        # 0.
        from_below = np.cumsum(probabilities)
        over_line = _recursion(grown * from_below, 1 + grown, self.below_excess)
        from_above = np.cumsum(np.append(probabilities, self.infinite)[::-1])[1:]
        over_zero = _recursion(shrunk * from_above, 1 - shrunk, self.infinite)[::-1]
        (low,) = np.nonzero(over_line < drops)
        first = int(low[-1]) + 1 if len(low) else 0
        (high,) = np.nonzero((over_zero < drops)[first:])
        last = first + int(high[0]) - 1 if len(high) else len(drops) - 1
        ends = self.offset + self.interval * (self.first + np.array([first, last]))
        if (
            last < first + 2 or ends[0] >= 0 or ends[1] <= 0
        ):  # 1 - e^epsilon and 0 cross at epsilon 0
            return None
        drops, probabilities = (
            drops[first : last + 1].copy(),
            probabilities[first : last + 1].copy(),
        )
        # Outside of the first and last points: the line 1 - e^epsilon, of slope -1, and 0.
        probabilities[0] = over_line[first] + from_below[first]
        probabilities[-1] = from_above[::-1][last] - over_zero[last]
        drops[0], drops[-1] = over_line[first], over_zero[last]
        steps = np.diff(drops)
        # A point's probability is e^loss times the change of the slope of the divergence in
        # e^epsilon.
        kinks = np.append(steps / grown, 0.0) - np.insert(steps / shrunk, 0, 0.0)
        probabilities -= kinks
        if probabilities.min() < 0:
            probabilities = self._convex(probabilities)
        return self.first + first, probabilities

    def _convex(self, probabilities: Floats) -> Floats:
        """Returns the probabilities that belong to the greatest convex function below the chords."""
        points = self.interval * np.arange(1 - len(probabilities), 1)
        weighted = np.cumsum((probabilities * np.exp(-points))[::-1])[::-1]  # minus the slopes
        falling = optimize.isotonic_regression(
            weighted[1:], weights=np.diff(np.exp(points)), increasing=False
        ).x
        slopes = np.concatenate([weighted[:1], falling, [0.0]])
        found: Floats = np.maximum(-np.diff(slopes), 0.0) * np.exp(points)
        return found


def _recursion(terms: Floats, factor: float, start: float) -> Floats:
    """Returns x with x[0] = start and x[i + 1] = factor x[i] + terms[i], of the length of `terms`."""
    found: Floats = signal.lfilter([1.0], [1.0, -factor], np.insert(terms[:-1], 0, start))
    return found


@dataclasses.dataclass(frozen=True)
class Pair(abc.ABC):
    """The output distributions of a round for two neighboring data sets.

    REMOVE and ADD dominate every pair of neighboring data sets under Poisson sampling: Zhu et al.,
    arXiv:2106.08567, theorem 11. For REPLACE under Poisson sampling we know of no proof. The pair is
    dp-accounting's: the two clients have opposite updates of the clip norm. A numerical search over
    other lengths and angles of the two updates has found no larger divergence. At rate 1 it is
    proven, as for any shift of a Gaussian by up to twice the clip norm.

    Args:
      noise_multiplier: z > 0, the scale of the noise over the clip norm.
      rate: q, the rate of Poisson sampling, in (0, 1].
      direction: REMOVE: outputs with the client, against outputs without it. ADD: the reverse.
        REPLACE: the client changes the sum by +1, and by -1 in the other data set.
    """

    noise_multiplier: float
    rate: float
    direction: AdjacencyType

    @abc.abstractmethod
    def bounds(self, log_truncated: float) -> tuple[float, float]:
        """Returns the range of the losses.

        Args:
          log_truncated: The logarithm of the mass that may be outside of the range at each end.

        Returns:
          The lowest and the highest loss.
        """

    @abc.abstractmethod
    def _cuts(self, losses: Floats) -> Floats:
        """Returns the outputs at which the loss has given values; +-inf for values it never has."""

    @abc.abstractmethod
    def _masses(self, outputs: Floats) -> Floats:
        """Returns the mass of the noise between -inf, ascending outputs, and inf; [outputs + 1]."""

    def center(self, reach: float) -> tuple[float, float]:
        """Returns the approximate mean and standard deviation of the losses near their median.

        Args:
          reach: The largest distance from the mean of the losses that count.

        Returns:
          The mean, and the standard deviation.
        """
        losses, log_masses = self.sample_losses()
        order = np.argsort(losses)
        losses, masses = losses[order], np.exp(log_masses[order])
        shares = np.cumsum(masses)
        found = float(losses[np.searchsorted(shares, 0.5 * shares[-1])])
        for _ in range(5):
            near = np.abs(losses - found) <= reach
            found = float(np.average(losses[near], weights=masses[near]))
        spread = math.sqrt(np.average((losses[near] - found) ** 2, weights=masses[near]))
        return found, spread

    @abc.abstractmethod
    def sample_losses(self) -> tuple[Floats, Floats]:
        """Returns losses at outputs close to each other, and the logarithms of their masses."""

    def cells(
        self, interval: float, log_truncated: float = TRUNCATIONS[0], offset: float = 0.0
    ) -> Cells:
        """Divides the losses into the cells of a grid.

        All masses come from sums of masses times the rate, and never from differences of nearly
        equal numbers. On a grid as fine as small rates require, such differences would be mere
        roundoff.

        Args:
          interval: The distance of two points of the grid, h > 0.
          log_truncated: The logarithm of the mass that may be outside of the grid at each end.
          offset: The difference between the points and whole multiples of the interval.

        Returns:
          The cells.
        """
        lowest, highest = self.bounds(log_truncated)
        first = math.floor((lowest - offset) / interval)
        last = max(math.ceil((highest - offset) / interval), first + 2)
        losses: Floats = offset + np.arange(first, last + 1, dtype=np.float64) * interval
        cuts = self._cuts(losses)
        falls = self.direction is AdjacencyType.ADD
        outputs = cuts[::-1] if falls else cuts

        def masses(center: float) -> Floats:
            found = self._masses(outputs - center)
            return found[::-1] if falls else found

        unmoved, moved, q = masses(0.0), masses(1.0), self.rate
        # The integral of p - e^loss q over each cell, where loss is that of the cell's lower point.
        starts = np.insert(losses, 0, losses[0])
        with np.errstate(over="ignore", invalid="ignore"):
            if self.direction is AdjacencyType.ADD:
                total = unmoved
                excess = np.exp(starts) * (unmoved * (np.expm1(-starts) + q) - q * moved)
            else:
                total = (1 - q) * unmoved + q * moved
                if self.direction is AdjacencyType.REMOVE:
                    excess = q * moved - (np.expm1(starts) + q) * unmoved
                else:
                    other = q * np.exp(starts) * masses(-1.0)
                    excess = q * moved - (1 - q) * unmoved * np.expm1(starts) - other
        shares = excess / -math.expm1(-interval)
        shares[-1] = excess[-1]  # the last cell reaches to infinity
        upper = np.clip(np.where(np.abs(starts) < _LARGEST_EXPONENT, shares, total), 0.0, total)
        lower = total - upper
        return Cells(
            interval=interval,
            offset=offset,
            first=first,
            lower=lower[1:-1],
            upper=upper[1:-1],
            below=float(total[0]),
            below_excess=max(0.0, float(-excess[0])),
            at_last=float(lower[-1]),
            infinite=float(upper[-1]),
        )

    def _unsampled(self, losses: Floats) -> Floats:
        """Maps losses under sampling to losses of a client that participates; +-inf if there is none."""
        if self.direction is AdjacencyType.ADD:
            losses = -losses
        with np.errstate(divide="ignore"):
            absent = np.minimum(np.log1p(-self.rate) - losses, 0.0)  # log of the mass without it
            found: Floats = losses - math.log(self.rate) + np.log(-np.expm1(absent))
        return found

    def _sampled(self, unsampled: Floats) -> Floats:
        """Maps losses of a client that participates to losses under sampling."""
        with np.errstate(divide="ignore"):
            large = np.logaddexp(np.log1p(-self.rate), math.log(self.rate) + unsampled)
            small = np.log1p(self.rate * np.expm1(np.minimum(unsampled, 1.0)))
        is_small = (unsampled < 1.0) & (self.rate < 1)
        found: Floats = np.where(is_small, small, large)
        return found


@dataclasses.dataclass(frozen=True)
class GaussianPair(Pair):
    """The pair of a Gaussian round; the arguments are those of `Pair`."""

    def bounds(self, log_truncated: float) -> tuple[float, float]:
        """Returns the lowest and the highest loss, except for a mass of exp(log_truncated)."""
        loss = GaussianPrivacyLoss(
            self.noise_multiplier,
            sampling_prob=self.rate,
            adjacency_type=self.direction,
            log_mass_truncation_bound=log_truncated,
        )
        found = loss.connect_dots_bounds()
        return found.epsilon_lower, found.epsilon_upper

    def _cuts(self, losses: Floats) -> Floats:
        variance = self.noise_multiplier**2
        if self.direction is AdjacencyType.REPLACE:
            cuts: Floats = variance * (losses / 2 + self._tilt(losses))
            return cuts
        found: Floats = 0.5 + variance * self._unsampled(losses)
        return found

    def _tilt(self, losses: Floats) -> Floats:
        """Returns arcsinh(sinh(loss / 2) exp(1 / (2 z^2)) (1 - rate) / rate), without overflow."""
        halves = np.abs(losses) / 2
        with np.errstate(divide="ignore"):
            log_sinh = halves + np.log(-np.expm1(-2 * halves)) - math.log(2)
            log_argument = log_sinh + 0.5 / self.noise_multiplier**2
            log_argument += np.log1p(-self.rate) - math.log(self.rate)
        argument = np.exp(np.minimum(log_argument, 100.0))
        large = log_argument + math.log(2)
        size: Floats = np.where(log_argument < 100.0, np.arcsinh(argument), large)
        return np.sign(losses) * size

    def _masses(self, outputs: Floats) -> Floats:
        scaled = np.concatenate([[-np.inf], outputs / self.noise_multiplier, [np.inf]])
        tails = special.ndtr(-np.abs(scaled))
        low, high = tails[:-1], tails[1:]
        between: Floats = np.abs(low - high)
        is_around = (scaled[:-1] < 0) & (scaled[1:] >= 0)
        between[is_around] = 1 - low[is_around] - high[is_around]
        return between

    def sample_losses(self) -> tuple[Floats, Floats]:
        """Returns losses at outputs close to each other, and the logarithms of their masses."""
        z, q = self.noise_multiplier, self.rate
        outputs = np.linspace(-12 * z, 1 + 12 * z, min(4000, 960 + math.ceil(10 / z)))

        def log_density(center: float) -> Floats:
            found: Floats = -0.5 * ((outputs - center) / z) ** 2
            return found

        step = math.log((outputs[1] - outputs[0]) / (z * math.sqrt(2 * math.pi)))
        losses = self._sampled((outputs - 0.5) / z**2)
        if self.direction is AdjacencyType.ADD:
            return -losses, log_density(0.0) + step
        if self.direction is AdjacencyType.REPLACE:
            losses = losses - self._sampled((-outputs - 0.5) / z**2)
        with np.errstate(divide="ignore"):
            mixture = np.logaddexp(np.log1p(-q) + log_density(0.0), math.log(q) + log_density(1.0))
        return losses, mixture + step


@dataclasses.dataclass(frozen=True)
class LaplacePair(Pair):
    """The pair of a round of Laplace noise, in direction REMOVE or ADD; arguments as for `Pair`."""

    def bounds(self, log_truncated: float) -> tuple[float, float]:
        """Returns a range slightly wider than that of the losses, so that every loss is in a cell."""
        del log_truncated
        ends = self._sampled(np.array([-1.0, 1.0]) / self.noise_multiplier)
        low, high = (float(end) for end in ends)
        margin = 1e-9 * (high - low)
        low, high = low - margin, high + margin
        return (-high, -low) if self.direction is AdjacencyType.ADD else (low, high)

    def _cuts(self, losses: Floats) -> Floats:
        cuts = 0.5 + 0.5 * self.noise_multiplier * self._unsampled(losses)
        found: Floats = np.where(cuts < 0, -np.inf, np.where(cuts > 1, np.inf, cuts))
        return found

    def _masses(self, outputs: Floats) -> Floats:
        scaled = np.concatenate([[-np.inf], outputs / self.noise_multiplier, [np.inf]])
        starts, ends = scaled[:-1], scaled[1:]
        # The parts below and above zero each have a mass of e^-(smaller distance) (1 - e^-width) /
        # 2.
        found = np.zeros(len(starts))
        for low, high in ((starts, np.minimum(ends, 0)), (-ends, np.minimum(-starts, 0))):
            (at,) = np.nonzero(low < high)
            found[at] += 0.5 * np.exp(high[at]) * -np.expm1(low[at] - high[at])
        return found

    def sample_losses(self) -> tuple[Floats, Floats]:
        """Returns losses at outputs close to each other, and the logarithms of their masses."""
        z, q = self.noise_multiplier, self.rate
        edges = np.linspace(0, 1, min(4000, 960 + math.ceil(10 / z)))
        outputs = np.concatenate([[0.0], (edges[1:] + edges[:-1]) / 2, [1.0]])
        losses = self._sampled((2 * outputs - 1) / z)
        with np.errstate(divide="ignore"):
            unmoved, moved = (np.log(self._masses(edges - center)) for center in (0.0, 1.0))
            if self.direction is AdjacencyType.ADD:
                return -losses, unmoved
            return losses, np.logaddexp(np.log1p(-q) + unmoved, math.log(q) + moved)


def gaussian_pairs(
    noise_multiplier: float, rate: float, relation: NeighboringRelation
) -> tuple[Pair, ...]:
    """Returns the dominating pairs of a Gaussian round.

    Args:
      noise_multiplier: z > 0, the standard deviation of the noise over the clip norm.
      rate: q, the rate of Poisson sampling, in (0, 1].
      relation: The neighboring relation.

    Returns:
      The pairs; the one with the larger epsilon counts.
    """
    directions = [AdjacencyType.REMOVE, AdjacencyType.ADD]
    if relation is NeighboringRelation.REPLACE_ONE:
        directions = [AdjacencyType.REPLACE]
    elif rate == 1:  # both directions have the same losses
        directions = [AdjacencyType.REMOVE]
    return tuple(GaussianPair(noise_multiplier, rate, direction) for direction in directions)


def laplace_pairs(noise_multiplier: float, rate: float) -> tuple[Pair, ...]:
    """Returns the dominating pairs of a Laplace round whose sum changes by one clip norm.

    Args:
      noise_multiplier: z > 0, the scale of the noise over the clip norm.
      rate: q, the rate of Poisson sampling, in (0, 1].

    Returns:
      The pairs; the one with the larger epsilon counts.
    """
    directions = [AdjacencyType.REMOVE, AdjacencyType.ADD][: 1 if rate == 1 else 2]
    return tuple(LaplacePair(noise_multiplier, rate, direction) for direction in directions)
