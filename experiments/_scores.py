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
    positive, negative = scores[labels], scores[~labels]
    if not len(positive) or not len(negative):
        raise ArgumentError(
            f"labels has {len(positive)} positive and {len(negative)} negative examples: expected both."
        )
    of_positive = _placements(positive, negative)
    of_negative = 1.0 - _placements(negative, positive)
    value = float(of_positive.mean())
    variance = _mean_variance(of_positive) + _mean_variance(of_negative)
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
