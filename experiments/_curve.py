"""What client-level privacy costs: a task at several epsilons, beside the same one without privacy.

Several experiments ask this question of different data. Each compares

- "pooled": scikit-learn's model on all training data at one place, not federated;
- "federated": federated averaging without clipping and noise, with the cohorts of the private ones;
- "clipped": the same with clipped updates and without noise, which is not private either;
- "private": the same under a plan for clients, at each target epsilon.

All of them see the same training clients, and are scored on the same clients that training never saw.
Scores differ more between seeds (which clients are held out) than between methods, so that the difference
to the federated one is taken within each seed. The learning rates and the clip norm come from the
settings, and are equal for all epsilons: whatever was tried to find them is not part of any epsilon.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

import tff_dp
from experiments import _cells, _plots, _report, _tables, _training
from experiments.data import Split
from tff_dp.config import Config

_WITHOUT = ("pooled", "federated", "clipped")  # methods that have no epsilon
_DIFFERENCE = "difference to federated"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CurveSettings(Config):
    """A section of an experiment's settings.

    Attributes:
      held_out: Share of the clients that training never sees.
      rounds: Rounds of each training.
      cohort: Expected clients in a round, by Poisson sampling.
      epochs: Local epochs.
      batch_size: Examples in a local batch.
      learning_rate: The clients' learning rate.
      momentum: The server's momentum.
      clip_norm: L2 norm of a client's update in one round.
      target_epsilons: One private training for each.
      delta: Of each epsilon.
      seeds: Of the held-out clients, the cohorts and the order of examples.
    """

    held_out: float
    rounds: int
    cohort: float
    epochs: int
    batch_size: int
    learning_rate: float
    momentum: float
    clip_norm: float
    target_epsilons: Sequence[float]
    delta: float
    seeds: Sequence[int]

    def plan(self, population: int, epsilon: float | None) -> tff_dp.PrivacyPlan:
        """Returns the plan with the smallest noise that stays within a target.

        Args:
          population: The number of training clients.
          epsilon: The target; None for no noise.
        """
        z = 0.0 if epsilon is None else 1.0
        plan = tff_dp.PrivacyPlan(
            mechanism=tff_dp.GaussianMechanism(clip_norm=self.clip_norm, noise_multiplier=z),
            population=population,
            cohort=self.cohort,
            rounds=self.rounds,
            delta=self.delta,
        )
        return plan if epsilon is None else plan.calibrated(epsilon)

    def algorithm(self) -> tff_dp.FedAvg:
        """Returns federated averaging in which all clients count alike, as a plan requires it."""
        return tff_dp.FedAvg(
            client_optimizer=tff_dp.SGD(learning_rate=self.learning_rate),
            server_optimizer=tff_dp.SGD(learning_rate=1.0, momentum=self.momentum),
            weighting="uniform",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """A data set, a model and a score.

    Attributes:
      name: In the table, where an experiment has several tasks.
      settings: Its section of the settings.
      load: From a seed to the split.
      build: From the number of features to the model.
      pooled: From x and y of all training data, and x of the held-out data, to outputs for the latter.
      score: From labels and outputs to numbers by name.
      measures: The names of the numbers of the table and their decimals; the first one is plotted.
      better: What is written beside the plot's axis.
    """

    name: str
    settings: CurveSettings
    load: Callable[[int], Split]
    build: Callable[[int], tff_dp.ModelSpec]
    pooled: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
    score: Callable[[np.ndarray, np.ndarray], Mapping[str, float]]
    measures: Mapping[str, int]
    better: str


def run(
    tasks: Sequence[Task],
    *,
    name: str,
    settings: Mapping[str, Any],
    out: pathlib.Path,
    notes: Callable[[pd.DataFrame], Mapping[str, Any]] | None = None,
) -> int:
    """Runs an experiment of this kind and writes its results.

    Args:
      tasks: One or several.
      name: The experiment.
      settings: Its settings, as its `main` got them.
      out: Its folder.
      notes: From the summary to what else belongs in the results; it is printed as well.

    Returns:
      0, the exit code.

    Raises:
      ArgumentError: A setting is outside its bound, or the folder has other results.
    """
    of = {task.name: task for task in tasks}
    cells = [
        cell for task in tasks for cell in _cells.grid(_settings_of(task), task.settings.seeds)
    ]
    split = functools.lru_cache(maxsize=1)(lambda name, seed: of[name].load(seed))
    # Whatever is wrong with the settings shows before TensorFlow is imported.
    for task in tasks:
        task.settings.algorithm()
    plans = {
        (task.name, epsilon): task.settings.plan(
            split(task.name, task.settings.seeds[0]).train.num_clients, epsilon
        )
        for task in tasks
        for epsilon in (None, *task.settings.target_epsilons)
    }

    def compute(cell: _cells.Cell, folder: pathlib.Path) -> dict[str, Any]:
        task, method = of[cell.setting["task"]], cell.setting["method"]
        data = split(task.name, cell.seed)
        if method == "pooled":
            outputs = task.pooled(*_pooled(data), data.test_x)
            return {**task.score(data.test_y, outputs), "epsilon spent": math.inf}
        plan = None if method == "federated" else plans[task.name, cell.setting["epsilon"]]
        return _trained(task, data, plan, cell.seed, folder)

    with _training.session():
        finished = _cells.run(cells, compute, settings=settings, out=out)
    measures = {key: places for task in tasks for key, places in task.measures.items()}
    measures |= {_DIFFERENCE: 4, "noise multiplier": 3, "epsilon spent": 3}
    by = ["task", "method", "epsilon"] if len(tasks) > 1 else ["method", "epsilon"]
    rows = with_differences(finished.rows, {task.name: next(iter(task.measures)) for task in tasks})
    found = dict(notes(_tables.summary(rows, by=by, measures=list(measures)))) if notes else {}
    _report.publish(
        finished,
        name=name,
        settings=settings,
        by=by,
        measures=list(measures),
        decimals=measures,
        plots=[functools.partial(_plot, tasks)],
        rows=rows,
        notes=found,
    )
    for key, value in found.items():
        print(f"{key}: {value}")
    return 0


def with_differences(
    rows: Sequence[Mapping[str, Any]], measures: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Adds the difference to the federated model of the same task and seed.

    Args:
      rows: The rows of all cells.
      measures: The measure of each task.

    Returns:
      The rows with one measure more.
    """
    base = {
        (row["task"], row["seed"]): row[measures[row["task"]]]
        for row in rows
        if row["method"] == "federated"
    }
    return [
        {**row, _DIFFERENCE: row[measures[row["task"]]] - base[row["task"], row["seed"]]}
        for row in rows
    ]


