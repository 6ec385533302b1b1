"""The models of the execution contract: tiny, of each kind of layer, for each kind of model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tff_dp import _compat
from tff_dp.model import ModelSpec

FEATURES, TOKENS = 4, 6  # of an example, for models of numbers and of words
_WORDS, _MANY_WORDS = 9, 6700

# Each function makes layers by the Keras that it is given.


def _recurrent(k: Any, layer: str) -> list[Any]:
    return [k.layers.Reshape([2, FEATURES // 2]), getattr(k.layers, layer)(3), k.layers.Dense(1)]


def _embedding(k: Any, words: int) -> list[Any]:
    return [
        k.layers.Embedding(words, 3),
        k.layers.GlobalAveragePooling1D(),
        k.layers.Dense(1),
    ]


def _normalized(k: Any, layer: Any) -> list[Any]:
    return [k.layers.Dense(4), layer, k.layers.Dense(1)]


LAYERS: dict[str, Callable[[Any], list[Any]]] = {
    "dense": lambda k: [k.layers.Dense(3, "tanh"), k.layers.Dense(1)],
    "convolution": lambda k: [
        k.layers.Reshape([2, 2, 1]),
        k.layers.Conv2D(2, 2, padding="same", activation="tanh"),
        k.layers.Flatten(),
        k.layers.Dense(1),
    ],
    "lstm": lambda k: _recurrent(k, "LSTM"),
    "gru": lambda k: _recurrent(k, "GRU"),
    "embedding": lambda k: _embedding(k, _WORDS),
    # One draw a batch is kept with a probability of 1 - 2^-23: masks are drawn, and change nothing.
    "dropout": lambda k: [
        k.layers.Dense(3, "tanh"),
        k.layers.Dropout(1e-30, noise_shape=(1, 1)),
        k.layers.Dense(1),
    ],
    "layer normalization": lambda k: _normalized(k, k.layers.LayerNormalization()),
    "group normalization": lambda k: _normalized(k, k.layers.GroupNormalization(2)),
    "batch normalization": lambda k: _normalized(k, k.layers.BatchNormalization()),
    # More than 4096 elements in one weight: norms and checks are then computed in another form. The mean
    # over units keeps steps as small as those of the other models.
    "large": lambda k: [
        k.layers.Dense(1200, "tanh"),
        k.layers.Reshape([300, 4]),
        k.layers.GlobalAveragePooling1D(),
        k.layers.Dense(1),
    ],
    # More than 20000 elements in one weight: from there on `compression_aggregator` compresses.
    "wide": lambda k: _embedding(k, _MANY_WORDS),
}
WORDS_OF = {"embedding": _WORDS, "wide": _MANY_WORDS}


def _make(k: Any, layers: str) -> Any:
    inputs = (
        k.layers.Input([TOKENS], dtype="int32")
        if layers in WORDS_OF
        else k.layers.Input([FEATURES])
    )
    outputs = inputs
    for layer in LAYERS[layers](k):
        outputs = layer(outputs)
    return k.Model(inputs, outputs)


def _functional(k: Any, layers: str, input_spec: Any) -> Any:
    bound = ModelSpec(model=_make(k, layers), loss="mse", metrics=["mae"]).bind(input_spec)
    assert bound.is_functional
    return bound


def _variable_based(layers: str, input_spec: Any) -> Callable[[], Any]:
    import tf_keras

    def model_fn() -> Any:
        return _compat.tff.load().learning.models.from_keras_model(
            _make(tf_keras, layers),
            loss=tf_keras.losses.MeanSquaredError(),
            input_spec=input_spec,
            metrics=[tf_keras.metrics.MeanAbsoluteError()],
        )

    return model_fn


# What a functional model has no place for: moving statistics; and, in TFF's converter from tf-keras, the
# state of a random generator, and recurrent layers (`ModelSpec` makes their models variable-based).
_NOT_FUNCTIONAL = {
    "keras3": {"batch normalization"},
    "tf-keras": {"batch normalization", "dropout", "lstm", "gru"},
    "variables": set[str](),
}
MODELS = [
    f"{kind} {layers}"
    for kind, missing in _NOT_FUNCTIONAL.items()
    for layers in LAYERS
    if layers not in missing
]


def make_model(name: str, input_spec: Any) -> tuple[Any, Any]:
    """Returns a model in TFF's form, and as this project binds it (None where it is variable-based)."""
    kind, layers = name.split(" ", 1)
    if kind == "variables":
        return _variable_based(layers, input_spec), None
    import tf_keras

    bound = _functional({"keras3": keras, "tf-keras": tf_keras}[kind], layers, input_spec)
    return bound.tff_model, bound


def update_spec(model: Any) -> Any:
    """Returns the specification of a client's update, in the containers that TFF gives it."""
    if not callable(model):
        weights = model.initial_weights[0]
        return type(weights)(tf.TensorSpec(w.shape, tf.float32) for w in weights)
    with tf.Graph().as_default():
        return [tf.TensorSpec(v.shape, v.dtype) for v in model().trainable_variables]
