"""Builds the aggregator of each mechanism."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import dp_accounting
import tensorflow as tf

from tff_dp import _checks, _compat, noise
from tff_dp.aggregation import queries
from tff_dp.aggregation.correlated import BandedNoise, TreeNoise, banded_grid
from tff_dp.aggregation.distributed import distributed_mean
from tff_dp.config import is_own
from tff_dp.errors import ArgumentError, TffDpError
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
from tff_dp.mechanisms.registry import AGGREGATORS
from tff_dp.mechanisms.strategy import banded_strategy
from tff_dp.noise import Grid, uniforms_in_word

tff = _compat.tff.load()

Query = Callable[[Any], Any]  # maps the `tf.TensorSpec`s of an update to a query
Clip = Callable[
    [Any, Any], Any
]  # maps an update and a `tff_dp.noise.Grid` to integers in grid steps


def of_mechanism(mechanism: Mechanism, error: Exception) -> Exception:
    """Returns the error to raise where a mechanism's aggregator has failed.

    Args:
      mechanism: The mechanism.
      error: What was raised while its aggregator was built, or while it was traced.

    Returns:
      The same error for mechanisms of tff_dp, and for errors that are worded for users. Otherwise an
      `ArgumentError` that says whose function has failed, since it would be taken for the model's.
    """
    if is_own(type(mechanism)) or isinstance(error, TffDpError):
        return error
    return ArgumentError(
        f"mechanism={mechanism!r} has no working aggregator: the function that is registered for "
        f"{type(mechanism).__name__} raised {type(error).__name__}: {error}. Correct it; nothing was "
        "charged."
    )


def build_aggregator(
    mechanism: Mechanism, clients_per_round: float, rounds: int = 1, *, scaled: bool = False
) -> Any:
    """Returns the differentially private aggregator of a mechanism.

    It is TFF's `DifferentiallyPrivateFactory` with tff_dp's own queries of integer sums
    (`tff_dp.aggregation.queries`). `tff.learning.dp_aggregator` is never used: its default
    (`zeroing=True`) estimates a quantile of the updates' norms without noise, which no epsilon
    covers. Distributed mechanisms use TFF's `DistributedDpSumFactory`
    (`tff_dp.aggregation.distributed`).

    Args:
      mechanism: The mechanism.
      clients_per_round: m, the public expected number of clients a round, by which the noised sum
        is divided, however many clients participate; > 0.
      rounds: T, the largest number of rounds, for which correlated noise is planned; >= 1.
      scaled: Whether the noise multiplier is part of the aggregator's state, instead of a constant
        in its graph. Allowed only if `scale_structure(mechanism)` is not None.

    Returns:
      A `tff.aggregators.UnweightedAggregationFactory`.

    Raises:
      ArgumentError: An argument is outside its bound, the mechanism has no aggregator or does not
        support this m, or the registered function does not return a factory of this kind.
      StackError: TFF cannot be imported.
    """
    m = _checks.real("clients_per_round", clients_per_round, "(0, inf)")
    rounds = _checks.integer("rounds", rounds, "[1, inf)")
    build = AGGREGATORS.find("mechanism", mechanism, _BUILDERS)
    mechanism.check(m)
    if scaled:
        return _SCALED[type(mechanism)](mechanism, m, scaled=True)
    try:
        factory = build(mechanism, m, rounds)
    except Exception as error:
        raise of_mechanism(mechanism, error) from error
    if not isinstance(factory, tff.aggregators.UnweightedAggregationFactory):
        raise ArgumentError(
            f"the aggregator that is registered for {type(mechanism).__name__} is {factory!r}: expected "
            "a tff.aggregators.UnweightedAggregationFactory. Weights would break the sensitivity."
        )
    return factory


class GridSumFactory(tff.aggregators.UnweightedAggregationFactory):  # type: ignore[misc, name-defined]
    """A factory that builds its query when the tensors of an update are known.

    Args:
      query: A function from the `tf.TensorSpec`s of an update to the query that clips, sums and
        noises.
    """

    def __init__(self, query: Query) -> None:
        self._query = query

    def create(self, value_type: Any) -> Any:
        """Builds the aggregation process for updates of a TFF type.

        Args:
          value_type: The TFF type of one client's update, a structure of floating-point tensors.

        Returns:
          A `tff.templates.AggregationProcess`.

        Raises:
          ArgumentError: A tensor of the update does not have a floating-point dtype.
        """
        specs = tff.types.type_to_tf_tensor_specs(value_type)
        for spec in tf.nest.flatten(specs):
            if not spec.dtype.is_floating:
                raise ArgumentError(
                    f"a tensor of updates has dtype={spec.dtype.name!r}: expected a floating-point "
                    "type. Keep what is not trained out of the update."
                )
        return tff.aggregators.DifferentiallyPrivateFactory(self._query(specs)).create(value_type)


def scale_structure(mechanism: Mechanism) -> tuple[Any, ...] | None:
    """Returns a key that is equal for mechanisms that can share the graph of a round.

    Mechanisms with equal keys differ only in the noise multiplier, which can then be in the state
    (see `with_scale`), so that a change of it does not require a new compilation.

    Args:
      mechanism: The mechanism.

    Returns:
      A hashable key; None if the noise multiplier has to be a constant of the graph.
    """
    if type(mechanism) not in _SCALED or mechanism.noise_multiplier == 0:
        return None
    grid = Grid.of(mechanism.noise_multiplier)
    in_word = uniforms_in_word(mechanism.noise_multiplier * grid.steps)
    return (mechanism.with_noise(1.0), grid, in_word) if in_word else None


def with_scale(state: Any, mechanism: Mechanism) -> Any:
    """Sets the noise multiplier in the state of an aggregator that was built with `scaled=True`.

    Args:
      state: The state of the aggregator.
      mechanism: The mechanism whose noise multiplier is set. Its `scale_structure` has to equal
        that of the mechanism for which the aggregator was built.

    Returns:
      The new state; `state` is unchanged.
    """
    z = mechanism.noise_multiplier
    values = queries.scale_state(z, Grid.of(z))
    return state._replace(
        query_state=type(state.query_state)(*values),
        dp_event=state.dp_event._replace(noise_multiplier=values[0]),
    )


def _gaussian(
    mechanism: GaussianMechanism, m: float, rounds: int = 1, *, scaled: bool = False
) -> Any:
    del rounds  # the noise is independent in each round

    def clip(update: Any, grid: noise.Grid) -> Any:
        return noise.clip_l2(update, mechanism.clip_norm, grid).parts

    return _gaussian_sum(mechanism, m, clip, scaled=scaled)


def _per_layer(
    mechanism: PerLayerGaussianMechanism, m: float, rounds: int = 1, *, scaled: bool = False
) -> Any:
    del rounds

    def clip(update: Any, grid: noise.Grid) -> Any:
        if len(update) != len(mechanism.clip_norms):
            raise ArgumentError(
                f"clip_norms={mechanism.clip_norms!r} does not fit the model: expected "
                f"{len(update)} norms, one for each trainable weight tensor."
            )
        return [
            noise.clip_l2([part], norm, grid, unit=mechanism.clip_norm).parts[0]
            for part, norm in zip(update, mechanism.clip_norms, strict=True)
        ]

    return _gaussian_sum(mechanism, m, clip, scaled=scaled)


def _laplace(mechanism: LaplaceMechanism, m: float, rounds: int) -> Any:
    del rounds

    def clip(update: Any, grid: noise.Grid) -> Any:
        return noise.clip_l1(update, mechanism.clip_norm, grid).parts

    return independent_noise(
        noise_multiplier=mechanism.noise_multiplier,
        clip_norm=mechanism.clip_norm,
        clients_per_round=m,
        clip=clip,
        draw=noise.laplace,
        event=dp_accounting.LaplaceDpEvent,
    )


def _gaussian_sum(mechanism: Any, m: float, clip: Clip, *, scaled: bool) -> Any:

    return independent_noise(
        noise_multiplier=mechanism.noise_multiplier,
        clip_norm=mechanism.clip_norm,
        clients_per_round=m,
        clip=clip,
        draw=noise.gaussian,
        event=dp_accounting.GaussianDpEvent,
        scaled=scaled,
    )


def independent_noise(
    *,
    noise_multiplier: float,
    clip_norm: float,
    clients_per_round: float,
    clip: Clip,
    draw: Callable[[Sequence[int], float], Any],
    event: Callable[[Any], dp_accounting.DpEvent] = lambda z: dp_accounting.UnsupportedDpEvent(),
    scaled: bool = False,
) -> Any:
    """Returns the aggregator of a mechanism whose noise is independent in each round.

    Updates are clipped and truncated to integers, in steps of a public grid. Their sum is exact,
    and the server adds integer noise to it: `tff_dp.aggregation.queries.GridSumQuery`.

    Args:
      noise_multiplier: z, the scale of the noise divided by the clip norm, without unit; in [0,
        1e9].
      clip_norm: C, in units of the model's weights; > 0. The grid's step is this number divided by
        a power of two.
      clients_per_round: m, by which the noised sum is divided; > 0.
      clip: A function from a client's update, a list of floating-point tensors, and the grid
        (`tff_dp.noise.Grid`) to the clipped update, a list of int64 tensors of the same shapes, in
        grid steps. This function determines the sensitivity: use those of `tff_dp.noise`, such as
        `clip_l2`.
      draw: A function from a shape and a scale in grid steps to int64 noise of that shape:
        `tff_dp.noise.gaussian` (whose scale is the standard deviation) or `tff_dp.noise.laplace`.
      event: A function from z to the dp-accounting event that the process reports for a round in
        which all clients participate; by default an event that no accountant of dp-accounting
        supports.
      scaled: See `build_aggregator`; for Gaussian noise.

    Returns:
      A `tff.aggregators.UnweightedAggregationFactory`.

    Raises:
      ArgumentError: A value is outside its bound.
      StackError: TFF cannot be imported.
    """
    z = _checks.real("noise_multiplier", noise_multiplier, "[0, 1e9]")
    unit = _checks.real("clip_norm", clip_norm, "(0, inf)")
    m = _checks.real("clients_per_round", clients_per_round, "(0, inf)")
    grid = Grid.of(z)
    process: queries.NoiseProcess = queries.IndependentNoise(
        lambda shape: draw(shape, z * grid.steps)
    )
    if scaled:
        process = queries.ScaledNoise(z, grid)

    def reported(state: Any) -> dp_accounting.DpEvent:
        return event(state.noise_multiplier if scaled else z)

    return GridSumFactory(
        lambda specs: queries.GridSumQuery(
            specs,
            grid=grid,
            clip=lambda update: clip(update, grid),
            noise=process,
            unit=unit,
            denominator=m,
            event=reported,
        )
    )


def _adaptive(mechanism: AdaptiveGaussianMechanism, m: float, rounds: int) -> Any:
    del rounds
    return GridSumFactory(lambda specs: queries.AdaptiveClipQuery(specs, mechanism, m))


def _local(mechanism: LocalGaussianMechanism | LocalLaplaceMechanism, m: float, rounds: int) -> Any:
    """Returns the factory of a local mechanism: clients noise their own updates, the server adds none."""
    del rounds
    is_gaussian = isinstance(mechanism, LocalGaussianMechanism)
    clip, draw = (noise.clip_l2, noise.gaussian) if is_gaussian else (noise.clip_l1, noise.laplace)
    grid = noise.Grid.of(mechanism.noise_multiplier)
    scale = mechanism.noise_multiplier * grid.steps

    def noised(update: Any) -> Any:
        clipped = clip(update, mechanism.clip_norm, grid).parts
        return [part + draw(part.shape.as_list(), scale) for part in clipped]

    return GridSumFactory(
        lambda specs: queries.GridSumQuery(
            specs,
            grid=grid,
            clip=noised,
            noise=queries.NO_NOISE,
            unit=float(mechanism.clip_norm),
            denominator=m,
        )
    )


def _tree(mechanism: TreeMechanism, m: float, rounds: int) -> Any:
    grid = Grid.of(mechanism.noise_multiplier)
    period = min(mechanism.restart_every or rounds, rounds)
    return _correlated(
        mechanism, m, grid, TreeNoise(mechanism.noise_multiplier * grid.steps, period)
    )


def _banded(mechanism: BandedMechanism, m: float, rounds: int) -> Any:
    grid = banded_grid(mechanism.noise_multiplier)
    coefficients = banded_strategy(mechanism.bands, rounds)
    return _correlated(
        mechanism, m, grid, BandedNoise(mechanism.noise_multiplier * grid.steps, coefficients)
    )


def _correlated(
    mechanism: TreeMechanism | BandedMechanism, m: float, grid: Any, process: Any
) -> Any:
    """Returns the factory of a mechanism whose noise is correlated over rounds.

    A single round has no event: the privacy loss of a run depends on the rounds in which a client
    participates.
    """
    return GridSumFactory(
        lambda specs: queries.GridSumQuery(
            specs,
            grid=grid,
            clip=lambda update: noise.clip_l2(update, mechanism.clip_norm, grid).parts,
            noise=process,
            unit=float(mechanism.clip_norm),
            denominator=m,
        )
    )


_SCALED: dict[type[Mechanism], Callable[..., Any]] = {
    GaussianMechanism: _gaussian,
    PerLayerGaussianMechanism: _per_layer,
}
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
