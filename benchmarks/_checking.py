"""Checks that ours and the hand-written code compute the same thing, so that their times compare."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence

import numpy as np

from benchmarks import _environments
from benchmarks._systems import SYSTEMS, Task
from benchmarks._workloads import WORKLOADS, Array, Privacy, Workload

_ROUNDS = 2
_LOSS_TOLERANCE = 1e-3
# Noise differs from run to run, so there is none. Every update is longer than this bound.
_CASES = {
    "without privacy": None,
    "clipped, not noised": Privacy(clip_norm=0.01, noise_multiplier=0.0),
}
# Gradients of single examples, of which a step is the mean: smaller steps drown in a weight's roundoff.
_CASES_OF_RECORDS = {"clipped, not noised": Privacy(clip_norm=1.0, noise_multiplier=0.0)}
_REFERENCE = "arrays"
_OTHERS = ("datasets", "handwritten", "vectorized", "pytorch", "pytorch-vmap", "opacus")

Outcome = tuple[list[Array], float]


def check(workload: Workload, systems: Sequence[str]) -> bool:
    """Compares weights and losses after some rounds without noise; prints how far apart they are.

    Args:
      workload: What to run.
      systems: The systems to compare; others are left out.

    Returns:
      Whether all are within the tolerance, relative to the largest change of a weight since the start.
    """
    workload = _without_chance(workload)
    passed = True
    for label, privacy in (_CASES_OF_RECORDS if workload.local_steps else _CASES).items():
        expected, expected_loss = _outcome(_REFERENCE, workload, privacy)
        changes = [
            np.abs(after - before).max()
            for after, before in zip(expected, workload.initial_weights(), strict=True)
        ]
        for name in _OTHERS:
            if name not in systems or not SYSTEMS[name].supports(workload):
                continue
            run = _outcome if SYSTEMS[name].environment is None else _outcome_elsewhere
            weights, loss = run(name, workload, privacy)
            apart = max(
                float(np.abs(a - b).max()) for a, b in zip(weights, expected, strict=True)
            ) / float(max(changes))
            same = apart < workload.tolerance
            if not math.isnan(expected_loss):
                same = same and abs(loss / expected_loss - 1) < _LOSS_TOLERANCE
            passed &= same
            print(
                f"{workload.name}, {label}: {SYSTEMS[name].title} and {SYSTEMS[_REFERENCE].title} are "
                f"{apart:.1g} apart, losses {loss:.6f} and {expected_loss:.6f}: "
                f"{'same' if same else 'DIFFERENT'}"
            )
    return passed


def _without_chance(workload: Workload) -> Workload:
    """Returns the workload; of DP-SGD, one whose Poisson samples are all examples."""
    if workload.local_steps:
        return dataclasses.replace(workload, examples=workload.batch_size)
    return workload


def _outcome(name: str, workload: Workload, privacy: Privacy | None) -> Outcome:
    """Returns the weights after some rounds, and the last round's loss."""
    kind = SYSTEMS[name]
    kind.load()
    with contextlib.ExitStack() as stack:
        system = kind(Task(workload, privacy, *workload.data(), _ROUNDS), stack)
        for _ in range(_ROUNDS):
            loss = system.run()
        return system.weights(), loss


def _outcome_elsewhere(name: str, workload: Workload, privacy: Privacy | None) -> Outcome:
    """Returns what `_outcome` does in the system's own environment."""
    asked = {"system": name, "workload": workload.name}
    asked["privacy"] = json.dumps(privacy and dataclasses.asdict(privacy))
    with tempfile.TemporaryDirectory() as folder:
        found = pathlib.Path(folder) / "outcome.npz"
        subprocess.run(
            [_environments.python(SYSTEMS[name].environment), "-m", "benchmarks._checking",
             json.dumps(asked), str(found)],
            check=True,
            env=os.environ | {"PYTHONPATH": str(_environments.ROOT)},
        )  # fmt: skip
        with np.load(found) as arrays:
            *weights, loss = (arrays[key] for key in sorted(arrays.files))
    return weights, float(loss)


def _main(asked: str, found: str) -> None:
    """Runs what another process has asked for, and stores its outcome."""
    task = json.loads(asked)
    privacy = json.loads(task["privacy"])
    workload = _without_chance(WORKLOADS[task["workload"]])
    weights, loss = _outcome(task["system"], workload, privacy and Privacy(**privacy))
    # Names whose order is that of the arrays.
    arrays = {f"{n:04}": np.asarray(value) for n, value in enumerate([*weights, loss])}
    np.savez(found, allow_pickle=False, **arrays)


if __name__ == "__main__":
    _main(*sys.argv[1:])
