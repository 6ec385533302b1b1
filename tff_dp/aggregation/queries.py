"""Sums of updates on a grid, with integer noise, in the form of tensorflow-privacy's queries."""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import dp_accounting
import numpy as np
import tensorflow as tf

from tff_dp import noise
from tff_dp._compat.tensorflow_privacy import SumAggregationDPQuery
from tff_dp.noise import Grid

Tensors = list[Any]  # int64, one for each tensor of an update
Clip = Callable[[Tensors], Tensors]  # from an update to integers, in grid steps
Draw = Callable[[Sequence[int]], Any]  # from a shape to integers, in grid steps


class NoiseProcess(Protocol):
    """Noise for sums, in whole grid steps, with a state from round to round."""

    def initial(self, shapes: Sequence[Any]) -> Any:
        """Returns the state before the first round.

        Args:
          shapes: The shape of each tensor of an update.

        Returns:
          A structure of tensors.
        """

    def next(self, state: Any, shapes: Sequence[Any]) -> tuple[Tensors, Any]:
        """Draws the noise of one round.

        Args:
          state: The state before the round.
          shapes: The shape of each tensor of an update.

        Returns:
          The noise, one int64 tensor for each tensor of an update, in grid steps; and the state
          after the round.
        """


class IndependentNoise(NoiseProcess):
    """Noise that each round draws independently, without a state.

    Args:
      draw: Draws the noise of one tensor, from its shape.
    """

    def __init__(self, draw: Draw) -> None:
        self._draw = draw

    def initial(self, shapes: Sequence[Any]) -> Any:
        """Returns an empty state."""
        del shapes
        return ()

    def next(self, state: Any, shapes: Sequence[Any]) -> tuple[Tensors, Any]:
        """Draws noise for each tensor, and returns the state unchanged."""
        return [self._draw(shape) for shape in shapes], state


class ScaledNoise(NoiseProcess):
    """Gaussian noise that each round draws independently, at a scale that is part of the state.

    The graph of a round is then the same for all noise multipliers with one value of
    `aggregation.scale_structure`. Only a caller that sets the state itself, as `tff_dp.fit` does,
    may use this class: with a process and a state from elsewhere, the noise could differ from that
    of the plan.

    Args:
      noise_multiplier: z, the standard deviation of the noise over the clip norm.
      grid: The grid.
    """

    State = collections.namedtuple("State", ["noise_multiplier", "coarse_stddev", "block_log"])

    def __init__(self, noise_multiplier: float, grid: Grid) -> None:
        self._values = scale_state(noise_multiplier, grid)
        self._in_word = noise.uniforms_in_word(noise_multiplier * grid.steps)

    def initial(self, shapes: Sequence[Any]) -> Any:
        """Returns the noise multiplier and the scale of the draws, as tensors."""
        del shapes
        return self.State(*map(tf.constant, self._values))

    def next(self, state: Any, shapes: Sequence[Any]) -> tuple[Tensors, Any]:
        """Draws noise for each tensor, and returns the state unchanged."""
        scale = noise.Scale(state.coarse_stddev, state.block_log)
        return [noise.scaled_gaussian(shape, scale, self._in_word) for shape in shapes], state


def scale_state(noise_multiplier: float, grid: Grid) -> tuple[np.float32, np.float64, np.int64]:
    """Returns the values of the state of `ScaledNoise`.

    Args:
      noise_multiplier: z, the standard deviation of the noise over the clip norm.
      grid: The grid.

    Returns:
      The noise multiplier; the standard deviation of the coarse part of a draw, in blocks; and the
      logarithm to base 2 of the number of steps in a block. All have shape [].
    """
    scale = noise.Scale.of(noise_multiplier * grid.steps)
    return (
        np.float32(noise_multiplier),
        np.float64(scale.coarse_stddev),
        np.int64(scale.block_log),
    )


NO_NOISE = IndependentNoise(lambda shape: tf.zeros(shape, tf.int64))


