"""The clipped gradients of a batch's examples.

- Examples are vectorised over some at a time (`_AT_ONCE`), which bounds the memory for their gradients;
  a batch is gone over in as many passes as it needs. So shapes do not depend on the draw.
- A model cannot break the bound on one record's influence: an example's gradient is that of a batch of
  one, whatever the model does across a batch.
- Losses that layers add (regularisers) are part of each example's loss, and clipped with it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

from tff_dp.mechanisms import RecordGaussianMechanism

_AT_ONCE = 32  # examples whose gradients are in memory together


def sum_of_clipped(
    model: Any,
    mechanism: RecordGaussianMechanism,
    weights: tuple[Any, ...],
    kept: tuple[Any, ...],
    records: Any,
    order: Any,
    drawn: Any,
) -> list[Any]:
    """Returns the sum over a batch of the examples' clipped gradients, a tensor for each weight."""
    import tensorflow as tf

    usual = mechanism.batch_size + 2 * math.sqrt(mechanism.batch_size)
    at_once = min(_AT_ONCE, math.ceil(usual))

    def own(example: Any) -> tuple[Any, ...]:
        alone = tf.nest.map_structure(lambda field: field[tf.newaxis], example)
        return gradient_of(model, weights, kept, alone)

    def add(first: Any, *sums: Any) -> Any:
        places = first + tf.range(at_once, dtype=tf.int64)
        rows = tf.gather(order, tf.minimum(places, tf.size(order, tf.int64) - 1))
        examples = tf.nest.map_structure(lambda field: tf.gather(field, rows), records)
        gradients = [
            tf.ensure_shape(part, [at_once, *weight.shape])
            for part, weight in zip(_of_each(own, examples, weights), weights, strict=True)
        ]
        clipped = _clip(gradients, mechanism.clip_norm, places < drawn)
        added = [total + tf.reduce_sum(part, 0) for total, part in zip(sums, clipped, strict=True)]
        return first + at_once, *added

    sums: list[Any]
    _, *sums = tf.while_loop(
        lambda first, *_: first < drawn,
        add,
        [tf.constant(0, tf.int64), *(tf.zeros_like(weight) for weight in weights)],
        parallel_iterations=1,
    )
    return sums


def _of_each(function: Any, examples: Any, weights: tuple[Any, ...]) -> Sequence[Any]:
    """Returns a function of each example: vectorised, or one after another where that cannot be."""
    import tensorflow as tf

    logger = tf.get_logger()
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # what cannot be vectorised is dumped, for pages
    try:
        found: Sequence[Any] = tf.vectorized_map(function, examples)
    except Exception:  # what it raises depends on what it meets; the model's own errors come again
        specs = tuple(tf.TensorSpec(weight.shape, weight.dtype) for weight in weights)
        found = tf.map_fn(function, examples, fn_output_signature=specs)
    finally:
        logger.setLevel(level)
    return found


def gradient_of(
    model: Any, weights: tuple[Any, ...], kept: tuple[Any, ...], batch: tuple[Any, Any]
) -> tuple[Any, ...]:
    """Returns the gradient of a batch's loss in training, a tensor for each trainable weight."""
    import tensorflow as tf

    # The function itself and not its graph, whose loops (recurrent layers) cannot be vectorised. A
    # private attribute of a pinned version.
    predict = model._predict_on_batch_fn.python_function
    x, y = batch
    with tf.GradientTape() as tape:
        tape.watch(weights)
        output = predict((weights, kept), x, training=True)
        loss = model.loss(output=output, label=y)
    found = tape.gradient(loss, weights, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return tuple(tf.convert_to_tensor(part) for part in found)  # those of embeddings are sparse


def _clip(gradients: Sequence[Any], clip_norm: float, counted: Any) -> list[Any]:
    """Scales the gradient of each example to an L2 norm of at most a bound, over all weights.

    Args:
      gradients: A tensor [examples, ...] for each weight.
      clip_norm: The bound.
      counted: Which examples count, bool [examples]; the others become zero, and so do those whose norm
        is not finite.
    """
    import tensorflow as tf

    squares = [
        tf.reduce_sum(tf.square(tf.cast(part, tf.float32)), range(1, part.shape.rank))
        for part in gradients
    ]
    norm = tf.sqrt(tf.add_n(squares))
    counted = tf.logical_and(counted, tf.math.is_finite(norm))
    scale = clip_norm / tf.maximum(norm, clip_norm)

    def scaled(part: Any) -> Any:
        shape = [-1, *(1 for _ in part.shape[1:])]
        factor = tf.reshape(tf.cast(scale, part.dtype), shape)
        return tf.where(tf.reshape(counted, shape), part * factor, tf.zeros_like(part))

    return [scaled(part) for part in gradients]
