"""Logistic regression, of two classes or more."""

from __future__ import annotations

import keras

import tff_dp
from models import _heads


def build(*, features: int = 10, classes: int = 2) -> tff_dp.ModelSpec:
    """Returns the logits x W + b under the crossentropy, starting from zero weights.

    Parameters: 11.

    Args:
      features: Number of features; >= 1.
      classes: Number of classes; >= 2. Two have a single logit.

    Returns:
      The model for x of shape [n, features] and labels of shape [n].

    Source:
      Cox, "The regression analysis of binary sequences" (Journal of the Royal Statistical Society B,
      1958).
    """
    model = keras.Sequential(
        [
            keras.layers.Input([features], name="x"),
            keras.layers.Dense(
                _heads.outputs_of(classes), kernel_initializer="zeros", name="logits"
            ),
        ],
        name="logistic_regression",
    )
    return tff_dp.ModelSpec(model=model, loss=_heads.loss_of(classes))
