"""What else Keras's `fit` has: initial weights, class weights, verbose, the history, and reprs."""

from __future__ import annotations

import importlib
import math
import re
from html.parser import HTMLParser
from typing import Any

import keras
import numpy as np
import pytest

import tff_dp
from tests.support.tables import covered
from tff_dp.errors import ArgumentError, DataError, ModelError, StackError
from tff_dp.execution import gpu_memory

ALGORITHM = tff_dp.FedAvg(client_optimizer=tff_dp.SGD(learning_rate=0.1))


def made(count: int, name: str = "c") -> tff_dp.Clients:
    rng = np.random.default_rng(count)
    x = rng.normal(size=(count, 3)).astype(np.float32)
    y = (x.sum(axis=1) > 0).astype(np.int64)
    return tff_dp.data.from_arrays({f"{name}{k}": (x[k::5], y[k::5]) for k in range(5)})


@pytest.fixture(scope="module")
def clients(tff) -> tff_dp.Clients:
    return made(40)


def classes(library: Any = keras) -> Any:
    layers = library.layers
    return library.Sequential(
        [layers.Input([3]), layers.Dense(4, activation="relu"), layers.Dense(2)]
    )


def trained(clients: Any, library: Any = keras, **changes: Any) -> Any:
    values = {
        "loss": library.losses.SparseCategoricalCrossentropy(from_logits=True),
        "privacy": tff_dp.NoPrivacy(),
        "rounds": 2,
        "algorithm": ALGORITHM,
        "batch_size": 8,
        "shuffle": False,
    }
    model = changes.pop("model", None) or classes(library)
    return tff_dp.fit(model, clients, **(values | changes))


def plan(**changes: Any) -> tff_dp.PrivacyPlan:
    values = {
        "mechanism": tff_dp.GaussianMechanism(clip_norm=1.0, noise_multiplier=1.0),
        "population": 5,
        "sampler": tff_dp.FullParticipation(),
        "rounds": 3,
        "delta": 1e-3,
    }
    return tff_dp.PrivacyPlan(**(values | changes))


def assert_same(one: Any, two: Any) -> None:
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)


# --- Initial weights -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "name"),
    covered(
        ["model", "list"],
        ["keras", "tf_keras"],
        by=[("model", "keras"), ("list", "tf_keras")],
        slow=None,
    ),
)
def test_training_starts_from_the_initial_weights_and_leaves_the_model_as_it_was(
    clients, name, kind
):
    library = importlib.import_module(name)
    start, model = classes(library), classes(library)
    before = model.get_weights()
    expected = trained(clients, library, model=start)
    given = start if kind == "model" else start.get_weights()
    found = trained(clients, library, model=model, initial_weights=given)
    assert_same(found.model.get_weights(), expected.model.get_weights())
    assert_same(model.get_weights(), before)


def test_frozen_weights_are_part_of_the_initial_ones(clients):
    def frozen() -> keras.Model:
        model = classes()
        model.layers[0].trainable = False
        return model

    start = frozen()
    found = trained(clients, model=frozen(), initial_weights=start)
    assert_same(found.model.get_weights()[:2], start.get_weights()[:2])
    assert not np.array_equal(found.model.get_weights()[2], start.get_weights()[2])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["model", "list", "of a checkpoint"])
