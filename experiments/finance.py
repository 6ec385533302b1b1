"""Finance, 50 states: a guarantee for each state or for each loan, at the same epsilon?

The data are those of `experiments.data.lending_club`: which loan goes bad (5.2 % do). A state is a
client. "client-level" hides a whole state, and trusts the server; "record-level" hides a loan, and each
state adds its own noise and trusts nobody. Both are run with all states and with the larger ones only,
since the smallest state sets the noise of the record-level guarantee.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

import tff_dp
from experiments import _cells, _curve, _plots, _report, _silos, _tables, _training
from experiments.data import Split, lending_club

_LEVELS = ("pooled", "federated")
_PRIVATE = ("record-level", "client-level")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinanceGrid(_silos.GridSettings):
    """The [grid] section.

    Attributes:
      smallest: For each part of the experiment, the fewest training loans of a state that takes part.
    """

    smallest: Sequence[int]


def main(settings: Mapping[str, Any], out: pathlib.Path) -> int:
    """Runs the experiment and writes its results.

    Args:
      settings: The sections "grid", "federated", "record" and "client".
      out: The folder of the experiment.

    Returns:
      0, the exit code.
    """
    mine = FinanceGrid.from_dict(settings["grid"])
    methods = _silos.methods_of(settings)
    split = functools.lru_cache(maxsize=1)(
        lambda seed: lending_club.load(held_out=mine.held_out, seed=seed)
    )
    parts: dict[str, int] = {}  # the fewest loans by the name of a part
    plans: dict[tuple[str, str, float], tff_dp.PrivacyPlan] = {}
    grid: list[dict[str, Any]] = []
    for fewest in mine.smallest:
        states = _large(split(mine.seeds[0]).train, fewest)
        part = f"{states.num_clients} with {states.sizes.min()} loans or more"
        found = _silos.plans_of(methods, states.sizes.tolist(), mine.target_epsilons)
        parts[part] = fewest
        plans |= {(part, *key): plan for key, plan in found.items()}
        rows: list[tuple[str, float | None]] = [(method, None) for method in _LEVELS]
        rows += [key for wanted in _PRIVATE for key in found if key[0] == wanted]
        grid += [{"states": part, "method": name, "epsilon": epsilon} for name, epsilon in rows]

    def compute(cell: _cells.Cell, folder: pathlib.Path) -> dict[str, Any]:
        data, method = split(cell.seed), cell.setting["method"]
        states = _large(data.train, parts[cell.setting["states"]])
        if method == "pooled":
            x, y = (np.asarray(fields) for fields in states.pooled())
            return _scored(data, _curve.pooled_logistic(x, np.ravel(y), data.test_x))
        plan = plans.get((cell.setting["states"], method, cell.setting["epsilon"]))
        result = _silos.train(methods[method], states, plan, seed=cell.seed, folder=folder)
        outputs = np.ravel(_training.outputs_of(result.model, data.test_x))
        return _scored(data, outputs) | _silos.spent(result, plan)

    with _training.session():
        finished = _cells.run(_cells.grid(grid, mine.seeds), compute, settings=settings, out=out)
    _report.publish(
        finished,
        name="finance",
        settings=settings,
        by=["states", "method", "epsilon"],
        measures=["AUC", "log loss", "noise multiplier", "epsilon spent"],
        decimals={"noise multiplier": 2},
        plots=[lambda table, folder: _plot(table, folder, list(parts))],
    )
    return 0


def _large(states: tff_dp.Clients, fewest: int) -> tff_dp.Clients:
    """Returns the states with at least so many training loans."""
    return states.subset(np.flatnonzero(np.asarray(states.sizes) >= fewest))


def _scored(data: Split, outputs: np.ndarray) -> dict[str, Any]:
    return dict(_curve.binary_scores(data.test_y, outputs))


def _plot(table: pd.DataFrame, out: pathlib.Path, parts: Sequence[str]) -> pathlib.Path:
    panels = []
    spread = table["AUC" + _tables.SPREAD].fillna(0.0)
    # One range for all panels, which are compared.
    y_range = (table["AUC"] - spread).min() - 0.01, (table["AUC"] + spread).max() + 0.01
    for part in parts:
        mine = table[table["states"] == part]
        curves = []
        for method in _PRIVATE:
            rows = mine[mine["method"] == method].sort_values("epsilon")
            curves.append(
                _plots.Curve(
                    label=method, x=rows["epsilon"].tolist(), y=rows["AUC"].tolist(),
                    spread=rows["AUC" + _tables.SPREAD].tolist(),
                )
            )  # fmt: skip
        levels = [
            _plots.Level(label=method, y=mine[mine["method"] == method]["AUC"].iloc[0])
            for method in _LEVELS
        ]
        panels.append(
            _plots.Panel(
                title=f"states: {part}",
                x_label="epsilon (smaller: more private)",
                y_label="AUC on loans held out",
                curves=curves,
                levels=levels,
                y_range=y_range,
            )
        )
    return _plots.draw(panels, out / "against_epsilon.png")
