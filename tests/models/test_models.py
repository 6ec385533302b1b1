"""Each architecture has as many parameters as it says, trains, and trains under a plan."""

from __future__ import annotations

import importlib
import pathlib
import re

import numpy as np
import pytest

import tff_dp
from tests.support.paths import ROOT
from tests.support.tables import slow, thinned

NAMES = sorted(
    path.stem for path in (ROOT / "models").glob("*.py") if not path.stem.startswith("_")
)
CLIENTS, EXAMPLES = 6, 24


def vectors(rng, shape):
    x = rng.normal(size=shape).astype("float32")
    return x, (x.reshape(len(x), -1)[:, :4].sum(axis=1) > 0).astype("int32")


def images(rng, shape):
    """A bright spot in one of four quarters."""
    x, y = 0.1 * rng.normal(size=shape), rng.integers(4, size=shape[0])
    half = shape[1] // 2
    for image, label in zip(x, y, strict=True):
        row, column = half * (label // 2), half * (label % 2)
        image[row : row + half, column : column + half] += 1
    return x.astype("float32"), y.astype("int32")


def windows(rng, shape):
    """Noise around one of three levels."""
    y = rng.integers(3, size=shape[0])
    x = 0.5 * rng.normal(size=shape) + (y - 1)[:, None, None]
    return x.astype("float32"), y.astype("int32")


def texts(rng, shape):
    """Each token is the one before plus 1."""
    tokens = (rng.integers(5, size=[shape[0], 1]) + np.arange(shape[1] + 1)) % 5
    return tokens[:, :-1].astype("int32"), tokens[:, 1:].astype("int32")


def topics(rng, shape):
    y = rng.integers(2, size=shape[0])
    return (rng.integers(3, size=shape) + 2 * y[:, None]).astype("int32"), y.astype("int32")


# The arguments of a small one, what it can learn, and the clients' learning rate.
SMALL = {
    "linear": ({}, vectors, [10], 0.1),
    "logistic": ({}, vectors, [10], 0.5),
    "mlp": ({"units": (16,)}, vectors, [10], 0.5),
    "cnn": (
        {"shape": (8, 8, 1), "classes": 4, "filters": (4, 4), "units": 16},
        images,
        [8, 8, 1],
        0.3,
    ),
    "resnet": ({"shape": (6, 6, 1), "classes": 4, "filters": (8,)}, images, [6, 6, 1], 0.1),
    "cnn1d": (
        {"length": 12, "channels": 2, "classes": 3, "filters": (8,), "groups": 2},
        windows,
        [12, 2],
        0.1,
    ),
    "lstm": ({"length": 10, "channels": 2, "classes": 3, "units": 8}, windows, [10, 2], 0.5),
    "char_lstm": ({"vocabulary": 5, "length": 6, "units": 8, "layers": 2}, texts, [6], 2.0),
    "ngram": ({"vocabulary": 5, "length": 6, "context": 2, "units": 8}, texts, [6], 2.0),
    "transformer": (
        {"vocabulary": 5, "length": 6, "width": 8, "heads": 2, "blocks": 1},
        texts,
        [6],
        0.5,
    ),
}


def small(name, **changes):
    """Returns a small model of an architecture, and clients that it can learn from."""
    import keras

    arguments, make, shape, _ = SMALL[name]
    keras.utils.set_random_seed(1)
    spec = importlib.import_module(f"models.{name}").build(**(arguments | changes))
    rng = np.random.default_rng(2)
    make = changes.pop("make", make) if "classes" not in changes else topics
    x, y = make(rng, [CLIENTS * EXAMPLES, *shape])
    return spec, tff_dp.data.iid(x, y, clients=CLIENTS, seed=3)


def train(name, spec, clients, privacy, rounds):
    rate = SMALL[name][-1]
    return tff_dp.fit(
        spec,
        clients,
        privacy=privacy,
        rounds=rounds,
        algorithm=tff_dp.FedAvg(client_optimizer=tff_dp.SGD(learning_rate=rate)),
        batch_size=8,
        epochs=1 if isinstance(privacy, tff_dp.PrivacyPlan) else 2,
        seed=4,
    )


def loss_of(model, clients):
    return model.evaluate(*clients.pooled(), verbose=0, return_dict=True)["loss"]


def plan(mechanism=None, **changes):
    values = {
        "population": CLIENTS,
        "rounds": 1,
        "delta": 1e-2,
        "sampler": tff_dp.FullParticipation(),
    }
    mechanism = mechanism or tff_dp.GaussianMechanism(clip_norm=0.5, noise_multiplier=1.0)
    return tff_dp.PrivacyPlan(mechanism=mechanism, **(values | changes))


def test_every_architecture_is_tested():
    assert sorted(SMALL) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_number_of_parameters_is_the_stated_one(tff, name):
    module = importlib.import_module(f"models.{name}")
    stated = re.search(r"^ *Parameters: ([\d,]+)\.$", module.build.__doc__, re.MULTILINE)
    assert stated, "the docstring has a line 'Parameters: N.' for the default arguments"
    spec = module.build()
    assert isinstance(spec, tff_dp.ModelSpec)
    assert spec.model.count_params() == int(stated.group(1).replace(",", ""))
    assert "Source:" in module.build.__doc__


@pytest.mark.parametrize("name", thinned(NAMES, by=["logistic", "linear"]))
def test_it_learns_and_trains_under_a_plan(tff, name):
    spec, clients = small(name)
    with tff_dp.execution.fast():
        result = train(name, spec, clients, tff_dp.NoPrivacy(), 8)
        private = train(name, spec, clients, plan(), None)
    before, after = loss_of_spec(spec, clients), loss_of(result.model, clients)
    assert after < 0.8 * before
    assert len(private.history) == 1
    assert np.isfinite(private.epsilon)


def loss_of_spec(spec, clients):
    """Returns the loss of the weights that training begins with."""
    spec.model.compile(loss=spec.loss)
    return loss_of(spec.model, clients)


@pytest.mark.parametrize("name", ["logistic", slow("resnet")])
def test_gradients_of_single_records_can_be_clipped(tff, name):
    spec, clients = small(name)
    mechanism = tff_dp.RecordGaussianMechanism(
        clip_norm=1.0, noise_multiplier=1.0, batch_size=8, local_steps=2
    )
    with tff_dp.execution.fast():
        result = tff_dp.fit(
            spec,
            clients,
            privacy=plan(mechanism, records=tuple(clients.sizes.tolist())),
            algorithm=tff_dp.FedAvg(client_optimizer=tff_dp.SGD(learning_rate=0.1)),
        )
    assert np.isfinite(result.epsilon)


@pytest.mark.slow
def test_a_transformer_classifies_texts(tff):
    spec, clients = small("transformer", classes=2)
    with tff_dp.execution.fast():
        result = train("transformer", spec, clients, tff_dp.NoPrivacy(), 4)
    assert loss_of(result.model, clients) < 0.8 * loss_of_spec(spec, clients)


def test_what_predicts_the_next_token_does_not_see_it(tff):
    for name in ("char_lstm", "transformer"):
        spec, clients = small(name)
        x = np.array(clients.pooled()[0][:4])
        before = spec.model(x)
        x[:, 3:] = (x[:, 3:] + 2) % 5
        after = spec.model(x)
        np.testing.assert_allclose(before[:, :3], after[:, :3], atol=1e-5)
        assert np.abs(np.asarray(before - after))[:, 3:].max() > 1e-3


def test_a_saved_transformer_is_restored(tff, tmp_path: pathlib.Path):
    import keras

    spec, clients = small("transformer")
    spec.model.save(tmp_path / "model.keras")
    x = clients.pooled()[0][:4]
    restored = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(restored(x), spec.model(x))
