"""Converts tf-keras (Keras 2) models by TFF's own converters.

The functional converter is used if possible: the graph then has no variables, which fast execution
requires. Models that it cannot represent use the variable-based converter: models with losses added
by layers, which the functional converter drops; with random layers, whose generator it treats as a
weight; and with batch normalization, whose moving statistics it would have to change.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tff_dp import _compat, _warnings
from tff_dp._compat import keras as keras_compat
from tff_dp._compat import tensorflow as tf_compat
from tff_dp.errors import ModelError
from tff_dp.model import metrics as metrics_lib
from tff_dp.model import trial
from tff_dp.model.bound import BoundModel, ModelWeights, compute_dtypes
from tff_dp.model.example_weights import Weights
from tff_dp.model.labels import describe
from tff_dp.model.layers import check_strings, inputs_of, refuse_lookups
from tff_dp.model.losses import resolve_loss

tff = _compat.tff.load()
import tf_keras  # noqa: E402  # TFF cannot be imported once tf-keras has been used


def is_model(value: Any) -> bool:
    """Says whether a value is a tf-keras model.

    Args:
      value: Any value.

    Returns:
      True if it is one.
    """
    return isinstance(value, tf_keras.Model)


def bind(
    sample: Any,
    builder: Callable[[], Any] | None,
    loss: Any,
    metrics: Sequence[Any],
    input_spec: tuple[Any, Any],
    weights: Weights,
) -> BoundModel:
    """Converts a tf-keras model; see `ModelSpec.bind`.

    Args:
      sample: The model, or what the function made.
      builder: The function that makes the model, if one was given, or None.
      loss: As for `ModelSpec`; not None.
      metrics: As for `ModelSpec`; not None.
      input_spec: As for `ModelSpec.bind`.
      weights: The weights of the loss.

    Returns:
      The model in the form that TFF's builders require.

    Raises:
      ModelError: `tf.keras` is Keras 3 in this process; or as `ModelSpec.bind`.
      DataError: The loss would broadcast labels and predictions.
    """
    if not keras_compat.tf_keras_is_legacy():
        raise ModelError(
            f"The model {sample.name!r} is a tf-keras model, but `tf.keras` is Keras 3 in this process, "
            "which TFF's converter cannot use. Set TF_USE_LEGACY_KERAS=1, or import tff_dp.tff, before "
            "tf.keras is first used; or make the model with Keras 3."
        )
    return _LegacyModel(sample, builder, loss, metrics, input_spec, weights)


class _BatchLoss(tf_keras.losses.Loss):  # type: ignore[misc]
    """A loss that is one number for a batch, its mean.

    Args:
      value: From labels and predictions to that number.
      name: As of any loss.
    """

    def __init__(self, value: Callable[[Any, Any], Any], name: str) -> None:
        super().__init__(name=name)
        self._value = value

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return self._value(y_true, y_pred)


class _MeanLoss(tf_keras.metrics.Mean):  # type: ignore[misc]
    """The mean loss over examples, as the variable-based converter reports it.

    Args:
      loss: Of a batch.
      name: As of any metric.
    """

    def __init__(self, loss: Any, name: str) -> None:
        super().__init__(name=name)
        self._loss = loss

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        del sample_weight
        examples = tf.cast(tf.shape(tf.nest.flatten(y_pred)[0])[0], tf.float32)
        return super().update_state(self._loss(y_true, y_pred), sample_weight=examples)


class _LegacyModel(BoundModel):
    """A tf-keras model, converted by TFF."""

    def __init__(
        self,
        sample: Any,
        builder: Callable[[], Any] | None,
        loss: Any,
        metrics: Sequence[Any],
        input_spec: tuple[Any, Any],
        weights: Weights,
    ) -> None:
        if builder is not None:
            builder = _uncompiled(builder)
        self._make = builder or (lambda: _clone(sample))
        self._input_spec = input_spec
        keras_compat.restore_classes(sample)
        refuse_lookups(sample, tf_keras)
        _warn_of_moving_statistics(sample)
        outputs = _check_call(sample, input_spec[0])
        check_strings(sample, input_spec[0])
        self._check_clone(sample, builder)
        self.compute_dtypes = compute_dtypes(sample)
        examples = weights.of_examples
        labels = examples.labels(input_spec[1])
        names = getattr(sample, "output_names", None)
        found = resolve_loss(loss, tf_keras, labels, outputs, names, weights)
        self.terms = found.terms
        loss_object = _loss_object(examples.weighted(found.value, input_spec[1], outputs))
        self.metrics = metric_objects = metrics_lib.resolve_metrics(metrics, loss, tf_keras)
        for metric in metric_objects:
            metrics_lib.tried(metric, labels, outputs, legacy=True)
        makers = OrderedDict(
            (
                metric.name,
                functools.partial(
                    metrics_lib.legacy_metric, metric, labels, outputs, examples.labels
                ),
            )
            for metric in metric_objects
        )
        self.initial_weights = ModelWeights(
            tuple(v.numpy() for v in sample.trainable_variables),
            tuple(v.numpy() for v in sample.non_trainable_variables),
        )
        functional = None
        if not sample.losses and not _has_changing_state(sample):
            functional = _functional(
                sample, builder, self.initial_weights, loss_object, makers, input_spec
            )
        if functional is not None:
            self.tff_model = functional
        else:
            self.tff_model = self._variable_based(loss_object, makers)
            if sample.losses:
                self._check_losses(sample)
        keras_compat.restore_classes(sample)

    def fingerprint(self, examples: int | None = None) -> str | None:
        try:
            with keras_compat.usable_tf_keras_models():
                return super().fingerprint(examples)
        finally:
            keras_compat.restore_classes(self.source)

    def _check_clone(self, sample: Any, builder: Callable[[], Any] | None) -> None:
        """Refuses an instance whose copy does not have the same variables."""
        if builder is None:
            copy = _clone(sample)
            if [tuple(v.shape) for v in copy.variables] != [
                tuple(v.shape) for v in sample.variables
            ]:
                raise ModelError(
                    f"The model {sample.name!r} cannot be copied faithfully (layers that share "
                    "variables, or that make them late). Pass a function that makes it."
                )

    def _check_losses(self, sample: Any) -> None:
        """Refuses losses added by layers that TFF cannot read, which are all that depend on inputs."""
        try:
            with tf.Graph().as_default():
                converted = self.tff_model()  # kept alive: its functions hold no reference to it
                converted.forward_pass.get_concrete_function(self._input_spec)
        except Exception as error:
            raise ModelError(
                f"TFF cannot train the tf-keras model {sample.name!r}, whose layers add losses "
                f"({type(error).__name__}): expected losses of weights alone, such as a "
                "kernel_regularizer. For activity_regularizer or add_loss, make the model with Keras 3."
            ) from error

    def _variable_based(
        self, loss: Any, metrics: Mapping[str, Callable[[], Any]]
    ) -> Callable[[], Any]:
        def model_fn() -> Any:
            model = self._make()
            _build(model, self._input_spec[0])  # TFF reads the variables before the first call
            return tff.learning.models.from_keras_model(
                model,
                loss=loss,
                input_spec=self._input_spec,
                metrics=list(metrics.values()),
            )

        return model_fn

    def to_keras(self, weights: ModelWeights) -> Any:
        model = self._make()
        _build(model, self._input_spec[0])
        targets = [*model.trainable_variables, *model.non_trainable_variables]
        values = [*weights.trainable, *weights.non_trainable]
        if [tuple(v.shape) for v in targets] != [tuple(np.shape(v)) for v in values]:
            raise ModelError(
                f"The trained weights do not fit the model {model.name!r}: the function that makes it "
                "makes a different one each time. Make the same layers in the same order."
            )
        for variable, value in zip(targets, values, strict=True):
            variable.assign(value)
        return model


def _uncompiled(builder: Callable[[], Any]) -> Callable[[], Any]:
    """Returns a function whose models count as not compiled, which TFF's converters require."""

    def make() -> Any:
        model = builder()
        keras_compat.count_as_uncompiled(model)
        return model

    return make


