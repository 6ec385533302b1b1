"""What a framework is to do, and what came of it. Imports numpy alone: every environment has it."""

from __future__ import annotations

import dataclasses
import itertools
import json
import pathlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks._measuring import peak_bytes
from benchmarks._workloads import WORKLOADS, Array, Privacy, Workload


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """Rounds of federated averaging in which every client takes part.

    A client takes its batches in the order of its examples, once a round; the server averages all clients
    alike. So two systems that compute the same have the same weights after the same rounds.

    Attributes:
      workload: The model and the clients.
      privacy: How updates are clipped and noised; None for neither.
      rounds: How many.
      x: Inputs, client after client.
      y: Targets, likewise.
      initial: The weights to start from, in Keras's order and layout.
      path: The file that the task was read from, for processes that the framework starts.
    """

    workload: Workload
    privacy: Privacy | None
    rounds: int
    x: Array
    y: Array
    initial: list[Array]
    path: pathlib.Path

    def bounds(self) -> list[tuple[int, int]]:
        """Returns where each client's examples begin and end."""
        offsets = self.workload.offsets()
        return list(itertools.pairwise(offsets))


def save_task(path: pathlib.Path, workload: Workload, privacy: Privacy | None, rounds: int) -> None:
    """Writes a task, its data included, so that all frameworks read the same numbers.

    Args:
      path: The file, .npz.
      workload: See `Task`; what differs from the workload of that name in numbers is written as well.
      privacy: See `Task`.
      rounds: See `Task`.
    """
    x, y = workload.data()
    description = {
        "workload": {"name": workload.name, "clients": workload.clients},
        "privacy": dataclasses.asdict(privacy) if privacy else None,
        "rounds": rounds,
    }
    initial = {f"w{n:03}": weight for n, weight in enumerate(workload.initial_weights())}
    np.savez(path, x=x, y=y, description=np.array(json.dumps(description)), **initial)  # type: ignore[arg-type]


def load_task(path: pathlib.Path) -> Task:
    """Reads what `save_task` has written."""
    with np.load(path) as arrays:
        found = json.loads(str(arrays["description"]))
        initial = [arrays[name] for name in sorted(arrays.files) if name.startswith("w")]
        x, y = arrays["x"], arrays["y"]
    workload = dataclasses.replace(
        WORKLOADS[found["workload"]["name"]], clients=found["workload"]["clients"]
    )
    privacy = Privacy(**found["privacy"]) if found["privacy"] else None
    return Task(workload, privacy, found["rounds"], x, y, initial, path)


class Clock:
    """Takes the time when rounds end.

    Args:
      rounds: How many there will be. At the end of the last one, memory is looked at.
    """

    def __init__(self, rounds: int) -> None:
        self._rounds = rounds
        self.times: list[float] = []
        self.peak_bytes = 0

    def start(self) -> None:
        """To be called when the first round begins."""
        self.times = [time.monotonic()]

    def end_of_round(self) -> None:
        """To be called when a round has ended."""
        self.times.append(time.monotonic())
        if len(self.times) == self._rounds + 1:
            self.peak_bytes = peak_bytes()

    @property
    def seconds(self) -> list[float]:
        """The seconds of each round."""
        return [b - a for a, b in itertools.pairwise(self.times)]


Run = Callable[[Task, Clock], list[Array]]
"""Runs a task; tells the clock when rounds end; returns the final weights in Keras's order and layout."""


def save_outcome(path: pathlib.Path, weights: list[Array], clock: Clock, started: float) -> None:
    """Writes what came of a task."""
    numbers = {
        "seconds": clock.seconds,
        "first_round_after": clock.times[1] - started,
        "peak_bytes": clock.peak_bytes,
    }
    arrays = {f"w{n:03}": weight for n, weight in enumerate(weights)}
    np.savez(path, numbers=np.array(json.dumps(numbers)), **arrays)  # type: ignore[arg-type]


def load_outcome(path: pathlib.Path) -> tuple[list[Array], dict[str, Any]]:
    """Returns the weights of an outcome, and its numbers."""
    with np.load(path) as arrays:
        weights = [arrays[name] for name in sorted(arrays.files) if name.startswith("w")]
        return weights, json.loads(str(arrays["numbers"]))
