"""Epsilon for rounds of a sampled Gaussian mechanism; noise, rounds or a cohort for an epsilon."""

from tff_dp.accounting.accountants import EpsilonReport, spend
from tff_dp.accounting.calibration import calibrate_cohort, calibrate_noise, calibrate_rounds
from tff_dp.accounting.events import GaussianRound, check_delta, recommended_delta

__all__ = [
    "EpsilonReport",
    "GaussianRound",
    "calibrate_cohort",
    "calibrate_noise",
    "calibrate_rounds",
    "check_delta",
    "recommended_delta",
    "spend",
]
