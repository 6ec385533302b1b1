"""Education, client-level privacy for 1,928 schools: what does it cost to predict grades in chemistry?

The data are those of `experiments.data.chem97`. Linear regression predicts a student's score, logistic
regression whether it is an A or a B. A school is a client, with all students.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

import tff_dp
from experiments import _curve
from experiments.data import chem97


def main(settings: Mapping[str, Any], out: pathlib.Path) -> int:
    """Runs the experiment and writes its results.

    Args:
      settings: The sections "linear" and "logistic".
      out: The folder of the experiment.

    Returns:
      0, the exit code.
    """
    linear = _curve.CurveSettings.from_dict(settings["linear"])
    logistic = _curve.CurveSettings.from_dict(settings["logistic"])
    tasks = [
        _curve.Task(
            name="score (linear)",
            settings=linear,
            load=lambda seed: chem97.load(held_out=linear.held_out, seed=seed),
            build=_linear,
            pooled=_least_squares,
            score=_regression_scores,
            measures={"R2": 4, "RMSE in points": 4},
            better="R2 on schools held out",
        ),
        _curve.Task(
            name="grade A or B (logistic)",
            settings=logistic,
            load=lambda seed: chem97.load(held_out=logistic.held_out, seed=seed, label="high"),
            build=_curve.logistic_model,
            pooled=_curve.pooled_logistic,
            score=_curve.binary_scores,
            measures={"AUC": 4, "log loss": 4},
            better="AUC on schools held out",
        ),
    ]
    return _curve.run(tasks, name="education", settings=settings, out=out)


def _linear(features: int) -> tff_dp.ModelSpec:
    from models import linear  # needs Keras, and so TensorFlow

    return linear.build(features=features)


def _least_squares(x: np.ndarray, y: np.ndarray, test_x: np.ndarray) -> np.ndarray:
    from sklearn.linear_model import LinearRegression

    return np.asarray(LinearRegression().fit(x, y).predict(test_x))


def _regression_scores(labels: np.ndarray, outputs: np.ndarray) -> dict[str, float]:
    """Returns the share of explained variance, and the error in points of the score."""
    labels = np.ravel(labels).astype(np.float64)
    error = float(np.mean((outputs - labels) ** 2))
    return {"R2": 1 - error / float(labels.var()), "RMSE in points": 5 * error**0.5}
