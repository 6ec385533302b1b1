"""Keras models on TFF: they train as a plain Keras loop trains them, or are refused by name."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.support.helpers import (
    SIZES,
    assert_weights,
    keras_rounds,
    regression_clients,
    run_rounds,
    values,
)
from tests.support.models import FEDAVG, RATE, X4, Y1, Gate, mse, sequential
from tests.support.tables import thinned
from tff_dp import data
from tff_dp.errors import ModelError
from tff_dp.model import ModelSpec

pytestmark = pytest.mark.filterwarnings("ignore:The moving statistics:UserWarning")


class WithoutTraining(keras.Model):
    def __init__(self, units=3, **kwargs):
        super().__init__(**kwargs)
        self.hidden = keras.layers.Dense(units, activation="tanh")
        self.gate = Gate()
        self.out = keras.layers.Dense(1)

    def call(self, x):
        return self.out(self.gate(self.hidden(x)))


class WithTraining(WithoutTraining):
    def call(self, x, training=False):
        hidden = self.hidden(x)
        return self.out(self.gate(1.5 * hidden if training else hidden, training=training))


class Uncopyable(WithoutTraining):
    """Takes an argument that Keras cannot record, and no **kwargs."""

    def __init__(self, scale):
        super().__init__(3)
        self.scale = scale

    def call(self, x):
        return self.scale() * super().call(x)


def functional():
    x = keras.layers.Input([4])
    left = keras.layers.Dense(3, activation="tanh")(x)
    right = Gate()(keras.layers.Dense(3, activation="relu")(x))
    return keras.Model(x, keras.layers.Dense(1)(keras.layers.Concatenate()([left, right])))


def frozen_first():
    return sequential(keras.layers.Dense(4, trainable=False), keras.layers.Dense(4), Gate())


def two_inputs():
    x = {"a": keras.layers.Input([2], name="a"), "b": keras.layers.Input([3], name="b")}
    hidden = keras.layers.Dense(3)(x["a"]) * keras.layers.Dense(3)(x["b"])
    return keras.Model(x, keras.layers.Dense(1)(Gate()(hidden)))


def two_input_clients():
    rng = np.random.default_rng(1)
    x = {k: rng.normal(size=(sum(SIZES), n)).astype(np.float32) for k, n in (("a", 2), ("b", 3))}
    y = rng.normal(size=(sum(SIZES), 1)).astype(np.float32)
    return data.Clients(x, y, np.cumsum([0, *SIZES]))


def tokens():
    return keras.Sequential(
        [
            keras.layers.Input([2], dtype="int32"),
            keras.layers.Embedding(5, 3),
            Gate(),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ]
    )


def token_clients():
    rng = np.random.default_rng(2)
    x = rng.integers(0, 5, size=(sum(SIZES), 2)).astype(np.int32)
    return data.Clients(x, rng.integers(0, 3, size=sum(SIZES)), np.cumsum([0, *SIZES]))


def two_outputs():
    x = keras.layers.Input([4])
    return keras.Model(x, {"mean": keras.layers.Dense(1)(x), "scale": keras.layers.Dense(1)(x)})


def two_output_loss(y, predicted):
    return tf.reduce_mean((predicted["mean"] - y) ** 2 + 0.1 * predicted["scale"] ** 2)


crossentropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
huber = keras.losses.Huber()
MODELS = {
    # what is given, from the plain model; the plain model; loss; clients; whether a copy is trained
    "sequential": (None, lambda: sequential(keras.layers.Dense(3), Gate()), "mse", None, True),
    "functional": (None, functional, huber, None, True),
    # Keras does not record what their constructors were given: they are trained in place.
    "subclassed": (None, WithoutTraining, "mse", None, False),
    "subclassed-training": (None, lambda: WithTraining(units=2), "mse", None, False),
    "subclassed-builder": (lambda: WithTraining(units=2), None, "mse", None, True),
    "uncopyable": (None, lambda: Uncopyable(lambda: 1.5), "mse", None, False),
    "uncopyable-builder": (lambda: Uncopyable(lambda: 1.5), None, "mse", None, True),
    "frozen-layer": (None, frozen_first, "mse", None, True),
    "two-inputs": (None, two_inputs, "mse", two_input_clients, True),
    "integers": (None, tokens, crossentropy, token_clients, True),
    "two-outputs": (None, two_outputs, two_output_loss, None, True),
}


@pytest.mark.parametrize(
    "kind",
    thinned(
        list(MODELS),
        by=[
            "functional",
            "two-inputs",
            "sequential",
            "frozen-layer",
            "subclassed",
            "integers",
            "two-outputs",
        ],
    ),
)
def test_training_equals_a_plain_loop(stock, kind):
    builder, make, loss, make_clients, copied = MODELS[kind]
    clients = (make_clients or regression_clients)()
    x, _ = clients.pooled()
    model = (make or builder)()
    model(x)
    before = values(model.weights)

    bound = ModelSpec(model=builder or model, loss=loss).bind(clients.element_spec())
    assert bound.is_functional
    if not builder:  # what was given is as it was, and training starts from it
        assert_weights(values(model.weights), before, atol=0)
        assert_weights(bound.initial_weights.trainable, values(model.trainable_variables), atol=0)
    run = run_rounds(bound, clients, FEDAVG, rounds=2)
    assert_weights(values(model.weights), before, atol=0)
    trained = run.model
    assert (trained is not model) == copied
    assert type(trained) is type(model)

    plain = (make or builder)()
    plain(x)
    for variable, value in zip(
        plain.trainable_variables, bound.initial_weights.trainable, strict=True
    ):
        variable.assign(value)
    for variable, value in zip(
        plain.non_trainable_weights, bound.initial_weights.non_trainable, strict=True
    ):
        variable.assign(value)
    loss = keras.losses.get(loss) if isinstance(loss, str) else loss
    history = keras_rounds(plain, loss, clients, rounds=2, rate=RATE)

    assert_weights(values(trained.weights), values(plain.weights))
    np.testing.assert_allclose([m["loss"] for m in run.metrics], history, rtol=1e-5)
    assert [m["num_examples"] for m in run.metrics] == [clients.num_examples] * 2
    tf.nest.map_structure(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), trained(x), plain(x)
    )
    # Negative control: the weights have moved by far more than the tolerance.
    moved = np.concatenate(
        [
            np.ravel(a - b)
            for a, b in zip(run.weights[-1].trainable, bound.initial_weights.trainable, strict=True)
        ]
    )
    assert np.abs(moved).max() > 1e-2


@pytest.mark.parametrize("make", [WithoutTraining, WithTraining, functional])
def test_the_training_flag_reaches_inner_layers(tff, make):
    model = make()
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    bound = ModelSpec(model=model, loss="mse").bind((X4, Y1))
    weights = tuple(bound.initial_weights)
    for training in (True, False):
        got = bound.tff_model.predict_on_batch(weights, x, training=training)
        np.testing.assert_allclose(got, model(x, training=training), rtol=1e-5, atol=1e-6)
    assert not np.allclose(model(x, training=True), model(x, training=False))


# --- State that training would change ------------------------------------------------------------


class Counter(keras.layers.Layer):
    def build(self, shape):
        self.count = self.add_weight(name="count", shape=(), trainable=False, initializer="zeros")

    def call(self, x):
        self.count.assign_add(1.0)
        return x


class OwnVariable(keras.layers.Layer):
    """Keeps a variable behind Keras's back."""

    def build(self, shape):
        self._hidden = [tf.Variable(1.0, name="behind", trainable=False)]

    def call(self, x):
        return x * self._hidden[0]


