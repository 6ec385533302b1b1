"""Medicine, 4 hospitals: what do they gain by training together, and what does it cost with privacy?

The data are those of `experiments.data.heart`: whether an angiogram found a heart disease. Compared are

- "pooled" and "local only": scikit-learn's logistic regression on all training patients at one place,
  and one model a hospital, which is tried on its own patients;
- "federated": no patient leaves a hospital, and there is no privacy beyond that;
- "record-level": the same by DP-SGD, with a guarantee for each patient of each hospital;
- "client-level": a guarantee for each hospital as a whole, which is meaningless here. Noise that hides
  one of four hospitals has to be a quarter as large as all that they find together, or larger, so that
  it hides that as well. And what would it protect? That a hospital takes part is no secret, and no
  patient is one of four.

The AUC is that of pairs of patients of one hospital: the hospitals' shares of the diseased differ so
much (36 to 93 %) that telling hospitals apart would look like telling patients apart.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from experiments import _cells, _plots, _report, _scores, _silos, _tables, _training
from experiments.data import Split, heart

_LEVELS = ("pooled", "federated", "local only")
_PRIVATE = ("record-level", "client-level")


def main(settings: Mapping[str, Any], out: pathlib.Path) -> int:
    """Runs the experiment and writes its results.

    Args:
      settings: The sections "grid", "federated", "record" and "client".
      out: The folder of the experiment.

    Returns:
      0, the exit code.
    """
    mine = _silos.GridSettings.from_dict(settings["grid"])
    methods = _silos.methods_of(settings)
    split = functools.lru_cache(maxsize=1)(
        lambda seed: heart.load(held_out=mine.held_out, seed=seed)
    )
    sizes = split(mine.seeds[0]).train.sizes.tolist()
    plans = _silos.plans_of(methods, sizes, mine.target_epsilons)
    grid: list[dict[str, Any]] = [{"method": method, "epsilon": None} for method in _LEVELS]
    grid += [
        {"method": method, "epsilon": epsilon}
        for wanted in _PRIVATE
        for method, epsilon in plans
        if method == wanted
    ]

    def compute(cell: _cells.Cell, folder: pathlib.Path) -> dict[str, Any]:
        data, method = split(cell.seed), cell.setting["method"]
        if method in ("pooled", "local only"):
            return _scored(data, _baseline(data, by_hospital=method == "local only"))
        plan = plans.get((method, cell.setting["epsilon"]))
        result = _silos.train(methods[method], data.train, plan, seed=cell.seed, folder=folder)
        outputs = np.ravel(_training.outputs_of(result.model, data.test_x))
        return _scored(data, outputs) | _silos.spent(result, plan)

    with _training.session():
        finished = _cells.run(_cells.grid(grid, mine.seeds), compute, settings=settings, out=out)
    hospitals = [f"AUC {name}" for name in heart.HOSPITALS]
    _report.publish(
        finished,
        name="medicine_silos",
        settings=settings,
        by=["method", "epsilon"],
        measures=["AUC", *hospitals, "noise multiplier", "epsilon spent"],
        intervals={"AUC": ("AUC low", "AUC high")},
        decimals={"noise multiplier": 2, "epsilon spent": 3},
        plots=[_plot],
    )
    return 0


def _baseline(data: Split, *, by_hospital: bool) -> np.ndarray:
    """Returns what scikit-learn's models say of the held-out patients."""
    from sklearn.linear_model import LogisticRegression

    outputs = np.zeros(len(data.test_y))
    train = data.train
    for position, name in enumerate(train.ids):
        x, y = train.client(position) if by_hospital else train.pooled()
        model = LogisticRegression(max_iter=2000).fit(np.asarray(x), np.ravel(np.asarray(y)))
        mine = data.test_ids == name
        outputs[mine] = model.decision_function(data.test_x[mine])
    return outputs


def _scored(data: Split, outputs: np.ndarray) -> dict[str, Any]:
    """Returns the AUC within hospitals with its interval, and each hospital's own."""
    found = _scores.auc_within(data.test_y, outputs, data.test_ids)
    result: dict[str, Any] = {"AUC": found.value, "AUC low": found.low, "AUC high": found.high}
    for name in heart.HOSPITALS:
        mine = data.test_ids == name
        both = len(np.unique(data.test_y[mine])) == 2
        result[f"AUC {name}"] = (
            _scores.auc(data.test_y[mine], outputs[mine]).value if both else None
        )
    return result


def _plot(table: pd.DataFrame, out: pathlib.Path) -> pathlib.Path:
    measures = ["AUC", *(f"AUC {name}" for name in heart.HOSPITALS)]
    return _plots.draw(
        [_panel(table, measure) for measure in measures], out / "against_epsilon.png"
    )


def _panel(table: pd.DataFrame, measure: str) -> _plots.Panel:
    """Returns one panel; the bars are standard deviations over seeds."""
    spread = measure + _tables.SPREAD
    curves = []
    for method in _PRIVATE:
        rows = table[table["method"] == method].sort_values("epsilon")
        curves.append(
            _plots.Curve(
                label=method, x=rows["epsilon"].tolist(), y=rows[measure].tolist(),
                spread=rows[spread].tolist(),
            )
        )  # fmt: skip
    levels = [
        _plots.Level(label=method, y=table[table["method"] == method][measure].iloc[0])
        for method in _LEVELS
    ]
    where = measure.removeprefix("AUC").strip()
    return _plots.Panel(
        title=where or "all hospitals, pairs within one",
        x_label="epsilon (smaller: more private)",
        y_label="AUC on patients held out",
        curves=curves,
        levels=levels,
    )
