"""Keras callbacks around rounds: each that Keras exports, rates and weights that they set, stops."""

from __future__ import annotations

import csv
import dataclasses
import importlib
import warnings
from typing import Any

import keras
import numpy as np
import pytest

import tff_dp
from tests.support.tables import slow
from tff_dp.errors import ArgumentError, StackError
from tff_dp.process import build_process, initialize_from, model_weights
from tff_dp.training.refused_callbacks import REFUSED

ROUNDS = 4
SERVER, CLIENT = 0.5, 0.1
ALGORITHM = tff_dp.FedAvg(
    client_optimizer=tff_dp.SGD(learning_rate=CLIENT),
    server_optimizer=tff_dp.SGD(learning_rate=SERVER, momentum=0.5),
)


@pytest.fixture(scope="module")
def clients(tff) -> tff_dp.Clients:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 3)).astype(np.float32)
    y = (x @ np.array([[1.0], [-2.0], [0.5]], np.float32)).astype(np.float32)
    return tff_dp.data.from_arrays({f"c{k}": (x[k::5], y[k::5]) for k in range(5)})


def linear(library: Any = keras) -> Any:
    layers = library.layers
    return library.Sequential(
        [layers.Input([3]), layers.Dense(1, kernel_initializer="zeros", name="dense")]
    )


def trained(clients: Any, callbacks: Any = None, library: Any = keras, **changes: Any) -> Any:
    values = {
        "loss": "mse",
        "privacy": tff_dp.NoPrivacy(),
        "rounds": ROUNDS,
        "algorithm": ALGORITHM,
        "batch_size": 4,
        "shuffle": False,
    }
    return tff_dp.fit(linear(library), clients, callbacks=callbacks, **(values | changes))


PROCESSES: dict[str, Any] = {}  # of `plain_loop`


def plain_loop(clients: Any, rates: Any, algorithm: Any = ALGORITHM) -> list[list[np.ndarray]]:
    """Returns the weights after each round of TFF's own process with given (client, server) rates.

    A process is built for each pair of rates, so that nothing depends on rates in its state.
    """
    bound = tff_dp.ModelSpec(model=linear(), loss="mse").bind(clients.element_spec())
    found, state = [], None
    with tff_dp.execution.fast():
        for client, server in rates:
            own = dataclasses.replace(
                algorithm,
                client_optimizer=dataclasses.replace(
                    algorithm.client_optimizer, learning_rate=client
                ),
                server_optimizer=dataclasses.replace(
                    algorithm.server_optimizer, learning_rate=server
                ),
            )
            key = repr(own)
            if key not in PROCESSES:
                PROCESSES[key] = build_process(bound, algorithm=own, privacy=tff_dp.NoPrivacy())
            process = PROCESSES[key]
            fresh = initialize_from(process, bound.initial_weights)
            if state is not None:  # everything of the last round but the rate
                finalizer = {**state.finalizer, "learning_rate": fresh.finalizer["learning_rate"]}
                fresh = fresh._replace(
                    global_model_weights=state.global_model_weights,
                    finalizer=type(state.finalizer)(finalizer),
                )
            cohort = clients.cohort(range(clients.num_clients), batch_size=4)
            state = process.next(fresh, cohort).state
            found.append([np.asarray(w) for w in model_weights(process, state).trainable])
    return found


def assert_weights(model: Any, expected: Any) -> None:
    for one, two in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_array_equal(one, two)


