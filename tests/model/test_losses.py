"""Every loss and metric of both Kerases, beside what Keras's own training and evaluation give."""

from __future__ import annotations

import importlib
import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.support.tables import slow
from tff_dp.errors import DataError, ModelError
from tff_dp.model.labels import to_one_rank
from tff_dp.model.losses import resolve_loss
from tff_dp.model.metrics import functional_metrics, legacy_metric, resolve_metrics, tried

KERASES = ["keras", "tf_keras"]
EXAMPLES, FEATURES, CLASSES, RATE = 8, 4, 3, 0.1

# What is compared with what. A name that Keras exports and no table has fails a test below.
VALUE, ONE_HOT, CLASS, CTC = "value", "one-hot", "class", "ctc"
LOSSES = {
    VALUE: """BinaryCrossentropy BinaryFocalCrossentropy CosineSimilarity Dice Hinge Huber KLDivergence
        LogCosh MeanAbsoluteError MeanAbsolutePercentageError MeanSquaredError Tversky Poisson
        MeanSquaredLogarithmicError SquaredHinge binary_crossentropy binary_focal_crossentropy
        cosine_similarity dice hinge huber kl_divergence log_cosh mean_absolute_error poisson
        mean_absolute_percentage_error mean_squared_error mean_squared_logarithmic_error squared_hinge
        tversky CategoricalHinge categorical_hinge KLD MAE MAPE MSE MSLE kld
        kullback_leibler_divergence logcosh mae mape mse msle""",
    ONE_HOT: """CategoricalCrossentropy CategoricalFocalCrossentropy categorical_crossentropy
        categorical_focal_crossentropy""",
    CLASS: """SparseCategoricalCrossentropy sparse_categorical_crossentropy Circle circle
        CategoricalGeneralizedCrossEntropy categorical_generalized_cross_entropy""",
    CTC: "CTC ctc",
}
NO_LOSSES = {"Loss", "Reduction", "deserialize", "get", "serialize", "experimental"}
METRICS = {
    VALUE: """AUC Accuracy BinaryAccuracy BinaryCrossentropy BinaryIoU ConcordanceCorrelation
        CosineSimilarity F1Score FBetaScore FalseNegatives FalsePositives Hinge KLDivergence LogCoshError
        MeanAbsoluteError MeanAbsolutePercentageError MeanIoU IoU MeanSquaredError
        MeanSquaredLogarithmicError PearsonCorrelation Poisson Precision PrecisionAtRecall R2Score Recall
        RecallAtPrecision RootMeanSquaredError SensitivityAtSpecificity SpecificityAtSensitivity
        SquaredHinge TrueNegatives TruePositives binary_accuracy binary_crossentropy
        binary_focal_crossentropy concordance_correlation hinge huber kl_divergence log_cosh
        mean_absolute_error mean_absolute_percentage_error mean_squared_error
        mean_squared_logarithmic_error pearson_correlation poisson squared_hinge KLD MAE MAPE MSE MSLE
        MeanRelativeError kld kullback_leibler_divergence logcosh mae mape mse msle""",
    ONE_HOT: """CategoricalAccuracy CategoricalCrossentropy CategoricalHinge OneHotIoU OneHotMeanIoU
        TopKCategoricalAccuracy categorical_accuracy categorical_crossentropy
        categorical_focal_crossentropy categorical_hinge top_k_categorical_accuracy""",
    CLASS: """SparseCategoricalAccuracy SparseCategoricalCrossentropy SparseTopKCategoricalAccuracy
        sparse_categorical_accuracy sparse_categorical_crossentropy
        sparse_top_k_categorical_accuracy""",
}
NO_METRICS = NO_LOSSES | {"Metric", "MeanMetricWrapper"}
NO_COMPARISON = {"Mean", "Sum", "MeanTensor"}  # of one value: Keras's own fit cannot use them
ARGUMENTS = {
    "PrecisionAtRecall": {"recall": 0.5},
    "RecallAtPrecision": {"precision": 0.5},
    "SensitivityAtSpecificity": {"specificity": 0.5},
    "SpecificityAtSensitivity": {"sensitivity": 0.5},
    "MeanIoU": {"num_classes": 2},
    "IoU": {"num_classes": 2, "target_class_ids": [1]},
    "BinaryIoU": {"target_class_ids": [0, 1]},
    "OneHotIoU": {"num_classes": CLASSES, "target_class_ids": [0, 2]},
    "OneHotMeanIoU": {"num_classes": CLASSES},
    "MeanRelativeError": {"normalizer": [0.5]},
}


