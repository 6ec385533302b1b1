"""What the experiments on images share: the images of simulated clients, and how they are trained on."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np

import tff_dp
from experiments import _training
from experiments.data import fashion
from tff_dp import _checks
from tff_dp.config import Config

# Pixels are shifted and scaled by round numbers near what is usual for such images. A linear model learns
# three times as fast by that; being public, the numbers release nothing.
_MIDDLE, _SCALE = np.float32(0.3), np.float32(0.3)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageSettings(Config):
    """The [training] section of an experiment on images.

    Attributes:
      pool: Pixels are averaged over squares of so many by so many.
      examples: Training images in all; 0 for all that there are.
      rounds: Of each training, trials included.
      epochs: Local epochs.
      batch_size: Images in a local batch.
      seeds: Of the partition, the initial weights, the cohorts and the order of images.
    """

    pool: int
    examples: int
    rounds: int
    epochs: int
    batch_size: int
    seeds: Sequence[int]

    def __post_init__(self) -> None:
        _checks.integer("examples", self.examples, "[0, inf)", "0 takes all of them.")
        for name in ("pool", "rounds", "epochs", "batch_size"):
            _checks.integer(name, getattr(self, name), "[1, inf)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """The data of one seed.

    Attributes:
      train: The clients: x [images, pixels], y [images]. Some may have no image.
      x: Images to score on, [images, pixels].
      y: Their classes.
      source: As of `fashion.Images`.
    """

    train: tff_dp.Clients
    x: np.ndarray
    y: np.ndarray
    source: str

    @property
    def pixels(self) -> int:
        """The number of inputs of a model."""
        return int(self.x.shape[1])

    def accuracy(self, model: Any) -> float:
        """Returns the share of images whose class a model names.

        Args:
          model: A Keras model from [n, pixels] to logits [n, classes].
        """
        outputs = _training.outputs_of(model, self.x)
        return float(np.mean(np.argmax(outputs, axis=1) == self.y))


@functools.lru_cache(maxsize=4)
def load(
    *,
    clients: int,
    alpha: float | None,
    seed: int,
    pool: int,
    examples: int,
    validation: float | None,
) -> Task:
    """Deals out the images to simulated clients, with pixels of about mean 0 and deviation 1.

    Args:
      clients: Their number.
      alpha: Of the Dirichlet law; None deals out evenly.
      seed: Of the choice of images and of the partition.
      pool: As for `ImageSettings`.
      examples: As for `ImageSettings`.
      validation: The share of the training images to score on; None for the test images.
    """
    split = fashion.load(
        seed=seed, clients=clients, alpha=alpha, pool=pool, validation=validation,
        examples=examples or None,
    )  # fmt: skip
    x, y = (np.asarray(field) for field in split.train.pooled())
    offsets = np.concatenate([[0], np.cumsum(split.train.sizes)])
    return Task(
        train=tff_dp.Clients(_scaled(x), y, offsets, allow_empty=True),
        x=_scaled(split.test_x),
        y=split.test_y,
        source=split.source,
    )


def _scaled(x: np.ndarray) -> np.ndarray:
    return (x.reshape(len(x), -1) - _MIDDLE) / _SCALE


def train(
    model: tff_dp.ModelSpec,
    task: Task,
    settings: ImageSettings,
    *,
    folder: pathlib.Path,
    client_rate: float,
    server_rate: float,
    **arguments: Any,
) -> tff_dp.FitResult:
    """Trains a model, from the start if an earlier call with this folder was interrupted.

    A training takes seconds here, and the images are public: nothing is lost if it begins anew, and
    rounds are never charged twice.

    Args:
      model: The model.
      task: The data.
      settings: The settings.
      folder: Of the cell.
      client_rate: The clients' learning rate. Both rates are set from outside, so that trainings that
        differ in nothing else share their graphs.
      server_rate: The server's.
      **arguments: As for `fit`.

    Returns:
      The result.

    Raises:
      KeyboardInterrupt: Ctrl-C has ended the training early.
    """
    shutil.rmtree(folder / "run", ignore_errors=True)
    return _training.train(
        model,
        task.train,
        folder=folder,
        client_learning_rate=functools.partial(_rate, client_rate),
        server_learning_rate=functools.partial(_rate, server_rate),
        rounds=settings.rounds,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        save_every=settings.rounds,
        **arguments,
    )


def _rate(learning_rate: float, round_number: int) -> float:
    return learning_rate
