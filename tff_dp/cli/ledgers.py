"""The command `tff-dp ledger`: what a ledger says."""

from __future__ import annotations

import argparse
import math
import pathlib
from typing import Any


def add_options(command: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    command.add_argument("file", metavar="FILE", help="the ledger; its .head file lies beside it")
    command.add_argument(
        "--delta", type=float, help="of the joint epsilon; default: the plans' smallest"
    )
    command.add_argument("--json", action="store_true", help="print an object instead of text")


def found(options: argparse.Namespace) -> dict[str, Any]:
    """Returns what a ledger says, in terms that JSON knows.

    Raises:
      ArgumentError: There is no such file, or delta is outside its bound.
      LedgerError: The ledger is damaged.
      AccountingError: No accountant applies to its plans together.
    """
    from tff_dp.errors import ArgumentError
    from tff_dp.ledger import summarize

    if not pathlib.Path(options.file).is_file():
        raise ArgumentError(f"{options.file!r} is no file: expected the path of a ledger.")
    summary = summarize(options.file, options.delta)
    spent, first = summary.spent, summary.plans[0]
    return {
        "ledger": options.file,
        "whole": True,  # else there is an error
        "torn_line": summary.torn,
        "epsilon": _number(spent.epsilon),
        "delta": spent.delta,
        "lower_bound": None if spent.lower_bound is None else _number(spent.lower_bound),
        "arithmetic_epsilon": spent.arithmetic_epsilon,
        "arithmetic_delta": spent.arithmetic_delta,
        "reported": spent.accountant,
        "accountants": {name: _number(value) for name, value in spent.values.items()},
        "refused": dict(spent.refused),
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
        "epsilon_alone": _number(spend(plan.one_round(), runs, delta, plan.arithmetic).epsilon),
        "described": f"{plan.mechanism}, {plan.sampler}, {plan.rounds} rounds at most, "
        f"delta {plan.delta:g}",
    }


def _number(value: float) -> float | str:
    return value if math.isfinite(value) else "inf"  # which JSON has no number for


def _least(answer: dict[str, Any]) -> str:
    from tff_dp.accounting.report import format_lower

    least = answer["lower_bound"]
    return "not known" if least is None else f"{format_lower(float(least))}, whoever computes it"


def _charged(answer: dict[str, Any]) -> str:
    epsilon, delta = answer["arithmetic_epsilon"], answer["arithmetic_delta"]
    if not epsilon:
        return "nothing is charged for computed noise"
    return f"epsilon {epsilon:.2g} and delta {delta:.2g} of these, for computed noise"


def block(answer: dict[str, Any]) -> str:
    """Returns what a ledger says as text, every epsilon rounded up."""
    from tff_dp.accounting.report import format_epsilon

    torn = ", but for a torn last line, whose round was not run" if answer["torn_line"] else ""
    together = "of all plans together, " if len(answer["plans"]) > 1 else ""
    epsilon = format_epsilon(float(answer["epsilon"]))
    lines = [
        ("ledger", answer["ledger"]),
        ("whole", f"yes{torn}"),
        ("epsilon", f"{epsilon}, {together}to report (by {answer['reported']})"),
        ("at least", _least(answer)),
        ("delta", f"{answer['delta']:g}"),
        ("arithmetic", _charged(answer)),
        *((f"by {name}", format_epsilon(float(v))) for name, v in answer["accountants"].items()),
        *((f"not by {name}", reason) for name, reason in answer["refused"].items()),
        ("unit", f"a {answer['unit']}"),
        ("adjacency", answer["adjacency"]),
        ("population", str(answer["population"])),
        ("rounds", f"{answer['rounds']} charged"),
    ]
    for number, plan in enumerate(answer["plans"], 1):
        runs = ", ".join(f"{first} to {last}" for first, last in plan["runs"]) or "none"
        lines += [
            (f"plan {number}", plan["described"]),
            ("  rounds", f"{plan['rounds']}, by run: {runs}"),
            ("  alone", f"epsilon {format_epsilon(float(plan['epsilon_alone']))}"),
        ]
        lines += [
            ("  differs", f"{name}: {one!r} in plan 1, {two!r} here")
            for name, (one, two) in plan["differs"].items()
        ]
    lines += [
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items()))
        for versions in answer["versions"]
    ]
    width = max(len(name) for name, _ in lines) + 2
    return "\n".join(f"{name:{width}}{value}" for name, value in lines)
