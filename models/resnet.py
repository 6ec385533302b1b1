"""A small residual network with group normalization.

Why not batch normalization? It divides by the mean and the variance of a batch. Then the output of one
example depends on the others of its batch, so that there is no gradient of one example that could be
clipped; its moving averages are statistics of the clients' data, which no clipping bounds and no noise
covers; and on clients whose data differ, the statistics that a layer was trained with are not those
that it is used with (Hsieh et al., "The non-IID data quagmire of decentralized machine learning", ICML
2020). Group normalization takes both from the example itself, and has no moving averages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

import tff_dp
from models import _heads


def build(
    *,
    shape: Sequence[int] = (28, 28, 1),
    classes: int = 10,
    filters: Sequence[int] = (16, 32, 64),
    blocks: int = 1,
    groups: int = 8,
) -> tff_dp.ModelSpec:
    """Returns a convolution and stages of residual blocks, each stage at half the resolution.

    Parameters: 77,562.

    Args:
      shape: Height, width and channels of an image.
      classes: Number of classes; >= 2. Two have a single logit.
      filters: Filters of each stage, multiples of `groups`.
      blocks: Residual blocks of a stage; >= 1.
      groups: Groups of channels that are normalized together; >= 1.

    Returns:
      The model for x of shape [n, *shape] and labels of shape [n].

    Source:
      He et al., "Deep residual learning for image recognition" (CVPR 2016), section 4.2; Wu and He,
      "Group normalization" (ECCV 2018).
    """
    inputs = keras.layers.Input(list(shape), name="x")
    x = _normalized(_convolution(filters[0])(inputs), groups)
    for stage, size in enumerate(filters):
        for block in range(blocks):
            x = _block(x, size, 2 if stage > 0 and block == 0 else 1, groups)
    x = keras.layers.GlobalAveragePooling2D()(x)
    outputs = keras.layers.Dense(_heads.outputs_of(classes), name="logits")(x)
    model = keras.Model(inputs, outputs, name="resnet")
    return tff_dp.ModelSpec(model=model, loss=_heads.loss_of(classes))


def _block(x: Any, filters: int, stride: int, groups: int) -> Any:
    """Returns two convolutions of x, plus x itself or a projection of it."""
    y = _normalized(_convolution(filters, stride)(x), groups)
    y = keras.layers.GroupNormalization(groups)(_convolution(filters)(y))
    if stride != 1 or x.shape[-1] != filters:
        x = _convolution(filters, stride, size=1)(x)
    return keras.layers.ReLU()(keras.layers.Add()([x, y]))


def _convolution(filters: int, stride: int = 1, size: int = 3) -> Any:
    return keras.layers.Conv2D(
        filters,
        size,
        strides=stride,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
    )


def _normalized(x: Any, groups: int) -> Any:
    return keras.layers.ReLU()(keras.layers.GroupNormalization(groups)(x))
