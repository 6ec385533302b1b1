"""A recurrent network that predicts the next character."""

from __future__ import annotations

import keras

import tff_dp


def build(
    *, vocabulary: int = 90, length: int = 80, width: int = 8, units: int = 256, layers: int = 2
) -> tff_dp.ModelSpec:
    """Returns an embedding, LSTMs, and a logit for each character that may come next.

    Parameters: 820,522.

    Args:
      vocabulary: Number of characters; ids are in [0, vocabulary).
      length: Characters of an example.
      width: Width of the embedding.
      units: Units of each LSTM.
      layers: Number of LSTMs; >= 1.

    Returns:
      The model for x of shape [n, length], whole numbers, and labels of the same shape: the characters
      that follow those of x.

    Source:
      McMahan et al., "Communication-efficient learning of deep networks from decentralized data"
      (AISTATS 2017), section 3, for the roles of Shakespeare's plays.
    """
    recurrent = [
        keras.layers.LSTM(units, return_sequences=True, name=f"lstm_{number}")
        for number in range(1, layers + 1)
    ]
    model = keras.Sequential(
        [
            keras.layers.Input([length], dtype="int32", name="x"),
            keras.layers.Embedding(vocabulary, width, name="embedding"),
            *recurrent,
            keras.layers.Dense(vocabulary, name="logits"),
        ],
        name="char_lstm",
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return tff_dp.ModelSpec(model=model, loss=loss)
