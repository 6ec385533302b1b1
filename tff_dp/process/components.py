"""The parts of a learning process that the privacy plan decides, and whether an algorithm uses them."""

from __future__ import annotations

import functools
import math
from typing import Any

import tensorflow as tf

from tff_dp import _compat
from tff_dp.aggregation import build_aggregator, private_metrics, weighted_mean
from tff_dp.aggregation.build import of_mechanism
from tff_dp.algorithms import Algorithm, Components
from tff_dp.dp_sgd import build_client_work, check_model
from tff_dp.errors import ArgumentError
from tff_dp.mechanisms import RecordGaussianMechanism
from tff_dp.model import BoundModel
from tff_dp.plan import PrivacyPlan


def plain_components(algorithm: Algorithm) -> Components:
    """Makes the parts of a process without differential privacy, with TFF's own mean.

    Args:
      algorithm: Says how updates are weighted; by numbers of examples by default.

    Returns:
      The parts.
    """
    aggregators = _compat.tff.load().aggregators
    if algorithm.weighting == "uniform":
        return Components(aggregator=aggregators.UnweightedMeanFactory(), is_weighted=False)
    return Components(aggregator=aggregators.MeanFactory(), is_weighted=True)


def client_level_components(plan: PrivacyPlan, *, scaled: bool) -> Components:
    """Makes the parts of a process whose aggregator clips clients' updates and adds the noise.

    Args:
      plan: A plan that protects clients.
      scaled: As for `build_aggregator`.

    Returns:
      The parts.

    Raises:
      ArgumentError: The mechanism has no aggregator, or cannot work with the plan's number of clients.
    """
    mechanism, m = plan.update_mechanism, plan.clients_per_round
    metrics = None
    if plan.metrics:
        metrics = private_metrics(plan.metrics, plan.mechanism.noise_multiplier, m)
    return Components(
        aggregator=build_aggregator(mechanism, m, plan.rounds, scaled=scaled),
        is_weighted=False,
        metrics_aggregator=metrics,
    )


def record_level_components(
    plan: PrivacyPlan, mechanism: RecordGaussianMechanism, model: BoundModel, algorithm: Algorithm
) -> Components:
    """Makes the parts of a process whose clients clip and noise their own steps.

    The server averages what is private already, and may weight clients by their numbers of records,
    which are public. Who takes part is no secret either: the average is over them, and of nobody it is
    zero.

    Args:
      plan: A plan that protects records.
      mechanism: The plan's.
      model: The model.
      algorithm: Says how updates are weighted; uniformly by default.

    Returns:
      The parts.

    Raises:
      ModelError: The model has no gradients of single examples that could be clipped.
    """
    check_model(model)

    def client_work(optimizer: Any) -> Any:
        return build_client_work(
            model.tff_model,
            optimizer,
            mechanism,
            fewest=min(plan.records or (1,)),
            weigh_by_examples=algorithm.weighting == "examples",
        )

    return Components(
        aggregator=_factories().of_process(weighted_mean),
        is_weighted=True,  # by the weights that the client work gives
        client_work=client_work,
    )


class Use:
    """How often an algorithm has used the parts that hold a plan's privacy.

    Args:
      plan: The plan.
      components: The plan's parts.

    Attributes:
      components: The same parts, which count how often they are used.
    """

    def __init__(self, plan: PrivacyPlan, components: Components) -> None:
        self._plan = plan
        self._counts = {"aggregator": 0}
        client_work = components.client_work
        if client_work is not None:
            self._counts["client_work"] = 0

            def counted(optimizer: Any) -> Any:
                self._counts["client_work"] += 1
                return client_work(optimizer)

        kinds = _factories()
        kind = kinds.weighted if components.is_weighted else kinds.unweighted
        self.components = Components(
            aggregator=kind(components.aggregator, self),
            is_weighted=components.is_weighted,
            metrics_aggregator=components.metrics_aggregator,
            client_work=None if client_work is None else counted,
            adjustable=components.adjustable,
        )

    def create(self, inner: Any, value_type: Any, *more: Any) -> Any:
        """Makes the aggregation process of a factory, and counts it.

        Args:
          inner: The factory.
          value_type: The TFF type of an update.
          *more: Further arguments of its `create`.

        Returns:
          The process.

        Raises:
          ArgumentError: The model has more weights than the plan charges computed noise for, or the
            aggregator of a user's mechanism fails.
        """
        self._created(value_type)
        try:
            return inner.create(value_type, *more)
        except Exception as error:
            raise of_mechanism(self._plan.mechanism, error) from error

    def _created(self, value_type: Any) -> None:
        self._counts["aggregator"] += 1
        specs = tf.nest.flatten(_compat.tff.load().types.type_to_tf_tensor_specs(value_type))
        self._plan.check_dimension(sum(math.prod(spec.shape) for spec in specs))

    def check(self, algorithm: Algorithm) -> None:
        """Checks that each part was used once.

        Args:
          algorithm: That has composed its process.

        Raises:
          ArgumentError: A part was left out, and the process would not be private; or it was used more
            than once, and each use would spend what the plan accounts for once.
        """
        for part, count in self._counts.items():
            if count != 1:
                times = "not used" if not count else f"used {count} times"
                raise ArgumentError(
                    f"algorithm={algorithm!r} breaks the privacy of the plan: components.{part}, which "
                    f"holds the clipping and the noise, was {times} in its compose: expected once. "
                    "Compose the process with the components that compose is given, or train with "
                    "privacy=NoPrivacy()."
                )


class _Factories:
    """TFF's factories of aggregations, around others; their bases are known once TFF is imported."""

    def __init__(self, unweighted: type, weighted: type, of_process: type) -> None:
        self.unweighted, self.weighted, self.of_process = unweighted, weighted, of_process


@functools.cache
def _factories() -> _Factories:
    aggregators = _compat.tff.load().aggregators

    class Unweighted(aggregators.UnweightedAggregationFactory):  # type: ignore[misc, name-defined]
        """Makes aggregations through a `Use`, which counts them."""

        def __init__(self, inner: Any, use: Use) -> None:
            self._inner, self._use = inner, use

        def create(self, value_type: Any) -> Any:
            return self._use.create(self._inner, value_type)

    class Weighted(aggregators.WeightedAggregationFactory):  # type: ignore[misc, name-defined]
        """Makes aggregations through a `Use`, which counts them."""

        def __init__(self, inner: Any, use: Use) -> None:
            self._inner, self._use = inner, use

        def create(self, value_type: Any, weight_type: Any) -> Any:
            return self._use.create(self._inner, value_type, weight_type)

    class OfProcess(aggregators.WeightedAggregationFactory):  # type: ignore[misc, name-defined]
        """Makes aggregations by a function of the updates' type, with float32 weights."""

        def __init__(self, build: Any) -> None:
            self._build = build

        def create(self, value_type: Any, weight_type: Any) -> Any:
            del weight_type
            return self._build(value_type)

    return _Factories(Unweighted, Weighted, OfProcess)