@pytest.fixture
def k(request, tff):
    """A Keras; tf-keras can be imported after TFF only."""
    return importlib.import_module(request.param)


def exported(module, ours, others):
    """Returns the names that a Keras exports, by what they compare."""
    names = {name for name in dir(module) if not name.startswith("_")}
    kinds = {kind: set(listed.split()) & names for kind, listed in ours.items()}
    assert names == set().union(*kinds.values()) | (others & names)
    assert not set.intersection(*kinds.values())
    return kinds


@pytest.mark.parametrize("k", KERASES, indirect=True)
def test_the_tables_have_every_name_that_keras_exports(k):
    for module, ours, others in (
        (k.losses, LOSSES, NO_LOSSES),
        (k.metrics, METRICS, NO_METRICS | NO_COMPARISON),
    ):
        kinds = exported(module, ours, others)
        assert sum(map(len, kinds.values())) > 40
        with pytest.raises(AssertionError):  # negative control: a name that no table has
            exported(module, {**ours, VALUE: ours[VALUE].replace("poisson", "")}, others)


def labels_of(kind):
    """Returns labels of the shapes that there are for a kind, and the shape of the predictions."""
    rng = np.random.default_rng(5)
    numbers = rng.integers(0, CLASSES, EXAMPLES)
    binary = rng.integers(0, 2, EXAMPLES).astype(np.float32)
    return {
        VALUE: ([binary, binary[:, None]], [1]),
        ONE_HOT: ([np.eye(CLASSES, dtype=np.float32)[numbers]], [CLASSES]),
        CLASS: ([numbers, numbers[:, None]], [CLASSES]),
        CTC: ([rng.integers(1, CLASSES, (EXAMPLES, 2))], [5, CLASSES]),
    }[kind]


def model_of(k, shape):
    model = k.Sequential(
        [
            k.layers.Input([FEATURES]),
            k.layers.Dense(int(np.prod(shape)), use_bias=False),
            k.layers.Reshape(shape),
            k.layers.Activation("sigmoid" if shape == [1] else "softmax"),
        ]
    )
    rng = np.random.default_rng(6)
    model.set_weights([rng.normal(size=w.shape).astype(np.float32) for w in model.get_weights()])
    x = rng.normal(size=[EXAMPLES, FEATURES]).astype(np.float32)
    return model, x


def spec_of(array):
    return tf.TensorSpec([None, *array.shape[1:]], array.dtype)


def own_step(k, loss, model, x, y):
    """Returns our loss, and the weights after a step on it."""
    predictions = tf.TensorSpec([None, *model.output_shape[1:]], tf.float32)
    value = resolve_loss(loss, k, spec_of(y), predictions).value
    with tf.GradientTape() as tape:
        loss = value(tf.constant(y), model(x))
    (gradient,) = tape.gradient(loss, model.trainable_variables)
    return float(loss), model.get_weights()[0] - RATE * gradient.numpy()


def keras_step(k, loss, model, x, y):
    """Returns the same by the model's own steps, those of `evaluate` and `fit`."""
    model.compile(loss=loss, optimizer=k.optimizers.SGD(RATE), run_eagerly=True)
    before = model.get_weights()
    value = model.test_on_batch(x, y)
    model.train_on_batch(x, y)
    after = model.get_weights()[0]
    model.set_weights(before)
    return float(np.ravel(value)[0]), after


def forms_of(module, name):
    """Returns a loss or metric as string, function and object, as far as Keras has them."""
    found = getattr(module, name)
    made = found(**ARGUMENTS.get(name, {})) if inspect.isclass(found) else found
    forms = [made]
    if name not in ARGUMENTS:
        try:
            module.get(name)
            forms.append(name)
        except (TypeError, ValueError):  # Keras has no such string
            pass
    return forms


