"""The history of a run in the forms in which people read it: pandas, Keras, HTML."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from tff_dp import _html
from tff_dp.accounting.report import format_epsilon
from tff_dp.errors import StackError

_ROWS = 10  # at most so many rounds are shown


class Record(Protocol):
    """The part of a `RoundRecord` that is shown."""

    @property
    def round_number(self) -> int:
        """The round, from 1."""

    @property
    def epsilon(self) -> float:
        """An upper bound on the epsilon so far."""

    @property
    def metrics(self) -> Mapping[str, float] | None:
        """The training metrics; None if they are not released."""

    @property
    def validation(self) -> Mapping[str, float] | None:
        """The validation metrics; None if the round has none."""


class Result(Protocol):
    """The part of a `FitResult` that is shown."""

    @property
    def history(self) -> Sequence[Record]:
        """The record of each round."""

    def statement(self) -> str:
        """States the guarantee.

        Returns:
          The guarantee in words.
        """


def keras_history_of(history: Sequence[Record]) -> dict[str, list[float]]:
    """Returns records as Keras's `History.history`.

    Args:
      history: The records.

    Returns:
      For each metric, its values in the order of the rounds.
    """
    found: dict[str, list[float]] = {}
    for record in history:
        for name, value in {**(record.metrics or {}), **(record.validation or {})}.items():
            found.setdefault(name, []).append(value)
        if math.isfinite(record.epsilon):
            found.setdefault("epsilon", []).append(record.epsilon)
    return found


def frame_of(history: Sequence[Record]) -> Any:
    """Returns records as a pandas frame.

    Args:
      history: The records.

    Returns:
      The frame, with one row a round.

    Raises:
      StackError: pandas is not installed.
    """
    try:
        pandas = importlib.import_module("pandas")
    except ImportError as error:
        raise StackError(
            "frame() needs the package pandas, which is not installed. Install it (pip install pandas), "
            "or use keras_history(), which returns lists."
        ) from error
    rows = [
        {"epsilon": record.epsilon, **(record.metrics or {}), **(record.validation or {})}
        for record in history
    ]
    numbers = [record.round_number for record in history]
    columns = [*dict.fromkeys(name for row in rows for name in row)] or ["epsilon"]
    index = pandas.Index(numbers, name="round", dtype="int64")
    return pandas.DataFrame(rows, index=index, columns=columns)


def html_of(result: Result) -> str:
    """Returns a result as HTML: the statement, and the last rounds.

    Args:
      result: The result.

    Returns:
      HTML in which everything is escaped.
    """
    last = result.history[-_ROWS:]
    values = [{**(record.metrics or {}), **(record.validation or {})} for record in last]
    names = [*dict.fromkeys(name for row in values for name in row)]
    rows = [
        [
            str(record.round_number),
            format_epsilon(record.epsilon),
            *(f"{row[name]:.4g}" if name in row else "" for name in names),
        ]
        for record, row in zip(last, values, strict=True)
    ]
    shown = _html.table(["round", "epsilon at most", *names], rows) if rows else ""
    return _html.paragraphs(result.statement()) + shown
