"""The weighted mean of updates that clients have made private already."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tff_dp import _compat

tff = _compat.tff.load()


def weighted_mean(value_type: Any) -> Any:
    """Returns the aggregation of updates to their weighted mean, which is 0 if all weights are 0.

    It is TFF's `MeanFactory`, computed in float32 if updates have 16 bits: in float16, a client
    with more than 65,504 records would have an infinite weight, and TFF has no mean of bfloat16
    tensors.

    Args:
      value_type: The TFF type of an update; floating-point tensors.

    Returns:
      A `tff.templates.AggregationProcess` over updates and float32 weights, whose result has the type of
      an update.

    Raises:
      StackError: TFF cannot be imported.
    """
    narrow = {tf.float16, tf.bfloat16}
    factory = tff.aggregators.MeanFactory(no_nan_division=True)
    weight_type = tff.types.TensorType(np.float32)
    specs = tff.types.type_to_tf_tensor_specs(value_type)
    if not any(spec.dtype in narrow for spec in tf.nest.flatten(specs)):
        return factory.create(value_type, weight_type)

    @tff.tensorflow.computation(value_type)
    def widened(update: Any) -> Any:
        return tf.nest.map_structure(
            lambda part: tf.cast(part, tf.float32) if part.dtype in narrow else part, update
        )

    wide_type = widened.type_signature.result

    @tff.tensorflow.computation(wide_type)
    def narrowed(mean: Any) -> Any:
        return tf.nest.map_structure(lambda part, spec: tf.cast(part, spec.dtype), mean, specs)

    inner = factory.create(wide_type, weight_type)

    @tff.federated_computation(
        inner.initialize.type_signature.result,
        tff.FederatedType(value_type, tff.CLIENTS),
        tff.FederatedType(weight_type, tff.CLIENTS),
    )
    def next_round(state: Any, updates: Any, weights: Any) -> Any:
        output = inner.next(state, tff.federated_map(widened, updates), weights)
        return tff.templates.MeasuredProcessOutput(
            output.state, tff.federated_map(narrowed, output.result), output.measurements
        )

    return tff.templates.AggregationProcess(inner.initialize, next_round)
