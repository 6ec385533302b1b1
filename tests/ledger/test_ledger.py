"""The ledger: never less than was spent, whatever happens to the process or to the files."""

from __future__ import annotations

import concurrent.futures
import errno
import json
import os
import shutil
import signal
import subprocess
import sys

import dp_accounting
import numpy as np
import pytest
from dp_accounting import pld

import tff_dp
from tests.support.ledgers import make_plan, rechained
from tests.support.paths import ROOT
from tff_dp.errors import AccountingError, ArgumentError, LedgerError
from tff_dp.ledger import Ledger, replay
from tff_dp.ledger import lines as ledger_lines


def entries(path) -> list[dict]:
    return [json.loads(line) for line in path.read_bytes().splitlines()[1:]]


@pytest.fixture
def written(tmp_path):
    """A ledger with three charges, and its head after each number of charges."""
    path = tmp_path / "ledger.jsonl"
    heads = []
    with Ledger(path, make_plan()) as book:
        for number in range(1, 5):
            heads.append((tmp_path / "ledger.jsonl.head").read_bytes())
            if number < 4:
                book.charge(number)
    return path, heads


def test_replaying_equals_the_live_accountant_and_an_independent_composition(tmp_path):
    path, plan = tmp_path / "ledger.jsonl", make_plan()
    accountant = pld.PLDAccountant()
    with Ledger(path, plan) as book:
        assert book.spent().epsilon == 0
        for number in (1, 2, 3, 3, 4):  # round 3 was run again
            book.charge(number)
            assert replay(path) == book.spent()
        book.charge(5, count=10)
        live = book.spent()
    assert replay(path) == live == plan.epsilon(15)
    for entry in entries(path):
        event = dp_accounting.GaussianDpEvent(entry["event"]["noise_multiplier"])
        accountant.compose(dp_accounting.PoissonSampledDpEvent(entry["sampler"]["rate"], event))
    assert live.values["pld"] == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-3)
    with Ledger(path, plan) as book:  # what was charged stays charged
        assert (book.charges, book.last_round, book.dropped) == (15, 14, None)


def test_entries_say_what_was_charged_and_nothing_of_the_data(written):
    path, _ = written
    found = entries(path)
    assert [entry["round"] for entry in found] == [1, 2, 3]
    assert [entry["entry"] for entry in found] == [1, 2, 3]
    for entry in found:
        assert entry["event"] == {"type": "GaussianRound", "noise_multiplier": 1.0}
        assert entry["sampler"] == {"type": "PoissonSampler", "rate": 0.05}
        assert entry["expected_clients"] == 5
        assert {"tensorflow", "dp-accounting", "tff-dp"} <= set(entry["versions"])
    changing = {k for k in found[0] if found[0][k] != found[1][k]}
    assert changing == {"entry", "round", "previous", "hash"}
    assert path.stat().st_mode & 0o077 == 0


def test_a_charge_is_on_the_disk_before_it_is_acknowledged(tmp_path, monkeypatch):
    done = []
    path = tmp_path / "ledger.jsonl"
    with Ledger(path, make_plan()) as book:
        real = {name: getattr(os, name) for name in ("write", "fsync", "replace")}

        def spied(name):
            def call(first, *rest):
                on = path.samestat(os.fstat(first)) if isinstance(first, int) else None
                done.append((name, "ledger" if on else "head"))
                return real[name](first, *rest)

            return call

        for name in real:
            monkeypatch.setattr(os, name, spied(name))
        monkeypatch.setattr(
            type(path), "samestat", lambda self, stat: os.path.samestat(self.stat(), stat),
            raising=False,
        )  # fmt: skip
        book.charge(1)
    assert done[:2] == [("write", "ledger"), ("fsync", "ledger")]
    assert done[2:5] == [("write", "head"), ("fsync", "head"), ("replace", "head")]
    assert done[5:] == [("fsync", "head")]  # the folder's


CHARGES = """
import sys
sys.path.insert(0, sys.argv[2])
from tests.support.ledgers import make_plan
from tff_dp.ledger import Ledger
with Ledger(sys.argv[1], make_plan(rounds=10**6)) as book:
    for number in range(1, 10**6):
        book.charge(number)
        print(number, flush=True)
"""


