"""`python -m experiments.epsilon_cases [MODULE:FUNCTION]`: judges a function by known mistakes."""

from __future__ import annotations

import argparse
import importlib
import math
import pathlib
import sys
from collections.abc import Callable
from typing import Any

from experiments.epsilon_cases import suite

_OURS = "experiments.epsilon_cases.ours:epsilon"


def main(arguments: list[str] | None = None) -> int:
    """Judges a function; returns 0, 1 if an answer is proven wrong, and 2 if there is no such function.

    Args:
      arguments: Those of the command line; None for this process's own.
    """
    parser = argparse.ArgumentParser(
        prog="python -m experiments.epsilon_cases", description=__doc__
    )
    parser.add_argument(
        "function", metavar="MODULE:FUNCTION", nargs="?", default=_OURS,
        help="called with the inputs of each case; returns an epsilon, or raises NotImplementedError for "
        "what it refuses. tff_dp's own by default",
    )  # fmt: skip
    parser.add_argument(
        "--explain", metavar="CASE", help="say all that is known of a case, and end"
    )
    options = parser.parse_args(arguments)
    cases = suite.load()
    if options.explain is not None:
        return _explain(options.explain, cases)
    try:
        function = _found(options.function)
    except (ImportError, AttributeError, ValueError) as error:
        print(
            f"error: MODULE:FUNCTION={options.function!r} cannot be imported: {error}.",
            file=sys.stderr,
        )
        return 2
    verdicts = suite.judge(function, cases)
    print(suite.table(verdicts))
    wrong = sum(each.is_wrong for each in verdicts)
    refused = sum(each.answer is None for each in verdicts)
    holds = len(cases) - wrong - refused
    print(f"{len(cases)} cases: {wrong} proven wrong, {refused} refused, {holds} hold.")
    return 1 if wrong else 0


def _found(text: str) -> Callable[[dict[str, Any]], float]:
    module, colon, name = text.partition(":")
    if not colon:
        raise ValueError("expected a module, a colon and a function")
    sys.path.insert(0, str(pathlib.Path.cwd()))
    found: Callable[[dict[str, Any]], float] = getattr(importlib.import_module(module), name)
    return found


def _explain(name: str, cases: tuple[suite.Case, ...]) -> int:
    for case in cases:
        if case.name == name:
            print(f"{case.question}\n\nInputs: {dict(case.inputs)}\n")
            print(f"Wrong:    {suite.shown(case.wrong)}. {case.mistake}")
            print(f"At least: {suite.shown(case.lower_bound, math.floor)}. {case.proof}")
            print(f"Valid:    {suite.shown(case.valid, math.ceil)}. {case.refusal or ''}".rstrip())
            print(f"Source:   {case.source}.")
            print(f"Seen:     {case.seen}.")
            return 0
    known = ", ".join(case.name for case in cases)
    print(f"error: --explain={name!r} is no case: expected one of {known}.", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