def test_charges_of_initial_weights_count_like_those_of_a_model(clients, kind, tmp_path):
    saver = keras.callbacks.ModelCheckpoint(tmp_path / "model.keras")
    first = trained(clients, privacy=plan(), rounds=1, callbacks=[saver])
    given = {
        "model": lambda: first.model,
        "list": lambda: first.model.get_weights(),
        "of a checkpoint": lambda: tff_dp.load_model(tmp_path / "model.keras").get_weights(),
    }[kind]()
    with pytest.raises(ModelError, match="was trained before"):
        trained(clients, privacy=plan(), rounds=1, initial_weights=given)
    second = trained(clients, privacy=plan(), rounds=1, initial_weights=given, spent_before=first)
    assert second.epsilon == plan().epsilon([range(1, 2), range(1, 2)]).epsilon
    apart = trained(clients, privacy=plan(), rounds=1, initial_weights=given, disjoint_data=True)
    assert apart.other_data == (first.charges,)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (3, "expected a list of arrays"),
        ("weights", "expected a list of arrays"),
        ([], "has 0 arrays: expected 4"),
        (
            [np.zeros([3, 5]), np.zeros(4), np.zeros([4, 2]), np.zeros(2)],
            r"\[0\] has shape \[3, 5\]",
        ),
        (
            [np.zeros([3, 4], int), np.zeros(4), np.zeros([4, 2]), np.zeros(2)],
            r"\[0\] has type int64: expected float32",
        ),
    ],
)
def test_initial_weights_that_do_not_fit_are_refused(clients, given, message):
    with pytest.raises(ArgumentError, match=message):
        trained(clients, initial_weights=given)


def test_initial_weights_that_are_not_finite_are_refused(clients):
    weights = classes().get_weights()
    weights[0][1, 1] = np.nan
    with pytest.raises(ModelError, match="is nan at index"):
        trained(clients, initial_weights=weights)


# --- Class weights -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "labels"),
    covered(
        ["keras", "tf_keras"],
        ["numbers", "one-hot", "column"],
        by=[("keras", "numbers"), ("tf_keras", "one-hot")],
        slow=[("keras", "column")],
    ),
)
def test_class_weights_are_those_of_keras(tff, name, labels):
    """One client, one batch, one step: the step of Keras's own `fit`."""
    library = importlib.import_module(name)
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(20, 3)).astype(np.float32), rng.integers(0, 2, 20)
    shown = {"numbers": y, "one-hot": np.eye(2, dtype=np.float32)[y], "column": y[:, None]}[labels]
    kind = "CategoricalCrossentropy" if labels == "one-hot" else "SparseCategoricalCrossentropy"
    loss = getattr(library.losses, kind)(from_logits=True)
    weights = {0: 0.25, 1: 3.0}
    start = classes(library)
    own = library.models.clone_model(start)
    own.set_weights(start.get_weights())
    own.compile(loss=loss, optimizer=library.optimizers.SGD(learning_rate=0.1))
    own.fit(x, shown, batch_size=20, class_weight=weights, shuffle=False, verbose=0)
    result = trained(
        tff_dp.data.from_arrays({"one": (x, shown)}),
        library,
        model=start,
        loss=loss,
        batch_size=20,
        rounds=1,
        class_weight=weights,
    )
    for a, b in zip(result.model.get_weights(), own.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    unweighted = trained(
        tff_dp.data.from_arrays({"one": (x, shown)}),
        library,
        model=start,
        loss=loss,
        rounds=1,
        batch_size=20,
    )
    assert np.abs(unweighted.model.get_weights()[0] - own.get_weights()[0]).max() > 1e-4


def test_class_weights_do_not_move_a_private_mean_by_more_than_the_clip_norm(clients):
    """Huge weights of one client's class: its update is clipped after the weighting."""
    own = plan(mechanism=tff_dp.GaussianMechanism(clip_norm=0.5, noise_multiplier=0.0))
    start = classes()
    result = trained(clients, model=start, privacy=own, rounds=1, class_weight={0: 1e6, 1: 1e6})
    moved = [a - b for a, b in zip(result.model.get_weights(), start.get_weights(), strict=True)]
    assert 0 < math.sqrt(sum(float((m**2).sum()) for m in moved)) <= 0.5


def test_class_weights_are_clipped_with_the_gradient_of_a_record(clients):
    own = tff_dp.PrivacyPlan(
        mechanism=tff_dp.RecordGaussianMechanism(
            clip_norm=0.25, noise_multiplier=0.0, batch_size=8, local_steps=1
        ),
        records=clients.sizes.tolist(),
        rounds=1,
        delta=1e-3,
    )
    start = classes()
    result = trained(
        clients,
        model=start,
        privacy=own,
        rounds=None,
        batch_size=None,
        class_weight={0: 1e6, 1: 1e6},
    )
    moved = [a - b for a, b in zip(result.model.get_weights(), start.get_weights(), strict=True)]
    # Every client has 8 records, all in its batch: a mean of gradients of norm 0.25, times the rate.
    assert 0 < math.sqrt(sum(float((m**2).sum()) for m in moved)) <= 0.25 * 0.1 * (1 + 1e-5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (3, "an instance of dict"),
        ({-1: 1.0}, "a class in class_weight=-1"),
        ({"cat": 1.0}, "a class in class_weight='cat'"),
        ({0: -1.0}, r"class_weight\[0\]=-1.0"),
        ({0: math.inf}, r"class_weight\[0\]=inf"),
    ],
)
def test_class_weights_outside_their_bounds_are_refused(clients, given, message):
    with pytest.raises(ArgumentError, match=message):
        trained(clients, class_weight=given)


