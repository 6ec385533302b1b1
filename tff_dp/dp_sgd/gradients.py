"""The sum of the clipped gradients of a batch's examples, in whole numbers.

- Each example's gradient, whatever the type of the weights, is widened, clipped, and truncated to the
  grid (`tff_dp.noise.clipping`). The sum over the batch is in 64-bit integers: it is exact, it does not
  depend on the order of the records, and one record changes it by at most the clip norm.
- Gradients are vectorized over up to 32 examples, fewer for a large model: what they take should
  stay in the cache of the processor until it has been summed. A batch needs as many passes as its
  size demands. Shapes therefore do not depend on which records are drawn.
- What follows the gradients of some examples (their norms, clipping, the grid and the sum) is one
  function for XLA, which reads them twice and writes nothing but the sum (`noise.compiled`).
- A model cannot break the bound on the influence of one record: an example's gradient is computed
  on a batch of this one example, whatever the model does across a batch.
- Losses that layers add (regularizers) are part of each example's loss and are clipped with it.
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

_MOST_AT_ONCE, _FEWEST_AT_ONCE = 32, 4  # examples whose gradients are in memory together
_ELEMENTS_AT_ONCE = 10_000_000  # of these gradients: 40 MB, about the cache that cores share


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
    """Returns the sum of the clipped gradients of a batch's examples.

    Source: Abadi et al., arXiv:1607.00133, algorithm 1.

    Args:
      model: A `tff.learning.models.FunctionalModel`.
      mechanism: Its clip norm C bounds the L2 norm of each example's gradient over all weights.
      grid: The grid of the sum.
      weights: The trainable weights, of any floating-point types.
      kept: The non-trainable weights.
      records: All records, tensors [rows, ...].
      order: Indices of all rows, those of the batch first, int32 [rows].
      drawn: The number of rows in the batch, int64 [].

    Returns:
      One tensor for each trainable weight, of its shape, int64, in grid steps.
    """
    usual = mechanism.batch_size + 2 * math.sqrt(mechanism.batch_size)
    size = sum(weight.shape.num_elements() for weight in weights)
    most = max(_FEWEST_AT_ONCE, min(_MOST_AT_ONCE, _ELEMENTS_AT_ONCE // max(size, 1)))
    at_once = min(most, math.ceil(usual))

    def own(example: Any) -> tuple[Any, ...]:
        alone = tf.nest.map_structure(lambda field: field[tf.newaxis], example)
        return gradient_of(model, weights, kept, alone)

    @noise.compiled
    def add_clipped(sums: Any, gradients: Any, counted: Any) -> Any:
        clipped = noise.clip_l2_each(gradients, mechanism.clip_norm, grid, counted)
        return list(map(_added, sums, clipped.parts))

    def add(first: Any, *sums: Any) -> Any:
        places = first + tf.range(at_once, dtype=tf.int64)
        rows = tf.gather(order, tf.minimum(places, tf.size(order, tf.int64) - 1))
        examples = tf.nest.map_structure(lambda field: tf.gather(field, rows), records)
        gradients = [
            tf.ensure_shape(part, [at_once, *weight.shape])
            for part, weight in zip(_of_each(own, examples, weights), weights, strict=True)
        ]
        return first + at_once, *add_clipped(list(sums), gradients, places < drawn)

    sums: list[Any]
    _, *sums = tf.while_loop(
        lambda first, *_: first < drawn,
        add,
        [tf.constant(0, tf.int64), *(tf.zeros(weight.shape, tf.int64) for weight in weights)],
        parallel_iterations=1,
    )
    return sums


def _added(total: Any, parts: Any) -> Any:
    """Adds the parts of some examples, int64 [examples, ...], to a sum."""
    # On CPUs, `tf.reduce_sum` over the first dimension takes five times as long for int64.
    return tf.add_n([total, *tf.unstack(parts)])


def _of_each(function: Any, examples: Any, weights: tuple[Any, ...]) -> Sequence[Any]:
    """Applies a function to each example: vectorized, or to one after another if it cannot be."""
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # TensorFlow logs pages on what it cannot vectorize
    try:
        found: Sequence[Any] = tf.vectorized_map(function, examples)
    except Exception:  # of any class; errors of the model itself are raised again by `map_fn`
        specs = tuple(tf.TensorSpec(weight.shape, weight.dtype) for weight in weights)
        found = tf.map_fn(function, examples, fn_output_signature=specs)
    finally:
        logger.setLevel(level)
    return found


def gradient_of(
    model: Any, weights: tuple[Any, ...], kept: tuple[Any, ...], batch: tuple[Any, Any]
) -> tuple[Any, ...]:
    """Returns the gradient of a batch's loss in training mode.

    Args:
      model: A `tff.learning.models.FunctionalModel`.
      weights: The trainable weights.
      kept: The non-trainable weights.
      batch: Inputs and labels, each a structure of tensors [examples, ...].

    Returns:
      One tensor for each trainable weight, of its shape and type.
    """
    predict = internals.predict_function(model)
    x, y = batch
    with tf.GradientTape() as tape:
        tape.watch(weights)
        output = predict((weights, kept), x, training=True)
        loss = model.loss(output=output, label=y)
    found = tape.gradient(loss, weights, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return tuple(tf.convert_to_tensor(part) for part in found)  # gradients of embeddings are sparse
