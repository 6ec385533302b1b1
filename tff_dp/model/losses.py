"""Converts the losses of a Keras model to the form that TFF's models require."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import tensorflow as tf

from tff_dp._compat import keras as keras_compat
from tff_dp._compat import tensorflow as tf_compat
from tff_dp.errors import ModelError
from tff_dp.model import trial
from tff_dp.model.example_weights import Weights
from tff_dp.model.labels import check_shapes, describe, loss_name, to_one_rank
from tff_dp.model.loss_weights import by_output, of_single_loss


@dataclasses.dataclass(frozen=True)
class Term:
    """The loss of one output, or one loss of all outputs.

    Attributes:
      loss: The loss as the user gave it.
      function: The name of the Keras function that computes it, such as "mean_squared_error"; None
        for a loss that the user defined.
      output: The name of the output in y and in the predictions if y is a dictionary, or its place
        if y is a tuple; None if y is one array, or the loss is one of all outputs.
      shape: The shape of the prediction for one example; None if it is not one tensor.
    """

    loss: Any
    function: str | None
    output: str | int | None
    shape: tuple[int | None, ...] | None


@dataclasses.dataclass(frozen=True)
class BatchLoss:
    """The loss of a batch.

    Attributes:
      value: A function of (labels, predictions, weights), whose value is one number, the mean over
        the batch. The weights of the examples [examples] may be left out.
      terms: The terms of which it is the sum.
    """

    value: Callable[..., Any]
    terms: tuple[Term, ...]


def resolve_loss(
    loss: Any,
    keras: ModuleType,
    labels: Any,
    predictions: Any,
    output_names: Sequence[str] | None = None,
    weights: Weights | None = None,
) -> BatchLoss:
    """Finds a loss, and checks that it accepts the labels and the predictions.

    Keras's own losses are computed for each output and added, as Keras does it. A loss that the
    user defined gets all labels and all predictions, unless it is in a list or dictionary by
    output.

    Args:
      loss: A loss object, a name, or a function of (labels, predictions); or a list or dictionary of
        these by output, in which None means no loss.
      keras: The Keras module of the model.
      labels: The spec of y: a `tf.TensorSpec`, or a dictionary or tuple of them.
      predictions: The spec of the model's outputs: one, or a list or dictionary of them.
      output_names: The names of the outputs, in order, if the predictions are a list.
      weights: The weights of classes and of outputs; None for no weights.

    Returns:
      The loss of a batch.

    Raises:
      ModelError: There are class weights for several outputs; or the loss is unknown, belongs to
        the other Keras, or fails; or its weights do not fit the outputs.
      DataError: The loss would broadcast labels and predictions.
    """
    legacy = keras.__name__ == "tf_keras"
    class_weight = None if weights is None else weights.of_classes
    loss_weights = None if weights is None else weights.of_outputs
    names = _output_names(predictions, output_names)
    several = isinstance(predictions, Mapping | list | tuple)
    if isinstance(loss, Mapping | list | tuple) and not loss:
        raise ModelError(f"loss={loss!r} is empty: expected a loss, or one for each output.")
    if not several and isinstance(loss, Mapping) and list(loss) == list(output_names or ()):
        loss = next(iter(loss.values()))
    elif not several and isinstance(loss, list | tuple) and len(loss) == 1:
        loss = loss[0]
    if isinstance(loss, Mapping | list | tuple):
        losses = _by_output(loss, loss, names, labels)
    elif several and _resolved(loss, keras)[1] is not None:  # one of Keras's own losses
        losses = _by_output(loss, dict.fromkeys(names or (), loss), names, labels)
    else:
        one, term = _term(loss, None, keras, labels, predictions, legacy)
        _try(one, term, labels, predictions, legacy)
        factor = of_single_loss(loss_weights, output_names, of_all=several)
        if class_weight is not None:
            _check_single(several, labels)
            one = _weighted(one, class_weight)
        return BatchLoss(one if factor == 1.0 else _times(one, factor), (term,))

    if class_weight is not None:
        _check_single(True, labels)
    assert names is not None
    fields = _fields_of(labels, names)
    factors = by_output(loss_weights, names)

    def parts(labels: Any, predictions: Any, name: str) -> tuple[Any, Any]:
        field = fields.get(name)
        return labels if field is None else labels[field], _part(predictions, names, name)

    values, terms = {}, []
    for name, of_output in losses.items():
        compared = parts(labels, predictions, name)
        value, term = _term(of_output, fields.get(name), keras, *compared, legacy)
        _try(value, term, *compared, legacy)
        values[name] = value if factors[name] == 1.0 else _times(value, factors[name])
        terms.append(term)

    def total(labels: Any, predictions: Any, weights: Any = None) -> Any:
        found = [
            value(*parts(labels, predictions, name), weights) for name, value in values.items()
        ]
        return tf.add_n([tf.cast(value, found[0].dtype) for value in found])

    return BatchLoss(total, tuple(terms))


def _resolved(loss: Any, keras: ModuleType) -> tuple[Callable[..., Any], str | None]:
    """Returns a loss as a callable, and the name of Keras's function if it is one of Keras's own."""
    kind = "tf-keras" if keras.__name__ == "tf_keras" else "Keras 3"
    found = loss
    if isinstance(loss, str):
        try:
            found = keras.losses.get(loss)
        except ValueError:
            found = None
        if found is None or isinstance(found, type):
            raise ModelError(
                f"loss={loss!r} is unknown to {kind}: expected a name in keras.losses, such as 'mse' or "
                "'sparse_categorical_crossentropy'."
            )
    if isinstance(found, type):
        raise ModelError(
            f"loss={loss!r} is a class: expected a loss object, such as {found.__name__}(), or its name."
        )
    of_keras = keras_compat.is_defined_by_keras(type(found))
    if (
        not callable(found)
        or isinstance(found, keras.metrics.Metric)
        or (of_keras and hasattr(found, "get_config") and not isinstance(found, keras.losses.Loss))
    ):
        raise ModelError(
            f"loss={loss!r} does not fit a {kind} model: expected a loss of {kind}, or its name."
        )
    function = getattr(found, "fn", None) if of_keras else found
    if not keras_compat.is_own_loss_function(function, keras):
        return found, None
    return found, getattr(function, "__name__", None)


def _term(
    loss: Any,
    output: str | int | None,
    keras: ModuleType,
    labels: Any,
    predictions: Any,
    legacy: bool,
) -> tuple[Callable[..., Any], Term]:
    """Returns the loss of a batch for one output, and checks the shapes."""
    found, function = _resolved(loss, keras)
    where = "y" if output is None else f"y[{output!r}]"
    if function is not None and isinstance(labels, Mapping | list | tuple):
        has = (
            f"the fields {_listed(labels)}"
            if isinstance(labels, Mapping)
            else f"{len(labels)} fields"
        )
        raise ModelError(
            f"{where} has {has}, and loss={loss_name(loss)!r} compares the single "
            "output of the model with one array: expected y as an array. Take the field out, "
            "or give a function of (labels, predictions), which gets all of them."
        )
    if function is not None and not hasattr(predictions, "dtype"):
        raise ModelError(
            f"The model's outputs are nested ({describe(predictions)} is one of them), and "
            f"loss={loss_name(loss)!r} is for each output: expected outputs in one list or dictionary. "
            "Flatten them, or give a function of (labels, predictions), which gets all of them."
        )
    if any(spec.dtype == tf.string for spec in tf.nest.flatten(labels)):
        raise ModelError(
            f"{where} has strings, and loss={loss_name(loss)!r} compares numbers: expected labels that "
            "are numbers. Number the classes: names, numbers = np.unique(labels, return_inverse=True), "
            "with the same names for all clients."
        )
    if function is not None:
        aligned = trial.on_shapes(
            lambda a, b: to_one_rank(a, b, legacy=legacy), labels, predictions
        )
        aligned = aligned[0], _classes_last(aligned[1], found)
        check_shapes(function, loss_name(loss), where, *aligned)
    if not isinstance(found, keras.losses.Loss):
        found = _as_object(found, keras)

    def value(labels: Any, predictions: Any, weights: Any = None) -> Any:
        mask = keras_compat.mask_of(predictions)
        labels, predictions = to_one_rank(labels, predictions, legacy=legacy)
        if legacy and hasattr(labels, "dtype") and hasattr(predictions, "dtype"):
            kinds = tf.as_dtype(labels.dtype), tf.as_dtype(predictions.dtype)
            if all(k.is_floating for k in kinds) or all(k.is_integer for k in kinds):
                labels = tf.cast(labels, predictions.dtype)
        if mask is not None:  # Keras leaves masked values out of the mean
            keras_compat.set_mask(predictions, mask)
        with tf_compat.equality_by_value():
            result = found(
                labels, predictions, **({} if weights is None else {"sample_weight": weights})
            )
        return result if getattr(found, "reduction", None) == "sum" else tf.reduce_mean(result)

    if function is not None:
        predictions = _classes_last(predictions, found)
    shape = getattr(predictions, "shape", None)
    return value, Term(loss, function, output, None if shape is None else tuple(shape[1:]))


def _check_single(several: bool, labels: Any) -> None:
    if several or isinstance(labels, Mapping | list | tuple):
        raise ModelError(
            "class_weight is for models with a single output, as in Keras: the classes of several "
            "outputs are not the same. Weight the outputs in a loss function of your own."
        )


def _times(value: Callable[..., Any], factor: float) -> Callable[..., Any]:
    def weighted(labels: Any, predictions: Any, weights: Any = None) -> Any:
        return value(labels, predictions, weights) * factor

    return weighted


def _weighted(
    value: Callable[..., Any], class_weight: Mapping[int, float]
) -> Callable[[Any, Any], Any]:
    """Returns the loss of a batch in which each example has the weight of its class.

    The class is the label itself, or the place of the largest value of a one-hot label.
    """
    by_class = {int(number): float(weight) for number, weight in class_weight.items()}

    def total(labels: Any, predictions: Any, weights: Any = None) -> Any:
        del weights  # `fit` refuses weights of both kinds
        classes = labels
        if len(classes.shape) > 1:
            several = classes.shape[-1] != 1
            classes = tf.argmax(classes, -1) if several else tf.squeeze(classes, -1)
        classes = tf.cast(classes, tf.int64)
        found = tf.ones_like(classes, tf.float32)
        for number, weight in by_class.items():
            same = tf.equal(classes, number)  # `==` is identity in the graphs of TFF
            found = tf.where(same, weight, found)
        return value(labels, predictions, found)

    return total


def _classes_last(predictions: Any, loss: Any) -> Any:
    """Returns the spec of predictions with the class dimension of a sparse loss moved to the end."""
    axis = keras_compat.loss_arguments(loss).get("axis", -1)
    if not isinstance(axis, int) or axis == -1 or "Sparse" not in type(loss).__name__:
        return predictions
    sizes = list(predictions.shape)
    return tf.TensorSpec([*sizes[:axis], *sizes[axis:][1:], sizes[axis]], predictions.dtype)


def _as_object(function: Callable[[Any, Any], Any], keras: ModuleType) -> Any:
    """Wraps a function in a loss object, which adds Keras's casts and the mean over the batch."""

    class FunctionLoss(keras.losses.Loss):  # type: ignore[misc, name-defined]
        """A loss object that calls a function."""

        def call(self, y_true: Any, y_pred: Any) -> Any:
            return function(y_true, y_pred)

    return FunctionLoss(name="loss")


