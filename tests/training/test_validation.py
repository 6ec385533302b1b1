"""Validation between rounds: as Keras evaluates, over clients as on their pooled data, with noise."""

from __future__ import annotations

import dataclasses
import importlib
import math
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tff_dp
from tests.support.tables import covered
from tff_dp.errors import AccountingError, ArgumentError, DataError
from tff_dp.training.federated_evaluation import Evaluation

ROUNDS = 4
ALGORITHM = tff_dp.FedAvg(client_optimizer=tff_dp.SGD(learning_rate=0.1))
RNG = np.random.default_rng(1)


def arrays(count: int) -> tuple[np.ndarray, np.ndarray]:
    x = RNG.normal(size=(count, 3)).astype(np.float32)
    return x, (x @ np.array([[1.0], [-2.0], [0.5]], np.float32)).astype(np.float32)


@pytest.fixture(scope="module")
def clients(tff) -> tff_dp.Clients:
    x, y = arrays(40)
    return tff_dp.data.from_arrays({f"c{k}": (x[k::5], y[k::5]) for k in range(5)})


@pytest.fixture(scope="module")
def held_out(tff) -> tff_dp.Clients:
    """Clients of very different sizes, so that a mean over clients differs from one over examples."""
    sizes = [1, 2, 30, 7]
    return tff_dp.data.from_arrays({f"v{k}": arrays(n) for k, n in enumerate(sizes)})


def linear(library: Any = keras, **options: Any) -> Any:
    layers = library.layers
    return library.Sequential([layers.Input([3]), layers.Dense(1, **options)])


def trained(clients: Any, library: Any = keras, model: Any = None, **changes: Any) -> Any:
    values = {
        "loss": "mse",
        "metrics": ["mae"],
        "privacy": tff_dp.NoPrivacy(),
        "rounds": ROUNDS,
        "algorithm": ALGORITHM,
        "batch_size": 4,
    }
    return tff_dp.fit(model or linear(library), clients, **(values | changes))


