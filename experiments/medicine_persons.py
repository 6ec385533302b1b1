"""Medicine, client-level privacy for 4,730 persons: what does it cost to predict who needs a doctor?

The data are those of `experiments.data.randhie`: whether a person has medical expenses in a year. A
person is a client, with all years. The goal: at epsilon 4, an AUC within .02 of the one without privacy.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import pandas as pd

from experiments import _curve
from experiments.data import randhie

_GOAL_EPSILON, _GOAL_LOSS = 4.0, 0.02


def main(settings: Mapping[str, Any], out: pathlib.Path) -> int:
    """Runs the experiment and writes its results.

    Args:
      settings: The section "training".
      out: The folder of the experiment.

    Returns:
      0, the exit code.
    """
    mine = _curve.CurveSettings.from_dict(settings["training"])
    task = _curve.Task(
        name="medical expenses in a year",
        settings=mine,
        load=lambda seed: randhie.load(held_out=mine.held_out, seed=seed),
        build=_curve.logistic_model,
        pooled=_curve.pooled_logistic,
        score=_curve.binary_scores,
        measures={"AUC": 4, "log loss": 4},
        better="AUC on persons held out",
    )
    return _curve.run([task], name="medicine_persons", settings=settings, out=out, notes=_goal)


def _goal(table: pd.DataFrame) -> dict[str, Any]:
    """Says whether the goal is met, where the settings have its epsilon."""
    private = table[(table["method"] == "private") & (table["epsilon"] == _GOAL_EPSILON)]
    if private.empty:
        return {}
    without = table[table["method"] == "federated"]["AUC"].iloc[0]
    lost = without - private["AUC"].iloc[0]
    verdict = "met" if lost <= _GOAL_LOSS else "missed"
    return {"goal": f"AUC lost at epsilon 4: {lost:.4f}, allowed {_GOAL_LOSS}: {verdict}"}
