"""Checks the weights of a model before training: there are some, and they are finite."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tff_dp._compat import keras as keras_compat
from tff_dp.errors import ModelError
from tff_dp.model.bound import BoundModel


def check_weights(model: BoundModel) -> None:
    """Refuses a model that training cannot change, or whose initial weights are not finite.

    Infinities in non-trainable weights are allowed, since a layer may need them, for example in a
    mask that is added to scores.

    Args:
      model: The model, bound to data.

    Raises:
      ModelError: No weight is trainable, a trainable weight is NaN or infinite, or a non-trainable
        weight is NaN.
    """
    trainable, non_trainable = model.initial_weights
    name = getattr(model.source, "name", "model")
    if not sum(int(np.size(weight)) for weight in trainable):
        held = sum(int(np.size(weight)) for weight in non_trainable)
        raise ModelError(_nothing_to_train(name, held))
    variables = getattr(model.source, "trainable_variables", ())
    for position, weight in enumerate(trainable):
        variable = variables[position] if position < len(variables) else None
        path = getattr(variable, "path", None) or getattr(variable, "name", str(position))
        what = f"The trainable weight {path!r} of the model {name!r}"
        _check(what, weight, np.isfinite, "a finite number")
    for weight in non_trainable:
        what = f"A non-trainable weight of shape {list(np.shape(weight))} of the model {name!r}"
        _check(what, weight, lambda values: ~np.isnan(values), "a number")


def _nothing_to_train(name: str, held: int) -> str:
    what = (
        f"all of its {held} weights are frozen. Set trainable=True for the layers to be trained"
        if held
        else "it has no weights at all. Add a layer with weights, such as Dense"
    )
    return (
        f"The model {name!r} has no trainable weights: {what}. Nothing would be trained, and the epsilon "
        "of the rounds would be spent for nothing."
    )


def _check(what: str, weight: Any, is_right: Callable[[Any], Any], expected: str) -> None:
    values = np.asarray(weight)
    if values.dtype.kind in "biuSUO":
        return
    if values.dtype.kind not in "fc":
        values = values.astype(np.float32)  # bfloat16 and other types that NumPy does not have
    right = is_right(values)
    if not right.all():
        where = tuple(int(index) for index in np.argwhere(~right)[0])
        raise ModelError(
            f"{what} is {values[where]} at index {list(where)}: expected {expected} everywhere. Every "
            "client's update would be NaN, and every round would be charged for nothing. Load the "
            "weights of the model again, or initialize them."
        )


def variables_of(model: Any) -> tuple[list[Any], list[Any]]:
    """Returns the variables of a Keras model in the order of `ModelWeights`.

    Args:
      model: A built Keras model that was not compiled: metrics of a compiled one may count as
        variables.

    Returns:
      The trainable variables, and the others that are weights.
    """
    if keras_compat.is_legacy(model):
        return list(model.trainable_variables), list(model.non_trainable_variables)
    return list(model.trainable_variables), list(model.non_trainable_weights)
