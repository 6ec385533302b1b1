"""Noise that rounds share, drawn where it is released and kept in the aggregator's state."""

from __future__ import annotations

import collections
import functools
from collections.abc import Sequence
from typing import Any, Protocol

from tff_dp.aggregation.queries import clipped_l2, normal

# A state or a value of noise: a tensor, or several, for each tensor of an update.
Tensors = list[Any]


class NoiseProcess(Protocol):
    """Correlated Gaussian noise, round by round."""

    def initial(self, specs: Sequence[Any]) -> Any:
        """Returns the state before the first round, for tensors of these `tf.TensorSpec`s."""

    def next(self, state: Any) -> tuple[Tensors, Any]:
        """Returns a round's noise, and the state after it."""


class TreeNoise:
    """What the noise of a running sum from a binary tree grows by in a round.

    tensorflow-privacy has the tree as well. Its generator is seeded from the clock, which others can
    guess, and the state alone says what comes: used twice, a state adds the same noise to two sums, whose
    difference has none. Here a node's noise is drawn when it is released, as all noise is.

    The buffer holds, for each level, the noise of the node of that level that counts: for round t, the
    levels of the bits of t. A node's value is the estimate of least variance from its own noise and its
    children's (Honaker 2015, the estimator from below): own noise has the weight 1 / (2 - 2^-level).

    Args:
      stddev: The standard deviation of a node's noise.
      period: Rounds after which a new tree begins.
    """

    State = collections.namedtuple("State", ["step", "levels", "total"])

    def __init__(self, stddev: float, period: int) -> None:
        self._stddev, self._period = stddev, period
        self._height = period.bit_length()

    def initial(self, specs: Sequence[Any]) -> Any:
        """Returns an empty tree."""
        import tensorflow as tf

        return self.State(
            step=tf.constant(0),
            levels=[tf.zeros([self._height, *spec.shape]) for spec in specs],
            total=[tf.zeros(spec.shape) for spec in specs],
        )

    def next(self, state: Any) -> tuple[Tensors, Any]:
        """Returns by how much the tree's noise grows with the next leaf."""
        import tensorflow as tf

        # Bits of the step that are set are nodes on the left, which the new leaf's ancestors take in.
        bits = tf.bitwise.right_shift(state.step, tf.range(self._height)) % 2
        occupied = tf.equal(bits, 1)
        levels = [self._with_leaf(buffer, occupied) for buffer in state.levels]
        total = [tf.reduce_sum(buffer, axis=0) for buffer in levels]
        grown = [new - old for new, old in zip(total, state.total, strict=True)]
        ends = tf.equal(state.step + 1, self._period)
        levels, total = (
            [tf.where(ends, tf.zeros_like(part), part) for part in parts]
            for parts in (levels, total)
        )
        step = tf.where(ends, 0, state.step + 1)
        return grown, self.State(step=step, levels=levels, total=total)

    def _with_leaf(self, buffer: Any, occupied: Any) -> Any:
        """Returns a tensor's buffer after one more leaf."""
        import tensorflow as tf

        rows, node, rising = [], None, tf.constant(True)
        for level in range(self._height):
            own = normal(tf.shape(buffer)[1:], self._stddev)
            if node is None:
                node = own
            else:
                weight = 1 / (2 - 2.0**-level)
                node = weight * own + (1 - weight) * (buffer[level - 1] + node)
            # The node stays where the level was free; where it was not, it goes on to the next.
            here = tf.where(occupied[level], tf.zeros_like(node), node)
            rows.append(tf.where(rising, here, buffer[level]))
            rising = tf.logical_and(rising, occupied[level])
        return tf.stack(rows)


class BandedNoise:
    """Noise w with S w = g: what is left of g once the earlier noise has been taken off.

    Args:
      stddev: The standard deviation of g.
      coefficients: The diagonals of S, a lower triangular Toeplitz matrix.
    """

    def __init__(self, stddev: float, coefficients: Sequence[float]) -> None:
        self._stddev, self._coefficients = stddev, coefficients

    def initial(self, specs: Sequence[Any]) -> Any:
        """Returns a history of zeros: rounds before the first have no noise."""
        import tensorflow as tf

        return [tf.zeros([len(self._coefficients) - 1, *spec.shape]) for spec in specs]

    def next(self, state: Any) -> tuple[Tensors, Any]:
        """Returns a round's w; the history holds those of earlier rounds, the latest first."""
        import tensorflow as tf

        first, *others = self._coefficients
        noises, histories = [], []
        for history in state:
            noise = normal(tf.shape(history)[1:], self._stddev)
            if others:
                noise -= tf.tensordot(tf.constant(others, tf.float32), history, 1)
            noise /= first
            noises.append(noise)
            histories.append(tf.concat([noise[None], history], axis=0)[: len(others)])
        return noises, histories


@functools.cache
def correlated_query() -> type:
    """Returns the class of queries for sums of records clipped in L2 norm, with such noise."""
    import dp_accounting
    import tensorflow as tf
    import tensorflow_privacy as tfp

    class CorrelatedSumQuery(tfp.SumAggregationDPQuery):  # type: ignore[misc]
        """See `tff_dp.TreeMechanism` and `tff_dp.BandedMechanism`."""

        def __init__(self, l2_norm_clip: float, noise: NoiseProcess, specs: Any) -> None:
            self._l2_norm_clip = l2_norm_clip
            self._noise, self._specs = noise, tf.nest.flatten(specs)

        def initial_global_state(self) -> Any:
            return self._noise.initial(self._specs)

        def preprocess_record(self, params: Any, record: Any) -> Any:
            del params
            clipped = clipped_l2(tf.nest.flatten(record), self._l2_norm_clip)
            return tf.nest.pack_sequence_as(record, clipped)

        def get_noised_result(self, sample_state: Any, global_state: Any) -> Any:
            noise, global_state = self._noise.next(global_state)
            sums = tf.nest.flatten(sample_state)
            noised = [part + added for part, added in zip(sums, noise, strict=True)]
            # A round alone has no event: what a run costs depends on who takes part when.
            event = dp_accounting.UnsupportedDpEvent()
            return tf.nest.pack_sequence_as(sample_state, noised), global_state, event

    return CorrelatedSumQuery
