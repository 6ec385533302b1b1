"""Predictions of the next character from counts: what a table knows without any training.

A table of pairs can be released privately as well, all at once: `private_pairs`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

import tff_dp

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

    @classmethod
    def of_pairs(cls, pairs: np.ndarray) -> Table:
        """Returns the table of a context of one character, from counts of pairs, which may be noisy.

        Args:
          pairs: How often a character follows another one, shape [vocabulary, vocabulary]; what is
            negative counts as zero.
        """
        pairs = np.maximum(pairs, 0.0)
        return cls([pairs.sum(axis=0), pairs])

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


def _pairs_of(client: Any, vocabulary: int) -> np.ndarray:
    x, y = (np.asarray(part) for part in client)
    return Table.of(x, y, context=1, vocabulary=vocabulary).counts[1]


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


def plan_of_pairs(population: int, delta: float, epsilon: float) -> tff_dp.PrivacyPlan:
    """Returns the plan for `private_pairs`: one release, to which every client contributes.

    Args:
      population: The number of clients.
      delta: Of epsilon.
      epsilon: The target.
    """
    plan = tff_dp.PrivacyPlan(
        mechanism=tff_dp.GaussianMechanism(clip_norm=1.0, noise_multiplier=1.0),
        sampler=tff_dp.FullParticipation(),
        population=population,
        rounds=1,
        delta=delta,
        adjacency=tff_dp.Adjacency.ZERO_OUT,
    )
    return plan.calibrated(epsilon)


def private_pairs(
    clients: tff_dp.Clients, *, vocabulary: int, plan: tff_dp.PrivacyPlan
) -> np.ndarray:
    """Releases how often a character follows another one, summed over clients, under a plan.

    Each client's counts are scaled to an L2 norm of 1 (which any count exceeds or has), so that all
    clients count alike, whatever they say. Clipping and noise are those of tff_dp's own aggregators.

    Args:
      clients: x and y, whole numbers in [0, vocabulary), shape [sequences, length].
      vocabulary: Number of characters.
      plan: From `plan_of_pairs`.

    Returns:
      The noisy sums, shape [vocabulary, vocabulary], the following character last.
    """
    import tensorflow as tf

    from tff_dp import noise

    counts = np.stack(
        [_pairs_of(clients.client(number), vocabulary) for number in range(clients.num_clients)]
    )
    z = plan.mechanism.noise_multiplier
    grid = noise.Grid.of(z)
    everybody = tf.ones([len(counts)], tf.bool)
    clipped = noise.clip_l2_each([tf.constant(counts, tf.float64)], 1.0, grid, everybody).parts[0]
    total = tf.reduce_sum(clipped, axis=0) + noise.gaussian(counts.shape[1:], z * grid.steps)
    return np.asarray(grid.restored(total, 1.0, 1.0, tf.float64))
