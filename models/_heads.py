"""Losses by the number of classes."""

from __future__ import annotations

import keras


def outputs_of(classes: int) -> int:
    """Returns the number of logits: one for two classes, otherwise one for each class.

    Args:
      classes: The number of classes; >= 2.
    """
    return 1 if classes == 2 else classes


def loss_of(classes: int) -> keras.losses.Loss:
    """Returns the crossentropy of logits.

    Args:
      classes: The number of classes; >= 2. With 2, labels are 0 or 1 of shape [n] or [n, 1]; with
        more, they are whole numbers of shape [n].
    """
    if classes == 2:
        return keras.losses.BinaryCrossentropy(from_logits=True)
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)
