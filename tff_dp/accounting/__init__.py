"""Epsilon for rounds of a sampled Gaussian mechanism, and noise for an epsilon."""

from tff_dp.accounting.accountants import EpsilonReport, spend
from tff_dp.accounting.calibration import calibrate_noise
from tff_dp.accounting.events import GaussianRound, recommended_delta

__all__ = ["EpsilonReport", "GaussianRound", "calibrate_noise", "recommended_delta", "spend"]
