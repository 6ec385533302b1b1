"""The round loop: plan, process and data together, and every kind of bad input."""

from __future__ import annotations

import errno
import math
import os
import re
import subprocess
import sys

import keras
import numpy as np
import pytest

import tff_dp
from tests.support.tables import slow
from tests.support.training import FEATURES, fit, linear_model, make_clients, plan
from tff_dp import data, execution

pytestmark = pytest.mark.usefixtures("tff")


@pytest.fixture
def without_xla(tff):
    """Compiling takes longer than it saves in a few rounds."""
    with execution.fast(xla=False):
        yield


def test_training_without_privacy_finds_the_weights_and_says_there_is_no_guarantee():
    algorithm = tff_dp.FedAvg(client_optimizer=tff_dp.SGD(learning_rate=0.1))
    result = fit(rounds=30, algorithm=algorithm)
    np.testing.assert_allclose(result.model.get_weights()[0][:, 0], [1.0, -2.0, 0.5], atol=0.05)
    assert [record.round_number for record in result.history] == list(range(1, 31))
    assert result.history[-1].metrics["loss"] < 0.01 < result.history[0].metrics["loss"]
    assert result.history[0].metrics["num_examples"] == 49
    assert math.isinf(result.epsilon)
    assert result.spent is None
    assert "No differential privacy" in result.statement()


def test_training_under_a_plan_knows_its_epsilon_after_each_round():
    private = plan()
    result = fit(privacy=private)
    assert len(result.history) == private.rounds
    assert result.epsilon == private.epsilon().epsilon
    bounds = [record.epsilon for record in result.history]
    exact = [private.epsilon(t).epsilon for t in range(1, 6)]
    assert all(b >= e for b, e in zip(bounds, exact, strict=True))
    assert bounds == sorted(bounds)
    assert all(record.metrics is None for record in result.history)  # outside any epsilon
    statement = result.statement()
    for part in ("client-level", "add-or-remove-one", "delta 1e-05", "5 rounds", "seed"):
        assert part in statement
    assert "metrics" not in statement


def test_fewer_rounds_than_planned_cost_less():
    result = fit(privacy=plan(), rounds=2)
    assert result.epsilon == plan().epsilon(2).epsilon < plan().epsilon().epsilon


def test_released_metrics_are_marked():
    result = fit(privacy=plan(), rounds=1, release_metrics=True)
    assert result.history[0].metrics["num_examples"] == 49
    assert "metrics were released" in result.statement()
    unreleased = fit(rounds=1, release_metrics=False)
    assert unreleased.history[0].metrics is None


def test_clipping_without_noise_claims_nothing():
    mechanism = tff_dp.GaussianMechanism(clip_norm=0.5, noise_multiplier=0.0)
    result = fit(privacy=plan(mechanism=mechanism), rounds=1)
    assert math.isinf(result.epsilon)
    assert "no guarantee" in result.statement()


def test_one_round_with_the_noise_off_is_the_mean_of_clipped_changes():
    clients = make_clients()
    mechanism = tff_dp.GaussianMechanism(clip_norm=0.05, noise_multiplier=0.0)
    result = fit(clients, plan(mechanism=mechanism), rounds=1, batch_size=32, shuffle=False)
    total = np.zeros(FEATURES + 1)
    for client in range(4):
        x, y = clients.client(client)
        residual = -2 * y[:, 0] / len(y)  # of the mean squared error at zero weights
        change = -0.01 * np.append(x.T @ residual, residual.sum())
        total += change * min(1.0, 0.05 / np.linalg.norm(change))
    trained = np.concatenate([weight.ravel() for weight in result.model.get_weights()])
    np.testing.assert_allclose(trained, total / 4, rtol=1e-4, atol=1e-7)


def test_a_poisson_plan_with_empty_rounds_trains_and_charges_every_round():
    private = plan(sampler=tff_dp.PoissonSampler(rate=0.05), rounds=6)
    sizes = [len(private.draw_cohort(t, population=4, seed=1)) for t in range(1, 7)]
    assert 0 in sizes  # else the test shows nothing
    result = fit(privacy=private)
    assert result.epsilon == private.epsilon(6).epsilon
    assert all(np.isfinite(weight).all() for weight in result.model.get_weights())


def test_an_empty_round_without_privacy_leaves_the_model_as_it_is():
    sampler = tff_dp.PoissonSampler(rate=0.01)
    privacy = tff_dp.NoPrivacy(sampler=sampler)
    assert len(privacy.draw_cohort(1, population=4, seed=1)) == 0
    result = fit(privacy=privacy, rounds=1)
    assert not np.any(result.model.get_weights()[0])


