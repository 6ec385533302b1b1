"""The interface of algorithms: composing a learning process from the parts that a plan determines."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tff_dp import _checks, _compat
from tff_dp.config import Config
from tff_dp.optimizers import Optimizer

if TYPE_CHECKING:  # it imports TensorFlow; descriptions of algorithms do not
    from tff_dp.model import BoundModel

WEIGHTINGS = ("examples", "uniform")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Components:
    """The parts of a learning process that the privacy plan determines, and not the algorithm.

    Attributes:
      aggregator: The factory of the aggregator of clients' updates: a
        `tff.aggregators.WeightedAggregationFactory` if `is_weighted`, otherwise a
        `tff.aggregators.UnweightedAggregationFactory`. Under a plan that protects clients, it clips
        the updates and adds the noise.
      is_weighted: Whether clients' updates are weighted.
      metrics_aggregator: The aggregator of the clients' training metrics, as TFF's builders accept
        it under this name. None for TFF's default, plain sums.
      client_work: If the plan protects records: a function from the clients'
        `tff.learning.optimizers.Optimizer` to a `tff.learning.templates.ClientWorkProcess`, whose
        local steps clip the records' gradients and add the noise. None otherwise.
      adjustable: Whether the learning rate of the clients has to be part of the state of the process,
        where it can be changed from round to round.

    Raises:
      ArgumentError: `is_weighted` or `adjustable` is not a boolean.
    """

    aggregator: Any
    is_weighted: bool
    metrics_aggregator: Any = None
    client_work: Callable[[Any], Any] | None = None
    adjustable: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "is_weighted", _checks.flag("is_weighted", self.is_weighted))
        object.__setattr__(self, "adjustable", _checks.flag("adjustable", self.adjustable))


class Algorithm(Config, abc.ABC):
    """The computation of clients and the step of the server, without the aggregation between them.

    A subclass is a frozen dataclass with keyword-only fields, and may be defined outside of this
    package: docs/fit.md has an example. `to_dict` and `from_dict` work for it.

    The privacy guarantee of a plan depends on `compose`. Under a plan that protects clients,
    information about a client's data may reach the server only through `Components.aggregator`,
    applied once a round to the clients' updates, and through the clients' metrics. Under a plan
    that protects records, clients must train with `Components.client_work`, and nothing else may
    read their data. `build_process` refuses an algorithm that leaves out these parts or uses them
    more than once. It cannot check that an algorithm sends nothing else; for an algorithm that is
    not part of tff_dp, `FitResult.statement` says so.

    Attributes:
      weighting: How updates are weighted: "examples", "uniform", or None for "examples" without
        differential privacy and "uniform" with it. In algorithms that support a choice, it is a
        field.
    """

    weighting: str | None = None

    @abc.abstractmethod
    def compose(self, model: BoundModel, components: Components) -> Any:
        """Composes the learning process.

        Args:
          model: The model, bound to the shape of the data. TFF's builders take `model.tff_model`.
          components: The parts that the plan determines.

        Returns:
          A `tff.learning.templates.LearningProcess`, whose state and `next` are those of TFF's own
          algorithms.

        Raises:
          ArgumentError: The algorithm does not support these components, such as the client work
            that protects records.
        """

    @property
    def model_optimizer(self) -> Optimizer | None:
        """The optimizer with which `fit` compiles the trained Keras model; None for Keras's SGD."""
        return None


def compose_with_client_work(
    model: BoundModel, *, client_work: Any, components: Components, server_optimizer: Any
) -> Any:
    """Composes TFF's learning process from a given client work.

    In each round, the server broadcasts the model, clients compute their updates, these are
    aggregated, and the server's optimizer applies the aggregate, as in TFF's federated averaging.

    Args:
      model: A functional model.
      client_work: A `tff.learning.templates.ClientWorkProcess`, which computes an update with the
        structure of the trainable weights from the weights and a client's data.
      components: The parts that the plan determines. Only `aggregator` and `is_weighted` are used.
      server_optimizer: A `tff.learning.optimizers.Optimizer`.

    Returns:
      A `tff.learning.templates.LearningProcess`.
    """
    import numpy as np

    tff = _compat.tff.load()
    templates = tff.learning.templates

    @tff.tensorflow.computation
    def initial_weights() -> Any:
        return tff.learning.models.ModelWeights(*map(tuple, model.tff_model.initial_weights))

    weights_type = initial_weights.type_signature.result
    factory = components.aggregator
    if not components.is_weighted:
        factory = tff.aggregators.as_weighted_aggregator(factory)
    return templates.compose_learning_process(
        initial_weights,
        templates.build_broadcast_process(weights_type),
        client_work,
        factory.create(weights_type.trainable, tff.types.TensorType(np.float32)),
        templates.build_apply_optimizer_finalizer(server_optimizer, weights_type),
    )


def check_optimizer(name: str, value: object) -> None:
    """Checks a field that holds an optimizer.

    Args:
      name: The field's name.
      value: Its value.

    Raises:
      ArgumentError: The value is not an `Optimizer`.
    """
    _checks.instance(name, value, Optimizer, "Use for example tff_dp.SGD(learning_rate=0.1).")


def check_weighting(weighting: str | None) -> None:
    """Checks how clients' updates are weighted.

    Args:
      weighting: "examples", "uniform" or None; see `Algorithm`.

    Raises:
      ArgumentError: It is none of these.
    """
    _checks.one_of("weighting", weighting, (*WEIGHTINGS, None))
