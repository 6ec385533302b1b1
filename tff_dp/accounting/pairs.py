"""The worst pairs of output distributions, and their privacy losses on a grid, from above and below."""

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

# Mass of a Gaussian's ends that a grid leaves out, in logarithms. The first is dp-accounting's; the
# second is for so many rounds, at so small a delta, that the first would count.
TRUNCATIONS = (-50.0, -62.0)
_LARGEST_EXPONENT = 600.0  # of a loss; beyond it, products of masses are no longer told apart


@dataclasses.dataclass(frozen=True)
class Cells:
    """A privacy loss that is cut at the points of a grid; masses are those under the first law.

    Attributes:
      interval: The grid's, h.
      offset: What its points are more than whole multiples of it.
      first: The lowest point, in intervals.
      lower: Of the mass between each point and the next, the share that the connect-the-dots
        discretisation gives to the lower point; shape [points - 1].
      upper: The share that it gives to the upper one.
      below: The mass of losses below the lowest point.
      below_excess: By how much the mass of these under the second law, times the lowest point's e^loss,
        exceeds it.
      at_last: Of the mass above the highest point, the share that it gives to that point.
      infinite: The share that counts as an infinite loss.
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
        """Returns the lowest point, the probabilities of points, and that of an infinite loss.

        In each cell, losses move to its two points so that the masses under both laws stay the same.
        The hockey-stick divergence then is the chord between its values at the points, and nowhere
        below the true one.

        Source: Doroshenko et al., arXiv:2207.04380, algorithm 1.
        """
        probabilities = np.append(self.lower, self.at_last)
        probabilities[1:] += self.upper
        probabilities[0] += self.below
        return self.first, probabilities, self.infinite

    def optimistic(self, centre: float) -> tuple[int, Floats] | None:
        """Returns the lowest point, and probabilities of points, of a pair that is dominated.

        In a cell with shares l and r, the divergence exceeds the tangents at its ends, which are below
        its chord by a t and b (1 - t) at a part t of the cell (in e^epsilon), a = l (e^h - 1) and
        b = r (1 - e^-h). So a chord that is lowered at both ends by a b / (a + b), or by b at the lower
        end alone, or by a at the upper one alone, is nowhere above it. Lowered at each point by what
        both cells beside it ask for, the chords are nowhere above the divergence; towards the ends, they
        are replaced by what is below every divergence,
        1 - e^epsilon and 0. Where they are no longer convex, the greatest convex function below them is
        taken. What is left is the divergence of a pair of laws, which the true pair dominates, however
        many rounds are composed.

        Source: Zhu et al., arXiv:2106.08567, proposition 13 (which functions are divergences) and
        theorem 10 (composition of dominating pairs).

        Args:
          centre: Around which losses may lie closer to each other than the points. The point next to it
            is lowered for both cells beside it, so that what is near is moved there and no further.

        Returns:
          None where the grid is too coarse for such a pair.
        """
        shrunk, grown = -math.expm1(-self.interval), math.expm1(self.interval)
        lower, upper = self.lower, self.upper
        with np.errstate(divide="ignore", invalid="ignore"):
            gaps = np.nan_to_num(upper * lower * shrunk / (lower + upper * (1 - shrunk)))
        middle = round((centre - self.offset) / self.interval) - self.first
        middle = min(max(middle, 1), len(gaps) - 1)
        gaps[middle - 1 : middle + 1] = 0.0
        drops = np.maximum(np.append(gaps, 0.0), np.insert(gaps, 0, 0.0))
        drops[middle] = max(grown * lower[middle - 1], shrunk * upper[middle])
        _, probabilities, _ = self.pessimistic()
        if len(probabilities) * self.interval > _LARGEST_EXPONENT:
            return None
        # By how much the divergence exceeds 1 - e^epsilon at each point, and how much it exceeds 0.
        from_below = np.cumsum(probabilities)
        over_line = _recursion(grown * from_below, 1 + grown, self.below_excess)
        from_above = np.cumsum(np.append(probabilities, self.infinite)[::-1])[1:]
        over_zero = _recursion(shrunk * from_above, 1 - shrunk, self.infinite)[::-1]
        (low,) = np.nonzero(over_line < drops)
        first = int(low[-1]) + 1 if len(low) else 0
        (high,) = np.nonzero((over_zero < drops)[first:])
        last = first + int(high[0]) - 1 if len(high) else len(drops) - 1
        ends = self.offset + self.interval * (self.first + np.array([first, last]))
        if last < first + 2 or ends[0] >= 0 or ends[1] <= 0:  # where the line and 0 cross
            return None
        drops, probabilities = (
            drops[first : last + 1].copy(),
            probabilities[first : last + 1].copy(),
        )
        # From there, the line 1 - e^epsilon, of slope -1, and 0.
        probabilities[0] = over_line[first] + from_below[first]
        probabilities[-1] = from_above[::-1][last] - over_zero[last]
        drops[0], drops[-1] = over_line[first], over_zero[last]
        steps = np.diff(drops)
        # A probability is its point's e^loss times the change of the divergence's slope in e^epsilon.
        kinks = np.append(steps / grown, 0.0) - np.insert(steps / shrunk, 0, 0.0)
        probabilities -= kinks
        if probabilities.min() < 0:
            probabilities = self._convex(probabilities)
        return self.first + first, probabilities

    def _convex(self, probabilities: Floats) -> Floats:
        """Returns the probabilities of the greatest convex function below a divergence's chords."""
        points = self.interval * np.arange(1 - len(probabilities), 1)
        weighted = np.cumsum((probabilities * np.exp(-points))[::-1])[::-1]  # minus the slopes
        falling = optimize.isotonic_regression(
            weighted[1:], weights=np.diff(np.exp(points)), increasing=False
        ).x
        slopes = np.concatenate([weighted[:1], falling, [0.0]])
        found: Floats = np.maximum(-np.diff(slopes), 0.0) * np.exp(points)
        return found


