"""Plans, models and computations of which each draws noise in another place, and a test of its bits."""

from __future__ import annotations

import math

import keras
import numpy as np
from scipy import stats

import tff_dp
from tests.support.noise import FALSE_POSITIVE
from tff_dp import data, execution
from tff_dp.process import initialize_from, model_weights

CLIENTS = 4


@keras.saving.register_keras_serializable("tests")
class Obstacle(keras.layers.Layer):
    """Changes nothing, by an operation that cannot be written anew."""

    def __init__(self, kind="gamma", **arguments):
        super().__init__(**arguments)
        self.kind = kind

    def get_config(self):
        return {**super().get_config(), "kind": self.kind}

    def call(self, x):
        import tensorflow as tf

        if self.kind == "gamma":
            found = tf.random.gamma([], 1.0)
        else:
            found = tf.numpy_function(lambda: np.float32(1.0), [], tf.float32)
        return x + tf.stop_gradient(0.0 * tf.ensure_shape(found, []))


def silos() -> data.Clients:
    rng = np.random.default_rng(0)
    x = rng.normal(size=[16, 2]).astype(np.float32)
    return data.Clients(x, x.sum(1, keepdims=True), [0, 4, 8, 12, 16])


def model_with(kind):
    layers = [keras.layers.Input([2]), keras.layers.Dense(1, kernel_initializer="zeros")]
    return keras.Sequential([*layers, *([Obstacle(kind)] if kind else [])])


def plan(mechanism, **changes) -> tff_dp.PrivacyPlan:
    values = {
        "mechanism": mechanism,
        "population": CLIENTS,
        "sampler": tff_dp.FullParticipation(),
        "rounds": 3,
        "delta": 1e-3,
    }
    return tff_dp.PrivacyPlan(**(values | changes))


def plans() -> dict[str, tff_dp.PrivacyPlan]:
    size = {"clip_norm": 1.0, "noise_multiplier": 3.0}
    skellam = tff_dp.DistributedSkellamMechanism(**size, dimension=3)
    of_records = tff_dp.RecordGaussianMechanism(**size, batch_size=2, local_steps=2)
    return {
        "central": plan(tff_dp.GaussianMechanism(**size)),
        "local": plan(tff_dp.LocalGaussianMechanism(**size)),
        "distributed": plan(skellam, adjacency="zero-out"),
        "record": tff_dp.PrivacyPlan(
            unit="record", mechanism=of_records, records=(4,) * CLIENTS, rounds=3, delta=1e-3
        ),
    }


def one_round(bound, process, **context) -> np.ndarray:
    with execution.fast(strict=True, **context):
        state = initialize_from(process, bound.initial_weights)
        state = process.next(state, silos().cohort(range(CLIENTS), batch_size=2)).state
        return np.concatenate([np.ravel(w) for w in model_weights(process, state).trainable])


def are_fair(drawn: np.ndarray) -> bool:
    """Returns whether the bits of words look like coins, at FALSE_POSITIVE: each place, and all."""
    bits = np.unpackbits(np.ascontiguousarray(drawn).view(np.uint8).reshape(len(drawn), -1), axis=1)
    ones = bits.sum(0)
    each = 2 * stats.norm.sf(np.abs(ones - len(drawn) / 2) / math.sqrt(len(drawn) / 4))
    together = 2 * stats.norm.sf(abs(ones.sum() - bits.size / 2) / math.sqrt(bits.size / 4))
    return each.min() * len(ones) > FALSE_POSITIVE / 2 and together > FALSE_POSITIVE / 2


def summing(tff, client=None, server=None, result=None):
    """A process-like computation: clients' vectors are summed, with noise of whoever has some."""
    import tensorflow as tf

    vector = tff.TensorType(np.float32, [3])

    @tff.tensorflow.computation(vector)
    def work(x):
        return x + client() if client else x

    @tff.tensorflow.computation(np.int32, vector)
    def update(state, total):
        return state + 1, total + server() if server else total

    types = tff.FederatedType(np.int32, tff.SERVER), tff.FederatedType(vector, tff.CLIENTS)

    @tff.federated_computation(*types)
    def take_round(state, vectors):
        total = tff.federated_sum(tff.federated_map(work, vectors))
        both = tff.federated_map(update, (state, total))
        return both[0], both[1]

    del tf, result
    return take_round


ZEROS = np.zeros([3], np.float32)