@pytest.mark.parametrize(
    ("labels", "predictions"),
    [
        ([8], [8, 1]),
        ([8, 1], [8, 1]),
        ([8, 1], [8]),
        ([8], [8]),
        ([8, 5], [8, 5, 1]),
        ([8, 5, 1], [8, 5]),
        ([8, 5], [8, 5]),
        ([8], [8, 5]),
        ([8, 1], [8, 5]),
        ([8, 5], [8, 1]),
        ([1], [1, 1]),
        ([8], [8, 5, 1]),
        ([8], [8, 1, 1]),
    ],
)
def test_labels_and_predictions_come_to_the_rank_to_which_keras_brings_them(
    tff, labels, predictions
):
    from keras.src.losses.loss import squeeze_or_expand_to_same_rank
    from tf_keras.src.engine.compile_utils import match_dtype_and_rank
    from tf_keras.src.utils.losses_utils import squeeze_or_expand_dimensions

    y, p = tf.zeros(labels), tf.zeros(predictions)
    got = to_one_rank(y, p, legacy=False)
    assert [t.shape for t in got] == [t.shape for t in squeeze_or_expand_to_same_rank(y, p)]
    got = to_one_rank(y, p, legacy=True)
    y, p, _ = match_dtype_and_rank(y, p, None)
    p, y = squeeze_or_expand_dimensions(p, y)
    if labels == [8] and predictions == [
        8,
        5,
    ]:  # tf-keras makes class numbers [n, 1] as well: its losses take both
        assert (got[0].shape, y.shape) == ([8], [8, 1])
        return
    assert [t.shape for t in got] == [y.shape, p.shape]


# Most losses compare by value: those of tf-keras, which take the longest, run with the slow tests.
KINDS = [
    slow(k, kind) if (k, kind) == ("tf_keras", VALUE) else (k, kind)
    for k in KERASES
    for kind in LOSSES
    if (k, kind) != ("tf_keras", CTC)
]


@pytest.mark.parametrize(("k", "kind"), KINDS, indirect=["k"])
def test_every_loss_is_that_of_keras(k, kind):
    arrays, shape = labels_of(kind)
    model, x = model_of(k, shape)
    moved = steps = 0
    for name in sorted(exported(k.losses, LOSSES, NO_LOSSES)[kind]):
        for form in forms_of(k.losses, name):
            for y in arrays[:1] if isinstance(form, str) else arrays:
                what = f"{form!r} {y.shape}"
                refusal = None
                if (
                    "eneralized" in name and y.ndim == 2
                ):  # whose one-hot labels Keras would broadcast
                    refusal = DataError, r"y has shape \[1\] .*expects y of shape \[\]"
                elif name == "categorical_generalized_cross_entropy":  # which has a third argument
                    refusal = ModelError, "missing 1 required positional argument: 'q'"
                if refusal:
                    with pytest.raises(refusal[0], match=refusal[1]):
                        own_step(k, form, model, x, y)
                    continue
                value, weights = own_step(k, form, model, x, y)
                expected, after = keras_step(k, form, model, x, y)
                np.testing.assert_allclose(value, expected, rtol=2e-5, atol=1e-6, err_msg=what)
                np.testing.assert_allclose(weights, after, rtol=2e-5, atol=1e-6, err_msg=what)
                moved += abs(after - model.get_weights()[0]).max() > 1e-4
                steps += 1
    assert moved > 0.9 * steps  # not the cosine of single numbers


# --- Metrics -------------------------------------------------------------------------------------


LOSS_OF = {VALUE: "mse", ONE_HOT: "mse", CLASS: "sparse_categorical_crossentropy"}


class Batch:
    """What TFF gives a functional model's metrics."""

    def __init__(self, predictions):
        self.predictions, self.loss, self.num_examples = predictions, 0.0, len(predictions)


