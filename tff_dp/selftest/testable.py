"""Which plans have a self-test: known without TensorFlow, so that others are refused at once."""

from __future__ import annotations

from tff_dp import _checks
from tff_dp.errors import ArgumentError
from tff_dp.mechanisms import (
    AdaptiveGaussianMechanism,
    DistributedGaussianMechanism,
    DistributedSkellamMechanism,
    PerLayerGaussianMechanism,
    RecordGaussianMechanism,
)
from tff_dp.plan import PrivacyPlan
from tff_dp.selftest.laws import law_of

TENSORS = 2
"""The number of weight tensors of the self-test's model."""
OWN_TESTS = frozenset(
    {DistributedGaussianMechanism, DistributedSkellamMechanism, RecordGaussianMechanism}
)
"""The mechanisms whose noise has no density on one coordinate of a sum, which have tests of their own."""
_SLOWEST_CLIP = 0.01  # at lower rates, float32 hides the count that changes the clip norm
_MOST_CLIENTS = 1_000_000  # in larger cohorts, too


def check_plan(plan: PrivacyPlan) -> None:
    """Checks that a plan has a self-test.

    Args:
      plan: The plan.

    Raises:
      ArgumentError: The mechanism has no self-test, has no noise, or its values do not fit the
        test's model.
    """
    mechanism = plan.mechanism
    if type(mechanism) not in OWN_TESTS:
        law_of(plan.update_mechanism)
    if isinstance(mechanism, PerLayerGaussianMechanism) and len(mechanism.clip_norms) != TENSORS:
        raise ArgumentError(
            f"clip_norms={mechanism.clip_norms!r} does not fit the self-test, whose model has {TENSORS} "
            f"weight tensors: expected {TENSORS} norms. Test a plan with two of them."
        )
    if mechanism.noise_multiplier == 0:
        raise ArgumentError(
            "noise_multiplier=0 leaves no noise to test: expected a number in (0, inf). Without noise "
            "there is no privacy."
        )
    if isinstance(mechanism, AdaptiveGaussianMechanism):
        _checks.real(
            "clip_learning_rate",
            mechanism.clip_learning_rate,
            f"[{_SLOWEST_CLIP}, inf)",
            "A self-test derives the count of unclipped clients from the clip norm, which a smaller rate "
            "changes too little.",
        )
        _checks.real(
            "cohort",
            plan.clients_per_round,
            f"(0, {_MOST_CLIENTS}]",
            "In a larger cohort, float32 hides the influence of one client on the count of unclipped "
            "clients.",
        )
