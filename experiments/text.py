"""Text, the next character over Shakespeare's roles: DP-FTRL tree, banded noise, or DP-FedAvg?

The data are those of `experiments.data.shakespeare`: a role is a client, and a fifth of the roles is
held out. All methods train the same model for the same number of rounds, with as many clients in each:
`experiments._correlated` has their plans. Beside them are federated averaging without privacy; tables of
counts from all training text at one place, without privacy either; and a table of pairs that is
released under a plan, all at once and without any training.

Each private method is tuned at each epsilon by itself: the clip norm and the server's momentum, over one
grid, on another split than those of the results. Federated averaging is tuned over as many candidates.
What this tuning would cost is in no epsilon. The mechanisms' own parameters are chosen by formula,
without data.
"""

from __future__ import annotations

import functools
import math
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

import tff_dp
from experiments import _cells, _plots, _report, _tables, _training
from experiments._correlated import METHODS, details, noise_of_sums
from experiments._counts import Table, plan_of_pairs, private_pairs
from experiments._text_settings import Candidate, TextSettings, TuningSettings
from experiments.data import Split, shakespeare

_TABLES = {"most frequent character": 0, "bigram table": 1, "trigram table": 2}
_FEDERATED, _PAIRS = "federated", "private bigram table"
_MEASURES = {
    "accuracy": 4, "bits": 3, "difference": 4, "noise": 1, "noise multiplier": 2, "clip norm": 2,
    "momentum": 1, "epsilon spent": 3, "epsilon if known": 2,
}  # fmt: skip


def main(settings: Mapping[str, Any], out: pathlib.Path) -> int:
    """Runs the experiment and writes its results.

    Args:
      settings: The sections "text" and "tuning".
      out: The folder of the experiment.

    Returns:
      0, the exit code.

    Raises:
      ArgumentError: A setting is outside its bound, or `out` has other results.
    """
    return _Experiment(settings, out).run()