def nested_normalization():
    return sequential(
        keras.Sequential([keras.layers.Dense(3), keras.layers.BatchNormalization(name="norm")])
    )


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            lambda: sequential(keras.layers.BatchNormalization(name="norm")),
            r"norm' \(BatchNormalization\).*moving_mean.*GroupNormalization.*trainable=False",
        ),
        (nested_normalization, r"norm' \(BatchNormalization\).*GroupNormalization"),
        (lambda: sequential(Counter(name="visits")), r"visits' \(Counter\).*count"),
        (lambda: sequential(OwnVariable()), r"behind.*add_weight"),
    ],
)
def test_layers_whose_state_changes_are_refused_by_name(tff, model, message):
    with pytest.raises(ModelError, match=message):
        ModelSpec(model=model(), loss="mse").bind((X4, Y1))


@pytest.mark.parametrize("layer", [keras.layers.LSTM, keras.layers.GRU])
def test_a_stateful_recurrent_layer_is_refused(tff, layer):
    model = keras.Sequential(
        [
            keras.layers.Input(batch_shape=[3, 5, 2]),
            layer(2, stateful=True, name="memory"),
            keras.layers.Dense(1),
        ]
    )
    with pytest.raises(ModelError, match=r"memory.*stateful=False"):
        ModelSpec(model=model, loss="mse").bind((tf.TensorSpec([None, 5, 2], tf.float32), Y1))


def test_a_frozen_batch_normalization_keeps_its_statistics(stock):
    clients = regression_clients()
    model = sequential(keras.layers.BatchNormalization(trainable=False), keras.layers.Dense(3))
    norm = model.layers[0]
    norm.set_weights([np.full(4, v, np.float32) for v in (2.0, 0.5, 1.0, 4.0)])
    run = run_rounds(ModelSpec(model=model, loss="mse"), clients, FEDAVG)
    trained = run.model
    keras_rounds(model, mse, clients, rounds=1, rate=RATE)
    assert_weights(values(trained.weights), values(model.weights))
    assert_weights(trained.layers[0].get_weights(), norm.get_weights(), atol=0)


