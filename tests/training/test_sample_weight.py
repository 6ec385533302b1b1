"""Weights of examples: those of Keras's own `fit`, within the guarantee of a plan, or refused."""

from __future__ import annotations

import importlib
import math
from typing import Any

import keras
import numpy as np
import pytest

import tff_dp
from tests.support.tables import covered
from tests.support.training import FEATURES, plan
from tff_dp.errors import ArgumentError, DataError, ModelError

RATE = 0.1
ALGORITHMS = {
    "FedAvg": tff_dp.FedAvg(client_optimizer=tff_dp.SGD(learning_rate=RATE)),
    "FedSGD": tff_dp.FedSGD(server_optimizer=tff_dp.SGD(learning_rate=RATE)),
}
EXAMPLES = 20


def data(seed: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(EXAMPLES, FEATURES)).astype(np.float32)
    weights = rng.uniform(0.0, 4.0, EXAMPLES).astype(np.float32)
    weights[:3] = 0.0
    return x, (x.sum(axis=1) > 0).astype(np.int64), weights


def classes(library: Any = keras, *more: Any) -> Any:
    layers = library.layers
    return library.Sequential([layers.Input([FEATURES]), *more, layers.Dense(2)])


def crossentropy(library: Any = keras) -> Any:
    return library.losses.SparseCategoricalCrossentropy(from_logits=True)


def copied(library: Any, start: Any, loss: Any, **compiled: Any) -> Any:
    own = library.models.clone_model(start)
    own.set_weights(start.get_weights())
    own.compile(loss=loss, optimizer=library.optimizers.SGD(learning_rate=RATE), **compiled)
    return own


def trained(clients: tff_dp.Clients, model: Any, **changes: Any) -> tff_dp.FitResult:
    values = {
        "privacy": tff_dp.NoPrivacy(),
        "rounds": 1,
        "algorithm": ALGORITHMS["FedAvg"],
        "batch_size": EXAMPLES,
        "shuffle": False,
        "sample_weight": "weight",
    }
    return tff_dp.fit(model, clients, **(values | changes))


def assert_close(one: Any, two: Any) -> None:
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)


def norm_of_move(result: tff_dp.FitResult, start: Any) -> float:
    moved = [a - b for a, b in zip(result.model.get_weights(), start.get_weights(), strict=True)]
    return math.sqrt(sum(float((m**2).sum()) for m in moved))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "algorithm", "name"),
    covered(
        ["numbers", "column"],
        ALGORITHMS,
        ["keras", "tf_keras"],
        by=[
            ("numbers", "FedAvg", "keras"),
            ("column", "FedSGD", "tf_keras"),
        ],
        slow=None,
    ),
)
def test_weights_are_those_of_keras(tff, name, algorithm, shape):
    """One client, one batch, one step: the step and the loss of Keras's own `fit`."""
    library = importlib.import_module(name)
    x, y, weights = data()
    start = classes(library)
    own = copied(library, start, crossentropy(library), metrics=["accuracy"])
    options = {"batch_size": EXAMPLES, "shuffle": False, "verbose": 0}
    logs = own.fit(x, y, sample_weight=weights, **options).history
    field = weights if shape == "numbers" else weights[:, None]
    result = trained(
        tff_dp.data.from_arrays({"one": (x, {"label": y, "weight": field})}),
        start,
        loss=crossentropy(library),
        metrics=["accuracy"],
        algorithm=ALGORITHMS[algorithm],
    )
    assert_close(result.model.get_weights(), own.get_weights())
    assert result.history[0].metrics["loss"] == pytest.approx(logs["loss"][0], abs=1e-5)
    if algorithm == "FedAvg":  # the metrics are of the weights before the step in both
        assert result.history[0].metrics["accuracy"] == pytest.approx(logs["accuracy"][0])
    without = trained(
        tff_dp.data.from_arrays({"one": (x, y)}),
        start,
        loss=crossentropy(library),
        algorithm=ALGORITHMS[algorithm],
        sample_weight=None,
    )
    assert np.abs(without.model.get_weights()[0] - own.get_weights()[0]).max() > 1e-3


@pytest.mark.parametrize("name", ["keras", "tf_keras"])
def test_weights_count_for_each_of_several_outputs(tff, name):
    library = importlib.import_module(name)
    x, y, weights = data()
    inputs = library.layers.Input([FEATURES])
    outputs = {each: library.layers.Dense(1, name=each)(inputs) for each in ("a", "b")}
    start = library.Model(inputs, outputs)
    labels = {"a": x[:, :1], "b": y[:, None].astype(np.float32)}
    own = copied(library, start, {"a": "mse", "b": "mae"})
    own.fit(x, labels, sample_weight=weights, batch_size=EXAMPLES, shuffle=False, verbose=0)
    result = trained(
        tff_dp.data.from_arrays({"one": (x, labels | {"weight": weights})}),
        start,
        loss={"a": "mse", "b": "mae"},
    )
    assert_close(result.model.get_weights(), own.get_weights())


