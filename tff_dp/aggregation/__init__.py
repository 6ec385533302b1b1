"""Builds, for a mechanism, the TFF aggregator that bounds, sums and noises the updates."""

from tff_dp.aggregation.build import (
    build_aggregator,
    independent_noise,
    scale_structure,
    with_scale,
)
from tff_dp.aggregation.mean import weighted_mean
from tff_dp.aggregation.metrics import private_metrics

__all__ = [
    "build_aggregator",
    "independent_noise",
    "private_metrics",
    "scale_structure",
    "weighted_mean",
    "with_scale",
]
