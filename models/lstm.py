"""A recurrent network for windows of sensor data."""

from __future__ import annotations

import keras

import tff_dp
from models import _heads


def build(
    *, length: int = 100, channels: int = 6, classes: int = 7, units: int = 64
) -> tff_dp.ModelSpec:
    """Returns one LSTM over time, whose last state is classified.

    Parameters: 18,631.

    Args:
      length: Time steps of a window.
      channels: Measurements at each step.
      classes: Number of classes; >= 2. Two have a single logit.
      units: Units of the LSTM.

    Returns:
      The model for x of shape [n, length, channels] and labels of shape [n].

    Source:
      Hochreiter and Schmidhuber, "Long short-term memory" (Neural Computation 1997); for such windows,
      Hammerla, Halloran and Ploetz, "Deep, convolutional, and recurrent models for human activity
      recognition using wearables" (IJCAI 2016).
    """
    model = keras.Sequential(
        [
            keras.layers.Input([length, channels], name="x"),
            keras.layers.LSTM(units, name="lstm"),
            keras.layers.Dense(_heads.outputs_of(classes), name="logits"),
        ],
        name="lstm",
    )
    return tff_dp.ModelSpec(model=model, loss=_heads.loss_of(classes))
