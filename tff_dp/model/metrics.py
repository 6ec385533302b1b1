"""Converts the metrics of a Keras model to the forms that TFF's models require."""

from __future__ import annotations

import inspect
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import tensorflow as tf

from tff_dp._compat import keras as keras_compat
from tff_dp._compat import tensorflow as tf_compat
from tff_dp.errors import ModelError
from tff_dp.model import trial
from tff_dp.model.labels import describe, loss_name, to_one_rank

RESERVED = ("loss", "num_examples")


def resolve_metrics(metrics: Sequence[Any], loss: Any, keras: ModuleType) -> list[Any]:
    """Finds metrics, and checks that their names are distinct.

    Args:
      metrics: Objects, functions or names. "accuracy" means the accuracy that belongs to the loss.
      loss: The loss as the user gave it.
      keras: The Keras module of the model.

    Returns:
      One metric object for each.

    Raises:
      ModelError: A metric is unknown, belongs to the other Keras, or has a name that is invalid or
        taken.
    """
    resolved = []
    for metric in metrics:
        found = metric
        if isinstance(metric, str) and metric.lower() in ("accuracy", "acc"):
            found = _accuracy(loss, keras)
        elif isinstance(metric, str):
            try:
                found = keras.metrics.get(metric)
            except (TypeError, ValueError):  # TypeError: a metric whose constructor needs arguments
                found = None
        if callable(found) and not isinstance(
            found, type | keras.metrics.Metric | keras.losses.Loss
        ):
            name = re.sub(r"[^\w.-]", "", loss_name(metric))  # "<lambda>" is not valid in a graph
            if not keras_compat.is_defined_by_keras(type(found)):
                found = keras.metrics.MeanMetricWrapper(found, name=name)
        if not isinstance(found, keras.metrics.Metric):
            raise ModelError(
                f"metrics holds {metric!r}: expected a metric of {keras.__name__}, or a name in "
                f"{keras.__name__}.metrics of one whose constructor needs no arguments."
            )
        resolved.append(found)
    names = [metric.name for metric in resolved]
    for name in names:
        if not re.fullmatch(r"[\w./-]+", name, re.ASCII):
            raise ModelError(
                f"metrics holds a metric named {name!r}: expected a name of letters, digits and "
                "underscores, which TensorFlow accepts."
            )
    for position, name in enumerate(names):
        if name in RESERVED or name in names[:position]:
            raise ModelError(
                f"metrics holds two values named {name!r}, or one of {RESERVED}, which every run "
                "reports: give each metric a unique name, such as "
                "keras.metrics.MeanSquaredError(name='mse_1')."
            )
    return resolved


def _accuracy(loss: Any, keras: ModuleType) -> Any:
    name = loss_name(loss)
    squeezed = name.replace("_", "").lower()
    if "sparsecategorical" in squeezed:
        return keras.metrics.SparseCategoricalAccuracy(name="accuracy")
    if "categorical" in squeezed:
        return keras.metrics.CategoricalAccuracy(name="accuracy")
    if "binary" in squeezed:
        # For logits, the decision boundary is 0 and not 0.5.
        threshold = 0.0 if getattr(loss, "from_logits", False) else 0.5
        return keras.metrics.BinaryAccuracy(name="accuracy", threshold=threshold)
    raise ModelError(
        f"metrics holds 'accuracy', which loss={loss!r} does not define: expected a crossentropy loss. "
        "Name the metric itself, such as keras.metrics.BinaryAccuracy()."
    )


def functional_metrics(
    metrics: Sequence[Any],
    labels: Any,
    predictions: Any,
    outputs_of: Callable[[Any], Any] = lambda predictions: predictions,
    labels_of: Callable[[Any], Any] = lambda y: y,
) -> tuple[Any, Any, Any]:
    """Returns Keras 3 metrics as TFF's functional metrics, with the loss and the number of examples.

    The states of a metric are summed over clients before they are finalized, as TFF does it.

    Args:
      metrics: Keras 3 metric objects; they are not changed.
      labels: The spec of the labels.
      predictions: The spec of the model's outputs.
      outputs_of: Extracts the model's outputs from the predictions of the functional model.
      labels_of: Extracts the labels from y.

    Returns:
      TFF's functions (initialize, update, finalize).

    Raises:
      ModelError: A metric cannot be computed from these labels and predictions, or is not one
        number.
    """
    metrics = [tried(metric, labels, predictions, legacy=False) for metric in metrics]

    @tf.function
    def initialize() -> OrderedDict[str, Any]:
        state = OrderedDict(
            loss=(tf.constant(0.0), tf.constant(0.0)), num_examples=(tf.constant(0),)
        )
        for metric in metrics:
            state[metric.name] = tuple(
                tf.convert_to_tensor(value) for value in metric.stateless_reset_state()
            )
        return state

    @tf.function
    def update(state: Any, labels: Any, batch_output: Any, sample_weight: Any = None) -> Any:
        del sample_weight  # TFF passes none
        predictions = outputs_of(batch_output.predictions)
        mask = keras_compat.mask_of(predictions)
        examples = tf.cast(batch_output.num_examples, tf.float32)
        total, weight = state["loss"]
        new = OrderedDict(
            loss=(total + tf.cast(batch_output.loss, tf.float32) * examples, weight + examples),
            num_examples=(state["num_examples"][0] + batch_output.num_examples,),
        )
        labels, predictions = to_one_rank(labels_of(labels), predictions, legacy=False)
        if mask is not None:
            keras_compat.set_mask(predictions, mask)
        with tf_compat.equality_by_value():
            for metric in metrics:
                new[metric.name] = tuple(
                    metric.stateless_update_state(list(state[metric.name]), labels, predictions)
                )
        return new

    @tf.function
    def finalize(state: Any) -> OrderedDict[str, Any]:
        total, weight = state["loss"]
        values = OrderedDict(loss=total / weight, num_examples=state["num_examples"][0])
        with tf_compat.equality_by_value():
            for metric in metrics:
                result = metric.stateless_result(list(state[metric.name]))
                values[metric.name] = tf.reshape(result, [])
        return values

    return initialize, update, finalize


