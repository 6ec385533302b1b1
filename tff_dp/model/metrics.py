"""Losses and metrics of a Keras model, in the forms that TFF's models take."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import tensorflow as tf

from tff_dp.errors import ModelError

RESERVED = ("loss", "num_examples")


def resolve_loss(loss: Any, keras: ModuleType, *, legacy: bool) -> Callable[[Any, Any], Any]:
    """Returns a function of (labels, predictions) that gives one number, the mean over the batch.

    Args:
      loss: A loss object, a name, or a function.
      keras: The Keras that the model is of.
      legacy: Whether that is tf-keras, for messages.

    Raises:
      ModelError: The loss is unknown, or of the other Keras.
    """
    kind = "tf-keras" if legacy else "Keras 3"
    found = loss
    if isinstance(loss, str):
        try:
            found = keras.losses.get(loss)
        except ValueError:
            raise ModelError(
                f"loss={loss!r} is unknown to {kind}: expected a name in keras.losses, such as 'mse' or "
                "'sparse_categorical_crossentropy'."
            ) from None
    if isinstance(found, type):
        raise ModelError(
            f"loss={loss!r} is a class: expected a loss object, such as {found.__name__}(), or its name."
        )
    if not callable(found) or (
        type(found).__module__.startswith(("keras.", "tf_keras."))
        and hasattr(found, "get_config")
        and not isinstance(found, keras.losses.Loss)
    ):
        raise ModelError(
            f"loss={loss!r} does not fit a {kind} model: expected a loss of {kind}, or its name."
        )

    def mean_loss(labels: Any, predictions: Any) -> Any:
        return tf.reduce_mean(found(labels, predictions))

    if getattr(found, "reduction", None) == "sum":
        return lambda labels, predictions: found(labels, predictions)
    return mean_loss


def resolve_metrics(metrics: Sequence[Any], loss: Any, keras: ModuleType) -> list[Any]:
    """Returns metric objects with distinct names.

    Args:
      metrics: Objects, or names. "accuracy" means the accuracy that goes with the loss.
      loss: The loss as the user gave it.
      keras: The Keras that the model is of.

    Raises:
      ModelError: A metric is unknown, of the other Keras, or has a name that is taken.
    """
    resolved = []
    for metric in metrics:
        found = metric
        if metric in ("accuracy", "acc"):
            found = _accuracy(loss, keras)
        elif isinstance(metric, str):
            try:
                found = keras.metrics.get(metric)
            except ValueError:
                found = None
            if found is not None and not isinstance(found, keras.metrics.Metric):
                found = keras.metrics.MeanMetricWrapper(found, name=metric)
        if not isinstance(found, keras.metrics.Metric):
            raise ModelError(
                f"metrics holds {metric!r}: expected a metric of {keras.__name__}, or a name in "
                f"{keras.__name__}.metrics."
            )
        resolved.append(found)
    names = [metric.name for metric in resolved]
    for position, name in enumerate(names):
        if name in RESERVED or name in names[:position]:
            raise ModelError(
                f"metrics holds two values named {name!r}, or one of {RESERVED}, which every run "
                "reports: give each metric a name of its own, such as "
                "keras.metrics.MeanSquaredError(name='mse_1')."
            )
    return resolved


def _accuracy(loss: Any, keras: ModuleType) -> Any:
    name = loss if isinstance(loss, str) else type(loss).__name__
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
    output_shape: tuple[int | None, ...] | None,
    y_spec: Any,
    has_added_losses: bool,
) -> tuple[Any, Any, Any]:
    """Returns Keras 3 metrics as TFF's functional metrics, with the loss and the count of examples.

    The states of a metric are summed over clients before they are finalised, as TFF does it.

    Args:
      metrics: Keras 3 metric objects; they are not changed.
      output_shape: Shape of the predictions for one example, None where it is not one tensor.
      y_spec: The labels' spec.
      has_added_losses: Whether predictions come as (predictions, added loss).

    Returns:
      TFF's (initialize, update, finalize).

    Raises:
      ModelError: A metric cannot be computed from these labels and predictions.
    """
    metrics = [_built(metric, output_shape, y_spec) for metric in metrics]

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
        predictions = batch_output.predictions
        if has_added_losses:
            predictions = predictions[0]
        examples = tf.cast(batch_output.num_examples, tf.float32)
        total, weight = state["loss"]
        new = OrderedDict(
            loss=(total + tf.cast(batch_output.loss, tf.float32) * examples, weight + examples),
            num_examples=(state["num_examples"][0] + batch_output.num_examples,),
        )
        for metric in metrics:
            new[metric.name] = tuple(
                metric.stateless_update_state(list(state[metric.name]), labels, predictions)
            )
        return new

    @tf.function
    def finalize(state: Any) -> OrderedDict[str, Any]:
        total, weight = state["loss"]
        values = OrderedDict(loss=total / weight, num_examples=state["num_examples"][0])
        for metric in metrics:
            values[metric.name] = metric.stateless_result(list(state[metric.name]))
        return values

    return initialize, update, finalize


def copy_metric(metric: Any) -> Any:
    """Returns a metric of the same configuration, of either Keras.

    Raises:
      ModelError: Its configuration does not say how it was made.
    """
    try:
        return type(metric).from_config(metric.get_config())
    except Exception as error:
        raise ModelError(
            f"The metric {metric.name!r} ({type(metric).__name__}) cannot be copied, as every client's "
            f"must be: {error} Give its class a get_config() with all arguments of its constructor, and "
            "register functions with keras.saving.register_keras_serializable."
        ) from error


def _built(metric: Any, output_shape: tuple[int | None, ...] | None, y_spec: Any) -> Any:
    """Returns a copy of a metric with its variables made: some make them at their first update."""
    copy = copy_metric(metric)
    if output_shape is None or not isinstance(y_spec, tf.TensorSpec) or None in output_shape:
        return copy
    try:
        copy.update_state(
            tf.zeros([1, *y_spec.shape[1:]], y_spec.dtype), tf.zeros([1, *output_shape])
        )
    except Exception as error:
        raise ModelError(
            f"The metric {metric.name!r} cannot compare labels of shape {list(y_spec.shape)} with "
            f"predictions of shape {[None, *output_shape]}: {error}"
        ) from error
    copy.reset_state()
    return copy
