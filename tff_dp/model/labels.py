"""Labels and predictions: brought to one rank as in Keras, and refused if their shapes do not fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tff_dp.errors import DataError

# Losses of Keras whose labels do not have the shape of the predictions. All others compare value by
# value.
_CLASS_NUMBERS = ("sparse_categorical_crossentropy", "categorical_generalized_cross_entropy")
_OWN_CHECKS = ("ctc", "circle")  # these losses check the shape of labels themselves


def to_one_rank(labels: Any, predictions: Any, *, legacy: bool) -> tuple[Any, Any]:
    """Brings labels and predictions to one rank, as Keras does before it compares them.

    If the ranks differ by one and the larger shape ends in 1, that dimension is added to the
    smaller shape or removed from the larger one: labels [n] with predictions [n, 1] become [n, 1].

    Source: Keras 3.15, `keras.src.losses.loss.squeeze_or_expand_to_same_rank`; tf-keras 2.21,
    `compile_utils.match_dtype_and_rank` and `losses_utils.squeeze_or_expand_dimensions`.

    Args:
      labels: A tensor [examples, ...] of known rank; anything else is returned unchanged.
      predictions: The predictions, in the same form.
      legacy: Whether to follow tf-keras, which differs from Keras 3 in one case: labels [n, 1] with
        predictions [n] become [n], where Keras 3 expands the predictions to [n, 1].

    Returns:
      Labels and predictions.
    """
    if not hasattr(labels, "shape") or not hasattr(predictions, "shape"):
        return labels, predictions
    ranks = len(labels.shape), len(predictions.shape)
    if ranks[1] == ranks[0] + 1 and predictions.shape[-1] == 1:
        if ranks[0] == 1:
            return tf.expand_dims(labels, -1), predictions
        return labels, tf.squeeze(predictions, -1)
    if ranks[0] == ranks[1] + 1 and labels.shape[-1] == 1:
        if ranks[1] == 1 and not legacy:
            return labels, tf.expand_dims(predictions, -1)
        return tf.squeeze(labels, -1), predictions
    return labels, predictions


def check_shapes(function: str, loss: str, where: str, labels: Any, predictions: Any) -> None:
    """Refuses shapes that a loss of Keras would broadcast.

    Args:
      function: The name of Keras's function, such as "mean_squared_error".
      loss: The name of the loss in messages.
      where: The name of the labels in messages, such as "y" or "y['age']".
      labels: The labels or their spec, after `to_one_rank`.
      predictions: The predictions or their spec, after `to_one_rank`.

    Raises:
      DataError: The loss would broadcast them.
    """
    if function in _OWN_CHECKS:
        return
    expected, given = _sizes(predictions), _sizes(labels)
    allowed = [expected]
    if function in _CLASS_NUMBERS:
        allowed = [expected[:-1]]
        if function == "sparse_categorical_crossentropy":
            allowed.append([*expected[:-1], 1])
    if any(_fit(given, shape) for shape in allowed):
        return
    remedy = "Give y the shape of the predictions, or the model as many outputs as y has values."
    if function in _CLASS_NUMBERS:
        remedy = "Give y one whole number for each example, or use 'categorical_crossentropy'."
    elif len(given) < len(expected) and "categorical" in function:
        remedy = "If y has class numbers, use 'sparse_categorical_crossentropy'."
    raise DataError(
        f"{where} has shape {given} for one example, and the model predicts {expected}: "
        f"loss={loss!r} expects y of shape {' or '.join(map(str, allowed))}, and would compare every "
        f"value with every other value. {remedy}"
    )


def loss_name(loss: Any) -> str:
    """Returns the name of a loss.

    Args:
      loss: A name, a function, or a loss object.

    Returns:
      The name: that of the class for an object.
    """
    if isinstance(loss, str):
        return loss
    return str(getattr(loss, "__name__", type(loss).__name__))


def describe(spec: Any) -> str:
    """Describes the types and shapes of a structure of tensors, for messages.

    Args:
      spec: A structure of tensors or of `tf.TensorSpec`s.

    Returns:
      The description, such as "float32[None, 3]".
    """
    if isinstance(spec, Mapping):
        return "{" + ", ".join(f"{key}: {describe(value)}" for key, value in spec.items()) + "}"
    if isinstance(spec, list | tuple):
        return "[" + ", ".join(map(describe, spec)) + "]"
    return f"{spec.dtype.name}{list(spec.shape)}"


def _sizes(tensor: Any) -> list[int | None]:
    return list(tensor.shape)[1:]


def _fit(given: list[int | None], expected: list[int | None]) -> bool:
    return len(given) == len(expected) and all(
        a is None or b is None or a == b for a, b in zip(given, expected, strict=True)
    )
