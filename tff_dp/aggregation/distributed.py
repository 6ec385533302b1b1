"""The aggregator of distributed mechanisms: TFF's own, adapted to means of finite updates.

It uses TFF's `DistributedDpSumFactory`, and never the `tff.learning.ddp_secure_aggregator` around
it, which no epsilon covers: that one zeroes large updates by a quantile that is estimated without
noise, and divides by the actual number of clients.
"""

from __future__ import annotations

import warnings
from typing import Any

import tensorflow as tf

from tff_dp import _compat
from tff_dp._compat.tff import internals
from tff_dp.errors import ArgumentError
from tff_dp.mechanisms import DistributedMechanism
from tff_dp.noise.words import SCOPE

tff = _compat.tff.load()

# Clients clip to slightly less than 1, so that TFF's own clipping to 1, after a rotation in
# float32, never clips anything: TFF counts the clients that it clips, and the server would see that
# count without noise.
_MARGIN = 1e-5


def distributed_mean(mechanism: DistributedMechanism, m: float, rounds: int) -> Any:
    """Returns the aggregator of a distributed mechanism: the noised sum divided by m.

    Updates are divided by the clip norm before TFF's aggregator and the result is multiplied by it
    afterwards, so that grid, leeway and epsilon do not depend on the clip norm.

    Args:
      mechanism: The mechanism.
      m: The number of clients in each round, a whole number.
      rounds: Not used, since each round has noise of its own.

    Returns:
      A `tff.aggregators.UnweightedAggregationFactory`.

    Raises:
      StackError: TFF cannot be imported.
    """
    del rounds
    with warnings.catch_warnings():
        # TFF warns that conditional rounding is unsafe with low-precision arithmetic, not used
        # here.
        warnings.filterwarnings("ignore", "The selected beta")
        noised_sum = internals.DistributedDpSumFactory(
            noise_multiplier=float(mechanism.noise_multiplier),
            expected_clients_per_round=int(m),
            bits=int(mechanism.bits),
            l2_clip=1.0,
            modclip_prob=float(mechanism.modclip_prob),
            beta=float(mechanism.beta),
            mechanism=mechanism.tff_name,
            rotation_type="hd",
            auto_l2_clip=False,
        )
    return DistributedMeanFactory(noised_sum, mechanism, int(m))


class DistributedMeanFactory(tff.aggregators.UnweightedAggregationFactory):  # type: ignore[misc, name-defined]
    """A factory that clips updates on the clients, and divides the noised sum on the server.

    Args:
      noised_sum: TFF's `DistributedDpSumFactory` for updates of L2 norm at most 1.
      mechanism: The mechanism, for its clip norm and dimension.
      clients: The planned number of clients in each round, by which the sum is divided.
    """

    def __init__(self, noised_sum: Any, mechanism: DistributedMechanism, clients: int) -> None:
        self._noised_sum = noised_sum
        self._mechanism = mechanism
        self._clients = clients

    def create(self, value_type: Any) -> Any:
        """Builds the aggregation process for updates of a TFF type.

        Args:
          value_type: The TFF type of one client's update, a structure of floating-point tensors.

        Returns:
          A `tff.templates.AggregationProcess`. A round in which fewer clients participate than
          planned fails instead of releasing a sum with too little noise.

        Raises:
          ArgumentError: The update does not have the dimension that the mechanism states.
        """
        _check_dimension(self._mechanism, value_type)
        clip_norm, clients = float(self._mechanism.clip_norm), self._clients

        @tff.tensorflow.computation(value_type)
        def bounded(update: Any) -> Any:
            # TFF draws the shares of the noise. The scope marks the clients' graph as one with
            # noise.
            with tf.name_scope(SCOPE):
                return _bounded(update, clip_norm)

        inner = self._noised_sum.create(bounded.type_signature.result)

        @tff.tensorflow.computation(
            inner.next.type_signature.result.result.member,
            inner.next.type_signature.result.measurements.member,
        )
        def mean(total: Any, measurements: Any) -> Any:
            return _mean(total, measurements["actual_num_clients"], clients, clip_norm, value_type)

        state_type = inner.initialize.type_signature.result

        @tff.federated_computation(state_type, tff.FederatedType(value_type, tff.CLIENTS))
        def next_fn(state: Any, updates: Any) -> Any:
            output = inner.next(state, tff.federated_map(bounded, updates))
            result = tff.federated_map(mean, (output.result, output.measurements))
            return tff.templates.MeasuredProcessOutput(output.state, result, output.measurements)

        return tff.templates.AggregationProcess(inner.initialize, next_fn)


def _check_dimension(mechanism: DistributedMechanism, value_type: Any) -> None:
    """Raises ArgumentError unless updates have the dimension that the accounting assumes."""
    found = sum(
        spec.shape.num_elements()
        for spec in tf.nest.flatten(tff.types.type_to_tf_tensor_specs(value_type))
    )
    if found != mechanism.dimension:
        raise ArgumentError(
            f"dimension={mechanism.dimension} of the mechanism does not fit the model: expected its "
            f"number of trainable parameters, {found}. Make the mechanism with dimension={found}; its "
            "epsilon will differ."
        )


def _bounded(update: Any, clip_norm: float) -> Any:
    """Clips an update and divides it by the clip norm: its L2 norm is below 1, or 0 if not finite."""
    wide = tf.nest.map_structure(lambda part: tf.cast(part, tf.float64), update)
    squares = [tf.reduce_sum(tf.square(part)) for part in tf.nest.flatten(wide)]
    norm = tf.sqrt(tf.add_n(squares))  # in float64: no finite float32 update overflows
    finite = tf.math.is_finite(norm)
    norm = tf.where(finite, norm, 0.0)
    limit = tf.constant(clip_norm * (1 - _MARGIN), tf.float64)
    factor = tf.minimum(tf.math.divide_no_nan(limit, norm), 1.0) / clip_norm

    def scaled(part: Any) -> Any:
        return tf.cast(tf.where(finite, part, tf.zeros_like(part)) * factor, tf.float32)

    return tf.nest.map_structure(scaled, wide)


def _mean(total: Any, count: Any, clients: int, clip_norm: float, value_type: Any) -> Any:
    """Returns the sum times the clip norm, divided by the planned number of clients."""
    enough = tf.debugging.Assert(
        count >= clients,
        [
            f"fewer than the {clients} clients of the plan participated: the sum lacks shares of the "
            "noise, and is not released. Let all of them participate."
        ],
    )
    with tf.control_dependencies([enough]):
        factor = tf.constant(clip_norm / clients, tf.float64)
    return tf.nest.map_structure(
        lambda part, spec: tf.cast(tf.cast(part, tf.float64) * factor, spec.dtype),
        total,
        tff.types.type_to_tf_tensor_specs(value_type),
    )
