"""Runs that are killed at random moments, and resumed: nothing is lost, and nothing is free."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.support.paths import ROOT

FEW, MANY = 2, 20


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A function from a kind and a number of kills to what `killed_runs` says, and the run's files."""
    told = {}

    def facts(kind, kills):
        if kills not in told:
            folder = tmp_path_factory.mktemp("killed")
            done = subprocess.run(
                [sys.executable, "-m", "tests.support.killed_runs", folder, str(kills), "1"],
                capture_output=True,
                text=True,
                check=False,
                cwd=ROOT,
            )
            assert done.returncode == 0, done.stderr[-3000:]
            told[kills] = folder, json.loads(done.stdout.splitlines()[-1])
        folder, found = told[kills]
        run = folder / kind / "killed" / "run"
        files = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
        return found[kind], files

    return facts


def expected_files(*checkpoints, more=()):
    kept = {f"checkpoints/round-{number:08}.checkpoint" for number in checkpoints}
    return {"config.json", "history.jsonl", "result.json", "run.lock", *kept, *more}


def checkpoints_of(files):
    """Returns the rounds of the checkpoints among the files, in order."""
    return sorted(int(name[-19:-11]) for name in files if name.endswith(".checkpoint"))


AMOUNTS = [FEW, pytest.param(MANY, marks=pytest.mark.full)]


@pytest.mark.slow
@pytest.mark.heavy
@pytest.mark.parametrize("kills", AMOUNTS)
def test_a_run_without_noise_ends_with_the_same_bits_however_often_it_is_killed(killed, kills):
    found, files = killed("none", kills)
    assert found["kills"] == kills
    assert found["killed"]["rounds"] == [*range(1, found["asked"] + 1)]
    for name in ("weights", "rounds", "losses", "stopped"):
        assert found["killed"][name] == found["whole"][name]
    # Without a plan, a round that ends while a checkpoint is being written is not saved itself.
    earlier, last = checkpoints_of(files)
    assert earlier < last == found["asked"]
    assert files == expected_files(earlier, last)


@pytest.mark.slow
@pytest.mark.heavy
@pytest.mark.parametrize("kills", AMOUNTS)
def test_the_ledger_of_a_killed_run_has_every_round_as_often_as_it_was_drawn(killed, kills):
    """The program checks after each kill that no round was drawn more often than it is charged."""
    found, files = killed("poisson", kills)
    assert found["kills"] == kills
    once = found["killed"]
    assert once["rounds"] == [*range(1, found["asked"] + 1)]
    assert once["charged"] == found["asked"] + once["repeated"] >= len(found["drawn"])
    # All that were drawn are paid; charged and not drawn is at most one round for each kill.
    assert once["charged"] - len(found["drawn"]) <= kills
    assert found["whole"]["repeated"] == 0
    last = found["asked"]
    assert files == expected_files(last - 1, last, more=("ledger.jsonl", "ledger.jsonl.head"))