def test_a_seed_repeats_cohorts_and_order_and_no_seed_does_not():
    privacy = tff_dp.NoPrivacy(sampler=tff_dp.FixedSizeSampler(size=2))

    def weights(seed):
        result = fit(privacy=privacy, rounds=3, seed=seed)
        return np.concatenate([weight.ravel() for weight in result.model.get_weights()])

    np.testing.assert_array_equal(weights(5), weights(5))
    assert np.any(weights(5) != weights(6))
    assert not fit(privacy=plan(), rounds=1, seed=None).seeded


def test_the_noise_is_never_seeded():
    first, second = (fit(privacy=plan(), rounds=1, seed=3).model.get_weights() for _ in range(2))
    assert np.all(first[0] != second[0])


@pytest.mark.slow
def test_adaptive_clipping_and_the_other_algorithms_train_under_a_plan():
    mechanism = tff_dp.AdaptiveGaussianMechanism(noise_multiplier=0.3, clipped_count_stddev=0.5)
    for algorithm in (
        tff_dp.FedSGD(),
        tff_dp.FedProx(proximal_strength=0.1),
        tff_dp.FedOpt(server_optimizer=tff_dp.Adam(learning_rate=0.1)),
    ):
        result = fit(privacy=plan(mechanism=mechanism), rounds=2, algorithm=algorithm)
        assert all(np.isfinite(weight).all() for weight in result.model.get_weights())
        assert result.epsilon == plan(mechanism=mechanism).epsilon(2).epsilon


def test_a_progress_bar_shows_no_more_than_the_plan_spends_and_stays(without_xla, capsys):
    sampler = tff_dp.PoissonSampler(rate=0.5)  # whose quick accountant is not the best one
    private = plan(sampler=sampler).calibrated(4.0)
    assert private.quick_epsilon(5) > 4.0 >= private.epsilon().epsilon > 3.99
    result = fit(privacy=private, progress=True)
    bar = capsys.readouterr().err
    found = [
        tuple(map(float, pair)) for pair in re.findall(r"epsilon <= ([\d.]+) of ([\d.]+)", bar)
    ]
    assert found[-1] == (4.0, 4.0)
    assert all(epsilon <= of == 4.0 for epsilon, of in found)
    assert bar.endswith("\n")  # what is cleared ends with a return of the carriage
    assert "5/5" in bar.rsplit("\r", 1)[1]
    assert result.history[-1].epsilon == result.epsilon
    assert result.history[0].epsilon == private.quick_epsilon(1) < result.epsilon


def test_rounds_after_others_are_shown_with_what_all_of_them_spend(without_xla):
    first = fit(privacy=plan(), rounds=2)
    second = fit(privacy=plan(), spent_before=first, rounds=2)
    bounds = [record.epsilon for record in second.history]
    assert bounds[-1] == second.epsilon == second.charges.spent().epsilon
    for bound, rounds in zip(bounds, (1, 2), strict=True):
        assert bound >= plan().epsilon((range(1, 3), range(1, rounds + 1))).epsilon


# --- What comes in between -----------------------------------------------------------------------


def weights_of(result) -> list[np.ndarray]:
    return [np.asarray(weight) for weight in result.model.get_weights()]