def own_metrics(k, metrics, model, x, y):
    """Returns metrics of different names over two batches, in the form in which clients have them."""
    predictions = tf.TensorSpec([None, *model.output_shape[1:]], tf.float32)
    batches = [(y[rows], model(x[rows])) for rows in (slice(0, 3), slice(3, None))]
    if k is keras:
        initialize, update, finalize = functional_metrics(metrics, spec_of(y), predictions)
        state = initialize()
        for labels, predicted in batches:
            state = update(state, labels, Batch(predicted))
        return {name: float(value) for name, value in finalize(state).items()}
    results = {}
    for metric in metrics:
        tried(metric, spec_of(y), predictions, legacy=True)
        copy = legacy_metric(metric, spec_of(y), predictions)
        for labels, predicted in batches:
            copy.update_state(tf.constant(labels), predicted)
        results[copy.name] = float(copy.result())
    return results


def keras_metrics(k, forms, kind, model, x, y):
    """Returns metrics by `evaluate`'s own step."""
    model.compile(loss=LOSS_OF[kind], metrics=forms, run_eagerly=True)
    values = model.test_on_batch(x, y)
    return [float(np.ravel(value)[0]) for value in values[1:]]


def distinct(pairs):
    """Yields lists of (form, metric) in which no two metrics have one name."""
    pairs = list(pairs)
    while pairs:
        group, rest = {}, []
        for form, metric in pairs:
            if metric.name in group:
                rest.append((form, metric))
            else:
                group[metric.name] = (form, metric)
        yield list(group.values())
        pairs = rest


@pytest.mark.parametrize(
    ("k", "kind"),
    [
        slow(k, kind) if (k, kind) == ("tf_keras", VALUE) else (k, kind)
        for k in KERASES
        for kind in METRICS
    ],
    indirect=["k"],
)
def test_every_metric_is_that_of_keras(k, kind):
    arrays, shape = labels_of(kind)
    model, x = model_of(k, shape)
    pairs, refused = [], set()
    for name in sorted(exported(k.metrics, METRICS, NO_METRICS | NO_COMPARISON)[kind]):
        for form in forms_of(k.metrics, name):
            if name == "MeanRelativeError":  # which compares labels [n] with predictions [n] only
                with pytest.raises(ValueError, match="incompatible"):
                    keras_metrics(k, [form], kind, model, x, arrays[0])
                with pytest.raises(ModelError, match=r"'mean_relative_error' cannot compare y"):
                    own_metrics(k, [form], model, x, arrays[0])
                continue
            try:
                pairs.append((form, resolve_metrics([form], "mse", k)[0]))
            except ModelError:
                refused.add(form)
    # tf-keras's own fit fails with these names, since its `metrics.get` returns them as they are.
    # "Accuracy" is "accuracy" to Keras, the one that goes with the loss.
    assert all(k.metrics.get(name) == name for name in refused - {"Accuracy"}), refused
    assert len(pairs) > 5
    for group in distinct(pairs):
        # Labels [n, 1] are the reference: of labels [n], Keras broadcasts some and refuses others.
        forms = [form for form, _ in group]
        expected = keras_metrics(k, forms, kind, model, x, arrays[-1])
        for y in arrays:
            got = own_metrics(k, [metric for _, metric in group], model, x, y)
            for (form, metric), value in zip(group, expected, strict=True):
                message = f"{form!r} {y.shape}"
                np.testing.assert_allclose(
                    got[metric.name], value, rtol=2e-5, atol=1e-6, err_msg=message
                )


def test_metrics_that_cannot_be_are_refused():
    one_hot = tf.TensorSpec([None, CLASSES], tf.float32)
    for metric, message in (
        (keras.metrics.F1Score(), r"'f1_score' \(F1Score\) gives an array of shape \[3\].*macro"),
        (
            keras.metrics.MeanMetricWrapper(lambda y, p: y[:, :2] - p, name="off"),
            r"'off' cannot comp",
        ),
    ):
        with pytest.raises(ModelError, match=message):
            tried(metric, one_hot, one_hot, legacy=False)
    for name in NO_COMPARISON & set(dir(keras.metrics)):  # they take predictions for weights
        found = getattr(keras.metrics, name)(name="plain")
        value = own_metrics(keras, [found], *model_of(keras, [1]), labels_of(VALUE)[0][0])
        assert np.isfinite(value["plain"])
