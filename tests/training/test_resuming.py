"""Runs that go on from their folder: the same bits, every round paid, everything else refused."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import math
import os
import signal
import threading
from typing import Any

import keras
import numpy as np
import pytest
import tree

import tff_dp
from tests.support.crashes import Crashes
from tests.support.tables import slow
from tests.support.training import legacy_model, linear_model, make_clients, plan
from tff_dp import execution
from tff_dp.errors import ArgumentError, ComputationError, LedgerError, RunFolderError
from tff_dp.runs import checkpoint, codec, read_run
from tff_dp.runs.layout import Layout
from tff_dp.training import identity, repetition
from tff_dp.training import run as run_module
from tff_dp.training.checkpoints import Checkpoints
from tff_dp.training.run import Run
from tff_dp.training.setup import Setup

ROUNDS = 6
FEW = tff_dp.NoPrivacy(sampler=tff_dp.FixedSizeSampler(size=2))
POISSON = tff_dp.PoissonSampler(rate=0.5)
SEPARATED = tff_dp.MinSeparationSampler(size=1, min_separation=2)


def gaussian(z=1.0, **changes):
    mechanism = tff_dp.GaussianMechanism(clip_norm=0.5, noise_multiplier=z)
    return plan(**({"mechanism": mechanism, "sampler": POISSON, "rounds": 20} | changes))


def tree_plan(z=1.0, **changes):
    mechanism = tff_dp.TreeMechanism(clip_norm=0.5, noise_multiplier=z)
    return plan(**({"mechanism": mechanism, "sampler": SEPARATED} | changes))


@pytest.fixture(autouse=True)
def context(tff):
    with execution.fast(xla=False):
        yield


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run"


def fit(privacy=FEW, **changes):
    values = {"loss": "mse", "batch_size": 4, "seed": 3, "rounds": ROUNDS} | changes
    model, clients = (
        values.pop("model", linear_model),
        values.pop("clients", None) or make_clients(),
    )
    return tff_dp.fit(model, clients, privacy=privacy, **values)


def resume(run_dir, model=linear_model, clients=None, **changes):
    return tff_dp.resume(run_dir, model, clients or make_clients(), **({"loss": "mse"} | changes))


def weights(result):
    return [weight.tobytes() for weight in result.model.get_weights()]


def assert_same(result, expected):
    assert weights(result) == weights(expected)
    assert result.history == expected.history
    assert result.stopped == expected.stopped


def files(run_dir):
    return sorted(path.name for path in run_dir.rglob("*") if path.is_file())


def untouched(run_dir):
    """Returns the content of all files, for comparison."""
    return {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}


# --- The same bits -----------------------------------------------------------------------------------

ADAM = tff_dp.FedOpt(server_optimizer=tff_dp.Adam(learning_rate=0.1))
YOGI = tff_dp.FedOpt(server_optimizer=tff_dp.Yogi(learning_rate=0.1))


@pytest.mark.parametrize(
    ("privacy", "changes"),
    [
        (FEW, {}),
        slow(FEW, {"seed": None}),
        pytest.param(FEW, {"algorithm": ADAM}, marks=pytest.mark.full),
        slow(FEW, {"algorithm": YOGI, "save_every": 3}),
        slow(tff_dp.NoPrivacy(), {"model": legacy_model, "save_every": 4}),
        slow(gaussian(0.0), {"save_every": 2}),
        (tree_plan(0.0, rounds=20), {}),
    ],
    ids=["few", "entropy", "adam", "yogi", "legacy", "plan", "tree"],
)  # fmt: skip
def test_without_noise_a_run_goes_on_to_the_same_bits(folder, monkeypatch, privacy, changes):
    crashes = Crashes(folder, monkeypatch, charged=(1, 4, 6), before=(3,))
    whole = fit(privacy, run_dir=folder, **changes)
    model = changes.get("model", linear_model)
    for image in [crashes.image("charged", number) for number in (1, 4, 6)] + [
        crashes.image("before", 3)
    ]:
        assert_same(resume(image, model), whole)
        assert not [*image.rglob("*.new")]
    if privacy is FEW and not changes:  # and with the arguments of fit
        assert_same(fit(run_dir=crashes.image("charged", 4), resume=True), whole)
    # Without a run folder the bits are the same, too.
    if changes.get("seed", 3) is not None:
        again = fit(privacy, **{k: v for k, v in changes.items() if k != "save_every"})
        assert weights(again) == weights(whole) or model is legacy_model  # whose weights are random


def test_rounds_that_are_fused_end_where_the_run_is_saved(folder, monkeypatch):
    monkeypatch.setattr(run_module, "_FUSED", 2)
    monkeypatch.setattr(run_module, "_FUSED_FROM", ROUNDS)
    crashes = Crashes(folder, monkeypatch, charged=(5,))
    whole = fit(tff_dp.NoPrivacy(), run_dir=folder, save_every=2, keep=9)
    assert [*Layout(folder).stored()] == [0, 2, 4, 6]
    assert_same(resume(crashes.image("charged", 5)), whole)


OTHERS = [
    gaussian(mechanism=tff_dp.LaplaceMechanism(clip_norm=0.5, noise_multiplier=5.0)),
    plan(
        mechanism=tff_dp.BandedMechanism(clip_norm=0.5, noise_multiplier=1.0, bands=2),
        sampler=SEPARATED,
    ),
    plan(mechanism=tff_dp.LocalGaussianMechanism(clip_norm=0.5, noise_multiplier=9.0)),
    gaussian(metrics=(tff_dp.PrivateMetric(name="loss", clip_value=4.0, budget_fraction=0.1),)),
]
MECHANISMS = [
    slow(gaussian()),
    slow(
        plan(
            mechanism=tff_dp.AdaptiveGaussianMechanism(initial_clip_norm=1.0, noise_multiplier=0.3),
            rounds=20,
        )
    ),
    tree_plan(),
    tff_dp.PrivacyPlan(
        mechanism=tff_dp.RecordGaussianMechanism(
            clip_norm=0.5, noise_multiplier=1.0, batch_size=4, local_steps=2
        ),
        records=(8, 12, 20, 9),
        rounds=20,
        delta=1e-3,
    ),
    *(pytest.param(privacy, marks=pytest.mark.full) for privacy in OTHERS),
]


@pytest.mark.slow
@pytest.mark.parametrize("privacy", MECHANISMS, ids=lambda p: type(p.mechanism).__name__)
def test_the_state_of_every_mechanism_comes_back_bit_by_bit(folder, monkeypatch, privacy):
    """Noise, clip norm and optimizers included; and it can be trained further."""
    states = {}
    real = Run.step

    def step(run):
        records = real(run)
        states[run.round_number] = run.state
        return records

    monkeypatch.setattr(Run, "step", step)
    of_records = privacy.records is not None
    fit(
        privacy,
        run_dir=folder,
        rounds=3,
        batch_size=None if of_records else 4,
        keep=9,
        algorithm=ADAM,
    )
    for number in (1, 2, 3):
        stored = checkpoint.read(Layout(folder).checkpoint(number))
        found = codec.decode(states[number], stored.leaves, stored.content)
        tree.assert_same_structure(found, states[number])
        for one, two in zip(tree.flatten(found), tree.flatten(states[number]), strict=True):
            assert type(one) is type(two)
            if not isinstance(one, bytes):
                assert (one.dtype, one.shape, one.tobytes()) == (
                    two.dtype,
                    two.shape,
                    two.tobytes(),
                )
            assert np.all(one == two)
    result = resume(folder, rounds=4)
    assert len(result.history) == 4
    assert result.charges.rounds == 4
    assert (len(result.charges.runs), result.resumed, result.repeated_rounds) == (1, 1, 0)
    assert result.epsilon == privacy.epsilon(4).epsilon
    assert "The run was resumed once. No round was charged twice." in result.statement()


# --- Every round is paid, with coins of its own ------------------------------------------------------


def assert_independent(crashes, image, done, lost, z):
    """Checks what a resumed run with sampled cohorts has drawn and charged."""
    crashes.drawn.clear()
    before = tff_dp.ledger.summarize(image / "ledger.jsonl").charges
    assert before.rounds == done + lost
    (old,) = before.runs
    result = resume(image)
    roots = {root for _, root in crashes.drawn}
    assert [number for number, _ in crashes.drawn] == [*range(done + 1, ROUNDS + 1)]
    assert len(roots) == 1
    assert result.charges == tff_dp.ledger.summarize(image / "ledger.jsonl").charges
    if lost:
        _, new = result.charges.runs
        assert (new.rounds, new.run != old.run) == (range(done + 1, ROUNDS + 1), True)
        assert roots != {3}, "the cohorts of lost rounds are drawn once more"
        assert new.coins not in (None, old.coins)
    assert result.repeated_rounds == lost
    assert result.epsilon == gaussian(z).epsilon(ROUNDS + lost).epsilon
    return result


@pytest.mark.parametrize("save_every", [1, 3])
def test_rounds_that_were_lost_are_paid_for_again_with_other_cohorts(
    folder, monkeypatch, save_every
):
    crashes = Crashes(folder, monkeypatch, charged=(5,))
    whole = fit(gaussian(), run_dir=folder, save_every=save_every)
    assert whole.epsilon == gaussian().epsilon(ROUNDS).epsilon
    assert {root for _, root in crashes.drawn} == {3}
    image, lost = crashes.image("charged", 5), 1 if save_every == 1 else 2
    result = assert_independent(crashes, image, 5 - lost, lost, 1.0)
    assert [record.round_number for record in result.history] == [*range(1, ROUNDS + 1)]
    assert result.history[: 5 - lost] == whole.history[: 5 - lost]
    counted = "1 round had" if lost == 1 else "2 rounds had"
    assert f"{counted} begun without their results being saved" in result.statement()
    assert "Of the earlier runs" not in result.statement()
    # What is displayed counts the lost rounds as well.
    assert result.history[-1].epsilon >= gaussian().epsilon(ROUNDS + lost).epsilon
    assert read_run(image).times_resumed == 1


@pytest.mark.parametrize("defect", ["same root", "same root, no charge"])
def test_the_test_above_finds_what_would_not_be_private(folder, monkeypatch, defect):
    crashes = Crashes(folder, monkeypatch, charged=(5,))
    fit(gaussian(), run_dir=folder)
    monkeypatch.setattr(repetition, "_keeps_coins", lambda *_: True)
    if defect == "same root, no charge":
        real = repetition.continued

        def continued(setup, known, standing):
            return dataclasses.replace(real(setup, known, standing), run=standing.run)

        monkeypatch.setattr("tff_dp.training.budget.continued", continued)
    with pytest.raises((AssertionError, tff_dp.TffDpError)):
        assert_independent(crashes, crashes.image("charged", 5), 4, 1, 1.0)


def test_if_nothing_was_lost_the_same_run_goes_on(folder, monkeypatch):
    crashes = Crashes(folder, monkeypatch, before=(4,))
    fit(gaussian(), run_dir=folder)
    result = assert_independent(crashes, crashes.image("before", 4), 3, 0, 1.0)
    (run,) = result.charges.runs
    assert run.rounds == range(1, ROUNDS + 1)
    assert {root for _, root in crashes.drawn} == {3}


def test_with_entropy_of_the_system_lost_rounds_have_new_entropy(folder, monkeypatch):
    crashes = Crashes(folder, monkeypatch, charged=(4,))
    fit(gaussian(), run_dir=folder, seed=None)
    (first,) = {root for _, root in crashes.drawn}
    crashes.drawn.clear()
    result = resume(crashes.image("charged", 4))
    (again,) = {root for _, root in crashes.drawn}
    assert first != again
    assert [run.coins for run in result.charges.runs] == [None, None]
    assert not result.seeded
    assert b'"root":%d' % first not in (folder / "config.json").read_bytes()


def test_a_run_that_is_lost_again_and_again_pays_each_time(folder, monkeypatch):
    crashes = Crashes(folder, monkeypatch, charged=(3,))
    fit(gaussian(rounds=8), run_dir=folder)
    image = crashes.image("charged", 3)
    spent = [3]
    for _ in range(2):  # killed at round 3 again: nothing new was saved
        crashes = Crashes(image, monkeypatch, charged=(3,))
        resume(image)
        image = crashes.image("charged", 3)
        spent.append(tff_dp.ledger.summarize(image / "ledger.jsonl").charges.rounds)
        monkeypatch.undo()
    assert spent == [3, 4, 5]
    result = resume(image)
    # 8 rounds of the plan, of which 2 are saved, and 3 lost: 3 are left.
    assert len(result.history) == 5
    assert result.charges.rounds == 8
    assert result.repeated_rounds == 3
    assert "after 5 of 6 rounds" in result.stopped
    assert "resumed 3 times. 3 rounds had begun" in result.statement()
    assert len({run.coins for run in result.charges.runs}) == 4
    # It has ended: to resume it once more trains nothing.
    monkeypatch.setattr(Run, "step", None)
    assert_same(resume(image), result)


def test_the_plan_and_the_budget_limit_a_resumed_run(folder, monkeypatch):
    crashes = Crashes(folder, monkeypatch, charged=(6,))
    fit(gaussian(rounds=6), run_dir=folder, rounds=None)
    result = resume(crashes.image("charged", 6))
    assert len(result.history) == 5
    assert "covers 6 rounds" in result.stopped
    monkeypatch.undo()
    crashes = Crashes(folder.with_name("b"), monkeypatch, charged=(4,))
    most = gaussian().epsilon(6).epsilon
    fit(gaussian(), run_dir=folder.with_name("b"), max_epsilon=most)
    result = resume(crashes.image("charged", 4))
    assert (len(result.history), result.charges.rounds) == (5, 6)
    assert result.epsilon == most
    assert "epsilon" in result.stopped
    more = resume(crashes.image("charged", 4), max_epsilon=None)
    assert len(more.history) == 6


def test_a_ledger_of_several_runs_goes_on_with_the_right_one(folder, tmp_path, monkeypatch):
    book = tmp_path / "book.jsonl"
    with contextlib.suppress(ComputationError), monkeypatch.context() as patch:
        failing_at(patch, 4)
        fit(gaussian(), run_dir=folder, ledger=book)
    first = tff_dp.ledger.summarize(book).charges
    other = fit(gaussian(), ledger=book, rounds=5)
    assert other.charges.rounds == first.rounds + 5
    assert not (folder / "ledger.jsonl").exists()
    result = resume(folder)
    summary = tff_dp.ledger.summarize(book)
    assert result.charges == summary.charges
    assert len(result.history) == ROUNDS
    assert summary.charges.rounds == 4 + 5 + 3
    # What others have charged since is in the bound of every later round.
    bounds = [record.epsilon for record in result.history]
    assert bounds[3] >= gaussian().epsilon(10).epsilon * 0.999
    moved = tmp_path / "moved.jsonl"
    book.rename(moved)
    book.with_name("book.jsonl.head").rename(moved.with_name("moved.jsonl.head"))
    with pytest.raises(LedgerError, match=r"book.jsonl.* does not exist.*pass .*as ledger="):
        resume(folder)
    assert not book.exists()
    assert resume(folder, ledger=moved).charges == result.charges


def test_a_ledger_that_was_lost_before_the_first_save_is_missed(folder, monkeypatch):
    """Its charges are of rounds of which nothing was saved, and count nevertheless."""
    with contextlib.suppress(ComputationError), monkeypatch.context() as patch:
        failing_at(patch, 4)
        patch.setattr(Checkpoints, "on_end", lambda *_: None)  # as if the process had been killed
        fit(gaussian(), run_dir=folder, save_every=9)
    assert read_run(folder).round_number == 0
    other = folder.with_name("other.jsonl")
    with tff_dp.Ledger(other, gaussian()):
        pass
    with pytest.raises(
        LedgerError, match=r"other.jsonl' is not that of the run.*Leave out ledger="
    ):
        resume(folder, ledger=other)
    for name in ("ledger.jsonl", "ledger.jsonl.head"):
        (folder / name).rename(folder / f"{name}.lost")
    with pytest.raises(LedgerError, match=r"ledger.jsonl' does not exist"):
        resume(folder)
    assert not (folder / "ledger.jsonl").exists()
    for name in ("ledger.jsonl", "ledger.jsonl.head"):
        (folder / f"{name}.lost").rename(folder / name)
    assert resume(folder).charges.rounds == 4 + ROUNDS


def failing_at(monkeypatch, number, error=None):
    real = Setup.draw

    def draw(setup, round_number, root):
        if round_number == number:
            raise error or ComputationError("a client fails")
        return real(setup, round_number, root)

    monkeypatch.setattr(Setup, "draw", draw)


# --- Ends of a run -----------------------------------------------------------------------------------


def test_a_finished_run_returns_its_result_and_trains_nothing(folder, monkeypatch):
    whole = fit(gaussian(), run_dir=folder)
    before = untouched(folder)
    monkeypatch.setattr(Run, "step", None)
    again = resume(folder)
    assert_same(again, whole)
    assert (again.epsilon, again.charges, again.resumed) == (whole.epsilon, whole.charges, 0)
    assert untouched(folder) == before
    assert read_run(folder).result["state"] == "finished"


def test_a_run_gets_more_rounds_when_more_are_asked_for(folder):
    fit(run_dir=folder, rounds=4)
    assert weights(resume(folder, rounds=ROUNDS)) == weights(fit())
    with pytest.raises(ArgumentError, match="rounds=5 is outside its bound: expected at least 6"):
        resume(folder, rounds=5)


def test_what_has_ended_a_run_ends_it_for_good(folder, monkeypatch):
    real = Run.step

    def step(run):
        records = real(run)
        if run.round_number == 3:
            run.end("was stopped by a test")
        return records

    monkeypatch.setattr(Run, "step", step)
    first = fit(run_dir=folder)
    assert read_run(folder).result["state"] == "ended"
    monkeypatch.undo()
    again = resume(folder)
    assert_same(again, first)
    assert again.stopped == "Training was stopped by a test after 3 of 6 rounds."
    assert weights(resume(folder, rounds=7)) == weights(fit(rounds=7))


@pytest.fixture
def default_interrupts():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def interrupted_at(monkeypatch, number, times=1):
    real = Setup.draw

    def draw(setup, round_number, root):
        if round_number == number:
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)
        return real(setup, round_number, root)

    monkeypatch.setattr(Setup, "draw", draw)


def test_an_interrupt_ends_a_run_after_its_round_and_says_how_to_resume(
    folder, monkeypatch, default_interrupts, capsys
):
    interrupted_at(monkeypatch, 3)
    result = fit(gaussian(0.0), run_dir=folder, save_every=5)
    assert result.stopped == "Training was interrupted after 3 of 6 rounds."
    assert result.charges.rounds == 3
    said = capsys.readouterr().err
    assert "Training ends after this round. Press Ctrl-C once more" in said
    assert f"tff_dp.resume({str(folder)!r}, model, clients)" in said
    assert read_run(folder).result["state"] == "interrupted"
    monkeypatch.undo()
    assert_same(resume(folder), fit(gaussian(0.0)))


def test_every_message_counts_the_rounds_that_were_asked_for(
    folder, monkeypatch, default_interrupts, capsys
):
    """A lost round leaves the plan one round less, which no message takes for what was asked for."""
    crashes = Crashes(folder, monkeypatch, charged=(3,))
    fit(gaussian(rounds=6), run_dir=folder)
    image = crashes.image("charged", 3)
    monkeypatch.undo()
    interrupted_at(monkeypatch, 4)
    result = resume(image)
    assert result.stopped == "Training was interrupted after 4 of 6 rounds."
    assert read_run(image).result["stopped"] == result.stopped
    assert read_run(image).result["asked"] == 6
    assert "after 4 of 6 rounds" in capsys.readouterr().err
    monkeypatch.undo()
    failing_at(monkeypatch, 5)
    with pytest.raises(ComputationError) as failed:
        resume(image)
    assert "4 of 6 rounds had been run" in failed.value.__notes__[0]
    monkeypatch.undo()
    # The failed round was charged, and is lost as well: one round is left of the plan.
    rest = resume(image)
    assert rest.stopped.startswith(
        "Training stopped after 4 of 6 rounds: the privacy plan covers 6"
    )


def test_a_second_interrupt_ends_the_round(folder, monkeypatch, default_interrupts):
    interrupted_at(monkeypatch, 3, times=2)
    result = fit(gaussian(), run_dir=folder)
    assert len(result.history) == 2
    assert "interrupted after 2 of 6 rounds; epsilon counts 1 more" in result.stopped
    monkeypatch.undo()
    again = resume(folder)
    assert (len(again.history), again.charges.rounds, again.repeated_rounds) == (6, 7, 1)


def test_an_interrupt_without_a_folder_ends_after_the_round_as_well(
    monkeypatch, default_interrupts
):
    interrupted_at(monkeypatch, 2)
    assert fit().stopped == "Training was interrupted after 2 of 6 rounds."


def test_a_handler_of_the_program_is_left_alone(monkeypatch):
    seen = []
    handler = lambda *_: seen.append(1)  # noqa: E731
    before = signal.signal(signal.SIGINT, handler)
    try:
        interrupted_at(monkeypatch, 2)
        assert fit().stopped is None
        assert seen == [1]
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_run_that_fails_keeps_its_last_state(folder, monkeypatch):
    failing_at(monkeypatch, 4)
    with pytest.raises(ComputationError) as caught:
        fit(run_dir=folder, save_every=5)
    assert len(caught.value.result.history) == 3
    assert read_run(folder).round_number == 3
    assert read_run(folder).result["state"] == "failed"
    monkeypatch.undo()
    assert_same(resume(folder), fit())


# --- What is refused ---------------------------------------------------------------------------------


@pytest.fixture
def finished(folder):
    fit(gaussian(), run_dir=folder, rounds=2)
    return folder


def relu_model():
    return keras.Sequential(
        [
            keras.layers.Input([3]),
            keras.layers.Dense(1, kernel_initializer="zeros", activation="relu"),
        ]
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"privacy": gaussian(2.0)}, r"privacy.mechanism.noise_multiplier: 1.0, and now 2.0"),
        ({"privacy": FEW}, r"privacy: PrivacyPlan, and now NoPrivacy"),
        ({"batch_size": 5}, r"other arguments: batch_size: 4, and now 5. Pass the same ones"),
        ({"epochs": 2}, "epochs: 1, and now 2"),
        ({"shuffle": False}, "shuffle: True, and now False"),
        ({"seed": 4}, "seed differs from that of the run.* Pass the seed"),
        ({"seed": None}, "seeded: True, and now False"),
        ({"algorithm": ADAM}, "algorithm: FedAvg, and now FedOpt"),
        ({"release_metrics": True}, "release_metrics: False, and now True"),
        ({"model": relu_model}, "model differs from that of the run.* fingerprint.*Pass the model"),
        ({"loss": "mae"}, "model differs"),
        ({"clients": make_clients(sizes=(8, 12, 20, 10))}, "clients differs.* examples: 49, and now 50"),
        ({"clients": make_clients(sizes=(12, 8, 20, 9))}, "clients differs.* fingerprint"),
        ({"rounds": 1}, "rounds=1 is outside its bound: expected at least 2"),
        ({"save_every": 0}, r"save_every=0 is outside its bound"),
        ({"keep": 0}, r"keep=0 is outside its bound"),
        ({"resume": "yes"}, "resume='yes' is outside its bound"),
        ({"run_dir": None}, "run_dir=None with resume=True"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)  # fmt: skip
def test_other_arguments_are_refused_by_name_and_nothing_changes(finished, changes, message):
    before = untouched(finished)
    values = {"privacy": gaussian(), "rounds": 3, "run_dir": finished, "resume": True}
    with pytest.raises(ArgumentError, match=message):
        fit(**(values | changes))
    assert untouched(finished) == before


def test_values_of_the_data_are_not_compared(finished):
    assert len(resume(finished, clients=make_clients(seed=9)).history) == 2


def test_a_folder_with_a_run_needs_resume_and_one_without_has_nothing_to_resume(finished, tmp_path):
    with pytest.raises(RunFolderError, match=r"holds a run already.* Pass resume=True"):
        fit(gaussian(), run_dir=finished)
    (finished / "config.json").unlink()
    with pytest.raises(RunFolderError, match="holds a run already"):
        fit(gaussian(), run_dir=finished)
    with pytest.raises(RunFolderError, match=r"has no config.json: expected the folder of a run"):
        fit(gaussian(), run_dir=finished, resume=True)
    with pytest.raises(RunFolderError, match="does not exist: expected the folder of a run"):
        resume(tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_folder_that_is_open_is_refused(folder, monkeypatch):
    caught = []

    def draw(setup, number, root, real=Setup.draw):
        if number == 2:
            with pytest.raises(RunFolderError, match="is open in another process") as error:
                tff_dp.fit(
                    linear_model, make_clients(), privacy=FEW, loss="mse", seed=3, rounds=6,
                    batch_size=4, run_dir=folder, resume=True,
                )  # fmt: skip
            caught.append(error)
        return real(setup, number, root)

    monkeypatch.setattr(Setup, "draw", draw)
    fit(run_dir=folder)
    assert caught


def test_wrong_arguments_make_no_folder(folder):
    for changes in ({"batch_size": 0}, {"privacy": gaussian(), "rounds": 100}, {"loss": None}):
        with pytest.raises(tff_dp.TffDpError):
            fit(**({"run_dir": folder} | changes))
    assert not folder.exists()


def test_noise_of_a_seed_is_refused(folder):
    with (
        execution.fast(xla=False, seed=1),
        pytest.raises(ArgumentError, match=r"run_dir=.*needs a ledger"),
    ):
        fit(gaussian(), run_dir=folder)
    assert not folder.exists()


def test_a_ledger_that_was_lost_is_refused(finished):
    for name in ("ledger.jsonl", "ledger.jsonl.head"):
        (finished / name).unlink()
    with pytest.raises(LedgerError, match=r"does not exist.*Restore it"):
        resume(finished, rounds=3)


# --- Damage ------------------------------------------------------------------------------------------


def test_a_damaged_checkpoint_costs_its_rounds_and_that_is_said(folder, monkeypatch):
    crashes = Crashes(folder, monkeypatch, before=(5,))
    fit(gaussian(), run_dir=folder)
    image = crashes.image("before", 5)
    path = Layout(image).checkpoint(4)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.warns(
        RuntimeWarning, match=r"00000004.checkpoint is torn.*goes on from that of round 3"
    ):
        result = assert_independent(crashes, image, 3, 1, 1.0)
    assert len(result.history) == ROUNDS
    assert "round-00000004.checkpoint.damaged" in files(image)


def test_a_checkpoint_of_another_process_is_refused(finished):
    path = Layout(finished).checkpoint(2)
    stored = checkpoint.read(path)
    leaves = [dict(leaf) for leaf in stored.leaves]
    leaves[0]["path"] = "elsewhere"
    checkpoint.write(path, stored.facts, leaves, [stored.content])
    with pytest.raises(
        RunFolderError, match=r"does not fit the process .*elsewhere.*Resume the run with"
    ):
        resume(finished, rounds=3)


class Full:
    """Lets every call of a function of `os` fail on files of one folder, from one call on or once."""

    def __init__(self, monkeypatch, name, call, folder, *, once=False):
        self.count = 0
        real = getattr(os, name)

        def fail(*arguments, **named):
            if str(folder) in where(arguments[0]):
                self.count += 1
                if self.count == call or (self.count > call and not once):
                    raise OSError(errno.ENOSPC, "No space left on device")
            return real(*arguments, **named)

        monkeypatch.setattr(os, name, fail)


def where(argument):
    if isinstance(argument, int):
        try:
            return os.readlink(f"/proc/self/fd/{argument}")
        except OSError:
            return ""
    return str(argument)


@pytest.mark.parametrize(
    ("name", "privacy"),
    [
        slow("write", FEW),
        *(
            pytest.param(name, privacy, marks=pytest.mark.full)
            for name in ("open", "write", "fsync", "replace")
            for privacy in (FEW, gaussian())
            if (name, privacy) != ("write", FEW)
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_full_disk_at_any_call_ends_training_with_the_last_state(
    tmp_path, monkeypatch, name, privacy
):
    whole, call, stopped = fit(privacy, rounds=2), 0, 0
    while True:
        call += 1
        folder = tmp_path / f"{name}-{call}"
        full = None
        try:
            with monkeypatch.context() as patch:
                full = Full(patch, name, call, folder)
                result = fit(privacy, rounds=2, run_dir=folder)
        except (RunFolderError, LedgerError) as error:
            stopped += 1
            done = len(error.result.history) if error.result else 0
        except RuntimeWarning:
            done = 2  # the facts of the result alone could not be written
        else:
            assert full.count < call
            break
        if (folder / "config.json").exists():
            result = (
                resume(folder)
                if Layout(folder).stored()
                else fit(privacy, rounds=2, run_dir=folder, resume=True)
            )
        else:
            result = fit(privacy, rounds=2, run_dir=folder)
        assert len(result.history) == 2
        assert done <= 2
        assert not [*folder.rglob("*.new")]
        if privacy is FEW:
            assert weights(result) == weights(whole)
        else:
            assert result.charges == tff_dp.ledger.summarize(folder / "ledger.jsonl").charges
            assert result.charges.rounds >= 2
    assert stopped > 2


def test_an_error_of_the_writer_ends_the_run_at_its_next_step(folder, monkeypatch):
    real = checkpoint.write

    def write(path, facts, *content):
        if facts.round_number >= 3:
            raise OSError(errno.EIO, "Input/output error")
        real(path, facts, *content)

    monkeypatch.setattr(checkpoint, "write", write)
    with (
        pytest.warns(RuntimeWarning, match="last rounds could not be saved"),
        pytest.raises(
            RunFolderError,
            match=r"could not be written: .*Input/output.* checkpoint of round 2 is whole",
        ) as caught,
    ):
        fit(gaussian(0.0), run_dir=folder)
    assert len(caught.value.result.history) in (3, 4)
    assert read_run(folder).round_number == 2
    monkeypatch.undo()
    assert_same(resume(folder), fit(gaussian(0.0)))


def test_a_slow_disk_does_not_hold_up_rounds_that_cost_nothing(folder, monkeypatch):
    """Without a plan, states are left out while one is being written; under a plan, none is."""
    may_write, written = threading.Event(), []
    real = checkpoint.write

    def write(path, facts, *content):
        if facts.round_number:
            assert may_write.wait(60)
        written.append(facts.round_number)
        real(path, facts, *content)

    def draw(setup, number, root, real=Setup.draw):
        if number == (ROUNDS if setup.plan is None else 2):
            may_write.set()
        return real(setup, number, root)

    monkeypatch.setattr(checkpoint, "write", write)
    monkeypatch.setattr(Setup, "draw", draw)
    whole = fit(run_dir=folder)
    assert written[:2] == [0, 1]
    assert written[-1] == ROUNDS
    assert not {2, 3, 4} & {*written}
    assert_same(resume(folder), whole)
    written.clear()
    may_write.clear()
    fit(gaussian(), run_dir=folder.with_name("plan"))
    assert written == [*range(ROUNDS + 1)]


# --- What the folder keeps of the beginning ----------------------------------------------------------


def test_what_the_first_model_was_trained_on_still_counts(folder, monkeypatch):
    others = make_clients(sizes=(9, 9, 9, 9), seed=7)
    trained = fit(gaussian(), clients=others, rounds=1)
    crashes = Crashes(folder, monkeypatch, charged=(3,))
    whole = fit(gaussian(), model=trained.model, run_dir=folder, disjoint_data=True, rounds=4)
    assert whole.other_data == (trained.charges,)
    result = resume(crashes.image("charged", 3), linear_model)  # a model that has seen nothing
    assert result.other_data == whole.other_data
    assert "Training began with a model of other clients" in result.statement()
    assert tff_dp.provenance.carried_by(result.model) == (trained.charges, result.charges)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CallableFedAvg(tff_dp.FedAvg):
    """An algorithm of a user's, with a field that no file holds."""

    rate: Any = float


