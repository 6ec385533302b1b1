"""Run folders on the disk: torn, changed and foreign files, full disks, locks, and what is kept."""

from __future__ import annotations

import errno
import json
import math
import os
import random
import subprocess
import sys

import numpy as np
import pytest

from tff_dp import _disk
from tff_dp.errors import ArgumentError, RunFolderError
from tff_dp.runs import RunSummary, checkpoint, codec, history, read_run
from tff_dp.runs.checkpoint import Checkpoint, DamagedError
from tff_dp.runs.layout import Layout, checked_folder, read_config
from tff_dp.runs.store import opened

FOLDER = "f" * 32
CONFIG = {"id": FOLDER, "ledger": None, "openings": []}
STATE = {"weights": [np.arange(6, dtype=np.float32).reshape(2, 3)], "step": np.int32(7)}


def state(number):
    return {"weights": [STATE["weights"][0] + number], "step": np.int32(number)}


def record(number):
    return {"round_number": number, "epsilon": math.inf, "metrics": {"loss": 1 / (number + 2)}}


def facts(number, **changes):
    values = {
        "folder": FOLDER,
        "round_number": number,
        "records": number,
        "history": "",
        "run": None,
        "first": 1,
        "root": 2**127 + 1,
        "seed": None,
    }
    return Checkpoint(**(values | changes))


def save(store, number, keep=2, since=None):
    encoded = codec.encode(state(number), STATE)
    records = [
        record(each) for each in range((number - 1 if since is None else since) + 1, number + 1)
    ]
    store.save(facts(number), encoded.leaves, encoded.parts, records, keep)


@pytest.fixture
def where(tmp_path):
    """A folder with the checkpoints of rounds 0 to 4, of which the last two were kept."""
    layout = Layout(tmp_path / "run")
    with opened(layout, make=True) as store:
        store.write_config(CONFIG)
        store.begin()
        save(store, 0, since=0)
        for number in range(1, 5):
            save(store, number)
    return layout


def newest(layout):
    with opened(layout, make=False) as store:
        return store.newest(FOLDER)


def restored(found):
    stored, records = found
    return codec.decode(STATE, stored.leaves, stored.content), records


def assert_is(found, number):
    got, records = restored(found)
    np.testing.assert_array_equal(got["weights"][0], state(number)["weights"][0])
    assert got["step"] == number
    assert records == [record(each) for each in range(1, number + 1)]
    assert found[0].facts.round_number == number


def names(layout):
    return sorted(
        str(p.relative_to(layout.folder)) for p in layout.folder.rglob("*") if p.is_file()
    )


ROUND_3, ROUND_4 = (f"checkpoints/round-0000000{number}.checkpoint" for number in (3, 4))
ALL = [ROUND_3, ROUND_4, "config.json", "history.jsonl", "run.lock"]


def test_what_is_saved_comes_back_and_the_last_ones_are_kept(where):
    assert names(where) == ALL
    assert_is(newest(where), 4)
    assert names(where) == ALL
    for path in where.folder.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
    assert newest(where)[0].facts == facts(4, history=history.hash_of_lines(
        where.history.read_bytes().splitlines(keepends=True)))  # fmt: skip


@pytest.mark.parametrize("keep", [1, 3])
def test_keep_is_the_number_of_checkpoints_that_stay(where, keep):
    with opened(where, make=False) as store:
        store.newest(FOLDER)
        for number in range(5, 9):
            save(store, number, keep)
    assert [*where.stored()] == [*range(9 - keep, 9)]


# --- Damaged, foreign and newer files --------------------------------------------------------------


def test_a_checkpoint_that_is_cut_anywhere_is_passed_over(where):
    path, whole = where.checkpoint(4), where.checkpoint(4).read_bytes()
    places = {
        *range(0, len(whole), 37),
        1,
        len(whole) - 1,
        whole.index(b"\n"),
        whole.index(b"\n") + 1,
    }
    for size in sorted(places):
        path.write_bytes(whole[:size])
        with pytest.raises(DamagedError):
            checkpoint.read(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(DamagedError, match="is torn"):
        checkpoint.read(path)
    path.write_bytes(whole)
    checkpoint.read(path)


def test_no_changed_byte_goes_unnoticed(where):
    path, whole = where.checkpoint(4), where.checkpoint(4).read_bytes()
    rng = random.Random(0)
    for place in rng.sample(range(len(whole)), min(len(whole), 400)):
        changed = bytearray(whole)
        changed[place] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        try:
            read = checkpoint.read(path)
        except RunFolderError:
            continue
        # A byte of the JSON's layout may change without changing what it says.
        assert read.facts == facts(4, history=read.facts.history), place


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda layout, whole: whole[:-3], "is torn"),
        (lambda layout, whole: b"", "is no checkpoint"),
        (lambda layout, whole: b"\x80\x04K\x01.", "is no checkpoint"),
        (lambda layout, whole: layout.checkpoint(3).read_bytes(), "is that of round 3"),
    ],
)
def test_the_last_good_one_is_taken_and_that_is_said(where, damage, why):
    where.checkpoint(4).write_bytes(damage(where, where.checkpoint(4).read_bytes()))
    with pytest.warns(
        RuntimeWarning, match=rf"round-00000004.checkpoint .*{why}.*round 3"
    ) as caught:
        found = newest(where)
    assert caught[0].filename == __file__
    assert_is(found, 3)
    assert names(where) == [
        ROUND_3,
        ROUND_4 + ".damaged",
        "config.json",
        "history.jsonl",
        "run.lock",
    ]
    with opened(where, make=False) as store:  # it goes on from there
        store.newest(FOLDER)
        for number in (4, 5):
            save(store, number)
    assert_is(newest(where), 5)


