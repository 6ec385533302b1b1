"""Privacy accounting: epsilon for rounds of a mechanism under a sampler, and calibration to an epsilon.

Calibration finds the noise multiplier, the number of rounds or the cohort that reaches a target.

A mechanism of your own gets its accounting by `register_round`; a round of your own that is no
`GaussianRound` derives from `IndependentRound`, and has its accountants by `register_accountants`.
"""

from tff_dp.accounting.accountants import (
    exact_epsilon,
    of_one_round,
    pairs_of,
    quick_epsilon,
    rdp_epsilon,
    spend,
)
from tff_dp.accounting.arithmetic import Arithmetic
from tff_dp.accounting.calibration import calibrate_cohort, calibrate_noise, calibrate_rounds
from tff_dp.accounting.distributed import (
    DistributedGaussianRound,
    DistributedSkellamRound,
    skellam_rdp,
    sum_of_discrete_gaussians_rdp,
)
from tff_dp.accounting.events import (
    GaussianRound,
    IndependentRound,
    Round,
    check_delta,
    recommended_delta,
)
from tff_dp.accounting.joint import quick_joint_epsilon, spend_jointly
from tff_dp.accounting.record import RecordRound, check_records
from tff_dp.accounting.registry import accountants_of, register_accountants
from tff_dp.accounting.report import EpsilonReport
from tff_dp.accounting.rounds import arithmetic_of, register_round, round_of
from tff_dp.accounting.tradeoff import FALSE_POSITIVE_RATES, PrivacyProfile, privacy_profile

__all__ = [
    "FALSE_POSITIVE_RATES",
    "Arithmetic",
    "DistributedGaussianRound",
    "DistributedSkellamRound",
    "EpsilonReport",
    "GaussianRound",
    "IndependentRound",
    "PrivacyProfile",
    "RecordRound",
    "Round",
    "accountants_of",
    "arithmetic_of",
    "calibrate_cohort",
    "calibrate_noise",
    "calibrate_rounds",
    "check_delta",
    "check_records",
    "exact_epsilon",
    "of_one_round",
    "pairs_of",
    "privacy_profile",
    "quick_epsilon",
    "quick_joint_epsilon",
    "rdp_epsilon",
    "recommended_delta",
    "register_accountants",
    "register_round",
    "round_of",
    "skellam_rdp",
    "spend",
    "spend_jointly",
    "sum_of_discrete_gaussians_rdp",
]
