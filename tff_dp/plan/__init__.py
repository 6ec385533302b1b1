"""The privacy plan: what is protected, from whom, by what, for how long."""

from tff_dp.mechanisms import Unit
from tff_dp.plan.no_privacy import NoPrivacy
from tff_dp.plan.privacy_plan import PrivacyPlan

__all__ = ["NoPrivacy", "PrivacyPlan", "Unit"]
