"""Linear regression."""

from __future__ import annotations

import keras

import tff_dp


def build(*, features: int = 10) -> tff_dp.ModelSpec:
    """Returns y = x W + b under the mean squared error, starting from zero weights.

    Parameters: 11.

    Args:
      features: Number of features; >= 1.

    Returns:
      The model for x of shape [n, features] and y of shape [n] or [n, 1].

    Source:
      Legendre, "Nouvelles méthodes pour la détermination des orbites des comètes" (1805).
    """
    model = keras.Sequential(
        [
            keras.layers.Input([features], name="x"),
            keras.layers.Dense(1, kernel_initializer="zeros", name="linear"),
        ],
        name="linear_regression",
    )
    return tff_dp.ModelSpec(model=model, loss="mean_squared_error")
