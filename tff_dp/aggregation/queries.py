"""Queries of our own, next to tensorflow-privacy's."""

from __future__ import annotations

import functools
from typing import Any


@functools.cache
def finite_records_query() -> type:
    """Returns the query class; its base is known only once TensorFlow Privacy is imported."""
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
            return self._inner.get_noised_result(sample_state, global_state)

        def derive_metrics(self, global_state: Any) -> Any:
            return self._inner.derive_metrics(global_state)

    return FiniteRecordsQuery
