"""Predictions of the next character from counts: what a table knows without any training."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

_PRIOR = 5.0  # as many characters as the shorter context's prediction counts for


@dataclasses.dataclass(frozen=True)
class Table:
    """How often each character follows the last ones, for contexts of 0, 1, ... characters.

    Attributes:
      counts: For each length k of the context, an array of shape [vocabulary] * (k + 1), the context's
        characters from the oldest to the present one, then the next one.
    """

    counts: Sequence[np.ndarray]

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray, *, context: int, vocabulary: int) -> Table:
        """Counts.

        Args:
          x: Characters, whole numbers in [0, vocabulary), shape [sequences, length].
          y: The next ones, of the same shape.
          context: Characters of the longest context, >= 0; at most `length`.
          vocabulary: Number of characters.
        """
        counts = []
        for known in range(context + 1):
            cells = _cells(x, y, known, vocabulary)
            flat = np.bincount(cells.ravel(), minlength=vocabulary ** (known + 1))
            counts.append(flat.reshape([vocabulary] * (known + 1)))
        return cls(counts)

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Predicts from the longest context that a sequence has, smoothed by the shorter ones.

        Args:
          x: Shape [sequences, length].

        Returns:
          Probabilities, shape [sequences, length, vocabulary].

        Source:
          MacKay and Peto, "A hierarchical Dirichlet language model" (Natural Language Engineering,
          1995), equation 12, with a prior of equal weight for all contexts.
        """
        vocabulary = len(self.counts[0])
        found = np.full([*x.shape, vocabulary], 1 / vocabulary)
        for known, counts in enumerate(self.counts):
            start = max(known - 1, 0)  # the first position with so many characters
            rows = (
                counts[tuple(_context(x, known))]
                if known
                else np.broadcast_to(counts, found[:, start:].shape)
            )
            total = rows.sum(axis=-1, keepdims=True)
            found[:, start:] = (rows + _PRIOR * found[:, start:]) / (total + _PRIOR)
        return found


def _context(x: np.ndarray, known: int) -> list[np.ndarray]:
    """Returns the last `known` characters at each position that has them, the oldest first."""
    places = x.shape[1] - known + 1
    return [x[:, lag : lag + places] for lag in range(known)]


def _cells(x: np.ndarray, y: np.ndarray, known: int, vocabulary: int) -> np.ndarray:
    parts = [*_context(x, known), y[:, max(known - 1, 0) :]]
    cells = np.zeros_like(parts[0], dtype=np.int64)
    for part in parts:
        cells = cells * vocabulary + part
    return cells
