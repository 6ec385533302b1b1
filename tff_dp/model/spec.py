"""A Keras model with its loss and metrics, and its conversion for data of a given shape."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from tff_dp._compat import keras as keras_compat
from tff_dp.errors import ModelError
from tff_dp.model import keras3, legacy
from tff_dp.model.bound import BoundModel
from tff_dp.model.compiled import (
    compiled_of,
    is_compiled,
    loss_of,
    metrics_of,
    missing_loss,
    refuse_overrides,
)
from tff_dp.model.example_weights import ExampleWeights, Weights
from tff_dp.model.layers import check_places


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

    def bind(
        self,
        input_spec: tuple[Any, Any],
        class_weight: Mapping[int, float] | None = None,
        sample_weight: str | None = None,
    ) -> BoundModel:
        """Converts the model for data of a given shape.

        Args:
          input_spec: The specs of x and y, each a `tf.TensorSpec` with None as first dimension, or
            a dictionary of them; `Clients.element_spec()` returns it.
          class_weight: The weight of an example's loss by its class, as of Keras's `fit`; None for no
            weights. Classes without a weight have the weight 1.
          sample_weight: The field of y with the weights of the examples, which is no label; None if
            all of y are labels.

        Returns:
          The model in the form that TFF's builders require.

        Raises:
          ModelError: The model is not a Keras model or cannot be wrapped, or the loss or a metric
            cannot be computed. The message names the layer, loss or metric and the remedy.
          DataError: The loss would broadcast labels and predictions; or y does not have the weights.
          StackError: TFF cannot be imported.
        """
        # A function is called once here, since only its result tells which Keras it uses.
        sample = self.model
        builder: Callable[[], Any] | None = None
        if not isinstance(sample, keras.Model) and not legacy.is_model(sample):
            if not _makes_something(sample):
                raise ModelError(_not_a_model(self.model))
            builder, sample = sample, sample()
        if isinstance(sample, keras.Model):
            bind = keras3.bind
        elif legacy.is_model(sample):
            bind = legacy.bind
        else:
            raise ModelError(_not_a_model(sample))
        refuse_overrides(sample, keras_compat.library_of(sample))
        check_places(sample, input_spec[0])
        compiled = compiled_of(sample)
        loss = loss_of(sample, compiled) if self.loss is None else self.loss
        metrics = metrics_of(sample, compiled) if self.metrics is None else self.metrics
        examples = ExampleWeights(sample_weight, input_spec[1])
        loss_weights = None
        if self.loss is None and compiled is not None:  # those of another loss are not honored
            loss_weights = compiled.loss_weights
        weights = Weights(class_weight, examples, loss_weights)
        bound = bind(sample, builder, loss, metrics, input_spec, weights)
        bound.loss_weights = loss_weights
        bound.labels_of = examples.labels
        bound.loss, bound.compiled = loss, compiled
        bound.source = sample
        bound.input_spec = input_spec
        return bound


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
