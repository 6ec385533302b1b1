"""A plan as a person reads it."""

from __future__ import annotations

import math
from typing import Any

from tff_dp import _checks, _html
from tff_dp.accounting.report import format_epsilon


def parts_of(plan: Any) -> list[tuple[str, str]]:
    """Returns what a plan says, by name.

    Args:
      plan: A `PrivacyPlan`.

    Returns:
      Names with values as texts.
    """
    epsilon = math.inf
    if plan.mechanism.noise_multiplier > 0:
        epsilon = plan.epsilon().epsilon
    whom = [("clients", f"{plan.population:,}")]
    if plan.records is not None:
        whom.append(("records of each client", _checks.brief(plan.records)))
    return [
        ("protects", f"{plan.unit.value}s"),
        ("neighboring data sets", plan.adjacency.value),
        ("mechanism", str(plan.mechanism)),
        *whom,
        ("cohorts", f"{plan.sampler}, {plan.clients_per_round:g} clients a round expected"),
        ("rounds", f"{plan.rounds:,}"),
        *[("released metric", str(metric)) for metric in plan.metrics],
        ("epsilon of all rounds", f"{format_epsilon(epsilon)} at delta {plan.delta:g}"),
    ]


def text_of(plan: Any) -> str:
    """Returns a plan in one line a part.

    Args:
      plan: A `PrivacyPlan`.

    Returns:
      The lines.
    """
    return "\n".join(["PrivacyPlan", *(f"  {name}: {value}" for name, value in parts_of(plan))])


def html_of(plan: Any) -> str:
    """Returns a plan as a table.

    Args:
      plan: A `PrivacyPlan`.

    Returns:
      HTML in which everything is escaped.
    """
    return _html.pairs("Privacy plan", parts_of(plan))