def _warn_of_moving_statistics(model: Any) -> None:
    names = [
        layer.name
        for layer in keras_compat.layers_of(model, include_self=True)
        if isinstance(layer, tf_keras.layers.BatchNormalization) and layer.trainable
    ]
    if names:
        _warnings.warn(
            f"The moving statistics of {', '.join(map(repr, names))} in the tf-keras model "
            f"{model.name!r} stay at their initial values: TFF averages trainable weights only. "
            "Predictions of the trained model will use the initial statistics. Use GroupNormalization or "
            "LayerNormalization."
        )


def _build(model: Any, x_spec: Any) -> None:
    if not model.built:
        model(trial.zeros(x_spec, 1))


def _check_call(model: Any, x_spec: Any) -> Any:
    """Builds a model, refuses it if it cannot be called on the data, and returns its outputs' spec."""
    try:
        _build(model, x_spec)
        masked: list[bool] = []

        def call(x: Any) -> Any:
            outputs = model(x)
            masked.extend(keras_compat.mask_of(t) is not None for t in tf.nest.flatten(outputs))
            return outputs

        concrete = tf.function(call, autograph=False).get_concrete_function(x_spec)
    except Exception as error:
        raise ModelError(
            f"The model {model.name!r} cannot be called on the data, whose x is "
            f"{describe(x_spec)}: {trial.reason(error)}{inputs_of(model, x_spec)}"
        ) from error
    if any(masked):
        raise ModelError(
            f"The outputs of the tf-keras model {model.name!r} have a mask (for example from Masking, or "
            "from Embedding with mask_zero=True), which TFF's converter loses: the loss would include "
            "padding. Make the model with Keras 3; or without the mask, with a loss of your own that "
            "leaves out the padding."
        )
    return tf.nest.map_structure(
        lambda t: tf.TensorSpec(t.shape, t.dtype), concrete.structured_outputs
    )


