"""Callbacks of a run that is resumed: they go on counting where they were."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import keras
import numpy as np
import pytest

import tff_dp
from tests.support.tables import covered
from tff_dp.errors import ArgumentError
from tff_dp.training.callback_states import States, restore, states_of

KERASES = ["keras", "tf_keras"]
ROUNDS = 30
W = np.array([[1.0], [-2.0], [0.5]], np.float32)


@pytest.fixture(scope="module")
def data(tff) -> tuple[tff_dp.Clients, tuple[np.ndarray, np.ndarray]]:
    """Returns clients, and validation data whose loss falls until the model is halfway, and rises."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 3)).astype(np.float32)
    clients = tff_dp.data.from_arrays({f"c{k}": (x[k::5], x[k::5] @ W) for k in range(5)})
    other = rng.normal(size=(20, 3)).astype(np.float32)
    return clients, (other, other @ W / 2)


def linear(library: Any) -> Any:
    layers = library.layers
    return library.Sequential(
        [layers.Input([3]), layers.Dense(1, kernel_initializer="zeros", name="dense")]
    )


def trained(data: Any, library: Any, callbacks: Any, **changes: Any) -> tff_dp.FitResult:
    clients, validation = data
    values = {
        "loss": "mse",
        "privacy": tff_dp.NoPrivacy(),
        "rounds": ROUNDS,
        "algorithm": tff_dp.FedAvg(client_optimizer=tff_dp.SGD(learning_rate=0.05)),
        "batch_size": 8,
        "shuffle": False,
        "validation_data": validation,
    }
    return tff_dp.fit(linear(library), clients, callbacks=callbacks, **(values | changes))


def stopping(library: Any, **changes: Any) -> Any:
    values = {"monitor": "val_loss", "patience": 4, "restore_best_weights": True}
    return library.callbacks.EarlyStopping(**(values | changes))


def plateau(library: Any, **changes: Any) -> Any:
    values = {"monitor": "val_loss", "patience": 2, "cooldown": 2, "factor": 0.5, "min_lr": 0.1}
    return library.callbacks.ReduceLROnPlateau(**(values | changes))


def rates(library: Any, seen: list[float]) -> Any:
    class Rates(library.callbacks.LambdaCallback):  # type: ignore[misc, name-defined]
        """Notes the server's rate after each round, after the other callbacks."""

        def __init__(self) -> None:
            super().__init__(
                on_epoch_end=lambda epoch, logs: seen.append(
                    round(float(np.asarray(self.model.optimizer.learning_rate)), 6)
                )
            )

    return Rates()


def assert_same(one: Any, two: Any) -> None:
    for a, b in zip(one.model.get_weights(), two.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("after", "name"),
    covered(
        [1, "best", "best + 2"],
        KERASES,
        by=[(1, "keras"), ("best", "tf_keras"), ("best + 2", "keras")],
        slow=None,
    ),
)
def test_early_stopping_stops_and_restores_as_without_the_interruption(data, tmp_path, name, after):
    library = importlib.import_module(name)
    own = stopping(library)
    whole = trained(data, library, [own])
    best = own.best_epoch + 1
    assert 2 < best < ROUNDS - 6
    assert len(whole.history) == best + 4
    assert "EarlyStopping" in whole.stopped
    rounds = {1: 1, "best": best, "best + 2": best + 2}[after]
    run_dir = tmp_path / "run"
    trained(data, library, [stopping(library)], rounds=rounds, run_dir=run_dir)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        rest = trained(data, library, [stopping(library)], run_dir=run_dir, resume=True)
    assert len(rest.history) == len(whole.history)
    assert rest.stopped == whole.stopped
    assert_same(rest, whole)
    # It has ended for good: the folder has the weights that were restored.
    again = trained(data, library, None, run_dir=run_dir, resume=True)
    assert_same(again, whole)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The callback Rates begins anew")
