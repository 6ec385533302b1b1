"""Tuning before training: each row of a table tries the same number of candidates, once, on other data.

The trials are cells of their own, with the seed and the data of tuning alone, and the candidate with the
best accuracy in them is trained with the seeds of the experiment. Several rows may share their trials. No
epsilon contains what the trials cost: `experiments.tune` is about that.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from experiments import _cells
from tff_dp.errors import ArgumentError

MEASURE = "accuracy"  # of a result, by which candidates are chosen
Candidate = Mapping[str, Any]
Train = Callable[[Mapping[str, Any], Candidate, int, bool, pathlib.Path], Mapping[str, Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the table, and what is tried for it.

    Attributes:
      setting: As of `_cells.Cell`.
      tuned_as: The setting of its trials, which other rows may share.
      candidates: What is tried, as names and plain values; equally many in all rows.
    """

    setting: Mapping[str, Any]
    tuned_as: Mapping[str, Any]
    candidates: Sequence[Candidate]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tuned:
    """The results of an experiment whose rows were tuned.

    Attributes:
      finished: Those of the rows with the experiment's seeds; each has the candidate that was chosen.
      trials: One dictionary a trial: its setting, candidate and result.
      seconds: What the trials took.
    """

    finished: _cells.Finished
    trials: Sequence[Mapping[str, Any]]
    seconds: float

    @property
    def notes(self) -> dict[str, Any]:
        """What belongs in the experiment's `results.json` of the trials."""
        return {"trials": list(self.trials), "seconds_of_trials": round(self.seconds, 1)}

    def save(self) -> None:
        """Writes `trials.csv`, a row a trial, beside the experiment's other files."""
        pd.DataFrame(self.trials).to_csv(self.finished.out / "trials.csv", index=False)


def run(
    rows: Sequence[Row],
    train: Train,
    *,
    tuning_seed: int,
    seeds: Sequence[int],
    settings: Mapping[str, Any],
    out: pathlib.Path,
) -> Tuned:
    """Tunes each row, and trains it with what was best.

    Args:
      rows: The rows, in the order of the table. Neighbors should share what can be shared, such as data
        and graphs: all trials and seeds of a row follow each other.
      train: From a setting, a candidate, a seed, whether it is a trial, and the folder of the cell to a
        result, which has the accuracy.
      tuning_seed: Of all trials.
      seeds: Of the trainings that are reported.
      settings: As for `_cells.run`.
      out: As for `_cells.run`.

    Returns:
      The results.

    Raises:
      ArgumentError: As `_cells.run`; or the rows differ in their number of candidates, or the seed of
        the trials is one of the others.
    """
    check(rows, tuning_seed, seeds)
    tried = {_key(row.tuned_as): row for row in rows}.values()
    trials = {
        _key(row.tuned_as, c): _cells.Cell(
            setting={"stage": "trial", **row.tuned_as, **c}, seed=tuning_seed
        )
        for row in tried
        for c in row.candidates
    }
    of_trial = {
        cell.name: (row.tuned_as, c)
        for row in tried
        for c in row.candidates
        for cell in [trials[_key(row.tuned_as, c)]]
    }

    def attempt(cell: _cells.Cell, folder: pathlib.Path) -> Mapping[str, Any]:
        setting, candidate = of_trial[cell.name]
        return train(setting, candidate, cell.seed, True, folder)

    found = _cells.run(list(trials.values()), attempt, settings=settings, out=out)
    scores = {key: cell["result"] for key, cell in zip(trials, found.cells, strict=True)}
    best = {_key(row.setting): best_of(row, scores) for row in rows}

    def final(cell: _cells.Cell, folder: pathlib.Path) -> Mapping[str, Any]:
        candidate = best[_key(cell.setting)]
        return {**train(cell.setting, candidate, cell.seed, False, folder), **candidate}

    cells = [_cells.Cell(setting=dict(row.setting), seed=seed) for row in rows for seed in seeds]
    return Tuned(
        finished=_cells.run(cells, final, settings=settings, out=out),
        trials=found.rows,
        seconds=sum(cell["seconds"] for cell in found.cells),
    )


def check(rows: Sequence[Row], tuning_seed: int, seeds: Sequence[int]) -> None:
    """Checks that all rows get the same effort, on data that are not those of the results.

    Args:
      rows: As for `run`.
      tuning_seed: As for `run`.
      seeds: As for `run`.

    Raises:
      ArgumentError: The rows differ in their number of candidates, or have none, or the seed of the
        trials is one of the others.
    """
    _cells.check_seeds(seeds)
    if tuning_seed in seeds:
        raise ArgumentError(
            f"tuning.seed={tuning_seed} is one of seeds={list(seeds)}: expected another one, since what "
            "is chosen by some data must be tested on others."
        )
    counts = sorted({len(row.candidates) for row in rows})
    if len(counts) != 1 or counts[0] < 1:
        raise ArgumentError(
            f"The numbers of candidates are {counts}: expected the same number, at least one, for each "
            "row, since whoever tries more finds better. Give lists of equal length."
        )


def best_of(row: Row, scores: Mapping[Any, Mapping[str, Any]]) -> Candidate:
    """Returns the candidate with the best accuracy; the first of equals.

    Args:
      row: The row.
      scores: The results of all trials.
    """
    return max(row.candidates, key=lambda c: float(scores[_key(row.tuned_as, c)][MEASURE]))


def _key(setting: Mapping[str, Any], candidate: Candidate | None = None) -> tuple[Any, ...]:
    return (*setting.items(), *(candidate or {}).items())
