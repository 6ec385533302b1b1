"""What was found, as an object or as text."""

from __future__ import annotations

import argparse
import math
from typing import Any

from tff_dp.cli.options import OF_MECHANISMS, OF_SAMPLINGS

_UNITS = {
    "client": "a client, with all its examples, over all rounds",
    "record": "a record, over all rounds, of the client that has fewest",
}


def result(options: argparse.Namespace, one_round: Any, report: Any) -> dict[str, Any]:
    """Returns what was found, in terms that JSON knows."""
    one_round.sampler.check_rounds(options.population, report.rounds)
    return {
        "epsilon": _number(report.epsilon),
        "delta": report.delta,
        "lower_bound": None if report.lower_bound is None else _number(report.lower_bound),
        "arithmetic_epsilon": report.arithmetic_epsilon,
        "arithmetic_delta": report.arithmetic_delta,
        "accountants": {name: _number(value) for name, value in report.values.items()},
        "refused": dict(report.refused),
        "reported": report.accountant,
        "unit": "client" if options.records is None else "record",
        "adjacency": report.adjacency.value,
        "sampling": options.sampling if options.records is None else "full",
        "sampling_rate": getattr(one_round.sampler, "rate", None),
        "cohort": options.cohort,
        "population": options.population,
        **{
            name: getattr(options, name)
            for name in (*OF_SAMPLINGS, *OF_MECHANISMS, "records")
            if getattr(options, name) is not None
        },
        "mechanism": options.mechanism,
        "noise_multiplier": one_round.noise_multiplier,
        "rounds": report.rounds,
    }


def _number(value: float) -> float | str:
    return value if math.isfinite(value) else "inf"  # which JSON has no number for


def _least(found: dict[str, Any]) -> str:
    from tff_dp.accounting.report import format_lower

    least = found["lower_bound"]
    if least is None:
        return "not known"
    return f"{format_lower(float(least))}, whoever computes it"


def _charged(found: dict[str, Any]) -> str:
    epsilon, delta = found["arithmetic_epsilon"], found["arithmetic_delta"]
    if not epsilon:
        return "nothing is charged for computed noise"
    return f"epsilon {epsilon:.2g} and delta {delta:.2g} of these, for computed noise"


def block(found: dict[str, Any]) -> str:
    """Returns what was found as text, every epsilon rounded up."""
    from tff_dp.accounting.report import format_epsilon

    sampling = {
        "poisson": "Poisson: each client takes part in a round by a coin of its own",
        "fixed": "cohorts of one size, without replacement",
        "separated": "cohorts of one size, no client again too soon",
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
    noise = repr(found["noise_multiplier"])  # not rounded: less noise is another epsilon
    own = "".join(
        f", {name.replace('_', ' ')} {found[name]}" for name in OF_MECHANISMS if name in found
    )
    lines = [
        (
            "epsilon",
            f"{format_epsilon(float(found['epsilon']))}, to report (by {found['reported']})",
        ),
        ("at least", _least(found)),
        ("delta", f"{found['delta']:g}"),
        ("arithmetic", _charged(found)),
        *(
            (f"by {name}", format_epsilon(float(value)))
            for name, value in found["accountants"].items()
        ),
        *((f"not by {name}", reason) for name, reason in found["refused"].items()),
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
