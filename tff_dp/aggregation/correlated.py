"""Noise that is correlated across rounds, drawn when it is released and kept in the aggregator's state.

All numbers are integers. Every released value is therefore a function of noised integers, and the
argument for rounding holds: the released values are post-processing of a Gaussian mechanism over
the reals.

The state contains the noise of rounds that have been released. Anyone who has the state and the
released results can compute the exact sums: the state is as secret as the data, and its fields are
named `secret_...`.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tff_dp.noise import Grid, gaussian

_COEFFICIENT_LOG = 16  # coefficients of a strategy are integer multiples of 2^-16


class TreeNoise:
    """The change, in one round, of the noise of a running sum that is estimated from a binary tree.

    tensorflow-privacy has such a tree as well. Its generator is seeded from the clock, which others
    can guess, and its future noise is a function of the state: a state that is used twice adds the
    same noise to two sums, whose difference then has none. Here the noise of a node is drawn when
    it is released, like all other noise.

    The buffer holds, for each level, the noise of the node of that level that is in use: in round
    t, these are the levels of the bits of t. The value of a node is the minimum-variance estimate
    from its own noise and that of its children (Honaker 2015, the estimator from below); its own
    noise has the weight w = 1 / (2 - 2^-level). It is computed as c + round(w (o - c)) from the
    node's own noised sum o and the estimate c of its children. Both contain the same exact sum, so
    that their difference is a difference of noises, and the result is a function of the noised sums
    of nodes, whatever the roundoff of w (o - c).

    Source: Honaker, "Efficient Use of Differentially Private Binary Trees" (2015).

    Args:
      stddev: The standard deviation of the noise of a node, in grid steps.
      period: The number of rounds after which a new tree begins; >= 1.
    """

    State = collections.namedtuple("State", ["step", "secret_levels", "secret_total"])

    def __init__(self, stddev: float, period: int) -> None:
        self._stddev, self._period = stddev, period
        self._height = period.bit_length()

    def initial(self, shapes: Sequence[Any]) -> Any:
        """Returns the state of an empty tree; see `queries.NoiseProcess`.

        Args:
          shapes: The shape of each tensor of an update.

        Returns:
          The step, int32 []; for each tensor, the buffer, int64 [levels, ...], and the noise of the
          running sum, int64, both in grid steps.
        """
        return self.State(
            step=tf.constant(0),
            secret_levels=[tf.zeros([self._height, *shape], tf.int64) for shape in shapes],
            secret_total=[tf.zeros(shape, tf.int64) for shape in shapes],
        )

    def next(self, state: Any, shapes: Sequence[Any]) -> tuple[list[Any], Any]:
        """Adds a leaf to the tree; see `queries.NoiseProcess`.

        Args:
          state: The state before the round.
          shapes: The shape of each tensor of an update.

        Returns:
          The change of the noise of the running sum, one int64 tensor for each tensor of an update,
          in grid steps; and the state after the round.
        """
        # Set bits of the step are left nodes, which the ancestors of the new leaf absorb.
        bits = tf.bitwise.right_shift(state.step, tf.range(self._height)) % 2
        occupied = tf.equal(bits, 1)
        levels = [
            self._with_leaf(buffer, occupied, shape)
            for buffer, shape in zip(state.secret_levels, shapes, strict=True)
        ]
        total = [tf.reduce_sum(buffer, axis=0) for buffer in levels]
        grown = [new - old for new, old in zip(total, state.secret_total, strict=True)]
        ends = tf.equal(state.step + 1, self._period)
        levels, total = (
            [tf.where(ends, tf.zeros_like(part), part) for part in parts]
            for parts in (levels, total)
        )
        step = tf.where(ends, 0, state.step + 1)
        return grown, self.State(step=step, secret_levels=levels, secret_total=total)

    def _with_leaf(self, buffer: Any, occupied: Any, shape: Sequence[int]) -> Any:
        """Returns the buffer of one tensor after one more leaf."""
        rows, node, rising = [], None, tf.constant(True)
        for level in range(self._height):
            own = gaussian(shape, self._stddev)
            if node is None:
                node = own
            else:
                children = buffer[level - 1] + node
                apart = tf.cast(own - children, tf.float64)
                weight = tf.constant(1 / (2 - 2.0**-level), tf.float64)
                node = children + tf.cast(tf.round(weight * apart), tf.int64)
            # The node stays at the first free level; at an occupied one, it rises to the next.
            here = tf.where(occupied[level], tf.zeros_like(node), node)
            rows.append(tf.where(rising, here, buffer[level]))
            rising = tf.logical_and(rising, occupied[level])
        return tf.stack(rows)


def banded_grid(noise_multiplier: float) -> Grid:
    """Returns the grid for `BandedNoise`, whose coefficients use some of the bits of an integer.

    Args:
      noise_multiplier: z, the standard deviation of the noise over the clip norm; >= 0.

    Returns:
      The grid.
    """
    return Grid.of(noise_multiplier * 2**_COEFFICIENT_LOG)


class BandedNoise:
    """Noise w with S w = g, which partly cancels noise of earlier rounds.

    With integer coefficients s_j of S, in units of 2^-16, the mechanism is y_t = sum_j s_j x_(t-j)
    + g_t for integer sums x and integer Gaussian noise g. The released x_t + w_t is a function of
    the y's, since w_t = round((g_t - sum_(j > 0) s_j w_(t-j)) / s_0), in integers, is what rounding
    the solution of S x = y adds to x_t. Coefficients are truncated, so that the norm of a column
    stays at most 1.

    Source: Choquette-Choo et al., arXiv:2306.08153, algorithm 2.

    Args:
      stddev: The standard deviation of the noise of a round with one band, in grid steps: z C over
        the size of a step.
      coefficients: The diagonals of S, a lower triangular Toeplitz matrix; of Euclidean norm 1.
    """

    State = collections.namedtuple("State", ["secret_history"])

    def __init__(self, stddev: float, coefficients: Sequence[float]) -> None:
        unit = 2**_COEFFICIENT_LOG
        self._stddev = stddev * unit
        # A norm that should be 1 exceeds it by roundoff, which is far below 2^-32.
        shrunk = [c * (1 - 2.0**-32) for c in coefficients]
        self._coefficients = [math.trunc(c * unit) for c in shrunk]

    def initial(self, shapes: Sequence[Any]) -> Any:
        """Returns a history of zeros: there is no noise before the first round.

        Args:
          shapes: The shape of each tensor of an update.

        Returns:
          For each tensor, the noise of the last rounds, int64 [bands - 1, ...], in grid steps.
        """
        rows = len(self._coefficients) - 1
        return self.State([tf.zeros([rows, *shape], tf.int64) for shape in shapes])

    def next(self, state: Any, shapes: Sequence[Any]) -> tuple[list[Any], Any]:
        """Draws the noise w of a round; see `queries.NoiseProcess`.

        Args:
          state: The state before the round, with the noise of earlier rounds, the latest first.
          shapes: The shape of each tensor of an update.

        Returns:
          w, one int64 tensor for each tensor of an update, in grid steps; and the state after the
          round.
        """
        first, *others = self._coefficients
        noises, histories = [], []
        for history, shape in zip(state.secret_history, shapes, strict=True):
            noise = gaussian(shape, self._stddev)
            if others:
                factors = tf.reshape(tf.constant(others, tf.int64), [-1, *(1 for _ in shape)])
                noise -= tf.reduce_sum(factors * history, axis=0)
            noise = tf.math.floordiv(noise + first // 2, tf.constant(first, tf.int64))
            noises.append(noise)
            histories.append(tf.concat([noise[None], history], axis=0)[: len(others)])
        return noises, self.State(histories)
