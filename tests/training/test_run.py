"""Training by steps: the same bits as `fit`, from any round on, and what a failed step leaves."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
from typing import Any

import keras
import numpy as np
import pytest

import tff_dp
from tests.support.tables import covered
from tff_dp import execution
from tff_dp.errors import AccountingError, ArgumentError, ComputationError, LedgerError
from tff_dp.ledger import Ledger, replay
from tff_dp.training import run as run_module
from tff_dp.training.budget import open_account
from tff_dp.training.outcome import result_of
from tff_dp.training.run import Run, Snapshot
from tff_dp.training.setup import prepare

ROUNDS = 5


@pytest.fixture(scope="module")
def clients(tff) -> tff_dp.data.Clients:
    rng = np.random.default_rng(0)
    arrays = {
        f"c{i}": (
            rng.normal(size=(3 + i, 3)).astype(np.float32),
            rng.normal(size=(3 + i, 1)).astype(np.float32),
        )
        for i in range(6)
    }
    return tff_dp.data.from_arrays(arrays)


def linear() -> keras.Model:
    return keras.Sequential(
        [keras.layers.Input([3]), keras.layers.Dense(1, kernel_initializer="zeros")]
    )


def plan(z: float = 0.0, **changes: Any) -> tff_dp.PrivacyPlan:
    values = {
        "mechanism": tff_dp.GaussianMechanism(clip_norm=0.5, noise_multiplier=z),
        "population": 6,
        "sampler": tff_dp.PoissonSampler(rate=0.5),
        "rounds": ROUNDS,
        "delta": 1e-5,
    }
    return tff_dp.PrivacyPlan(**(values | changes))


def arguments(clients: Any, privacy: Any, **changes: Any) -> dict[str, Any]:
    """Returns arguments of `fit` and of `prepare`."""
    rounds = None if isinstance(privacy, tff_dp.PrivacyPlan) else ROUNDS
    values = {"loss": "mse", "rounds": rounds, "seed": 3, "batch_size": 2, "privacy": privacy}
    return {"model": linear, "clients": clients} | values | changes


@contextlib.contextmanager
def opened(clients: Any, privacy: Any, **changes: Any):
    """Yields a setup and its account, in a context without XLA."""
    setup = prepare(**arguments(clients, privacy, **changes))
    with execution.fast(xla=False), open_account(setup) as account:
        yield setup, account


def finished(run: Run) -> Run:
    while not run.is_finished:
        run.step()
    return run


def assert_same(result: tff_dp.FitResult, expected: tff_dp.FitResult) -> None:
    """Asserts that two runs have the same weights, bit by bit, the same records and charges."""
    for one, two in zip(result.model.get_weights(), expected.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    assert result.history == expected.history
    assert result.epsilon == expected.epsilon
    charged = [
        [(run.plan, run.rounds, run.coins) for run in each.charges.runs]
        for each in (result, expected)
    ]
    assert charged[0] == charged[1]
    assert result.stopped == expected.stopped


def fuse_by_twos(monkeypatch) -> None:
    monkeypatch.setattr(run_module, "_FUSED", 2)
    monkeypatch.setattr(run_module, "_FUSED_FROM", ROUNDS)


FEW = tff_dp.NoPrivacy(sampler=tff_dp.FixedSizeSampler(size=3))
FULL = tff_dp.NoPrivacy()  # whose rounds can be fused
NOISELESS, NOISY = plan(), plan(1.0)


# --- Steps by hand -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("privacy", "fused"),
    covered(
        [FEW, FULL, NOISELESS, NOISY],
        [False, True],
        by=[(FEW, False), (FULL, True), (NOISELESS, False), (NOISY, True)],
        slow=None,
    ),
)
def test_steps_by_hand_give_the_bits_of_fit(clients, monkeypatch, privacy, fused):
    if fused:
        fuse_by_twos(monkeypatch)
    with execution.fast(xla=False, seed=7):  # the noise is the same as well
        expected = tff_dp.fit(**arguments(clients, privacy))
    setup = prepare(**arguments(clients, privacy))
    with execution.fast(xla=False, seed=7), open_account(setup) as account:
        run, steps = Run(setup, account), []
        while not run.is_finished:
            assert run.round_number == len(run.history) == sum(steps)
            steps.append(len(run.step()))
        assert_same(result_of(run), expected)
        with pytest.raises(AccountingError, match=r"Round 6 .* at most its 5 rounds"):
            run.step()
    assert steps == ([1, 2, 2] if fused else [1] * 5)


def old_chunks(rounds: int, fuse: bool, fused: int, fused_from: int) -> list[tuple[int, int]]:
    """Returns first round and number of rounds of each step, as one list for a run from its start."""
    size, done = fused, rounds
    if fuse and rounds >= fused_from:
        size = min(range(fused, fused // 2, -1), key=lambda each: rounds % each)
        done = rounds % size
    return [
        *((number, 1) for number in range(1, done + 1)),
        *((first, size) for first in range(done + 1, rounds + 1, size)),
    ]


@pytest.mark.parametrize("fuse", [False, True])
@pytest.mark.parametrize("rounds", [1, 63, 64, 255, 256, 257, 300, 383, 1000])
def test_steps_from_any_round_cover_the_rest_once(rounds, fuse):
    def steps(done):
        found = []
        while done < rounds:
            first, count = run_module._next_rounds(done, rounds, None if fuse else 1)
            assert first == done + 1
            found.append((first, count))
            done += count
        assert done == rounds
        return found

    expected = old_chunks(rounds, fuse, 64, 256)
    assert steps(0) == expected
    boundaries = {first for first, _ in expected}
    for done in range(rounds):
        later = steps(done)
        if done + 1 in boundaries:
            assert later == [each for each in expected if each[0] > done]


@pytest.mark.parametrize("rounds", [255, 256, 300, 1000])
@pytest.mark.parametrize("period", [1, 2, 10, 33, 63, 64, 65, 100, 128, 250, 1000, 5000])
def test_a_step_ends_at_each_multiple_of_the_period(rounds, period):
    done, sizes = 0, []
    while done < rounds:
        first, count = run_module._next_rounds(done, rounds, period)
        assert first == done + 1
        assert done // period == (done + count - 1) // period  # none lies strictly inside
        done += count
        sizes.append(count)
    assert done == rounds
    assert len({size for size in sizes if size > 1}) <= 1
    assert max(sizes) == (1 if rounds < 256 or period == 1 else max(sizes))
    if rounds >= 256 and 1 < period <= rounds:
        assert len(sizes) < rounds * 0.75  # most rounds are fused


# --- From any round on -------------------------------------------------------------------------------


@pytest.mark.parametrize(("after", "fused"), [(0, False), (2, False), (3, True), (5, False)])
def test_a_run_made_at_a_round_goes_on_to_the_same_bits_and_the_same_charges(
    clients, tmp_path, monkeypatch, after, fused
):
    """Cohorts are sampled by a seed, and nothing draws noise; the ledger is closed in between."""
    if fused:
        fuse_by_twos(monkeypatch)
    with execution.fast(xla=False):
        expected = tff_dp.fit(**arguments(clients, plan()), ledger=tmp_path / "fit.jsonl")
    path = tmp_path / "steps.jsonl"
    with opened(clients, plan(), ledger=path) as (setup, account):
        first = Run(setup, account)
        while first.round_number < after:
            first.step()
        snapshot = first.snapshot()
    assert snapshot.round_number == snapshot.begun == after
    assert replay(path).rounds == after
    assert_equal_records(snapshot, expected)
    with execution.fast(xla=False), Ledger(path, plan()) as book:
        again = Run(setup, dataclasses.replace(account, book=book), snapshot)
        assert (again.round_number, again.history) == (after, snapshot.history)
        result = result_of(finished(again))
        assert result.charges == book.all_charges
    assert_same(result, expected)
    (run,) = result.charges.runs
    assert run.rounds == range(1, ROUNDS + 1)
    assert run.coins is not None
    with Ledger(path, plan()) as book:
        assert book.all_charges == result.charges


def assert_equal_records(snapshot: Snapshot, expected: tff_dp.FitResult) -> None:
    assert snapshot.history == expected.history[: snapshot.round_number]


def test_without_a_ledger_it_is_charged_as_the_same_run(clients):
    with opened(clients, plan(2.0)) as (setup, account):
        first = Run(setup, account)
        first.step()
        first.step()
        assert first.charges.rounds == 2
        again = finished(Run(setup, account, first.snapshot()))
        assert again.charges.rounds == (first.charges | again.charges).rounds == ROUNDS
        assert result_of(again).epsilon == plan(2.0).epsilon().epsilon
        # What two rounds have spent stays what it was; a run of the same coins is refused.
        assert first.charges.spent().epsilon == plan(2.0).epsilon(2).epsilon
    with opened(clients, plan(2.0)) as (_, other), pytest.raises(ArgumentError, match="same seed"):
        _ = other.charges(1) | first.charges


def test_without_a_ledger_no_round_is_run_twice_for_one_charge(clients):
    with opened(clients, plan(2.0)) as (setup, account):
        first, second = Run(setup, account), Run(setup, account)
        first.step()
        early = first.snapshot()
        first.step()
        with pytest.raises(AccountingError, match=r"Round 1 has been run with this account"):
            second.step()
        assert second.round_number == 0
        for start in (early, None):
            with pytest.raises(ArgumentError, match=r"the last round of the account is 2"):
                Run(setup, account, start)
        assert Run(setup, account, first.snapshot()).step()[0].round_number == 3
        assert account.charges(3).rounds == 3
    with opened(clients, tff_dp.NoPrivacy()) as (setup, account):  # nothing is spent
        for _ in range(2):
            Run(setup, account).step()


def test_what_was_spent_before_counts_in_a_run_made_at_a_round(clients):
    before = tff_dp.fit(**arguments(clients, plan(2.0), rounds=2, seed=8))
    with opened(clients, plan(2.0), spent_before=before, rounds=3) as (setup, account):
        expected = [account.bound_after(number) for number in (1, 2, 3)]
        first = Run(setup, account)
        first.step()
        again = finished(Run(setup, account, first.snapshot()))
        assert [record.epsilon for record in again.history] == expected
        assert result_of(again).epsilon == again.charges.spent().epsilon == account.total
    assert again.charges.rounds == 5


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda s: dataclasses.replace(s, history=s.history[1:], begun=1), ArgumentError, "records"),
        (lambda s: dataclasses.replace(s, history=s.history * 2, begun=4), ArgumentError, "records"),
        (lambda s: dataclasses.replace(s, history=(), begun=2), AccountingError, "1 to 2 are charged"),
        (lambda s: dataclasses.replace(s, begun=3), AccountingError, "3 to 3 are charged"),
        (
            lambda s: dataclasses.replace(s, history=s.history[:1], begun=1),
            ArgumentError,
            r"rounds 1 to 1, and the last round in the ledger is 2",
        ),
    ],
)  # fmt: skip
def test_a_start_that_does_not_fit_is_refused(clients, tmp_path, change, error, message):
    path = tmp_path / "ledger.jsonl"
    with opened(clients, plan(1.0), ledger=path) as (setup, account):
        run = Run(setup, account)
        run.step()
        run.step()
        with pytest.raises(error, match=message):
            Run(setup, account, change(run.snapshot()))
        short = dataclasses.replace(account, rounds=1)
        with pytest.raises(ArgumentError, match="at most 1"):
            Run(setup, short, run.snapshot())
    assert replay(path).rounds == 2


# --- Steps that fail ---------------------------------------------------------------------------------


def raising(error: BaseException) -> Any:
    def fail(*_, **__):
        raise error

    return fail


@pytest.mark.parametrize("with_ledger", [False, True])
@pytest.mark.parametrize("where", ["draw", "next", "record"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), ComputationError("fails")])
def test_a_failed_step_leaves_the_last_complete_one_and_its_own_charge(
    clients, tmp_path, monkeypatch, where, error, with_ledger
):
    path = tmp_path / "ledger.jsonl"
    changes = {"ledger": path} if with_ledger else {}
    with opened(clients, plan(1.0), **changes) as (setup, account):
        run = Run(setup, account)
        run.step()
        run.step()
        state, history, spent = run.state, run.history, run.charges
        assert spent.rounds == 2
        if where == "draw":
            monkeypatch.setattr(tff_dp.Clients, "cohort", raising(error))
        elif where == "record":
            monkeypatch.setattr(run_module, "round_record", raising(error))
        else:
            process = setup.process
            failing = type("Process", (), {"next": staticmethod(raising(error))})()
            run.setup = dataclasses.replace(setup, process=failing)
        with pytest.raises(type(error)):
            run.step()
        monkeypatch.undo()
        if where == "next":
            run.setup = dataclasses.replace(setup, process=process)
        assert run.state is state
        assert (run.round_number, run.history) == (2, history)
        assert run.charges.rounds == 3
        assert run.charges.covers(spent)
        assert run.charges.spent().epsilon == plan(1.0).epsilon(3).epsilon
        assert run.snapshot() == Snapshot(state=state, history=history, begun=3)
        # The round would be run twice for one charge: neither this run nor one made of it does that.
        with pytest.raises(AccountingError, match="Rounds 3 to 3 are charged"):
            run.step()
        with pytest.raises(AccountingError, match="Rounds 3 to 3 are charged"):
            Run(setup, account, run.snapshot())
        assert run.charges.rounds == 3
        result = result_of(run, "was interrupted")
        assert len(result.history) == 2
        assert result.epsilon == plan(1.0).epsilon(3).epsilon
        assert "after 2 of 5 rounds; epsilon counts 1 more" in result.stopped
    if with_ledger:
        assert replay(path).rounds == 3


def test_a_fused_step_that_fails_is_charged_as_a_whole(clients, monkeypatch):
    fuse_by_twos(monkeypatch)
    with opened(clients, plan(1.0)) as (setup, account):
        run = Run(setup, account)
        run.step()
        monkeypatch.setattr(run_module, "iterate", raising(MemoryError()))
        with pytest.raises(MemoryError):
            run.step()
        assert (run.round_number, run.charges.rounds) == (1, 3)


def test_a_round_that_cannot_be_charged_is_not_run(clients, tmp_path, monkeypatch):
    path, real = tmp_path / "ledger.jsonl", os.write

    def full(file, content):
        if b'"round":2' in content:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(file, content)

    with opened(clients, plan(1.0), ledger=path) as (setup, account):
        run = Run(setup, account)
        run.step()
        state = run.state
        monkeypatch.setattr(os, "write", full)
        monkeypatch.setattr(tff_dp.Clients, "cohort", raising(AssertionError("it was drawn")))
        with pytest.raises(LedgerError, match="could not be written"):
            run.step()
        monkeypatch.undo()
        assert (run.state, run.round_number, run.charges.rounds) == (state, 1, 1)
    assert replay(path).rounds == 1


# --- Warnings ----------------------------------------------------------------------------------------


def test_warnings_name_the_line_that_calls_fit(clients, tmp_path):
    path, values = tmp_path / "ledger.jsonl", arguments(clients, plan(1.0), rounds=1)
    model = linear()
    model.compile("sgd", loss="mse", metrics=["mae"])
    values |= {"model": model, "loss": None, "ledger": path}
    with execution.fast(xla=False):
        with pytest.warns(UserWarning, match="was compiled with .mean_abs") as caught:
            tff_dp.fit(**values)
        assert caught[0].filename == __file__
        with open(path, "ab") as file:
            file.write(b"torn")
        values["seed"] = 4
        with pytest.warns(RuntimeWarning, match="dropped the torn line 3") as caught:
            tff_dp.fit(**values, release_metrics=False)
    assert caught[0].filename == __file__
