"""Speed at the sizes of pfl-research's CIFAR-10: how many rounds a second, how busy is the device?

The protocol's model and sizes, with random numbers in place of images: 1,000 clients of 50 examples, of
whom 50 take part in a round, with batches of 10, one local epoch, and a network of two convolutions. A
cell is a device, a strategy, and training with or without central differential privacy. What a round
takes includes drawing the cohort, shuffling its examples, the clients' training and the server's step;
evaluation is not part of it.

Source: Granqvist et al., "pfl-research: simulation framework for accelerating research in private
federated learning" (arXiv:2404.06430), benchmark CIFAR10 IID and its configuration in the repository.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import tff_dp
from experiments import _busy, _cells, _report, _training
from tff_dp import _checks
from tff_dp.cli import devices
from tff_dp.config import Config
from tff_dp.errors import ArgumentError

_PRIVACY = ("none", "central")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape(Config):
    """The [shape] section.

    Attributes:
      clients: The number of clients.
      examples: The number of examples of each.
      image: Height, width and channels.
      classes: The number of classes.
      cohort: Clients in each round, drawn without replacement.
      batch_size: Examples in a local batch.
      epochs: Local epochs.
      learning_rate: Of the clients.
    """

    clients: int
    examples: int
    image: Sequence[int]
    classes: int
    cohort: int
    batch_size: int
    epochs: int
    learning_rate: float

    def __post_init__(self) -> None:
        for name in ("clients", "examples", "batch_size", "epochs"):
            _checks.integer(name, getattr(self, name), "[1, inf)")
        _checks.integer("classes", self.classes, "[2, inf)")
        _checks.integer("cohort", self.cohort, f"[1, {self.clients}]")
        _checks.real("learning_rate", self.learning_rate, "(0, inf)")
        least = "two convolutions of 3 x 3 and a pooling need 6"
        if len(self.image) != 3 or min(self.image[:2]) < 6 or self.image[2] < 1:
            raise ArgumentError(
                f"image={list(self.image)!r} is outside its bound: expected height, width and channels; "
                f"{least} pixels."
            )

    def data(self, seed: int) -> tff_dp.Clients:
        """Returns clients with random numbers as images, and random labels.

        Args:
          seed: Of the numbers.
        """
        rng = np.random.default_rng(seed)
        count = self.clients * self.examples
        x = rng.standard_normal([count, *self.image], dtype=np.float32)
        y = rng.integers(self.classes, size=count, dtype=np.int32)
        return tff_dp.Clients(x, y, np.arange(0, count + 1, self.examples))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Central(Config):
    """The [privacy] section.

    Attributes:
      clip_norm: L2 norm of a client's update in one round.
      target_epsilon: Of all rounds.
      delta: Of that epsilon.
      rounds: The rounds for which the noise is calibrated.
    """

    clip_norm: float
    target_epsilon: float
    delta: float
    rounds: int

    def plan(self, shape: Shape) -> tff_dp.PrivacyPlan:
        """Returns the plan with the smallest noise within the target.

        Args:
          shape: The sizes.
        """
        return tff_dp.PrivacyPlan(
            mechanism=tff_dp.GaussianMechanism(clip_norm=self.clip_norm, noise_multiplier=1.0),
            population=shape.clients,
            sampler=tff_dp.FixedSizeSampler(size=shape.cohort),
            rounds=self.rounds,
            delta=self.delta,
        ).calibrated(self.target_epsilon)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measurement(Config):
    """The [measurement] section.

    Attributes:
      devices: "cpu", "gpu".
      strategies: How a cohort runs; see `tff_dp.execution.fast`.
      warm_up: Rounds before the measured ones: in the first, graphs are made and compiled.
      rounds: The measured rounds.
      seeds: Of the data, the initial weights and the cohorts.
    """

    devices: Sequence[str]
    strategies: Sequence[str]
    warm_up: int
    rounds: int
    seeds: Sequence[int]

    def __post_init__(self) -> None:
        for name in self.devices:
            _checks.one_of("devices", name, ("cpu", "gpu"))
        for name in self.strategies:
            _checks.one_of("strategies", name, ("auto", "scan", "vmap", "call"))
        _checks.integer("warm_up", self.warm_up, "[1, inf)")
        _checks.integer("rounds", self.rounds, "[1, inf)")
        _cells.check_seeds(self.seeds)


def main(settings: Mapping[str, Any], out: pathlib.Path) -> int:
    """Runs the experiment and writes its results.

    Args:
      settings: The sections "shape", "privacy" and "measurement".
      out: The folder of the experiment.

    Returns:
      0, the exit code.

    Raises:
      ArgumentError: A setting is outside its bound.
    """
    shape = Shape.from_dict(settings["shape"])
    measurement = Measurement.from_dict(settings["measurement"])
    plan = Central.from_dict(settings["privacy"]).plan(shape)
    data = functools.lru_cache(maxsize=1)(shape.data)

    def compute(cell: _cells.Cell, folder: pathlib.Path) -> dict[str, Any]:
        del folder
        private = cell.setting["privacy"] == "central"
        with tff_dp.execution.fast(cell.setting["strategy"], cell.setting["device"]):
            return _measured(data(cell.seed), shape, measurement, plan if private else None, cell)

    with _training.session():
        left_out = _left_out(measurement.devices)
        for device, why in left_out.items():
            print(f"{device.upper()}: not run: {why}", flush=True)
        grid = [
            {"device": device, "strategy": strategy, "privacy": privacy}
            for device in measurement.devices
            if device not in left_out
            for strategy in measurement.strategies
            for privacy in _PRIVACY
        ]
        if not grid:
            raise ArgumentError(
                f"devices={list(measurement.devices)!r}: {'; '.join(left_out.values())}"
            )
        cells = _cells.grid(grid, measurement.seeds)
        finished = _cells.run(cells, compute, settings=settings, out=out)
    _report.publish(
        finished,
        name="cifar_shape",
        settings=settings,
        by=["device", "strategy", "privacy"],
        measures=["rounds/s", "clients/s", "busy %", "core s/round", "first rounds s", "epsilon"],
        decimals={"clients/s": 1, "busy %": 0, "core s/round": 2, "first rounds s": 1},
        notes={"not_run": left_out},
    )
    for by in sorted({f"{row['device']}: {row['busy by']}" for row in finished.rows}):
        print(f"Device busy, {by}")
    return 0


def _left_out(wanted: Sequence[str]) -> dict[str, str]:
    """Returns the devices that are not there, each with the reason."""
    obstacle = devices.obstacle() if "gpu" in wanted else None
    return {} if obstacle is None else {"gpu": obstacle}


def _measured(
    clients: tff_dp.Clients,
    shape: Shape,
    measurement: Measurement,
    plan: tff_dp.PrivacyPlan | None,
    cell: _cells.Cell,
) -> dict[str, Any]:
    """Runs rounds in the execution context in effect, and returns how fast they were."""
    from models import cnn

    _training.seeded(cell.seed)
    spec = cnn.build(shape=shape.image, classes=shape.classes)
    sampler = tff_dp.FixedSizeSampler(size=shape.cohort)
    process = tff_dp.build_process(
        spec.bind(clients.element_spec()),
        algorithm=tff_dp.FedAvg(
            client_optimizer=tff_dp.SGD(learning_rate=shape.learning_rate), weighting="uniform"
        ),
        privacy=tff_dp.NoPrivacy(sampler=sampler) if plan is None else plan,
    )
    rng = np.random.default_rng(cell.seed)

    def run(state: Any, rounds: int) -> tuple[Any, float]:
        begun = time.perf_counter()
        for _ in range(rounds):
            chosen = rng.choice(shape.clients, shape.cohort, replace=False)
            cohort = clients.cohort(
                np.sort(chosen),
                batch_size=shape.batch_size,
                epochs=shape.epochs,
                shuffle=True,
                rng=rng,
            )
            state = process.next(state, cohort).state  # returns when the round has been run
        return state, time.perf_counter() - begun

    with tff_dp.execution.expecting(measurement.warm_up + measurement.rounds):
        state, first = run(process.initialize(), measurement.warm_up)
        with _busy.measured(cell.setting["device"] == "gpu") as busy:
            state, seconds = run(state, measurement.rounds)
    weights = state.global_model_weights.trainable
    if not all(np.isfinite(np.asarray(each)).all() for each in weights):
        raise ArgumentError(
            "The weights are no numbers any more: expected a smaller learning_rate."
        )
    return {
        "rounds/s": measurement.rounds / seconds,
        "clients/s": measurement.rounds * shape.cohort / seconds,
        "busy %": busy.share,
        "busy by": busy.by,
        # On a machine that is shared, this says more of a round than the time that it took.
        "core s/round": None
        if busy.core_seconds is None
        else busy.core_seconds / measurement.rounds,
        "first rounds s": first,
        "epsilon": None if plan is None else plan.epsilon().epsilon,
    }