def test_a_killed_process_leaves_every_charge_that_it_acted_on(tmp_path):
    path = tmp_path / "ledger.jsonl"
    for _ in range(2):  # the second one is killed within a ledger that has charges
        process = subprocess.Popen(
            [sys.executable, "-c", CHARGES, str(path), str(ROOT)],
            stdout=subprocess.PIPE,
            text=True,
        )
        acted = [process.stdout.readline() for _ in range(20)]
        with pytest.raises(LedgerError, match="open in another process"):
            Ledger(path, make_plan(rounds=10**6))
        process.kill()
        with process.stdout as stream:
            rest = stream.read().splitlines()
        process.wait()
        with Ledger(path, make_plan(rounds=10**6)) as book:
            assert book.charges >= len(acted) + len(rest)
            charges = book.charges
    assert replay(path).rounds == charges


@pytest.mark.filterwarnings("ignore:The ledger .* dropped:RuntimeWarning")
def test_no_truncation_ever_counts_less_than_was_acknowledged(written, tmp_path):
    path, heads = written
    content = path.read_bytes()
    opened = refused = 0
    for size in range(len(content)):
        for charges, head in enumerate(heads):
            folder = tmp_path / "copy"
            folder.mkdir()
            copy = folder / path.name
            copy.write_bytes(content[:size])
            (folder / f"{path.name}.head").write_bytes(head)
            try:
                with Ledger(copy, make_plan()) as book:
                    opened += 1
                    assert book.charges >= charges
                    assert (book.dropped is None) == content[:size].endswith(b"\n")
            except LedgerError:
                refused += 1
                assert copy.read_bytes() == content[:size]  # nothing was repaired
            shutil.rmtree(folder)
    assert opened > 100
    assert refused > 100


def test_a_torn_line_that_nobody_acted_on_is_dropped_and_reported(written):
    path, heads = written
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    with pytest.raises(LedgerError, match="3 charges were acknowledged, and it has 2"):
        Ledger(path, make_plan())  # a truncated line that was acted on
    path.with_name(path.name + ".head").write_bytes(heads[2])
    with pytest.warns(RuntimeWarning, match="dropped the torn line 4") as caught:
        book = Ledger(path, make_plan())
    assert caught[0].filename == __file__  # the line that opens it, and none of tff_dp's
    with book:
        assert book.charges == 2
        assert "torn" in book.dropped
        book.charge(3)
    assert replay(path).rounds == 3


def test_every_edited_byte_is_found(written):
    path, _ = written
    content = path.read_bytes()
    for position in range(0, len(content), 3):
        edited = bytearray(content)
        edited[position] ^= 1
        path.write_bytes(edited)
        with pytest.raises(LedgerError):
            Ledger(path, make_plan())
    path.write_bytes(content)
    Ledger(path, make_plan()).close()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda lines: lines.pop(2), "is not entry 2|acknowledged"),
        (lambda lines: lines[2].update(round=3), "after a gap"),
        (lambda lines: lines[2].update(round=0), "after a gap"),
        (lambda lines: lines[2]["event"].update(noise_multiplier=9.0), "of its plan"),
        (lambda lines: lines.insert(1, lines[1]), "is not entry 2"),
        (lambda lines: lines[0].update(ledger=3), "format 1 or 2"),
        (lambda lines: lines.pop(0), "first line|format 1"),
        (lambda lines: lines[1].update(versions={}), "not the one that was acknowledged"),
    ],
    ids=["removed", "gap", "zero", "event", "repeated", "format", "headless", "versions"],
)
def test_edits_with_hashes_that_fit_are_found(written, edit, message):
    path, _ = written
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    path.write_bytes(rechained(lines))
    Ledger(path, make_plan()).close()  # the helper alone changes nothing
    edit(lines)
    path.write_bytes(rechained(lines))
    with pytest.raises(LedgerError, match=message):
        Ledger(path, make_plan())


def test_a_line_whose_own_hash_fits_is_found_by_the_next_one(written):
    path, _ = written
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    plain = {k: v for k, v in lines[1].items() if k not in ("hash", "previous")}
    texts = path.read_bytes().splitlines(keepends=True)
    texts[1], _ = ledger_lines.chained({**plain, "versions": {}}, lines[1]["previous"])
    path.write_bytes(b"".join(texts))
    with pytest.raises(LedgerError, match="line 3 does not continue"):
        Ledger(path, make_plan())


def test_a_lost_or_damaged_head_is_refused_but_before_any_charge(written, tmp_path):
    path, _ = written
    head = path.with_name(path.name + ".head")
    head.write_text("{}")
    with pytest.raises(LedgerError, match=r"head .* is damaged"):
        Ledger(path, make_plan())
    head.unlink()
    with pytest.raises(LedgerError, match=r"head .* is missing"):
        Ledger(path, make_plan())
    with pytest.raises(LedgerError, match=r"head .* is missing"):
        replay(path)
    fresh = tmp_path / "fresh.jsonl"
    Ledger(fresh, make_plan()).close()
    fresh.with_name("fresh.jsonl.head").unlink()
    Ledger(fresh, make_plan()).close()