def test_a_loss_of_a_users_own_is_weighted(tff):
    def huber(labels: Any, predictions: Any) -> Any:
        return keras.losses.huber(labels, predictions)

    x, _, weights = data()
    start = keras.Sequential([keras.layers.Input([FEATURES]), keras.layers.Dense(1)])
    own = copied(keras, start, huber)
    own.fit(x, x[:, :1], sample_weight=weights, batch_size=EXAMPLES, shuffle=False, verbose=0)
    clients = tff_dp.data.from_arrays({"one": (x, {"label": x[:, :1], "weight": weights})})
    result = trained(clients, start, loss=huber)
    assert_close(result.model.get_weights(), own.get_weights())


def test_weights_of_padded_examples_are_refused(tff):
    """Keras's own `fit` fails: it multiplies weights [examples] by a mask [examples, steps]."""
    x, y, weights = data()
    start = keras.Sequential(
        [keras.layers.Input([2, FEATURES]), keras.layers.Masking(), keras.layers.Dense(1)]
    )
    labels = np.stack([y, y], 1)[..., None].astype(np.float32)
    both = {"label": labels, "weight": weights}
    clients = tff_dp.data.from_arrays({"one": (np.stack([x, x], 1), both)})
    with pytest.raises(ModelError, match="have a mask"):
        trained(clients, start, loss="mse")


# --- Under a plan --------------------------------------------------------------------------------------


def four_clients(weight: float) -> tff_dp.Clients:
    arrays = {}
    for number in range(4):
        x, y, _ = data(number)
        arrays[f"c{number}"] = (x, {"label": y, "weight": np.full(EXAMPLES, weight, np.float32)})
    return tff_dp.data.from_arrays(arrays)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_weights_do_not_move_a_private_mean_by_more_than_the_clip_norm(tff, algorithm):
    """Whatever the weights of one client are, its part of the mean is clip_norm / clients."""
    own = plan(mechanism=tff_dp.GaussianMechanism(clip_norm=0.5, noise_multiplier=0.0))
    start = classes()
    options = {
        "loss": crossentropy(),
        "privacy": own,
        "algorithm": ALGORITHMS[algorithm],
        "release_metrics": False,
    }
    rate = RATE if algorithm == "FedSGD" else 1.0
    heavy = norm_of_move(trained(four_clients(1e6), start, **options), start)
    assert 0.1 * rate < heavy <= 0.5 * rate * (1 + 1e-6)
    x, y, weights = data(9)
    neighbors = []
    for factor in (0.0, 1e6):
        others = {f"c{k}": four_clients(1.0).client(k) for k in range(3)}
        last = (x, {"label": y, "weight": (factor * weights).astype(np.float32)})
        clients = tff_dp.data.from_arrays({**others, "c3": last})
        neighbors.append(trained(clients, start, **options).model)
    moved = [a - b for a, b in zip(*(model.get_weights() for model in neighbors), strict=True)]
    distance = math.sqrt(sum(float((m**2).sum()) for m in moved))
    assert 0.0 < distance <= 0.5 * rate / 4 * (1 + 1e-5)  # an update of zero against a clipped one


def test_weights_are_clipped_with_the_gradient_of_a_record(tff):
    clients = four_clients(1e6)
    own = tff_dp.PrivacyPlan(
        mechanism=tff_dp.RecordGaussianMechanism(
            clip_norm=0.25, noise_multiplier=0.0, batch_size=EXAMPLES, local_steps=1
        ),
        records=clients.sizes.tolist(),
        rounds=1,
        delta=1e-3,
    )
    start = classes()
    result = trained(clients, start, loss=crossentropy(), privacy=own, rounds=None, batch_size=None)
    # All records are in their batch: a mean of gradients of norm 0.25, times the rate.
    assert 0 < norm_of_move(result, start) <= 0.25 * RATE * (1 + 1e-5)


def test_a_mean_over_weights_has_no_gradient_of_a_single_record(tff):
    """The weights would cancel: a batch of one record has its own weight in the denominator."""
    clients = four_clients(2.0)
    own = tff_dp.PrivacyPlan(
        mechanism=tff_dp.RecordGaussianMechanism(
            clip_norm=0.25, noise_multiplier=1.0, batch_size=4, local_steps=1
        ),
        records=clients.sizes.tolist(),
        rounds=1,
        delta=1e-3,
    )
    loss = keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, reduction="mean_with_sample_weight"
    )
    with pytest.raises(ModelError, match="depends on the other examples"):
        trained(clients, classes(), loss=loss, privacy=own, rounds=None, batch_size=None)


