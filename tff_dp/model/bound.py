"""A model that is bound to the shape of the data: what every kind of Keras model becomes."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tff_dp import _warnings
from tff_dp._compat import keras as keras_compat
from tff_dp.model import fingerprint, layers
from tff_dp.model.compiled import Compiled
from tff_dp.model.losses import Term


class ModelWeights(NamedTuple):
    """The weights of a model in the order of its own lists, as in TFF's `ModelWeights`.

    Attributes:
      trainable: Arrays in the order of `model.trainable_variables`.
      non_trainable: Arrays in the order of `model.non_trainable_weights` (Keras 3) or
        `model.non_trainable_variables` (tf-keras): state that training does not change.
    """

    trainable: tuple[np.ndarray, ...]
    non_trainable: tuple[np.ndarray, ...]


class BoundModel(abc.ABC):
    """A model for data of a known shape, in the form that TFF's builders require.

    Attributes:
      tff_model: A `tff.learning.models.FunctionalModel`, or a zero-argument function that makes a
        `tff.learning.models.VariableModel`.
      initial_weights: The weights from which training starts.
      terms: The terms of the loss, with the shapes that they compare.
      compute_dtypes: Names of the types in which the layers compute, such as "float32".
      source: The Keras model that was given, or that the given function made.
      loss: The loss that was given, or with which `source` was compiled.
      loss_weights: The weights of the losses of the outputs, as of Keras's `compile`, or None.
      metrics: Metric objects of the model's Keras.
      compiled: The arguments with which `source` was compiled, or None.
      input_spec: The specs of x and y of a batch.
      labels_of: Takes the labels out of y, whose field with the weights of examples is no label.
    """

    tff_model: Any
    initial_weights: ModelWeights
    terms: tuple[Term, ...]
    compute_dtypes: frozenset[str]
    source: Any = None
    loss: Any = None
    loss_weights: Any = None
    metrics: Sequence[Any] = ()
    compiled: Compiled | None = None
    input_spec: Any = None
    labels_of: Callable[[Any], Any]

    @property
    def is_functional(self) -> bool:
        """Whether `tff_model` is a `FunctionalModel`, whose graph has no variables."""
        return not callable(self.tff_model)

    def fingerprint(self, examples: int | None = None) -> str | None:
        """Returns a digest of what a training step computes, apart from the values of the weights.

        The step is traced when the digest is first asked for: a model that is changed afterwards has
        to be bound again.

        Args:
          examples: The number of examples in the batch of the step; None for any number.

        Returns:
          The digest. None if it is not known: the model is not functional, or its graph reads values
          from outside.
        """
        if not self.is_functional:
            return None
        found: dict[int | None, str | None] = self.__dict__.setdefault("_fingerprints", {})
        if examples not in found:
            found[examples] = fingerprint.of_step(self.tff_model, self.input_spec, examples)
        return found[examples]

    def index_reader(self, x_spec: Any) -> Callable[[Any], Any] | None:
        """Returns a function that finds the indices of the model's embeddings for a batch of x.

        Args:
          x_spec: The spec of a batch of x.

        Returns:
          The function, or None; see `layers.index_reader`.
        """
        return layers.index_reader(self.source, keras_compat.library_of(self.source), x_spec)

    @abc.abstractmethod
    def to_keras(self, weights: ModelWeights) -> Any:
        """Makes a Keras model with given weights.

        Args:
          weights: The weights, in the order and with the shapes of `initial_weights`.

        Returns:
          A new Keras model of the same kind as the one that was given.

        Raises:
          ModelError: The weights do not fit the model.
        """


def compute_dtypes(model: Any) -> frozenset[str]:
    """Returns the types in which the layers of a Keras model compute, and warns of float16.

    Args:
      model: A model of either Keras.

    Returns:
      The names of the types, such as "float32".
    """
    found = {layer.name: str(layer.compute_dtype) for layer in keras_compat.layers_of(model)}
    half = [repr(name) for name, dtype in found.items() if dtype == "float16"]
    if half:
        named = ", ".join(half[:3]) + (", ..." if half[3:] else "")
        _warnings.warn(
            f"The model {model.name!r} computes in float16 (layers {named}), and its loss is not "
            "scaled: parts of a gradient below 6e-8 become zero, and one with a part above 65,504 is "
            "infinite, and counts as zero under a privacy plan. Use bfloat16 or 'mixed_bfloat16', which "
            "has the range of float32."
        )
    return frozenset(found.values())