def test_class_weights_need_classes_and_a_single_output(tff):
    x = np.ones([4, 3], np.float32)
    real = tff_dp.data.from_arrays({"a": (x, np.full([4, 1], 0.5, np.float32))})
    one = keras.Sequential([keras.layers.Input([3]), keras.layers.Dense(1)])
    with pytest.raises(DataError, match=r"holds the label 0\.5"):
        trained(real, model=one, loss="mse", class_weight={0: 2.0})
    inputs = keras.layers.Input([3])
    two = keras.Model(
        inputs, {"a": keras.layers.Dense(1)(inputs), "b": keras.layers.Dense(1)(inputs)}
    )
    y = {name: np.ones([4, 1], np.float32) for name in "ab"}
    with pytest.raises(ModelError, match="models with a single output"):
        trained(
            tff_dp.data.from_arrays({"a": (x, y)}), model=two, loss="mse", class_weight={0: 2.0}
        )


# --- Verbose -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"verbose": 0}])
def test_the_default_is_silent(clients, capfd, changes):
    capfd.readouterr()
    trained(clients, **changes)
    out, err = capfd.readouterr()
    assert out == ""
    assert "round" not in err


@pytest.mark.parametrize("changes", [{"verbose": 1}, {"progress": True}])
def test_the_bar_shows_rounds_loss_validation_speed_and_epsilon(clients, capsys, changes):
    own = plan(metrics=(tff_dp.PrivateMetric(name="loss", clip_value=2.0),))
    x, y = clients.pooled()
    trained(clients, privacy=own, rounds=None, validation_data=(x, y), **changes)
    out, err = capsys.readouterr()
    assert out == ""
    last = err.strip().splitlines()[-1].split("\r")[-1]
    assert "3/3" in last
    total = own.epsilon().epsilon
    found = re.search(r"epsilon <= ([\d.]+) of ([\d.]+)", last)
    assert float(found[1]) == pytest.approx(total, abs=0.011) or float(found[1]) <= float(found[2])
    assert float(found[2]) == pytest.approx(total, abs=0.01)
    for part in ("loss ", "val_loss ", "clients/s"):
        assert part in last


def test_lines_are_one_a_round(clients, capsys):
    result = trained(clients, verbose=2, validation_data=clients.pooled(), validation_freq=2)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["round 1/2", "round 2/2"]
    assert "val_loss" not in lines[0]
    assert f"val_loss {result.history[1].validation['val_loss']:.4g}" in lines[1]
    assert "epsilon" not in "".join(lines)  # there is no plan
    assert not any("GPU" in line for line in lines)  # nor a GPU