def test_an_adapted_normalization_goes_along(stock):
    clients = regression_clients()
    x, _ = clients.pooled()
    adapted = keras.layers.Normalization()
    adapted.adapt(3.0 * x + 2.0)
    model = sequential(adapted, keras.layers.Dense(3))
    run = run_rounds(ModelSpec(model=model, loss="mse"), clients, FEDAVG)
    trained = run.model
    assert trained is not model
    keras_rounds(model, mse, clients, rounds=1, rate=RATE)
    for name in ("mean", "variance"):
        np.testing.assert_array_equal(getattr(trained.layers[0], name), getattr(adapted, name))
    assert abs(np.asarray(adapted.mean) - 2.0).max() < 3
    np.testing.assert_allclose(trained(x), model(x), rtol=1e-4, atol=1e-5)


# --- Losses that layers add ----------------------------------------------------------------------


class AddsLoss(keras.layers.Layer):
    def call(self, x):
        self.add_loss(0.3 * tf.reduce_sum(x**2))
        self.add_loss(0.1 * tf.reduce_mean(x, axis=0))  # not one number: its sum counts
        return x


@pytest.mark.parametrize(
    "layers",
    [
        lambda: [keras.layers.Dense(3, kernel_regularizer=keras.regularizers.L2(0.3))],
        lambda: [keras.layers.Dense(3, activity_regularizer=keras.regularizers.L1(0.3))],
        lambda: [keras.layers.Dense(3), AddsLoss()],
    ],
    ids=["kernel", "activity", "add_loss"],
)
def test_added_losses_count(stock, layers):
    clients = regression_clients()
    model = sequential(*layers())
    start = model.get_weights()
    run = run_rounds(ModelSpec(model=model, loss="mse", metrics=["mae"]), clients, FEDAVG)
    history = keras_rounds(model, mse, clients, rounds=1, rate=RATE)
    assert_weights(values(run.model.weights), values(model.weights))
    np.testing.assert_allclose(run.metrics[0]["loss"], history[0], rtol=1e-5)
    # Negative control: without them the weights are others.
    model.set_weights(start)
    without = keras_rounds(model, mse, clients, rounds=1, rate=RATE, added_losses=False)
    gaps = [
        abs(a - b).max() for a, b in zip(run.model.get_weights(), model.get_weights(), strict=True)
    ]
    assert max(gaps) > 1e-3
    assert abs(without[0] - history[0]) > 1e-3


# --- Weights in their places ---------------------------------------------------------------------


class SameNames(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.layers_ = [keras.layers.Dense(4, name="d", activation="tanh") for _ in range(4)]

    def call(self, x):
        for layer in self.layers_:
            x = layer(x)
        return x


def test_layers_of_one_name_and_shape_keep_their_weights_apart(stock):
    clients = regression_clients(outputs=4)
    x, _ = clients.pooled()
    model = SameNames()
    model(x)
    assert len({v.path.split("/", 1)[1] for v in model.trainable_variables}) < 8
    start = values(model.trainable_variables)
    run = run_rounds(ModelSpec(model=model, loss="mse"), clients, FEDAVG, rounds=2)
    trained = run.model
    keras_rounds(model, mse, clients, rounds=2, rate=RATE)
    after = values(trained.trainable_variables)
    assert len(after) == 8
    assert all(abs(a - b).max() > 1e-4 for a, b in zip(after, start, strict=True))
    assert_weights(after, values(model.trainable_variables))
    np.testing.assert_allclose(trained(x), model(x), rtol=1e-4, atol=1e-5)


def test_a_builder_of_another_architecture_each_time_is_refused(tff):
    widths = iter(range(2, 100))
    spec = ModelSpec(model=lambda: sequential(keras.layers.Dense(next(widths))), loss="mse")
    bound = spec.bind((X4, Y1))
    with pytest.raises(ModelError, match=r"kernel of shape \(4, \d\) meets .*the same order"):
        bound.to_keras(bound.initial_weights)

    names = iter("abcdef")  # same shapes, in other places
    spec = ModelSpec(model=lambda: sequential(keras.layers.Dense(4, name=next(names))), loss="mse")
    bound = spec.bind((X4, Y1))
    with pytest.raises(ModelError, match=r"a/kernel .* meets .*b/kernel"):
        bound.to_keras(bound.initial_weights)


def test_a_model_without_weights_yet_is_built_and_its_copy_trained(stock):
    clients = regression_clients()
    model = keras.Sequential([keras.layers.Dense(1)])
    run = run_rounds(ModelSpec(model=model, loss="mse"), clients, FEDAVG)
    assert run.model is not model
    assert_weights(values(model.weights), run.bound.initial_weights.trainable, atol=0)
    keras_rounds(model, mse, clients, rounds=1, rate=RATE)
    assert_weights(values(run.model.weights), values(model.weights))
