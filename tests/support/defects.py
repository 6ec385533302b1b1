"""Defects of aggregators that the self-test has to catch, each a builder in place of the right one."""

from __future__ import annotations

import math

from tests.support.old_queries import averaging, finite_records, gaussian_query
from tff_dp.aggregation import build as builders


def noised_by(draw):
    """Returns a builder whose noise is `draw(stddev, tensors)`, a list as long as the tensors."""

    def build(mechanism, m, rounds):
        import tensorflow as tf
        import tensorflow_privacy as tfp

        class Query(tfp.GaussianSumQuery):
            def get_noised_result(self, sample_state, global_state):
                tensors = tf.nest.flatten(sample_state)
                drawn = draw(global_state.stddev, tensors)
                noised = [a + b for a, b in zip(tensors, drawn, strict=True)]
                event = super().get_noised_result(sample_state, global_state)[2]
                return tf.nest.pack_sequence_as(sample_state, noised), global_state, event

        stddev = mechanism.clip_norm * mechanism.noise_multiplier
        return averaging(Query(mechanism.clip_norm, stddev), m)

    return build


def reused_between_rounds(stddev, tensors):
    import tensorflow as tf

    return [
        stddev * tf.random.stateless_normal(tf.shape(tensor), seed=[number, 7])
        for number, tensor in enumerate(tensors)
    ]


def shared_between_tensors(stddev, tensors):
    import tensorflow as tf

    noise = stddev * tf.random.normal([tf.size(tensors[0])])
    return [tf.reshape(noise, tf.shape(tensor)) for tensor in tensors]


def of_another_shape(stddev, tensors):
    import tensorflow as tf

    half = stddev * math.sqrt(
        3
    )  # a uniform of this half-width has the standard deviation of the plan
    return [tf.random.uniform(tf.shape(tensor), -half, half) for tensor in tensors]


def not_divided(mechanism, m, rounds):
    """The noise meets the mean instead of the sum, and no one has divided it."""
    import tensorflow as tf

    def draw(stddev, tensors):
        return [m * stddev * tf.random.normal(tf.shape(tensor)) for tensor in tensors]

    return noised_by(draw)(mechanism, m, rounds)


def clipped_by_tensor(mechanism, m, rounds):
    import tensorflow as tf
    import tensorflow_privacy as tfp

    class Query(tfp.GaussianSumQuery):
        def preprocess_record(self, params, record):
            return tf.nest.map_structure(lambda part: tf.clip_by_norm(part, params), record)

    stddev = mechanism.clip_norm * mechanism.noise_multiplier
    return averaging(Query(mechanism.clip_norm, stddev), m)


def realized_denominator(mechanism, m, rounds):
    import tensorflow_federated as tff

    query = finite_records(gaussian_query(mechanism))
    return tff.aggregators.UnweightedMeanFactory(
        value_sum_factory=tff.aggregators.DifferentiallyPrivateFactory(query)
    )


def no_finite_records(mechanism, m, rounds):
    import tensorflow_federated as tff
    import tensorflow_privacy as tfp

    query = tfp.NormalizedQuery(gaussian_query(mechanism), m)
    return tff.aggregators.DifferentiallyPrivateFactory(query)


def a_measured_norm(mechanism, m, rounds):
    import tensorflow as tf
    import tensorflow_federated as tff

    @tff.tensorflow.computation
    def norm(values):
        return tf.linalg.global_norm(tf.nest.flatten(values))

    return tff.aggregators.add_measurements(
        builders._gaussian(mechanism, m, rounds),
        client_measurement_fn=lambda values: {
            "norms": tff.federated_sum(tff.federated_map(norm, values))
        },
    )


def leaking_zeroing(mechanism, m, rounds):
    import tensorflow_federated as tff

    return tff.learning.dp_aggregator(mechanism.noise_multiplier, m)  # zeroing is its default


