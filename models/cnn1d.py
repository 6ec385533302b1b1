"""A convolutional network for windows of sensor data."""

from __future__ import annotations

from collections.abc import Sequence

import keras

import tff_dp
from models import _heads


def build(
    *,
    length: int = 100,
    channels: int = 6,
    classes: int = 7,
    filters: Sequence[int] = (32, 64),
    width: int = 5,
    groups: int = 8,
) -> tff_dp.ModelSpec:
    """Returns convolutions over time, each with group normalization and pooling, and a mean over time.

    Parameters: 11,943.

    Args:
      length: Time steps of a window.
      channels: Measurements at each step.
      classes: Number of classes; >= 2. Two have a single logit.
      filters: Filters of each convolution, multiples of `groups`.
      width: Time steps that a filter spans.
      groups: Groups of channels that are normalized together. `models.resnet` says why batches are
        not.

    Returns:
      The model for x of shape [n, length, channels] and labels of shape [n].

    Source:
      Wang, Yan and Oates, "Time series classification from scratch with deep neural networks" (IJCNN
      2017): the fully convolutional network, smaller, and with another normalization.
    """
    layers: list[keras.layers.Layer] = [keras.layers.Input([length, channels], name="x")]
    for size in filters:
        layers += [
            keras.layers.Conv1D(size, width, padding="same", kernel_initializer="he_normal"),
            keras.layers.GroupNormalization(groups),
            keras.layers.ReLU(),
            keras.layers.MaxPooling1D(2),
        ]
    layers += [
        keras.layers.GlobalAveragePooling1D(),
        keras.layers.Dense(_heads.outputs_of(classes), name="logits"),
    ]
    model = keras.Sequential(layers, name="cnn1d")
    return tff_dp.ModelSpec(model=model, loss=_heads.loss_of(classes))
