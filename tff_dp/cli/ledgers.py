"""The command `tff-dp ledger`, which summarizes a ledger."""

from __future__ import annotations

import argparse
import pathlib
from typing import Any

from tff_dp.cli.shown import facts_of, lines_of, number
from tff_dp.errors import ArgumentError


def add_options(command: argparse.ArgumentParser) -> None:
    """Adds the options of the command `tff-dp ledger`.

    Args:
      command: The parser of the command.
    """
    command.add_argument("file", metavar="FILE", help="the ledger; its .head file lies beside it")
    command.add_argument(
        "--delta", type=float, help="of the joint epsilon; default: the plans' smallest"
    )
    command.add_argument("--json", action="store_true", help="print an object instead of text")


def found(options: argparse.Namespace) -> dict[str, Any]:
    """Summarizes a ledger.

    Args:
      options: The options of the command.

    Returns:
      The plans, the charged rounds and the joint epsilon, as values that JSON can represent.

    Raises:
      ArgumentError: There is no such file, or delta is outside its bound.
      LedgerError: The ledger is damaged.
      AccountingError: No accountant applies to its plans together.
    """
    if not pathlib.Path(options.file).is_file():
        raise ArgumentError(f"{options.file!r} is no file: expected the path of a ledger.")
    from tff_dp.ledger import summarize

    summary = summarize(options.file, options.delta)
    spent, first = summary.spent, summary.plans[0]
    return {
        "ledger": options.file,
        "whole": True,  # reading a damaged ledger raises LedgerError
        "torn_line": summary.torn,
        **facts_of(spent),
        "unit": first.unit.value,
        "adjacency": first.adjacency.value,
        "population": first.population,
        "rounds": spent.rounds,
        "plans": [_plan(summary.charges, first, plan, spent.delta) for plan in summary.plans],
        "versions": [dict(versions) for versions in summary.versions],
    }


def _plan(charges: Any, first: Any, plan: Any, delta: float) -> dict[str, Any]:
    from tff_dp.accounting import spend
    from tff_dp.charges import differences

    runs = charges.of(plan)
    return {
        "plan": plan.to_dict(),
        "differs": {name: list(pair) for name, pair in differences(first, plan).items()},
        "runs": [[run.start, run.stop - 1] for run in runs],
        "rounds": sum(map(len, runs)),
        "epsilon_alone": number(spend(plan.one_round(), runs, delta, plan.arithmetic).epsilon),
        "described": f"{plan.mechanism}, {plan.sampler}, {plan.rounds} rounds at most, "
        f"delta {plan.delta:g}",
    }


def block(answer: dict[str, Any]) -> str:
    """Formats the summary of a ledger as text. Every epsilon is rounded up.

    Args:
      answer: The summary, as `found` returns it.

    Returns:
      Lines of names and values.
    """
    from tff_dp.accounting.report import format_epsilon
    from tff_dp.charges import shortened

    torn = ", but for a torn last line, whose round was not run" if answer["torn_line"] else ""
    together = "of all plans together, " if len(answer["plans"]) > 1 else ""
    lines = [
        ("ledger", answer["ledger"]),
        ("whole", f"yes{torn}"),
        *lines_of(answer, together),
        ("unit", f"a {answer['unit']}"),
        ("adjacency", answer["adjacency"]),
        ("population", str(answer["population"])),
        ("rounds", f"{answer['rounds']} charged"),
    ]
    for place, plan in enumerate(answer["plans"], 1):
        runs = ", ".join(f"{first} to {last}" for first, last in plan["runs"]) or "none"
        lines += [
            (f"plan {place}", plan["described"]),
            ("  rounds", f"{plan['rounds']}, by run: {runs}"),
            ("  alone", f"epsilon {format_epsilon(float(plan['epsilon_alone']))}"),
        ]
        lines += [
            ("  differs", f"{name}: {one} in plan 1, {two} here")
            for name, (one, two) in shortened(plan["differs"]).items()
        ]
    lines += [
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items()))
        for versions in answer["versions"]
    ]
    width = max(len(name) for name, _ in lines) + 2
    return "\n".join(f"{name:{width}}{value}" for name, value in lines)
