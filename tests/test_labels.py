"""Labels, losses, metrics, inputs and outputs, in whole runs: as Keras has them, or one clear error."""

from __future__ import annotations

import importlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import tff_dp
from tff_dp.errors import ArgumentError, DataError, ModelError
from tff_dp.model import ModelSpec

by_keras = pytest.mark.parametrize("k", ["keras", "tf_keras"], indirect=True)
rng = np.random.default_rng(0)
X = rng.normal(size=(40, 4)).astype(np.float32)
LINE = (2 * X[:, 0] - X[:, 1]).astype(np.float32)  # y = 2a - b
RATE = 0.3


@pytest.fixture
def k(request, tff):
    """A Keras; tf-keras can be imported after TFF only."""
    return importlib.import_module(request.param)


def clients_of(x, y, count=4):
    def part(value, place):
        if isinstance(value, dict):
            return {key: part(field, place) for key, field in value.items()}
        return value[place::count]

    return tff_dp.data.from_arrays({f"c{i}": (part(x, i), part(y, i)) for i in range(count)})


def run(model, x, y, *, rounds=1, count=1, **arguments):
    """A step of gradient descent on all data in each round."""
    return tff_dp.fit(
        model,
        clients_of(x, y, count),
        privacy=tff_dp.NoPrivacy(),
        rounds=rounds,
        algorithm=tff_dp.FedAvg(client_optimizer=tff_dp.SGD(learning_rate=RATE)),
        batch_size=len(X),
        shuffle=False,
        **arguments,
    )


def dense(k, units=1, activation=None, features=4):
    return k.Sequential(
        [
            k.layers.Input([features]),
            k.layers.Dense(units, activation=activation, kernel_initializer="zeros"),
        ]
    )


def squared(y, predictions):
    return (y - predictions) ** 2


class Squared:
    """Losses of one's own, as functions and objects of each Keras."""

    def __new__(cls, k):
        class Own(k.losses.Loss):
            def call(self, y_true, y_pred):
                return squared(y_true, y_pred)

        return Own()


LOSSES = {
    "name": lambda k: "mse",
    "object": lambda k: k.losses.MeanSquaredError(),
    "function": lambda k: squared,
    "function of Keras": lambda k: k.losses.mean_squared_error,
    "own object": Squared,
    "list of one": lambda k: ["mse"],
}


@pytest.mark.parametrize("form", LOSSES)
@by_keras
def test_labels_of_one_dimension_train_as_fit_does(k, form):
    loss = LOSSES[form](k)
    result = run(dense(k), X[:, :4], LINE, rounds=60, loss=loss, metrics=["mae"])
    np.testing.assert_allclose(result.model.get_weights()[0][:2, 0], [2, -1], atol=2e-3)
    assert result.history[-1].metrics["loss"] < 1e-4
    assert result.history[-1].metrics["mean_absolute_error" if k is keras else "mae"] < 0.01
    plain = dense(k)
    plain.compile(loss="mse", optimizer=k.optimizers.SGD(RATE))
    plain.fit(X, LINE, batch_size=len(X), epochs=60, shuffle=False, verbose=0)
    for ours, theirs in zip(result.model.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    # Negative control: the mean over all pairs, which labels [n] beside [n, 1] become by broadcasting.
    broadcast = dense(k)
    for _ in range(60):
        with tf.GradientTape() as tape:
            value = tf.reduce_mean(squared(LINE, broadcast(X)))
        weights = broadcast.trainable_variables
        for weight, gradient in zip(weights, tape.gradient(value, weights), strict=True):
            weight.assign(weight - RATE * gradient)
    assert abs(broadcast.get_weights()[0][0, 0] - 2) > 1
