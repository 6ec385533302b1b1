"""Metrics of a Keras model, in the forms that TFF's models take."""

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
    """Returns metric objects with distinct names.

    Args:
      metrics: Objects, functions or names. "accuracy" means the accuracy that goes with the loss.
      loss: The loss as the user gave it.
      keras: The Keras that the model is of.

    Raises:
      ModelError: A metric is unknown, of the other Keras, or has a name that is taken.
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
            name = re.sub(r"[^\w.-]", "", loss_name(metric))  # "<lambda>" is no name in a graph
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
                "underscores, which TensorFlow takes."
            )
    for position, name in enumerate(names):
        if name in RESERVED or name in names[:position]:
            raise ModelError(
                f"metrics holds two values named {name!r}, or one of {RESERVED}, which every run "
                "reports: give each metric a name of its own, such as "
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
        # With logits, the decision boundary is 0, not 0.5.
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
) -> tuple[Any, Any, Any]:
    """Returns Keras 3 metrics as TFF's functional metrics, with the loss and the count of examples.

    The states of a metric are summed over clients before they are finalised, as TFF does it.

    Args:
      metrics: Keras 3 metric objects; they are not changed.
      labels: The spec of y.
      predictions: The spec of the model's outputs.
      outputs_of: Gives the model's outputs, given what the functional model predicts.

    Returns:
      TFF's (initialize, update, finalize).

    Raises:
      ModelError: A metric cannot be computed from these labels and predictions, or is no number.
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
        labels, predictions = to_one_rank(labels, predictions, legacy=False)
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


def legacy_metric(metric: Any, labels: Any, predictions: Any) -> Any:
    """Returns a copy of a tf-keras metric that brings labels and predictions to one rank.

    Args:
      metric: A metric of tf-keras; it is not changed.
      labels: The spec of y.
      predictions: The spec of the model's outputs.
    """
    copy = copy_metric(metric)
    if _builds_late(copy):  # TFF has to see the variables before the first update
        batch = to_one_rank(trial.zeros(labels, 1), trial.zeros(predictions, 1), legacy=True)
        copy.build(*(tf.TensorShape([None, *tensor.shape[1:]]) for tensor in batch))
    update, result = copy.update_state, copy.result

    def update_state(y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        y_true, y_pred = to_one_rank(y_true, y_pred, legacy=True)
        with tf_compat.equality_by_value():
            return update(y_true, y_pred, sample_weight=sample_weight)

    def one_number() -> Any:
        with tf_compat.equality_by_value():
            return tf.reshape(result(), [])

    # On the object, as tf-keras itself does it: another class would be another metric to TFF.
    copy.update_state = update_state
    copy.result = one_number
    return copy


def tried(metric: Any, labels: Any, predictions: Any, *, legacy: bool) -> Any:
    """Returns a copy of a metric that has been tried on the shapes, with its variables made.

    Args:
      metric: A metric of either Keras.
      labels: The spec of y.
      predictions: The spec of the model's outputs.
      legacy: Whether it is of tf-keras.

    Raises:
      ModelError: It fails, its variables change their shapes, or it is not one number.
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
            "update, which TFF's converter of tf-keras models cannot: give the metric the number of "
            "labels, such as AUC(multi_label=True, num_labels=3), or make the model with Keras 3."
        )
    shape = getattr(result, "shape", None)
    if shape is None or any(size != 1 for size in shape):
        given = (
            f"a {type(result).__name__}" if shape is None else f"an array of shape {list(shape)}"
        )
        raise ModelError(
            f"The metric {metric.name!r} ({type(metric).__name__}) gives {given}: expected one number. "
            "A metric with an average has one for all classes, such as F1Score(average='macro'); else "
            "give a metric for each class, or evaluate the trained model."
        )
    copy.reset_state()
    return copy


def _remedy(predictions: Any) -> str:
    if not isinstance(predictions, Mapping | list | tuple):
        return ""
    return (
        " With several outputs, a metric gets all labels and all predictions: give a metric class of "
        "your own that takes one of them."
    )


def _builds_late(metric: Any) -> bool:
    return "y_pred_shape" in inspect.signature(metric.build).parameters


def copy_metric(metric: Any) -> Any:
    """Returns a metric of the same configuration, of either Keras.

    Raises:
      ModelError: Its configuration does not say how it was made.
    """
    wrapped = keras_compat.wrapped_function(metric)
    if wrapped is not None:  # a function need not be registered
        function, arguments = wrapped
        return type(metric)(function, name=metric.name, dtype=metric.dtype, **arguments)
    try:
        return type(metric).from_config(metric.get_config())
    except Exception as error:
        raise ModelError(
            f"The metric {metric.name!r} ({type(metric).__name__}) cannot be copied, as every client's "
            f"must be: {trial.reason(error)} Give its class a get_config() with all arguments of its "
            "constructor, and register functions with keras.saving.register_keras_serializable."
        ) from error
