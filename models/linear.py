"""Linear regression."""

from __future__ import annotations

import keras

import tff_dp


def build(*, features: int) -> tff_dp.ModelSpec:
    """Returns y = x W + b under the mean squared error, starting from zero weights.

    Args:
      features: Number of features; >= 1.
    """
    model = keras.Sequential(
        [
            keras.layers.Input([features], name="x"),
            keras.layers.Dense(1, kernel_initializer="zeros", name="linear"),
        ],
        name="linear_regression",
    )
    return tff_dp.ModelSpec(model=model, loss="mean_squared_error")