def test_a_released_metric_is_clipped_after_the_weights(tff):
    own = plan(
        mechanism=tff_dp.GaussianMechanism(clip_norm=0.5, noise_multiplier=1e-6),
        metrics=(tff_dp.PrivateMetric(name="loss", clip_value=2.0, budget_fraction=0.5),),
        delta=1e-3,
    )
    result = trained(four_clients(1e6), classes(), loss=crossentropy(), privacy=own)
    assert result.history[0].metrics["loss"] == pytest.approx(2.0, rel=1e-3)


# --- Around training -----------------------------------------------------------------------------------


def test_validation_of_clients_is_weighted_as_that_of_keras(tff):
    x, y, weights = data()
    clients = tff_dp.data.from_arrays({"one": (x, {"label": y, "weight": weights})})
    other = tff_dp.data.from_arrays(
        {"a": (x[:8], {"label": y[:8], "weight": weights[:8]}), "b": clients.client(0)}
    )
    options = {"loss": crossentropy(), "rounds": 2, "algorithm": ALGORITHMS["FedAvg"]}
    start = classes()
    one = trained(clients, start, **options, validation_clients=other)
    pooled = [np.concatenate([a[:8], a]) for a in (x, y, weights)]
    two = trained(clients, start, **options, validation_data=tuple(pooled))
    for a, b in zip(one.history, two.history, strict=True):
        assert a.validation["val_loss"] == pytest.approx(b.validation["val_loss"], rel=1e-5)


def test_a_resumed_run_keeps_the_weights(tff, tmp_path):
    x, y, weights = data()
    clients = tff_dp.data.from_arrays({"one": (x, {"label": y, "weight": weights})})
    start = classes()
    whole = trained(clients, start, loss=crossentropy(), rounds=4)
    trained(clients, start, loss=crossentropy(), rounds=2, run_dir=tmp_path / "run")
    rest = tff_dp.resume(tmp_path / "run", start, clients, loss=crossentropy(), rounds=4)
    for a, b in zip(whole.model.get_weights(), rest.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ArgumentError, match="sample_weight: 'weight', and now None"):
        trained(
            tff_dp.data.from_arrays({"one": (x, y)}),
            start,
            loss=crossentropy(),
            rounds=5,
            run_dir=tmp_path / "run",
            resume=True,
            sample_weight=None,
        )


# --- Refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "given", "error", "message"),
    [
        ("plain", "weight", DataError, "sample_weight='weight' is not a field of y"),
        ("other", "weight", DataError, "sample_weight='weight' is not a field of y"),
        ("alone", "weight", DataError, "is the only field of y"),
        ("wide", "weight", DataError, r"expected one number for each example"),
        ("text", "weight", DataError, r"expected one number for each example"),
        ("negative", "weight", DataError, r"y\['weight'\] of client 'one' holds the weight -1\.0"),
        ("plain", 3, ArgumentError, "sample_weight=3"),
        ("plain", np.ones(EXAMPLES), ArgumentError, "pass the name of the field"),
    ],
)
def test_weights_that_are_none_are_refused(tff, labels, given, error, message):
    x, y, weights = data()
    shown = {
        "plain": y,
        "other": {"label": y, "importance": weights},
        "alone": {"weight": weights},
        "wide": {"label": y, "weight": np.ones([EXAMPLES, 2], np.float32)},
        "text": {"label": y, "weight": np.array(["a"] * EXAMPLES)},
        "negative": {"label": y, "weight": np.where(np.arange(EXAMPLES) == 4, -1.0, weights)},
    }[labels]
    with pytest.raises(error, match=message):
        trained(
            tff_dp.data.from_arrays({"one": (x, shown)}),
            classes(),
            loss=crossentropy(),
            sample_weight=given,
        )


def test_infinite_weights_are_refused_where_other_fields_may_be_infinite(tff):
    x, y, weights = data()
    weights[5] = np.inf
    clients = tff_dp.data.from_arrays(
        {"one": (x, {"label": y, "weight": weights})}, allow_nonfinite=True
    )
    with pytest.raises(DataError, match="holds the weight inf"):
        trained(clients, classes(), loss=crossentropy())


def test_weights_of_classes_and_of_examples_are_refused_together(tff):
    x, y, weights = data()
    clients = tff_dp.data.from_arrays({"one": (x, {"label": y, "weight": weights})})
    with pytest.raises(ArgumentError, match="are both given"):
        trained(clients, classes(), loss=crossentropy(), class_weight={0: 2.0})
