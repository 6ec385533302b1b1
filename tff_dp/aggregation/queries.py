"""Queries of our own, next to tensorflow-privacy's.

Each is a class in a function: its base is known only once TensorFlow Privacy is imported.
"""

from __future__ import annotations

import collections
import functools
from collections.abc import Callable, Sequence
from typing import Any

from tff_dp.errors import ArgumentError
from tff_dp.execution import NOISE_SCOPE


@functools.cache
def finite_records_query() -> type:
    """Returns the class of queries that take a record without a finite norm for zero."""
    import tensorflow as tf
    import tensorflow_privacy as tfp

    class FiniteRecordsQuery(tfp.SumAggregationDPQuery):  # type: ignore[misc]
        """Takes a record without a finite L2 norm for zero, on the client, before the inner query.

        `tf.clip_by_global_norm` turns a record with a NaN or an infinity into NaNs, and so does it a
        finite record whose squared norm overflows: one such client would destroy the sum. A zero
        record respects every bound.
        """

        def __init__(self, inner: Any) -> None:
            self._inner = inner

        def initial_global_state(self) -> Any:
            return self._inner.initial_global_state()

        def derive_sample_params(self, global_state: Any) -> Any:
            return self._inner.derive_sample_params(global_state)

        def initial_sample_state(self, template: Any = None) -> Any:
            return self._inner.initial_sample_state(template)

        def preprocess_record(self, params: Any, record: Any) -> Any:
            norm = tf.linalg.global_norm(tf.nest.flatten(record))
            finite = tf.math.is_finite(norm)
            record = tf.nest.map_structure(
                lambda part: tf.where(finite, part, tf.zeros_like(part)), record
            )
            return self._inner.preprocess_record(params, record)

        def get_noised_result(self, sample_state: Any, global_state: Any) -> Any:
            with tf.name_scope(NOISE_SCOPE):
                return self._inner.get_noised_result(sample_state, global_state)

        def derive_metrics(self, global_state: Any) -> Any:
            return self._inner.derive_metrics(global_state)

    return FiniteRecordsQuery


def clipped_l1(record: Sequence[Any], clip_norm: Any) -> list[Any]:
    """Returns the tensors of a record, scaled to an L1 norm of at most `clip_norm` together."""
    import tensorflow as tf

    norm = tf.add_n([tf.reduce_sum(tf.abs(part)) for part in record])
    return [part * (clip_norm / tf.maximum(norm, clip_norm)) for part in record]


def clipped_l2(record: Sequence[Any], clip_norm: Any) -> list[Any]:
    """Returns the tensors of a record, scaled to an L2 norm of at most `clip_norm` together."""
    import tensorflow as tf

    return list(tf.clip_by_global_norm(record, clip_norm)[0])


def normal(shape: Any, stddev: Any) -> Any:
    """Returns Gaussian noise, float32."""
    import tensorflow as tf

    with tf.name_scope(NOISE_SCOPE):
        return tf.random.normal(shape, stddev=stddev)


def laplace(shape: Any, scale: Any) -> Any:
    """Returns Laplace noise, float32, of density exp(-|x| / scale) / (2 scale).

    A magnitude is the logarithm of a uniform number, drawn with 53 bits: with float32's 24 the tail would
    end at 16 scales.
    """
    import tensorflow as tf

    with tf.name_scope(NOISE_SCOPE):
        magnitude = -tf.math.log1p(-tf.random.uniform(shape, dtype=tf.float64))
        signs = tf.where(tf.random.uniform(shape, dtype=tf.float64) < 0.5, -1.0, 1.0)
    return tf.cast(magnitude, tf.float32) * tf.cast(signs, tf.float32) * scale


@functools.cache
def per_layer_query() -> type:
    """Returns the class of Gaussian sum queries that clip each tensor to a norm of its own."""
    import tensorflow as tf
    import tensorflow_privacy as tfp

    class PerLayerGaussianSumQuery(tfp.GaussianSumQuery):  # type: ignore[misc]
        """See `tff_dp.PerLayerGaussianMechanism`."""

        def __init__(self, clip_norms: Sequence[float], total: float, stddev: float) -> None:
            super().__init__(l2_norm_clip=total, stddev=stddev)
            self._clip_norms = clip_norms

        def preprocess_record(self, params: Any, record: Any) -> Any:
            del params  # the norm of the whole
            parts = tf.nest.flatten(record)
            if len(parts) != len(self._clip_norms):
                raise ArgumentError(
                    f"clip_norms={self._clip_norms!r} does not fit the model: expected "
                    f"{len(parts)} norms, one for each trainable weight tensor."
                )
            clipped = [
                tf.clip_by_norm(part, clip_norm)
                for part, clip_norm in zip(parts, self._clip_norms, strict=True)
            ]
            return tf.nest.pack_sequence_as(record, clipped)

    return PerLayerGaussianSumQuery


@functools.cache
def laplace_query() -> type:
    """Returns the class of queries for sums of records clipped in L1 norm, with Laplace noise."""
    import dp_accounting
    import tensorflow as tf
    import tensorflow_privacy as tfp

    State = collections.namedtuple("State", ["l1_norm_clip", "scale"])

    class LaplaceSumQuery(tfp.SumAggregationDPQuery):  # type: ignore[misc]
        """See `tff_dp.LaplaceMechanism`."""

        def __init__(self, l1_norm_clip: float, scale: float) -> None:
            self._l1_norm_clip, self._scale = l1_norm_clip, scale

        def initial_global_state(self) -> Any:
            return State(tf.constant(self._l1_norm_clip), tf.constant(self._scale))

        def derive_sample_params(self, global_state: Any) -> Any:
            return global_state.l1_norm_clip

        def preprocess_record(self, params: Any, record: Any) -> Any:
            return tf.nest.pack_sequence_as(record, clipped_l1(tf.nest.flatten(record), params))

        def get_noised_result(self, sample_state: Any, global_state: Any) -> Any:
            noised = tf.nest.map_structure(
                lambda part: part + laplace(tf.shape(part), global_state.scale), sample_state
            )
            event = dp_accounting.LaplaceDpEvent(global_state.scale / global_state.l1_norm_clip)
            return noised, global_state, event

    return LaplaceSumQuery


@functools.cache
def local_query() -> type:
    """Returns the class of queries whose records are clipped and noised by their clients."""
    import dp_accounting
    import tensorflow as tf
    import tensorflow_privacy as tfp

    class LocalNoiseSumQuery(tfp.SumAggregationDPQuery):  # type: ignore[misc]
        """See `tff_dp.LocalGaussianMechanism`. The sum itself gets no noise."""

        def __init__(
            self,
            clip: Callable[[Sequence[Any], Any], list[Any]],
            clip_norm: float,
            noise: Callable[[Any, Any], Any],
            scale: float,
        ) -> None:
            self._clip, self._clip_norm = clip, clip_norm
            self._noise, self._scale = noise, scale

        def initial_global_state(self) -> Any:
            return ()

        def preprocess_record(self, params: Any, record: Any) -> Any:
            del params
            clipped = self._clip(tf.nest.flatten(record), tf.constant(self._clip_norm))
            noised = [part + self._noise(tf.shape(part), self._scale) for part in clipped]
            return tf.nest.pack_sequence_as(record, noised)

        def get_noised_result(self, sample_state: Any, global_state: Any) -> Any:
            # What a client spends is no event of the sum: the plan knows it.
            return sample_state, global_state, dp_accounting.UnsupportedDpEvent()

    return LocalNoiseSumQuery
