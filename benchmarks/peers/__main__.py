"""Does tasks in this environment: `python -m benchmarks.peers NAME STARTED TASK OUTCOME ...`."""

from __future__ import annotations

import importlib
import pathlib
import sys

from benchmarks.peers.task import Clock, load_task, save_outcome


def main(name: str, started: str, *paths: str) -> None:
    """Runs what `benchmarks/comparison.py` has asked for.

    Args:
      name: Of the framework: the module `in_NAME` beside this one.
      started: When the process was started, by the system's monotonic clock.
      *paths: A task's file and that of its outcome, and so on.
    """
    run = importlib.import_module(f"benchmarks.peers.in_{name}").run
    for task_path, outcome_path in zip(paths[::2], paths[1::2], strict=True):
        task = load_task(pathlib.Path(task_path))
        clock = Clock(task.rounds)
        weights = run(task, clock)
        save_outcome(pathlib.Path(outcome_path), weights, clock, float(started))


if __name__ == "__main__":
    main(*sys.argv[1:])
