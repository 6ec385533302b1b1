"""Layers that have to be checked with the data: lookup tables, embeddings, named inputs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tff_dp._compat import keras as keras_compat
from tff_dp.errors import ModelError
from tff_dp.model.labels import describe
from tff_dp.model.trial import reason

_LOOKUPS = ("TextVectorization", "StringLookup", "IntegerLookup")


class IndexRange(NamedTuple):
    """The range of indices with which an embedding is called on some data.

    Attributes:
      layer: The name of the embedding.
      rows: Its input_dim: valid indices are whole numbers in [0, rows - 1].
      low: The smallest index.
      high: The largest index.
    """

    layer: str
    rows: int
    low: int
    high: int


def refuse_lookups(model: Any, keras: ModuleType) -> None:
    """Refuses layers that look up their inputs in a table, which is not a weight and not sent to clients.

    Args:
      model: A model of either Keras.
      keras: The Keras module of the model.

    Raises:
      ModelError: The model has such a layer.
    """
    kinds = tuple(getattr(keras.layers, name) for name in _LOOKUPS)
    for layer in keras_compat.layers_of(model):
        if isinstance(layer, kinds):
            raise ModelError(
                f"The layer {layer.name!r} ({type(layer).__name__}) of the model {model.name!r} looks "
                "up its inputs in a table, which is not a weight and is not sent to clients. Apply the "
                "layer to the data first, x = layer(x), and train the layers after it on its output; or "
                "use Hashing, which needs no table. A vocabulary that was read from the clients' data "
                "is not covered by any epsilon."
            )


def random_inputs(x_spec: Any) -> Any:
    """Returns a batch of two random examples.

    Args:
      x_spec: The spec of a batch of x.

    Returns:
      Tensors [2, ...] in the structure of the spec; dimensions of unknown size have size 3.
    """
    rng = np.random.default_rng(0)

    def of(spec: Any) -> Any:
        shape = [2, *(size or 3 for size in spec.shape[1:])]
        if spec.dtype == tf.string:
            return tf.constant(rng.choice(["a", "b"], size=shape))
        if spec.dtype.is_integer:  # 0 and 1 are valid indices of nearly every embedding
            return tf.cast(rng.integers(0, 2, size=shape), spec.dtype)
        return tf.cast(rng.normal(size=shape), spec.dtype)

    return tf.nest.map_structure(of, x_spec)


def check_strings(model: Any, x_spec: Any) -> None:
    """Refuses strings in x if the model takes numbers, which only a call of the model shows.

    Args:
      model: A built model of either Keras.
      x_spec: The spec of a batch of x.

    Raises:
      ModelError: The model cannot be called on strings.
    """
    if not any(spec.dtype == tf.string for spec in tf.nest.flatten(x_spec)):
        return
    try:
        model(random_inputs(x_spec))
    except Exception as error:
        raise ModelError(
            f"The model {model.name!r} cannot be called on the data, whose x is {describe(x_spec)}: "
            f"{reason(error)}. Convert the strings to numbers first, or hash them with Hashing."
        ) from error


def check_places(model: Any, x_spec: Any) -> None:
    """Refuses a tuple of inputs with more or fewer entries than a model has inputs.

    Keras itself would leave out those that are too many.

    Args:
      model: A model of either Keras.
      x_spec: The spec of a batch of x.

    Raises:
      ModelError: The numbers differ.
    """
    inputs = getattr(model, "inputs", None)
    if not isinstance(x_spec, list | tuple) or inputs is None or len(inputs) == len(x_spec):
        return
    raise ModelError(
        f"The model {model.name!r} cannot be called on x, which has {len(x_spec)} fields: expected one "
        f"for each of its {len(inputs)} inputs.{inputs_of(model, x_spec)}"
    )


def inputs_of(model: Any, x_spec: Any) -> str:
    """Returns a sentence for a message if x does not fit the number or names of a model's inputs.

    Args:
      model: A model of either Keras.
      x_spec: The spec of a batch of x.

    Returns:
      The sentence, which begins with a space; empty if x fits, or the inputs are not known.
    """
    try:
        names = [tensor.name.split(":")[0] for tensor in model.inputs]
    except (AttributeError, TypeError, ValueError):
        return ""
    if len(names) > 1:
        listed = ", ".join(repr(name) for name in names)
        if isinstance(x_spec, Mapping) and set(x_spec) == set(names):
            return ""
        if isinstance(x_spec, list | tuple) and len(x_spec) == len(names):
            return ""
        return (
            f" The model has the inputs {listed}: give x as a dictionary with these names, or as a tuple "
            "of arrays in this order."
        )
    if isinstance(x_spec, Mapping | list | tuple):
        return f" The model has one input, {names[0]!r}: give x as one array, or with that name."
    return ""


def index_reader(model: Any, keras: ModuleType, x_spec: Any) -> Callable[[Any], Any] | None:
    """Returns a function that finds the indices of a model's embeddings for a batch of x.

    For an index that an embedding does not have, TensorFlow either fails in the middle of a round
    or returns zeros, depending on the device. The function computes only what leads to the
    embeddings.

    Args:
      model: A built model of either Keras, in eager mode.
      keras: The Keras module of the model.
      x_spec: The spec of a batch of x.

    Returns:
      A function from a batch of x to a list of `IndexRange`, one for each call of an embedding.
      None if the model has no embeddings, or if their indices cannot be computed beforehand (inside
      loops).
    """
    layers = [
        layer
        for layer in keras_compat.layers_of(model)
        if isinstance(layer, keras.layers.Embedding)
    ]
    if not layers:
        return None
    called: list[Any] = []

    @tf.function
    def read(x: Any) -> Any:
        met: list[tuple[Any, Any]] = []
        with _listening(layers, met):
            model(x, training=False)
        called[:] = [layer for layer, _ in met]
        return [(tf.reduce_min(indices), tf.reduce_max(indices)) for _, indices in met]

    try:
        concrete = read.get_concrete_function(x_spec)
    except Exception:  # indices that only exist inside a loop: a round reports the error
        return None

    def ranges(x: Any) -> list[IndexRange]:
        found = concrete(tf.nest.map_structure(tf.convert_to_tensor, x))
        return [
            IndexRange(layer.name, int(layer.input_dim), int(low), int(high))
            for layer, (low, high) in zip(called, found, strict=True)
        ]

    return ranges


@contextlib.contextmanager
def _listening(layers: list[Any], met: list[tuple[Any, Any]]) -> Iterator[None]:
    """Records the indices with which embeddings are called."""

    def listen(layer: Any) -> Any:
        call = layer.call

        def noted(inputs: Any, *args: Any, **kwargs: Any) -> Any:
            indices = tf.cast(inputs, tf.int32) if inputs.dtype.is_floating else inputs
            met.append((layer, tf.cast(indices, tf.int64)))
            return call(tf.zeros_like(inputs), *args, **kwargs)  # index 0 is always valid

        return noted

    try:
        for layer in layers:
            vars(layer)["call"] = listen(layer)
        yield
    finally:
        for layer in layers:
            vars(layer).pop("call", None)