@pytest.mark.parametrize("name", KERASES)
def test_reduce_lr_on_plateau_reduces_as_without_the_interruption(data, tmp_path, name):
    library = importlib.import_module(name)
    expected: list[float] = []
    whole = trained(data, library, [plateau(library), rates(library, expected)])
    assert len(set(expected)) > 3
    reduced = expected.index(0.5)
    found: list[float] = []
    run_dir, options = tmp_path / "run", {"run_dir": tmp_path / "run"}
    for rounds in (reduced, reduced + 2, reduced + 3, ROUNDS):  # in patience, in cooldown, after it
        callbacks = [plateau(library), rates(library, found)]
        rest = trained(data, library, callbacks, rounds=rounds, resume=run_dir.exists(), **options)
    assert found == expected
    assert_same(rest, whole)


def test_a_run_that_dies_goes_on_counting_from_its_last_checkpoint(data, tmp_path):
    whole = trained(data, keras, [stopping(keras)])
    dies = len(whole.history) - 2

    def die(epoch: int, logs: Any) -> None:
        if epoch == dies:
            raise RuntimeError("dead")

    last = keras.callbacks.LambdaCallback(on_epoch_end=die)
    options = {"run_dir": tmp_path / "run", "save_every": 3}
    with pytest.raises(RuntimeError, match="dead"):
        trained(data, keras, [stopping(keras), last], **options)
    rest = trained(data, keras, [stopping(keras)], resume=True, **options)
    assert (len(rest.history), rest.stopped) == (len(whole.history), whole.stopped)
    assert_same(rest, whole)


@pytest.mark.slow
def test_a_finished_run_has_the_weights_that_its_callback_restored(data, tmp_path):
    """All rounds were run, and the best was not the last: Keras restores at the end of training."""
    options = {"rounds": 16, "run_dir": tmp_path / "run"}
    first = trained(data, keras, [stopping(keras, patience=100)], **options)
    assert first.stopped is None
    again = trained(data, keras, [stopping(keras, patience=100)], resume=True, **options)
    assert_same(again, first)
    whole = trained(data, keras, None, rounds=16)
    assert np.abs(whole.model.get_weights()[0] - first.model.get_weights()[0]).max() > 1e-3


def test_the_best_file_is_not_replaced_by_a_worse_one(data, tmp_path):
    def best_only() -> Any:
        return keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", save_best_only=True)

    own = stopping(keras, patience=100)
    trained(data, keras, [best_only(), own], rounds=14, run_dir=tmp_path / "run")
    assert own.best_epoch < 13
    before = tff_dp.load_model(tmp_path / "best.keras").get_weights()
    trained(data, keras, [best_only()], rounds=16, run_dir=tmp_path / "run", resume=True)
    for a, b in zip(before, tff_dp.load_model(tmp_path / "best.keras").get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_two_of_a_class_go_on_as_themselves(data, tmp_path):
    def both() -> list[Any]:
        return [stopping(keras, monitor="loss", patience=100), stopping(keras, patience=5)]

    whole = trained(data, keras, both())
    trained(data, keras, both(), rounds=len(whole.history) - 2, run_dir=tmp_path / "run")
    rest = trained(data, keras, both(), run_dir=tmp_path / "run", resume=True)
    assert (len(rest.history), rest.stopped) == (len(whole.history), whole.stopped)
    assert_same(rest, whole)


def test_two_of_a_class_and_a_monitor_go_on_as_themselves_in_another_order(data, tmp_path):
    """The one with less patience goes on in its own patience, and not in that of the other."""

    def both() -> list[Any]:
        own = {"restore_best_weights": False}
        return [stopping(keras, patience=5, min_delta=1e9, **own), stopping(keras, patience=100)]

    run_dir = tmp_path / "run"
    trained(data, keras, both(), rounds=4, run_dir=run_dir)
    rest = trained(data, keras, both()[::-1], run_dir=run_dir, resume=True)
    assert len(rest.history) == 6  # the best is that of round 1
    # Other settings alone do not make another callback: it is found by its class and monitor.
    one, two = both()
    one.wait, two.wait = 3, 7
    states = states_of([one, two])
    longer, same = stopping(keras, patience=6), both()[1]
    restore([longer, same], states)
    assert (longer.wait, same.wait) == (3, 7)


class Counting(keras.callbacks.Callback):
    """A callback of a user's, whose state nobody knows."""


class Patient(keras.callbacks.EarlyStopping):
    """A subclass, whose Keras part is restored."""


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: Counting(), "The callback Counting begins anew"),
        (
            lambda path: Patient(monitor="val_loss", patience=50),
            r"Patient\(monitor='val_loss'\).*only what Keras's own",
        ),
        (
            lambda path: stopping(keras, monitor="loss"),
            r"EarlyStopping\(monitor='loss'\).*none like",
        ),
        (lambda path: keras.callbacks.CSVLogger(path / "log.csv"), "CSVLogger.*append=True"),
    ],
    ids=["own class", "subclass", "other monitor", "file"],
)
def test_what_begins_anew_is_named(data, tmp_path, make, message):
    first = [Patient(monitor="val_loss", patience=50)]
    trained(data, keras, first, rounds=2, run_dir=tmp_path / "run")
    with pytest.warns(UserWarning, match=message):
        trained(data, keras, [make(tmp_path)], rounds=3, run_dir=tmp_path / "run", resume=True)


