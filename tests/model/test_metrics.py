"""Metrics of Keras models: what clients report is what Keras computes on their data."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.support.helpers import (
    run_rounds,
    values,
)
from tests.support.models import X4
from tff_dp import data
from tff_dp.algorithms import FedSGD
from tff_dp.model import ModelSpec
from tff_dp.optimizers import SGD

pytestmark = pytest.mark.filterwarnings("ignore:The moving statistics:UserWarning")


NO_STEP = FedSGD(server_optimizer=SGD(learning_rate=1e-9))  # clients predict with the global model


def probabilities():
    return keras.Sequential([keras.layers.Input([4]), keras.layers.Dense(1, activation="sigmoid")])


def labeled_clients(sizes=(1, 5, 3, 12)):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(sum(sizes), 4)).astype(np.float32)
    y = (x[:, :1] + rng.normal(size=(sum(sizes), 1)) > 0).astype(np.float32)
    return data.Clients(x, y, np.cumsum([0, *sizes]))


def test_metrics_over_ragged_clients_equal_those_of_pooled_predictions(stock):
    clients, model = labeled_clients(), probabilities()
    # Chance's weights can make the mean of the negative control equal the pooled value.
    model.set_weights([np.float32([[1.0], [-0.5], [0.5], [0.25]]), np.float32([0.1])])
    makers = {
        "accuracy": lambda: keras.metrics.BinaryAccuracy(),
        "auc": lambda: keras.metrics.AUC(name="auc"),
        "mean_squared_error": lambda: keras.metrics.MeanSquaredError(),
        "r2_score": lambda: keras.metrics.R2Score(),
    }
    metrics = ["accuracy", makers["auc"](), "mse", makers["r2_score"]()]
    spec = ModelSpec(model=model, loss="binary_crossentropy", metrics=metrics)
    reported = run_rounds(spec, clients, NO_STEP).metrics[0]

    x, y = clients.pooled()
    predictions = model(x)
    assert set(reported) == {"loss", "num_examples", *makers}
    expected_loss = np.mean(keras.losses.binary_crossentropy(y, predictions))
    np.testing.assert_allclose(reported["loss"], expected_loss, rtol=1e-5)
    for name, make in makers.items():
        pooled = make()
        pooled.update_state(y, predictions)
        np.testing.assert_allclose(reported[name], pooled.result(), rtol=1e-5, err_msg=name)
    assert all(
        not metric.variables or not any(values(metric.variables)[0].ravel())
        for metric in (metrics[1], metrics[3])
    )  # the user's own objects are as they were
    # Negative control: a mean of the clients' own values is another number.
    each = []
    for position in range(clients.num_clients):
        own = makers["auc"]()
        x, y = clients.client(position)
        own.update_state(y, model(x))
        each.append(float(own.result()))
    assert abs(np.mean(each) - reported["auc"]) > 0.02


ACCURACIES = {
    "sparse": ("sparse_categorical_crossentropy", 3, "int"),
    "sparse logits": (keras.losses.SparseCategoricalCrossentropy(from_logits=True), 3, "int"),
    "categorical": (keras.losses.CategoricalCrossentropy(from_logits=True), 3, "one-hot"),
    "focal": (keras.losses.CategoricalFocalCrossentropy(), 3, "one-hot"),
    "binary": ("binary_crossentropy", 1, "binary"),
    "binary logits": (keras.losses.BinaryCrossentropy(from_logits=True), 1, "binary"),
}


@pytest.mark.parametrize("case", ACCURACIES)
def test_accuracy_is_the_one_of_the_loss(tff, case):
    loss, outputs, kind = ACCURACIES[case]
    rng = np.random.default_rng(4)
    # Logits within (0, 0.5) are positive: a threshold for probabilities would call them negative.
    predictions = rng.uniform(-0.5, 0.5, size=(40, outputs)).astype(np.float32)
    if "logits" not in case:
        predictions = predictions + 0.5
    labels = rng.integers(0, max(outputs, 2), size=40)
    boundary = 0.0 if "logits" in case else 0.5
    right = (
        (predictions[:, 0] > boundary) == labels
        if kind == "binary"
        else np.argmax(predictions, axis=1) == labels
    )
    y = {"int": labels, "binary": labels[:, None]}.get(kind)
    y = np.eye(outputs)[labels] if y is None else y
    y = y.astype(np.int64 if kind == "int" else np.float32)
    model = keras.Sequential([keras.layers.Input([4]), keras.layers.Dense(outputs)])
    bound = ModelSpec(model=model, loss=loss, metrics=["accuracy"]).bind(
        (X4, tf.TensorSpec([None, *y.shape[1:]], y.dtype))
    )
    functional_model = bound.tff_model
    state = functional_model.initialize_metrics_state()
    for rows in (slice(0, 1), slice(1, 33), slice(33, 40)):
        output = tff.learning.models.BatchOutput(
            loss=0.0, predictions=predictions[rows], num_examples=len(y[rows])
        )
        state = functional_model._update_metrics_state(state, y[rows], output)
    result = functional_model.finalize_metrics(state)
    np.testing.assert_allclose(result["accuracy"], right.mean(), rtol=1e-6)
    assert 0 < right.mean() < 1
