"""Rounds of the workloads as files that JAX runs elsewhere, with what they have to give."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np

from benchmarks._models import Convolutional
from benchmarks._workloads import WORKLOADS, Array, Privacy, Workload

CIFAR_SHAPE = Workload(
    name="cifar_shape",
    title="the shape of pfl-research's CIFAR10 benchmark: two convolutions, 32x32 pixels to 10 classes",
    clients=50,  # of 1000: those of a round
    examples=50,
    shape=(32, 32, 3),
    classes=10,
    batch_size=10,
    kind=Convolutional,
)
NAMED = {**WORKLOADS, CIFAR_SHAPE.name: CIFAR_SHAPE}
_SEED = 5
_DIRECTIONS = 16  # random projections of a result, in place of the result


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """A workload, exported in one way.

    Attributes:
      workload: Its name.
      private: Whether with differential privacy (clip norm 1, noise multiplier 1).
      side_by_side: The number of clients that run at once.
    """

    workload: str
    private: bool
    side_by_side: int

    @property
    def name(self) -> str:
        """The name of its files."""
        return f"{self.workload}{'-dp' if self.private else ''}-{self.side_by_side}"


def cases() -> list[Case]:
    """Returns what is measured, the most important first.

    W8 is left out, since clients of different sizes cannot be exported. Those of W5 draw random numbers,
    which do not run side by side.
    """
    found = []
    for workload in ("cifar_shape", "W2", "W3", "W1", "W6", "W7", "W4"):
        clients = NAMED[workload].clients
        found += [
            Case(workload=workload, private=True, side_by_side=width)
            for width in sorted({min(width, clients) for width in (64, 8, 1)}, reverse=True)
        ]
        found.append(Case(workload=workload, private=False, side_by_side=min(64, clients)))
    return [*found, Case(workload="W5", private=True, side_by_side=1)]


def prepare(case: Case, folder: pathlib.Path) -> None:
    """Exports a case, runs its first round on this machine's CPU, and keeps projections of the result.

    Args:
      case: What to export.
      folder: Where the files go: NAME.round, and NAME.json with the key and the projections.
    """
    import tree

    import tff_dp
    from benchmarks._systems import process_of
    from tff_dp import execution
    from tff_dp.execution.graph import randomness
    from tff_dp.process import initialize_from, model_weights

    workload = NAMED[case.workload]
    assert isinstance(workload.examples, int)
    x, y = workload.data()
    clients = tff_dp.Clients(x, y, workload.offsets())
    bound, process = process_of(workload, Privacy() if case.private else None, clients, rounds=1000)
    # Clients that take steps of DP-SGD read all of their examples, and draw batches of their own.
    batch_size = workload.examples if workload.local_steps else workload.batch_size
    shape = execution.CohortShape(
        clients=workload.clients,
        examples=workload.examples,
        batch_size=batch_size,
        side_by_side=case.side_by_side,
    )
    zeros = tree.map_structure(np.zeros_like, bound.initial_weights)
    with execution.fast("scan", xla=True, seed=_SEED, random_bits="philox", strict=True):
        # Weights that are given anew where the round runs need not travel.
        execution.export(
            process, shape, folder / f"{case.name}.round", initialize_from(process, zeros)
        )
    with execution.fast("scan", xla=True, seed=_SEED, random_bits="philox", strict=True) as made:
        state = initialize_from(process, bound.initial_weights)
        key = randomness.root(_SEED, made.settings.calls + 1)
        everyone = clients.cohort(range(workload.clients), batch_size=batch_size)
        after = model_weights(process, process.next(state, everyone).state).trainable
    expected = {"key": [int(part) for part in key], "projections": projections(after)}
    (folder / f"{case.name}.json").write_text(json.dumps(expected) + "\n", encoding="utf-8")


def projections(weights: Any) -> list[list[float]]:
    """Returns numbers that tell weights from others, in place of millions of weights.

    Args:
      weights: Arrays.

    Returns:
      For each array, its products with random directions of norm 1 and its norm.
    """
    rng = np.random.default_rng(0)
    found = []
    for weight in weights:
        flat = np.asarray(weight, np.float64).ravel()
        products = []
        for _ in range(_DIRECTIONS):
            direction = rng.standard_normal(flat.size, dtype=np.float32)
            products.append(float(flat @ direction / np.linalg.norm(direction)))
        found.append([*products, float(np.linalg.norm(flat))])
    return found


def fields_of(workload: Workload) -> list[Array]:
    """Returns the examples of a round, [clients, examples, ...] for each field.

    Args:
      workload: The workload, whose clients have as many examples each.

    Returns:
      The inputs and the labels.
    """
    assert isinstance(workload.examples, int)
    return [
        part.reshape(workload.clients, workload.examples, *part.shape[1:])
        for part in workload.data()
    ]
