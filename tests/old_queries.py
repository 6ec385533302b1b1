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