class GridSumQuery(SumAggregationDPQuery):  # type: ignore[misc]
    """The noised sum of clipped updates, divided by a public denominator.

    On the client, an update is clipped and converted to whole grid steps. The sum of such updates
    is exact. On the server, integer noise is added; the released value is the resulting integer
    times a public constant.

    Args:
      specs: The structure of `tf.TensorSpec`s of an update.
      grid: The grid.
      clip: Clips a client's update; if clients add the noise, it also does that.
      noise: The noise of the server.
      unit: The clip norm that the grid divides into steps.
      denominator: m, the public expected number of clients.
      event: Returns the privacy event of a round for a state of the noise; None if a single round
        has no event of its own.
    """

    def __init__(
        self,
        specs: Any,
        *,
        grid: Grid,
        clip: Clip,
        noise: NoiseProcess,
        unit: float,
        denominator: float,
        event: Callable[[Any], dp_accounting.DpEvent] | None = None,
    ) -> None:
        self._specs = specs
        self._grid, self._clip, self._noise = grid, clip, noise
        self._unit, self._denominator = unit, denominator
        self._event = event or (lambda state: dp_accounting.UnsupportedDpEvent())

    def initial_global_state(self) -> Any:
        """Returns the state before the first round, which is that of the noise."""
        return self._noise.initial(_shapes(self._specs))

    def initial_sample_state(self, template: Any = None) -> Any:
        """Returns the sum over no clients.

        Args:
          template: Not used: its tensors have the types of an update, and sums are int64.

        Returns:
          A structure of zeros, int64, as `specs`.
        """
        del template
        return _zeros(self._specs)

    def preprocess_record(self, params: Any, record: Any) -> Any:
        """Clips a client's update.

        Args:
          params: Not used.
          record: The update.

        Returns:
          The clipped update, int64, in grid steps.
        """
        del params
        return tf.nest.pack_sequence_as(record, self._clip(tf.nest.flatten(record)))

    def get_noised_result(self, sample_state: Any, global_state: Any) -> Any:
        """Adds the noise of a round.

        Args:
          sample_state: The sum of the clipped updates, int64, in grid steps.
          global_state: The state before the round.

        Returns:
          The noised mean, of the types of an update; the state after the round; and the privacy
          event.
        """
        event = self._event(global_state)
        drawn, global_state = self._noise.next(global_state, _shapes(self._specs))
        mean = _noised_mean(
            sample_state, drawn, self._specs, self._grid, self._unit, self._denominator
        )
        return mean, global_state, event


