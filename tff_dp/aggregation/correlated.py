"""Noise that rounds share, drawn where it is released and kept in the aggregator's state.

Everything is in whole numbers, so that what is released is a function of noised whole numbers, and the
argument for rounding holds: what is released is post-processing of a Gaussian mechanism over the reals.

The state has the noise of rounds that have been released. Whoever has it and the released results has
the exact sums: it is as secret as the data.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tff_dp.noise import Grid, gaussian

_COEFFICIENT_LOG = 16  # coefficients of a strategy are whole multiples of 2^-16


class TreeNoise:
    """What the noise of a running sum from a binary tree grows by in a round.

    tensorflow-privacy has the tree as well. Its generator is seeded from the clock, which others can
    guess, and the state alone says what comes: used twice, a state adds the same noise to two sums, whose
    difference has none. Here a node's noise is drawn when it is released, as all noise is.

    The buffer holds, for each level, the noise of the node of that level that counts: for round t, the
    levels of the bits of t. A node's value is the estimate of least variance from its own noise and its
    children's (Honaker 2015, the estimator from below): own noise has the weight w = 1 / (2 - 2^-level).
    It is computed as c + round(w (o - c)) from a node's own noised sum o and its children's estimate c.
    Both hold the same exact sum, so that the difference is one of the noises alone, and the whole is a
    function of the noised sums of nodes, whatever the roundoff of w (o - c).

    Args:
      stddev: The standard deviation of a node's noise, in steps.
      period: Rounds after which a new tree begins.
    """

    State = collections.namedtuple("State", ["step", "levels", "total"])

    def __init__(self, stddev: float, period: int) -> None:
        self._stddev, self._period = stddev, period
        self._height = period.bit_length()

    def initial(self, shapes: Sequence[Any]) -> Any:
        """Returns an empty tree."""
        return self.State(
            step=tf.constant(0),
            levels=[tf.zeros([self._height, *shape], tf.int64) for shape in shapes],
            total=[tf.zeros(shape, tf.int64) for shape in shapes],
        )

    def next(self, state: Any, shapes: Sequence[Any]) -> tuple[list[Any], Any]:
        """Returns by how much the tree's noise grows with the next leaf."""
        # Bits of the step that are set are nodes on the left, which the new leaf's ancestors take in.
        bits = tf.bitwise.right_shift(state.step, tf.range(self._height)) % 2
        occupied = tf.equal(bits, 1)
        levels = [
            self._with_leaf(buffer, occupied, shape)
            for buffer, shape in zip(state.levels, shapes, strict=True)
        ]
        total = [tf.reduce_sum(buffer, axis=0) for buffer in levels]
        grown = [new - old for new, old in zip(total, state.total, strict=True)]
        ends = tf.equal(state.step + 1, self._period)
        levels, total = (
            [tf.where(ends, tf.zeros_like(part), part) for part in parts]
            for parts in (levels, total)
        )
        step = tf.where(ends, 0, state.step + 1)
        return grown, self.State(step=step, levels=levels, total=total)

    def _with_leaf(self, buffer: Any, occupied: Any, shape: Sequence[int]) -> Any:
        """Returns a tensor's buffer after one more leaf."""
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
            # The node stays where the level was free; where it was not, it goes on to the next.
            here = tf.where(occupied[level], tf.zeros_like(node), node)
            rows.append(tf.where(rising, here, buffer[level]))
            rising = tf.logical_and(rising, occupied[level])
        return tf.stack(rows)


def banded_grid(noise_multiplier: float) -> Grid:
    """Returns the grid for `BandedNoise`, whose coefficients take some of the bits."""
    return Grid.of(noise_multiplier * 2**_COEFFICIENT_LOG)


class BandedNoise:
    """Noise w with S w = g: what is left of g once the earlier noise has been taken off.

    With whole coefficients s_j of S, in units of 2^-16, the mechanism is y_t = sum_j s_j x_(t-j) + g_t
    for whole sums x and whole Gaussian noise g. The released x_t + w_t is a function of the y's, since
    w_t = round((g_t - sum_(j > 0) s_j w_(t-j)) / s_0), in whole numbers, is what rounding the solution
    of S x = y adds to x_t. Coefficients are truncated, so that a column's norm stays at most 1.

    Args:
      stddev: The standard deviation of the noise of a round with one band, in steps: z C over the step.
      coefficients: The diagonals of S, a lower triangular Toeplitz matrix, of Euclidean norm 1.
    """

    def __init__(self, stddev: float, coefficients: Sequence[float]) -> None:
        unit = 2**_COEFFICIENT_LOG
        self._stddev = stddev * unit
        # The roundoff of a norm that should be 1 is far below 2^-32.
        shrunk = [c * (1 - 2.0**-32) for c in coefficients]
        self._coefficients = [math.trunc(c * unit) for c in shrunk]

    def initial(self, shapes: Sequence[Any]) -> Any:
        """Returns a history of zeros: rounds before the first have no noise."""
        return [tf.zeros([len(self._coefficients) - 1, *shape], tf.int64) for shape in shapes]

    def next(self, state: Any, shapes: Sequence[Any]) -> tuple[list[Any], Any]:
        """Returns a round's w; the history holds those of earlier rounds, the latest first."""
        first, *others = self._coefficients
        noises, histories = [], []
        for history, shape in zip(state, shapes, strict=True):
            noise = gaussian(shape, self._stddev)
            if others:
                factors = tf.reshape(tf.constant(others, tf.int64), [-1, *(1 for _ in shape)])
                noise -= tf.reduce_sum(factors * history, axis=0)
            noise = tf.math.floordiv(noise + first // 2, tf.constant(first, tf.int64))
            noises.append(noise)
            histories.append(tf.concat([noise[None], history], axis=0)[: len(others)])
        return noises, histories