@pytest.mark.parametrize("verbose", [1, 2])
def test_progress_says_how_full_the_gpus_are(clients, capsys, monkeypatch, verbose):
    texts = [f"GPU memory {used}.0 of 40.0 GiB, at most 9.0" for used in (1, 2)]
    following = iter(texts)
    monkeypatch.setattr(gpu_memory, "of_context", lambda: next(following))
    trained(clients, verbose=verbose)
    out, err = capsys.readouterr()
    if verbose == 2:
        for line, text in zip(out.splitlines(), texts, strict=True):
            assert line.endswith(f"clients/s, {text}")
    else:
        assert texts[1] in err.strip().splitlines()[-1].split("\r")[-1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"verbose": 3}, "verbose=3"),
        ({"verbose": "auto"}, "verbose='auto'"),
        ({"verbose": 2, "progress": True}, "contradict each other"),
        ({"progress": 1}, "progress=1"),
    ],
)
def test_wrong_verbosity_is_refused(clients, changes, message):
    with pytest.raises(ArgumentError, match=message):
        trained(clients, **changes)


# --- Results -------------------------------------------------------------------------------------------


def test_the_history_is_that_of_keras_and_a_frame(clients):
    history = keras.callbacks.History()
    result = trained(
        clients,
        privacy=plan(metrics=(tff_dp.PrivateMetric(name="loss", clip_value=2.0),)),
        rounds=3,
        callbacks=[history],
        validation_data=clients.pooled(),
    )
    assert result.keras_history() == history.history
    frame = result.frame()
    assert frame.index.tolist() == [1, 2, 3]
    assert frame.index.name == "round"
    for name, values in history.history.items():
        assert frame[name].tolist() == values


def test_a_frame_without_pandas_is_refused_with_the_remedy(clients, monkeypatch):
    result = trained(clients)
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(StackError, match="pip install pandas"):
        result.frame()


class Tags(HTMLParser):
    """Collects the tags and the text of HTML."""

    def __init__(self) -> None:
        super().__init__()
        self.tags, self.text = [], ""

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text += data


ALLOWED = {"table", "thead", "tbody", "tr", "th", "td", "caption", "p"}


def test_html_in_notebooks_escapes_what_users_name(tff):
    evil = "<script>alert(1)</script>"
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(10, 3)).astype(np.float32), rng.integers(0, 2, 10)
    clients = tff_dp.data.from_arrays({f"{evil}{k}": (x[k::2], {evil: y[k::2]}) for k in range(2)})
    records = tff_dp.PrivacyPlan(
        mechanism=tff_dp.RecordGaussianMechanism(
            clip_norm=0.25, noise_multiplier=5.0, batch_size=1, local_steps=1
        ),
        records=[5, 5],
        rounds=1,
        delta=1e-3,
    )
    metric = plan(metrics=(tff_dp.PrivateMetric(name=evil, clip_value=1.0),))
    flat = tff_dp.data.from_arrays({f"{evil}{k}": (x[k::2], y[k::2]) for k in range(2)})
    result = trained(flat, privacy=records, rounds=None, batch_size=None)
    assert evil in result.statement()  # the id of the worst client
    for value in (clients, metric, records, result.spent, result):
        parser = Tags()
        parser.feed(value._repr_html_())
        assert set(parser.tags) <= ALLOWED
        assert parser.tags
    parser = Tags()
    parser.feed(result._repr_html_())
    assert evil in parser.text


def test_plans_reports_and_results_read_well():
    own = plan()
    text = str(own)
    for part in ("protects: clients", "clients: 5", "rounds: 3", "epsilon of all rounds: "):
        assert part in text
    assert f"{own.epsilon().epsilon:.2f}"[:-1] in text
    assert "epsilon of all rounds: inf" in str(plan(mechanism=own.mechanism.with_noise(0.0)))
    assert "&lt;" not in own._repr_html_()
    assert str(own.epsilon()).startswith("epsilon ")
