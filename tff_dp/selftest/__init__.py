"""End-to-end checks that the running mechanism satisfies the assumptions of its accounting.

Hostile clients go through the learning process that trains under the plan. Without noise, the
influence of one client is measured; with noise, the distribution of the noise. `tff-dp selftest`
runs the checks from the command line.
"""

from tff_dp.selftest.report import Check, SelfTestReport
from tff_dp.selftest.suite import self_test

__all__ = ["Check", "SelfTestReport", "self_test"]