def _try(
    value: Callable[[Any, Any], Any], term: Term, labels: Any, predictions: Any, legacy: bool
) -> None:
    """Traces a loss and its gradient on the shapes, and refuses a loss that fails."""
    where = "" if term.output is None else f" of the output {term.output!r}"
    told = (
        f"loss={loss_name(term.loss)!r} cannot compare y, which is {describe(labels)}, with the "
        f"predictions{where}, which are {describe(predictions)}"
    )
    hint = ""
    if term.function is None and any(s.dtype.is_integer for s in tf.nest.flatten(labels)):
        hint = (
            " Keras 3 passes labels to a loss as float32; if the loss needs whole numbers, convert "
            "them back by tf.cast(labels, tf.int32)."
        )
    trial.of_loss(value, told, labels, predictions, hint)
    aligned = labels, predictions
    if term.shape is not None and not isinstance(labels, Mapping | list | tuple):
        aligned = trial.on_shapes(
            lambda a, b: to_one_rank(a, b, legacy=legacy), labels, predictions
        )
    if term.function is None and trial.mixes_by_broadcast(value, *aligned):
        raise ModelError(
            f"{told}: it would broadcast them, and compare the labels of each example with the "
            "predictions of all other examples. Give y the rank of the predictions, such as "
            "[examples, 1], or reshape it in the function."
        )


