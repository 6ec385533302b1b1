"""The proximal term of FedProx, as a TFF optimizer that wraps another one.

TFF 0.87.0's own FedProx adds mu (w_global - w) to the gradient, but the gradient of the proximal
term is mu (w - w_global). It therefore pushes clients away from the global model, for both of TFF's
kinds of models (learning/templates/proximal_client_work.py; `tests/training/test_process.py`
demonstrates this). tff_dp composes FedProx from TFF's federated averaging and this optimizer
instead.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tff_dp import _compat

tff = _compat.tff.load()


def proximal(inner: Any, strength: float) -> Any:
    """Returns an optimizer for the objective loss + (mu / 2) ||w - w_start||^2.

    Args:
      inner: The `tff.learning.optimizers.Optimizer` that takes the steps.
      strength: mu; >= 0.

    Returns:
      A `tff.learning.optimizers.Optimizer`. w_start are the weights at its first step. Since the
      state is initialized for each client and round, these are the weights of the global model.
    """
    return ProximalOptimizer(inner, strength)


class ProximalOptimizer(tff.learning.optimizers.Optimizer):  # type: ignore[misc,name-defined]
    """The optimizer that `proximal` returns.

    Its state is a dictionary of the inner optimizer's state ("inner"), the weights at the first
    step ("start"), and whether a first step has been taken ("started").

    Args:
      inner: The `tff.learning.optimizers.Optimizer` that takes the steps.
      strength: mu; >= 0.
    """

    def __init__(self, inner: Any, strength: float) -> None:
        self._inner, self._strength = inner, strength

    def initialize(self, specs: Any) -> Any:
        """Builds the state before the first step; see TFF's `Optimizer.initialize`.

        Args:
          specs: A structure of `tf.TensorSpec`s that describes the weights.

        Returns:
          The state.
        """
        start = tf.nest.map_structure(lambda spec: tf.zeros(spec.shape, spec.dtype), specs)
        return {"inner": self._inner.initialize(specs), "start": start, "started": False}

    def next(self, state: Any, weights: Any, gradients: Any) -> tuple[Any, Any]:
        """Takes a step with the gradient of loss plus proximal term; see TFF's `Optimizer.next`.

        Args:
          state: The state.
          weights: The weights, a structure of tensors.
          gradients: The gradients of the loss, in the structure of `weights`; a gradient that is
            None stays None.

        Returns:
          The new state and the new weights.
        """
        start = tf.nest.map_structure(
            lambda known, now: tf.where(state["started"], known, now), state["start"], weights
        )
        gradients = tf.nest.map_structure(
            lambda g, w, s: None if g is None else g + self._strength * (w - s),
            gradients,
            weights,
            start,
        )
        inner, weights = self._inner.next(state["inner"], weights, gradients)
        return {"inner": inner, "start": start, "started": True}, weights

    def get_hparams(self, state: Any) -> Any:
        """Reads the hyperparameters of the inner optimizer.

        Args:
          state: The state.

        Returns:
          The hyperparameters; see TFF's `Optimizer.get_hparams`.
        """
        return self._inner.get_hparams(state["inner"])

    def set_hparams(self, state: Any, hparams: Any) -> Any:
        """Replaces the hyperparameters of the inner optimizer.

        Args:
          state: The state.
          hparams: The new hyperparameters; see TFF's `Optimizer.set_hparams`.

        Returns:
          The new state.
        """
        return {**state, "inner": self._inner.set_hparams(state["inner"], hparams)}