def _settings_of(task: Task) -> list[dict[str, Any]]:
    without = [{"task": task.name, "method": name, "epsilon": None} for name in _WITHOUT]
    return without + [
        {"task": task.name, "method": "private", "epsilon": float(epsilon)}
        for epsilon in sorted(task.settings.target_epsilons, reverse=True)
    ]


def _pooled(data: Split) -> tuple[np.ndarray, np.ndarray]:
    x, y = data.train.pooled()
    return np.asarray(x), np.ravel(np.asarray(y))


def _trained(
    task: Task,
    data: Split,
    plan: tff_dp.PrivacyPlan | None,
    seed: int,
    folder: pathlib.Path,
) -> dict[str, Any]:
    """Trains federated, with or without a plan, and scores the model."""
    mine = task.settings
    sampler = tff_dp.PoissonSampler(rate=mine.cohort / data.train.num_clients)
    result = _training.train(
        task.build(data.test_x.shape[1]),
        data.train,
        folder=folder,
        privacy=plan or tff_dp.NoPrivacy(sampler=sampler),
        rounds=mine.rounds,
        algorithm=mine.algorithm(),
        batch_size=mine.batch_size,
        epochs=mine.epochs,
        seed=seed,
    )
    outputs = np.ravel(_training.outputs_of(result.model, data.test_x))
    return {
        **task.score(data.test_y, outputs),
        "epsilon spent": result.epsilon,
        "noise multiplier": plan.mechanism.noise_multiplier if plan else None,
        "rounds": len(result.history),
    }


def _plot(tasks: Sequence[Task], table: pd.DataFrame, out: pathlib.Path) -> pathlib.Path:
    panels = []
    for task in tasks:
        mine = table[table["task"] == task.name] if len(tasks) > 1 else table
        measure = next(iter(task.measures))
        panels.append(_panel(mine, measure, task.name, task.better))
        # The federated one has no difference to itself, and is the line at 0.
        panels.append(
            _panel(
                mine, _DIFFERENCE, "difference to federated, same seed", f"{measure}, difference"
            )
        )
    return _plots.draw(panels, out / "against_epsilon.png", columns=2)


def _panel(table: pd.DataFrame, measure: str, title: str, y_label: str) -> _plots.Panel:
    private = table[table["method"] == "private"].sort_values("epsilon")
    levels = [
        _plots.Level(label=name, y=table[table["method"] == name][measure].iloc[0])
        for name in _WITHOUT
    ]
    return _plots.Panel(
        title=title,
        x_label="epsilon (smaller: more private)",
        y_label=y_label,
        curves=[
            _plots.Curve(
                label="private",
                x=private["epsilon"].tolist(),
                y=private[measure].tolist(),
                spread=private[measure + _tables.SPREAD].tolist(),
            )
        ],
        levels=levels,
    )


def binary_scores(labels: np.ndarray, logits: np.ndarray) -> dict[str, float]:
    """Returns the AUC and the mean log loss of logits.

    Args:
      labels: 0 or 1, shape [n].
      logits: Shape [n].
    """
    from sklearn.metrics import roc_auc_score

    signs = np.where(np.ravel(labels) > 0, 1.0, -1.0)
    losses = np.logaddexp(0.0, -signs * logits.astype(np.float64))
    return {"AUC": float(roc_auc_score(signs, logits)), "log loss": float(losses.mean())}


def logistic_model(features: int) -> tff_dp.ModelSpec:
    """Returns a logistic regression.

    Args:
      features: Number of features; >= 1.
    """
    from models import logistic  # needs Keras, and so TensorFlow

    return logistic.build(features=features)


def pooled_logistic(x: np.ndarray, y: np.ndarray, test_x: np.ndarray) -> np.ndarray:
    """Returns the logits of scikit-learn's logistic regression, nearly without regularization.

    Args:
      x: Shape [n, features].
      y: 0 or 1, shape [n].
      test_x: Shape [m, features].
    """
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=1e3, max_iter=2000).fit(x, y)
    return np.asarray(model.decision_function(test_x))
