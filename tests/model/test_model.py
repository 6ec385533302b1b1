"""Keras models on TFF: they train as a plain Keras loop trains them, or are refused by name."""

from __future__ import annotations

import re
import types

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
from tff_dp import data
from tff_dp.algorithms import FedAvg, FedSGD
from tff_dp.errors import ArgumentError, ModelError
from tff_dp.model import ModelSpec, ModelWeights
from tff_dp.optimizers import SGD

pytestmark = pytest.mark.filterwarnings("ignore:The moving statistics:UserWarning")

RATE = 0.02  # far from where any of the models here would diverge
FEDAVG = FedAvg(client_optimizer=SGD(learning_rate=RATE))
X4, Y1 = tf.TensorSpec([None, 4], tf.float32), tf.TensorSpec([None, 1], tf.float32)
mse = keras.losses.MeanSquaredError()


class Gate(keras.layers.Layer):
    """Doubles what passes in training, so that a training flag that gets lost shows."""

    def call(self, x, training=False):
        return 2.0 * x if training else x


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


def sequential(*layers, features=4):
    return keras.Sequential([keras.layers.Input([features]), *layers, keras.layers.Dense(1)])


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


@pytest.mark.parametrize("kind", MODELS)
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


# --- Random layers -------------------------------------------------------------------------------
#
# With inputs of ones, a kernel that starts at zero, the loss y * prediction and learning rate 1, one
# step of one example moves a kernel by -y * mask / keep. With y = 2^i in the i-th of all clients'
# steps, the sum of all the movements holds every step's mask as its i-th bit, exactly in float32.

UNITS, CLIENTS, STEPS = 256, 4, 4


def bit_clients():
    y = 2.0 ** np.arange(CLIENTS * STEPS, dtype=np.float32)[:, None]
    x = np.ones([CLIENTS * STEPS, UNITS], np.float32)
    return data.Clients(x, y, STEPS * np.arange(CLIENTS + 1))


def linear_loss(y, predictions):
    return y * predictions


def two_dropouts(kind):
    x = kind.layers.Input([UNITS])
    branches = [
        kind.layers.Dense(1, kernel_initializer="zeros", use_bias=False)(
            kind.layers.Dropout(0.5)(x)
        )
        for _ in range(2)
    ]
    return kind.Model(x, kind.layers.Add()(branches))


def masks_of(run):
    """Returns the masks of two rounds, bool [round, branch, step of any client, unit]."""
    rounds = []
    for before, after in zip(run.weights[:-1], run.weights[1:], strict=True):
        branches = []
        for a, b in zip(before.trainable, after.trainable, strict=True):
            sums = np.ravel(a - b) * CLIENTS / 2  # the mean over clients; kept units are doubled
            integers = sums.astype(np.int64)
            assert (integers == sums).all()
            branches.append([(integers >> bit) & 1 for bit in range(CLIENTS * STEPS)])
        rounds.append(branches)
    return np.array(rounds, bool)


def naive_model(model, input_spec):
    """Returns the obvious wrapping: a pure function of the weights and a seed's state that stays."""
    from tff_dp import tff

    state = [tf.convert_to_tensor(v).numpy() for v in model.non_trainable_variables]

    @tf.function
    def predict(weights, x, training=True):
        constants = [tf.constant(value) for value in state]
        return model.stateless_call(list(weights[0]), constants, x, training=training)[0]

    initial = ModelWeights(tuple(v.numpy() for v in model.trainable_variables), ())
    functional_model = tff.learning.models.FunctionalModel(
        initial_weights=tuple(initial),
        predict_on_batch_fn=predict,
        loss_fn=lambda output, label, sample_weight=None: tf.reduce_mean(label * output),
        input_spec=input_spec,
    )
    return types.SimpleNamespace(tff_model=functional_model, initial_weights=initial, source=None)


UNIFORM = FedAvg(client_optimizer=SGD(learning_rate=1.0), weighting="uniform")


def assert_fresh(masks):
    flat = masks.reshape(-1, UNITS)  # of 2 rounds, 2 layers and 16 steps
    # 16384 fair bits: their mean is within 0.025 of 1/2 but for 6.4 standard deviations (2e-10). Two
    # masks agree in half of the units, within 0.2 but for 6.4 of them, in each of 2016 pairs (3e-7).
    assert abs(flat.mean() - 0.5) < 0.025
    agreement = np.array([(a == b).mean() for i, a in enumerate(flat) for b in flat[:i]])
    assert abs(agreement - 0.5).max() < 0.2


