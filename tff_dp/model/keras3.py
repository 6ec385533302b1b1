"""Converts Keras 3 models to `tff.learning.models.FunctionalModel`.

TFF does not support Keras 3. A Keras 3 model can be called as a pure function of its variables,
which is what a functional model is. Three things need care:

- Random layers keep the state of their generator in a variable, which a functional model never
  advances: every step of every client would draw the same dropout mask. Each call therefore draws
  that state from TensorFlow's own random numbers.
- Moving statistics (batch normalization) are non-trainable state that training changes, and a
  functional model drops such changes. A layer with such state is refused by name.
- Losses that layers add (regularizers), and masks of padded outputs, are returned together with the
  predictions, since the loss needs them.
"""

from __future__ import annotations

import inspect
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tff_dp import _compat
from tff_dp._compat import keras as keras_compat
from tff_dp._compat import tensorflow as tf_compat
from tff_dp.errors import ModelError
from tff_dp.model import metrics as metrics_lib
from tff_dp.model import trial
from tff_dp.model.bound import BoundModel, ModelWeights, compute_dtypes
from tff_dp.model.example_weights import Weights
from tff_dp.model.labels import describe
from tff_dp.model.layers import (
    check_strings,
    inputs_of,
    random_inputs,
    refuse_lookups,
)
from tff_dp.model.losses import resolve_loss

tff = _compat.tff.load()

_SEED_STATE = "seed_generator_state"


def bind(
    sample: keras.Model,
    builder: Callable[[], keras.Model] | None,
    loss: Any,
    metrics: Sequence[Any],
    input_spec: tuple[Any, Any],
    weights: Weights,
) -> BoundModel:
    """Converts a Keras 3 model; see `ModelSpec.bind`.

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
      ModelError: As `ModelSpec.bind`.
      DataError: The loss would broadcast labels and predictions.
    """
    return _Keras3Model(sample, builder, loss, metrics, input_spec, weights)


class _Keras3Model(BoundModel):
    """A Keras 3 model that TFF calls as a pure function of its weights."""

    def __init__(
        self,
        sample: keras.Model,
        builder: Callable[[], keras.Model] | None,
        loss: Any,
        metrics: Sequence[Any],
        input_spec: tuple[Any, Any],
        weights: Weights,
    ) -> None:
        if keras.config.backend() != "tensorflow":
            raise ModelError(
                f"The Keras backend is {keras.config.backend()!r}: expected 'tensorflow'. Set "
                "KERAS_BACKEND=tensorflow before Keras is imported."
            )
        self._input_spec = input_spec
        refuse_lookups(sample, keras)
        # A model that was given is copied, since neither building nor training may change it. If
        # Keras cannot copy it, the model itself is trained, as by its own `fit`.
        _build(sample, input_spec[0])
        check_strings(sample, input_spec[0])
        self._make = builder or _copier(sample, input_spec[0])
        model = sample if builder else self._make()
        _build(model, input_spec[0])
        if not builder:
            _set_weights(model, sample.get_weights())
        self._model = model
        self.compute_dtypes = compute_dtypes(model)
        self.initial_weights = ModelWeights(
            tuple(v.numpy() for v in model.trainable_variables),
            tuple(v.numpy() for v in model.non_trainable_weights),
        )
        predict, extras, outputs = _trace(model, self.initial_weights, input_spec)
        if "mask" in extras:
            weights.of_examples.refuse_mask(model)
        examples = weights.of_examples
        labels = examples.labels(input_spec[1])
        names = getattr(model, "output_names", None)
        found = resolve_loss(loss, keras, labels, outputs, names, weights)
        self.terms = found.terms
        self.metrics = metrics_lib.resolve_metrics(metrics, loss, keras)
        value = examples.weighted(found.value, input_spec[1], outputs)
        batch_loss = _with_extras(value) if extras else value
        reader = _outputs if extras else lambda predictions: predictions
        about = self.metrics, labels, outputs, reader, examples.labels
        measured = metrics_lib.functional_metrics(*about)
        self.tff_model = tff.learning.models.FunctionalModel(
            initial_weights=tuple(self.initial_weights),
            predict_on_batch_fn=predict,
            loss_fn=lambda output, label, sample_weight=None: batch_loss(label, output),
            metrics_fns=measured,
            input_spec=input_spec,
        )

    def to_keras(self, weights: ModelWeights) -> keras.Model:
        model = self._make()
        _build(model, self._input_spec[0])
        pairs = [
            *zip(
                model.trainable_variables,
                self._model.trainable_variables,
                weights.trainable,
                strict=True,
            ),
            *zip(
                model.non_trainable_weights,
                self._model.non_trainable_weights,
                weights.non_trainable,
                strict=True,
            ),
        ]
        for variable, reference, value in pairs:
            # Matched by position, which is unique. The paths, without the numbers that Keras gives
            # to unnamed layers, must agree as well; a bare name such as "kernel" would not be
            # enough.
            if _unnumbered(variable.path) != _unnumbered(reference.path) or tuple(
                variable.shape
            ) != tuple(np.shape(value)):
                raise ModelError(
                    f"The weight {reference.path} of shape {np.shape(value)} meets {variable.path} of "
                    f"shape {tuple(variable.shape)}: the function that makes the model makes a "
                    "different one each time. Make the same layers in the same order."
                )
        for variable, _, value in pairs:
            variable.assign(value)
        _set_weights(model, model.get_weights())
        return model


