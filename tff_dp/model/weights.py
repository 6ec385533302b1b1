"""What a model's weights must be before training: there, trainable, and finite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tff_dp.errors import ModelError


def check_weights(model: Any, trainable: Sequence[Any], non_trainable: Sequence[Any]) -> None:
    """Refuses a model that training cannot change, or whose weights are no numbers to begin with.

    Args:
      model: The Keras model, for names.
      trainable: Arrays in the order of `model.trainable_variables`.
      non_trainable: Arrays of the state that training does not change. An infinity there may be a
        layer's own, such as a mask that is added to scores.

    Raises:
      ModelError: No weight is trainable, a trainable one is NaN or infinite, or another one is NaN.
    """
    if not sum(int(np.size(weight)) for weight in trainable):
        raise ModelError(_nothing_to_train(model, non_trainable))
    names = [_name(variable) for variable in model.trainable_variables]
    for name, weight in zip(names, trainable, strict=True):
        _check_finite(model, f"The trainable weight {name}", weight, np.isfinite, "a finite number")
    for weight in non_trainable:
        what = f"A non-trainable weight of shape {list(np.shape(weight))}"
        _check_finite(model, what, weight, lambda values: ~np.isnan(values), "a number")


def _nothing_to_train(model: Any, non_trainable: Sequence[Any]) -> str:
    held = sum(int(np.size(weight)) for weight in non_trainable)
    what = (
        f"all of its {held} weights are frozen. Set trainable=True for the layers to train, before they "
        "are trained"
        if held
        else "it has no weights at all. Give it a layer that has some, such as Dense"
    )
    return (
        f"The model {model.name!r} has no trainable weights: {what}. Nothing would be trained, and the "
        "epsilon of the rounds would be spent on it."
    )


def _check_finite(model: Any, what: str, weight: Any, is_right: Any, expected: str) -> None:
    values = np.asarray(weight)
    if values.dtype.kind in "biuSUO":
        return
    if values.dtype.kind != "c":
        values = values.astype(np.float64)  # NumPy's own, whatever the format was
    wrong = np.argwhere(~is_right(values))
    if len(wrong):
        where = tuple(int(index) for index in wrong[0])
        raise ModelError(
            f"{what} of the model {model.name!r} is {values[where]} at index {list(where)}: expected "
            f"{expected} everywhere. Every client's update would be no number, and every round would be "
            "charged for nothing. Load the model's weights anew, or initialize them."
        )


def _name(variable: Any) -> str:
    return repr(getattr(variable, "path", None) or variable.name)
