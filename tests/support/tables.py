"""Tables of parameters of which a part that has each value runs by default, and the rest is full."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable
from typing import Any

import pytest


def covered(*axes: Iterable[Any], by: Collection[tuple[Any, ...]]) -> list[Any]:
    """Returns all combinations of some axes: for a claim that does not depend on the combination.

    Args:
      axes: The values of each parameter.
      by: The combinations that run by default, in which each value of each axis is.

    Returns:
      The parameters of `pytest.mark.parametrize`; all but those by default are marked `full`.
    """
    axes = [list(axis) for axis in axes]
    combinations = list(itertools.product(*axes))
    assert all(each in combinations for each in by)
    for place, axis in enumerate(axes):
        missing = [value for value in axis if all(value != each[place] for each in by)]
        assert not missing, f"no combination that runs by default has {missing}"
    return [
        pytest.param(*each, marks=() if each in by else pytest.mark.full) for each in combinations
    ]