def _unnumbered(path: str) -> str:
    return re.sub(r"_\d+(?=/|$)", "", path)


def _copier(sample: keras.Model, x_spec: Any) -> Callable[[], keras.Model]:
    """Returns a function that makes models with the same layers.

    If Keras cannot record how the model was made, or a copy does not compute the same as the model,
    the function returns the model itself.
    """
    if not _is_recorded(sample):
        return lambda: sample
    x = random_inputs(x_spec)
    try:
        expected = tf.nest.flatten(sample(x))
    except Exception:  # the model may reject random x; if it rejects every x, tracing reports it
        return lambda: keras.models.clone_model(sample)
    try:
        copy = _clone(sample)
        _build(copy, x_spec)
        _set_weights(copy, sample.get_weights())
        same = all(
            np.allclose(a, b, atol=1e-5, equal_nan=True)
            for a, b in zip(expected, tf.nest.flatten(copy(x)), strict=True)
        )
    except (NotImplementedError, TypeError, ValueError):
        same = False
    return (lambda: _clone(sample)) if same else (lambda: sample)


def _clone(model: keras.Model) -> keras.Model:
    """Returns a model with the same layers that is not compiled.

    Keras compiles the clone of a compiled model from its configuration, and fails if the
    configuration is incomplete, for example if the loss is a function.
    """
    compiled = model.compiled
    model.compiled = False
    try:
        return keras.models.clone_model(model)
    finally:
        model.compiled = compiled


def _is_recorded(model: keras.Model) -> bool:
    """Says whether a model's configuration, if it has one, records how the model was made.

    For a subclass, Keras records the defaults instead of the arguments that the constructor was
    given. A copy may then have, for example, another dropout rate, which no comparison of
    predictions shows.
    """
    kind = type(model)
    if kind in (keras.Sequential, keras.Model) or keras_compat.is_defined_by_keras(kind):
        return all(_is_recorded(part) for part in model.layers if isinstance(part, keras.Model))
    if not keras_compat.is_defined_by_keras(kind.get_config):
        return True  # the class defines its own `get_config`
    parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
    return all(
        p.kind is inspect.Parameter.VAR_KEYWORD or p.name in ("name", "trainable", "dtype")
        for p in parameters
    )


def _set_weights(model: keras.Model, weights: Sequence[np.ndarray]) -> None:
    model.set_weights(weights)
    for layer in keras_compat.layers_of(model):
        if hasattr(layer, "finalize_state"):  # preprocessing layers derive tensors from weights
            layer.finalize_state()


def _build(model: keras.Model, x_spec: Any) -> None:
    if model.built:
        return
    try:
        model(trial.zeros(x_spec, 1))
    except Exception as error:
        raise ModelError(
            f"The model {model.name!r} cannot be called on the data, whose x is {describe(x_spec)}: "
            f"{trial.reason(error)}{inputs_of(model, x_spec)}"
        ) from error


def _call(
    model: keras.Model, weights: Any, x: Any, training: bool
) -> tuple[Any, list[Any], list[str]]:
    """Calls a model as a pure function.

    `Model.stateless_call` bypasses `__call__`, which passes the training flag to inner layers if
    the `call` of a subclassed model does not accept it. Therefore a stateless scope is used here.

    Returns:
      The predictions, the losses that layers add, and the paths of weights that the call has
      changed.
    """
    trainable, non_trainable = weights
    kept = model.non_trainable_weights
    mapping = [
        *zip(model.trainable_variables, trainable, strict=True),
        *zip(kept, non_trainable, strict=True),
        *((v, _fresh_state(v)) for v in _other_state(model)),
    ]
    with (
        tf_compat.constants_for_eager_tensors(),
        tf_compat.equality_by_value(),
        keras.StatelessScope(state_mapping=mapping, collect_losses=True) as scope,
    ):
        before = {id(v): scope.get_current_value(v) for v in kept}
        outputs = model(x, training=training)
        losses = list(model.losses)
        changed = [v.path for v in kept if scope.get_current_value(v) is not before[id(v)]]
    return outputs, losses, changed


def _other_state(model: keras.Model) -> list[Any]:
    """Returns the state that is not a weight: seeds of generators, and metrics held by the model."""
    weights = {id(v) for v in model.non_trainable_weights}
    return [v for v in model.non_trainable_variables if id(v) not in weights]


