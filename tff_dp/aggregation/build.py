"""Which aggregator a mechanism has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tff_dp import _checks, _compat
from tff_dp.aggregation import queries
from tff_dp.aggregation.correlated import BandedNoise, NoiseProcess, TreeNoise, correlated_query
from tff_dp.aggregation.distributed import distributed_mean
from tff_dp.errors import ArgumentError
from tff_dp.mechanisms import (
    AdaptiveGaussianMechanism,
    BandedMechanism,
    DistributedGaussianMechanism,
    DistributedSkellamMechanism,
    GaussianMechanism,
    LaplaceMechanism,
    LocalGaussianMechanism,
    LocalLaplaceMechanism,
    Mechanism,
    PerLayerGaussianMechanism,
    TreeMechanism,
)
from tff_dp.mechanisms.strategy import banded_strategy


def build_aggregator(mechanism: Mechanism, clients_per_round: float, rounds: int = 1) -> Any:
    """Returns the differentially private aggregator of a mechanism.

    It is TFF's `DifferentiallyPrivateFactory` over tensorflow-privacy's queries or our own, and never
    `tff.learning.dp_aggregator`, whose default (`zeroing=True`) estimates a quantile of the updates'
    norms without noise, outside any epsilon. Mechanisms of clients that share the noise have TFF's
    `DistributedDpSumFactory` (`tff_dp.aggregation.distributed`).

    Args:
      mechanism: The mechanism.
      clients_per_round: m, the public expected number of clients a round: the noised sum's denominator,
        whatever number takes part; > 0.
      rounds: T, the most rounds there will be: noise that rounds share is laid out for them; >= 1.

    Returns:
      A `tff.aggregators.UnweightedAggregationFactory`.

    Raises:
      ArgumentError: The mechanism is unknown or cannot work with m.
      StackError: TFF cannot be imported.
    """
    m = _checks.real("clients_per_round", clients_per_round, "(0, inf)")
    rounds = _checks.integer("rounds", rounds, "[1, inf)")
    if type(mechanism) not in _BUILDERS:
        known = ", ".join(kind.__name__ for kind in _BUILDERS)
        raise ArgumentError(f"mechanism={mechanism!r} has no aggregator: expected one of {known}.")
    mechanism.check(m)
    _compat.load_tff()
    return _BUILDERS[type(mechanism)](mechanism, m, rounds)


def _averaging(query: Any, m: float) -> Any:
    """Returns the aggregator of a query for sums: the sum over m, of the records that are finite."""
    import tensorflow_privacy as tfp

    tff = _compat.load_tff()
    normalized = tfp.NormalizedQuery(query, denominator=m)
    return tff.aggregators.DifferentiallyPrivateFactory(queries.finite_records_query()(normalized))


def _gaussian(mechanism: GaussianMechanism, m: float, rounds: int) -> Any:
    del rounds  # each has noise of its own
    import tensorflow_privacy as tfp

    query = tfp.GaussianSumQuery(
        l2_norm_clip=mechanism.clip_norm,
        stddev=mechanism.clip_norm * mechanism.noise_multiplier,
    )
    return _averaging(query, m)


def _adaptive(mechanism: AdaptiveGaussianMechanism, m: float, rounds: int) -> Any:
    del rounds
    import tensorflow_privacy as tfp

    query = tfp.QuantileAdaptiveClipSumQuery(
        initial_l2_norm_clip=mechanism.initial_clip_norm,
        noise_multiplier=mechanism.value_noise_multiplier(m),
        target_unclipped_quantile=mechanism.target_quantile,
        learning_rate=mechanism.clip_learning_rate,
        clipped_count_stddev=mechanism.count_stddev(m) if mechanism.noise_multiplier > 0 else 0.0,
        expected_num_records=m,
        geometric_update=True,
    )
    return _averaging(query, m)


def _per_layer(mechanism: PerLayerGaussianMechanism, m: float, rounds: int) -> Any:
    del rounds
    query = queries.per_layer_query()(
        mechanism.clip_norms,
        total=mechanism.clip_norm,
        stddev=mechanism.clip_norm * mechanism.noise_multiplier,
    )
    return _averaging(query, m)


def _laplace(mechanism: LaplaceMechanism, m: float, rounds: int) -> Any:
    del rounds
    scale = mechanism.clip_norm * mechanism.noise_multiplier
    return _averaging(queries.laplace_query()(mechanism.clip_norm, scale), m)


def _local(mechanism: LocalGaussianMechanism | LocalLaplaceMechanism, m: float, rounds: int) -> Any:
    del rounds
    clip, noise = (
        (queries.clipped_l2, queries.normal)
        if isinstance(mechanism, LocalGaussianMechanism)
        else (queries.clipped_l1, queries.laplace)
    )
    scale = mechanism.clip_norm * mechanism.noise_multiplier
    return _averaging(queries.local_query()(clip, mechanism.clip_norm, noise, scale), m)


def _tree(mechanism: TreeMechanism, m: float, rounds: int) -> Any:
    period = min(mechanism.restart_every or rounds, rounds)
    stddev = mechanism.clip_norm * mechanism.noise_multiplier
    return _correlated(mechanism.clip_norm, m, TreeNoise(stddev, period))


def _banded(mechanism: BandedMechanism, m: float, rounds: int) -> Any:
    coefficients = banded_strategy(mechanism.bands, rounds)
    stddev = mechanism.clip_norm * mechanism.noise_multiplier
    return _correlated(mechanism.clip_norm, m, BandedNoise(stddev, coefficients))


def _correlated(clip_norm: float, m: float, noise: NoiseProcess) -> Any:
    """Returns a factory that makes its query once it knows the tensors whose noise it has to keep."""
    tff = _compat.load_tff()

    class CorrelatedFactory(tff.aggregators.UnweightedAggregationFactory):  # type: ignore[misc,name-defined]
        def create(self, value_type: Any) -> Any:
            specs = _compat.tensor_specs(value_type)
            return _averaging(correlated_query()(clip_norm, noise, specs), m).create(value_type)

    return CorrelatedFactory()


_BUILDERS: dict[type[Mechanism], Callable[[Any, float, int], Any]] = {
    GaussianMechanism: _gaussian,
    AdaptiveGaussianMechanism: _adaptive,
    PerLayerGaussianMechanism: _per_layer,
    LaplaceMechanism: _laplace,
    TreeMechanism: _tree,
    BandedMechanism: _banded,
    LocalGaussianMechanism: _local,
    LocalLaplaceMechanism: _local,
    DistributedGaussianMechanism: distributed_mean,
    DistributedSkellamMechanism: distributed_mean,
}
