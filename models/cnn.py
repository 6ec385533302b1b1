"""The convolutional network of two layers that federated learning is often tried with on EMNIST."""

from __future__ import annotations

from collections.abc import Sequence

import keras

import tff_dp
from models import _heads


def build(
    *,
    shape: Sequence[int] = (28, 28, 1),
    classes: int = 10,
    filters: Sequence[int] = (32, 64),
    units: int = 128,
    dropout: Sequence[float] = (0.25, 0.5),
) -> tff_dp.ModelSpec:
    """Returns two convolutions of 3 x 3, a pooling, and a dense layer, with dropout.

    Parameters: 1,199,882.

    Args:
      shape: Height, width and channels of an image.
      classes: Number of classes; >= 2. Two have a single logit.
      filters: Filters of each of the two convolutions. Noise grows with the square root of the
        parameters, so that fewer are often better under differential privacy.
      units: Units of the dense layer.
      dropout: Rates after the pooling and after the dense layer; 0 leaves the layer out.

    Returns:
      The model for x of shape [n, *shape] and labels of shape [n].

    Source:
      Reddi et al., "Adaptive federated optimization" (ICLR 2021), appendix C.1, for EMNIST.
    """
    convolutions = [
        keras.layers.Conv2D(size, 3, activation="relu", name=f"convolution_{number}")
        for number, size in enumerate(filters, 1)
    ]
    drops = [keras.layers.Dropout(rate) if rate else None for rate in dropout]
    layers = [
        keras.layers.Input(list(shape), name="x"),
        *convolutions,
        keras.layers.MaxPooling2D(2),
        drops[0],
        keras.layers.Flatten(),
        keras.layers.Dense(units, activation="relu", name="hidden"),
        drops[1],
        keras.layers.Dense(_heads.outputs_of(classes), name="logits"),
    ]
    model = keras.Sequential([layer for layer in layers if layer is not None], name="cnn")
    return tff_dp.ModelSpec(model=model, loss=_heads.loss_of(classes))