def _fresh_state(variable: Any) -> tf.Tensor:
    if variable.name != _SEED_STATE:
        return tf.zeros(variable.shape, variable.dtype)
    # Each execution draws from an operation with its own state, so that no two steps, clients or
    # generators share a mask. Stateless draws would repeat, and a constant would be folded. The raw
    # operation is used, since tf.random.uniform adopts a global seed (keras.utils.set_random_seed),
    # with which every instance of this graph would draw the same masks.
    draw = tf.raw_ops.RandomUniformInt(shape=variable.shape, minval=0, maxval=2**31 - 1)
    return tf.cast(draw, variable.dtype)


def _trace(
    model: keras.Model, weights: ModelWeights, input_spec: tuple[Any, Any]
) -> tuple[Any, set[str], Any]:
    """Returns the prediction function for TFF, the extras that it returns, and the outputs' spec.

    Extras are the values that a loss needs in addition to the outputs: the sum of the losses that
    layers add, and the mask of the outputs if the examples are padded.
    """
    found: dict[str, Any] = {"changed": [], "losses": False, "mask": False}

    @tf.function
    def probe(weights: Any, x: Any) -> Any:
        outputs, losses, found["changed"] = _call(model, weights, x, training=True)
        found["losses"], found["mask"] = bool(losses), _mask(outputs) is not None
        return outputs

    specs = tf.nest.map_structure(lambda w: tf.TensorSpec(w.shape, w.dtype), tuple(weights))
    try:
        concrete = probe.get_concrete_function(specs, input_spec[0])
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"The model {model.name!r} cannot be called on the data, whose x is "
            f"{describe(input_spec[0])}, in training: {trial.reason(error)}"
            f"{inputs_of(model, input_spec[0])}"
        ) from error
    if found["changed"]:
        raise ModelError(_changed_state(model, found["changed"]))
    captured = OrderedDict.fromkeys(v.name for v in concrete.variables)
    if captured:
        raise ModelError(_foreign_state(model, captured))
    has_extras = found["losses"] or found["mask"]

    @tf.function
    def predict(model_weights: Any, x: Any, training: bool = True) -> Any:
        outputs, losses, _ = _call(model, model_weights, x, training)
        if not has_extras:
            return outputs
        extras = OrderedDict()
        if found["losses"]:
            extras["added"] = tf.add_n([tf.reduce_sum(v) for v in losses])
        if found["mask"]:
            extras["mask"] = _mask(outputs)
        return outputs, extras

    outputs = tf.nest.map_structure(
        lambda t: tf.TensorSpec(t.shape, t.dtype), concrete.structured_outputs
    )
    return predict, {name for name in ("losses", "mask") if found[name]}, outputs


def _foreign_state(model: keras.Model, names: Iterable[str]) -> str:
    names = list(names)
    if all(_SEED_STATE in name for name in names):
        remedy = (
            "A random operation without a seed generator of its own reads Keras's global one: make a "
            "keras.random.SeedGenerator in the layer's constructor and pass it as seed."
        )
    else:
        remedy = (
            "Federated averaging would not keep such state from step to step: make a recurrent layer "
            "with stateful=False, and the variables of a custom layer with add_weight."
        )
    return (
        f"The model {model.name!r} reads variables that are not its weights: {', '.join(names)}. "
        f"{remedy}"
    )


def _changed_state(model: keras.Model, paths: Sequence[str]) -> str:
    layers = OrderedDict.fromkeys(path.rsplit("/", 1)[0] for path in paths)
    kinds = {layer.path: type(layer).__name__ for layer in keras_compat.layers_of(model)}
    names = ", ".join(f"{path!r} ({kinds.get(path, 'layer')})" for path in layers)
    return (
        f"The layer {names} of the model {model.name!r} changes non-trainable state in training "
        f"({', '.join(p.rsplit('/', 1)[1] for p in paths)}), which federated averaging would silently "
        "leave at its initial value. Use GroupNormalization or LayerNormalization for "
        "BatchNormalization, or freeze the layer with trainable=False."
    )


def _mask(outputs: Any) -> Any:
    """Returns the mask of the outputs, which layers such as `Masking` set on a single output."""
    return keras_compat.mask_of(outputs)


def _outputs(predictions: tuple[Any, Any]) -> Any:
    """Returns the outputs without the extras, and attaches the mask again, which a graph drops."""
    outputs, extras = predictions
    if "mask" in extras:
        outputs = tf.identity(outputs)
        keras_compat.set_mask(outputs, extras["mask"])
    return outputs


def _with_extras(loss_fn: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def total(label: Any, predictions: tuple[Any, Any]) -> Any:
        loss = loss_fn(label, _outputs(predictions))
        added = predictions[1].get("added")
        return loss if added is None else loss + tf.cast(added, tf.float32)

    return total
