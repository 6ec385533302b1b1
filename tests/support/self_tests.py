"""Plans that the tests of the self-test share, and a report that says what it is told to."""

from __future__ import annotations

import math

from tff_dp.mechanisms import AdaptiveGaussianMechanism, GaussianMechanism
from tff_dp.plan import PrivacyPlan
from tff_dp.selftest import Check, SelfTestReport

CLIP, M = 0.5, 20.0
FIXED = GaussianMechanism(clip_norm=CLIP, noise_multiplier=1.0)
ADAPTIVE = AdaptiveGaussianMechanism(noise_multiplier=1.0, initial_clip_norm=CLIP)


def a_plan(mechanism=FIXED, **changes) -> PrivacyPlan:
    arguments = {"population": 1000, "cohort": M, "rounds": 3, "delta": 1e-5}
    return PrivacyPlan(mechanism=mechanism, **(arguments | changes))


def a_report(*measured: float) -> SelfTestReport:
    checks = [
        Check(name=f"check {i}", measured=value, low=-math.inf, high=1.0, unit="clients",
              where="round 2", false_positive=1e-7)
        for i, value in enumerate(measured)
    ]  # fmt: skip
    return SelfTestReport(plan=a_plan(), checks=tuple(checks))