def test_a_checkpoint_of_another_run_is_passed_over(where, tmp_path):
    encoded = codec.encode(state(9), STATE)
    checkpoint.write(where.checkpoint(5), facts(5, folder="e" * 32), encoded.leaves, encoded.parts)
    with pytest.warns(RuntimeWarning, match="is of another run"):
        assert_is(newest(where), 4)


def test_a_history_that_was_changed_takes_its_checkpoints_with_it(where):
    lines = where.history.read_bytes().splitlines(keepends=True)
    where.history.write_bytes(b"".join(lines[:3]) + lines[3].replace(b"0.1", b"0.2"))
    with pytest.warns(RuntimeWarning, match="does not fit the history"):
        assert_is(newest(where), 3)


def test_without_a_good_checkpoint_it_is_refused_and_nothing_is_changed(where):
    for path in where.stored().values():
        path.write_bytes(b"{}")
    with pytest.raises(
        RunFolderError, match=r"no good checkpoint: round-00000004.checkpoint is torn"
    ):
        newest(where)
    assert names(where) == ALL


def test_records_after_the_checkpoint_and_torn_lines_are_dropped(where):
    with open(where.history, "ab") as file:
        file.write(history.line_of(record(5)) + b'{"round_number": 6')
    assert len(read_run(where.folder).records) == 4
    assert_is(newest(where), 4)
    assert len(where.history.read_bytes().splitlines()) == 4


def test_a_newer_format_is_refused_by_its_number(where):
    path = where.checkpoint(4)
    head, _, rest = path.read_bytes().partition(b"\n")
    manifest = json.loads(head)["manifest"] | {"format": 2}
    head = checkpoint.canonical({"manifest": manifest, "sha256": checkpoint.hash_of(manifest)})
    path.write_bytes(head + b"\n" + rest)
    with pytest.raises(RunFolderError, match="has format 2: expected at most 1") as caught:
        newest(where)
    assert not isinstance(caught.value, DamagedError)
    where.config.write_text(json.dumps(CONFIG | {"tff_dp": "run", "format": 3}))
    with pytest.raises(RunFolderError, match="has format 3: expected at most 1"):
        read_config(where)


# --- Full and failing disks ------------------------------------------------------------------------


