"""Privacy accounting: epsilon for rounds of a mechanism under a sampler, and calibration to an epsilon.

Calibration finds the noise multiplier, the number of rounds or the cohort that reaches a target.
"""

from tff_dp.accounting.accountants import quick_epsilon, spend
from tff_dp.accounting.arithmetic import Arithmetic
from tff_dp.accounting.calibration import calibrate_cohort, calibrate_noise, calibrate_rounds
from tff_dp.accounting.distributed import (
    DistributedGaussianRound,
    DistributedSkellamRound,
    skellam_rdp,
    sum_of_discrete_gaussians_rdp,
)
from tff_dp.accounting.events import GaussianRound, Round, check_delta, recommended_delta
from tff_dp.accounting.joint import quick_joint_epsilon, spend_jointly
from tff_dp.accounting.record import RecordRound, check_records
from tff_dp.accounting.report import EpsilonReport
from tff_dp.accounting.rounds import arithmetic_of, round_of

__all__ = [
    "Arithmetic",
    "DistributedGaussianRound",
    "DistributedSkellamRound",
    "EpsilonReport",
    "GaussianRound",
    "RecordRound",
    "Round",
    "arithmetic_of",
    "calibrate_cohort",
    "calibrate_noise",
    "calibrate_rounds",
    "check_delta",
    "check_records",
    "quick_epsilon",
    "quick_joint_epsilon",
    "recommended_delta",
    "round_of",
    "skellam_rdp",
    "spend",
    "spend_jointly",
    "sum_of_discrete_gaussians_rdp",
]
