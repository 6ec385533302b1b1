"""Tables over seeds: mean, standard deviation and number of seeds, as CSV and Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

SPREAD = " sd"  # of a measure's column, for its standard deviation over seeds


def summary(
    rows: Sequence[Mapping[str, Any]], *, by: Sequence[str], measures: Sequence[str]
) -> pd.DataFrame:
    """Summarizes results over seeds.

    Args:
      rows: One dictionary a setting and seed, as of `Finished.rows`.
      by: The names of the setting; settings without one of them have None there.
      measures: The names of numbers. None and NaN stand for what a setting does not have.

    Returns:
      A frame with one row a setting, in the order of the rows: the setting, "seeds", and for each
      measure its mean and, under its name with " sd" appended, its standard deviation (with n - 1 in
      the denominator; NaN for one seed).
    """
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(key) for key in by), []).append(row)
    lines = []
    for key, members in groups.items():
        line = {**dict(zip(by, key, strict=True)), "seeds": len({row["seed"] for row in members})}
        for measure in measures:
            values = pd.Series([row.get(measure) for row in members], dtype=float)
            line |= {measure: values.mean(), measure + SPREAD: _spread(values)}
        lines.append(line)
    return pd.DataFrame(lines)


def _spread(values: pd.Series) -> float:
    """Returns the standard deviation; 0 where all values are one, which may be infinite."""
    return 0.0 if len(values) > 1 and values.nunique() == 1 else float(values.std())


def markdown(
    table: pd.DataFrame,
    *,
    by: Sequence[str],
    measures: Sequence[str],
    decimals: Mapping[str, int] | None = None,
    intervals: Mapping[str, tuple[str, str]] | None = None,
) -> str:
    """Writes a summary as a Markdown table.

    Args:
      table: From `summary`.
      by: As for `summary`.
      measures: Those of the summary to show.
      decimals: How many decimals of a measure to show; 3 by default.
      intervals: The measures that are the bounds of a measure's interval, shown in brackets.

    Returns:
      The lines, each measure as "mean ± standard deviation".
    """
    decimals, intervals = decimals or {}, intervals or {}
    heads = [*by, "seeds", *measures]
    lines = [
        "| " + " | ".join(heads) + " |",
        "|" + "---|" * len(by) + "---:|" * (len(heads) - len(by)),
    ]
    for _, row in table.iterrows():
        cells = [_setting(row[key]) for key in by] + [str(int(row["seeds"]))]
        for measure in measures:
            places = decimals.get(measure, 3)
            text = _number(row[measure], places)
            if row[measure + SPREAD] > 0:
                text += f" ± {_number(row[measure + SPREAD], places)}"
            if measure in intervals and text:
                low, high = (_number(row[bound], places) for bound in intervals[measure])
                text += f" [{low}, {high}]"
            cells.append(text)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _number(value: float, places: int) -> str:
    if math.isnan(value):
        return ""
    return "inf" if math.isinf(value) else f"{value:.{places}f}"


def _setting(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)
