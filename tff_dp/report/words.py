"""Figures in words that a person understands, rounded so that they never promise too much."""

from __future__ import annotations

import decimal
import math
from typing import Any

from tff_dp.accounting.report import format_epsilon, format_lower


def percent(share: float) -> str:
    """Formats an upper bound on a probability in percent, rounded up.

    Args:
      share: The probability, in [0, 1].

    Returns:
      A text such as "3.91 %", with three digits, and never below the bound.
    """
    if share in (0.0, 1.0):
        return f"{share * 100:g}\N{NO-BREAK SPACE}%"
    exact = decimal.Decimal(repr(float(share))) * 100
    places = 2 - exact.adjusted()
    rounded = exact.quantize(decimal.Decimal(1).scaleb(-places), decimal.ROUND_CEILING)
    return f"{min(rounded, decimal.Decimal(100)):f}\N{NO-BREAK SPACE}%"


def bound(value: Any, digits: int = 3) -> str:
    """Formats an upper bound, rounded up.

    Args:
      value: A number, "inf", or None for a bound that is not known.
      digits: The number of decimal places.

    Returns:
      The text.
    """
    if value is None:
        return "not known"
    value = float(value)
    return "none (infinite)" if math.isinf(value) else format_epsilon(value, digits)


def at_least(value: Any) -> str:
    """Formats a lower bound, rounded down.

    Args:
      value: A number, "inf", or None for a bound that is not known.

    Returns:
      The text.
    """
    return "not known" if value is None else format_lower(float(value))


def exact(value: Any) -> str:
    """Formats a value that is not rounded, such as a setting.

    Args:
      value: A plain value.

    Returns:
      The text; a dash for None.
    """
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return repr(value) if not value.is_integer() or abs(value) >= 1e15 else f"{value:.0f}"
    if isinstance(value, list):
        more = f" and {len(value) - 12} more" if len(value) > 12 else ""
        return ", ".join(exact(each) for each in value[:12]) + more
    if isinstance(value, dict):
        return ", ".join(f"{name} {exact(each)}" for name, each in value.items())
    return str(value)


def test_of_membership(test: dict[str, float], unit: str) -> str:
    """Says in words how well the best test of membership does.

    Args:
      test: A false positive rate and the bound on the true positive rate.
      unit: What is recognized: "client" or "record".

    Returns:
      Two sentences.
    """
    wrong, right = test["false_positive_rate"], test["true_positive_rate"]
    return (
        f"A test that accuses {_of_thousand(wrong)} of 1000 {unit}s that did not take part recognizes "
        f"at most {percent(right)} of those that did. By guessing it would recognize "
        f"{wrong * 100:g}\N{NO-BREAK SPACE}%."
    )


def _of_thousand(share: float) -> str:
    return f"{share * 1000:g}"
