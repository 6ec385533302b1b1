"""Updates as whole numbers of grid steps, of a norm that is certain.

A clipped update is truncated to the grid, toward zero: that makes no coordinate larger, so that the norm
of the whole numbers is at most the clip norm, with nothing to add for rounding. What roundoff could do to
the norm itself is taken off beforehand: updates are clipped to (1 - 2^-15) of the clip norm. A norm is
summed in float32 within blocks of 256 terms, and in float64 over the blocks, so that the relative error
of the sum is below 255 2^-24 and a little, for every order of summation, number of weights, compiler and
device (Higham, "Accuracy and Stability of Numerical Algorithms", 2002, section 4.2: n - 1 units of
roundoff for n terms). With 2 more units for scale and product that is half of what is taken off.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tff_dp.noise.grid import Grid, as_float64

_BLOCK = 256  # terms that are summed in float32
_SMALL = 4096  # elements, up to which a tensor is summed in float64 at once
MARGIN = 2.0**-15
"""How much is taken off the clip norm, relative, before updates are scaled to it."""


class Clipped(NamedTuple):
    """An update on the grid, or several updates.

    Attributes:
      parts: int64, a tensor for each of the update's.
      norm: The update's norm before clipping, float64 [], or each update's, float64 [updates]; NaN or
        infinite where an update counts as zero.
    """

    parts: list[Any]
    norm: Any


def clip_l2(update: Sequence[Any], clip_norm: Any, grid: Grid, unit: Any = None) -> Clipped:
    """Returns an update of floating-point tensors, scaled to an L2 norm and truncated to the grid.

    Args:
      update: Tensors of any floating-point types: those below float32 are widened first.
      clip_norm: C > 0, a number or a tensor [].
      grid: The grid.
      unit: The clip norm that the grid divides, where it is another than C.

    Returns:
      The update in steps, of L2 norm at most C over the step: zeros if the norm is not finite.
    """
    wide = _widened(update)
    norm = _l2_norm(wide, 0)
    return Clipped(_scaled(wide, norm, clip_norm, grid, unit), norm)


def clip_l2_each(updates: Sequence[Any], clip_norm: Any, grid: Grid, counted: Any) -> Clipped:
    """Returns several updates, each scaled to an L2 norm and truncated to the grid by itself.

    Args:
      updates: A tensor [updates, ...] for each tensor of an update, of any floating-point types and of
        known shapes.
      clip_norm: C > 0, a number or a tensor [].
      grid: The grid.
      counted: Which updates count, bool [updates]; the others become zeros.

    Returns:
      The updates in steps, [updates, ...]: each, over all tensors, of L2 norm at most C over the step,
      and zeros where the norm is not finite.
    """
    wide = _widened(updates)
    norms = _l2_norm(wide, 1)
    return Clipped(_scaled(wide, norms, clip_norm, grid, counted=counted), norms)


def clip_l1(update: Sequence[Any], clip_norm: Any, grid: Grid) -> Clipped:
    """Returns an update scaled to an L1 norm and truncated to the grid; as `clip_l2`."""
    wide = _widened(update)
    norm = tf.add_n([_sum(tf.abs, part, 0) for part in wide])
    return Clipped(_scaled(wide, norm, clip_norm, grid), norm)


def _widened(update: Sequence[Any]) -> list[Any]:
    return [part if part.dtype == tf.float64 else tf.cast(part, tf.float32) for part in update]


def _l2_norm(wide: Sequence[Any], leading: int) -> tf.Tensor:
    return tf.sqrt(tf.add_n([_sum(tf.square, part, leading) for part in wide]))


def _sum(function: Callable[[Any], Any], part: tf.Tensor, leading: int) -> tf.Tensor:
    """Returns the sum of a function of the elements over all but the leading dimensions, float64.

    The module says how large its error is.
    """
    kept = part.shape[:leading].as_list()
    count = part.shape[leading:].num_elements()
    flat = tf.reshape(part, [*kept, count])
    whole = 0 if count <= _SMALL or part.dtype == tf.float64 else count // _BLOCK * _BLOCK
    total = tf.reduce_sum(function(tf.cast(flat[..., whole:], tf.float64)), -1)
    if whole:
        blocks = tf.reshape(flat[..., :whole], [*kept, whole // _BLOCK, _BLOCK])
        sums = tf.reduce_sum(function(blocks), -1)
        total += tf.reduce_sum(tf.cast(sums, tf.float64), -1)
    return total


def _scaled(
    wide: Sequence[Any],
    norm: tf.Tensor,
    clip_norm: Any,
    grid: Grid,
    unit: Any = None,
    counted: Any = True,
) -> list[tf.Tensor]:
    clip_norm = as_float64(clip_norm)
    unit = clip_norm if unit is None else as_float64(unit)
    largest = clip_norm * (1 - MARGIN)
    scale = largest / tf.maximum(norm, largest) * (grid.steps / unit)
    scale = tf.where(tf.math.is_finite(norm) & counted, scale, tf.zeros_like(scale))
    leading = norm.shape.as_list()

    def steps(part: tf.Tensor) -> tf.Tensor:
        factor = tf.reshape(scale, [*leading, *(1 for _ in part.shape[len(leading) :])])
        # Also 0 for an element that is not finite, where a product would be NaN.
        return _truncated(tf.math.multiply_no_nan(part, tf.cast(factor, part.dtype)))

    return [steps(part) for part in wide]


def _truncated(part: tf.Tensor) -> tf.Tensor:
    """Returns whole numbers, int64, none larger than what it is made of: `tf.cast` goes toward zero."""
    return tf.cast(part, tf.int64)
