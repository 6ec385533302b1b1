"""Federated SGD: each client computes one gradient in each round."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from tff_dp import _compat
from tff_dp.algorithms.base import Algorithm, Components, check_optimizer, check_weighting
from tff_dp.errors import ArgumentError
from tff_dp.optimizers import SGD, Optimizer

if TYPE_CHECKING:  # it imports TensorFlow; descriptions of algorithms do not
    from tff_dp.model import BoundModel


@dataclasses.dataclass(frozen=True, kw_only=True)
class FedSGD(Algorithm):
    """Federated SGD: clients compute one gradient in each round, and the server applies the average.

    A client's gradient is the mean over all its examples; more than one epoch only repeats them.

    Source: McMahan et al., arXiv:1602.05629, section 2.

    Args:
      server_optimizer: The optimizer that applies the averaged gradient.
      weighting: As for `FedAvg`.

    Raises:
      ArgumentError: A value is outside its bound.
    """

    server_optimizer: Optimizer = dataclasses.field(default_factory=lambda: SGD(learning_rate=0.1))
    weighting: str | None = None

    def __post_init__(self) -> None:
        check_optimizer("server_optimizer", self.server_optimizer)
        check_weighting(self.weighting)

    @property
    def model_optimizer(self) -> Optimizer:
        """The server's optimizer, since clients have none."""
        return self.server_optimizer

    def compose(self, model: BoundModel, components: Components) -> Any:
        """Composes TFF's federated SGD.

        Args:
          model: As for `Algorithm.compose`.
          components: As for `Algorithm.compose`.

        Returns:
          A `tff.learning.templates.LearningProcess`.

        Raises:
          ArgumentError: The plan protects records, which requires local steps.
        """
        if components.client_work is not None:
            raise ArgumentError(
                f"algorithm={self!r} has no local steps, in which records are protected: expected "
                "FedAvg, FedOpt or FedProx. FedAvg(client_optimizer=SGD(learning_rate=1.0)) with "
                "local_steps=1 sends a gradient, too."
            )
        tff = _compat.tff.load()
        aggregator = components.aggregator
        if not components.is_weighted:
            aggregator = tff.aggregators.as_weighted_aggregator(aggregator)
        return tff.learning.algorithms.build_fed_sgd(
            model.tff_model,
            server_optimizer_fn=self.server_optimizer.build(),
            model_aggregator=aggregator,
            metrics_aggregator=components.metrics_aggregator,
        )
