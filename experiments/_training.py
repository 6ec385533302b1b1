"""Trainings within the cells of an experiment."""

from __future__ import annotations

import contextlib
import math
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

import tff_dp
from tff_dp import _compat, runs


@contextlib.contextmanager
def session() -> Iterator[None]:
    """Imports TensorFlow Federated quietly, and keeps one execution context for all trainings.

    Trainings of the same model and plan, which differ in seed, data or noise, then share their graphs.

    Yields:
      Nothing; the cells are computed in the `with` block.
    """
    print("Importing TensorFlow Federated ...", flush=True)
    with _compat.quiet.quiet_import():
        _compat.tff.load()
    with tff_dp.execution.fast():
        yield


def train(
    model: Any,
    clients: tff_dp.Clients,
    *,
    folder: pathlib.Path,
    name: str = "run",
    **arguments: Any,
) -> tff_dp.FitResult:
    """Trains as `tff_dp.fit` does, and goes on from the last checkpoint if it was interrupted.

    Args:
      model: As for `fit`. Its initial weights must be those of the first call: set Keras's random
        seed to that of the cell before it is built (`seeded`).
      clients: As for `fit`.
      folder: The folder of the cell.
      name: The name of the run within the cell, for cells with several trainings.
      **arguments: Other arguments of `fit`, except for `run_dir` and `resume`.

    Returns:
      The result of all rounds.

    Raises:
      KeyboardInterrupt: Ctrl-C has ended the training early; what it has done is saved.
    """
    run_dir = folder / name
    result = tff_dp.fit(
        model,
        clients,
        run_dir=run_dir,
        resume=run_dir.exists(),
        **({"save_every": 5} | arguments),
    )
    left = runs.read_run(run_dir).result
    if left is not None and left["state"] == "interrupted":
        raise KeyboardInterrupt  # `fit` returns what it has; the cell is not finished
    return result


def outputs_of(model: Any, x: np.ndarray, *, batch: int = 4096) -> np.ndarray:
    """Computes what a trained model says of some examples.

    Keras's own `predict` traces a graph for each model, which takes longer than these models do.

    Args:
      model: A Keras model with one input and one output.
      x: Shape [n, ...].
      batch: Examples that are computed together.

    Returns:
      The outputs, shape [n, ...].
    """
    parts = np.array_split(x, max(1, math.ceil(len(x) / batch)))
    return np.concatenate([np.asarray(model(part, training=False)) for part in parts])


def seeded(seed: int) -> None:
    """Seeds what Keras draws: the initial weights of models that are built afterwards.

    Args:
      seed: Of the cell.
    """
    import keras

    keras.utils.set_random_seed(seed)
