"""Private validation in a run folder: charged in a ledger of its own, before it is released."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Any

import keras
import numpy as np
import pytest

import tff_dp
from tests.support.paths import ROOT
from tff_dp.errors import AccountingError, ArgumentError, LedgerError
from tff_dp.ledger import summarize
from tff_dp.training import federated_evaluation
from tff_dp.training.federated_evaluation import Evaluation

ROUNDS = 6


@pytest.fixture(scope="module")
def data(tff) -> tuple[tff_dp.Clients, tff_dp.Clients]:
    rng = np.random.default_rng(1)

    def people(names: str, count: int) -> tff_dp.Clients:
        found = {}
        for number in range(count):
            x = rng.normal(size=(6, 3)).astype(np.float32)
            found[f"{names}{number}"] = (x, x[:, :1])
        return tff_dp.data.from_arrays(found)

    return people("c", 4), people("v", 4)


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


def model() -> keras.Model:
    return keras.Sequential([keras.layers.Input([3]), keras.layers.Dense(1)])


def trained(data: Any, folder: Any, **changes: Any) -> tff_dp.FitResult:
    clients, held_out = data
    values = {
        "loss": "mse",
        "privacy": tff_dp.NoPrivacy(),
        "rounds": ROUNDS,
        "validation_clients": held_out,
        "validation_privacy": plan(),
        "run_dir": folder,
    }
    return tff_dp.fit(model, clients, **(values | changes))


def charged(folder: Any) -> int:
    return summarize(folder / "validation.jsonl").charges.rounds


def dying_at(monkeypatch: Any, number: int, seen: list[int], folder: Any) -> None:
    """Lets an evaluation fail between its charge and its result, noting what is charged by then."""
    real, calls = Evaluation.metrics, [0]

    def metrics(self: Any, weights: Any, place: int) -> Any:
        calls[0] += 1
        seen.append(charged(folder))
        if calls[0] == number:
            raise OSError("the machine dies")
        return real(self, weights, place)

    monkeypatch.setattr(federated_evaluation.Evaluation, "metrics", metrics)


def validated(result: tff_dp.FitResult) -> list[int]:
    return [record.round_number for record in result.history if record.validation is not None]


def test_a_resumed_run_goes_on_with_its_charges(data, tmp_path):
    folder = tmp_path / "run"
    first = trained(data, folder, rounds=4, validation_freq=2)
    assert first.validation_spent.epsilon == plan().epsilon(2).epsilon
    rest = trained(data, folder, validation_freq=2, resume=True)
    assert validated(rest) == [2, 4, 6]
    assert rest.validation_charges.rounds == charged(folder) == 3
    assert rest.validation_spent.epsilon == plan().epsilon(3).epsilon
    assert len(rest.validation_charges.runs) == 1
    # A finished run, and one that goes on without validation, state what was spent.
    for changes in ({}, {"validation_clients": None, "validation_privacy": None, "rounds": 7}):
        again = trained(data, folder, resume=True, **changes)
        assert again.validation_spent.epsilon == rest.validation_spent.epsilon
        assert "for the validation clients, epsilon" in again.statement()


@pytest.mark.parametrize("number", [1, 3])
def test_a_death_between_charge_and_release_loses_no_charge(data, tmp_path, monkeypatch, number):
    folder, seen = tmp_path / "run", []
    with monkeypatch.context() as patch:
        dying_at(patch, number, seen, folder)
        with pytest.raises(OSError, match="dies"):
            trained(data, folder, validation_privacy=plan(rounds=ROUNDS + 2))
    assert seen == [*range(1, number + 1)]  # each was on the disk before its evaluation began
    assert charged(folder) == number
    rest = trained(data, folder, validation_privacy=plan(rounds=ROUNDS + 2), resume=True)
    # The round itself was completed and saved, without its validation.
    assert validated(rest) == [n for n in range(1, ROUNDS + 1) if n != number]
    assert charged(folder) == rest.validation_charges.rounds == ROUNDS
    assert rest.validation_spent.epsilon == plan(rounds=ROUNDS + 2).epsilon(ROUNDS).epsilon


@pytest.mark.slow
def test_a_killed_process_loses_no_charge(data, tmp_path):
    """A process that is killed by SIGKILL in the middle of its third evaluation."""
    folder = tmp_path / "run"
    saved = [tmp_path / name for name in ("clients", "held_out")]
    for clients, path in zip(data, saved, strict=True):
        clients.save(path)
    model().save(tmp_path / "model.keras")
    program = f"""
