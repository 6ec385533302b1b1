"""The algorithms: what a client computes, and how the server steps."""

from __future__ import annotations

import abc
import dataclasses

from tff_dp import _checks
from tff_dp.config import Config
from tff_dp.optimizers import SGD, Optimizer

WEIGHTINGS = ("examples", "uniform")


class Algorithm(Config, abc.ABC):
    """Client computation and server step, without the aggregation between them."""

    server_optimizer: Optimizer


def _check_optimizers(*optimizers: tuple[str, object]) -> None:
    for name, value in optimizers:
        _checks.instance(name, value, Optimizer, "Use for example tff_dp.SGD(learning_rate=0.1).")


def _check_weighting(weighting: str | None) -> None:
    _checks.one_of("weighting", weighting, (*WEIGHTINGS, None))


@dataclasses.dataclass(frozen=True, kw_only=True)
class FedAvg(Algorithm):
    """Federated averaging: clients train, the server averages the changes of their weights.

    With client k's weight alpha_k, the new global weights are sum_k alpha_k W_k (for the default server
    step): alpha_k proportional to its number of examples, or equal.

    Source: McMahan et al., arXiv:1602.05629, algorithm 1.

    Args:
      client_optimizer: The clients' local optimizer, made anew each round.
      server_optimizer: Steps along the averaged change; SGD at rate 1 takes it as it is.
      weighting: "examples" or "uniform"; None for "examples" without differential privacy and
        "uniform" with it, where weights would break the sensitivity.

    Raises:
      ArgumentError: A value is outside its bound.
    """

    client_optimizer: Optimizer = dataclasses.field(default_factory=lambda: SGD(learning_rate=0.01))
    server_optimizer: Optimizer = dataclasses.field(default_factory=lambda: SGD(learning_rate=1.0))
    weighting: str | None = None

    def __post_init__(self) -> None:
        _check_optimizers(
            ("client_optimizer", self.client_optimizer), ("server_optimizer", self.server_optimizer)
        )
        _check_weighting(self.weighting)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FedOpt(FedAvg):
    """Federated averaging with an adaptive server: FedAdam, FedYogi, FedAdagrad or FedAvgM.

    Source: Reddi et al., "Adaptive Federated Optimization", arXiv:2003.00295, algorithm 2.

    Args:
      client_optimizer: As for `FedAvg`.
      server_optimizer: Adam, Yogi, Adagrad, or SGD with momentum.
      weighting: As for `FedAvg`.

    Raises:
      ArgumentError: A value is outside its bound.
    """

    server_optimizer: Optimizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class FedProx(FedAvg):
    """Federated averaging whose clients are held near the global model by a proximal term.

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class FedSGD(Algorithm):
    """One gradient a client and round; the server takes the step.

    A client's gradient is the mean over all its examples; epochs beyond one repeat it.

    Source: McMahan et al., arXiv:1602.05629, section 2.

    Args:
      server_optimizer: Steps along the averaged gradient.
      weighting: As for `FedAvg`.

    Raises:
      ArgumentError: A value is outside its bound.
    """

    server_optimizer: Optimizer = dataclasses.field(default_factory=lambda: SGD(learning_rate=0.1))
    weighting: str | None = None

    def __post_init__(self) -> None:
        _check_optimizers(("server_optimizer", self.server_optimizer))
        _check_weighting(self.weighting)