def test_states_are_copies_of_plain_values(tff):
    own = stopping(keras)
    own.wait, own.best, own.best_weights = 2, float("inf"), [np.ones(3)]
    states = states_of([own, keras.callbacks.History()])
    own.best_weights[0][:] = 5
    assert states.numbers[0]["numbers"]["best"] == "inf"
    np.testing.assert_array_equal(states.arrays[0], np.ones(3))
    assert states_of([keras.callbacks.History()]) == States([], [])


@pytest.mark.filterwarnings("ignore:The callback EarlyStopping.* begins anew")
def test_callbacks_may_come_and_go(data, tmp_path):
    """Whether the clients' rate is in the state was decided when the run began."""
    algorithm = tff_dp.FedAvg(client_optimizer=tff_dp.SGD(learning_rate=0.05))
    whole = trained(data, keras, None, rounds=3)
    for number, callbacks in enumerate(([None, [stopping(keras)]], [[stopping(keras)], None])):
        run_dir = tmp_path / str(number)
        trained(data, keras, callbacks[0], rounds=2, run_dir=run_dir)
        rest = trained(data, keras, callbacks[1], rounds=3, run_dir=run_dir, resume=True)
        np.testing.assert_allclose(
            rest.model.get_weights()[0], whole.model.get_weights()[0], atol=1e-6
        )
    with pytest.raises(ArgumentError, match="client_learning_rate"):
        trained(
            data,
            keras,
            None,
            rounds=4,
            run_dir=tmp_path / "0",
            resume=True,
            algorithm=algorithm,
            client_learning_rate=lambda number: 0.1,
        )


@pytest.mark.filterwarnings("ignore:The callback Own.* begins anew.*only what Keras")
@pytest.mark.parametrize("of", ["best", "best_weights"])
def test_what_a_subclass_keeps_under_the_same_names_ends_no_run(data, tmp_path, of):
    """A checkpoint leaves out what it cannot hold, rather than fail after a round."""

    class Own(keras.callbacks.EarlyStopping):
        """Keeps a pair, or a dictionary, where Keras has a number and a list of arrays."""

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            setattr(self, of, {"dense": np.zeros(3)} if of == "best_weights" else (1.0, 2.0))

    folder = tmp_path / "run"
    first = trained(data, keras, [Own("val_loss")], rounds=2, run_dir=folder)
    assert len(first.history) == 2
    with pytest.warns(UserWarning, match="Own.*had none like it"):
        rest = trained(data, keras, [Own("val_loss")], rounds=3, run_dir=folder, resume=True)
    assert len(rest.history) == 3
