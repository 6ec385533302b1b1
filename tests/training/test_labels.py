"""Labels, losses, metrics, inputs and outputs, in whole runs: as Keras has them, or one clear error."""

from __future__ import annotations

import importlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import tff_dp
from tests.support.tables import covered, slow
from tff_dp.errors import DataError, ModelError
from tff_dp.model import ModelSpec

KERASES = ["keras", "tf_keras"]
by_keras = pytest.mark.parametrize("k", KERASES, indirect=True)
first_of_keras = pytest.mark.parametrize("k", ["keras", slow("tf_keras")], indirect=True)
rng = np.random.default_rng(0)
X = rng.normal(size=(40, 4)).astype(np.float32)
LINE = (2 * X[:, 0] - X[:, 1]).astype(np.float32)  # y = 2a - b
RATE = 0.3


@pytest.fixture
def k(request, tff):
    """A Keras; tf-keras can be imported after TFF only."""
    return importlib.import_module(request.param)


@pytest.fixture(autouse=True)
def without_xla(tff):
    """Compiling takes longer than the few rounds here."""
    with tff_dp.execution.fast(xla=False):
        yield


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
    "function": lambda k: squared,
    "own object": Squared,
}


@pytest.mark.parametrize(
    ("k", "form"),
    covered(
        KERASES,
        LOSSES,
        by=[("keras", "name"), ("tf_keras", "function"), ("tf_keras", "own object")],
    ),
    indirect=["k"],
)
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