def legacy_metric(
    metric: Any,
    labels: Any,
    predictions: Any,
    labels_of: Callable[[Any], Any] = lambda y: y,
) -> Any:
    """Returns a copy of a tf-keras metric that brings labels and predictions to one rank.

    Args:
      metric: A metric of tf-keras; it is not changed.
      labels: The spec of the labels.
      predictions: The spec of the model's outputs.
      labels_of: Extracts the labels from y.

    Returns:
      The copy, with its variables made.

    Raises:
      ModelError: The metric cannot be copied.
    """
    copy = copy_metric(metric)
    if _builds_late(copy):  # TFF reads the variables before the first update
        batch = to_one_rank(trial.zeros(labels, 1), trial.zeros(predictions, 1), legacy=True)
        copy.build(*(tf.TensorShape([None, *tensor.shape[1:]]) for tensor in batch))
    update, result = copy.update_state, copy.result

    def update_state(y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        y_true, y_pred = to_one_rank(labels_of(y_true), y_pred, legacy=True)
        with tf_compat.equality_by_value():
            return update(y_true, y_pred, sample_weight=sample_weight)

    def one_number() -> Any:
        with tf_compat.equality_by_value():
            return tf.reshape(result(), [])

    # Set on the object, as tf-keras itself does: TFF would treat a subclass as a different metric.
    copy.update_state = update_state
    copy.result = one_number
    return copy


def tried(metric: Any, labels: Any, predictions: Any, *, legacy: bool) -> Any:
    """Tries a metric on the shapes.

    Args:
      metric: A metric of either Keras; it is not changed.
      labels: The spec of y.
      predictions: The spec of the model's outputs.
      legacy: Whether the metric belongs to tf-keras.

    Returns:
      A copy of the metric, with its variables made and its state reset.

    Raises:
      ModelError: The metric fails, makes its variables too late, or is not one number.
    """
    copy = copy_metric(metric)
    told = (
        f"The metric {metric.name!r} cannot compare y, which is {describe(labels)}, with the "
        f"predictions, which are {describe(predictions)}"
    )
    size = trial.batch_size(labels, predictions)
    made = len(copy.variables)
    late = legacy and not _builds_late(copy)
    try:
        copy.update_state(
            *to_one_rank(trial.zeros(labels, size), trial.zeros(predictions, size), legacy=legacy)
        )
        result = copy.result()
    except Exception as error:
        raise ModelError(f"{told}: {trial.reason(error)}{_remedy(predictions)}") from error
    if late and len(copy.variables) != made:
        raise ModelError(
            f"The metric {metric.name!r} ({type(metric).__name__}) makes its variables at its first "
            "update, which TFF's converter of tf-keras models does not support: give the metric the "
            "number of labels, such as AUC(multi_label=True, num_labels=3), or make the model with "
            "Keras 3."
        )
    shape = getattr(result, "shape", None)
    if shape is None or any(size != 1 for size in shape):
        given = (
            f"a {type(result).__name__}" if shape is None else f"an array of shape {list(shape)}"
        )
        raise ModelError(
            f"The metric {metric.name!r} ({type(metric).__name__}) gives {given}: expected one number. "
            "A metric with an average has one number for all classes, such as "
            "F1Score(average='macro'). Otherwise give one metric for each class, or evaluate the trained "
            "model."
        )
    copy.reset_state()
    return copy


def _remedy(predictions: Any) -> str:
    if not isinstance(predictions, Mapping | list | tuple):
        return ""
    return (
        " With several outputs, a metric gets all labels and all predictions: give a metric class of "
        "your own that selects one output."
    )


def _builds_late(metric: Any) -> bool:
    return "y_pred_shape" in inspect.signature(metric.build).parameters


def copy_metric(metric: Any) -> Any:
    """Copies a metric by its configuration.

    Args:
      metric: A metric of either Keras.

    Returns:
      A new metric with the same configuration.

    Raises:
      ModelError: The configuration is incomplete, so that the metric cannot be made from it.
    """
    wrapped = keras_compat.wrapped_function(metric)
    if wrapped is not None:  # copied directly, since the function need not be registered
        function, arguments = wrapped
        return type(metric)(function, name=metric.name, dtype=metric.dtype, **arguments)
    try:
        return type(metric).from_config(metric.get_config())
    except Exception as error:
        raise ModelError(
            f"The metric {metric.name!r} ({type(metric).__name__}) cannot be copied, which is needed "
            f"for every client: {trial.reason(error)} Give its class a get_config() with all arguments "
            "of its constructor, and register functions with keras.saving.register_keras_serializable."
        ) from error
