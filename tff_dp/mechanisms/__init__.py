"""The mechanisms: how one client's update is bounded and how the sum is noised.

These are descriptions without TensorFlow, so that accounting never waits for its import;
`tff_dp.aggregation` turns them into TFF aggregators. A mechanism of your own derives from `Mechanism`;
docs/architecture.md has the recipe.
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
