"""The sum of the clipped gradients of a batch's examples, in whole numbers.

- Each example's gradient, whatever the type of the weights, is widened, clipped, and truncated to the
  grid (`tff_dp.noise.clipping`). The sum over the batch is in 64-bit integers: it is exact, it does not
  depend on the order of the records, and one record moves it by at most the clip norm.
- Examples are vectorized over some at a time (`_AT_ONCE`), which bounds the memory for their gradients;
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

import tensorflow as tf

from tff_dp import noise
from tff_dp._compat.tff import internals
from tff_dp.mechanisms import RecordGaussianMechanism
from tff_dp.noise import Grid

_AT_ONCE = 32  # examples whose gradients are in memory together


def sum_of_clipped(
    model: Any,
    mechanism: RecordGaussianMechanism,
    grid: Grid,
    weights: tuple[Any, ...],
    kept: tuple[Any, ...],
    records: Any,
    order: Any,
    drawn: Any,
) -> list[Any]:
    """Returns the sum over a batch of the examples' clipped gradients.

    Args:
      model: A `tff.learning.models.FunctionalModel`.
      mechanism: Its clip norm bounds each example's gradient over all weights.
      grid: Of what is summed.
      weights: The trainable weights, of any floating-point types.
      kept: The others.
      records: All records, tensors [rows, ...].
      order: The rows, those of the batch first, int32 [rows].
      drawn: The size of the batch, int64 [].

    Returns:
      A tensor of steps for each weight, int64.
    """
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
        clipped = noise.clip_l2_each(gradients, mechanism.clip_norm, grid, places < drawn)
        return first + at_once, *map(_added, sums, clipped.parts)

    sums: list[Any]
    _, *sums = tf.while_loop(
        lambda first, *_: first < drawn,
        add,
        [tf.constant(0, tf.int64), *(tf.zeros(weight.shape, tf.int64) for weight in weights)],
        parallel_iterations=1,
    )
    return sums


def _added(total: Any, parts: Any) -> Any:
    """Returns a sum and the parts of some examples, int64 [examples, ...], as one sum."""
    # On CPUs, `tf.reduce_sum` over the first dimension takes five times as long for int64.
    return tf.add_n([total, *tf.unstack(parts)])


def _of_each(function: Any, examples: Any, weights: tuple[Any, ...]) -> Sequence[Any]:
    """Returns a function of each example: vectorized, or one after another where that cannot be."""
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # what cannot be vectorized is dumped, for pages
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
    predict = internals.predict_function(model)
    x, y = batch
    with tf.GradientTape() as tape:
        tape.watch(weights)
        output = predict((weights, kept), x, training=True)
        loss = model.loss(output=output, label=y)
    found = tape.gradient(loss, weights, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return tuple(tf.convert_to_tensor(part) for part in found)  # those of embeddings are sparse
