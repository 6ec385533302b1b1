"""Trains in child processes that are killed at random moments, and resumes them: a program.

    python -m tests.support.killed_runs FOLDER KILLS SEED

Does so for runs of each kind, in a folder of its name: "none" (no privacy) and "poisson" (a plan with
noise under Poisson sampling). Importing TFF takes seconds, so that each child is forked from this
process, which never runs TensorFlow: nothing of TensorFlow's has been started when it forks. Prints
the facts of each kind as JSON.
"""

from __future__ import annotations

import json
import os
import pathlib
import random
import signal
import sys
import time
import traceback
from typing import Any

import keras  # noqa: F401  (imported once, for all children)

import tff_dp
import tff_dp.training
from tests.support.training import linear_model, make_clients, plan
from tff_dp import execution
from tff_dp.runs import checkpoint
from tff_dp.runs.layout import Layout
from tff_dp.training.setup import Setup

ROUNDS_A_KILL = 15
AT_START = 0.2  # the share of kills at any moment from the fork on; others come after some rounds
_KINDS = {
    "none": lambda: tff_dp.NoPrivacy(sampler=tff_dp.FixedSizeSampler(size=2)),
    "poisson": lambda: plan(
        sampler=tff_dp.PoissonSampler(rate=0.5),
        mechanism=tff_dp.GaussianMechanism(clip_norm=0.5, noise_multiplier=30.0),
        rounds=100_000,
    ),
}


def train(folder: pathlib.Path, kind: str, rounds: int) -> None:
    """Begins the run or goes on with it, and notes each round on the disk before it runs."""
    log = os.open(folder / "drawn.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    real = Setup.draw

    def draw(self, round_number, root):
        os.write(log, b"%d\n" % round_number)
        os.fsync(log)
        return real(self, round_number, root)

    Setup.draw = draw
    run = folder / "run"
    with execution.fast(xla=False):
        result = tff_dp.fit(
            linear_model,
            make_clients(),
            privacy=_KINDS[kind](),
            rounds=rounds,
            loss="mse",
            batch_size=4,
            seed=3,
            run_dir=run,
            resume=(run / "config.json").exists(),
        )
    facts = {
        "weights": [weight.tolist() for weight in result.model.get_weights()],
        "rounds": [record.round_number for record in result.history],
        "losses": [(record.metrics or {}).get("loss") for record in result.history],
        "charged": result.charges.rounds,
        "resumed": result.resumed,
        "repeated": result.repeated_rounds,
        "stopped": result.stopped,
    }
    (folder / "facts.json").write_text(json.dumps(facts))


def child(folder: pathlib.Path, kind: str, rounds: int) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            train(folder, kind, rounds)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return pid


def drawn(folder: pathlib.Path) -> list[int]:
    path = folder / "drawn.log"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def kill_at_random(pid: int, folder: pathlib.Path, rng: random.Random) -> bool:
    """Kills a child; returns whether it was still running."""
    before = len(drawn(folder))
    if rng.random() < AT_START:
        time.sleep(rng.random() * 2)
    else:
        wanted = before + rng.randrange(1, ROUNDS_A_KILL)
        while (
            len(drawn(folder)) < wanted
            and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        ):
            time.sleep(0.002)
        time.sleep(rng.random() * 0.02)
    os.kill(pid, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def check(folder: pathlib.Path) -> None:
    """Checks what a killed child has left: whole checkpoints, and a ledger that is not short."""
    run = folder / "run"
    for number, path in Layout(run).stored().items():
        assert checkpoint.read(path).facts.round_number == number
    if (run / "config.json").exists():
        summary = tff_dp.runs.read_run(run)
        assert len(summary.records) == summary.round_number
        assert not summary.is_open
    ledger = run / "ledger.jsonl"
    if ledger.exists() and ledger.stat().st_size:
        runs = tff_dp.ledger.summarize(ledger).charges.runs
        seen = drawn(folder)
        for number in {*seen}:
            charged = sum(number in each.rounds for each in runs)
            assert seen.count(number) <= charged, (number, seen, runs)


def facts_of(folder: pathlib.Path, kind: str, kills: int, rng: random.Random) -> dict[str, Any]:
    """Runs one run that is killed and resumed, and one that is not; returns the facts of both."""
    rounds, killed = kills * ROUNDS_A_KILL + 5, 0
    for name in ("killed", "whole"):
        (folder / name).mkdir(parents=True)
    while killed < kills:
        pid = child(folder / "killed", kind, rounds)
        was_running = kill_at_random(pid, folder / "killed", rng)
        killed += was_running
        check(folder / "killed")
        if not was_running:
            break  # it was finished
    for name in ("killed", "whole"):
        pid = child(folder / name, kind, rounds)
        assert os.waitpid(pid, 0)[1] == 0, name
        check(folder / name)
    facts = {
        name: json.loads((folder / name / "facts.json").read_text()) for name in ("killed", "whole")
    }
    return {"kills": killed, "asked": rounds, "drawn": drawn(folder / "killed"), **facts}


def main() -> None:
    folder, kills, seed = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    found = {
        kind: facts_of(folder / kind, kind, kills, random.Random(seed + number))
        for number, kind in enumerate(_KINDS)
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
