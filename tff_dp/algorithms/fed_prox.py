"""Federated averaging with a proximal term."""

from __future__ import annotations

import dataclasses
from typing import Any

from tff_dp import _checks
from tff_dp.algorithms.fed_avg import FedAvg


@dataclasses.dataclass(frozen=True, kw_only=True)
class FedProx(FedAvg):
    """Federated averaging with a proximal term that keeps clients near the global model.

    Source: Li et al., "Federated Optimization in Heterogeneous Networks", arXiv:1812.06127,
    algorithm 2.

    Args:
      proximal_strength: mu of the term (mu / 2) ||w - w_global||^2; >= 0.
      client_optimizer: As for `FedAvg`.
      server_optimizer: As for `FedAvg`.
      weighting: As for `FedAvg`.

    Raises:
      ArgumentError: A value is outside its bound.
    """

    proximal_strength: float

    def __post_init__(self) -> None:
        super().__post_init__()
        _checks.real("proximal_strength", self.proximal_strength, "[0, inf)")

    def build_client_optimizer(self) -> Any:
        """Builds the clients' optimizer, which minimizes the sum of loss and proximal term.

        Returns:
          A `tff.learning.optimizers.Optimizer`.
        """
        from tff_dp.algorithms.proximal import proximal

        return proximal(super().build_client_optimizer(), float(self.proximal_strength))
