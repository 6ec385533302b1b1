"""The command `tff-dp selftest`: it runs a self-test and prints the report."""

from __future__ import annotations

import json
from typing import Any

from tff_dp import _compat
from tff_dp.plan import PrivacyPlan
from tff_dp.selftest.testable import check_plan


def run(plan: PrivacyPlan, *, as_json: bool, thorough: bool = False) -> int:
    """Tests a plan and prints the report.

    Args:
      plan: The plan.
      as_json: Whether to print JSON instead of text.
      thorough: As for `self_test`.

    Returns:
      The exit code: 0 if every check has passed, and 1 otherwise.

    Raises:
      ArgumentError: The plan cannot be tested.
      StackError: TFF cannot be imported.
    """
    check_plan(plan)  # before the seconds that TFF's import takes
    with _compat.quiet.quiet_import():
        from tff_dp.selftest.suite import self_test  # which imports TFF
    report = self_test(plan, thorough=thorough)
    found: Any = json.dumps(report.to_dict(), indent=1) if as_json else report.text()
    print(found)
    return 0 if report.passed else 1
