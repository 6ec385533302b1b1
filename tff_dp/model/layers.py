"""Layers that need a look at the data: tables of words, embeddings, inputs with names."""

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
    """The indices with which an embedding is called on some data.

    Attributes:
      layer: The embedding's name.
      rows: Its input_dim: indices are whole numbers in [0, rows - 1].
      low: The smallest index.
      high: The largest.
    """

    layer: str
    rows: int
    low: int
    high: int


def refuse_lookups(model: Any, keras: ModuleType) -> None:
    """Refuses layers that look their inputs up in a table, which is no weight that clients could get.

    Args:
      model: A model of either Keras.
      keras: That Keras.

    Raises:
      ModelError: There is one.
    """
    kinds = tuple(getattr(keras.layers, name) for name in _LOOKUPS)
    for layer in keras_compat.layers_of(model):
        if isinstance(layer, kinds):
            raise ModelError(
                f"The layer {layer.name!r} ({type(layer).__name__}) of the model {model.name!r} looks "
                "its inputs up in a table, which is no weight, and which clients do not get. Apply the "
                "layer to the data first, x = layer(x), and train the layers after it on its numbers; or "
                "use Hashing, which needs no table. A vocabulary that was read from the clients' data "
                "is not covered by any epsilon."
            )


def random_inputs(x_spec: Any) -> Any:
    """Returns two random examples."""
    rng = np.random.default_rng(0)

    def of(spec: Any) -> Any:
        shape = [2, *(size or 3 for size in spec.shape[1:])]
        if spec.dtype == tf.string:
            return tf.constant(rng.choice(["a", "b"], size=shape))
        if spec.dtype.is_integer:  # rows that an embedding has
            return tf.cast(rng.integers(0, 2, size=shape), spec.dtype)
        return tf.cast(rng.normal(size=shape), spec.dtype)

    return tf.nest.map_structure(of, x_spec)


def check_strings(model: Any, x_spec: Any) -> None:
    """Refuses x that holds strings where a model takes numbers: only running it shows that.

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
            f"{reason(error)}. Make numbers of the strings first, or hash them with Hashing."
        ) from error


def inputs_of(model: Any, x_spec: Any) -> str:
    """Returns what a message adds on a model's inputs where x does not fit their number or names."""
    try:
        names = [tensor.name.split(":")[0] for tensor in model.inputs]
    except (AttributeError, TypeError, ValueError):
        return ""
    if len(names) > 1:
        listed = ", ".join(repr(name) for name in names)
        if isinstance(x_spec, Mapping) and set(x_spec) == set(names):
            return ""
        return f" The model has the inputs {listed}: give x as a dictionary with these names."
    if isinstance(x_spec, Mapping):
        return f" The model has one input, {names[0]!r}: give x as one array, or with that name."
    return ""


def index_reader(model: Any, keras: ModuleType, x_spec: Any) -> Callable[[Any], Any] | None:
    """Returns a function of a batch of x that finds the indices of a model's embeddings.

    TensorFlow stops at an index that an embedding does not have, in the middle of a round, or gives
    zeros, depending on the device. This computes what leads to the embeddings, and nothing else.

    Args:
      model: A built model of either Keras, called eagerly.
      keras: That Keras.
      x_spec: The spec of a batch of x.

    Returns:
      A function that gives a list of `IndexRange`; None where the model has no embeddings, or none
      whose indices can be computed beforehand (inside of loops).
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
    except Exception:  # indices that only exist inside of a loop: the error comes in the round
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
    """Notes the indices with which embeddings are called."""

    def listen(layer: Any) -> Any:
        call = layer.call

        def noted(inputs: Any, *args: Any, **kwargs: Any) -> Any:
            indices = tf.cast(inputs, tf.int32) if inputs.dtype.is_floating else inputs
            met.append((layer, tf.cast(indices, tf.int64)))
            return call(tf.zeros_like(inputs), *args, **kwargs)  # which has a row

        return noted

    try:
        for layer in layers:
            vars(layer)["call"] = listen(layer)
        yield
    finally:
        for layer in layers:
            vars(layer).pop("call", None)
