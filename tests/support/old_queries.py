"""Aggregators as they were before sums on a grid: float32 throughout, by tensorflow-privacy.

Planted defects, which nothing but tests may use: sums depend on the order of clients, the noise ends at
5.678 standard deviations, and clipping goes by float32 norms.
"""

from __future__ import annotations

from typing import Any


def finite_records(inner: Any) -> Any:
    """Returns a query that takes a record without a finite L2 norm for zero, before an inner query."""
    import tensorflow as tf
    import tensorflow_privacy as tfp

    class FiniteRecordsQuery(tfp.SumAggregationDPQuery):
        def initial_global_state(self) -> Any:
            return inner.initial_global_state()

        def derive_sample_params(self, global_state: Any) -> Any:
            return inner.derive_sample_params(global_state)

        def initial_sample_state(self, template: Any = None) -> Any:
            return inner.initial_sample_state(template)

        def preprocess_record(self, params: Any, record: Any) -> Any:
            finite = tf.math.is_finite(tf.linalg.global_norm(tf.nest.flatten(record)))
            record = tf.nest.map_structure(
                lambda part: tf.where(finite, part, tf.zeros_like(part)), record
            )
            return inner.preprocess_record(params, record)

        def get_noised_result(self, sample_state: Any, global_state: Any) -> Any:
            return inner.get_noised_result(sample_state, global_state)

        def derive_metrics(self, global_state: Any) -> Any:
            return inner.derive_metrics(global_state)

    return FiniteRecordsQuery()


def averaging(query: Any, m: float) -> Any:
    """Returns the aggregator of a query for sums: the sum over m, of the records that are finite."""
    import tensorflow_federated as tff
    import tensorflow_privacy as tfp

    normalized = tfp.NormalizedQuery(query, denominator=m)
    return tff.aggregators.DifferentiallyPrivateFactory(finite_records(normalized))


def gaussian_query(mechanism: Any, clip: float | None = None, noise_factor: float = 1.0) -> Any:
    """Returns tensorflow-privacy's query of a Gaussian mechanism, with another clip norm or noise."""
    import tensorflow_privacy as tfp

    stddev = noise_factor * mechanism.clip_norm * mechanism.noise_multiplier
    return tfp.GaussianSumQuery(mechanism.clip_norm if clip is None else clip, stddev)


def own_format(mechanism: Any, m: float, clip: float | None = None) -> Any:
    """Returns an aggregator that clips by float32 norms, and sums in the updates' own format.

    Args:
      mechanism: Of a fixed clip norm; the aggregator has no noise.
      m: The denominator.
      clip: Another clip norm.
    """
    import tensorflow as tf
    import tensorflow_federated as tff

    clip = mechanism.clip_norm if clip is None else clip

    class Factory(tff.aggregators.UnweightedAggregationFactory):
        def create(self, value_type: Any) -> Any:
            @tff.tensorflow.computation(value_type)
            def clipped(update: Any) -> Any:
                parts = [tf.cast(part, tf.float32) for part in tf.nest.flatten(update)]
                finite = tf.math.is_finite(tf.linalg.global_norm(parts))
                parts = [tf.where(finite, part, tf.zeros_like(part)) for part in parts]
                scaled = tf.clip_by_global_norm(parts, clip)[0]
                flat = zip(scaled, tf.nest.flatten(update), strict=True)
                cast = [tf.cast(part, like.dtype) for part, like in flat]
                return tf.nest.pack_sequence_as(update, cast)

            @tff.tensorflow.computation(value_type)
            def mean(total: Any) -> Any:
                return tf.nest.map_structure(lambda part: part / tf.cast(m, part.dtype), total)

            @tff.federated_computation
            def initialize() -> Any:
                return tff.federated_value((), tff.SERVER)

            @tff.federated_computation(
                initialize.type_signature.result, tff.FederatedType(value_type, tff.CLIENTS)
            )
            def next_fn(state: Any, updates: Any) -> Any:
                total = tff.federated_sum(tff.federated_map(clipped, updates))
                return tff.templates.MeasuredProcessOutput(
                    state, tff.federated_map(mean, total), tff.federated_value((), tff.SERVER)
                )

            return tff.templates.AggregationProcess(initialize, next_fn)

    return Factory()
