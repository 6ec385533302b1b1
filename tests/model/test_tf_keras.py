"""Models of tf-keras train as a plain tf-keras loop trains them, or are refused by name."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tests.support.dropout import UNIFORM, assert_fresh, bit_clients, masks_of, two_dropouts
from tests.support.helpers import (
    assert_weights,
    keras_rounds,
    regression_clients,
    run_rounds,
    values,
)
from tests.support.models import FEDAVG, RATE, X4, Y1, legacy_linear, tf_keras
from tests.support.tables import thinned
from tff_dp.errors import ModelError
from tff_dp.model import ModelSpec, ModelWeights

pytestmark = pytest.mark.filterwarnings("ignore:The moving statistics:UserWarning")


def legacy_sequential(*layers):
    k = tf_keras()
    return k.Sequential([k.layers.Input([4]), *layers, k.layers.Dense(1)])


def legacy_nested():
    """The converter makes the inner model's weights before the outer layer's, of the same shape."""
    k = tf_keras()
    x = k.layers.Input([4])
    inner = k.Sequential([k.layers.Input([4]), k.layers.Dense(4)])
    return k.Model(x, k.layers.Dense(1)(inner(k.layers.Dense(4, activation="tanh")(x))))


def legacy_branches():
    """The longer branch comes first in the model's own order, and is made last."""
    k = tf_keras()
    x = k.layers.Input([4])
    short = k.layers.Dense(4, activation="tanh")(x)
    long = k.layers.Dense(4)(k.layers.Dense(4, activation="relu")(x))
    return k.Model(x, k.layers.Dense(1)(k.layers.Add()([short, long])))


def legacy_frozen():
    k = tf_keras()
    return legacy_sequential(k.layers.Dense(4, trainable=False), k.layers.Dense(4))


def legacy_regularized():
    k = tf_keras()
    return legacy_sequential(
        k.layers.Dense(3, kernel_regularizer=k.regularizers.L2(0.3)),
        k.layers.Dense(3, bias_regularizer=k.regularizers.L2(0.3)),
    )


LEGACY = {
    # the model, whether it is given as a function, whether it goes the functional way
    "dense": (lambda: legacy_sequential(tf_keras().layers.Dense(3)), False, True),
    "nested": (legacy_nested, False, True),
    "nested-builder": (legacy_nested, True, True),
    "branches-builder": (legacy_branches, True, True),
    "frozen": (legacy_frozen, False, False),
    "regularized": (legacy_regularized, False, False),
}


@pytest.mark.parametrize(
    "kind", thinned(list(LEGACY), by=["dense", "regularized", "nested-builder"])
)
def test_tf_keras_training_equals_a_plain_loop(stock, kind):
    make, as_builder, is_functional = LEGACY[kind]
    clients = regression_clients()
    model = make()
    before = values(model.weights)
    spec = ModelSpec(model=make if as_builder else model, loss="mse", metrics=["mae"])
    run = run_rounds(spec, clients, FEDAVG, rounds=2)
    bound = run.bound
    assert bound.is_functional == is_functional
    assert_weights(run.weights[0].trainable, bound.initial_weights.trainable, atol=0)
    if not as_builder:
        assert_weights(bound.initial_weights.trainable, values(model.trainable_variables), atol=0)
    assert_weights(values(model.weights), before, atol=0)
    trained = run.model
    assert trained is not model
    assert type(trained) is type(model)

    initial = [*bound.initial_weights.trainable, *bound.initial_weights.non_trainable]
    own = [*model.trainable_variables, *model.non_trainable_variables]
    for variable, value in zip(own, initial, strict=True):
        variable.assign(value)
    loss = tf_keras().losses.MeanSquaredError()
    history = keras_rounds(model, loss, clients, rounds=2, rate=RATE)
    assert_weights(values(trained.weights), values(model.weights))
    if kind != "regularized":  # TFF's own loss metric leaves added losses out; the steps do not
        np.testing.assert_allclose([m["loss"] for m in run.metrics], history, rtol=1e-5)
    assert run.metrics[0]["num_examples"] == clients.num_examples
    x, _ = clients.pooled()
    np.testing.assert_allclose(trained(x), model(x), rtol=1e-4, atol=1e-5)
    if kind == "regularized":  # negative control
        for variable, value in zip(own, initial, strict=True):
            variable.assign(value)
        keras_rounds(model, loss, clients, rounds=2, rate=RATE, added_losses=False)
        gap = abs(np.array(trained.trainable_variables[0]) - model.trainable_variables[0].numpy())
        assert gap.max() > 1e-3


