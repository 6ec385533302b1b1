"""Privacy plans: unit of privacy, mechanism, sampler, number of rounds and delta, as one object."""

from tff_dp.mechanisms import Unit
from tff_dp.plan.no_privacy import NoPrivacy
from tff_dp.plan.privacy_plan import PrivacyPlan

__all__ = ["NoPrivacy", "PrivacyPlan", "Unit"]