class Watcher(keras.callbacks.Callback):
    """Records the hooks, and the model's weights at the end of each round."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.weights, self.rates = [], [], []

    def on_train_begin(self, logs=None):
        self.calls.append("begin")

    def on_train_end(self, logs=None):
        self.calls.append("end")

    def on_epoch_begin(self, epoch, logs=None):
        self.calls.append(epoch)

    def on_epoch_end(self, epoch, logs=None):
        self.calls.append((epoch, sorted(logs)))
        self.weights.append(self.model.get_weights())
        optimizers = self.model.optimizer, self.model.client_optimizer
        self.rates.append(tuple(float(each.learning_rate) for each in optimizers))
        assert self.params["epochs"] == ROUNDS


# --- What callbacks see -------------------------------------------------------------------------------


def test_callbacks_are_called_around_each_round_with_the_weights_of_the_round(clients):
    watcher = Watcher()
    result = trained(clients, [watcher])
    logs = ["loss", "num_examples"]
    expected = [part for k in range(ROUNDS) for part in (k, (k, logs))]
    assert watcher.calls == ["begin", *expected, "end"]
    for seen, known in zip(
        watcher.weights, plain_loop(clients, [(CLIENT, SERVER)] * ROUNDS), strict=True
    ):
        for one, two in zip(seen, known, strict=True):
            np.testing.assert_array_equal(one, two)
    assert watcher.rates == [(SERVER, pytest.approx(CLIENT))] * ROUNDS
    assert_weights(result.model, watcher.weights[-1])
    assert result.stopped is None
    assert type(result.model.optimizer).__name__ == "SGD"
    assert float(result.model.optimizer.learning_rate) == pytest.approx(CLIENT)
    result.model.fit(np.ones([2, 3]), np.ones([2, 1]), verbose=0)  # its optimizer is its own


def test_epsilon_and_private_metrics_are_in_the_logs_under_a_plan(clients):
    plan = tff_dp.PrivacyPlan(
        mechanism=tff_dp.GaussianMechanism(clip_norm=1.0, noise_multiplier=1.0),
        population=5,
        sampler=tff_dp.FullParticipation(),
        rounds=ROUNDS,
        delta=1e-3,
        metrics=(tff_dp.PrivateMetric(name="loss", clip_value=5.0),),
    )
    watcher = Watcher()
    result = trained(clients, [watcher], privacy=plan)
    assert watcher.calls[2] == (0, ["epsilon", "loss"])
    history = result.model, result.keras_history()
    assert history[1]["epsilon"] == [record.epsilon for record in result.history]


# --- Rates ---------------------------------------------------------------------------------------------


def test_a_learning_rate_scheduler_sets_the_servers_rate_of_the_same_round(clients):
    rates = [0.5, 0.25, 1.0, 0.125]
    result = trained(
        clients, [keras.callbacks.LearningRateScheduler(lambda epoch, rate: rates[epoch])]
    )
    assert_weights(result.model, plain_loop(clients, [(CLIENT, rate) for rate in rates])[-1])


@pytest.mark.slow
def test_rates_that_a_callback_sets_at_the_end_of_a_round_are_those_of_the_next(clients):
    class Halves(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            for optimizer in (self.model.optimizer, self.model.client_optimizer):
                optimizer.learning_rate = float(optimizer.learning_rate) / 2

    result = trained(clients, [Halves()])
    rates = [(np.float32(CLIENT) / 2**k, SERVER / 2**k) for k in range(ROUNDS)]
    assert_weights(result.model, plain_loop(clients, [(float(c), s) for c, s in rates])[-1])


def test_reduce_on_plateau_reduces_what_the_next_round_uses(clients):
    reducer = keras.callbacks.ReduceLROnPlateau(
        monitor="loss", factor=0.5, patience=1, min_delta=1e9, mode="min"
    )
    result = trained(clients, [reducer])
    # The first round is the best one; each later round is one without an improvement.
    rates = [SERVER, SERVER, SERVER / 2, SERVER / 4]
    assert_weights(result.model, plain_loop(clients, [(CLIENT, rate) for rate in rates])[-1])


@pytest.mark.parametrize("rate", [float("nan"), float("inf"), -1.0])
def test_a_rate_that_is_none_ends_the_run_with_its_result(clients, rate):
    class Breaks(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.optimizer.learning_rate = rate

    with pytest.raises(ArgumentError, match="the server's learning_rate") as caught:
        trained(clients, [Breaks()])
    assert len(caught.value.result.history) == 1


def test_schedules_are_functions_of_the_round(clients):
    client, server = [0.1, 0.2, 0.3, 0.4], [1.0, 0.5, 0.25, 0.125]
    result = trained(
        clients,
        client_learning_rate=lambda number: client[number - 1],
        server_learning_rate=lambda number: server[number - 1],
    )
    assert_weights(result.model, plain_loop(clients, zip(client, server, strict=True))[-1])


@pytest.mark.slow
@pytest.mark.parametrize(
    "algorithm",
    [
        tff_dp.FedProx(proximal_strength=0.1, client_optimizer=tff_dp.SGD(learning_rate=0.1)),
        tff_dp.FedOpt(
            client_optimizer=tff_dp.Adam(learning_rate=0.1),
            server_optimizer=tff_dp.Adam(learning_rate=0.1),
        ),
    ],
    ids=["prox", "adam"],
)
def test_schedules_reach_other_algorithms(clients, algorithm):
    client, server = [0.1, 0.2, 0.3, 0.4], [0.1, 0.05, 0.25, 0.125]
    result = trained(
        clients,
        algorithm=algorithm,
        client_learning_rate=lambda number: client[number - 1],
        server_learning_rate=lambda number: server[number - 1],
    )
    rates = zip(client, server, strict=True)
    assert_weights(result.model, plain_loop(clients, rates, algorithm)[-1])


def test_schedules_reach_clients_that_protect_records(clients):
    plan = tff_dp.PrivacyPlan(
        mechanism=tff_dp.RecordGaussianMechanism(
            clip_norm=1e6, noise_multiplier=0.0, batch_size=8, local_steps=1
        ),
        records=clients.sizes.tolist(),
        rounds=1,
        delta=1e-3,
    )
    moved = []
    for rate in (0.125, 0.25):
        result = trained(
            clients,
            privacy=plan,
            rounds=None,
            batch_size=None,
            client_learning_rate=lambda number, rate=rate: rate,
        )
        moved.append(result.model.get_weights()[0])
    np.testing.assert_allclose(moved[1], 2 * moved[0], rtol=1e-5)
    assert np.abs(moved[0]).max() > 0


def test_a_changed_rate_traces_and_compiles_nothing(clients):
    import tensorflow as tf

    counts = []

    class Counter(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.model.optimizer.learning_rate = 0.5 / (epoch + 1)
            self.model.client_optimizer.learning_rate = 0.1 / (epoch + 1)

        def on_epoch_end(self, epoch, logs=None):
            counts.append(traces[0])

    traces = [0]
    original = tf.Graph.__init__

    def counted(self, *arguments, **named):
        traces[0] += 1
        original(self, *arguments, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tf.Graph, "__init__", counted)
        trained(clients, [Counter()], rounds=6)
    assert counts[0] > 0
    assert len(set(counts[1:])) == 1, counts  # all is made by the end of the second round


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"server_learning_rate": 0.1}, "a function from the number of a round"),
        ({"server_learning_rate": lambda number: -1.0}, "returns for round 1"),
        ({"client_learning_rate": lambda number: "fast"}, r"returns 'fast' for round 1"),
        (
            {"algorithm": tff_dp.FedSGD(), "client_learning_rate": lambda number: 0.1},
            "client_learning_rate cannot be changed",
        ),
        (
            {
                "server_learning_rate": lambda number: 0.1,
                "callbacks": [keras.callbacks.LearningRateScheduler(lambda epoch: 0.1)],
            },
            "expected one of them",
        ),
    ],
)
def test_schedules_that_cannot_be_honored_are_refused(clients, changes, message):
    with pytest.raises(ArgumentError, match=message) as caught:
        trained(clients, **changes)
    assert caught.value.result is None  # no round was run


# --- Stops and weights ---------------------------------------------------------------------------------


def test_early_stopping_ends_the_run_and_restores_the_best_weights(clients):
    watcher = Watcher()
    stopper = keras.callbacks.EarlyStopping(
        monitor="loss", patience=1, min_delta=1e9, mode="min", restore_best_weights=True
    )
    result = trained(clients, [watcher, stopper])
    assert len(result.history) == 2
    assert result.stopped == "Training was stopped by EarlyStopping after 2 of 4 rounds."
    assert_weights(result.model, watcher.weights[0])  # of the best round, the first


def test_weights_that_a_callback_sets_are_those_of_the_next_round(clients):
    class Resets(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == ROUNDS - 2:
                self.model.set_weights([np.zeros_like(w) for w in self.model.get_weights()])

    plain = tff_dp.FedAvg(client_optimizer=tff_dp.SGD(learning_rate=CLIENT))  # no momentum
    result = trained(clients, [Resets()], algorithm=plain)
    assert_weights(result.model, plain_loop(clients, [(CLIENT, 1.0)], plain)[-1])


def test_a_callback_that_fails_ends_the_run_with_its_result(clients):
    class Fails(keras.callbacks.Callback):
        ended = False

        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                raise KeyError("mine")

        def on_train_end(self, logs=None):
            self.ended = True

    callback = Fails()
    with pytest.raises(KeyError, match="mine") as caught:
        trained(clients, [callback])
    assert len(caught.value.result.history) == 2
    assert callback.ended


def test_end_on_nan_ends_after_the_round_with_a_loss_that_is_not_finite(clients):
    result = trained(
        clients,
        [tff_dp.EndOnNaN()],
        rounds=20,
        server_learning_rate=lambda number: 1e30 if number == 2 else 1.0,
        algorithm=tff_dp.FedAvg(client_optimizer=tff_dp.SGD(learning_rate=0.1)),
    )
    assert len(result.history) in (2, 3)
    assert "was stopped by EndOnNaN" in result.stopped


def test_the_model_of_a_checkpoint_carries_what_it_has_cost(clients, tmp_path):
    plan = tff_dp.PrivacyPlan(
        mechanism=tff_dp.GaussianMechanism(clip_norm=1.0, noise_multiplier=1.0),
        population=5,
        sampler=tff_dp.FullParticipation(),
        rounds=ROUNDS,
        delta=1e-3,
    )
    path = tmp_path / "{epoch}.keras"
    result = trained(clients, [keras.callbacks.ModelCheckpoint(path)], privacy=plan)
    model = tff_dp.load_model(tmp_path / "2.keras")
    assert float(model.optimizer.learning_rate) == pytest.approx(CLIENT)  # as of the result
    with pytest.raises(tff_dp.ModelError, match="was trained before"):
        trained(clients, privacy=plan, initial_weights=model)
    again = tff_dp.fit(
        model, clients, privacy=plan, rounds=2, algorithm=ALGORITHM, disjoint_data=True
    )
    assert again.other_data[0].rounds == 2  # the rounds that had been run when it was saved
    assert result.charges.rounds == ROUNDS


# --- Every callback of Keras ---------------------------------------------------------------------------


class Boring:
    """Arguments for each class that `keras.callbacks` exports; None for those of no run."""

    def __init__(self, library: Any, folder: Any) -> None:
        c = library.callbacks
        suffix = "weights.h5" if library.__name__ == "keras" else "ckpt"
        self.served = {
            "CSVLogger": lambda: c.CSVLogger(str(folder / "log.csv")),
            "Callback": c.Callback,
            "EarlyStopping": lambda: c.EarlyStopping(monitor="loss", mode="min"),
            "History": c.History,
            "LambdaCallback": lambda: c.LambdaCallback(on_epoch_end=lambda epoch, logs: None),
            "LearningRateScheduler": lambda: c.LearningRateScheduler(lambda epoch: 0.5),
            "ModelCheckpoint": lambda: c.ModelCheckpoint(
                str(folder / f"model.{suffix}"), save_weights_only=True
            ),
            "ProgbarLogger": c.ProgbarLogger,
            "ReduceLROnPlateau": lambda: c.ReduceLROnPlateau(monitor="loss", mode="min"),
            "RemoteMonitor": lambda: c.RemoteMonitor(root="http://127.0.0.1:9"),
        }
        self.special = {"CallbackList", "TensorBoard", "experimental"}


@pytest.mark.parametrize("name", ["keras", slow("tf_keras")])
def test_every_callback_that_keras_exports_is_served_or_refused_by_name(
    clients, name, tmp_path, monkeypatch
):
    library = importlib.import_module(name)
    known = Boring(library, tmp_path)
    exported = {n for n in dir(library.callbacks) if not n.startswith("_")}
    assert exported <= known.served.keys() | known.special | REFUSED.keys(), "a new one"
    posted = []
    monkeypatch.setattr("requests.post", lambda *a, **named: posted.append(named), raising=False)
    for kind, make in sorted(known.served.items()):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Keras, about formats of files
            result = trained(clients, [make()], library, rounds=2)
        assert len(result.history) == 2, kind
    rows = list(csv.DictReader((tmp_path / "log.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["0", "1"]
    for kind in sorted(REFUSED.keys() & exported):
        cls = getattr(library.callbacks, kind)
        callback = cls.__new__(cls)  # the arguments of its constructor do not matter
        with pytest.raises(ArgumentError, match=f"callbacks holds {kind}, which"):
            trained(clients, [callback], library)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: keras.callbacks.ModelCheckpoint("a.keras", save_freq=10),
            "save_freq='epoch', which saves after each round",
        ),
        (
            lambda: keras.callbacks.TensorBoard(update_freq="batch"),
            "update_freq='epoch', which writes after each round",
        ),
        (
            lambda: keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: None),
            "LambdaCallback, which defines on_train_batch_end",
        ),
        (lambda: keras.callbacks.EarlyStopping, "expected objects"),
        (lambda: "EarlyStopping", "expected objects"),
        (lambda: keras.callbacks.CallbackList([]), "is a CallbackList"),
        (
            lambda: importlib.import_module("tf_keras").callbacks.EarlyStopping(),
            "the model is one of keras",
        ),
    ],
)
def test_callbacks_that_need_batches_or_are_none_are_refused(clients, make, message):
    given = make()
    callbacks = given if type(given).__name__ == "CallbackList" else [given]
    with pytest.raises(ArgumentError, match=message):
        trained(clients, callbacks)


@pytest.mark.parametrize("name", ["keras", slow("tf_keras")])
def test_a_monitor_that_no_round_reports_is_refused_before_a_round(clients, name):
    library = importlib.import_module(name)
    c = library.callbacks
    for callback in (
        c.EarlyStopping(),
        c.ReduceLROnPlateau(monitor="accuracy"),
        c.ModelCheckpoint("a.keras", save_best_only=True),
    ):
        with pytest.raises(ArgumentError, match="which no round reports: expected") as caught:
            trained(clients, [callback], library)
        assert caught.value.result is None
    with pytest.raises(ArgumentError, match="expected epsilon"):
        plan = tff_dp.PrivacyPlan(
            mechanism=tff_dp.GaussianMechanism(clip_norm=1.0, noise_multiplier=1.0),
            population=5,
            sampler=tff_dp.FullParticipation(),
            rounds=ROUNDS,
            delta=1e-3,
        )
        trained(clients, [c.EarlyStopping(monitor="loss")], library, privacy=plan)


def test_batch_hooks_of_a_users_class_are_refused_unless_they_are_set_to_those_of_keras(clients):
    class Counts(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise AssertionError("never called")

    callback = Counts()
    with pytest.raises(ArgumentError, match="Counts, which defines on_train_batch_end"):
        trained(clients, [callback])
    callback.on_train_batch_end = keras.callbacks.Callback().on_train_batch_end
    assert len(trained(clients, [callback], rounds=1).history) == 1


def test_tensorboard_without_its_package_is_refused_with_the_remedy(clients, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None)
    with pytest.raises(StackError, match=r"pip install 'tff_dp\[tensorboard\]'"):
        trained(clients, [keras.callbacks.TensorBoard()])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["keras", "tf_keras"])
def test_tensorboard_has_the_losses_and_the_rate_of_each_round(clients, name, tmp_path):
    import tensorflow as tf

    library = importlib.import_module(name)
    x, y = clients.client(0)
    rates = [0.5, 0.25, 0.125, 1.0]
    result = trained(
        clients,
        [
            library.callbacks.LearningRateScheduler(lambda epoch: rates[epoch]),
            library.callbacks.TensorBoard(tmp_path / "logs", histogram_freq=2, profile_batch=0),
        ],
        library,
        validation_data=(x, y),
    )

    def written(part: str) -> dict[str, dict[int, float]]:
        found: dict[str, dict[int, float]] = {}
        (file,) = (tmp_path / "logs" / part).glob("events.out.tfevents.*")
        for event in tf.compat.v1.train.summary_iterator(str(file)):
            for value in event.summary.value:
                tensor = tf.make_ndarray(value.tensor)
                if tensor.shape == () and tensor.dtype.kind == "f":
                    found.setdefault(value.tag, {})[event.step] = float(tensor)
        return found

    train, validation = written("train"), written("validation")
    own = [record.metrics["loss"] for record in result.history]
    held = [record.validation["val_loss"] for record in result.history]
    rate = "epoch_learning_rate" if name == "keras" else "epoch_lr"  # by LearningRateScheduler
    for got, expected in (
        (train["epoch_loss"], own),
        (validation["epoch_loss"], held),
        (train[rate], rates),
    ):
        assert list(got) == [*range(ROUNDS)]
        assert list(got.values()) == pytest.approx(expected, rel=1e-6)
    assert len(set(own)) == len(set(held)) == ROUNDS


def test_callbacks_of_tf_keras_set_rates_and_stop_runs_of_its_models(clients):
    library = importlib.import_module("tf_keras")
    rates = [0.5, 0.25, 1.0]
    result = trained(
        clients,
        [
            library.callbacks.LearningRateScheduler(lambda epoch: rates[epoch]),
            library.callbacks.EarlyStopping(monitor="loss", patience=2, min_delta=1e9, mode="min"),
        ],
        library,
    )
    assert len(result.history) == 3
    expected = plain_loop(clients, [(CLIENT, rate) for rate in rates])[-1]
    for one, two in zip(result.model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-6)
