"""The proximal term of FedProx, as a TFF optimizer around another one.

TFF 0.87.0's own FedProx adds mu (w_global - w) to the gradient where the term's gradient is
mu (w - w_global): its clients are pushed away from the global model (both of its kinds of model, in
learning/templates/proximal_client_work.py; `tests/training/test_process.py` shows it). So FedProx is
composed of TFF's federated averaging and this optimizer instead.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tff_dp import _compat

tff = _compat.tff.load()


def proximal(inner: Any, strength: float) -> Any:
    """Returns an optimizer that steps along the gradient of loss + (mu / 2) ||w - w_start||^2.

    Args:
      inner: The `tff.learning.optimizers.Optimizer` that takes the step.
      strength: mu; >= 0.

    Returns:
      A `tff.learning.optimizers.Optimizer`. w_start are the weights of its first step: an optimizer is
      made anew for each client and round, so they are the global model's.
    """
    return ProximalOptimizer(inner, strength)


class ProximalOptimizer(tff.learning.optimizers.Optimizer):  # type: ignore[misc,name-defined]
    """See `proximal`. The state holds the inner one, the start, and whether it is known yet."""

    def __init__(self, inner: Any, strength: float) -> None:
        self._inner, self._strength = inner, strength

    def initialize(self, specs: Any) -> Any:
        """Makes the state before the first step: see TFF's `Optimizer.initialize`."""
        start = tf.nest.map_structure(lambda spec: tf.zeros(spec.shape, spec.dtype), specs)
        return {"inner": self._inner.initialize(specs), "start": start, "started": False}

    def next(self, state: Any, weights: Any, gradients: Any) -> tuple[Any, Any]:
        """Takes a step along the gradient of loss and term: see TFF's `Optimizer.next`."""
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
        """Returns the inner optimizer's hyperparameters."""
        return self._inner.get_hparams(state["inner"])

    def set_hparams(self, state: Any, hparams: Any) -> Any:
        """Replaces the inner optimizer's hyperparameters."""
        return {**state, "inner": self._inner.set_hparams(state["inner"], hparams)}
