"""The strategy of banded matrix factorization, which determines how noise is correlated over rounds."""

from __future__ import annotations

import functools

import numpy as np
from scipy import optimize, signal


@functools.lru_cache(maxsize=32)
def banded_strategy(bands: int, rounds: int) -> tuple[float, ...]:
    """Returns the coefficients of the optimal banded Toeplitz strategy for running sums.

    A round's noise w solves S w = g for independent g, where S is lower triangular Toeplitz with these
    coefficients on its diagonals. They minimize the mean squared noise of the running sums at a given
    sensitivity (the norm of the first column; the other columns contain parts of it).

    Source: McKenna, "Scaling up the Banded Matrix Factorization Mechanism", arXiv:2405.15913, section 4.
    The search starts from the coefficients of the matrix square root: Kalinin and Lampert,
    arXiv:2405.13763, theorem 1.

    Args:
      bands: b >= 1; at most `rounds` bands are used.
      rounds: T >= 1.

    Returns:
      min(b, T) coefficients, the first positive, of Euclidean norm 1.
    """
    bands = min(bands, rounds)
    steps = np.arange(1, bands)
    square_root = np.cumprod(np.concatenate([[1.0], (2 * steps - 1) / (2 * steps)]))
    found = optimize.minimize(
        _log_error, square_root[1:], args=(rounds,), jac=True, method="L-BFGS-B"
    )
    coefficients = np.concatenate([[1.0], found.x if bands > 1 else []])
    return tuple(float(c) for c in coefficients / np.linalg.norm(coefficients))


def running_sum_error(coefficients: tuple[float, ...], rounds: int) -> float:
    """Returns the root mean square error of the running sums over all rounds.

    Args:
      coefficients: The coefficients of a strategy, of Euclidean norm 1; see `banded_strategy`.
      rounds: T >= 1.

    Returns:
      The error, in standard deviations of the independent noise g.
    """
    return float(np.sqrt(np.mean(np.cumsum(_of_running_sums(np.array(coefficients), rounds) ** 2))))


def _of_running_sums(coefficients: np.ndarray, rounds: int) -> np.ndarray:
    """Returns the first column of A S^-1, a Toeplitz matrix; A is the lower triangular matrix of ones."""
    return np.asarray(signal.lfilter([1.0], coefficients, np.ones(rounds)))


def _log_error(tail: np.ndarray, rounds: int) -> tuple[float, np.ndarray]:
    """Returns the log of the squared error at a given sensitivity, and its gradient.

    Args:
      tail: The coefficients after the first, which is 1.
      rounds: T.
    """
    coefficients = np.concatenate([[1.0], tail])
    column = _of_running_sums(coefficients, rounds)
    weighted = np.arange(rounds, 0, -1) * column  # round k's entry occurs in T - k rows
    error, norm = weighted @ column, coefficients @ coefficients
    # d column / d coefficient j is - x^j column / S, in the language of power series.
    change = signal.lfilter([1.0], coefficients, column)
    slopes = np.array(
        [-2 * weighted[j:] @ change[: rounds - j] for j in range(1, len(coefficients))]
    )
    return float(np.log(error * norm)), slopes / error + 2 * tail / norm