def test_other_files_are_left_alone(tmp_path):
    for name, content in (
        ("notes.txt", b"my notes"),
        ("lines.txt", b"a\nb\n"),
        ("j", b'{"a": 1}\n'),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(LedgerError, match=r"not a ledger|is damaged"):
            Ledger(path, make_plan())
        assert path.read_bytes() == content
    with pytest.raises(LedgerError, match="cannot be read"):
        replay(tmp_path / "none")


def test_the_lock_ends_with_the_ledger(written):
    path, _ = written
    with Ledger(path, make_plan()) as book:
        with pytest.raises(LedgerError, match=r"open in another process.*Wait"):
            Ledger(path, make_plan())
        book.charge(4)  # the refusal has changed nothing
    with pytest.raises(LedgerError, match="is closed"):
        book.charge(5)
    with Ledger(path, make_plan()) as again:
        assert again.charges == 4


@pytest.mark.parametrize(("number", "count"), [(5, 1), (0, 1), (4, 0), (1.5, 1)])
def test_charges_outside_of_their_bounds_write_nothing(written, number, count):
    path, _ = written
    before = path.read_bytes()
    with (
        Ledger(path, make_plan()) as book,
        pytest.raises(ArgumentError, match=r"round_number|count"),
    ):
        book.charge(number, count)
    assert path.read_bytes() == before


def test_a_full_disk_stops_the_round_and_loses_no_charge(written, monkeypatch):
    path, _ = written
    real = os.write

    def half(file, content):
        if len(content) > 10:
            return real(file, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    with Ledger(path, make_plan()) as book:
        monkeypatch.setattr(os, "write", half)
        with pytest.raises(LedgerError, match="could not be written"):
            book.charge(4)
        monkeypatch.undo()
        with pytest.raises(LedgerError, match="is closed"):
            book.charge(4)
    with pytest.warns(RuntimeWarning, match="torn"):
        book = Ledger(path, make_plan())
    with book:
        assert book.charges == 3
        book.charge(4)


# --- Paths ---------------------------------------------------------------------------------------


def bad_paths(folder) -> dict:
    (folder / "file").write_text("mine")
    os.symlink(folder / "loop", folder / "loop")
    os.mkfifo(folder / "fifo")
    return {
        "folder": (folder, LedgerError, "is a folder: expected a file. Add a name"),
        "empty": ("", LedgerError, "is a folder"),
        "missing": (folder / "no" / "l", LedgerError, "no', which does not exist. Make the folder"),
        "below a file": (folder / "file" / "l", LedgerError, "cannot be opened: .*Not a directory"),
        "loop": (folder / "loop", LedgerError, "cannot be opened: .*symbolic links"),
        "null": ("/dev/null", LedgerError, "is a device or a pipe, which keeps no charges"),
        "full": ("/dev/full", LedgerError, "is a device or a pipe"),
        "fifo": (folder / "fifo", LedgerError, "is a device or a pipe"),
        "zero": ("a\0b", LedgerError, "cannot be opened: embedded null"),
        "long": (folder / ("x" * 300), LedgerError, "cannot be opened: .*too long"),
        "number": (
            1,
            ArgumentError,
            "=1 is outside its bound: expected an instance of str or PathLike",
        ),
        "true": (True, ArgumentError, "=True is outside"),
        "bytes": (b"ledger", ArgumentError, "=b'ledger' is outside"),
        "float": (0.5, ArgumentError, "=0.5 is outside"),
    }


def test_where_no_ledger_can_be_is_said_and_left_alone(tmp_path):
    before = sorted(os.listdir("/proc/self/fd"))
    for path, error, message in bad_paths(tmp_path).values():
        with pytest.raises(error, match=message):
            Ledger(path, make_plan())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fifo", "file", "loop"]
    assert sorted(os.listdir("/proc/self/fd")) == before
    for path in (1, None, b"ledger"):
        with pytest.raises(ArgumentError, match="path="):
            replay(path)
    with pytest.raises(LedgerError, match="cannot be read"):
        replay(tmp_path)


def test_fit_refuses_such_a_path_before_it_does_anything(tmp_path, monkeypatch):
    class UntouchedError(Exception):
        pass

    clients = tff_dp.data.from_arrays(
        {c: (np.zeros([2, 3], np.float32), np.zeros([2, 1], np.float32)) for c in "abcd"}
    )
    monkeypatch.setattr(
        tff_dp.ModelSpec, "bind", lambda *_, **__: (_ for _ in ()).throw(UntouchedError)
    )
    for path, error, message in bad_paths(tmp_path).values():
        with pytest.raises(error, match=message):
            tff_dp.fit(lambda: None, clients, loss="mse", privacy=full_plan(), ledger=path)
    with pytest.raises(UntouchedError):
        tff_dp.fit(lambda: None, clients, loss="mse", privacy=full_plan(), ledger=tmp_path / "good")


def full(monkeypatch) -> None:
    """Fills the disk."""

    def write(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", write)


def test_opening_on_a_full_disk_says_so_and_a_whole_ledger_can_be_opened_there(
    written, tmp_path, monkeypatch
):
    path, heads = written
    full(monkeypatch)
    with Ledger(path, make_plan()) as book:  # which has nothing to write
        assert book.charges == 3
        with pytest.raises(LedgerError, match=r"could not be written.*No space left"):
            book.charge(4)
    with pytest.raises(LedgerError, match=r"cannot be opened: .*No space left.*Make room"):
        Ledger(tmp_path / "new.jsonl", make_plan())
    path.with_name(path.name + ".head").write_bytes(heads[2])  # which has to be brought up to date
    with pytest.raises(LedgerError, match=r"cannot be opened: .*No space left"):
        Ledger(path, make_plan())
    monkeypatch.undo()
    for each in (path, tmp_path / "new.jsonl"):
        with Ledger(each, make_plan()) as book:
            book.charge(1)
    assert replay(path).rounds == 4


@pytest.mark.parametrize("in_main_thread", [True, False])
def test_a_signal_in_the_middle_of_a_write_waits_for_the_end_of_it(
    tmp_path, monkeypatch, in_main_thread
):
    path, real, seen = tmp_path / "ledger.jsonl", os.write, []
    handler = lambda *_: seen.append(replay(path).rounds)  # noqa: E731
    before = signal.signal(signal.SIGINT, handler)

    def write(file, content):
        size = real(file, content[: len(content) // 2 + 1])
        if b'"round":2' in content and in_main_thread:
            os.kill(os.getpid(), signal.SIGINT)
        return size

    def charge(book):
        book.charge(1)
        monkeypatch.setattr(os, "write", write)
        book.charge(2)
        monkeypatch.undo()
        assert signal.getsignal(signal.SIGINT) is handler

    try:
        with Ledger(path, make_plan()) as book:
            if in_main_thread:
                charge(book)
            else:
                with concurrent.futures.ThreadPoolExecutor() as pool:
                    pool.submit(charge, book).result()
            assert book.charges == 2
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == ([2] if in_main_thread else [])


# --- Training ------------------------------------------------------------------------------------


def clients_and_model(count=4):
    import keras

    rng = np.random.default_rng(0)
    arrays = {
        f"c{i}": (rng.normal(size=(8, 3)).astype(np.float32), np.ones([8, 1], np.float32))
        for i in range(count)
    }
    model = keras.Sequential([keras.layers.Input([3]), keras.layers.Dense(1)])
    return tff_dp.data.from_arrays(arrays), model


def full_plan(**changes) -> tff_dp.PrivacyPlan:
    values = {
        "mechanism": tff_dp.GaussianMechanism(clip_norm=0.5, noise_multiplier=20.0),
        "population": 4,
        "sampler": tff_dp.FullParticipation(),
        "cohort": None,
        "rounds": 6,
    }
    return make_plan(**(values | changes))


@pytest.mark.heavy
def test_training_charges_each_round_before_it_is_run_and_runs_add_up(tff, tmp_path, monkeypatch):
    clients, model = clients_and_model()
    path, plan = tmp_path / "ledger.jsonl", full_plan()
    seen = []
    original = tff_dp.Clients.cohort
    monkeypatch.setattr(
        tff_dp.Clients, "cohort",
        lambda *a, **k: (seen.append(replay(path).rounds), original(*a, **k))[1],
    )  # fmt: skip
    arguments = {"loss": "mse", "privacy": plan, "ledger": path}
    first = tff_dp.fit(model, clients, rounds=2, **arguments)
    assert seen == [1, 2]
    assert first.epsilon == plan.epsilon(2).epsilon
    second = tff_dp.fit(model, clients, **arguments)  # what is left
    assert seen == [1, 2, 3, 4, 5, 6]
    assert len(second.history) == 4
    assert second.epsilon == plan.epsilon(6).epsilon == replay(path).epsilon
    total = plan.epsilon(6).epsilon
    bounds = [min(plan.quick_epsilon(n), total) for n in range(3, 7)]
    assert [r.epsilon for r in second.history] == bounds
    with pytest.raises(AccountingError, match="the ledger has 6: expected at most the 6 rounds"):
        tff_dp.fit(model, clients, rounds=1, **arguments)
    assert replay(path).rounds == 6


@pytest.mark.heavy
def test_rounds_of_one_call_are_charged_together_before_it(tff, tmp_path, monkeypatch):
    from tff_dp.training import run as run_module

    clients, model = clients_and_model()
    path, seen = tmp_path / "ledger.jsonl", []
    original = run_module.iterate
    monkeypatch.setattr(run_module, "_FUSED", 3)
    monkeypatch.setattr(run_module, "_FUSED_FROM", 6)
    monkeypatch.setattr(
        run_module, "iterate", lambda *a: (seen.append(replay(path).rounds), original(*a))[1]
    )
    tff_dp.fit(model, clients, loss="mse", privacy=full_plan(rounds=7), ledger=path)
    assert seen == [4, 7]  # the odd one is the first
    assert replay(path).rounds == 7
    assert [entry["round"] for entry in entries(path)] == list(range(1, 8))


@pytest.mark.heavy
def test_a_round_that_fails_stays_charged(tff, tmp_path, monkeypatch):
    clients, model = clients_and_model()
    path = tmp_path / "ledger.jsonl"

    def fail(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(tff_dp.Clients, "cohort", fail)
    with pytest.raises(KeyboardInterrupt):
        tff_dp.fit(model, clients, loss="mse", privacy=full_plan(), ledger=path)
    assert replay(path).rounds == 1


@pytest.mark.heavy
def test_the_budget_stops_training_before_the_round_that_would_exceed_it(tff, tmp_path):
    clients, model = clients_and_model()
    plan = full_plan(rounds=100)
    budget = (plan.epsilon(3).epsilon + plan.epsilon(4).epsilon) / 2
    path = tmp_path / "ledger.jsonl"
    arguments = {"loss": "mse", "privacy": plan, "ledger": path, "max_epsilon": budget}
    result = tff_dp.fit(model, clients, **arguments)
    assert len(result.history) == 3
    assert result.epsilon == plan.epsilon(3).epsilon <= budget
    assert "Training stopped after 3 of 100 rounds" in result.statement()
    with pytest.raises(AccountingError, match="allows no round: 3 are charged"):
        tff_dp.fit(model, clients, **arguments)
    # A budget for all of them stops nothing.
    enough = full_plan(rounds=2)
    result = tff_dp.fit(model, clients, loss="mse", privacy=enough, max_epsilon=2.0)
    assert result.stopped is None
    assert len(result.history) == 2
    for name, value in (("ledger", path), ("max_epsilon", 1.0)):
        with pytest.raises(ArgumentError, match=f"{name}=.*needs a PrivacyPlan"):
            tff_dp.fit(
                model, clients, loss="mse", rounds=1, privacy=tff_dp.NoPrivacy(), **{name: value}
            )


def test_rounds_that_share_noise_are_counted_by_the_run(tmp_path):
    path = tmp_path / "ledger.jsonl"
    plan = make_plan(
        mechanism=tff_dp.TreeMechanism(clip_norm=0.5, noise_multiplier=9.0, restart_every=16),
        cohort=None,
        sampler=tff_dp.MinSeparationSampler(size=5, min_separation=10),
    )
    with Ledger(path, plan) as book:
        book.charge(1, count=20)
        assert book.runs == (range(1, 21),)
        assert book.spent() == plan.epsilon(20)
        book.charge(18)  # run again after a crash
        book.charge(19)
        book.charge(1, count=3)  # another run
        assert book.runs == (range(1, 21), range(18, 20), range(1, 4))
        assert (book.charges, book.last_round) == (25, 3)
        spent = book.spent()
    assert spent == replay(path) == plan.epsilon((range(1, 21), range(18, 20), range(1, 4)))
    # Never less than all rounds in one run would be, which one tree could have been.
    assert spent.epsilon > plan.epsilon(25).epsilon
    with Ledger(path, plan) as book:
        assert book.runs == (range(1, 21), range(18, 20), range(1, 4))
