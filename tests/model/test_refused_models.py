"""Models that cannot be trained as Keras would train them are refused by name."""

from __future__ import annotations

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.support.models import X4, Y1, legacy_linear, mse, tf_keras
from tff_dp.errors import ArgumentError, ModelError
from tff_dp.model import ModelSpec

pytestmark = pytest.mark.filterwarnings("ignore:The moving statistics:UserWarning")


# --- Wrong things --------------------------------------------------------------------------------


def linear():
    return keras.Sequential(
        [keras.layers.Input([4]), keras.layers.Dense(1, name="linear")], name="small"
    )


class NeedsArgument(keras.metrics.Metric):
    """Cannot be made from its configuration."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def update_state(self, y_true, y_pred, sample_weight=None):
        pass

    def result(self):
        return 0.0


TWICE = ["mse", keras.metrics.MeanSquaredError()]
WRONG = {
    "no model": (
        lambda: {"model": 3},
        r"model=3: expected a Keras 3 model, a tf-keras model, or a fun",
    ),
    "a layer": (
        lambda: {"model": keras.layers.Dense(1)},
        r"model=<Dense .*: expected a Keras 3 model",
    ),
    "needs arguments": (
        lambda: {"model": lambda n: linear()},
        r"model=<function .*without arguments",
    ),
    "makes no model": (lambda: {"model": lambda: "x"}, r"model='x': expected a Keras 3 model"),
    "no loss": (lambda: {"loss": None}, r"loss=None: expected a Keras loss .*loss='mse'"),
    "unknown loss": (
        lambda: {"loss": "nope"},
        r"loss='nope' is unknown to Keras 3: .*such as 'mse'",
    ),
    "no such loss": (lambda: {"loss": 3}, r"loss=3 does not fit a Keras 3 model: expected a loss"),
    "loss class": (
        lambda: {"loss": keras.losses.Huber},
        r"loss=<class .*Huber'> is a class: expected a loss object, such as Huber\(\)",
    ),
    "tf-keras loss": (
        lambda: {"loss": tf_keras().losses.MeanSquaredError()},
        r"loss=<tf_keras.*> does not fit a Keras 3 model: expected a loss of Keras 3, or its name",
    ),
    "Keras 3 loss": (
        lambda: {"model": legacy_linear(), "loss": mse},
        r"loss=<.*> does not fit a tf-keras model: expected a loss of tf-keras, or its name",
    ),
    "unknown loss of tf-keras": (
        lambda: {"model": legacy_linear(), "loss": "nope"},
        r"loss='nope' is unknown to tf-keras",
    ),
    "no list": (lambda: {"metrics": "mse"}, r"metrics='mse': expected a list of Keras metrics"),
    "unknown metric": (
        lambda: {"metrics": ["nope"]},
        r"metrics holds 'nope': expected a metric of keras",
    ),
    "metric class": (
        lambda: {"metrics": [keras.metrics.AUC]},
        r"metrics holds <class .*AUC'>: expected a metric of keras",
    ),
    "tf-keras metric": (
        lambda: {"metrics": [tf_keras().metrics.AUC()]},
        r"metrics holds <tf_keras.*>: expected a metric of keras",
    ),
    "Keras 3 metric": (
        lambda: {"model": legacy_linear(), "metrics": [keras.metrics.AUC()]},
        r"metrics holds <AUC .*>: expected a metric of tf_keras",
    ),
    "metric without configuration": (
        lambda: {"metrics": [NeedsArgument(2)]},
        r"'needs_argument' \(NeedsArgument\) cannot be copied.*get_config\(\)",
    ),
    "one name twice": (
        lambda: {"metrics": TWICE},
        r"two values named 'mean_squared_error'.*name='mse_1'",
    ),
    "reserved name": (
        lambda: {"metrics": [keras.metrics.MeanSquaredError(name="loss")]},
        r"named 'loss', or one of \('loss', 'num_examples'\)",
    ),
    "accuracy of mse": (
        lambda: {"metrics": ["accuracy"]},
        r"metrics holds 'accuracy', which loss='mse' does not define.*BinaryAccuracy\(\)",
    ),
    "metric of other shapes": (
        lambda: {
            "metrics": ["mae"],
            "loss": lambda y, predictions: tf.reduce_mean(predictions),
            "y": tf.TensorSpec([None, 3], tf.float32),
            "model": two_wide(),
        },
        r"'mean_absolute_error' cannot compare y, which is float32\[None, 3\], with the predictions, "
        r"which are float32\[None, 2\]",
    ),
    "x of another shape": (
        lambda: {"x": tf.TensorSpec([None, 5], tf.float32)},
        r"model 'small' cannot be called on the data, whose x is float32\[None, 5\]",
    ),
    "x with names": (
        lambda: {"x": {"a": X4, "b": tf.TensorSpec([None], tf.int64)}},
        r"model 'small'.*whose x is \{a: float32\[None, 4\], b: int64\[None\]\}",
    ),
    "x of another shape, unbuilt": (
        lambda: {"model": keras.Sequential([keras.layers.Reshape([7])], name="late")},
        r"model 'late' cannot be called on the data, whose x is float32\[None, 4\]",
    ),
    "x of another shape, tf-keras": (
        lambda: {"model": legacy_linear(), "x": tf.TensorSpec([None, 5], tf.float32)},
        r"model 'old' cannot be called on the data, whose x is float32\[None, 5\]",
    ),
}


def two_wide():
    return keras.Sequential([keras.layers.Input([4]), keras.layers.Dense(2)])


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_work_is_refused_in_one_message(tff, case):
    arguments, message = WRONG[case]
    arguments = {"model": linear(), "loss": "mse", "x": X4, "y": Y1} | arguments()
    x, y = arguments.pop("x"), arguments.pop("y")
    with pytest.raises(ModelError, match=re.compile(message, re.DOTALL)) as caught:
        ModelSpec(**arguments).bind((x, y))
    assert isinstance(caught.value, ArgumentError)


def test_another_backend_is_refused(tff, monkeypatch):
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    with pytest.raises(ModelError, match=r"backend is 'jax': expected 'tensorflow'.*KERAS_BACKEND"):
        ModelSpec(model=linear(), loss="mse").bind((X4, Y1))


# --- Arguments that Keras does not record --------------------------------------------------------


class Noisy(keras.Model):
    """Its argument shows in training only."""

    def __init__(self, rate=0.5, **kwargs):
        super().__init__(**kwargs)
        self.dropout = keras.layers.Dropout(rate)
        self.out = keras.layers.Dense(1, kernel_initializer="zeros", use_bias=False)

    def call(self, x):
        return self.out(self.dropout(x))


@pytest.mark.parametrize("wrapped", [False, True])
def test_an_argument_that_keras_does_not_record_is_not_lost(tff, wrapped):
    model = Noisy(rate=0.0)
    model(np.ones([1, 4], np.float32))
    if wrapped:
        x = keras.layers.Input([4])
        model = keras.Model(x, model(x))
    # Negative control: Keras's own copy has the default rate, and the same predictions.
    copy = keras.models.clone_model(model)
    (noisy,) = [layer for layer in copy._flatten_layers() if isinstance(layer, Noisy)]
    assert noisy.dropout.rate == 0.5
    bound = ModelSpec(model=model, loss="mse").bind((X4, Y1))
    weights = ((np.ones([4, 1], np.float32),), ())
    predicted = bound.tff_model.predict_on_batch(weights, np.ones([20, 4], np.float32), True)
    np.testing.assert_allclose(predicted, np.full([20, 1], 4.0))


class Recorded(Noisy):
    def __init__(self, rate=0.5, **kwargs):
        super().__init__(rate, **kwargs)
        self.rate = rate

    def get_config(self):
        return {**super().get_config(), "rate": self.rate}


def test_a_subclass_that_records_its_arguments_is_copied(tff):
    model = Recorded(rate=0.25)
    bound = ModelSpec(model=model, loss="mse").bind((X4, Y1))
    copy = bound.to_keras(bound.initial_weights)
    assert copy is not model
    assert copy.dropout.rate == 0.25
