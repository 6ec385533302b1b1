"""What an algorithm is: how it composes a learning process of the parts that a privacy plan decides."""

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
    """The parts of a learning process that the privacy plan decides, and not the algorithm.

    Attributes:
      aggregator: The factory of the aggregation of clients' updates: a
        `tff.aggregators.WeightedAggregationFactory` where `is_weighted`, otherwise a
        `tff.aggregators.UnweightedAggregationFactory`. Under a plan that protects clients, it clips
        the updates and adds the noise.
      is_weighted: Whether clients' updates are weighted.
      metrics_aggregator: What TFF's builders take under this name: how the clients' training metrics
        are aggregated. None for TFF's default, plain sums.
      client_work: Where the plan protects records: a function from the clients'
        `tff.learning.optimizers.Optimizer` to a `tff.learning.templates.ClientWorkProcess`, whose
        local steps clip the records' gradients and add the noise. None otherwise.

    Raises:
      ArgumentError: `is_weighted` is no boolean.
    """

    aggregator: Any
    is_weighted: bool
    metrics_aggregator: Any = None
    client_work: Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "is_weighted", _checks.flag("is_weighted", self.is_weighted))


class Algorithm(Config, abc.ABC):
    """What clients compute and how the server steps, without the aggregation between them.

    A subclass is a frozen dataclass with keyword-only fields, and may be defined outside of this
    package: docs/fit.md has an example. `to_dict` and `from_dict` work for it.

    The privacy of a plan rests on `compose`. Under a plan that protects clients, nothing that depends on
    a client's data may reach the server except through `Components.aggregator`, applied once a round to
    the clients' updates, and through the clients' metrics. Under one that protects records, clients must
    train by `Components.client_work`, and nothing else may read their data. `build_process` refuses an
    algorithm that leaves these parts out or uses them more than once; that it sends nothing beside them
    cannot be checked, and `FitResult.statement` says so of an algorithm that is not one of tff_dp's.

    Attributes:
      weighting: How updates are weighted: "examples", "uniform", or None for "examples" without
        differential privacy and "uniform" with it. A dataclass field where it can be chosen.
    """

    weighting: str | None = None

    @abc.abstractmethod
    def compose(self, model: BoundModel, components: Components) -> Any:
        """Composes the learning process.

        Args:
          model: The model, bound to the data's shape. `model.tff_model` is what TFF's builders take.
          components: What the plan decides.

        Returns:
          A `tff.learning.templates.LearningProcess`, whose state and `next` are those of TFF's own
          algorithms.

        Raises:
          ArgumentError: The algorithm cannot use these components, such as the client work that protects
            records.
        """

    @property
    def model_optimizer(self) -> Optimizer | None:
        """The optimizer that `fit` compiles the trained Keras model with; None for Keras's SGD."""
        return None


def compose_with_client_work(
    model: BoundModel, *, client_work: Any, components: Components, server_optimizer: Any
) -> Any:
    """Composes TFF's learning process around clients' work that is given.

    The server broadcasts the model, clients compute their updates, these are aggregated, and the
    server's optimizer steps along the result, as in TFF's federated averaging.

    Args:
      model: A functional model.
      client_work: A `tff.learning.templates.ClientWorkProcess`, from weights and data to an update like
        the trainable weights.
      components: Of which the aggregator is used.
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
      ArgumentError: It is no `Optimizer`.
    """
    _checks.instance(name, value, Optimizer, "Use for example tff_dp.SGD(learning_rate=0.1).")


def check_weighting(weighting: str | None) -> None:
    """Checks how clients' updates are weighted.

    Args:
      weighting: As for `Algorithm`.

    Raises:
      ArgumentError: It is no known way.
    """
    _checks.one_of("weighting", weighting, (*WEIGHTINGS, None))
