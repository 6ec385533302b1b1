"""Refuses models whose examples influence each other's loss, such as those with batch normalization."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tff_dp import _compat
from tff_dp.dp_sgd.gradients import gradient_of
from tff_dp.errors import ModelError
from tff_dp.execution import fast

tff = _compat.tff.load()

_COUPLING = 0.05  # relative threshold; roundoff alone gives 1e-6 in float32 and 1e-2 in bfloat16


def refuse_coupled(model: Any) -> None:
    """Refuses a model whose loss of one example depends on the other examples of its batch.

    For such a model, the gradient of a batch's loss is not a sum over its examples: exchanging one
    of two examples changes the gradient by an amount that depends on the other example. The test
    does exactly this, with random examples, at random weights near the initial ones, in training
    mode, and with the same random numbers (dropout masks) each time.

    The test protects the user, whose model would be trained on batches of one example, where it
    behaves differently. The privacy guarantee does not depend on the test.

    Args:
      model: A `tff.learning.models.FunctionalModel`.

    Raises:
      ModelError: The loss of one example depends on the other examples.
    """
    rng = np.random.default_rng(0)

    def example(spec: Any) -> Any:
        shape = [1, *(size or 3 for size in spec.shape[1:])]
        if spec.dtype == tf.string:
            return np.full(shape, rng.choice([b"a", b"b"]), object)
        if spec.dtype.is_floating:
            return rng.normal(size=shape).astype(spec.dtype.as_numpy_dtype)
        return rng.integers(0, 2, size=shape).astype(spec.dtype.as_numpy_dtype)

    first, second, third, fourth = (
        tf.nest.map_structure(example, model.input_spec) for _ in range(4)
    )
    gradient = _gradient_of_pairs(model, rng)
    try:
        together = [
            gradient(first, second),
            gradient(first, fourth),
            gradient(third, second),
            gradient(third, fourth),
        ]
    except (
        tf.errors.OpError
    ):  # the model does not accept random examples, and the test says nothing
        return
    coupling = np.abs(together[0] - together[1] - together[2] + together[3])
    if coupling.max(initial=0.0) > _COUPLING * np.abs(together).max(initial=0.0):
        raise ModelError(
            "The model cannot be trained with record-level privacy: its loss of one example depends on "
            "the other examples of the batch (as with batch normalization in training, or a contrastive "
            "loss), so that one example has no gradient of its own to clip. Use GroupNormalization or "
            "LayerNormalization, and a loss that is a mean over examples."
        )


def _gradient_of_pairs(model: Any, rng: np.random.Generator) -> Any:
    """Returns a function that maps two examples, as batches of one, to the gradient of their batch."""
    trainable, kept = (tuple(np.asarray(w) for w in part) for part in model.initial_weights)
    weights = tuple(w + rng.normal(scale=0.1, size=w.shape).astype(w.dtype) for w in trainable)
    specs = tf.nest.map_structure(
        lambda spec: tf.TensorSpec([2, *(size or 3 for size in spec.shape[1:])], spec.dtype),
        model.input_spec,
    )

    @tff.tensorflow.computation(tff.types.tensorflow_to_type(specs))
    def gradient(batch: Any) -> Any:
        @tf.function
        def flat(batch: Any) -> Any:
            held = tuple(tf.constant(w) for w in kept)
            found = gradient_of(model, tuple(tf.constant(w) for w in weights), held, batch)
            return tf.concat([tf.reshape(tf.cast(part, tf.float32), [-1]) for part in found], 0)

        return flat(tuple(batch))

    def of(a: Any, b: Any) -> Any:
        with fast(device="cpu", seed=0):  # the first call of a context with a seed: the same draws
            pair = tf.nest.map_structure(lambda u, v: np.concatenate([u, v]), a, b)
            return np.asarray(gradient(pair), np.float64)

    return of