import os, signal
import keras, tff_dp
from tff_dp.training.federated_evaluation import Evaluation

real = Evaluation.metrics

def metrics(self, weights, number):
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, weights, number)

Evaluation.metrics = metrics
clients, held_out = (tff_dp.Clients.load(path) for path in {[str(path) for path in saved]!r})
tff_dp.fit(
    keras.models.load_model({str(tmp_path / "model.keras")!r}),
    clients,
    loss="mse",
    privacy=tff_dp.NoPrivacy(),
    rounds={ROUNDS},
    validation_clients=held_out,
    validation_privacy=tff_dp.PrivacyPlan.from_dict({plan(rounds=9).to_dict()!r}),
    run_dir={str(folder)!r},
)
"""
    killed = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        timeout=300,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    assert charged(folder) == 3
    done = tff_dp.runs.read_run(folder).round_number
    assert done <= 2  # the state of the third round is saved after its evaluation
    rest = trained(data, folder, validation_privacy=plan(rounds=9), resume=True)
    assert validated(rest) == [*range(1, ROUNDS + 1)]
    assert charged(folder) == rest.validation_charges.rounds == 3 + ROUNDS - done


def test_evaluations_that_were_lost_shorten_the_validation_and_not_the_training(
    data, tmp_path, monkeypatch
):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        dying_at(patch, 2, [], folder)
        with pytest.raises(OSError, match="dies"):
            trained(data, folder, rounds=3, save_every=3, validation_privacy=plan(rounds=3))
    # As if the state of round 2 had been lost: evaluations 1 and 2 are charged.
    for path in (folder / "checkpoints").iterdir():
        if "00000000" not in path.name:
            path.unlink()
    with pytest.warns(UserWarning, match="covers 1 more, so that the last 2 of the rounds"):
        rest = trained(data, folder, rounds=3, validation_privacy=plan(rounds=3), resume=True)
    assert validated(rest) == [1]
    assert len(rest.history) == 3
    assert charged(folder) == 3


def test_more_rounds_than_the_plan_of_the_validation_covers_are_refused(data, tmp_path):
    folder = tmp_path / "run"
    trained(data, folder)
    with pytest.raises(AccountingError, match="expected rounds=8 or more in the plan"):
        trained(data, folder, rounds=8, resume=True)
    assert charged(folder) == ROUNDS
    more = trained(data, folder, rounds=8, validation_privacy=plan(rounds=2), resume=True)
    assert charged(folder) == 8
    assert len(more.validation_charges.runs) == 2  # of two plans, which compose


def test_a_ledger_that_was_lost_is_refused(data, tmp_path):
    folder = tmp_path / "run"
    trained(data, folder, rounds=2)
    for name in ("validation.jsonl", "validation.jsonl.head"):
        (folder / name).unlink()
    nothing = {"validation_clients": None, "validation_privacy": None}
    # Whether the run goes on, with validation or without, or is finished: its result states both.
    for changes in ({}, nothing, {"rounds": 2}, {"rounds": 2} | nothing):
        with pytest.raises(
            LedgerError, match="has 0 evaluations, and the history of the run has 2"
        ):
            trained(data, folder, resume=True, **changes)
        assert not (folder / "validation.jsonl").exists()


def test_other_clients_than_those_of_the_ledger_are_refused(data, tmp_path):
    folder = tmp_path / "run"
    trained(data, folder, rounds=2)
    fewer = data[1].subset([0, 1, 2])
    with pytest.raises(LedgerError, match="population"):
        trained(
            data,
            folder,
            validation_clients=fewer,
            validation_privacy=plan(population=3),
            resume=True,
        )


def test_noise_of_a_seed_is_refused(data, tmp_path):
    with (
        tff_dp.execution.fast(seed=1),
        pytest.raises(ArgumentError, match="no ledger can hold releases"),
    ):
        trained(data, tmp_path / "run")
