"""A small Transformer encoder for text: classes of texts, or the next token."""

from __future__ import annotations

from typing import Any

import keras

import tff_dp
from models import _heads


@keras.saving.register_keras_serializable(package="models.transformer")
class Positions(keras.layers.Layer):  # type: ignore[misc]
    """Adds a trained vector for each position.

    Args:
      length: Number of positions.
      **kwargs: Those of every layer of Keras.
    """

    def __init__(self, length: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.length = length

    def build(self, input_shape: Any) -> None:
        """Makes the weights.

        Args:
          input_shape: [n, length, width].
        """
        shape = (self.length, input_shape[-1])
        self.positions = self.add_weight(shape=shape, initializer="random_normal", name="positions")

    def call(self, inputs: Any) -> Any:
        """Adds the vectors.

        Args:
          inputs: Shape [n, length, width].

        Returns:
          The sums, of the same shape.
        """
        return inputs + self.positions

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments, for Keras."""
        return {**super().get_config(), "length": self.length}


def build(
    *,
    vocabulary: int = 90,
    length: int = 80,
    classes: int | None = None,
    width: int = 64,
    heads: int = 4,
    blocks: int = 2,
) -> tff_dp.ModelSpec:
    """Returns an encoder with normalization before each part, and without dropout.

    Parameters: 116,826.

    Args:
      vocabulary: Number of tokens; ids are in [0, vocabulary).
      length: Tokens of an example.
      classes: Number of classes of whole texts; >= 2. None for the next token at each position, where
        attention sees only what comes before.
      width: Width of the embedding, a multiple of `heads`. The layers between have four times as many
        units.
      heads: Heads of attention.
      blocks: Blocks of attention and dense layers.

    Returns:
      The model for x of shape [n, length], whole numbers. Labels have shape [n], or that of x for the
      next token.

    Source:
      Vaswani et al., "Attention is all you need" (NeurIPS 2017), section 3.1; with normalization before
      each part, as of Xiong et al., "On layer normalization in the Transformer architecture" (ICML 2020).
    """
    inputs = keras.layers.Input([length], dtype="int32", name="x")
    x = Positions(length)(keras.layers.Embedding(vocabulary, width)(inputs))
    for _ in range(blocks):
        y = keras.layers.LayerNormalization()(x)
        y = keras.layers.MultiHeadAttention(heads, width // heads)(
            y, y, use_causal_mask=classes is None
        )
        x = keras.layers.Add()([x, y])
        y = keras.layers.LayerNormalization()(x)
        y = keras.layers.Dense(4 * width, activation="gelu")(y)
        x = keras.layers.Add()([x, keras.layers.Dense(width)(y)])
    x = keras.layers.LayerNormalization()(x)
    if classes is None:
        outputs = keras.layers.Dense(vocabulary, name="logits")(x)
        loss: Any = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    else:
        x = keras.layers.GlobalAveragePooling1D()(x)
        outputs = keras.layers.Dense(_heads.outputs_of(classes), name="logits")(x)
        loss = _heads.loss_of(classes)
    return tff_dp.ModelSpec(model=keras.Model(inputs, outputs, name="transformer"), loss=loss)