class AdaptiveClipQuery(SumAggregationDPQuery):  # type: ignore[misc]
    """A noised sum whose clip norm follows a quantile of the norms of the updates; see the mechanism.

    Each client also sends a bit, -1/2 if its update was clipped and 1/2 otherwise, on another grid.

    Source: Andrew et al., arXiv:1905.03871, algorithm 1.

    Args:
      specs: The structure of `tf.TensorSpec`s of an update.
      mechanism: A `tff_dp.AdaptiveGaussianMechanism`.
      denominator: m, the public expected number of clients.
    """

    State = collections.namedtuple("State", ["clip_norm"])
    _FINEST_OF_COUNT = 20

    def __init__(self, specs: Any, mechanism: Any, denominator: float) -> None:
        self._specs, self._mechanism, self._denominator = specs, mechanism, denominator
        self._noise_multiplier = mechanism.value_noise_multiplier(denominator)
        self._count_stddev = (
            mechanism.count_stddev(denominator) if mechanism.noise_multiplier > 0 else 0.0
        )
        self._grid = Grid.of(self._noise_multiplier)
        self._bit = int(Grid.of(self._count_stddev, self._FINEST_OF_COUNT).steps)

    def initial_global_state(self) -> Any:
        """Returns the state before the first round: the initial clip norm, float32 []."""
        return self.State(tf.constant(self._mechanism.initial_clip_norm, tf.float32))

    def derive_sample_params(self, global_state: Any) -> Any:
        """Returns what the server sends to the clients.

        Args:
          global_state: The state before the round.

        Returns:
          The clip norm, float32 [].
        """
        return global_state.clip_norm

    def derive_metrics(self, global_state: Any) -> Any:
        """Returns what is reported after a round.

        Args:
          global_state: The state after the round.

        Returns:
          The clip norm of the next round, float32 [], under the name "clip".
        """
        return collections.OrderedDict(clip=global_state.clip_norm)

    def initial_sample_state(self, template: Any = None) -> Any:
        """Returns the sum over no clients.

        Args:
          template: Not used: its tensors have the types of an update, and sums are int64.

        Returns:
          A structure of zeros as `specs`, and a zero for the bits; all int64.
        """
        del template
        return _zeros(self._specs), tf.constant(0, tf.int64)

    def preprocess_record(self, params: Any, record: Any) -> Any:
        """Clips a client's update.

        Args:
          params: The clip norm, float32 [].
          record: The update.

        Returns:
          The clipped update and the bit, int64, in steps of their grids.
        """
        clipped = noise.clip_l2(tf.nest.flatten(record), params, self._grid)
        # An update with a norm that is not finite counts as zeros, and zeros are not clipped.
        is_clipped = tf.math.is_finite(clipped.norm) & (
            clipped.norm > tf.cast(params, clipped.norm.dtype)
        )
        half = self._bit // 2
        bit = tf.where(is_clipped, tf.constant(-half, tf.int64), tf.constant(half, tf.int64))
        return tf.nest.pack_sequence_as(record, clipped.parts), bit

    def get_noised_result(self, sample_state: Any, global_state: Any) -> Any:
        """Adds the noise of a round, and moves the clip norm.

        Args:
          sample_state: The sums of the clipped updates and of the bits, int64, in steps of their
            grids.
          global_state: The state before the round.

        Returns:
          The noised mean, of the types of an update; the state after the round; and the privacy
          event.
        """
        total, bits = sample_state
        shapes = _shapes(self._specs)
        stddev = self._noise_multiplier * self._grid.steps
        drawn = [noise.gaussian(shape, stddev) for shape in shapes]
        clip_norm = global_state.clip_norm
        mean = _noised_mean(total, drawn, self._specs, self._grid, clip_norm, self._denominator)
        bits += noise.gaussian([], self._count_stddev * self._bit)
        count = tf.cast(bits, tf.float64) / self._bit
        share = tf.clip_by_value(count / self._denominator + 0.5, 0.0, 1.0)
        event = dp_accounting.ComposedDpEvent(
            [
                dp_accounting.GaussianDpEvent(self._noise_multiplier),
                dp_accounting.GaussianDpEvent(2 * self._count_stddev),
            ]
        )
        return mean, self.State(self._moved(clip_norm, share)), event

    def _moved(self, clip_norm: Any, share: Any) -> Any:
        """Returns the next clip norm, by post-processing the noised share of unclipped clients."""
        mechanism = self._mechanism
        rate = tf.constant(mechanism.clip_learning_rate, tf.float64)
        factor = tf.exp(-rate * (share - mechanism.target_quantile))
        moved = tf.cast(clip_norm, tf.float64) * factor
        moved = tf.clip_by_value(moved, mechanism.min_clip_norm, mechanism.max_clip_norm)
        return tf.cast(moved, tf.float32)


def _shapes(specs: Any) -> list[list[int]]:
    return [spec.shape.as_list() for spec in tf.nest.flatten(specs)]


def _zeros(specs: Any) -> Any:
    return tf.nest.map_structure(lambda spec: tf.zeros(spec.shape, tf.int64), specs)


def _noised_mean(
    total: Any, drawn: Tensors, specs: Any, grid: Grid, unit: Any, denominator: float
) -> Any:
    flat = tf.nest.flatten(specs)
    sums = tf.nest.flatten(total)
    means = [
        grid.restored(part + added, unit, denominator, spec.dtype)
        for part, added, spec in zip(sums, drawn, flat, strict=True)
    ]
    return tf.nest.pack_sequence_as(specs, means)
