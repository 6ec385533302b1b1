"""Tables of parameters of which a part that has each value runs by default, and the rest on request."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import pytest

Row = tuple[Any, ...]


def covered(
    *axes: Iterable[Any], by: Collection[Row], slow: Collection[Row] | None = ()
) -> list[Any]:
    """Returns all combinations of some axes: for a claim that does not depend on the combination.

    Args:
      axes: The values of each parameter.
      by: The combinations that run by default.
      slow: Those that run with the slow tests; None for all others. What is left is marked `full`.

    Returns:
      The parameters of `pytest.mark.parametrize`. Each value of each axis is in a combination that
      runs by default, or with the slow tests.
    """
    axes = [list(axis) for axis in axes]
    combinations = list(itertools.product(*axes))
    usual = [*by, *(slow or ())]
    assert all(each in combinations for each in usual)
    for place, axis in enumerate(axes):
        missing = [value for value in axis if all(value != each[place] for each in usual)]
        assert not missing, f"no combination that is not marked full has {missing}"
    return thinned(combinations, by=by, slow=slow)


def thinned(
    rows: Sequence[Any], *, by: Collection[Any], slow: Collection[Any] | None = None
) -> list[Any]:
    """Returns the rows of a table, of which some run by default: for rows that take the same way.

    Args:
      rows: The rows, each the value of one parameter or a tuple of several.
      by: Those that run by default.
      slow: Those that run with the slow tests; None for all others. What is left is marked `full`.

    Returns:
      The parameters of `pytest.mark.parametrize`.
    """
    assert all(each in rows for each in by)
    parameters = []
    for row in rows:
        mark = pytest.mark.slow if slow is None or row in slow else pytest.mark.full
        values = row if isinstance(row, tuple) else (row,)
        parameters.append(pytest.param(*values, marks=() if row in by else mark))
    return parameters


def slow(*values: Any) -> Any:
    """Returns a row of a table that runs with the slow tests."""
    return pytest.param(*values, marks=pytest.mark.slow)
