"""Optimizers by name, for clients and for the server: thin descriptions of TFF's own."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any

from tff_dp import _checks, _compat
from tff_dp.config import Config


class Optimizer(Config, abc.ABC):
    """A description of a `tff.learning.optimizers.Optimizer`."""

    @abc.abstractmethod
    def build(self) -> Any:
        """Builds the optimizer that this describes.

        Returns:
          A `tff.learning.optimizers.Optimizer`.

        Raises:
          StackError: TFF cannot be imported.
        """


def _check_rate(learning_rate: float) -> None:
    _checks.real("learning_rate", learning_rate, "(0, inf)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SGD(Optimizer):
    """Stochastic gradient descent. On the server, FedAvgM where momentum is above 0.

    Source of the server's momentum: Hsu, Qi and Brown, arXiv:1909.06335, section 3.2.

    Args:
      learning_rate: > 0.
      momentum: In [0, 1).

    Raises:
      ArgumentError: A value is outside its bound.
    """

    learning_rate: float
    momentum: float = 0.0

    def __post_init__(self) -> None:
        _check_rate(self.learning_rate)
        _checks.real("momentum", self.momentum, "[0, 1)")

    def build(self) -> Any:
        """Builds TFF's `build_sgdm`.

        Returns:
          A `tff.learning.optimizers.Optimizer`.

        Raises:
          StackError: TFF cannot be imported.
        """
        return _compat.tff.load().learning.optimizers.build_sgdm(
            self.learning_rate, self.momentum or None
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Moments(Optimizer):
    """The fields of Adam and Yogi, which keep running averages of the gradient and of its square."""

    learning_rate: float
    beta_1: float = 0.9
    beta_2: float = 0.99
    epsilon: float = 1e-3

    def __post_init__(self) -> None:
        _check_rate(self.learning_rate)
        _checks.real("beta_1", self.beta_1, "[0, 1)")
        _checks.real("beta_2", self.beta_2, "[0, 1)")
        _checks.real("epsilon", self.epsilon, "(0, inf)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adam(_Moments):
    """Adam; on the server, FedAdam of Reddi et al., arXiv:2003.00295, with bias correction.

    Args:
      learning_rate: > 0.
      beta_1: In [0, 1).
      beta_2: In [0, 1).
      epsilon: > 0; the paper's tau, which it sets far above what is usual outside federated learning.

    Raises:
      ArgumentError: A value is outside its bound.
    """

    def build(self) -> Any:
        """Builds TFF's `build_adam`.

        Returns:
          A `tff.learning.optimizers.Optimizer`.

        Raises:
          StackError: TFF cannot be imported.
        """
        return _compat.tff.load().learning.optimizers.build_adam(
            self.learning_rate, self.beta_1, self.beta_2, self.epsilon
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Yogi(_Moments):
    """Yogi; on the server, FedYogi of Reddi et al., arXiv:2003.00295, with bias correction.

    Args:
      learning_rate: > 0.
      beta_1: In [0, 1).
      beta_2: In [0, 1).
      epsilon: > 0; the paper's tau.

    Raises:
      ArgumentError: A value is outside its bound.
    """

    def build(self) -> Any:
        """Builds TFF's `build_yogi`.

        Returns:
          A `tff.learning.optimizers.Optimizer`.

        Raises:
          StackError: TFF cannot be imported.
        """
        return _compat.tff.load().learning.optimizers.build_yogi(
            self.learning_rate, self.beta_1, self.beta_2, self.epsilon
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adagrad(Optimizer):
    """Adagrad; on the server, FedAdagrad of Reddi et al., arXiv:2003.00295, without a first moment.

    Args:
      learning_rate: > 0.
      initial_preconditioner: Initial value of the accumulated squares; >= 0.
      epsilon: > 0; added below the square root, where the paper's tau is added outside.

    Raises:
      ArgumentError: A value is outside its bound.
    """

    learning_rate: float
    initial_preconditioner: float = 0.0
    epsilon: float = 1e-3

    def __post_init__(self) -> None:
        _check_rate(self.learning_rate)
        _checks.real("initial_preconditioner", self.initial_preconditioner, "[0, inf)")
        _checks.real("epsilon", self.epsilon, "(0, inf)")

    def build(self) -> Any:
        """Builds TFF's `build_adagrad`.

        Returns:
          A `tff.learning.optimizers.Optimizer`.

        Raises:
          StackError: TFF cannot be imported.
        """
        return _compat.tff.load().learning.optimizers.build_adagrad(
            self.learning_rate, self.initial_preconditioner, self.epsilon
        )