@first_of_keras
def test_class_numbers_of_one_dimension_train_as_fit_does(k):
    labels = rng.integers(0, 3, len(X))
    loss = "sparse_categorical_crossentropy"
    result = run(dense(k, 3, "softmax"), X, labels, loss=loss, metrics=["accuracy"])
    plain = dense(k, 3, "softmax")
    plain.compile(loss=loss, optimizer=k.optimizers.SGD(RATE))
    plain.fit(X, labels, batch_size=len(X), shuffle=False, verbose=0)
    for ours, theirs in zip(result.model.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


@by_keras
def test_gradients_of_single_examples_have_labels_of_the_predictions_rank(k):
    from tff_dp.dp_sgd.gradients import gradient_of

    def gradients(y, loss):
        bound = ModelSpec(model=dense(k), loss=loss).bind(clients_of(X, y).element_spec())
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            weights = tuple(tf.ones_like(w) for w in bound.initial_weights.trainable)
            batches = [(X[:1], y[:1]), (X[:5], y[:5])]
            found = [gradient_of(bound.tff_model, weights, (), batch) for batch in batches]
            return session.run(found)

    for loss in ("mse", squared, Squared(k)):
        flat, column = gradients(LINE, loss), gradients(LINE[:, None], loss)
        for a, b in zip(tf.nest.flatten(flat), tf.nest.flatten(column), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)
        errors = X[:5].sum(axis=1) + 1 - LINE[:5]  # all weights are ones, the bias too
        np.testing.assert_allclose(flat[1][0][:, 0], 2 / 5 * errors @ X[:5], rtol=1e-4)


# --- Several outputs and inputs ------------------------------------------------------------------


def outputs(k, kind):
    x = k.layers.Input([4])
    left = k.layers.Dense(1, name="left", kernel_initializer="zeros")(x)
    right = k.layers.Dense(3, name="right", kernel_initializer="zeros", activation="softmax")(x)
    return k.Model(x, {"left": left, "right": right} if kind == "dictionary" else [left, right])


BY_OUTPUT = {
    ("dictionary", "other order"): {"right": "sparse_categorical_crossentropy", "left": "mse"},
    ("dictionary", "one of them"): {"left": "mse"},
    ("list", "objects"): lambda k: [k.losses.Huber(), k.losses.SparseCategoricalCrossentropy()],
}
TWO = {"left": LINE, "right": rng.integers(0, 3, len(X))}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Gradients do not exist:UserWarning")  # Keras's own, of one
@pytest.mark.parametrize(
    ("k", "outputs_and_losses"),
    covered(
        KERASES,
        BY_OUTPUT,
        by=[
            ("keras", ("dictionary", "other order")),
            ("tf_keras", ("dictionary", "one of them")),
            ("keras", ("list", "objects")),
        ],
    ),
    indirect=["k"],
)
def test_losses_by_output_train_as_fit_does(k, outputs_and_losses):
    kind, losses = outputs_and_losses
    loss = BY_OUTPUT[kind, losses]
    loss = loss(k) if callable(loss) else loss
    y = {"left": LINE} if losses == "one of them" else TWO
    result = run(outputs(k, kind), X, y, loss=loss)
    plain = outputs(k, kind)
    plain.compile(loss=loss, optimizer=k.optimizers.SGD(RATE))
    batch = y if kind == "dictionary" else [y["left"], y["right"]]
    logs = plain.fit(X, batch, batch_size=len(X), shuffle=False, verbose=0).history
    for ours, theirs in zip(result.model.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    np.testing.assert_allclose(result.history[0].metrics["loss"], logs["loss"][0], rtol=1e-5)


@first_of_keras
def test_one_loss_is_for_each_output_and_a_function_of_ones_own_for_all(k):
    y = {"left": LINE, "right": np.eye(3, dtype=np.float32)[TWO["right"]]}
    result = run(outputs(k, "dictionary"), X, y, loss="mse")
    assert result.history[0].metrics["loss"] == pytest.approx(np.mean(LINE**2) + 2 / 9, rel=1e-5)

    def both(labels, predictions):
        left = tf.reduce_mean((labels["left"][:, None] - predictions["left"]) ** 2)
        return left + tf.reduce_mean((labels["right"] - predictions["right"]) ** 2)

    own = run(outputs(k, "dictionary"), X, y, loss=both)
    for ours, theirs in zip(result.model.get_weights(), own.model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def inputs(k, kind):
    a, b = (k.layers.Input([2], name=name) for name in ("a", "b"))
    out = k.layers.Dense(1)(k.layers.Concatenate()([a, b]))
    return k.Model({"a": a, "b": b} if kind == "dictionary" else [a, b], out)


@pytest.mark.parametrize("kind", ["dictionary", "list"])
@by_keras
def test_inputs_go_by_their_names(k, kind):
    model = inputs(k, kind)
    kernel = model.get_weights()[0]
    swapped = {"b": X[:, 2:], "a": X[:, :2]}
    result = run(model, swapped, LINE, loss="mse")
    gradient = 2 / len(X) * X.T @ (X @ kernel[:, 0] - LINE)
    np.testing.assert_allclose(
        result.model.get_weights()[0][:, 0], kernel[:, 0] - RATE * gradient, atol=1e-5
    )


def tokens(k, **arguments):
    return k.Sequential(
        [
            k.layers.Input([6], dtype="int32"),
            k.layers.Embedding(5, 2, **arguments),
            k.layers.Dense(3, activation="softmax"),
        ]
    )


IDS = rng.integers(1, 5, (40, 6)).astype(np.int32)
IDS[:, 4:] = 0
TAGS = rng.integers(0, 3, (40, 6))


def test_padding_that_keras_masks_does_not_count(tff):
    model = tokens(keras, mask_zero=True)
    model(IDS)
    plain = keras.models.clone_model(model)
    plain.set_weights(model.get_weights())
    plain.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    plain.optimizer.learning_rate = RATE
    loss, accuracy = plain.evaluate(IDS, TAGS, batch_size=len(X), verbose=0)
    name = "sparse_categorical_crossentropy"
    result = run(model, IDS, TAGS, loss=name, metrics=["accuracy"])
    measured = result.history[0].metrics
    assert (measured["loss"], measured["accuracy"]) == pytest.approx((loss, accuracy), rel=1e-5)
    plain.fit(IDS, TAGS, batch_size=len(X), shuffle=False, verbose=0)
    for ours, theirs in zip(result.model.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    # Negative control: without the mask, the padding counts.
    unmasked = tokens(keras)
    unmasked.set_weights(model.get_weights())
    assert abs(run(unmasked, IDS, TAGS, loss=name).history[0].metrics["loss"] - loss) > 1e-5


# --- What cannot work comes as one clear error, and nothing is charged ---------------------------

WORDS = np.array(["good day", "foo"] * 20)


def lookup(k, kind):
    if kind == "TextVectorization":
        layer = k.layers.TextVectorization(vocabulary=["a", "b"], output_sequence_length=2)
        return k.Sequential([k.layers.Input([], dtype="string"), layer, k.layers.Embedding(9, 2)])
    vocabulary = [1, 2] if kind == "IntegerLookup" else ["a", "b"]
    layer = getattr(k.layers, kind)(vocabulary=vocabulary)
    dtype = "int64" if kind == "IntegerLookup" else "string"
    return k.Sequential([k.layers.Input([1], dtype=dtype), layer, k.layers.Embedding(9, 2)])


def embedding(k):
    return k.Sequential(
        [
            k.layers.Input([6], dtype="int32"),
            k.layers.Embedding(3, 2, name="words"),
            k.layers.Flatten(),
            k.layers.Dense(1),
        ]
    )


def late_auc(k):
    return k.metrics.AUC(multi_label=True)


ONE_HOT = np.eye(3, dtype=np.float32)[TWO["right"]]
REFUSED = {
    "strings": (dense, X, WORDS, "mse", (), r"y has strings.*np.unique\(labels, return_inverse"),
    "strings, sparse": (
        lambda k: dense(k, 3),
        X,
        WORDS,
        "sparse_categorical_crossentropy",
        (),
        r"y has strings, and loss='sparse_categorical_crossentropy' compares numbers",
    ),
    "text": (
        lambda k: lookup(k, "TextVectorization"),
        WORDS,
        LINE,
        "mse",
        (),
        r"'text_vec.*\(TextVectorization\).*x = layer\(x\).*not covered by any epsilon",
    ),
    "words": (
        lambda k: lookup(k, "StringLookup"),
        WORDS[:, None],
        LINE,
        "mse",
        (),
        r"\(StringLookup\).*Hashing",
    ),
    "numbers": (
        lambda k: lookup(k, "IntegerLookup"),
        IDS[:, :1],
        LINE,
        "mse",
        (),
        r"\(IntegerLookup\)",
    ),
    "one y": (
        lambda k: outputs(k, "list"),
        X,
        LINE,
        "mse",
        (),
        r"y is one array, and loss='mse' compares each of the outputs 'left', 'right' with its own "
        r"labels: expected y as a dictionary.*a function of \(labels, predictions\)",
    ),
    "two y": (
        dense,
        X,
        TWO,
        "mse",
        (),
        r"y has the fields 'left', 'right'.*expected y as an array",
    ),
    "other names": (
        lambda k: outputs(k, "dictionary"),
        X,
        {"left": LINE, "wrong": LINE},
        "mse",
        (),
        r"y has the fields 'left', 'wrong'.*'left', 'right'",
    ),
    "loss of no output": (
        lambda k: outputs(k, "dictionary"),
        X,
        TWO,
        {"left": "mse", "wrong": "mse"},
        (),
        r"names an unknown output 'wrong': expected some of 'left', 'right'",
    ),
    "too many losses": (
        lambda k: outputs(k, "list"),
        X,
        TWO,
        ["mse"] * 3,
        (),
        r"has 3 losses: expected one for each of the 2 outputs 'left', 'right'",
    ),
    "loss of another output": (
        dense,
        X,
        LINE,
        {"wrong": "mse"},
        (),
        r"loss=\{'wrong'.*has one output, or",
    ),
    "no loss": (dense, X, LINE, {}, (), r"loss=\{\} is empty"),
    "F1Score": (
        lambda k: dense(k, 3, "softmax"),
        X,
        ONE_HOT,
        "categorical_crossentropy",
        lambda k: [k.metrics.F1Score()],
        r"'f1_score' \(F1Score\) gives an array of shape \[3\]: expected one number.*macro",
    ),
    "metrics of several outputs": (
        lambda k: outputs(k, "dictionary"),
        X,
        TWO,
        ["mse", "sparse_categorical_crossentropy"],
        ["mae"],
        r"metric 'm.*With several outputs, a metric gets all labels",
    ),
    "name with a space": (
        dense,
        X,
        LINE,
        "mse",
        lambda k: [k.metrics.MeanSquaredError(name="my error")],
        r"named 'my error': expected a name of letters",
    ),
    "input names": (
        lambda k: inputs(k, "dictionary"),
        {"a": X[:, :2], "c": X[:, 2:]},
        LINE,
        "mse",
        (),
        r"whose x is \{a: float32\[None, 2\], c: .*has the inputs 'a', 'b': give x as a dictionary",
    ),
    "one input for two": (
        lambda k: inputs(k, "list"),
        X,
        LINE,
        "mse",
        (),
        r"The model has the inputs 'a', 'b': give x as a dictionary with these names",
    ),
    "index": (
        embedding,
        IDS,
        LINE,
        "mse",
        (),
        r"x of client 'c\d' holds the index [34] for the layer 'words' \(Embedding\), which has "
        r"input_dim=3: expected whole numbers in \[0, 2\]",
    ),
    "negative index": (
        embedding,
        IDS - 3,
        LINE,
        "mse",
        (),
        r"holds the index -[123] for the layer",
    ),
    "classes for numbers": (
        lambda k: dense(k, 3),
        X,
        LINE,
        "mse",
        (),
        r"y has shape \[\] for one example, and the model predicts \[3\]: loss='mse' expects y of shape "
        r"\[3\], and would compare every value with every other",
    ),
    "numbers, one-hot loss": (
        lambda k: dense(k, 3, "softmax"),
        X,
        TWO["right"],
        "categorical_crossentropy",
        (),
        r"If y has class numbers, use 'sparse_categorical_crossentropy'",
    ),
    "one-hot, sparse loss": (
        lambda k: dense(k, 3, "softmax"),
        X,
        ONE_HOT,
        "sparse_categorical_crossentropy",
        (),
        r"expects y of shape \[\] or \[1\].*use 'categorical_crossentropy'",
    ),
    "columns beside one output": (
        dense,
        X,
        X[:, :2],
        "mse",
        (),
        r"y has shape \[2\].*predicts \[1\]",
    ),
    "own loss that broadcasts": (
        lambda k: outputs(k, "dictionary"),
        X,
        LINE,
        lambda y, p: tf.reduce_mean((y - p["left"]) ** 2),
        (),
        r"loss='<lambda>' cannot compare y, which is float32\[None\].*it would broadcast them",
    ),
    "own loss of other shapes": (
        lambda k: dense(k, 3),
        X,
        LINE,
        squared,
        (),
        r"loss='squared' cannot compare y, which is float32\[None\], with the predictions, which are "
        r"float32\[None, 3\]: .*Dimensions must be equal",
    ),
    "own loss that fails": (dense, X, LINE, lambda y, p: 1 / 0, (), r"division by zero$"),
    "unknown metric": (dense, X, LINE, "mse", ["nope"], r"metrics holds 'nope'"),
    "words for numbers": (
        dense,
        np.array([["a"] * 4] * 40),
        LINE,
        "mse",
        (),
        r"x is string\[None, 4\]",
    ),
}
PLAN = tff_dp.PrivacyPlan(
    mechanism=tff_dp.GaussianMechanism(clip_norm=1.0, noise_multiplier=1.0),
    population=4,
    cohort=2,
    rounds=2,
    delta=0.1,
)


@pytest.mark.parametrize("case", REFUSED)
@by_keras
def test_what_cannot_work_comes_as_one_error_and_nothing_is_charged(k, case, tmp_path):
    make, x, y, loss, metrics, message = REFUSED[case]
    metrics = metrics(k) if callable(metrics) else metrics
    model = make(k)
    with pytest.raises((ModelError, DataError), match=message) as caught:
        tff_dp.fit(
            model,
            clients_of(x, y),
            privacy=PLAN,
            loss=loss,
            metrics=metrics,
            ledger=tmp_path / "ledger",
        )
    text = str(caught.value)
    assert len(text) < 700
    assert "\n" not in text
    assert "in user code" not in text
    assert not list(tmp_path.iterdir())


def test_what_tf_keras_alone_cannot_do_is_refused(tff):
    k = importlib.import_module("tf_keras")
    for model, x, y, loss, metrics, message in (
        (
            tokens(k, mask_zero=True),
            IDS,
            TAGS,
            "sparse_categorical_crossentropy",
            (),
            "have a mask",
        ),
        (
            dense(k, 3, "sigmoid"),
            X,
            ONE_HOT,
            "mse",
            [late_auc(k)],
            r"'auc\w*'.*at its first update",
        ),
    ):
        with pytest.raises(ModelError, match=message):
            ModelSpec(model=model, loss=loss, metrics=metrics).bind(clients_of(x, y).element_spec())


@first_of_keras
def test_what_differs_on_purpose_still_trains(k):
    cases = {
        "quantiles": (
            dense(k, 3),
            LINE[:, None],
            lambda y, p: tf.maximum(0.9 * (y - p), 0.1 * (p - y)),
        ),
        "weights beside labels": (
            dense(k),
            X[:, :2],
            lambda y, p: y[:, 1:] ** 2 * (y[:, :1] - p) ** 2,
        ),
        "contrastive": (dense(k), LINE, lambda y, p: (y - tf.transpose(y)) * (p - tf.transpose(p))),
    }
    for model, y, loss in cases.values():
        bound = ModelSpec(model=model, loss=loss).bind(clients_of(X, y).element_spec())
        assert bound.is_functional
    assert np.isfinite(run(hashed(k), WORDS[:, None], LINE, loss="mse").history[0].metrics["loss"])


def hashed(k):
    return k.Sequential(
        [
            k.layers.Input([1], dtype="string"),
            k.layers.Hashing(num_bins=7),
            k.layers.Embedding(7, 2),
            k.layers.Flatten(),
            k.layers.Dense(1),
        ]
    )


@first_of_keras
def test_tensors_compare_by_value_as_in_keras(k):
    class Positive(k.layers.Layer):
        def call(self, x):
            return x * tf.cast((x > 0) == (x != 0), x.dtype)  # what is not negative

    def of_zeros(y, predictions):
        return tf.cast(y == 0, tf.float32) * (predictions - 3) ** 2

    model = dense(k)
    model = k.Sequential([*model.layers, Positive()])
    model.build([None, 4])
    model.set_weights([np.zeros([4, 1], np.float32), np.ones(1, np.float32)])
    y = np.where(np.arange(len(X)) < 10, 0, LINE).astype(np.float32)
    share = lambda y, predictions: tf.cast(y == 0, tf.float32)  # noqa: E731
    result = run(model, X, y, loss=of_zeros, metrics=[share])
    metrics = result.history[0].metrics
    assert metrics["loss"] == pytest.approx(10 / 40 * 4)
    assert metrics["lambda"] == pytest.approx(10 / 40)
    # The gradient by the bias is a quarter of 2 * (1 - 3).
    np.testing.assert_allclose(result.model.get_weights()[1], [1 + RATE], rtol=1e-5)


def test_a_list_of_examples_is_told_from_a_list_of_inputs():
    """As in Keras, arrays in a list are inputs, each with all examples; one array a row is refused."""
    inputs = tff_dp.data.from_arrays({"c": ([X[:, :1], X[:, 1:]], LINE)})
    assert [spec.shape.as_list() for spec in inputs.element_spec()[0]] == [[None, 1], [None, 3]]
    for x in (list(X), [X[:, :1], X[:9, 1:]]):
        with pytest.raises(DataError, match=r"list of arrays is several fields, .*np.stack makes"):
            tff_dp.data.from_arrays({"c": (x, LINE)})
    assert tff_dp.data.from_arrays({"c": (X.tolist(), LINE)}).num_examples == len(X)
