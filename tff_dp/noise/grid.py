"""The grid on which updates, sums and noise are whole numbers."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import tensorflow as tf

# 2^-38 of the clip norm: fine enough for a clip norm that is thousands of times too large, and
# coarse enough that 2^24 clients with the whole clip norm in one coordinate do not overflow 64
# bits.
_FINEST = 38
# The logarithm of the largest standard deviation in steps: noise stays within 2^54.
_LARGEST_NOISE_LOG = 50


@dataclasses.dataclass(frozen=True)
class Grid:
    """A public grid; its step is the clip norm divided by a power of two.

    Args:
      log_steps: The logarithm to base 2 of the number of steps in a clip norm.
    """

    log_steps: int

    @classmethod
    def of(cls, noise_multiplier: float, finest: int = _FINEST) -> Grid:
        """Returns the grid for a noise multiplier.

        A step is 2^-`finest` of the clip norm, or coarser for so large a noise multiplier that the
        standard deviation of the noise would exceed 2^50 steps.

        Args:
          noise_multiplier: z, the standard deviation of the noise over the clip norm; >= 0.
          finest: The largest `log_steps`.

        Returns:
          The grid.
        """
        # The exact logarithm, rounded up. math.log2 gives too small a value just above a power of
        # two.
        share, above = math.frexp(noise_multiplier)
        above -= share == 0.5
        return cls(min(finest, _LARGEST_NOISE_LOG - above))

    @property
    def steps(self) -> float:
        """The number of steps in a clip norm."""
        return 2.0**self.log_steps

    def restored(
        self, total: tf.Tensor, clip_norm: Any, denominator: float, dtype: Any
    ) -> tf.Tensor:
        """Converts a noised sum from grid steps to the unit of the clip norm, and divides it.

        The result is a function of the released whole number only: its rounding is post-processing.

        Args:
          total: The noised sum, int64 of any shape, in steps.
          clip_norm: C, a number or a tensor [].
          denominator: The number by which the sum is divided; > 0.
          dtype: The type of the result.

        Returns:
          A tensor of the shape of `total` and of type `dtype`.
        """
        step = as_float64(clip_norm) / (self.steps * denominator)
        return tf.cast(tf.cast(total, tf.float64) * step, dtype)


def as_float64(value: Any) -> tf.Tensor:
    """Converts a number or a tensor to float64.

    `tf.cast` alone would round a Python number to float32 first.

    Args:
      value: A number, or a tensor of any shape.

    Returns:
      A float64 tensor of the same shape.
    """
    if isinstance(value, tf.Tensor):
        return tf.cast(value, tf.float64)
    return tf.constant(value, tf.float64)
