"""A Keras model with its loss and metrics, and its conversion for data of a given shape."""

from __future__ import annotations

import abc
import dataclasses
import importlib
import inspect
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tff_dp import _compat
from tff_dp.errors import ModelError
from tff_dp.model.compiled import (
    Compiled,
    compiled_of,
    is_compiled,
    loss_of,
    metrics_of,
    missing_loss,
    refuse_overrides,
)

if TYPE_CHECKING:
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
      metrics: Metric objects of the model's Keras.
      compiled: The arguments with which `source` was compiled, or None.
      input_spec: The specs of x and y of a batch.
    """

    tff_model: Any
    initial_weights: ModelWeights
    terms: tuple[Term, ...]
    compute_dtypes: frozenset[str]
    source: Any = None
    loss: Any = None
    metrics: Sequence[Any] = ()
    compiled: Compiled | None = None
    input_spec: Any = None

    @property
    def is_functional(self) -> bool:
        """Whether `tff_model` is a `FunctionalModel`, whose graph has no variables."""
        return not callable(self.tff_model)

    def fingerprint(self, examples: int | None = None) -> str | None:
        """Returns a digest of what a training step computes, apart from the values of the weights.

        Args:
          examples: The number of examples in the batch of the step; None for any number.

        Returns:
          The digest. None if it is not known: the model is not functional, or its graph reads values
          from outside.
        """
        from tff_dp.model import fingerprint

        if not self.is_functional:
            return None
        return fingerprint.of_step(self.tff_model, self.input_spec, examples)

    def index_reader(self, x_spec: Any) -> Callable[[Any], Any] | None:
        """Returns a function that finds the indices of the model's embeddings for a batch of x.

        Args:
          x_spec: The spec of a batch of x.

        Returns:
          The function, or None; see `layers.index_reader`.
        """
        import keras

        from tff_dp.model import layers

        if isinstance(self.source, keras.Model):
            return layers.index_reader(self.source, keras, x_spec)
        import tf_keras

        return layers.index_reader(self.source, tf_keras, x_spec)

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A Keras model with its loss and metrics.

    Training starts from the weights that the model has when it is bound, and the trained weights go
    into a new model of the same kind: the model itself is not changed. The exception is a
    subclassed model that Keras cannot recreate: one whose constructor has arguments of its own (or
    no **kwargs) and that has no `get_config`. Such a model is trained in place, as by its own
    `fit`, unless it is given as a function.

    Args:
      model: A Keras 3 model (Sequential, functional, subclassed), a tf-keras model, or a function
        without arguments that makes one.
      loss: A loss of the same Keras: an object, a name that its `losses.get` knows, or a function of
        (labels, predictions). For several outputs also a list or dictionary of these by output. Labels
        are first brought to the rank of the predictions, as in Keras. None for the loss with which
        the model was compiled.
      metrics: Metrics of the same Keras: objects, functions, or names, including "accuracy". Each
        must be one number. docs/keras.md says which metrics are supported. None for the metrics
        with which the model was compiled, if any.

    Raises:
      ModelError: The loss is missing, or `metrics` is not a list.
    """

    model: Any
    loss: Any = None
    metrics: Sequence[Any] | None = None

    def __post_init__(self) -> None:
        if self.loss is None and not is_compiled(self.model) and not _makes_something(self.model):
            raise ModelError(missing_loss())
        if self.metrics is None:
            return
        if isinstance(self.metrics, str) or not isinstance(self.metrics, Sequence):
            raise ModelError(
                f"metrics={self.metrics!r}: expected a list of Keras metrics or names of them."
            )

    def bind(self, input_spec: tuple[Any, Any]) -> BoundModel:
        """Converts the model for data of a given shape.

        Args:
          input_spec: The specs of x and y, each a `tf.TensorSpec` with None as first dimension, or
            a dictionary of them; `Clients.element_spec()` returns it.

        Returns:
          The model in the form that TFF's builders require.

        Raises:
          ModelError: The model is not a Keras model or cannot be wrapped, or the loss or a metric
            cannot be computed. The message names the layer, loss or metric and the remedy.
          DataError: The loss would broadcast labels and predictions.
          StackError: TFF cannot be imported.
        """
        _compat.load_tff()
        import keras

        from tff_dp.model import keras3, legacy

        # A function is called once here, since only its result tells which Keras it uses.
        sample = self.model
        builder: Callable[[], Any] | None = None
        if not isinstance(sample, keras.Model) and not legacy.is_model(sample):
            if not _makes_something(sample):
                raise ModelError(_not_a_model(self.model))
            builder, sample = sample, sample()
        if isinstance(sample, keras.Model):
            bind, library = keras3.bind, keras
        elif legacy.is_model(sample):
            bind, library = legacy.bind, importlib.import_module("tf_keras")
        else:
            raise ModelError(_not_a_model(sample))
        refuse_overrides(sample, library)
        compiled = compiled_of(sample)
        loss = loss_of(sample, compiled) if self.loss is None else self.loss
        metrics = metrics_of(sample, compiled) if self.metrics is None else self.metrics
        bound = bind(sample, builder, loss, metrics, input_spec)
        bound.loss, bound.compiled = loss, compiled
        bound.source = sample
        bound.input_spec = input_spec
        return bound


def compute_dtypes(model: Any) -> frozenset[str]:
    """Returns the types in which the layers of a Keras model compute, and warns of float16.

    Args:
      model: A model of either Keras.

    Returns:
      The names of the types, such as "float32".
    """
    layers = model._flatten_layers(include_self=False)
    found = {layer.name: str(layer.compute_dtype) for layer in layers}
    half = [repr(name) for name, dtype in found.items() if dtype == "float16"]
    if half:
        named = ", ".join(half[:3]) + (", ..." if half[3:] else "")
        warnings.warn(
            f"The model {model.name!r} computes in float16 (layers {named}), and its loss is not "
            "scaled: gradient components below 6e-8 become zero, and a gradient with a component above "
            "65,504 is infinite, and counts as zero under a privacy plan. Use bfloat16 or "
            "'mixed_bfloat16', which has the range of float32.",
            UserWarning,
            stacklevel=6,
        )
    return frozenset(found.values())


def _makes_something(value: Any) -> bool:
    """Says whether a value can be called without arguments, and is not a layer."""
    if not callable(value) or hasattr(type(value), "trainable_variables"):
        return False
    try:
        inspect.signature(value).bind()
    except (TypeError, ValueError) as error:
        return isinstance(error, ValueError)  # a callable whose signature is not known
    return True


def _not_a_model(value: object) -> str:
    return (
        f"model={value!r}: expected a Keras 3 model, a tf-keras model, or a function without arguments "
        "that makes one."
    )