def _recursion(terms: Floats, factor: float, start: float) -> Floats:
    """Returns x with x[0] = start and x[i + 1] = factor x[i] + terms[i], as long as the terms."""
    found: Floats = signal.lfilter([1.0], [1.0, -factor], np.insert(terms[:-1], 0, start))
    return found


@dataclasses.dataclass(frozen=True)
class Pair(abc.ABC):
    """The output of a round with one more client, or another one, against that without it.

    Args:
      noise_multiplier: z > 0: the noise's scale over the clip norm.
      rate: q, of Poisson sampling, in (0, 1].
      direction: REMOVE: losses of outputs that the client may have been in, against those without it;
        ADD: the reverse; REPLACE: the client moves the sum by +1, and in the other data set by -1.

    REMOVE and ADD dominate every pair of neighbours under Poisson sampling: Zhu et al.,
    arXiv:2106.08567, theorem 11. For REPLACE under Poisson sampling we know of no proof. The pair is
    dp-accounting's: of two clients whose updates lie opposite each other, at the clip norm. A numerical
    search over other lengths and angles of the two updates has found no larger divergence. At rate 1 it
    is proven, as any shift of a Gaussian by up to twice the clip norm.
    """

    noise_multiplier: float
    rate: float
    direction: AdjacencyType

    @abc.abstractmethod
    def bounds(self, log_truncated: float) -> tuple[float, float]:
        """Returns the lowest and the highest loss, but for a mass of exp(log_truncated)."""

    @abc.abstractmethod
    def _cuts(self, losses: Floats) -> Floats:
        """Returns the outputs at which the loss has some values; +-inf for values that it never has."""

    @abc.abstractmethod
    def _masses(self, outputs: Floats) -> Floats:
        """Returns the noise's mass between -inf, each output, and inf; they rise. Shape [outputs + 1]."""

    def centre(self, reach: float) -> tuple[float, float]:
        """Returns mean and standard deviation of the losses within some reach of it, nearly."""
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
        """Returns losses at outputs that lie close to each other, and the logs of their masses."""

    def cells(
        self, interval: float, log_truncated: float = TRUNCATIONS[0], offset: float = 0.0
    ) -> Cells:
        """Returns the losses, cut at the points of a grid, of which one is at an offset from 0.

        All shares come from sums of masses times the rate: no differences of nearly equal numbers,
        which would be all there is on a grid as fine as small rates need.
        """
        lowest, highest = self.bounds(log_truncated)
        first = math.floor((lowest - offset) / interval)
        last = max(math.ceil((highest - offset) / interval), first + 2)
        losses: Floats = offset + np.arange(first, last + 1, dtype=np.float64) * interval
        cuts = self._cuts(losses)
        falls = self.direction is AdjacencyType.ADD
        outputs = cuts[::-1] if falls else cuts

        def masses(centre: float) -> Floats:
            found = self._masses(outputs - centre)
            return found[::-1] if falls else found

        unmoved, moved, q = masses(0.0), masses(1.0), self.rate
        # Of each cell, of P at or above e^loss Q: the integral of p - e^loss q, at its lower point.
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
        """Returns the loss of a client that takes part, of losses under sampling; +-inf for none."""
        if self.direction is AdjacencyType.ADD:
            losses = -losses
        with np.errstate(divide="ignore"):
            absent = np.minimum(np.log1p(-self.rate) - losses, 0.0)  # log of the mass without it
            found: Floats = losses - math.log(self.rate) + np.log(-np.expm1(absent))
        return found

    def _sampled(self, unsampled: Floats) -> Floats:
        """Returns the loss under sampling of a client's that takes part."""
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
        """Returns the lowest and the highest loss, but for a mass of exp(log_truncated)."""
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
        """Returns losses at outputs that lie close to each other, and the logs of their masses."""
        z, q = self.noise_multiplier, self.rate
        outputs = np.linspace(-12 * z, 1 + 12 * z, min(4000, 960 + math.ceil(10 / z)))

        def log_density(centre: float) -> Floats:
            found: Floats = -0.5 * ((outputs - centre) / z) ** 2
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
    """The pair of a round of Laplace noise, of REMOVE or ADD; the arguments are those of `Pair`."""

    def bounds(self, log_truncated: float) -> tuple[float, float]:
        """Returns the lowest and the highest loss; a little beyond them, so that each is in a cell."""
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
        # In parts below and above zero, of which each is e^-(the smaller distance) (1 - e^-width) / 2.
        found = np.zeros(len(starts))
        for low, high in ((starts, np.minimum(ends, 0)), (-ends, np.minimum(-starts, 0))):
            (at,) = np.nonzero(low < high)
            found[at] += 0.5 * np.exp(high[at]) * -np.expm1(low[at] - high[at])
        return found

    def sample_losses(self) -> tuple[Floats, Floats]:
        """Returns losses at outputs that lie close to each other, and the logs of their masses."""
        z, q = self.noise_multiplier, self.rate
        edges = np.linspace(0, 1, min(4000, 960 + math.ceil(10 / z)))
        outputs = np.concatenate([[0.0], (edges[1:] + edges[:-1]) / 2, [1.0]])
        losses = self._sampled((2 * outputs - 1) / z)
        with np.errstate(divide="ignore"):
            unmoved, moved = (np.log(self._masses(edges - centre)) for centre in (0.0, 1.0))
            if self.direction is AdjacencyType.ADD:
                return -losses, unmoved
            return losses, np.logaddexp(np.log1p(-q) + unmoved, math.log(q) + moved)


def gaussian_pairs(
    noise_multiplier: float, rate: float, relation: NeighboringRelation
) -> tuple[Pair, ...]:
    """Returns the pairs of a Gaussian round, of which the worse one counts."""
    directions = [AdjacencyType.REMOVE, AdjacencyType.ADD]
    if relation is NeighboringRelation.REPLACE_ONE:
        directions = [AdjacencyType.REPLACE]
    elif rate == 1:  # both are the same
        directions = [AdjacencyType.REMOVE]
    return tuple(GaussianPair(noise_multiplier, rate, direction) for direction in directions)


def laplace_pairs(noise_multiplier: float, rate: float) -> tuple[Pair, ...]:
    """Returns the pairs of a round of Laplace noise that moves by one clip norm."""
    directions = [AdjacencyType.REMOVE, AdjacencyType.ADD][: 1 if rate == 1 else 2]
    return tuple(LaplacePair(noise_multiplier, rate, direction) for direction in directions)