def _by_output(given: Any, loss: Any, names: Sequence[str] | None, labels: Any) -> dict[str, Any]:
    """Returns the losses by the names of the outputs, without losses that are None."""
    if names is None:
        raise ModelError(
            f"loss={given!r} has losses by output, and the model has one output, or several without "
            "names: expected one loss, a function of (labels, predictions), or a model whose outputs "
            "are a dictionary."
        )
    if not isinstance(loss, Mapping):
        if len(loss) != len(names):
            raise ModelError(
                f"loss={given!r} has {len(loss)} losses: expected one for each of the {len(names)} "
                f"outputs {_listed(names)}."
            )
        loss = dict(zip(names, loss, strict=True))
    unknown = [name for name in loss if name not in names]
    if unknown:
        raise ModelError(
            f"loss={given!r} names an unknown output {unknown[0]!r}: expected some of {_listed(names)}."
        )
    losses = {name: loss[name] for name in names if loss.get(name) is not None}
    if not losses:
        raise ModelError(
            f"loss={given!r} has no loss: expected one for at least one of {_listed(names)}."
        )
    if isinstance(labels, list | tuple):
        if len(labels) != len(names):
            raise ModelError(
                f"y has {len(labels)} fields, and the model has the outputs {_listed(names)}: expected "
                "one field for each output, in this order; or a dictionary with some of the names."
            )
        return losses
    fields = list(labels) if isinstance(labels, Mapping) else None
    if fields is None and len(names) == 1:
        return losses
    if fields is None or set(losses) - set(fields) or set(fields) - set(names):
        have = "is one array" if fields is None else f"has the fields {_listed(fields)}"
        raise ModelError(
            f"y {have}, and loss={given!r} compares each of the outputs {_listed(losses)} with its own "
            "labels: expected y as a dictionary of arrays with the names of the outputs. For anything "
            "else, give a function of (labels, predictions), which gets all labels and predictions."
        )
    return losses


def _output_names(predictions: Any, names: Sequence[str] | None) -> tuple[str, ...] | None:
    if isinstance(predictions, Mapping):
        return tuple(predictions)
    if not isinstance(predictions, list | tuple) or names is None or len(names) != len(predictions):
        return None
    return tuple(names)


def _fields_of(labels: Any, names: Sequence[str]) -> dict[str, Any]:
    """Returns by the name of an output where its labels are in y; empty if y is one array."""
    if isinstance(labels, list | tuple):
        return {name: place for place, name in enumerate(names)}
    return {name: name for name in names} if isinstance(labels, Mapping) else {}


def _part(predictions: Any, names: Sequence[str], name: str) -> Any:
    return predictions[name if isinstance(predictions, Mapping) else list(names).index(name)]


def _listed(names: Any) -> str:
    return ", ".join(repr(name) for name in names)
