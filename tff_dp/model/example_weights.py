"""Weights of examples: a field of y that multiplies the losses of the examples, and is no label.

Only the loss of an example changes. A client's update, or a record's gradient, is clipped after that,
and the denominators of averages are public numbers, so that no weight moves a sum by more than the
clip norm.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from tff_dp.errors import DataError, ModelError
from tff_dp.model import trial
from tff_dp.model.labels import describe


@dataclasses.dataclass(frozen=True)
class Weights:
    """The weights of a loss.

    Attributes:
      of_classes: The weight of an example by its class, or None.
      of_examples: The weights of examples in y.
      of_outputs: The weights of the outputs, as of Keras's `compile(loss_weights=...)`, or None.
    """

    of_classes: Mapping[int, float] | None
    of_examples: ExampleWeights
    of_outputs: Any


class ExampleWeights:
    """Takes the weights of examples and their labels out of y.

    Args:
      field: The name of the field of y that has the weights; None if examples have no weights, and all
        of y are labels.
      y_spec: The spec of y.

    Raises:
      DataError: y has no such field, or no other one; or a weight is not one number for each example.
    """

    def __init__(self, field: str | None, y_spec: Any) -> None:
        self._field = field
        if field is not None:
            _check(field, y_spec)

    def labels(self, y: Any) -> Any:
        """Takes the labels.

        Args:
          y: Tensors, arrays or specs in the structure of y.

        Returns:
          The other fields of y; if there is one, not in a dictionary. All of y without weights.
        """
        if self._field is None:
            return y
        others = {name: value for name, value in y.items() if name != self._field}
        return next(iter(others.values())) if len(others) == 1 else type(y)(others)

    def weights(self, y: Any) -> Any:
        """Takes the weights.

        Args:
          y: The tensors of a batch, in the structure of y.

        Returns:
          The weights, float32 [examples]; None without weights.
        """
        if self._field is None:
            return None
        return tf.reshape(tf.cast(y[self._field], tf.float32), [-1])

    def refuse_mask(self, model: Any) -> None:
        """Refuses weights for a model whose outputs have a mask, where Keras itself fails.

        Args:
          model: The Keras model.

        Raises:
          ModelError: Examples have weights.
        """
        if self._field is not None:
            raise ModelError(
                f"The outputs of the model {model.name!r} have a mask (for example from Masking, or from "
                f"Embedding with mask_zero=True), and sample_weight={self._field!r} has one weight for "
                "each example: Keras multiplies the weights by the mask, whose shape is another one. "
                "Leave the weights out, or put them and the padding into a loss function of your own."
            )

    def weighted(self, value: Callable[..., Any], y_spec: Any, predictions: Any) -> Any:
        """Returns a loss of y and predictions.

        Args:
          value: A loss of (labels, predictions, weights).
          y_spec: The spec of y.
          predictions: The spec of the model's outputs.

        Returns:
          The loss of a batch, a function of (y, predictions).

        Raises:
          ModelError: The loss fails with weights.
        """
        if self._field is None:
            return value

        def total(y: Any, predictions: Any) -> Any:
            return value(self.labels(y), predictions, self.weights(y))

        trial.of_loss(
            total, f"The loss cannot have sample_weight={self._field!r}", y_spec, predictions
        )
        return total


def _check(field: str, y_spec: Any) -> None:
    if not isinstance(y_spec, Mapping) or field not in y_spec:
        raise DataError(
            f"sample_weight={field!r} is not a field of y, which is {describe(y_spec)}: expected y as a "
            f"dictionary of arrays with that field, such as {{'label': y, {field!r}: weights}}. The "
            "other fields are the labels."
        )
    if len(y_spec) == 1:
        raise DataError(
            f"sample_weight={field!r} is the only field of y: expected labels in another field, such as "
            f"{{'label': y, {field!r}: weights}}."
        )
    spec = y_spec[field]
    if list(spec.shape[1:]) not in ([], [1]) or spec.dtype == tf.string:
        raise DataError(
            f"sample_weight={field!r} names a field of {describe(spec)}: expected one number for each "
            "example, [examples]. Weights of the parts of an example go into a loss function of your own."
        )
