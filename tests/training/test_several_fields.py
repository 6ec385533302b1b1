"""x and y as tuples and lists, and weights of outputs: the step of Keras's own `fit`."""

from __future__ import annotations

import importlib
import pickle
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tff_dp
from tests.support.tables import covered, slow
from tff_dp.errors import DataError, ModelError

RATE = 0.1
ALGORITHM = tff_dp.FedAvg(client_optimizer=tff_dp.SGD(learning_rate=RATE))
KERASES = ["keras", "tf_keras"]
EXAMPLES = 24


def arrays() -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(EXAMPLES, width)).astype(np.float32) for width in (3, 2)]
    y = [
        x[0][:, :1] - x[1][:, :1],
        (x[1].sum(axis=1, keepdims=True) > 0).astype(np.float32),
    ]
    return x, y


def two_by_two(library: Any, *, named: bool = False) -> Any:
    """Returns a model of two inputs and two outputs whose names are not in the order of the alphabet."""
    layers = library.layers
    inputs = [layers.Input([3], name="wide"), layers.Input([2], name="narrow")]
    joined = layers.Concatenate()([layers.Dense(4)(inputs[0]), layers.Dense(4)(inputs[1])])
    price = layers.Dense(1, name="price")(joined)
    bought = layers.Dense(1, name="bought", activation="sigmoid")(joined)
    outputs = {"price": price, "bought": bought} if named else [price, bought]
    return library.Model(inputs, outputs)


def step_of_keras(library: Any, start: Any, x: Any, y: Any, **compiled: Any) -> tuple[Any, float]:
    own = library.models.clone_model(start)
    own.set_weights(start.get_weights())
    own.compile(optimizer=library.optimizers.SGD(learning_rate=RATE), **compiled)
    options = {"batch_size": EXAMPLES, "shuffle": False, "verbose": 0}
    return own, own.fit(x, y, **options).history["loss"][0]


def trained(clients: tff_dp.Clients, model: Any, **changes: Any) -> tff_dp.FitResult:
    values = {
        "privacy": tff_dp.NoPrivacy(),
        "rounds": 1,
        "algorithm": ALGORITHM,
        "batch_size": EXAMPLES,
        "shuffle": False,
    }
    return tff_dp.fit(model, clients, **(values | changes))


def assert_close(one: Any, two: Any) -> None:
    for a, b in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("container", "name"),
    covered([list, tuple], KERASES, by=[(list, "tf_keras"), (tuple, "keras")], slow=None),
)
def test_lists_and_tuples_of_fields_train_as_in_keras(tff, name, container):
    library = importlib.import_module(name)
    x, y = arrays()
    start = two_by_two(library)
    own, loss = step_of_keras(library, start, x, y, loss=["mse", "binary_crossentropy"])
    if container is list:
        clients = tff_dp.data.from_arrays({"one": (container(x), container(y))})
    else:
        clients = tff_dp.data.iid(container(x), container(y), clients=1, seed=0)
    result = trained(clients, start, loss=["mse", "binary_crossentropy"])
    assert_close(result.model, own)
    assert result.history[0].metrics["loss"] == pytest.approx(loss, rel=1e-5)


def test_many_fields_keep_their_order(tff):
    """Eleven inputs: sorted by text, the place 10 would come before the place 2."""
    rng = np.random.default_rng(1)
    x = tuple(rng.normal(size=(EXAMPLES, 1)).astype(np.float32) for _ in range(11))
    inputs = [keras.layers.Input([1]) for _ in x]
    start = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Concatenate()(inputs)))
    own, _ = step_of_keras(keras, start, list(x), x[10], loss="mse")
    assert_close(
        trained(tff_dp.data.from_arrays({"one": (x, x[10])}), start, loss="mse").model, own
    )