def test_what_no_file_can_hold_has_to_be_passed(folder):
    algorithm = CallableFedAvg(rate=lambda: 0.1)
    fit(run_dir=folder, rounds=2, algorithm=algorithm)
    with pytest.raises(ArgumentError, match=r"algorithm cannot be restored.*Pass algorithm="):
        resume(folder, rounds=3)
    assert weights(resume(folder, rounds=3, algorithm=algorithm)) == weights(fit(rounds=3))


def test_the_result_names_every_source_of_random_bits(folder, monkeypatch):
    with execution.fast(xla=False, random_bits="philox"):
        fit(gaussian(), run_dir=folder, rounds=2)
    result = resume(folder, rounds=3)
    assert "AES-256" in result.random_bits
    assert "Philox" in result.random_bits
    assert math.isfinite(result.epsilon)
    with execution.fast(xla=False, random_bits="philox"):  # nothing is drawn there any more
        assert resume(folder).random_bits == result.random_bits


@pytest.mark.parametrize("ids", [None, [f"é{k}" for k in range(10)]])
def test_the_fingerprint_of_data_is_one_of_all_ids_whatever_the_pieces(monkeypatch, ids):
    y = np.arange(10, dtype=np.float32)
    clients = tff_dp.Clients(y, y, np.arange(11), ids)
    names = "".join(f"{name}\0" for name in clients.ids).encode()
    expected = hashlib.sha256(names + clients.sizes.astype("<i8").tobytes()).hexdigest()
    for pieces in (1, 3, 10, 1 << 16):
        monkeypatch.setattr(identity, "_IDS_AT_ONCE", pieces)
        assert identity._data(clients)["fingerprint"] == expected