def test_tf_keras_dropout_draws_its_own_masks(stock):
    clients = bit_clients()
    loss = sum_of_products(tf_keras())
    spec = ModelSpec(model=two_dropouts(tf_keras()), loss=loss)
    run = run_rounds(spec, clients, UNIFORM, rounds=2, batch_size=1)
    assert not run.bound.is_functional
    assert_fresh(masks_of(run))


def sum_of_products(k):
    class LinearLoss(k.losses.Loss):
        def call(self, y_true, y_pred):
            return y_true * y_pred

    return LinearLoss()


LEGACY_WAYS = {
    "embedding": (lambda k: k.layers.Embedding(5, 3), True),
    "batch normalization": (lambda k: k.layers.BatchNormalization(), False),
    "dropout": (lambda k: k.layers.Dropout(0.5), False),
    "regularizer": (lambda k: k.layers.Dense(3, bias_regularizer="l2"), False),
    "recurrent dropout": (lambda k: k.layers.LSTM(3, recurrent_dropout=0.5), False),
    "inner dropout": (lambda k: k.Sequential([k.layers.Dense(2), k.layers.Dropout(0.5)]), False),
}


def test_tf_keras_models_stay_usable_while_others_are_bound(tff):
    k = tf_keras()
    models = [
        legacy_sequential(k.layers.Dense(3)),
        legacy_sequential(k.layers.Dense(3), k.layers.BatchNormalization()),
    ]
    x = np.ones([1, 4], np.float32)
    before = [model(x).numpy() for model in models]
    for model in models * 2:
        ModelSpec(model=model, loss="mse").bind((X4, Y1))
        np.testing.assert_array_equal(model(x).numpy(), before[models.index(model)])


def test_tf_keras_batch_normalization_warns_of_what_is_lost(tff):
    k = tf_keras()
    model = legacy_sequential(k.layers.Dense(3), k.layers.BatchNormalization(name="norm"))
    with pytest.warns(UserWarning, match=r"moving statistics of 'norm'.*GroupNormalization"):
        ModelSpec(model=model, loss="mse").bind((X4, Y1))


def test_tf_keras_losses_of_activations_are_refused(tff):
    k = tf_keras()
    model = legacy_sequential(k.layers.Dense(3, activity_regularizer="l2", name="busy"))
    with pytest.raises(ModelError, match=r"layers add losses.*kernel_regularizer.*Keras 3"):
        ModelSpec(model=model, loss="mse").bind((X4, Y1))


@pytest.mark.parametrize("case", LEGACY_WAYS)
def test_tf_keras_goes_the_way_that_can_represent_it(tff, case):
    layer, is_functional = LEGACY_WAYS[case]
    k = tf_keras()
    shape = [5, 4] if "recurrent" in case else [4]
    model = k.Sequential([k.layers.Input(shape), layer(k), k.layers.Flatten(), k.layers.Dense(1)])
    spec = (tf.TensorSpec([None, *shape], tf.float32), Y1)
    assert ModelSpec(model=model, loss="mse").bind(spec).is_functional == is_functional


def test_a_tf_keras_subclass_comes_as_a_function(tff):
    k = tf_keras()

    class Own(k.Model):
        def __init__(self):
            super().__init__()
            self.dense = k.layers.Dense(1)

        def call(self, x):
            return self.dense(x)

    with pytest.raises(ModelError, match=r"'own' cannot be copied.*Pass a function that makes it"):
        ModelSpec(model=Own(), loss="mse").bind((X4, Y1))
    bound = ModelSpec(model=Own, loss="mse").bind((X4, Y1))
    weights = ModelWeights((np.ones([4, 1], np.float32), np.ones([1], np.float32)), ())
    assert_weights(values(bound.to_keras(weights).weights), weights.trainable, atol=0)


def test_a_tf_keras_builder_of_another_architecture_each_time_is_refused(tff):
    widths = iter(range(2, 100))
    k = tf_keras()
    spec = ModelSpec(model=lambda: legacy_sequential(k.layers.Dense(next(widths))), loss="mse")
    bound = spec.bind((X4, Y1))
    with pytest.raises(ModelError, match=r"a different one each time"):
        bound.to_keras(bound.initial_weights)


def test_tf_keras_needs_tf_dot_keras_to_be_it(tff, monkeypatch):
    monkeypatch.setattr("tff_dp._compat.keras.tf_keras_is_legacy", lambda: False)
    with pytest.raises(ModelError, match=r"'old' is a tf-keras model.*TF_USE_LEGACY_KERAS=1"):
        ModelSpec(model=legacy_linear(), loss="mse").bind((X4, Y1))
