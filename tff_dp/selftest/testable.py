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
_SLOWEST_CLIP = 0.01  # below it, float32 hides the count that moves the clip norm
_MOST_CLIENTS = 1_000_000  # and above it


def check_plan(plan: PrivacyPlan) -> None:
    """Raises ArgumentError if a plan has no self-test."""
    mechanism = plan.mechanism
    if type(mechanism) not in OWN_TESTS:
        law_of(plan.update_mechanism)
    if isinstance(mechanism, PerLayerGaussianMechanism) and len(mechanism.clip_norms) != TENSORS:
        raise ArgumentError(
            f"clip_norms={mechanism.clip_norms!r} does not fit the self-test, whose model has {TENSORS} "
            f"weight tensors: expected {TENSORS} norms. Take two of them."
        )
    if mechanism.noise_multiplier == 0:
        raise ArgumentError(
            "noise_multiplier=0 has no noise to test: expected a number in (0, inf). Without noise there "
            "is no privacy."
        )
    if isinstance(mechanism, AdaptiveGaussianMechanism):
        _checks.real(
            "clip_learning_rate",
            mechanism.clip_learning_rate,
            f"[{_SLOWEST_CLIP}, inf)",
            "A self-test reads the count of unclipped clients off the clip norm, which a smaller rate "
            "moves too little.",
        )
        _checks.real(
            "cohort",
            plan.clients_per_round,
            f"(0, {_MOST_CLIENTS}]",
            "In a larger one, float32 hides what one client adds to the count of unclipped clients.",
        )