def _clone(model: Any) -> Any:
    try:
        return tf_keras.models.clone_model(model)
    except (ValueError, RuntimeError, NotImplementedError) as error:
        raise ModelError(
            f"The model {model.name!r} ({type(model).__name__}) cannot be copied: "
            f"{str(error).splitlines()[0]} Pass a function that makes it, such as model=build_model."
        ) from None


def _has_changing_state(model: Any) -> bool:
    random_layer = keras_compat.random_layer_class()
    return any(
        isinstance(layer, tf_keras.layers.BatchNormalization | random_layer)
        or getattr(layer, "dropout", 0)
        or getattr(layer, "recurrent_dropout", 0)
        or getattr(layer, "stateful", False)
        for layer in keras_compat.layers_of(model)
    )


def _loss_object(value: Callable[[Any, Any], Any]) -> Any:
    """Returns the loss of a batch as a `tf.keras.losses.Loss`, which TFF's converters require."""
    return _BatchLoss(value, name="loss")


def _functional(
    sample: Any,
    builder: Callable[[], Any] | None,
    initial_weights: ModelWeights,
    loss: Any,
    metrics: Mapping[str, Callable[[], Any]],
    input_spec: tuple[Any, Any],
) -> Any | None:
    """Returns TFF's functional model, or None if its converter cannot represent the model.

    The converter orders weights as they are made. That is not the model's own order if models are
    nested or branches are made out of order. The model that is returned here has its own order.
    """
    constructors: OrderedDict[str, Callable[[], Any]] = OrderedDict(
        loss=lambda: _MeanLoss(loss, name="loss"),
        num_examples=lambda: tff.learning.metrics.NumExamplesCounter(name="num_examples"),
    )
    constructors.update(metrics)

    def marked() -> Any:
        model = builder() if builder else _clone(sample)
        if tf.executing_eagerly():  # not while the converter traces it
            for variables in (model.trainable_variables, model.non_trainable_variables):
                for position, variable in enumerate(variables):
                    variable.assign(tf.fill(variable.shape, tf.cast(position, variable.dtype)))
        return model

    try:
        converted = tff.learning.models.functional_model_from_keras(
            marked if builder else marked(), loss, input_spec, constructors
        )
        order = [[int(np.ravel(w)[0]) for w in part] for part in converted.initial_weights]
        if any(sorted(positions) != list(range(len(positions))) for positions in order):
            return None

        @tf.function
        def predict(model_weights: Any, x: Any, training: bool = True) -> Any:
            weights = tuple(
                tuple(part[position] for position in positions)
                for part, positions in zip(model_weights, order, strict=True)
            )
            with tf_compat.equality_by_value():
                return converted.predict_on_batch(weights, x, training)

        model = tff.learning.models.FunctionalModel(
            initial_weights=tuple(initial_weights),
            predict_on_batch_fn=predict,
            loss_fn=converted.loss,
            metrics_fns=(
                converted.initialize_metrics_state,
                converted.update_metrics_state,
                converted.finalize_metrics,
            ),
            input_spec=input_spec,
        )
        with tf.Graph().as_default():  # the converter's limits appear only when it is traced
            weights = tf.nest.map_structure(tf.constant, model.initial_weights)
            x = tf.nest.map_structure(
                lambda s: tf.compat.v1.placeholder(s.dtype, s.shape), input_spec[0]
            )
            model.predict_on_batch(weights, x, training=True)
    except Exception:  # of any class: IndexError, StagingError, ...
        # The variable-based converter accepts the model, or says what is wrong with it.
        return None
    return model
