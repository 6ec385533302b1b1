"""How well scores tell two classes apart, with intervals."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from scipy import stats

from tff_dp.errors import ArgumentError

_NORMAL_97_5 = float(stats.norm.ppf(0.975))


@dataclasses.dataclass(frozen=True)
class Score:
    """A value with its interval of 95 % confidence.

    Attributes:
      value: The value.
      low: The lower bound.
      high: The upper bound.
    """

    value: float
    low: float
    high: float


def auc(labels: np.ndarray, scores: np.ndarray) -> Score:
    """Computes the area under the ROC curve.

    The interval is that of DeLong for independent examples, on the logit scale, which keeps it within
    [0, 1]. It says nothing about the training, which would give another model with other examples.

    Args:
      labels: 0 or 1, shape [examples] or [examples, 1].
      scores: The larger, the more likely is 1; of the same number.

    Returns:
      The area and its interval; [0, 1] where all examples are told apart, or none.

    Raises:
      ArgumentError: The labels have one class.

    Source:
      DeLong, DeLong and Clarke-Pearson, "Comparing the areas under two or more correlated receiver
      operating characteristic curves" (Biometrics 1988); Pepe, "The statistical evaluation of medical
      tests" (2003), section 5.2.5, for the logit.
    """
    labels, scores = np.ravel(labels).astype(bool), np.ravel(scores).astype(np.float64)
    positive, negative = int(labels.sum()), int((~labels).sum())
    if not positive or not negative:
        raise ArgumentError(
            f"labels has {positive} positive and {negative} negative examples: expected both."
        )
    return _with_interval(*_area(labels, scores))


def auc_within(labels: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> Score:
    """Computes the share of pairs of a positive and a negative example of one group in right order.

    That groups differ in their share of positive examples, which scores may tell apart, does not count
    here: an area over all examples together can be large for that reason alone.

    Args:
      labels: 0 or 1, shape [examples] or [examples, 1].
      scores: The larger, the more likely is 1; of the same number.
      groups: The group of each example. Groups with fewer than two examples of a class are left out.

    Returns:
      The share, which is the mean of the groups' areas, weighted by their numbers of pairs; and its
      interval, as of `auc`.

    Raises:
      ArgumentError: No group has two examples of each class.
    """
    labels, scores = np.ravel(labels).astype(bool), np.ravel(scores).astype(np.float64)
    weights, areas, variances = [], [], []
    for group in np.unique(groups):
        mine = np.asarray(groups) == group
        positive, negative = int(labels[mine].sum()), int((~labels[mine]).sum())
        if min(positive, negative) >= 2:
            area, variance = _area(labels[mine], scores[mine])
            weights.append(positive * negative)
            areas.append(area)
            variances.append(variance)
    if not weights:
        raise ArgumentError(
            "groups has none with two examples of each class: expected at least one."
        )
    shares = np.array(weights) / sum(weights)
    return _with_interval(float(shares @ areas), float(shares**2 @ variances))


def _area(labels: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    """Returns the area and DeLong's variance of it."""
    positive, negative = scores[labels], scores[~labels]
    of_positive = _placements(positive, negative)
    of_negative = 1.0 - _placements(negative, positive)
    return float(of_positive.mean()), _mean_variance(of_positive) + _mean_variance(of_negative)


def _with_interval(value: float, variance: float) -> Score:
    """Returns a share with its interval on the logit scale."""
    if not 0 < value < 1 or not math.isfinite(variance):
        return Score(value, 0.0, 1.0)
    logit = math.log(value / (1 - value))
    half = _NORMAL_97_5 * math.sqrt(variance) / (value * (1 - value))
    return Score(value, 1 / (1 + math.exp(half - logit)), 1 / (1 + math.exp(-half - logit)))


def _placements(these: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns the share of the others that are below each of these, ties as halves."""
    ordered = np.sort(others)
    below = np.searchsorted(ordered, these, side="left")
    up_to = np.searchsorted(ordered, these, side="right")
    return np.asarray(below + up_to) / (2 * len(others))


def _mean_variance(values: np.ndarray) -> float:
    """Returns the variance of the mean of independent values; infinite for a single one."""
    return float(values.var(ddof=1) / len(values)) if len(values) > 1 else math.inf


def accuracy(right: int, examples: int) -> Score:
    """Computes a share of right answers.

    Args:
      right: How many are right; in [0, examples].
      examples: How many there are; >= 1.

    Returns:
      The share with its interval.

    Source:
      Wilson, "Probable inference, the law of succession, and statistical inference" (JASA 1927).
    """
    found = stats.binomtest(right, examples).proportion_ci(method="wilson")
    return Score(right / examples, float(found.low), float(found.high))
