"""Clipped updates as whole numbers of grid steps, whose norm is bounded with certainty.

A clipped update is truncated to the grid, toward zero. Truncation makes no coordinate larger, so
that the norm of the whole numbers is at most the clip norm, with no allowance for rounding. The
effect of roundoff on the norm itself is subtracted beforehand: updates are clipped to (1 - 2^-15)
of the clip norm. A norm is summed in float32 over blocks of 16 terms, and in float64 over the
blocks, so that the relative error of the sum is only slightly above 15 * 2^-24, for every order of
summation, number of weights, compiler and device (Higham, "Accuracy and Stability of Numerical
Algorithms", 2002, section 4.2: n - 1 units of roundoff for n terms). With 2 more units for the
scale and the product, this is less than a twentieth of what is subtracted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tff_dp.noise.grid import Grid, as_float64

# Terms that are summed in float32, along a leading dimension: XLA squares and sums them in one pass
# over the update. A long dimension it would sum in windows, of squares that it writes into memory.
_BLOCK = 16
_SMALL = 4096  # a tensor of at most so many elements is summed in float64 directly
MARGIN = 2.0**-15
"""The share of the clip norm that is subtracted from it before updates are scaled to it."""


class Clipped(NamedTuple):
    """An update on the grid, or several updates.

    Attributes:
      parts: One tensor for each tensor of the update, int64, in grid steps.
      norm: The norm of the update before clipping, float64 []; of several updates, the norm of
        each, float64 [updates]. It is NaN or infinite if the update counts as zero.
    """

    parts: list[Any]
    norm: Any


def clip_l2(update: Sequence[Any], clip_norm: Any, grid: Grid, unit: Any = None) -> Clipped:
    """Clips an update to an L2 norm and truncates it to the grid.

    Formal guarantee: the L2 norm of the result, over all tensors, is at most C divided by the size
    of a grid step, for every input, including infinities and NaN.

    Args:
      update: Tensors of any floating-point types; types narrower than float32 are widened first.
      clip_norm: C > 0, a number or a tensor [].
      grid: The grid.
      unit: The clip norm that the grid divides into steps, if it is not C; a number or a tensor [].

    Returns:
      The update in grid steps; zeros if its norm is not finite.
    """
    wide = _widened(update)
    norm = _l2_norm(wide, 0)
    return Clipped(_scaled(wide, norm, clip_norm, grid, unit), norm)


def clip_l2_each(updates: Sequence[Any], clip_norm: Any, grid: Grid, counted: Any) -> Clipped:
    """Clips each of several updates to an L2 norm and truncates it to the grid.

    Formal guarantee: as `clip_l2`, for each update by itself.

    Args:
      updates: One tensor [updates, ...] for each tensor of an update, of any floating-point types
        and of known shapes.
      clip_norm: C > 0, a number or a tensor [].
      grid: The grid.
      counted: Which updates count, bool [updates]; the others become zeros.

    Returns:
      The updates in grid steps, [updates, ...]; an update whose norm is not finite becomes zeros.
    """
    wide = _widened(updates)
    norms = _l2_norm(wide, 1)
    return Clipped(_scaled(wide, norms, clip_norm, grid, counted=counted), norms)


def clip_l1(update: Sequence[Any], clip_norm: Any, grid: Grid) -> Clipped:
    """Clips an update to an L1 norm and truncates it to the grid.

    Formal guarantee: as `clip_l2`, for the L1 norm.

    Args:
      update: Tensors of any floating-point types; types narrower than float32 are widened first.
      clip_norm: C > 0, a number or a tensor [].
      grid: The grid.

    Returns:
      The update in grid steps, and its L1 norm; zeros if the norm is not finite.
    """
    wide = _widened(update)
    norm = tf.add_n([_sum(tf.abs, part, 0) for part in wide])
    return Clipped(_scaled(wide, norm, clip_norm, grid), norm)


def _widened(update: Sequence[Any]) -> list[Any]:
    return [part if part.dtype == tf.float64 else tf.cast(part, tf.float32) for part in update]


def _l2_norm(wide: Sequence[Any], leading: int) -> tf.Tensor:
    return tf.sqrt(tf.add_n([_sum(tf.square, part, leading) for part in wide]))


def _sum(function: Callable[[Any], Any], part: tf.Tensor, leading: int) -> tf.Tensor:
    """Returns the sum of a function of the elements over all but the leading dimensions, float64.

    The module's docstring bounds the error of the sum.
    """
    kept = part.shape[:leading].as_list()
    count = part.shape[leading:].num_elements()
    flat = tf.reshape(part, [*kept, count])
    whole = 0 if count <= _SMALL or part.dtype == tf.float64 else count // _BLOCK * _BLOCK
    total = tf.reduce_sum(function(tf.cast(flat[..., whole:], tf.float64)), -1)
    if whole:
        blocks = tf.reshape(flat[..., :whole], [*kept, _BLOCK, whole // _BLOCK])
        sums = tf.reduce_sum(function(blocks), -2)
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
        # Where the factor is 0, this gives 0 even for an element that is not finite; a product is
        # NaN.
        return _truncated(tf.math.multiply_no_nan(part, tf.cast(factor, part.dtype)))

    return [steps(part) for part in wide]


def _truncated(part: tf.Tensor) -> tf.Tensor:
    """Returns int64 numbers, none larger in magnitude than its input: `tf.cast` truncates."""
    return tf.cast(part, tf.int64)