class Models(keras.callbacks.Callback):
    """Copies the weights of each round."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = []

    def on_epoch_end(self, epoch, logs=None):
        self.weights.append(self.model.get_weights())


def evaluated(result: Any, weights: Any, *data: Any) -> dict[str, float]:
    model = keras.models.clone_model(result.model)
    model.compile(loss="mse", metrics=[keras.metrics.MeanAbsoluteError()])
    model.set_weights(weights)
    found = model.evaluate(*data, verbose=0, return_dict=True)
    return {f"val_{name}": value for name, value in found.items()}


def plan(**changes: Any) -> tff_dp.PrivacyPlan:
    values = {
        "mechanism": tff_dp.GaussianMechanism(clip_norm=1.0, noise_multiplier=2.0),
        "population": 4,
        "sampler": tff_dp.FullParticipation(),
        "rounds": ROUNDS,
        "delta": 1e-3,
        "metrics": (tff_dp.PrivateMetric(name="loss", clip_value=3.0, budget_fraction=0.64),),
    }
    return tff_dp.PrivacyPlan(**(values | changes))


# --- Central -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pair", "weights", "data set"])
def test_validation_is_keras_own_evaluation_of_the_model_of_the_round(clients, kind):
    x, y = arrays(50)
    weights = np.linspace(0, 1, 50).astype(np.float32)
    data = {
        "pair": (x, y),
        "weights": (x, y, weights),
        "data set": tf.data.Dataset.from_tensor_slices((x, y)).batch(8),
    }[kind]
    models = Models()
    result = trained(clients, validation_data=data, callbacks=[models])
    for record, each in zip(result.history, models.weights, strict=True):
        if kind == "weights":
            copy = keras.models.clone_model(result.model)
            copy.compile(loss="mse", metrics=[keras.metrics.MeanAbsoluteError()])
            copy.set_weights(each)
            found = copy.evaluate(x, y, sample_weight=weights, verbose=0, return_dict=True)
            expected = {f"val_{name}": value for name, value in found.items()}
        else:
            expected = evaluated(result, each, x, y)
        assert record.validation == pytest.approx(expected, rel=1e-5)
        assert (record.validation_source, record.validation_private) == ("data", False)
    assert result.history[0].validation != result.history[1].validation
    assert "the data of validation_data" in result.statement()


@pytest.mark.parametrize(
    ("frequency", "rounds"), [(1, [1, 2, 3, 4]), (2, [2, 4]), (3, [3]), ([1, 4], [1, 4])]
)
def test_validation_takes_place_when_it_is_due(clients, frequency, rounds):
    result = trained(clients, validation_data=arrays(5), validation_freq=frequency)
    assert [r.round_number for r in result.history if r.validation] == rounds
    history = result.keras_history()
    assert len(history["val_loss"]) == len(rounds)
    assert len(history["loss"]) == ROUNDS
    frame = result.frame()
    assert list(frame.index) == [1, 2, 3, 4]
    assert [not math.isnan(value) for value in frame["val_loss"]] == [
        k in rounds for k in range(1, 5)
    ]


def test_validation_metrics_reach_callbacks_before_they_act(clients):
    stopper = keras.callbacks.EarlyStopping(
        monitor="val_mean_absolute_error", patience=1, min_delta=1e9
    )
    seen = []

    class Tests(keras.callbacks.Callback):
        def on_test_begin(self, logs=None):
            seen.append("test")

        def on_epoch_end(self, epoch, logs=None):
            seen.append(sorted(logs))

    result = trained(clients, validation_data=arrays(5), callbacks=[Tests(), stopper])
    assert len(result.history) == 2  # Keras found that less of it is better
    names = ["loss", "mean_absolute_error"]
    logs = [*names, "num_examples", *(f"val_{name}" for name in names)]
    assert seen == ["test", logs] * 2


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"validation_data": 3}, ArgumentError, "validation_data=3 is outside"),
        ({"validation_data": (np.ones([4, 2]), np.ones([4, 1]))}, DataError, "cannot be evaluated"),
        ({"validation_data": iter([1])}, ArgumentError, "can be read only once"),
        ({"validation_freq": 0}, ArgumentError, "validation_freq=0"),
        ({"validation_freq": []}, ArgumentError, r"validation_freq=\[\] has no round"),
        ({"validation_freq": [2, 0.5]}, ArgumentError, r"validation_freq=0\.5"),
        ({"validation_freq": range(0, 9, 3)}, ArgumentError, "validation_freq=0"),
        ({"validation_clients": 3}, ArgumentError, "validation_clients=3"),
        ({"validation_privacy": 3}, ArgumentError, "needs validation_clients"),
    ],
)
def test_validation_that_is_not_possible_is_refused_before_a_round(
    clients, changes, error, message
):
    with pytest.raises(error, match=message) as caught:
        trained(clients, **changes)
    assert getattr(caught.value, "result", None) is None


def test_clients_and_infinite_data_sets_are_no_validation_data(clients, held_out):
    with pytest.raises(ArgumentError, match="Pass them as validation_clients"):
        trained(clients, validation_data=held_out)
    endless = tf.data.Dataset.from_tensor_slices(arrays(4)).batch(2).repeat()
    with pytest.raises(ArgumentError, match="infinite data set"):
        trained(clients, validation_data=endless)
    with pytest.raises(ArgumentError, match="both given"):
        trained(clients, validation_data=arrays(4), validation_clients=held_out)


# --- Over clients --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("regularizer", "name"),
    covered(
        [None, "l2"],
        ["keras", "tf_keras"],
        by=[(None, "tf_keras"), ("l2", "keras")],
        slow=None,
    ),
)
def test_validation_over_clients_is_evaluation_of_their_pooled_data(
    clients, held_out, name, regularizer
):
    library = importlib.import_module(name)
    # Weights that are drawn may by chance have a mean over clients that is near the pooled loss.
    options = {"kernel_regularizer": regularizer, "kernel_initializer": "ones"}
    result = trained(
        clients, library, linear(library, **options), validation_clients=held_out, validation_freq=2
    )
    x, y = held_out.pooled()
    found = result.model.evaluate(x, y, verbose=0, return_dict=True)
    last = result.history[-1]
    expected = {f"val_{name}": value for name, value in found.items()}
    assert dict(last.validation) == pytest.approx(expected, rel=1e-5)
    assert len(last.validation) == 2
    assert (last.validation_source, last.validation_private) == ("clients", False)
    assert result.history[0].validation is None
    by_client = np.mean(
        [
            result.model.evaluate(*held_out.client(k), verbose=0, return_dict=True)["loss"]
            for k in range(4)
        ]
    )
    assert last.validation["val_loss"] != pytest.approx(by_client, rel=1e-2)


def test_class_weights_are_not_those_of_validation(tff):
    x, _ = arrays(40)
    y = (x[:, 0] > 0).astype(np.int64)
    both = [
        tff_dp.data.from_arrays({f"{name}{k}": (x[k::4], y[k::4]) for k in range(4)})
        for name in "cv"
    ]
    model = keras.Sequential([keras.layers.Input([3]), keras.layers.Dense(2)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    result = trained(
        both[0],
        model=model,
        loss=loss,
        metrics=[],
        validation_clients=both[1],
        class_weight={0: 7.0},
    )
    found = result.model.evaluate(*both[1].pooled(), verbose=0)
    assert result.history[-1].validation["val_loss"] == pytest.approx(found, rel=1e-5)


# --- With privacy --------------------------------------------------------------------------------------


def test_private_validation_states_an_epsilon_of_its_own(clients, held_out):
    result = trained(
        clients,
        metrics=None,
        validation_clients=held_out,
        validation_privacy=plan(),
        validation_freq=2,
    )
    released = [record.validation for record in result.history]
    assert [found is None for found in released] == [True, False, True, False]
    assert released[1].keys() == {"val_loss"}  # nothing but the metrics of the plan
    assert result.history[1].validation_private
    assert result.validation_spent.epsilon == plan().epsilon(2).epsilon
    assert result.validation_charges.rounds == 2
    assert math.isinf(result.epsilon)  # of the training, which had no plan
    assert "for the validation clients, epsilon" in result.statement()


def test_a_failed_round_still_counts_the_evaluations_before_it(clients, held_out):
    class Fails(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 2:
                raise KeyError

    with pytest.raises(KeyError) as caught:
        trained(
            clients,
            metrics=None,
            validation_clients=held_out,
            validation_privacy=plan(),
            callbacks=[Fails()],
        )
    assert caught.value.result.validation_charges.rounds == 3


def test_the_noise_of_private_validation_is_that_of_the_plan(clients, held_out):
    """False-positive rate below 1e-6 by the chi-squared and normal quantiles; 2/3 and 3/2 fail."""
    from scipy import stats

    bound = tff_dp.ModelSpec(model=linear, loss="mse").bind(clients.element_spec())
    tests = 400
    own = plan(rounds=tests, mechanism=plan().mechanism.with_noise(40.0))
    metric = own.metrics[0]
    with tff_dp.execution.fast():
        evaluation = Evaluation(bound, held_out, batch_size=4, plan=own)
        each = [
            Evaluation(bound, held_out.subset([k]), batch_size=64).metrics(
                bound.initial_weights, 1
            )["loss"]
            for k in range(4)
        ]
        found = [evaluation.metrics(bound.initial_weights, k + 1)["loss"] for k in range(tests)]
    mean = np.mean([min(value, metric.clip_value) for value in each])
    stddev = 40.0 * metric.clip_value / math.sqrt(metric.budget_fraction) / 4
    for scale, passes in ((1.0, True), (2 / 3, False), (3 / 2, False)):
        scores = (np.array(found) - mean) / (stddev * scale)
        low, high = stats.chi2.interval(1 - 1e-7, tests)
        good = low < np.sum(scores**2) < high
        assert good == passes, scale
    assert abs(np.mean(found) - mean) < 5.4 * stddev / math.sqrt(tests)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"metrics": ()}, ArgumentError, "releases no metrics"),
        ({"population": 5}, ArgumentError, "population"),
        ({"rounds": 3}, AccountingError, r"covers 3 evaluations, and there are 4"),
        (
            {"metrics": (tff_dp.PrivateMetric(name="auc", clip_value=1.0),)},
            ArgumentError,
            "'auc' of a private metric is unknown",
        ),
    ],
)
def test_a_plan_that_does_not_fit_the_validation_is_refused(
    clients, held_out, changes, error, message
):
    with pytest.raises(error, match=message) as caught:
        trained(
            clients,
            metrics=None,
            validation_clients=held_out,
            validation_privacy=plan(**changes),
        )
    assert getattr(caught.value, "result", None) is None


@pytest.mark.parametrize("side", ["validation", "training"])
def test_validation_of_clients_that_are_trained_on_is_refused_under_a_plan(clients, side):
    given = {
        "validation": {"validation_privacy": plan()},
        "training": {"privacy": plan(population=5), "rounds": None},
    }[side]
    with pytest.raises(ArgumentError, match="'c0', an id that clients holds as well"):
        trained(clients, metrics=None, validation_clients=clients.subset([0, 1, 2, 3]), **given)


def test_an_evaluation_is_charged_before_it_is_run(clients, held_out, monkeypatch):
    def fails(*arguments):
        raise KeyError("evaluation")

    monkeypatch.setattr(Evaluation, "metrics", fails)
    with pytest.raises(KeyError, match="evaluation") as caught:
        trained(clients, metrics=None, validation_clients=held_out, validation_privacy=plan())
    assert caught.value.result.validation_charges.rounds == 1


def test_seeded_noise_makes_no_validation_private(clients, held_out):
    with tff_dp.execution.fast(seed=3):
        result = trained(
            clients, metrics=None, validation_clients=held_out, validation_privacy=plan()
        )
    assert result.validation_spent is None
    assert not any(record.validation_private for record in result.history)


def test_early_stopping_on_a_released_metric_charges_nothing_more(clients):
    """The decision is a function of what has been released: only the rounds that were run count."""
    own = dataclasses.replace(
        plan(population=5),
        metrics=(tff_dp.PrivateMetric(name="loss", clip_value=3.0),),
    )
    stopper = keras.callbacks.EarlyStopping(
        monitor="loss", patience=1, min_delta=1e9, mode="min", restore_best_weights=True
    )
    result = trained(clients, metrics=None, privacy=own, rounds=None, callbacks=[stopper])
    assert len(result.history) == 2
    assert "EarlyStopping" in result.stopped
    assert result.epsilon == own.epsilon(2).epsilon
    assert result.charges.rounds == 2
    text = result.statement()
    assert "this epsilon covers them, and what was decided by them" in text
    assert "outside" not in text


@pytest.mark.parametrize("source", ["data", "clients"])
def test_the_statement_says_what_validation_touches(clients, held_out, source):
    own = dataclasses.replace(plan(population=5), metrics=())
    given = {"data": {"validation_data": arrays(5)}, "clients": {"validation_clients": held_out}}
    result = trained(
        clients, metrics=None, privacy=own, rounds=None, release_metrics=False, **given[source]
    )
    text = result.statement()
    expected = {
        "data": "says nothing about the data of validation_data",
        "clients": "without noise: they are outside any epsilon, and so is what was chosen by them",
    }
    assert expected[source] in text
    assert expected["clients" if source == "data" else "data"] not in text
