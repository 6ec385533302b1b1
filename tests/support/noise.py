"""Aggregators run on their own, and statistical tests of their noise.

Each test passes a right sample but for FALSE_POSITIVE.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy import stats

from tff_dp import _compat

FALSE_POSITIVE = 1e-6


def process_of(factory: Any, *dimensions: int) -> Any:
    """Returns a factory's aggregation process over one float32 vector a client, or over several."""
    tff = _compat.tff.load()
    types = [tff.types.TensorType(np.float32, [dimension]) for dimension in dimensions]
    return factory.create(tff.types.to_type(types) if len(types) > 1 else types[0])


class Aggregator:
    """An aggregation process over one float32 vector a client, or over several.

    Args:
      factory: Makes the process.
      dimensions: Of the vectors.
      process: What `process_of` returns for both, where several aggregators share one.
    """

    def __init__(self, factory: Any, *dimensions: int, process: Any = None) -> None:
        self._several = len(dimensions) > 1
        self._process = process or process_of(factory, *dimensions)
        self.state = self._process.initialize()

    def __call__(self, updates: Any) -> Any:
        """Aggregates a round's updates, each a vector or a list of them."""
        if self._several:
            updates = [[np.asarray(part, np.float32) for part in update] for update in updates]
        else:
            updates = [np.asarray(update, np.float32) for update in updates]
        self.output = self._process.next(self.state, updates)
        self.state = self.output.state
        result = self.output.result
        return [np.asarray(part) for part in result] if self._several else np.asarray(result)


def has_standard_deviation(sample: np.ndarray, sigma: float) -> bool:
    """Chi-squared test of N(0, sigma^2), two-sided: a right sample passes but for FALSE_POSITIVE / 2."""
    statistic = np.sum(np.square(sample.astype(np.float64) / sigma))
    tail = min(stats.chi2.cdf(statistic, sample.size), stats.chi2.sf(statistic, sample.size))
    return bool(tail > FALSE_POSITIVE / 4)


def is_normal(sample: np.ndarray, sigma: float) -> bool:
    """Kolmogorov-Smirnov test of N(0, sigma^2); passes a right sample but for FALSE_POSITIVE / 2."""
    return bool(stats.kstest(sample / sigma, "norm").pvalue > FALSE_POSITIVE / 2)


def is_laplace(sample: np.ndarray, scale: float) -> bool:
    """Kolmogorov-Smirnov test of Laplace noise; passes a right sample but for FALSE_POSITIVE / 2."""
    return bool(stats.kstest(sample / scale, "laplace").pvalue > FALSE_POSITIVE / 2)


def are_uncorrelated(first: np.ndarray, second: np.ndarray) -> bool:
    """Correlations of n independent pairs are N(0, 1/n); 5 deviations have probability 6e-7."""
    return bool(abs(np.corrcoef(first, second)[0, 1]) < 5 / math.sqrt(len(first)))
