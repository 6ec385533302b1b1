"""Models whose examples have gradients of their own, and those that are refused."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import tff_dp
from tests.support.silos import (
    Silos,
    inside,
    linear,
    mechanism,
    regression,
)
from tff_dp.errors import ArgumentError, ModelError

pytestmark = pytest.mark.heavy

LAYERS = keras.layers


@keras.saving.register_keras_serializable("test_record")
class Centring(keras.layers.Layer):
    """Takes the batch's mean off: one example's output depends on the others."""

    def call(self, x):
        return x - keras.ops.mean(x, axis=0, keepdims=True)


def contrastive(labels, predictions):
    """A loss of the differences between the examples of a batch."""
    return keras.ops.square(predictions - keras.ops.mean(predictions, axis=0) - labels)


def tf_keras_model(*layers):
    import tf_keras

    return tf_keras.Sequential([tf_keras.layers.Input([3]), *layers, tf_keras.layers.Dense(1)])


def refused(model, loss="mse"):
    return Silos(model, regression((4, 4)), mechanism(local_steps=1), loss=loss)


def dense(*layers):
    return keras.Sequential([keras.layers.Input([3]), *layers, keras.layers.Dense(1)])


def test_models_whose_examples_depend_on_each_other_are_refused(tff):
    with pytest.raises(ModelError, match=r"one example depends on the other examples.*LayerNorm"):
        refused(dense(Centring()))
    with pytest.raises(ModelError, match="one example depends on the other examples"):
        refused(dense(LAYERS.Dense(4), LAYERS.Dropout(0.5), Centring()))
    with pytest.raises(ModelError, match=r"depends on the other examples.*mean over examples"):
        refused(dense(LAYERS.Dense(4)), contrastive)
    with pytest.raises(ModelError, match="BatchNormalization"):
        refused(dense(LAYERS.BatchNormalization()))
    import tf_keras

    with (
        pytest.warns(UserWarning, match="moving statistics"),
        pytest.raises(ModelError, match=r"tf-keras.*record-level.*BatchNormalization"),
    ):
        refused(tf_keras_model(tf_keras.layers.BatchNormalization()))


def test_models_whose_examples_do_not_are_taken(tff):
    refused(dense(LAYERS.Dense(4), LAYERS.Dropout(0.5), LAYERS.LayerNormalization()))
    refused(dense(LAYERS.Dense(4, activity_regularizer="l2", kernel_regularizer="l1")))
    frozen = dense(LAYERS.BatchNormalization(trainable=False))
    refused(frozen)
    refused(tf_keras_model())


def test_a_tf_keras_model_trains(tff):
    own = mechanism(noise_multiplier=0.0, batch_size=8, local_steps=2)
    silos = Silos(tf_keras_model(), regression((8,)), own)
    with inside("scan"):
        assert np.abs(silos.change()[0]).max() > 0.01


def test_a_client_that_diverges_sends_nothing(tff):
    # A step of the rate 1e38 overflows. The other client is the same: nobody moves the model.
    algorithm = tff_dp.FedAvg(client_optimizer=tff_dp.SGD(learning_rate=3e38))
    own = mechanism(noise_multiplier=100.0, batch_size=4, local_steps=5)
    silos = Silos(linear(3), regression((4, 4)), own, algorithm=algorithm)
    with inside("scan"):
        (change,) = silos.change()
    np.testing.assert_array_equal(change, 0)


def test_federated_sgd_has_no_local_steps_to_protect_records_in(tff):
    with pytest.raises(ArgumentError, match=r"FedSGD.*no local steps.*FedAvg"):
        Silos(linear(3), regression((4, 4)), mechanism(), algorithm=tff_dp.FedSGD())


@pytest.mark.parametrize(
    "algorithm",
    [
        tff_dp.FedProx(proximal_strength=0.5, client_optimizer=tff_dp.SGD(learning_rate=0.1)),
        tff_dp.FedOpt(server_optimizer=tff_dp.Adam(learning_rate=0.1)),
        tff_dp.FedAvg(client_optimizer=tff_dp.Adam(learning_rate=0.1)),
    ],
)
def test_the_other_algorithms_take_their_steps(tff, algorithm):
    own = mechanism(batch_size=4, local_steps=3)
    silos = Silos(linear(3), regression((8, 8)), own, algorithm=algorithm)
    with inside("scan"):
        changes = silos.change(2)
    assert all(np.isfinite(change).all() and np.abs(change).max() > 1e-4 for change in changes)


@pytest.mark.slow
def test_a_model_whose_gradients_are_large_trains_more_than_once(tff):
    """TensorFlow saves memory in a graph of 231 MB, by which the second client of a block fails."""
    layers = [LAYERS.Dense(3000, activation="relu"), LAYERS.Dense(1)]
    model = keras.Sequential([LAYERS.Input([300]), *layers])
    own = mechanism(batch_size=64, local_steps=1)
    silos = Silos(model, regression((64, 64), features=300), own)
    with inside("scan"):
        assert len(silos.change(rounds=2)) == 2
