"""From a mechanism to the TFF aggregator that bounds, sums and noises the updates."""

from __future__ import annotations

import functools
from typing import Any

from tff_dp import _checks, _compat
from tff_dp.errors import ArgumentError
from tff_dp.mechanisms import AdaptiveGaussianMechanism, GaussianMechanism, Mechanism


def build_aggregator(mechanism: Mechanism, clients_per_round: float) -> Any:
    """Returns the differentially private aggregator of a mechanism.

    It is TFF's `DifferentiallyPrivateFactory` over tensorflow-privacy's queries, and never
    `tff.learning.dp_aggregator`, whose default (`zeroing=True`) estimates a quantile of the updates'
    norms without noise, outside any epsilon.

    Args:
      mechanism: The mechanism.
      clients_per_round: m, the public expected number of clients a round: the noised sum's denominator,
        whatever number takes part; > 0.

    Returns:
      A `tff.aggregators.UnweightedAggregationFactory`.

    Raises:
      ArgumentError: The mechanism is unknown or cannot work with m.
      StackError: TFF cannot be imported.
    """
    m = _checks.real("clients_per_round", clients_per_round, "(0, inf)")
    mechanism.check(m)
    tff = _compat.load_tff()
    import tensorflow_privacy as tfp

    if isinstance(mechanism, GaussianMechanism):
        query = tfp.GaussianSumQuery(
            l2_norm_clip=mechanism.clip_norm,
            stddev=mechanism.clip_norm * mechanism.noise_multiplier,
        )
    elif isinstance(mechanism, AdaptiveGaussianMechanism):
        noisy = mechanism.noise_multiplier > 0
        query = tfp.QuantileAdaptiveClipSumQuery(
            initial_l2_norm_clip=mechanism.initial_clip_norm,
            noise_multiplier=mechanism.value_noise_multiplier(m),
            target_unclipped_quantile=mechanism.target_quantile,
            learning_rate=mechanism.clip_learning_rate,
            clipped_count_stddev=mechanism.count_stddev(m) if noisy else 0.0,
            expected_num_records=m,
            geometric_update=True,
        )
    else:
        raise ArgumentError(
            f"mechanism={mechanism!r} has no aggregator: expected GaussianMechanism or "
            "AdaptiveGaussianMechanism."
        )
    query = _finite_records_query()(tfp.NormalizedQuery(query, denominator=m))
    return tff.aggregators.DifferentiallyPrivateFactory(query)


@functools.cache
def _finite_records_query() -> type:
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