@pytest.mark.slow
def test_tuples_train_on_stock_tff_as_well(tff):
    x, y = arrays()
    start = two_by_two(keras)
    clients = tff_dp.data.iid(x, y, clients=3, seed=0)
    fast = trained(clients, start, loss=["mse", "mse"])
    with tff_dp.execution.stock():
        slow = trained(clients, start, loss=["mse", "mse"])
    for a, b in zip(fast.model.get_weights(), slow.model.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_tuples_survive_data_sets_files_subsets_and_pickle(tff, tmp_path):
    x, y = arrays()
    clients = tff_dp.data.iid(x, y, clients=3, seed=0)
    clients.save(tmp_path / "saved")
    sets = {
        name: tf.data.Dataset.from_tensor_slices(clients.client(place))
        for place, name in enumerate(clients.ids)
    }
    copies = {
        "saved": tff_dp.Clients.load(tmp_path / "saved"),
        "pickled": pickle.loads(pickle.dumps(clients)),
        "data sets": tff_dp.data.from_datasets(sets),
        "all": clients.subset([0, 1, 2]),
    }
    for copy in copies.values():
        for mine, theirs in zip(clients.pooled(), copy.pooled(), strict=True):
            assert isinstance(theirs, tuple)
            for a, b in zip(mine, theirs, strict=True):
                np.testing.assert_array_equal(a, b)
    apart = clients.subset([2, 0])
    np.testing.assert_array_equal(apart.client(0)[0][1], clients.client(2)[0][1])
    assert "x[1]: float32 [2]" in repr(clients)
    (batch,) = clients.dataset(1, batch_size=EXAMPLES)
    np.testing.assert_array_equal(batch[0][1], clients.client(1)[0][1])


def test_labels_out_of_range_are_named_by_their_place(tff):
    x, y = arrays()
    with pytest.raises(DataError, match=r"y\[1\] of client 'one' holds the label 8\.0"):
        trained(
            tff_dp.data.from_arrays({"one": (x, [y[0], y[1] + 7])}),
            two_by_two(keras),
            loss=["mse", "binary_crossentropy"],
        )


def test_fields_that_do_not_fit_the_model_are_refused(tff):
    x, y = arrays()
    one = keras.Sequential([keras.layers.Input([3]), keras.layers.Dense(1)])
    with pytest.raises(ModelError, match="give x as one array"):
        trained(tff_dp.data.from_arrays({"one": (x, y[0])}), one, loss="mse")
    with pytest.raises(ModelError, match="y has 2 fields, and loss='mse'"):
        trained(tff_dp.data.from_arrays({"one": (x[0], y)}), one, loss="mse")
    three = (*y, y[0])
    with pytest.raises(
        ModelError, match="y has 3 fields, and the model has the outputs 'price', 'b"
    ):
        trained(tff_dp.data.from_arrays({"one": (x, three)}), two_by_two(keras), loss="mse")
    with pytest.raises(DataError, match="A list of arrays is several fields, as in Keras"):
        tff_dp.data.from_arrays({"one": (list(x[0]), y[0])})


def test_lists_of_numbers_are_one_array(tff):
    clients = tff_dp.data.from_arrays({"one": ([[1.0, 2.0], [3.0, 4.0]], (0, 1))})
    assert clients.pooled()[0].shape == (2, 2)
    assert clients.pooled()[1].shape == (2,)


# --- Weights of outputs --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "name"),
    covered(
        ["list", "dictionary", "dictionary of outputs"],
        KERASES,
        by=[("list", "keras"), ("dictionary", "tf_keras"), ("dictionary of outputs", "keras")],
        slow=None,
    ),
)
def test_loss_weights_of_a_compiled_model_are_those_of_keras(tff, name, form):
    library = importlib.import_module(name)
    x, y = arrays()
    start = two_by_two(library, named=form == "dictionary of outputs")
    names = ("price", "bought")
    compiled = {
        "loss": ["mse", "binary_crossentropy"],
        "loss_weights": [0.25, 3.0],
    }
    if form != "list":
        compiled = {key: dict(zip(names, value, strict=True)) for key, value in compiled.items()}
        y = dict(zip(names, y, strict=True))
    start.compile(optimizer=library.optimizers.SGD(learning_rate=RATE), **compiled)
    own, loss = step_of_keras(library, start, x, y, **compiled)
    clients = tff_dp.data.from_arrays({"one": (x, y)})
    result = trained(clients, start, algorithm=None)
    assert_close(result.model, own)
    assert result.history[0].metrics["loss"] == pytest.approx(loss, rel=1e-5)
    # The trained model has the weights, in its evaluation and in further training.
    options = {"verbose": 0, "return_dict": True}
    assert result.model.evaluate(x, y, **options)["loss"] == pytest.approx(
        own.evaluate(x, y, **options)["loss"], rel=1e-4
    )
    again = trained(clients, result.model, algorithm=None)
    own.fit(x, y, batch_size=EXAMPLES, shuffle=False, verbose=0)
    assert_close(again.model, own)


@pytest.mark.parametrize("name", ["keras", slow("tf_keras")])
def test_a_weight_of_a_single_loss_is_that_of_keras(tff, name):
    library = importlib.import_module(name)
    (x, _), (y, _) = arrays()
    start = library.Sequential([library.layers.Input([3]), library.layers.Dense(1)])
    compiled = {"loss": "mse", "loss_weights": [2.5]}
    start.compile(optimizer=library.optimizers.SGD(learning_rate=RATE), **compiled)
    own, _ = step_of_keras(library, start, x, y, **compiled)
    clients = tff_dp.data.from_arrays({"one": (x, y)})
    assert_close(trained(clients, start, algorithm=None).model, own)


@pytest.mark.parametrize(
    ("compiled", "message"),
    [
        (
            {"loss": ["mse", "mse"], "loss_weights": [1.0]},
            "expected one weight for each of the out",
        ),
        (
            {"loss": ["mse", "mse"], "loss_weights": [1.0, "a"]},
            "holds 'a': expected finite numbers",
        ),
        ({"loss": ["mse", "mse"], "loss_weights": [1.0, np.inf]}, "holds inf"),
        (
            {"loss": {"price": "mse", "bought": "mse"}, "loss_weights": {"prize": 2.0}},
            "names an unknown output 'prize'",
        ),
        ({"loss": lambda y, p: 0.0, "loss_weights": [2.0, 1.0]}, "a function of all outputs"),
    ],
    ids=["too few", "text", "infinite", "unknown", "of all"],
)
def test_loss_weights_that_do_not_fit_are_refused(tff, compiled, message):
    x, y = arrays()
    start = two_by_two(keras)
    start.compile(optimizer=keras.optimizers.SGD(learning_rate=RATE), **compiled)
    with pytest.raises(ModelError, match=message):
        trained(tff_dp.data.from_arrays({"one": (x, y)}), start)


def test_another_loss_has_no_weights_of_the_compiled_one(tff):
    x, y = arrays()
    start = two_by_two(keras)
    start.compile(optimizer="sgd", loss=["mse", "mse"], loss_weights=[0.0, 0.0])
    result = trained(tff_dp.data.from_arrays({"one": (x, y)}), start, loss=["mse", "mse"])
    own, _ = step_of_keras(keras, start, x, y, loss=["mse", "mse"])
    assert_close(result.model, own)
