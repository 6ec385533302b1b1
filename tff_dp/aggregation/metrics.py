"""The aggregation of training metrics that are released with noise."""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tff_dp import _compat
from tff_dp.errors import ArgumentError
from tff_dp.mechanisms import PrivateMetric
from tff_dp.noise import Grid, gaussian

tff = _compat.tff.load()


def private_metrics(
    metrics: Sequence[PrivateMetric], noise_multiplier: float, clients_per_round: float
) -> Callable[..., Any]:
    """Returns the function that a TFF builder takes as `metrics_aggregator`.

    Nothing but the noised means of these metrics leaves the round.

    Args:
      metrics: The metrics to release.
      noise_multiplier: z, the noise multiplier of the plan.
      clients_per_round: m, the public expected number of clients, which is the denominator of the
        means.

    Returns:
      A function from the model's metric finalizers to a federated computation, which maps the
      clients' unfinalized metrics to the noised means, float32 [].

    Raises:
      StackError: TFF cannot be imported.
    """

    def grid_of(metric: PrivateMetric) -> Grid:
        return Grid.of(metric.stddev(noise_multiplier) / metric.clip_value)

    def cut(value: Any, metric: PrivateMetric) -> Any:
        """Clips a value and truncates it to the grid, on which the bound is a power of two of steps."""
        value = tf.cast(value, tf.float64)
        value = tf.where(tf.math.is_nan(value), tf.zeros_like(value), value)
        share = tf.clip_by_value(value / metric.clip_value, 0.0, 1.0)
        return tf.cast(share * grid_of(metric).steps, tf.int64)

    def noised_mean(total: Any, metric: PrivateMetric) -> Any:
        grid = grid_of(metric)
        stddev = metric.stddev(noise_multiplier) / metric.clip_value * grid.steps
        noised = total + gaussian([], stddev)
        return grid.restored(noised, metric.clip_value, clients_per_round, tf.float32)

    def build(finalizers: Any, local_type: Any = None) -> Any:
        del local_type

        @tff.federated_computation
        def aggregate(local: Any) -> Any:
            of_one_client = local.type_signature.member

            @tff.tensorflow.computation(of_one_client)
            def values(unfinalized: Any) -> Any:
                if callable(finalizers):  # of a functional model
                    found = finalizers(unfinalized)
                else:
                    found = {name: finalizers[name](unfinalized[name]) for name in finalizers}
                for metric in metrics:
                    if metric.name not in found:
                        raise ArgumentError(
                            f"name={metric.name!r} of a private metric is unknown: expected a metric of "
                            f"the model, one of {', '.join(map(repr, found))}."
                        )
                    shape = tf.convert_to_tensor(found[metric.name]).shape
                    if shape.rank != 0:
                        raise ArgumentError(
                            f"name={metric.name!r} of a private metric has values of shape {shape}: "
                            "expected one number for each client, which is clipped and noised. Make the "
                            "metric a single number in the model, for example by average='macro'."
                        )
                return collections.OrderedDict((m.name, cut(found[m.name], m)) for m in metrics)

            @tff.tensorflow.computation(values.type_signature.result)
            def noised(totals: Any) -> Any:
                return collections.OrderedDict(
                    (m.name, noised_mean(totals[m.name], m)) for m in metrics
                )

            return tff.federated_map(noised, tff.federated_sum(tff.federated_map(values, local)))

        return aggregate

    return build
