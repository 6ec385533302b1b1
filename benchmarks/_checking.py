"""Checks that ours and the hand-written code compute the same thing, so that their times compare."""

from __future__ import annotations

import contextlib

import numpy as np

from benchmarks._systems import SYSTEMS, Task
from benchmarks._workloads import Array, Privacy, Workload

_ROUNDS = 2
_LOSS_TOLERANCE = 1e-3
# Noise differs from run to run, so there is none. Every update is longer than this bound.
_CASES = {
    "without privacy": None,
    "clipped, not noised": Privacy(clip_norm=0.01, noise_multiplier=0.0),
}
_REFERENCE = "arrays"
_OTHERS = ("datasets", "handwritten", "vectorized")


def check(workload: Workload) -> bool:
    """Compares weights and losses after some rounds without noise; prints how far apart they are.

    Args:
      workload: What to run.

    Returns:
      Whether all are within the tolerance, relative to the largest change of a weight since the start.
    """
    passed = True
    for label, privacy in _CASES.items():
        expected, expected_loss = _outcome(_REFERENCE, workload, privacy)
        changes = [
            np.abs(after - before).max()
            for after, before in zip(expected, workload.initial_weights(), strict=True)
        ]
        for name in _OTHERS:
            if not SYSTEMS[name].supports(workload):
                continue
            weights, loss = _outcome(name, workload, privacy)
            apart = max(
                float(np.abs(a - b).max()) for a, b in zip(weights, expected, strict=True)
            ) / float(max(changes))
            same = apart < workload.tolerance and abs(loss / expected_loss - 1) < _LOSS_TOLERANCE
            passed &= same
            print(
                f"{workload.name}, {label}: {SYSTEMS[name].title} and {SYSTEMS[_REFERENCE].title} are "
                f"{apart:.1g} apart, losses {loss:.6f} and {expected_loss:.6f}: "
                f"{'same' if same else 'DIFFERENT'}"
            )
    return passed


def _outcome(name: str, workload: Workload, privacy: Privacy | None) -> tuple[list[Array], float]:
    """Returns the weights after some rounds, and the last round's loss."""
    kind = SYSTEMS[name]
    kind.load()
    with contextlib.ExitStack() as stack:
        system = kind(Task(workload, privacy, *workload.data(), _ROUNDS), stack)
        for _ in range(_ROUNDS):
            loss = system.run()
        return system.weights(), loss
