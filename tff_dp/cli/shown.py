"""The results of the commands, as JSON objects or as text."""

from __future__ import annotations

import argparse
import math
from typing import Any

from tff_dp.cli.mechanisms import kind_of
from tff_dp.cli.options import OF_SAMPLINGS

_UNITS = {
    "client": "a client, with all its examples, over all rounds",
    "record": "a record, over all rounds, of the client that has fewest",
}


def result(options: argparse.Namespace, one_round: Any, report: Any) -> dict[str, Any]:
    """Converts the result of epsilon or calibrate to an object.

    Args:
      options: The options of the command, after `check`.
      one_round: The round that was accounted for, a `tff_dp.accounting.Round`.
      report: The report of all rounds, a `tff_dp.accounting.EpsilonReport`.

    Returns:
      The result with the description of the rounds, as values that JSON can represent.

    Raises:
      ArgumentError: The sampler cannot draw cohorts for so many rounds.
    """
    one_round.sampler.check_rounds(options.population, report.rounds)
    return {
        **facts_of(report),
        "unit": "client" if options.records is None else "record",
        "adjacency": report.adjacency.value,
        "sampling": options.sampling if options.records is None else "full",
        "sampling_rate": getattr(one_round.sampler, "rate", None),
        "cohort": options.cohort,
        "population": options.population,
        **{
            name: getattr(options, name)
            for name in (*OF_SAMPLINGS, *kind_of(options.mechanism).names, "records")
            if getattr(options, name) is not None
        },
        "mechanism": options.mechanism,
        "noise_multiplier": one_round.noise_multiplier,
        "rounds": report.rounds,
    }


def facts_of(report: Any) -> dict[str, Any]:
    """Converts a report to an object.

    Args:
      report: A `tff_dp.accounting.EpsilonReport`.

    Returns:
      The values of the report, as values that JSON can represent.
    """
    return {
        "epsilon": number(report.epsilon),
        "delta": report.delta,
        "lower_bound": None if report.lower_bound is None else number(report.lower_bound),
        "arithmetic_epsilon": report.arithmetic_epsilon,
        "arithmetic_delta": report.arithmetic_delta,
        "reported": report.accountant,
        "accountants": {name: number(value) for name, value in report.values.items()},
        "refused": dict(report.refused),
    }


def number(value: float) -> float | str:
    """Converts a number for JSON, which cannot represent infinity.

    Args:
      value: The number.

    Returns:
      The number if it is finite, otherwise "inf".
    """
    return value if math.isfinite(value) else "inf"


def lines_of(found: dict[str, Any], of_what: str = "") -> list[tuple[str, str]]:
    """Formats the values of a report. Every epsilon that may be reported is rounded up.

    Args:
      found: The values, as `facts_of` returns them.
      of_what: What the epsilon covers, such as "of all plans together, ".

    Returns:
      Pairs of a name and a text, one for each line.
    """
    from tff_dp.accounting.report import format_epsilon, format_lower

    least, charged = found["lower_bound"], found["arithmetic_epsilon"]
    of_these = f"epsilon {charged:.2g} and delta {found['arithmetic_delta']:.2g} of these"
    return [
        (
            "epsilon",
            f"{format_epsilon(float(found['epsilon']))}, {of_what}to report (by {found['reported']})",
        ),
        (
            "at least",
            "not known" if least is None else f"{format_lower(float(least))}, by any accountant",
        ),
        ("delta", f"{found['delta']:g}"),
        (
            "arithmetic",
            f"{of_these}, for computed noise"
            if charged
            else "nothing is charged for computed noise",
        ),
        *(
            (f"by {name}", format_epsilon(float(value)))
            for name, value in found["accountants"].items()
        ),
        *((f"not by {name}", reason) for name, reason in found["refused"].items()),
    ]


def block(found: dict[str, Any]) -> str:
    """Formats the result of epsilon or calibrate as text. Every epsilon is rounded up.

    Args:
      found: The result, as `result` returns it.

    Returns:
      Lines of names and values.
    """
    sampling = {
        "poisson": "Poisson: each client participates in a round independently",
        "fixed": "cohorts of one size, without replacement",
        "separated": "cohorts of one size, with a minimum distance between a client's rounds",
        "cyclic": "Poisson, from one part of the clients after another",
        "full": "every client in every round",
    }[found["sampling"]]
    details = [
        ("rate", found["sampling_rate"]),
        ("cohort", found["cohort"]),
        ("population", found["population"]),
        *((name.replace("_", " "), found.get(name)) for name in OF_SAMPLINGS),
    ]
    known = ", ".join(f"{name} {value:g}" for name, value in details if value is not None)
    noise = repr(found["noise_multiplier"])  # not rounded: less noise would have a larger epsilon
    names = [name for name in kind_of(found["mechanism"]).names if name in found]
    own = "".join(f", {name.replace('_', ' ')} {found[name]}" for name in names)
    lines = [
        *lines_of(found),
        ("unit", _UNITS[found["unit"]]),
        ("adjacency", found["adjacency"]),
        ("sampling", f"{sampling}{' (' + known + ')' if known else ''}"),
        ("mechanism", f"{found['mechanism']}, noise multiplier {noise}{own}"),
        ("rounds", str(found["rounds"])),
    ]
    if "found" in found:
        value = {"rounds": found["rounds"], "cohort": found["cohort"]}.get(found["found"])
        text = repr(found["noise_multiplier"]) if value is None else str(value)
        target = f"for epsilon {found['target_epsilon']:g}"
        lines.insert(0, (found["found"].replace("-", " "), f"{text}, {target}"))
    width = max(len(name) for name, _ in lines) + 2
    return "\n".join(f"{name:{width}}{value}" for name, value in lines)
