"""Sums of updates on a grid, with integer noise, as tensorflow-privacy's queries."""

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
Clip = Callable[[Tensors], Tensors]  # from an update to whole numbers of steps
Draw = Callable[[Sequence[int]], Any]  # from a shape to whole numbers


class NoiseProcess(Protocol):
    """Noise on sums, in whole numbers of steps, round by round."""

    def initial(self, shapes: Sequence[Any]) -> Any:
        """Returns the state before the first round, for tensors of these shapes."""

    def next(self, state: Any, shapes: Sequence[Any]) -> tuple[Tensors, Any]:
        """Returns a round's noise, and the state after it."""


class IndependentNoise:
    """Noise that each round draws anew.

    Args:
      draw: Of one tensor.
    """

    def __init__(self, draw: Draw) -> None:
        self._draw = draw

    def initial(self, shapes: Sequence[Any]) -> Any:
        """Returns no state."""
        del shapes
        return ()

    def next(self, state: Any, shapes: Sequence[Any]) -> tuple[Tensors, Any]:
        """Returns a draw for each tensor."""
        return [self._draw(shape) for shape in shapes], state


class ScaledNoise:
    """Gaussian noise that each round draws anew, at the scale that the state says.

    The graph of a round is then the same for all noise multipliers of one `structure`. Only a caller that
    sets the state itself, as `tff_dp.fit` does, may use it: whoever has a process and a state by other
    means could join a state to a plan that says another noise.

    Args:
      noise_multiplier: z.
      grid: The grid.
    """

    State = collections.namedtuple("State", ["noise_multiplier", "coarse_stddev", "block_log"])

    def __init__(self, noise_multiplier: float, grid: Grid) -> None:
        self._values = scale_state(noise_multiplier, grid)
        self._in_word = noise.uniforms_in_word(noise_multiplier * grid.steps)

    def initial(self, shapes: Sequence[Any]) -> Any:
        """Returns the scale."""
        del shapes
        return self.State(*map(tf.constant, self._values))

    def next(self, state: Any, shapes: Sequence[Any]) -> tuple[Tensors, Any]:
        """Returns a draw for each tensor."""
        scale = noise.Scale(state.coarse_stddev, state.block_log)
        return [noise.scaled_gaussian(shape, scale, self._in_word) for shape in shapes], state


def scale_state(noise_multiplier: float, grid: Grid) -> tuple[np.float32, np.float64, np.int64]:
    """Returns the state of `ScaledNoise`: the noise multiplier, and the scale of the draws."""
    scale = noise.Scale.of(noise_multiplier * grid.steps)
    return (
        np.float32(noise_multiplier),
        np.float64(scale.coarse_stddev),
        np.int64(scale.block_log),
    )


NO_NOISE = IndependentNoise(lambda shape: tf.zeros(shape, tf.int64))


class GridSumQuery(SumAggregationDPQuery):  # type: ignore[misc]
    """The noised sum of clipped updates over a public denominator.

    On the client, an update is clipped and becomes whole numbers of grid steps. Their sum is exact. On
    the server, noise in whole numbers is added, and what is released is that whole number times a public
    constant.

    Args:
      specs: The structure of `tf.TensorSpec`s of an update.
      grid: The grid.
      clip: Bounds a client's update; where clients add the noise, it does that, too.
      noise: Of the server.
      unit: The clip norm that the grid divides.
      denominator: m, the public expected number of clients.
      event: From the state of the noise to what a round costs, where that can be said of a round.
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
        """Returns the state before the first round."""
        return self._noise.initial(_shapes(self._specs))

    def initial_sample_state(self, template: Any = None) -> Any:
        """Returns the sum over no clients."""
        del template  # its tensors have the types of an update's
        return _zeros(self._specs)

    def preprocess_record(self, params: Any, record: Any) -> Any:
        """Returns a client's bounded update in whole numbers of steps."""
        del params
        return tf.nest.pack_sequence_as(record, self._clip(tf.nest.flatten(record)))

    def get_noised_result(self, sample_state: Any, global_state: Any) -> Any:
        """Returns the noised mean, the next state, and the round's event."""
        event = self._event(global_state)
        drawn, global_state = self._noise.next(global_state, _shapes(self._specs))
        mean = _noised_mean(
            sample_state, drawn, self._specs, self._grid, self._unit, self._denominator
        )
        return mean, global_state, event


class AdaptiveClipQuery(SumAggregationDPQuery):  # type: ignore[misc]
    """A noised sum whose clip norm follows a quantile of the updates' norms; see the mechanism.

    A client's bit, whether its update was clipped, is -1/2 or 1/2, on a grid of its own.

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
        """Returns the state before the first round."""
        return self.State(tf.constant(self._mechanism.initial_clip_norm, tf.float32))

    def derive_sample_params(self, global_state: Any) -> Any:
        """Returns the clip norm, which clients are sent."""
        return global_state.clip_norm

    def derive_metrics(self, global_state: Any) -> Any:
        """Returns the clip norm of the next round."""
        return collections.OrderedDict(clip=global_state.clip_norm)

    def initial_sample_state(self, template: Any = None) -> Any:
        """Returns the sum over no clients."""
        del template
        return _zeros(self._specs), tf.constant(0, tf.int64)

    def preprocess_record(self, params: Any, record: Any) -> Any:
        """Returns a client's bounded update in whole numbers of steps."""
        clipped = noise.clip_l2(tf.nest.flatten(record), params, self._grid)
        # An update that counts as zero is not clipped, as one of zeros is not.
        is_clipped = tf.math.is_finite(clipped.norm) & (
            clipped.norm > tf.cast(params, clipped.norm.dtype)
        )
        half = self._bit // 2
        bit = tf.where(is_clipped, tf.constant(-half, tf.int64), tf.constant(half, tf.int64))
        return tf.nest.pack_sequence_as(record, clipped.parts), bit

    def get_noised_result(self, sample_state: Any, global_state: Any) -> Any:
        """Returns the noised mean, the next state, and the round's event."""
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
        """Returns the next clip norm: post-processing of the noised share of unclipped clients."""
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