def adaptive_query(mechanism, m, count_class=None, **changes):
    import tensorflow_privacy as tfp

    arguments = {
        "initial_l2_norm_clip": mechanism.initial_clip_norm,
        "noise_multiplier": mechanism.value_noise_multiplier(m),
        "target_unclipped_quantile": mechanism.target_quantile,
        "learning_rate": mechanism.clip_learning_rate,
        "clipped_count_stddev": mechanism.count_stddev(m) if mechanism.noise_multiplier else 0.0,
        "expected_num_records": m,
        "geometric_update": True,
    }
    query = tfp.QuantileAdaptiveClipSumQuery(**(arguments | changes))
    if count_class is not None:
        query._quantile_estimator_query = count_class(
            mechanism.initial_clip_norm,
            mechanism.target_quantile,
            mechanism.clip_learning_rate,
            arguments["clipped_count_stddev"],
            m,
            True,
        )
    return query


def unshifted_bits(mechanism, m, rounds):
    """Bits 0 and 1, whose count one client moves by 1; its noise is that of bits -1/2 and 1/2."""
    import tensorflow as tf
    import tensorflow_privacy as tfp

    class Unshifted(tfp.QuantileEstimatorQuery):
        def _construct_below_estimate_query(self, stddev, expected):
            return tfp.NormalizedQuery(tfp.GaussianSumQuery(1.0, stddev), expected)

        def preprocess_record(self, params, record):
            below = tf.cast(record <= params.current_estimate, tf.float32)
            return self._below_estimate_query.preprocess_record(params.below_estimate_params, below)

        def get_noised_result(self, sample_state, global_state):
            share, below_state, event = self._below_estimate_query.get_noised_result(
                sample_state, global_state.below_estimate_state
            )
            update = global_state.learning_rate * (share - global_state.target_quantile)
            estimate = global_state.current_estimate * tf.exp(-update)
            state = global_state._replace(
                current_estimate=estimate, below_estimate_state=below_state
            )
            return estimate, state, event

    return averaging(adaptive_query(mechanism, m, Unshifted), m)


def half_the_noise_of_the_count(mechanism, m, rounds):
    stddev = mechanism.count_stddev(m) / 2 if mechanism.noise_multiplier else 0.0
    return averaging(adaptive_query(mechanism, m, clipped_count_stddev=stddev), m)


def split_forgotten(mechanism, m, rounds):
    z = mechanism.noise_multiplier  # instead of z_v, which is 15 % more here
    return averaging(adaptive_query(mechanism, m, noise_multiplier=z), m)


def factory(make):
    return lambda mechanism, m, rounds: averaging(make(mechanism), m)


def differences(mechanism, m, rounds):
    """Noise N_t - N_(t-1), as mechanisms for sums over rounds have it: each N_t is drawn once."""
    import tensorflow as tf
    import tensorflow_privacy as tfp

    class Query(tfp.GaussianSumQuery):
        def initial_global_state(self):
            seed = tf.random.uniform([2], maxval=2**30, dtype=tf.int32)
            return super().initial_global_state(), seed, tf.zeros([], tf.int32)

        def derive_sample_params(self, global_state):
            return super().derive_sample_params(global_state[0])

        def get_noised_result(self, sample_state, global_state):
            own, seed, step = global_state
            event = super().get_noised_result(sample_state, own)[2]
            noised = []
            for number, tensor in enumerate(tf.nest.flatten(sample_state)):
                now, before = (
                    tf.random.stateless_normal(tf.shape(tensor), seed + tf.stack([t, number]))
                    for t in (step, step - 1)
                )
                difference = now - tf.cast(step > 0, tf.float32) * before
                noised.append(tensor + own.stddev * difference)
            result = tf.nest.pack_sequence_as(sample_state, noised)
            return result, (own, seed, step + 1), event

    stddev = mechanism.clip_norm * mechanism.noise_multiplier
    return averaging(Query(mechanism.clip_norm, stddev), m)