def test_every_step_client_round_and_layer_draws_its_own_mask(stock):
    clients = bit_clients()
    run = run_rounds(
        ModelSpec(model=two_dropouts(keras), loss=linear_loss),
        clients,
        UNIFORM,
        rounds=2,
        batch_size=1,
    )
    assert_fresh(masks_of(run))
    x, _ = clients.pooled()  # inference draws none
    for _ in range(2):
        predicted = run.bound.tff_model.predict_on_batch(tuple(run.weights[-1]), x, training=False)
        expected = x @ sum(run.weights[-1].trainable)
        np.testing.assert_allclose(predicted, expected, rtol=1e-5)

    # Negative control: the obvious wrapping draws one mask a layer, ever, and this test sees it.
    naive = naive_model(two_dropouts(keras), clients.element_spec())
    masks = masks_of(run_rounds(naive, clients, UNIFORM, rounds=2, batch_size=1))
    for branch in range(2):
        assert len(np.unique(masks[:, branch].reshape(-1, UNITS), axis=0)) == 1
    with pytest.raises(AssertionError):
        assert_fresh(masks)


class OwnGenerator(keras.layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.generator = keras.random.SeedGenerator()

    def call(self, x, training=False):
        return keras.random.dropout(x, 0.5, seed=self.generator) if training else x


class GlobalGenerator(keras.layers.Layer):
    def call(self, x, training=False):
        return keras.random.dropout(x, 0.5) if training else x


@pytest.mark.parametrize(
    "layer",
    [
        lambda: keras.layers.GaussianNoise(1.0),
        lambda: keras.layers.SpatialDropout1D(0.5),
        lambda: keras.layers.LSTM(8, dropout=0.5),
        lambda: keras.layers.GRU(8, recurrent_dropout=0.5),
        lambda: keras.layers.Bidirectional(keras.layers.LSTM(8, dropout=0.5)),
        lambda: keras.layers.TimeDistributed(keras.layers.Dropout(0.5)),
        lambda: keras.layers.MultiHeadAttention(2, 2, dropout=0.5),
        OwnGenerator,
        lambda: keras.Sequential([keras.layers.Dropout(0.5, seed=7)]),
    ],
)
@pytest.mark.parametrize("seeded", [False, True], ids=["", "seeded"])
def test_random_layers_draw_anew_in_training_only(tff, layer, seeded, request):
    x = keras.layers.Input([8, 8])
    random = layer()
    attends = isinstance(random, keras.layers.MultiHeadAttention)
    model = keras.Model(x, keras.layers.Flatten()(random(x, x) if attends else random(x)))
    spec = tf.TensorSpec([None, 8, 8], tf.float32)
    bound = ModelSpec(model=model, loss=linear_loss).bind((spec, Y1))
    weights = tuple(bound.initial_weights)
    assert all("seed" not in v.path for v in model.weights)
    inputs = np.random.default_rng(0).normal(size=(2, 8, 8)).astype(np.float32)
    if seeded:
        request.addfinalizer(lambda: tf.random.set_seed(None))
        tf.random.set_seed(0)

    @tf.function
    def thrice(x):
        predict = bound.tff_model.predict_on_batch
        return [predict(weights, x, training=t) for t in (True, True, False)]

    first, second, inference = thrice(inputs)
    again = thrice(inputs)
    assert not np.allclose(first, second)
    assert not np.allclose(first, again[0])
    np.testing.assert_allclose(inference, model(inputs), rtol=1e-5, atol=1e-5)


def test_the_global_generator_is_refused(tff):
    spec = ModelSpec(model=sequential(GlobalGenerator()), loss="mse")
    with pytest.raises(ModelError, match=r"sequential.*seed_generator_state.*SeedGenerator"):
        spec.bind((X4, Y1))


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


def tf_keras():
    import tf_keras

    return tf_keras


def legacy_linear():
    k = tf_keras()
    return k.Sequential([k.layers.Input([4]), k.layers.Dense(1)], name="old")


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


# --- Metrics -------------------------------------------------------------------------------------

NO_STEP = FedSGD(server_optimizer=SGD(learning_rate=1e-9))  # clients predict with the global model


def probabilities():
    return keras.Sequential([keras.layers.Input([4]), keras.layers.Dense(1, activation="sigmoid")])


def labelled_clients(sizes=(1, 5, 3, 12)):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(sum(sizes), 4)).astype(np.float32)
    y = (x[:, :1] + rng.normal(size=(sum(sizes), 1)) > 0).astype(np.float32)
    return data.Clients(x, y, np.cumsum([0, *sizes]))


def test_metrics_over_ragged_clients_equal_those_of_pooled_predictions(stock):
    clients, model = labelled_clients(), probabilities()
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


# --- tf-keras ------------------------------------------------------------------------------------


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


def legacy_regularised():
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
    "regularised": (legacy_regularised, False, False),
}


@pytest.mark.parametrize("kind", LEGACY)
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
    if kind != "regularised":  # TFF's own loss metric leaves added losses out; the steps do not
        np.testing.assert_allclose([m["loss"] for m in run.metrics], history, rtol=1e-5)
    assert run.metrics[0]["num_examples"] == clients.num_examples
    x, _ = clients.pooled()
    np.testing.assert_allclose(trained(x), model(x), rtol=1e-4, atol=1e-5)
    if kind == "regularised":  # negative control
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
    "batch normalisation": (lambda k: k.layers.BatchNormalization(), False),
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


def test_tf_keras_batch_normalisation_warns_of_what_is_lost(tff):
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
