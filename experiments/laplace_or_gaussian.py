"""Linear regression with Laplace or Gaussian noise at the same epsilon: which is better from where on?

Laplace noise is as large as what a client may change in L1 norm, Gaussian noise as in L2 norm. An update
of p weights without direction has an L1 norm of sqrt(2 p / pi) times its L2 norm, so that both hold as
many updates without clipping if their clip norms C_1 and C_2 have this ratio. The noise on each weight
then has the variances

    Laplace   2 (z_1 C_1)^2 = (4 p / pi) (z_1 C_2)^2        Gaussian   (z_2 C_2)^2

where z_1 and z_2 are the smallest noise multipliers within epsilon (and delta, for the Gaussian; Laplace
noise is charged at the same delta, which helps it in several rounds). They are equal at

    p* = (pi / 4) (z_2 / z_1)^2

which is about 11 for one round at epsilon 1 and delta 1e-5. With more rounds, z_2 grows like their square
root and z_1 nearly like their number, so that p* falls.

Measured is the squared distance between the weights after private training and those that the same
steps give without noise and clipping, on synthetic data with independent features of variance 1, where
it is what the noise adds to the expected squared error of predictions.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

import tff_dp
from experiments import _cells, _plots, _report, _tables, _training
from tff_dp import _checks, _seeds
from tff_dp.config import Config
from tff_dp.errors import ArgumentError

_NAME = "laplace_or_gaussian"
_ERROR, _THEORY = "error by noise", "theory"
# Clip norms are this many times the usual norm of an update, so that few are clipped.
_ROOM = 1.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoiseSettings(Config):
    """The [training] section.

    Attributes:
      dimensions: Numbers of weights, the bias among them; >= 2.
      rounds: Numbers of rounds.
      steps: For each number of rounds, the share of the way to the solution that a round goes, in (0, 1].
      clients: Number of clients, all of which take part in each round.
      examples: Examples of a client.
      label_noise: Standard deviation.
      epsilon: Of each training.
      delta: Of each training.
      seeds: Of the data.

    Raises:
      ArgumentError: A value is outside its bound, or `steps` and `rounds` differ in length.
    """

    dimensions: Sequence[int]
    rounds: Sequence[int]
    steps: Sequence[float]
    clients: int
    examples: int
    label_noise: float
    epsilon: float
    delta: float
    seeds: Sequence[int]

    def __post_init__(self) -> None:
        _cells.check_seeds(self.seeds)
        for dimension in self.dimensions:
            _checks.integer("dimensions", dimension, "[2, inf)", "One weight is the bias.")
        for step in self.steps:
            _checks.real("steps", step, "(0, 1]", "1 goes all the way in a round.")
        _checks.integer("examples", self.examples, "[1, inf)", "It counts those of a client.")
        if len(self.steps) != len(self.rounds):
            raise ArgumentError(
                f"steps={list(self.steps)!r} does not fit rounds={list(self.rounds)!r}: expected one "
                "step for each number of rounds."
            )

    def clip_norm(self, dimension: int, step: float) -> float:
        """Returns the L2 clip norm, from what is public: the numbers and the variances.

        Args:
          dimension: Number of weights.
          step: As in `steps`.
        """
        sampling = (1 + self.label_noise**2) * dimension / self.examples
        return _ROOM * step * math.sqrt(1 + sampling)

    def plan(self, mechanism: tff_dp.mechanisms.Mechanism, rounds: int) -> tff_dp.PrivacyPlan:
        """Returns the plan with the smallest noise within epsilon.

        Args:
          mechanism: With any noise.
          rounds: The number of rounds.
        """
        plan = tff_dp.PrivacyPlan(
            mechanism=mechanism,
            population=self.clients,
            sampler=tff_dp.FullParticipation(),
            rounds=rounds,
            delta=self.delta,
        )
        return plan.calibrated(self.epsilon)


def main(settings: Mapping[str, Any], out: pathlib.Path) -> int:
    """Runs the experiment and writes its results.

    Args:
      settings: The section "training".
      out: The folder of the experiment.

    Returns:
      0, the exit code.
    """
    mine = NoiseSettings.from_dict(settings["training"])
    steps = dict(zip(mine.rounds, mine.steps, strict=True))
    multipliers = {rounds: _multipliers(mine, rounds) for rounds in mine.rounds}
    # Cells of one setting follow each other, so that they share their graphs.
    cells = [
        _cells.Cell(setting={"rounds": T, "weights": p, "noise": noise}, seed=seed)
        for T in mine.rounds
        for p in mine.dimensions
        for noise in ("Laplace", "Gaussian")
        for seed in mine.seeds
    ]

    def compute(cell: _cells.Cell, folder: pathlib.Path) -> dict[str, Any]:
        rounds, weights, noise = cell.setting.values()
        z, step = multipliers[rounds][noise], steps[rounds]
        mechanism = _mechanism(noise, mine.clip_norm(weights, step), weights, z)
        plan = tff_dp.PrivacyPlan(
            mechanism=mechanism,
            population=mine.clients,
            sampler=tff_dp.FullParticipation(),
            rounds=rounds,
            delta=mine.delta,
        )
        error, epsilon = _trained(mine, plan, weights, step, cell.seed, folder)
        per_weight = mechanism.clip_norm * z * (math.sqrt(2) if noise == "Laplace" else 1.0)
        remaining = sum((1 - step) ** (2 * k) for k in range(rounds))
        return {
            _ERROR: error,
            _THEORY: weights * (per_weight / mine.clients) ** 2 * remaining,
            "noise multiplier": z,
            "epsilon spent": epsilon,
        }

    with _training.session():
        finished = _cells.run(cells, compute, settings=settings, out=out)
    by, measures = ["rounds", "weights", "noise"], [_ERROR, _THEORY]
    table = _tables.summary(finished.rows, by=by, measures=measures)
    crossings = {
        f"{rounds} rounds": {
            "theory": math.pi / 4 * (z["Gaussian"] / z["Laplace"]) ** 2,
            "measured": _crossing(table[table["rounds"] == rounds]),
        }
        for rounds, z in multipliers.items()
    }
    _report.publish(
        finished,
        name=_NAME,
        settings=settings,
        by=by,
        measures=[*measures, "noise multiplier", "epsilon spent"],
        decimals={_ERROR: 6, _THEORY: 6},
        plots=[lambda table, folder: _plot(table, folder, crossings)],
        notes={"crossover": crossings},
    )
    for rounds, found in crossings.items():
        measured = (
            f"{found['measured']:.1f}" if found["measured"] else "none between the dimensions"
        )
        print(f"Crossover, {rounds}: {found['theory']:.1f} weights by theory, {measured} measured")
    return 0


def _multipliers(settings: NoiseSettings, rounds: int) -> dict[str, float]:
    """Returns the noise multipliers, which depend neither on clip norms nor on the dimension."""
    return {
        noise: settings.plan(_mechanism(noise, 1.0, 1, 1.0), rounds).mechanism.noise_multiplier
        for noise in ("Laplace", "Gaussian")
    }


def _mechanism(noise: str, clip_norm: float, weights: int, z: float) -> Any:
    """Returns a mechanism whose clip norm lets as many updates pass as an L2 norm does."""
    if noise == "Gaussian":
        return tff_dp.GaussianMechanism(clip_norm=clip_norm, noise_multiplier=z)
    ratio = math.sqrt(2 * weights / math.pi)
    return tff_dp.LaplaceMechanism(clip_norm=clip_norm * ratio, noise_multiplier=z)


def _trained(
    settings: NoiseSettings,
    plan: tff_dp.PrivacyPlan,
    weights: int,
    step: float,
    seed: int,
    folder: pathlib.Path,
) -> tuple[float, float]:
    """Returns the squared distance to the training without noise and clipping, and epsilon."""
    from models import linear  # needs Keras, and so TensorFlow

    rng = _seeds.generator(_seeds.root(seed), f"regression of {weights} weights")
    true = rng.normal(size=weights - 1)
    true /= np.linalg.norm(true)
    shape = (settings.clients, settings.examples, weights - 1)
    x = rng.normal(size=shape).astype("float32")
    y = x @ true.astype("float32")
    y += settings.label_noise * rng.normal(size=y.shape).astype("float32")
    clients = tff_dp.data.from_arrays({k: (x[k], y[k][:, None]) for k in range(settings.clients)})
    result = _training.train(
        linear.build(features=weights - 1),
        clients,
        folder=folder,
        privacy=plan,
        # The gradient of the mean squared error is twice the way to the solution.
        algorithm=tff_dp.FedAvg(client_optimizer=tff_dp.SGD(learning_rate=step / 2)),
        batch_size=settings.examples,
        seed=seed,
    )
    kernel, bias = result.model.get_weights()
    expected = _without_noise(x.reshape(-1, weights - 1), y.ravel(), step, plan.rounds)
    return float(np.sum((np.append(kernel[:, 0], bias) - expected) ** 2)), result.epsilon


def _without_noise(x: np.ndarray, y: np.ndarray, step: float, rounds: int) -> np.ndarray:
    """Returns the weights, bias last, after steps of gradient descent on all examples."""
    design = np.column_stack([x, np.ones(len(x))]).astype(np.float64)
    weights = np.zeros(design.shape[1])
    for _ in range(rounds):
        weights += step * design.T @ (y - design @ weights) / len(y)
    return weights


def _crossing(table: pd.DataFrame) -> float | None:
    """Returns where the errors are equal, between dimensions on a logarithmic scale; None if nowhere."""
    errors = table.pivot(index="weights", columns="noise", values=_ERROR)
    ratio = np.log(errors["Laplace"] / errors["Gaussian"]).to_numpy()
    place = np.log(errors.index.to_numpy(float))
    for left in range(len(ratio) - 1):
        if ratio[left] <= 0 < ratio[left + 1]:
            share = -ratio[left] / (ratio[left + 1] - ratio[left])
            return float(np.exp(place[left] + share * (place[left + 1] - place[left])))
    return None


def _plot(
    table: pd.DataFrame, out: pathlib.Path, crossings: Mapping[str, Mapping[str, Any]]
) -> pathlib.Path:
    panels = []
    for rounds in table["rounds"].unique():
        mine = table[table["rounds"] == rounds]
        curves = []
        for noise in ("Laplace", "Gaussian"):
            rows = mine[mine["noise"] == noise]
            x, y = rows["weights"].tolist(), rows[_ERROR].tolist()
            curves.append(
                _plots.Curve(label=noise, x=x, y=y, spread=rows[_ERROR + _tables.SPREAD].tolist())
            )
            curves.append(
                _plots.Curve(label=f"{noise}, theory", x=x, y=rows[_THEORY].tolist(), of=noise)
            )
        panels.append(
            _plots.Panel(
                title=f"{rounds} round{'s' if rounds > 1 else ''}",
                x_label="number of weights",
                y_label="squared error that the noise adds",
                curves=curves,
                verticals=[("crossover by theory", crossings[f"{rounds} rounds"]["theory"])],
                log_y=True,
            )
        )
    return _plots.draw(panels, out / "error_against_dimension.png")
