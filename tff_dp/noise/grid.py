"""The grid on which updates, sums and noise are whole numbers."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import tensorflow as tf

# 2^-38 of the clip norm: fine enough for clip norms that are thousands of times too large, and so
# coarse that 2^24 clients at the clip norm in one coordinate do not overflow 64 bits.
_FINEST = 38
_LARGEST_NOISE_LOG = 50  # of a standard deviation in steps: noise stays within 2^54


@dataclasses.dataclass(frozen=True)
class Grid:
    """A public grid of a power of two of the clip norm.

    Args:
      log_steps: The logarithm to base 2 of the steps in a clip norm.
    """

    log_steps: int

    @classmethod
    def of(cls, noise_multiplier: float, finest: int = _FINEST) -> Grid:
        """Returns the grid for a noise multiplier: 2^-38 of the clip norm, coarser for much noise.

        Args:
          noise_multiplier: z; the noise's standard deviation is at most 2^50 steps.
          finest: The largest `log_steps`.
        """
        # Exactly the logarithm, rounded up: that of math.log2 is too small just above a power of two.
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
        """Returns a number of steps in the units of the clip norm, over a denominator.

        A function of the released whole number alone: its rounding is post-processing.

        Args:
          total: int64.
          clip_norm: A number, or a tensor [].
          denominator: By which the sum is divided.
          dtype: Of the result.
        """
        step = as_float64(clip_norm) / (self.steps * denominator)
        return tf.cast(tf.cast(total, tf.float64) * step, dtype)


def as_float64(value: Any) -> tf.Tensor:
    """Returns a number or a tensor as float64. `tf.cast` would take a number for a float32 first."""
    if isinstance(value, tf.Tensor):
        return tf.cast(value, tf.float64)
    return tf.constant(value, tf.float64)
