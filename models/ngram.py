"""A feed-forward network that predicts the next character from the last few."""

from __future__ import annotations

import keras

import tff_dp


def build(
    *, vocabulary: int = 90, length: int = 80, context: int = 5, width: int = 8, units: int = 64
) -> tff_dp.ModelSpec:
    """Returns an embedding, a hidden layer over the last characters, and a logit for each next one.

    Where an example has no character yet, the embedding counts as zero.

    Parameters: 9,194.

    Args:
      vocabulary: Number of characters; ids are in [0, vocabulary).
      length: Characters of an example.
      context: Characters that a prediction sees, the present one included; in [1, length].
      width: Width of the embedding.
      units: Units of the hidden layer.

    Returns:
      The model for x of shape [n, length], whole numbers, and labels of the same shape: the characters
      that follow those of x.

    Source:
      Bengio et al., "A neural probabilistic language model" (Journal of Machine Learning Research,
      2003), section 2, without direct connections from the embedding to the logits.
    """
    inputs = keras.layers.Input([length], dtype="int32", name="x")
    x = keras.layers.Embedding(vocabulary, width, name="embedding")(inputs)
    x = keras.layers.ZeroPadding1D((context - 1, 0), name="before")(x)
    shifted = [
        keras.layers.Cropping1D((lag, context - 1 - lag), name=f"character_{lag + 1}")(x)
        for lag in range(context)
    ]
    x = keras.layers.Concatenate(name="context")(shifted) if context > 1 else shifted[0]
    x = keras.layers.Dense(units, activation="tanh", name="hidden")(x)
    outputs = keras.layers.Dense(vocabulary, name="logits")(x)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return tff_dp.ModelSpec(model=keras.Model(inputs, outputs, name="ngram"), loss=loss)
