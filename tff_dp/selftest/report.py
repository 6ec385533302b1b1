"""The report of a self-test, for programs and for people."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from tff_dp.plan import PrivacyPlan


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
    """One measured value and its bounds.

    Attributes:
      name: The name of the check.
      measured: The worst value that was found, in `unit`.
      low: The smallest value that passes, in `unit`.
      high: The largest value that passes, in `unit`.
      unit: The unit of the three numbers.
      where: The algorithm, round or tensor to which the worst value belongs; "" if there is only
        one.
      false_positive: A bound on the probability that a correct implementation fails; 0 for
        deterministic checks.
    """

    name: str
    measured: float
    low: float
    high: float
    unit: str
    where: str = ""
    false_positive: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether the measured value is within its bounds; NaN never is."""
        return self.low <= self.measured <= self.high

    def bound(self) -> str:
        """Returns the bounds in words."""
        if math.isinf(self.low):
            return f"at most {self.high:.5g}"
        return f"in [{self.low:.5g}, {self.high:.5g}]"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelfTestReport:
    """The results of `self_test`.

    Attributes:
      plan: The plan that was tested.
      checks: Every check, in the order in which they were made.
      untested: Properties of the plan that no check has covered although a self-test covers them
        for other plans.
    """

    plan: PrivacyPlan
    checks: tuple[Check, ...]
    untested: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every check has passed."""
        return all(check.passed for check in self.checks)

    @property
    def failures(self) -> tuple[str, ...]:
        """The names of the checks that have failed."""
        return tuple(check.name for check in self.checks if not check.passed)

    @property
    def false_positive(self) -> float:
        """A bound on the probability that any check fails for a correct implementation."""
        return sum(check.false_positive for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as plain values for JSON; numbers that are not finite become texts."""
        return {
            "passed": self.passed,
            "false_positive": self.false_positive,
            "plan": self.plan.to_dict(),
            "untested": list(self.untested),
            "checks": [
                {
                    "name": check.name,
                    "passed": check.passed,
                    "measured": _number(check.measured),
                    "low": _number(check.low),
                    "high": _number(check.high),
                    "unit": check.unit,
                    "where": check.where,
                    "false_positive": check.false_positive,
                }
                for check in self.checks
            ],
        }

    def text(self) -> str:
        """Returns one line for each check and for each property without a check, and the verdict."""
        rows = [
            (
                "passed" if check.passed else "FAILED",
                check.name,
                f"{check.measured:.5g}",
                f"{check.bound()} {check.unit}",
            )
            for check in self.checks
        ]
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        lines = [
            "  ".join(
                [*(f"{cell:{width}}" for cell, width in zip(row, widths, strict=False)), row[3]]
            )
            + (f"; worst: {check.where}" if check.where and not check.passed else "")
            for row, check in zip(rows, self.checks, strict=True)
        ]
        failed = len(self.failures)
        verdict = (
            f"passed: all {len(rows)} checks"
            if self.passed
            else f"FAILED: {failed} of {len(rows)} checks; do not train under this plan"
        )
        return "\n".join(
            [
                f"{self.plan.mechanism}, {self.plan.clients_per_round:g} clients expected in a round",
                *lines,
                *(f"not tested: {what}" for what in self.untested),
                f"{verdict}. A correct implementation fails with probability at most "
                f"{self.false_positive:.0e}.",
            ]
        )


def _number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)
