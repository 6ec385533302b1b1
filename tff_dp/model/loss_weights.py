"""Weights of the losses of a model's outputs, as of Keras's `compile(loss_weights=...)`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tff_dp.errors import ModelError


def by_output(loss_weights: Any, names: Sequence[str]) -> dict[str, float]:
    """Returns the weight of each output's loss.

    Args:
      loss_weights: A list in the order of the outputs, a dictionary by their names, or None.
      names: The names of the outputs, in order.

    Returns:
      The weights by the names of the outputs; 1 for an output without a weight.

    Raises:
      ModelError: The weights do not fit the outputs, or one of them is outside its bound.
    """
    listed = ", ".join(map(repr, names))
    if loss_weights is None:
        return dict.fromkeys(names, 1.0)
    if isinstance(loss_weights, Mapping):
        unknown = [name for name in loss_weights if name not in names]
        if unknown:
            raise ModelError(
                f"loss_weights={loss_weights!r} names an unknown output {unknown[0]!r}: expected some of "
                f"{listed}."
            )
        return {name: _number(loss_weights.get(name), loss_weights) for name in names}
    if isinstance(loss_weights, list | tuple | np.ndarray) and len(loss_weights) == len(names):
        return {
            name: _number(weight, loss_weights)
            for name, weight in zip(names, loss_weights, strict=True)
        }
    raise ModelError(
        f"loss_weights={loss_weights!r}: expected one weight for each of the outputs {listed}, in a list "
        "in this order or a dictionary by name."
    )


def of_single_loss(loss_weights: Any, names: Sequence[str] | None, *, of_all: bool) -> float:
    """Returns the weight of a loss that is the only one.

    Args:
      loss_weights: A number, a list or a dictionary with one number, or None.
      names: The names of the outputs, in order, if they are known.
      of_all: Whether the loss is a function of all outputs, which has no weights by output.

    Returns:
      The weight; 1 without one.

    Raises:
      ModelError: There are other weights than 1 for a function of all outputs; or the weights do not fit
        a single loss, or are outside their bound.
    """
    if of_all:
        if any(weight != 1 for weight in _leaves(loss_weights)):
            raise ModelError(
                f"loss_weights={loss_weights!r} weights each output, and the loss is a function of all "
                "outputs together: expected a loss for each output, loss=[...] or loss={...}. Or put the "
                "weights into the function."
            )
        return 1.0
    if isinstance(loss_weights, Mapping | list | tuple | np.ndarray):
        known = list(names or ())
        return by_output(loss_weights, known if len(known) == 1 else ["output"]).popitem()[1]
    return _number(loss_weights, loss_weights)


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple | np.ndarray):
        return [each for each in value if each is not None]
    return [] if value is None else [value]


def _number(weight: Any, given: Any) -> float:
    if weight is None:
        return 1.0
    is_number = isinstance(weight, int | float | np.integer | np.floating)
    if not is_number or isinstance(weight, bool) or not math.isfinite(weight):
        raise ModelError(
            f"loss_weights={given!r} holds {weight!r}: expected finite numbers, one for each loss."
        )
    return float(weight)