def failing(monkeypatch, call, name):
    """Lets the `call`-th call of a function of `os` fail, and returns the number of calls."""
    real, count = getattr(os, name), [0]

    def fail(*arguments, **named):
        count[0] += 1
        if count[0] == call:
            if name == "write":  # a part of it was written
                real(arguments[0], arguments[1][: len(arguments[1]) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments, **named)

    monkeypatch.setattr(os, name, fail)
    return count


@pytest.mark.parametrize("name", ["open", "write", "fsync", "replace", "ftruncate"])
def test_a_full_disk_at_any_call_leaves_the_last_state(where, monkeypatch, name):
    for call in range(1, 50):
        with opened(where, make=False) as store:
            number = store.newest(FOLDER)[0].facts.round_number
            count = failing(monkeypatch, call, name)
            error = saving(store, number + 1)
            monkeypatch.undo()
            if error is None:
                break
            assert f"round {number} is whole" in error
            assert "No space left" in error
            left = newest_of(store)
            assert left in (number, number + 1)  # the last step alone is after the rename
            assert not [*where.folder.rglob("*.new")]
            save(store, number + 1)  # there is room again
        assert_is(newest(where), number + 1)
    assert 1 < call == count[0] + 1


def saving(store, number):
    """Returns the message of the error of saving a round; None if there is none."""
    try:
        save(store, number)
    except RunFolderError as error:
        return str(error)
    return None


def newest_of(store):
    return max(n for n, path in store.layout.stored().items() if is_whole(path))


def is_whole(path):
    try:
        checkpoint.read(path)
    except DamagedError:
        return False
    return True


def test_a_file_that_cannot_be_written_stays_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "file"
    _disk.replace(path, b"old")
    for name in ("open", "write", "fsync", "replace"):
        failing(monkeypatch, 1, name)
        with pytest.raises(OSError, match="No space left"):
            _disk.replace(path, b"new")
        monkeypatch.undo()
        assert path.read_bytes() == b"old"
        assert [*tmp_path.iterdir()] == [path]


def test_a_folder_is_synced_after_a_file_got_its_name(tmp_path, monkeypatch):
    done, real_sync, real_replace = [], os.fsync, os.replace
    kind = lambda file: "folder" if os.path.isdir(f"/proc/self/fd/{file}") else "file"  # noqa: E731
    monkeypatch.setattr(os, "fsync", lambda file: (done.append(kind(file)), real_sync(file)))
    monkeypatch.setattr(os, "replace", lambda *a: (done.append("name"), real_replace(*a)))
    _disk.replace(tmp_path / "file", b"content")
    assert done == ["file", "name", "folder"]


# --- Locks, leftovers and paths --------------------------------------------------------------------


def test_a_folder_is_open_once(where):
    with opened(where, make=False) as store:
        assert read_run(where.folder).is_open
        with (
            pytest.raises(RunFolderError, match="open in another process"),
            opened(where, make=False),
        ):
            pass
        program = f"from tff_dp.runs import *; print(read_run({str(where.folder)!r}).is_open)"
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == "True"
        save_next = store.newest(FOLDER)[0].facts.round_number + 1
        save(store, save_next)
    assert not read_run(where.folder).is_open


def test_what_dead_writers_left_is_removed_and_nothing_else(where):
    for name in ("config.json.new", "checkpoints/round-00000005.checkpoint.new"):
        (where.folder / name).write_bytes(b"torn")
    for name in ("train.toml", "notes.new"):
        (where.folder / name).write_text("a user's")
    assert_is(newest(where), 4)
    assert names(where) == sorted([*ALL, "notes.new", "train.toml"])


def test_paths_that_hold_no_run_are_refused_with_the_remedy(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    for path, exists, message in [
        (7, False, "expected an instance of str or PathLike"),
        (file, False, "is a file: expected a folder"),
        (tmp_path / "a" / "b", False, "which does not exist. Make that"),
        (tmp_path / "a", True, r"expected the folder of a run. .* without resume=True"),
        (tmp_path, True, r"has no config.json: expected the folder of a run"),
        ("a\0b", False, "cannot be opened"),
    ]:
        with pytest.raises((RunFolderError, ArgumentError), match=message):
            checked_folder("run_dir", path, exists=exists)
    assert checked_folder("run_dir", tmp_path / "a", exists=False) == Layout(tmp_path / "a")
    assert [*tmp_path.iterdir()] == [file]


def test_a_folder_without_permission_is_refused_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    for path, what in [
        (tmp_path, "to write it"),
        (tmp_path / "new", "to write the folder that it is"),
    ]:
        with pytest.raises(RunFolderError, match=f"no permission {what}"):
            checked_folder("run_dir", path, exists=False)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"tff_dp": "other", "format": 1}', '{"tff_dp": "run"}']
)
def test_a_configuration_that_is_none_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(RunFolderError, match="is not the configuration of a run"):
        read_run(tmp_path)


def test_a_summary_has_what_the_folder_says(where):
    found = read_run(where.folder)
    assert isinstance(found, RunSummary)
    assert (found.round_number, found.ledger, found.result) == (4, None, None)
    assert found.records == tuple(record(number) for number in range(1, 5))
    assert found.checkpoints == where.stored()
    with opened(where, make=False) as store:
        store.write_result({"state": "finished"})
        store.write_config(CONFIG | {"ledger": "ledger.jsonl"})
    found = read_run(where.folder)
    assert found.result["state"] == "finished"
    assert found.ledger == where.folder / "ledger.jsonl"


# --- Records ---------------------------------------------------------------------------------------


def test_numbers_of_records_come_back_bit_by_bit():
    values = [0.1, -0.0, math.inf, -math.inf, 5e-324, 1e308, 3, None, True, 1 / 3]
    line = history.line_of({"all": values, "float": {"float": math.nan}, "half": np.float32(0.1)})
    found = history.record_of(line)
    assert [repr(value) for value in found["all"]] == [repr(value) for value in values]
    assert math.isnan(found["float"]["float"])
    assert found["half"] == float(np.float32(0.1))