class _Experiment:
    """Three grids of cells, one after another: noise by formula, tuning, and the results."""

    def __init__(self, settings: Mapping[str, Any], out: pathlib.Path) -> None:
        self._all, self._out = settings, out
        self._text = TextSettings.from_dict(settings["text"])
        self._tuning = TuningSettings.from_dict(settings["tuning"])
        self._split = functools.lru_cache(maxsize=1)(self._text.load)
        self._plan = functools.lru_cache(maxsize=None)(self._calibrated)
        # Whatever is wrong with the settings shows before anything is made.
        self._rounds = self._text.rounds_of(self._split(self._tuning.seed).train.num_clients)
        for method in METHODS:
            self._rounds.candidates(method)
        for candidate in self._tuning.every:
            candidate.algorithm()

    def run(self) -> int:
        noise = self._finished(self._noise_grid(), [0], self._noise)
        with _training.session():
            tuning = self._finished(self._tuning_grid(), [self._tuning.seed], self._tuned)
            chosen = best_of(tuning.rows)
            results = self._finished(
                self._result_grid(), self._text.seeds, functools.partial(self._result, chosen)
            )
        rows = with_differences(results.rows)
        for name, found in (("noise", noise), ("tuning", tuning)):
            pd.DataFrame(found.rows).to_csv(self._out / f"{name}.csv", index=False)
        _report.publish(
            _cells.Finished(out=self._out, cells=[*noise.cells, *tuning.cells, *results.cells]),
            name="text",
            settings=self._all,
            by=["method", "epsilon"],
            measures=list(_MEASURES),
            decimals=_MEASURES,
            plots=[functools.partial(_plot, pd.DataFrame(noise.rows))],
            rows=rows,
        )
        return 0

    def _finished(self, grid: list[dict[str, Any]], seeds: Any, compute: Any) -> _cells.Finished:
        return _cells.run(_cells.grid(grid, seeds), compute, settings=self._all, out=self._out)

    def _noise_grid(self) -> list[dict[str, Any]]:
        wanted = sorted({*self._text.curve, *self._text.target_epsilons})
        return [
            {"part": "noise", "method": method, "epsilon": float(epsilon)}
            for method in METHODS
            for epsilon in wanted
        ]

    def _tuning_grid(self) -> list[dict[str, Any]]:
        return [
            {"part": "tuning", **key, **candidate.setting}
            for key in self._keys()
            for candidate in self._tuning.candidates(private=key["epsilon"] is not None)
        ]

    def _result_grid(self) -> list[dict[str, Any]]:
        tables = [{"method": name, "epsilon": None} for name in _TABLES]
        pairs = [{"method": _PAIRS, "epsilon": epsilon} for epsilon in self._targets()]
        return tables + self._keys() + pairs

    def _targets(self) -> list[float]:
        return sorted(map(float, self._text.target_epsilons), reverse=True)

    def _keys(self) -> list[dict[str, Any]]:
        """Returns what is trained: a method and an epsilon, which is None without privacy."""
        private = [
            {"method": m, "epsilon": epsilon} for epsilon in self._targets() for m in METHODS
        ]
        return [{"method": _FEDERATED, "epsilon": None}, *private]

    def _calibrated(self, method: str, epsilon: float) -> tff_dp.PrivacyPlan:
        return self._rounds.best(method, epsilon)

    def _noise(self, cell: _cells.Cell, folder: pathlib.Path) -> dict[str, Any]:
        del folder
        plan = self._plan(cell.setting["method"], cell.setting["epsilon"])
        return {
            "noise": noise_of_sums(plan),
            "noise multiplier": plan.mechanism.noise_multiplier,
            "chosen": details(plan),
            "epsilon spent": plan.epsilon().epsilon,
            "epsilon if known": self._rounds.known_epsilon(plan),
        }

    def _tuned(self, cell: _cells.Cell, folder: pathlib.Path) -> dict[str, Any]:
        return self._trained(cell, Candidate.of(cell.setting), folder)

    def _result(
        self, chosen: Mapping[Any, Candidate], cell: _cells.Cell, folder: pathlib.Path
    ) -> dict[str, Any]:
        method, epsilon = cell.setting["method"], cell.setting["epsilon"]
        if method in _TABLES:
            return self._counted(self._split(cell.seed), _TABLES[method])
        if method == _PAIRS:
            return self._released(self._split(cell.seed), epsilon)
        candidate = chosen[method, epsilon]
        found = self._trained(cell, candidate, folder) | candidate.setting
        return found if epsilon is None else self._noise(cell, folder) | found

    def _counted(self, data: Split, context: int) -> dict[str, Any]:
        x, y = (np.asarray(part) for part in data.train.pooled())
        table = Table.of(x, y, context=context, vocabulary=shakespeare.CHARACTERS)
        logits = np.log(table.predict(data.test_x))
        return scores(data.test_y, logits) | {"epsilon spent": math.inf}

    def _released(self, data: Split, epsilon: float) -> dict[str, Any]:
        plan = plan_of_pairs(data.train.num_clients, self._text.delta, epsilon)
        pairs = private_pairs(data.train, vocabulary=shakespeare.CHARACTERS, plan=plan)
        logits = np.log(Table.of_pairs(pairs).predict(data.test_x))
        spent = plan.epsilon().epsilon
        return scores(data.test_y, logits) | {
            "noise multiplier": plan.mechanism.noise_multiplier,
            "epsilon spent": spent,
            "epsilon if known": spent,
        }

    def _trained(
        self, cell: _cells.Cell, candidate: Candidate, folder: pathlib.Path
    ) -> dict[str, Any]:
        """Trains with or without a plan, and scores the model on roles that are held out."""
        data, epsilon = self._split(cell.seed), cell.setting["epsilon"]
        if epsilon is None:
            rate = self._text.cohort / data.train.num_clients
            privacy: Any = tff_dp.NoPrivacy(sampler=tff_dp.PoissonSampler(rate=rate))
        else:
            privacy = candidate.clipped(self._plan(cell.setting["method"], epsilon))
        # A cell takes seconds: what was left of one that was killed is not gone on with, so that all
        # trainings have the same rounds.
        shutil.rmtree(folder / "run", ignore_errors=True)
        _training.seeded(cell.seed)
        result = _training.train(
            self._text.build(),
            data.train,
            folder=folder,
            privacy=privacy,
            rounds=self._text.rounds,
            algorithm=candidate.algorithm(),
            batch_size=self._text.batch_size,
            seed=cell.seed,
            save_every=self._text.rounds,
        )
        outputs = _training.outputs_of(result.model, data.test_x)
        return scores(data.test_y, outputs) | {
            "epsilon spent": result.epsilon,
            "rounds": len(result.history),
        }


