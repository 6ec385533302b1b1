"""Whether a plan's mechanism does, where it runs, what its accounting takes for granted.

Hostile clients go through the learning process that trains under the plan: with the noise off, one
client's influence is measured; with it on, its distribution. `tff-dp selftest` does it from the command
line.
"""

from tff_dp.selftest.report import Check, SelfTestReport
from tff_dp.selftest.suite import self_test

__all__ = ["Check", "SelfTestReport", "self_test"]
