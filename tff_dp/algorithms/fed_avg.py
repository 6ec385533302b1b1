"""Federated averaging, with any optimizer on the server."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from tff_dp import _compat
from tff_dp.algorithms.base import (
    Algorithm,
    Components,
    check_optimizer,
    check_weighting,
    compose_with_client_work,
)
from tff_dp.optimizers import SGD, Optimizer

if TYPE_CHECKING:  # it imports TensorFlow; descriptions of algorithms do not
    from tff_dp.model import BoundModel


@dataclasses.dataclass(frozen=True, kw_only=True)
class FedAvg(Algorithm):
    """Federated averaging: clients train, the server averages the changes of their weights.

    With the default server optimizer, the new global weights are sum_k alpha_k W_k, where W_k are
    the weights that client k has trained. The alpha_k sum to 1 and are proportional to the clients'
    numbers of examples, or equal.

    Source: McMahan et al., arXiv:1602.05629, algorithm 1.

    Args:
      client_optimizer: The clients' local optimizer. Its state is new in each round.
      server_optimizer: The optimizer that applies the averaged change of the weights; SGD with
        learning rate 1 adds the average itself.
      weighting: "examples" or "uniform"; None for "examples" without differential privacy and
        "uniform" with it, since weights would increase the sensitivity.

    Raises:
      ArgumentError: A value is outside its bound.
    """

    client_optimizer: Optimizer = dataclasses.field(default_factory=lambda: SGD(learning_rate=0.01))
    server_optimizer: Optimizer = dataclasses.field(default_factory=lambda: SGD(learning_rate=1.0))
    weighting: str | None = None

    def __post_init__(self) -> None:
        check_optimizer("client_optimizer", self.client_optimizer)
        check_optimizer("server_optimizer", self.server_optimizer)
        check_weighting(self.weighting)

    @property
    def model_optimizer(self) -> Optimizer:
        """The clients' optimizer."""
        return self.client_optimizer

    def build_client_optimizer(self) -> Any:
        """Builds the optimizer of the clients. A subclass may override this to wrap it.

        Returns:
          A `tff.learning.optimizers.Optimizer`.
        """
        return self.client_optimizer.build()

    def build_server_optimizer(self) -> Any:
        """Builds the optimizer of the server. A subclass may override this to wrap it.

        Returns:
          A `tff.learning.optimizers.Optimizer`.
        """
        return self.server_optimizer.build()

    def compose(self, model: BoundModel, components: Components) -> Any:
        """Composes TFF's federated averaging, with the plan's client work if there is one.

        Args:
          model: As for `Algorithm.compose`.
          components: As for `Algorithm.compose`.

        Returns:
          A `tff.learning.templates.LearningProcess`.
        """
        client, server = self.build_client_optimizer(), self.build_server_optimizer()
        if components.client_work is not None:
            return compose_with_client_work(
                model,
                client_work=components.client_work(client),
                components=components,
                server_optimizer=server,
            )
        if components.adjustable and model.is_functional:
            from tff_dp.algorithms.adjustable import adjustable_client_work

            work = adjustable_client_work(
                model.tff_model,
                client,
                weigh_by_examples=components.is_weighted,
                metrics_aggregator=components.metrics_aggregator,
            )
            return compose_with_client_work(
                model, client_work=work, components=components, server_optimizer=server
            )
        algorithms = _compat.tff.load().learning.algorithms
        build = (
            algorithms.build_weighted_fed_avg
            if components.is_weighted
            else algorithms.build_unweighted_fed_avg
        )
        return build(
            model.tff_model,
            client_optimizer_fn=client,
            server_optimizer_fn=server,
            model_aggregator=components.aggregator,
            metrics_aggregator=components.metrics_aggregator,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class FedOpt(FedAvg):
    """Federated averaging with another server optimizer: FedAdam, FedYogi, FedAdagrad or FedAvgM.

    Source: Reddi et al., "Adaptive Federated Optimization", arXiv:2003.00295, algorithm 2.

    Args:
      client_optimizer: As for `FedAvg`.
      server_optimizer: Adam, Yogi, Adagrad, or SGD with momentum.
      weighting: As for `FedAvg`.

    Raises:
      ArgumentError: A value is outside its bound.
    """

    server_optimizer: Optimizer