def failing_at(monkeypatch, call: int, error: BaseException) -> None:
    """Lets the data of a round raise an error: the call's number counts from 1."""
    original, calls = tff_dp.Clients.cohort, []

    def cohort(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == call:
            raise error
        return original(self, *args, **kwargs)

    monkeypatch.setattr(tff_dp.Clients, "cohort", cohort)


@pytest.mark.parametrize("with_ledger", [False, True])
def test_an_interrupt_gives_the_result_so_far(without_xla, tmp_path, monkeypatch, with_ledger):
    path = tmp_path / "ledger.jsonl"
    changes = {"ledger": path} if with_ledger else {}
    failing_at(monkeypatch, 3, KeyboardInterrupt())
    result = fit(privacy=plan(), seed=None, **changes)
    assert [record.round_number for record in result.history] == [1, 2]
    assert result.charges.rounds == 3
    # Not that of two rounds: the third one may have been seen.
    assert result.epsilon == plan().epsilon(3).epsilon > plan().epsilon(2).epsilon
    sentence = (
        "Training was interrupted after 2 of 5 rounds; epsilon counts 1 more, which had been begun."
    )
    assert result.stopped == sentence
    assert sentence in result.statement()
    assert all(np.any(weight) for weight in weights_of(result))
    assert tff_dp.provenance.carried_by(result.model) == (result.charges,)
    if with_ledger:
        assert tff_dp.ledger.replay(path).epsilon == result.epsilon
        monkeypatch.undo()
        rest = fit(privacy=plan(), model=result.model, seed=None, ledger=path)  # goes on with it
        assert len(rest.history) == 2
        assert rest.epsilon == plan().epsilon((range(1, 4), range(1, 3))).epsilon


def test_the_model_of_an_interrupted_run_is_that_of_its_rounds(without_xla, monkeypatch):
    failing_at(monkeypatch, 3, KeyboardInterrupt())
    interrupted = fit(rounds=5)
    monkeypatch.undo()
    assert interrupted.stopped == "Training was interrupted after 2 of 5 rounds."
    for one, two in zip(weights_of(interrupted), weights_of(fit(rounds=2)), strict=True):
        np.testing.assert_array_equal(one, two)


def test_an_interrupt_before_the_first_round_has_ended_is_raised(without_xla, monkeypatch):
    failing_at(monkeypatch, 1, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        fit(privacy=plan())


def test_another_interrupt_while_the_result_is_made_is_raised(without_xla, monkeypatch):
    failing_at(monkeypatch, 3, KeyboardInterrupt())

    def again(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["tff_dp.training.outcome"], "model_weights", again)
    with pytest.raises(KeyboardInterrupt):
        fit(privacy=plan())


@pytest.mark.parametrize("error", [tff_dp.ComputationError("client 2 fails.\nmore"), MemoryError()])
def test_an_error_carries_the_result_so_far(without_xla, monkeypatch, error):
    failing_at(monkeypatch, 4, error)
    with pytest.raises(type(error)) as caught:
        fit(privacy=plan())
    assert caught.value is error
    assert len(error.result.history) == 3
    assert error.result.epsilon == plan().epsilon(4).epsilon
    assert re.match(
        rf"Training failed \({type(error).__name__}.*\) after 3 of 5 rounds; epsilon counts 1 more",
        error.result.stopped,
    )
    assert any("`result`" in note for note in error.__notes__)


def test_an_error_in_the_first_round_says_what_was_charged_and_one_before_it_nothing(
    tff, monkeypatch
):
    error = tff_dp.ComputationError("fails")
    failing_at(monkeypatch, 1, error)
    with pytest.raises(tff_dp.ComputationError):
        fit(privacy=plan())
    assert error.result.history == ()
    assert error.result.epsilon == plan().epsilon(1).epsilon
    np.testing.assert_array_equal(weights_of(error.result)[0], np.zeros([FEATURES, 1]))
    with pytest.raises(tff_dp.ArgumentError) as caught:
        fit(privacy=plan(), rounds=6)
    assert caught.value.result is None


def test_a_chunk_of_rounds_that_is_interrupted_is_charged_as_a_whole(without_xla, monkeypatch):
    from tff_dp.training import run as run_module

    original, calls = run_module.iterate, []

    def iterate(*args):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(run_module, "_FUSED", 3)
    monkeypatch.setattr(run_module, "_FUSED_FROM", 6)
    monkeypatch.setattr(run_module, "iterate", iterate)
    private = plan(rounds=9)
    result = fit(privacy=private)
    assert len(result.history) == 3
    assert result.epsilon == private.epsilon(6).epsilon
    assert "after 3 of 9 rounds; epsilon counts 3 more" in result.stopped


def test_a_disk_that_fills_up_costs_no_round_that_was_run(without_xla, tmp_path, monkeypatch):
    path, real, charged = tmp_path / "ledger.jsonl", os.write, []

    def write(file, content):
        if b'"round":4' in content:
            charged.append(file)
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(file, content)

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(tff_dp.LedgerError, match="could not be written") as caught:
        fit(privacy=plan(), ledger=path)
    monkeypatch.undo()
    assert charged
    result = caught.value.result
    assert len(result.history) == result.charges.rounds == 3  # round 4 was neither charged nor run
    assert result.epsilon == plan().epsilon(3).epsilon == tff_dp.ledger.replay(path).epsilon
    assert "LedgerError" in result.stopped
    assert "which had been begun" not in result.stopped
    rest = fit(privacy=plan(), model=result.model, ledger=path, seed=None)
    assert len(rest.history) == 2


INTERRUPTED = """
import os, signal, sys, threading, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what runs beside it
import numpy as np, keras, tff_dp
folder = sys.argv[1]
rng = np.random.default_rng(0)
clients = tff_dp.data.from_arrays(
    {f"c{i}": (rng.normal(size=(8, 3)).astype("float32"), np.ones([8, 1], "float32")) for i in range(4)}
)
plan = tff_dp.PrivacyPlan(
    mechanism=tff_dp.GaussianMechanism(clip_norm=0.5, noise_multiplier=300.0), population=4,
    sampler=tff_dp.FullParticipation(), rounds=100_000, delta=1e-5,
)
# Signals that come at any moment, from the first charge on: in a call of TensorFlow, in the ledger's
# writes, between the two.
for number in range(6):
    path = f"{folder}/{number}.jsonl"
    model = keras.Sequential([keras.layers.Input([3]), keras.layers.Dense(1)])
    begun, ended = threading.Event(), threading.Event()
    real = tff_dp.Ledger.charge
    def charge(self, first, *rest, **named):
        if first > 2:
            begun.set()
        return real(self, first, *rest, **named)
    tff_dp.Ledger.charge = charge
    def interrupt():
        begun.wait()
        time.sleep(number * 0.0023)
        os.kill(os.getpid(), signal.SIGINT)
        while not ended.wait(30):  # Python drops what is raised while it collects garbage
            os.kill(os.getpid(), signal.SIGINT)
    thread = threading.Thread(target=interrupt)
    thread.start()
    with tff_dp.execution.fast(xla=False):
        result = tff_dp.fit(
            model, clients, loss="mse", privacy=plan, ledger=path, rounds=96_000,
            progress=number % 2 == 0,  # round by round; otherwise 64 in a call
        )
    ended.set()
    thread.join()
    tff_dp.Ledger.charge = real
    assert "was interrupted after" in result.stopped, result.stopped
    summary = tff_dp.ledger.summarize(path)
    assert not summary.torn
    assert summary.charges == result.charges
    assert summary.spent.epsilon == result.epsilon
    assert 0 <= result.charges.rounds - len(result.history) <= 64
    assert all(np.isfinite(weight).all() for weight in result.model.get_weights())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    print(len(result.history), result.charges.rounds, flush=True)
print("done")
"""


@pytest.mark.slow
@pytest.mark.heavy
def test_signals_at_any_moment_lose_neither_model_nor_charge(tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", INTERRUPTED, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "done"


def sparse(rng, size):
    return rng.integers(0, 4, size)


def classifier() -> keras.Model:
    return keras.Sequential([keras.layers.Input([FEATURES]), keras.layers.Dense(3)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"privacy": None, "rounds": 1, "explicit": True}, r"privacy=None.*NoPrivacy\(\)"),
        ({"rounds": None}, r"rounds=None.*\[1, inf\)"),
        ({"rounds": 0}, r"rounds=0.*\[1, inf\)"),
        ({"privacy": plan(), "rounds": 6}, r"rounds=6.*at most the 5 rounds.*make a plan"),
        ({"privacy": plan(population=5)}, r"population=5.*expected the number of clients, 4"),
        ({"batch_size": 0, "rounds": 1}, r"batch_size=0.*\[1, inf\)"),
        ({"epochs": 0, "rounds": 1}, r"epochs=0.*\[1, inf\)"),
        ({"seed": -1, "rounds": 1}, r"seed=-1.*\[0, "),
        ({"loss": None, "rounds": 1}, r"loss=None.*expected a Keras loss"),
        ({"clients": {"a": 1}, "rounds": 1}, r"clients=.*Clients.*from_arrays"),
        (
            {"privacy": tff_dp.NoPrivacy(sampler=tff_dp.FixedSizeSampler(size=9)), "rounds": 1},
            r"size=9.*\[1, 4\]",
        ),
        (
            {"privacy": plan(), "algorithm": tff_dp.FedAvg(weighting="examples")},
            r"weighting='examples'.*sensitivity.*'uniform'",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_bad_arguments_give_one_clear_error(tff, changes, message):
    changes = dict(changes)
    if changes.pop("explicit", False):
        with pytest.raises(tff_dp.ArgumentError, match=message):
            tff_dp.fit(linear_model, make_clients(), loss="mse", **changes)
    else:
        with pytest.raises(tff_dp.ArgumentError, match=message):
            fit(**changes)


def test_a_label_out_of_range_names_the_client_and_the_label(tff):
    clients = make_clients(labels=sparse)
    values = np.concatenate([clients.client(c)[1] for c in range(4)])
    assert values.max() == 3
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    with pytest.raises(
        tff_dp.DataError, match=r"client 'c\d' holds the label 3.*\[0, 2\].*outputs"
    ):
        fit(clients, model=classifier, loss=loss, rounds=1)
    with pytest.raises(tff_dp.DataError, match=r"holds the label [23].*\[0, 1\]"):
        fit(clients, model=linear_model, loss="binary_crossentropy", rounds=1)


@pytest.mark.parametrize(
    "loss",
    [
        "sparse_categorical_crossentropy",
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        keras.losses.sparse_categorical_crossentropy,
    ],
    ids=["name", "object", "function"],
)
def test_a_fractional_class_names_the_client_and_the_label(tff, loss):
    clients = data.from_arrays(
        {
            "whole": (np.zeros([2, FEATURES], np.float32), np.array([0.0, 2.0])),
            "odd": (np.zeros([3, FEATURES], np.float32), np.array([1.0, 1.7, 0.5])),
        }
    )
    with pytest.raises(
        tff_dp.DataError, match=r"client 'odd' holds the label 1\.7\d*: expected whole.*loss='mse'"
    ):
        fit(clients, model=classifier, loss=loss, rounds=1)


def frozen_model() -> keras.Model:
    model = linear_model()
    model.trainable = False
    return model


def model_without_weights() -> keras.Model:
    pooled = keras.layers.GlobalAveragePooling1D()  # to the labels' shape
    return keras.Sequential(
        [keras.layers.Input([FEATURES]), keras.layers.Reshape([FEATURES, 1]), pooled]
    )


def broken_model(value: float) -> keras.Model:
    model = linear_model()
    kernel, bias = model.get_weights()
    kernel[1, 0] = value
    model.set_weights([kernel, bias])
    return model


def model_with_broken_state() -> keras.Model:
    normal = keras.layers.BatchNormalization(trainable=False)
    model = keras.Sequential([keras.layers.Input([FEATURES]), normal, keras.layers.Dense(1)])
    normal.moving_mean.assign([0.0, np.nan, 0.0])
    return model


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (frozen_model, r"no trainable weights: all of its 4 weights are frozen.*trainable=True"),
        (frozen_model(), r"no trainable weights: all of its 4 weights are frozen"),
        (model_without_weights, r"no trainable weights: it has no weights at all.*Dense"),
        (broken_model(np.nan), r"trainable weight '\S*kernel' .* is nan at index \[1, 0\].*finite"),
        (broken_model(-np.inf), r"trainable weight '\S*kernel' .* is -inf at index \[1, 0\]"),
        (model_with_broken_state, r"non-trainable weight of shape \[3\].* is nan at index \[1\]"),
    ],
    ids=["frozen function", "frozen", "no weights", "nan", "inf", "state"],
)
def test_models_that_cannot_learn_are_refused_before_anything_is_charged(
    tff, tmp_path, model, message
):
    path = tmp_path / "ledger.jsonl"
    with pytest.raises(tff_dp.ModelError, match=message):
        fit(privacy=plan(), model=model, ledger=path)
    assert not path.exists()


def test_an_infinite_mask_is_no_broken_weight(tff):
    class Masked(keras.layers.Layer):
        def build(self, shape):
            mask = keras.initializers.Constant(-np.inf)
            self.mask = self.add_weight(shape=(), initializer=mask, trainable=False, name="mask")

        def call(self, x):
            return x + 0.0 * keras.ops.maximum(self.mask, 0.0)

    def model():
        return keras.Sequential([keras.layers.Input([FEATURES]), Masked(), keras.layers.Dense(1)])

    assert np.isfinite(fit(model=model, rounds=1).history[0].metrics["loss"])


def test_labels_that_would_be_broadcast_against_predictions_are_refused(tff):
    with pytest.raises(tff_dp.DataError, match=r"y has shape \[1\].*predicts \[3\]"):
        fit(model=classifier, rounds=1)


def test_loss_and_metrics_belong_to_one_place(tff):
    spec = tff_dp.ModelSpec(model=linear_model, loss="mse")
    with pytest.raises(tff_dp.ArgumentError, match="belong to a bare Keras model"):
        tff_dp.fit(spec, make_clients(), privacy=tff_dp.NoPrivacy(), rounds=1, loss="mse")


def test_nothing_is_drawn_or_trained_before_everything_is_checked(tff, monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("a computation ran before the arguments were checked")

    from tff_dp.training import setup

    monkeypatch.setattr(setup, "initialize_from", never)
    with pytest.raises(tff_dp.ArgumentError):
        fit(privacy=plan(), rounds=6)


def test_the_statement_rounds_epsilon_up():
    result = fit(privacy=plan(), rounds=1)
    shown = float(re.search(r"epsilon ([\d.]+) at", result.statement()).group(1))
    assert result.epsilon <= shown < result.epsilon + 0.001


APART = tff_dp.MinSeparationSampler(size=2, min_separation=4)
NOISE = {"clip_norm": 0.5, "noise_multiplier": 4.0}
TRAINED = [
    (tff_dp.GaussianMechanism(**NOISE), tff_dp.PoissonSampler(rate=0.5)),
    (
        tff_dp.AdaptiveGaussianMechanism(noise_multiplier=4.0, clipped_count_stddev=3.0),
        tff_dp.FullParticipation(),
    ),
    (
        tff_dp.PerLayerGaussianMechanism(clip_norms=(0.4, 0.3), noise_multiplier=4.0),
        tff_dp.FixedSizeSampler(size=3),
    ),
    slow(tff_dp.LaplaceMechanism(**NOISE), tff_dp.PoissonSampler(rate=0.5)),
    (tff_dp.TreeMechanism(**NOISE, restart_every=4), APART),
    slow(tff_dp.BandedMechanism(**NOISE, bands=4), APART),
    (tff_dp.BandedMechanism(**NOISE, bands=2), tff_dp.CyclicPoissonSampler(rate=0.8, cycle=3)),
    slow(tff_dp.LocalGaussianMechanism(**NOISE), tff_dp.PoissonSampler(rate=0.5)),
    (tff_dp.LocalLaplaceMechanism(**NOISE), tff_dp.FullParticipation()),
]


@pytest.mark.parametrize(("mechanism", "sampler"), TRAINED, ids=lambda value: type(value).__name__)
def test_every_mechanism_trains_and_states_what_it_spent(tff, tmp_path, mechanism, sampler):
    private = plan(mechanism=mechanism, sampler=sampler, population=8, rounds=6)
    clients = make_clients((5, 3, 4, 6, 2, 7, 5, 4))
    with execution.fast(xla=False):  # compiling would take longer than it saves
        result = fit(clients, private, ledger=tmp_path / "ledger.jsonl", seed=None)
    assert (
        result.epsilon
        == private.epsilon().epsilon
        == tff_dp.ledger.replay(tmp_path / "ledger.jsonl").epsilon
    )
    assert 0 < result.epsilon < math.inf
    bounds = [record.epsilon for record in result.history]
    assert bounds == sorted(bounds)
    assert bounds[-1] >= result.epsilon
    for part in (type(mechanism).__name__, private.adjacency.value, "6 rounds"):
        assert part in result.statement()
    assert np.isfinite(np.concatenate([w.ravel() for w in result.model.get_weights()])).all()


@pytest.mark.slow
def test_correlated_noise_leaves_less_in_the_model_than_independent_noise(tff):
    """Without learning, the weights are minus the sum of the rounds' noise.

    A tree over 31 rounds ends with nodes of 1 to 16 rounds: variance 2^l / (2^(l+1) - 1) each, 2.83 in
    all; independent noise has 31. With 4000 weights the ratio of variances is known to 5 %, five times.
    """
    clients = data.from_arrays(
        {f"c{i}": (np.zeros([1, 4000], np.float32), np.zeros([1, 1], np.float32)) for i in range(4)}
    )

    def model():
        layer = keras.layers.Dense(1, kernel_initializer="zeros", use_bias=False)
        return keras.Sequential([keras.layers.Input([4000]), layer])

    def variance(mechanism) -> float:
        private = plan(mechanism=mechanism, rounds=31, sampler=tff_dp.FullParticipation())
        return float(np.var(fit(clients, private, model=model).model.get_weights()[0]))

    independent = variance(tff_dp.GaussianMechanism(**NOISE))
    assert independent == pytest.approx(31 * (4.0 * 0.5 / 4) ** 2, rel=0.12)
    assert variance(tff_dp.TreeMechanism(**NOISE)) == pytest.approx(
        independent * 2.83 / 31, rel=0.25
    )
