"""The command `tff-dp selftest`: which plan it tests, and what it prints."""

from __future__ import annotations

import argparse
import json
import pathlib
import tomllib
from typing import Any

from tff_dp import _compat
from tff_dp.errors import ArgumentError
from tff_dp.plan import PrivacyPlan
from tff_dp.selftest.suite import self_test

# What is not given. A thousand clients, a hundred a round: where adaptive clipping has room, too.
_DEFAULTS = {"noise_multiplier": 1.0, "clip_norm": 1.0, "rounds": 100, "population": 1000}
_COHORT = 100
_OF_THE_PLAN = (*_DEFAULTS, "delta", "sampling_rate", "cohort", "adjacency")
_CHOSEN = {"mechanism": "gaussian", "sampling": "poisson"}  # what the parser puts in


def read_plan(path: str, options: argparse.Namespace) -> PrivacyPlan:
    """Returns the plan in a file.

    Args:
      path: A file with what `PrivacyPlan.to_dict` returns, as TOML if it ends in .toml, else as JSON.
      options: The command's; none of them may describe a plan as well.

    Raises:
      ArgumentError: The file cannot be read or holds no plan, or options describe another one.
      AccountingError: The plan cannot be accounted for.
    """
    given = [name for name in _OF_THE_PLAN if getattr(options, name) is not None]
    given += [name for name, value in _CHOSEN.items() if getattr(options, name) != value]
    if given:
        raise ArgumentError(
            f"--plan={path!r} with --{given[0].replace('_', '-')}: the plan in the file has it already. "
            "Leave out one of them."
        )
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8")
        values = tomllib.loads(text) if path.endswith(".toml") else json.loads(text)
    except (OSError, ValueError) as error:  # both parsers raise kinds of ValueError
        raise ArgumentError(
            f"--plan={path!r} cannot be read: {error}. Expected what PrivacyPlan.to_dict returns, as "
            "JSON, or as TOML under a name that ends in .toml."
        ) from None
    if not isinstance(values, dict):
        raise ArgumentError(
            f"--plan={path!r} holds no object: expected that of PrivacyPlan.to_dict."
        )
    return PrivacyPlan.from_dict(values)


def fill(options: argparse.Namespace) -> None:
    """Puts defaults into the options that describe a plan and were not given."""
    for name, value in _DEFAULTS.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if options.sampling != "full" and options.cohort is None and options.sampling_rate is None:
        options.cohort = min(_COHORT, options.population)


def run(plan: PrivacyPlan, *, as_json: bool, thorough: bool = False) -> int:
    """Tests a plan and prints what was found.

    Args:
      plan: The plan.
      as_json: Whether to print for programs.
      thorough: See `self_test`.

    Returns:
      The exit code: 0 if every check has passed, or 1.

    Raises:
      ArgumentError: The plan cannot be tested.
      StackError: TFF cannot be imported.
    """
    with _compat.quiet_import():
        _compat.load_tff()
    report = self_test(plan, thorough=thorough)
    found: Any = json.dumps(report.to_dict(), indent=1) if as_json else report.text()
    print(found)
    return 0 if report.passed else 1
