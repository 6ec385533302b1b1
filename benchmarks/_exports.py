"""Rounds of the workloads as files that JAX runs elsewhere, with what they have to give."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Sequence
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

    @property
    def task(self) -> str:
        """What is computed, for tables: the same for each number side by side."""
        return f"{self.workload}{', DP' if self.private else ''}"

    @property
    def system(self) -> str:
        """How it is computed, for tables."""
        return f"exported, {'scan' if self.side_by_side == 1 else f'vmap of {self.side_by_side}'}"


def cases() -> list[Case]:
    """Returns what is measured, the most important first.

    W8 is left out, since clients of different sizes cannot be exported. Those of W4, whose recurrent
    layer keeps a list of tensors, and of W5, which draw random numbers, do not run side by side.
    """
    found = []
    for workload in ("cifar_shape", "W2", "W3", "W1", "W6", "W7"):
        clients = NAMED[workload].clients
        found += [
            Case(workload=workload, private=True, side_by_side=width)
            for width in sorted({min(width, clients) for width in (64, 8, 1)}, reverse=True)
        ]
        found.append(Case(workload=workload, private=False, side_by_side=min(64, clients)))
    found += [Case(workload="W4", private=private, side_by_side=1) for private in (True, False)]
    return [*found, Case(workload="W5", private=True, side_by_side=1)]


def prepare(same: Sequence[Case], folder: pathlib.Path) -> dict[str, str]:
    """Exports cases, runs their first round on this machine's CPU, and keeps projections of the result.

    Args:
      same: What to export: cases of one workload.
      folder: Where the files go: for each case NAME.round, and NAME.json with the key, the projections,
        and how far a round without noise moves them.

    Returns:
      Why cases could not be exported, by name.
    """
    import tree

    import tff_dp
    from benchmarks._systems import process_of
    from tff_dp import execution
    from tff_dp.errors import ComputationError
    from tff_dp.execution.graph import randomness
    from tff_dp.process import initialize_from, model_weights

    workload = NAMED[same[0].workload]
    assert isinstance(workload.examples, int)
    x, y = workload.data()
    clients = tff_dp.Clients(x, y, workload.offsets())
    # Clients that take steps of DP-SGD read all of their examples, and draw batches of their own.
    batch_size = workload.examples if workload.local_steps else workload.batch_size
    # XLA's convolutions take minutes on a CPU, and TensorFlow's own are a check of them.
    how: dict[str, Any] = {"seed": _SEED, "random_bits": "philox", "strict": True}
    failed, moved = {}, 0.0
    for private in (True,) if workload.local_steps else (False, True):
        privacy = Privacy() if private else None
        bound, process = process_of(workload, privacy, clients, rounds=1000)
        with execution.fast("scan", xla=not workload.convolves, **how) as made:
            # Weights that are given anew where the round runs need not travel.
            blank = initialize_from(
                process, tree.map_structure(np.zeros_like, bound.initial_weights)
            )
            state = initialize_from(process, bound.initial_weights)
            key = randomness.root(_SEED, made.settings.calls + 1)
            everyone = clients.cohort(range(workload.clients), batch_size=batch_size)
            after = model_weights(process, process.next(state, everyone).state).trainable
        found = projections(after)
        # Of the first process: noise, where it comes after training, moves weights much further.
        moved = moved or movement(found, projections(workload.initial_weights()))
        expected = {"key": [int(part) for part in key], "projections": found, "moved": moved}
        for case in (case for case in same if case.private == private):
            shape = execution.CohortShape(
                clients=workload.clients,
                examples=workload.examples,
                batch_size=batch_size,
                side_by_side=case.side_by_side,
            )
            try:
                execution.export(process, shape, folder / f"{case.name}.round", blank)
            except ComputationError as error:
                failed[case.name] = str(error)
                continue
            text = json.dumps(expected) + "\n"
            (folder / f"{case.name}.json").write_text(text, encoding="utf-8")
    return failed


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


def movement(found: Any, before: Any) -> float:
    """Returns the largest difference of two results of `projections` in a random direction.

    The norms are left out: they are of the length of weights, and a projection is of that of one of them.

    Args:
      found: Projections.
      before: Those of other weights.
    """
    return max(
        float(np.abs(np.subtract(a, b))[:_DIRECTIONS].max())
        for a, b in zip(found, before, strict=True)
    )


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