def scores(labels: np.ndarray, logits: np.ndarray) -> dict[str, float]:
    """Returns the share of characters that are predicted, and the bits that each one costs.

    Args:
      labels: The next characters, shape [sequences, length].
      logits: Shape [sequences, length, characters].
    """
    logits = logits.astype(np.float64)
    top = logits.max(axis=-1, keepdims=True)
    normalizer = np.log(np.exp(logits - top).sum(axis=-1)) + top[..., 0]
    right = np.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    return {
        "accuracy": float((logits.argmax(axis=-1) == labels).mean()),
        "bits": float((normalizer - right).mean() / math.log(2)),
    }


def best_of(rows: list[dict[str, Any]]) -> dict[tuple[str, float | None], Candidate]:
    """Chooses the candidate of the highest accuracy for each method and epsilon.

    Args:
      rows: Those of the tuning cells. A model whose numbers are not finite is never the best.

    Returns:
      The candidates.
    """
    found: dict[tuple[str, float | None], dict[str, Any]] = {}
    for row in rows:
        key = row["method"], row["epsilon"]
        if key not in found or _rank(row) > _rank(found[key]):
            found[key] = row
    return {key: Candidate.of(row) for key, row in found.items()}


def _rank(row: Mapping[str, Any]) -> float:
    return row["accuracy"] if math.isfinite(row["bits"]) else -1.0


def with_differences(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Adds the difference of the accuracy to that of federated averaging with the same seed.

    Args:
      rows: The rows of the results.
    """
    base = {row["seed"]: row["accuracy"] for row in rows if row["method"] == _FEDERATED}
    return [{**row, "difference": row["accuracy"] - base[row["seed"]]} for row in rows]


def _plot(noise: pd.DataFrame, table: pd.DataFrame, out: pathlib.Path) -> pathlib.Path:
    x_label = "epsilon (smaller: more private)"
    by_formula, measured = [], []
    for method in METHODS:
        mine = noise[noise["method"] == method].sort_values("epsilon")
        by_formula.append(
            _plots.Curve(label=method, x=mine["epsilon"].tolist(), y=mine["noise"].tolist())
        )
    for method in (*METHODS, _PAIRS):
        rows = table[table["method"] == method].sort_values("epsilon")
        measured.append(
            _plots.Curve(
                label=method, x=rows["epsilon"].tolist(), y=rows["accuracy"].tolist(),
                spread=rows["accuracy" + _tables.SPREAD].tolist(),
            )
        )  # fmt: skip
    levels = [
        _plots.Level(label=name, y=table[table["method"] == name]["accuracy"].iloc[0])
        for name in (_FEDERATED, *reversed(_TABLES))
    ]
    panels = [
        _plots.Panel(
            title="noise by formula",
            x_label=x_label,
            y_label="noise of the running sums, in clip norms",
            curves=by_formula,
            log_y=True,
        ),
        _plots.Panel(
            title="accuracy after training",
            x_label=x_label,
            y_label="next characters predicted, roles held out",
            curves=measured,
            levels=levels,
        ),
    ]
    return _plots.draw(panels, out / "against_epsilon.png", columns=2)
