"""Small models of both Kerases, and the algorithm that trains them in comparisons with plain loops."""

from __future__ import annotations

import keras
import tensorflow as tf

from tff_dp.algorithms import FedAvg
from tff_dp.optimizers import SGD

RATE = 0.02  # far from where any of the models here would diverge
FEDAVG = FedAvg(client_optimizer=SGD(learning_rate=RATE))
X4, Y1 = tf.TensorSpec([None, 4], tf.float32), tf.TensorSpec([None, 1], tf.float32)
mse = keras.losses.MeanSquaredError()


class Gate(keras.layers.Layer):
    """Doubles what passes in training, so that a training flag that gets lost shows."""

    def call(self, x, training=False):
        return 2.0 * x if training else x


def sequential(*layers, features=4):
    return keras.Sequential([keras.layers.Input([features]), *layers, keras.layers.Dense(1)])


def tf_keras():
    import tf_keras

    return tf_keras


def legacy_linear():
    k = tf_keras()
    return k.Sequential([k.layers.Input([4]), k.layers.Dense(1)], name="old")
