"""End-to-end checks that the running mechanism satisfies the assumptions of its accounting.

Hostile clients go through the learning process that trains under the plan. Without noise, the
influence of one client is measured; with noise, the distribution of the noise. `tff-dp selftest`
runs the checks from the command line.
For a mechanism of your own, `tff_dp.mechanisms.register_law` says what its `Law` is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tff_dp.selftest.laws import GAUSSIAN_LAW, LAPLACE_LAW, Law, l1_norm, l2_norm
from tff_dp.selftest.report import Check, SelfTestReport

if TYPE_CHECKING:
    from tff_dp.selftest.suite import self_test

__all__ = [
    "GAUSSIAN_LAW",
    "LAPLACE_LAW",
    "Check",
    "Law",
    "SelfTestReport",
    "l1_norm",
    "l2_norm",
    "self_test",
]


def __getattr__(name: str) -> Any:
    if name != "self_test":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Here and not at the top, since it imports TFF: the command refuses a wrong plan before that.
    from tff_dp.selftest.suite import self_test

    return self_test
