"""Privacy mechanisms: how a client's update is bounded, and how the sum is noised.

Mechanisms are dataclasses that do not import TensorFlow, so that accounting is available without
it; `tff_dp.aggregation` builds TFF aggregators from them. To add a mechanism, derive a class from
`Mechanism`; docs/architecture.md describes the steps.
"""

from tff_dp.mechanisms.base import Mechanism, Unit
from tff_dp.mechanisms.central import (
    AdaptiveGaussianMechanism,
    GaussianMechanism,
    LaplaceMechanism,
    PerLayerGaussianMechanism,
)
from tff_dp.mechanisms.correlated import BandedMechanism, TreeMechanism
from tff_dp.mechanisms.distributed import (
    DistributedGaussianMechanism,
    DistributedMechanism,
    DistributedSkellamMechanism,
)
from tff_dp.mechanisms.local import LocalGaussianMechanism, LocalLaplaceMechanism
from tff_dp.mechanisms.metrics import PrivateMetric
from tff_dp.mechanisms.record import RecordGaussianMechanism
from tff_dp.mechanisms.registry import register_aggregator, register_law

__all__ = [
    "AdaptiveGaussianMechanism",
    "BandedMechanism",
    "DistributedGaussianMechanism",
    "DistributedMechanism",
    "DistributedSkellamMechanism",
    "GaussianMechanism",
    "LaplaceMechanism",
    "LocalGaussianMechanism",
    "LocalLaplaceMechanism",
    "Mechanism",
    "PerLayerGaussianMechanism",
    "PrivateMetric",
    "RecordGaussianMechanism",
    "TreeMechanism",
    "Unit",
    "register_aggregator",
    "register_law",
]
