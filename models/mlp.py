"""A multilayer perceptron for tables."""

from __future__ import annotations

from collections.abc import Sequence

import keras

import tff_dp
from models import _heads


def build(
    *, features: int = 10, classes: int = 2, units: Sequence[int] = (64, 32)
) -> tff_dp.ModelSpec:
    """Returns dense layers with rectifiers.

    Parameters: 2,817.

    Args:
      features: Number of features; >= 1.
      classes: Number of classes; >= 2. Two have a single logit.
      units: Units of each hidden layer.

    Returns:
      The model for x of shape [n, features] and labels of shape [n].

    Source:
      Goodfellow, Bengio and Courville, "Deep Learning" (2016), chapter 6. The initial weights are He's
      (He et al., "Delving deep into rectifiers", ICCV 2015).
    """
    hidden = [
        keras.layers.Dense(
            size, activation="relu", kernel_initializer="he_normal", name=f"hidden_{number}"
        )
        for number, size in enumerate(units, 1)
    ]
    model = keras.Sequential(
        [
            keras.layers.Input([features], name="x"),
            *hidden,
            keras.layers.Dense(_heads.outputs_of(classes), name="logits"),
        ],
        name="mlp",
    )
    return tff_dp.ModelSpec(model=model, loss=_heads.loss_of(classes))
