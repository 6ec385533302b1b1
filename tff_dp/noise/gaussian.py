"""Gaussian noise in whole numbers.

Each draw is the sum of two parts, so that double precision is enough not only for the size of a
draw but also for its probabilities. The coarse part is a Gaussian by the method of Box and Muller,
rounded down to a whole number of blocks of G steps. A block is between 1/1024 and 1/512 of the
standard deviation, so that the boundaries of blocks are 2^40 units of roundoff apart. The fine
part, the sum of four uniform numbers below G, spreads each block over its steps. (The density of
such a sum is a cubic B-spline, and a Gaussian is nearly equal to its cubic spline over knots that
are so dense.) One part alone is not enough: on a grid of 2^-38 standard deviations, the roundoff of
a double is a few thousandths of a step, and the probabilities of some steps would be wrong by as
much.

Let p' be the law of a draw and p the ideal law, that of the floor or the nearest integer of N(0,
stddev^2). The following holds over the whole range of standard deviations, if a draw of radius r is
computed with an error of at most 2^-50 r + 2^-53 / r (tests/noise/test_gaussian.py checks both, for
each way of compiling):

- The root mean square of log(p' / p) is at most 2^-37.
- |log(p' / p)| is at most 2^-29 except on an event of probability below 2^-100. The tail reaches to
  13.1 standard deviations, where the 124 bits of a radius end.

`tff_dp.accounting.arithmetic` charges for the difference. Since the ideal law is the nearest integer, or
the floor, of a Gaussian, adding it to a whole number is post-processing of the Gaussian mechanism.

Source: Box and Muller, "A Note on the Generation of Random Normal Deviates" (1958); Micciancio and
Walter, "Gaussian Sampling over the Integers", CRYPTO 2017 (the relative error of probabilities is
what matters).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tff_dp.noise.words import MAGNITUDE, SCOPE, low_bits, power, shifted, sign_of, words

_BLOCKS_LOG = 9  # a standard deviation is at least 2^9 blocks, and less than 2^10
_UNIFORMS = 4
MEAN_ERROR, LARGEST_ERROR = 2.0**-37, 2.0**-29
"""The bounds on log(p' / p) of the module's docstring: its root mean square, and its largest value."""
LARGEST_STDDEV = 2.0**50
"""The largest standard deviation, in steps; noise plus a sum of updates then stays within 64 bits."""


def block_log(stddev: float) -> int:
    """Returns the size of a block.

    Args:
      stddev: The standard deviation, in steps; >= 0.

    Returns:
      The logarithm to base 2 of the number of steps in a block; 0 if there is no fine part.
    """
    return max(0, math.floor(math.log2(stddev)) - _BLOCKS_LOG) if stddev > 0 else 0


def coarse_stddev(stddev: float) -> float:
    """Returns the standard deviation of the coarse part, so that both parts have the wanted variance.

    Rounding to blocks adds the variance of a uniform number below 1, as the ideal rounding to the
    nearest integer does on its own scale, and the fine part adds (G^2 - 1) / 3.

    Args:
      stddev: The standard deviation of both parts together, in steps; > 0.

    Returns:
      The standard deviation of the coarse part before it is rounded, in blocks.
    """
    log = block_log(stddev)
    if log == 0:
        return stddev
    steps = 2.0**log
    return math.sqrt(((stddev / steps) ** 2 + (1 / 12 + 1 / 3) / steps**2) - 1 / 3 - 1 / 12)


class Scale(NamedTuple):
    """A standard deviation in the form that a draw needs: numbers, or tensors of a graph.

    Attributes:
      coarse_stddev: The standard deviation of the coarse part, in blocks; float64 [].
      block_log: The logarithm to base 2 of the number of steps in a block; int64 []. A tensor must
        be at least 1.
    """

    coarse_stddev: Any
    block_log: Any

    @classmethod
    def of(cls, stddev: float) -> Scale:
        """Makes the scale for a standard deviation.

        Args:
          stddev: The standard deviation, in steps; in (0, 2^50].

        Returns:
          The scale, as numbers.
        """
        return cls(coarse_stddev(stddev), block_log(stddev))


def uniforms_in_word(stddev: float) -> int:
    """Returns how many uniform numbers of the fine part fit into one random word.

    The number is part of the graph's structure. A graph whose scale is a tensor serves all scales
    for which this number is the same.

    Args:
      stddev: The standard deviation, in steps; >= 0.

    Returns:
      The number; 0 if there is no fine part.
    """
    log = block_log(stddev)
    return (MAGNITUDE + 1) // log if log else 0


def gaussian(shape: Sequence[int], stddev: float) -> tf.Tensor:
    """Returns independent draws of Gaussian noise in whole numbers.

    Args:
      shape: The shape of the result.
      stddev: The standard deviation, in steps of the grid; in [0, 2^50].

    Returns:
      int64 of the given shape, in steps. The law is symmetric: about 0 if a block has more than one
      step, and otherwise (for a standard deviation below 2^10) about -1/2, like the floor of a
      Gaussian.

    Raises:
      ValueError: The standard deviation is outside its bound.
    """
    if stddev == 0:
        return tf.zeros(shape, tf.int64)
    if not 0 < stddev <= LARGEST_STDDEV:
        raise ValueError(f"stddev={stddev!r} is outside its bound: expected a number in [0, 2^50].")
    return scaled_gaussian(shape, Scale.of(stddev), uniforms_in_word(stddev))


def scaled_gaussian(shape: Sequence[int], scale: Scale, in_word: int) -> tf.Tensor:
    """Returns independent draws of Gaussian noise, as `gaussian`, from a scale that may be tensors.

    Args:
      shape: The shape of the result.
      scale: The scale, from `Scale.of`, as numbers or tensors.
      in_word: `uniforms_in_word` of the standard deviation.

    Returns:
      int64 of the given shape, in steps.
    """
    count = math.prod(shape)
    with tf.name_scope(SCOPE):
        coarse = _coarse(words([3, (count + 1) // 2]), scale.coarse_stddev)[:count]
        if in_word:
            log = scale.block_log
            # The mean of the fine part, and the -1/2 of the coarse part's floor, are taken out
            # here.
            middle = 2 - 3 * power(log - 1)
            fine = _fine(words([_words_of_fine(in_word), count]), log, in_word)
            coarse = coarse * power(log) + (fine + middle)
        return tf.reshape(coarse, shape)


def _coarse(bits: tf.Tensor, stddev: float | tf.Tensor) -> tf.Tensor:
    """Returns floors of Gaussian draws, two from each column of words.

    Args:
      bits: int64 [3, n]: for each pair of draws, two words for the radius and one for angle and
        signs.
      stddev: The standard deviation, in the unit of the result (blocks).

    Returns:
      int64 [2 n], in blocks.
    """
    sizes = _sizes(bits) * tf.convert_to_tensor(stddev, tf.float64)
    floors = tf.cast(sizes, tf.int64)  # sizes are not negative
    # Two bits of the third word are the signs: its sign bit, and the highest bit of its magnitude.
    # If x is the floor of y, then ~x = -1 - x is the floor of -y, since y is an integer with
    # probability 0.
    signs = tf.stack([sign_of(bits[2]), sign_of(bits[2] * 4)])
    return tf.reshape(tf.bitwise.bitwise_xor(floors, signs), [-1])


def _sizes(bits: tf.Tensor) -> tf.Tensor:
    """Returns the absolute values of pairs of N(0, 1) draws, float64 [2, n]; see `_coarse`."""
    radii = tf.sqrt(-2 * tf.math.log(_unit(bits[0], bits[1])))
    angles = tf.cast(low_bits(bits[2], MAGNITUDE - 1), tf.float64) * tf.constant(
        math.pi / 2 * 2.0 ** -(MAGNITUDE - 1), tf.float64
    )
    return radii * tf.stack([tf.cos(angles), tf.sin(angles)])


def _unit(high: tf.Tensor, low: tf.Tensor) -> tf.Tensor:
    """Returns numbers in (0, 1] made of the magnitudes of two words, float64; the least is 2^-125.

    The low word matters only if the high word is small; otherwise it is below the roundoff.
    """
    top = tf.cast(low_bits(high, MAGNITUDE), tf.float64) * tf.constant(2.0**-MAGNITUDE, tf.float64)
    rest = tf.cast(low_bits(low, MAGNITUDE), tf.float64) + tf.constant(0.5, tf.float64)
    return top + rest * tf.constant(4.0**-MAGNITUDE, tf.float64)


def _words_of_fine(in_word: int) -> int:
    """Returns how many words hold the uniform numbers of the fine part, `in_word` of them in each."""
    return math.ceil(_UNIFORMS / in_word)


def _fine(bits: tf.Tensor, log: int | tf.Tensor, in_word: int) -> tf.Tensor:
    """Returns sums of four uniform numbers of `log` bits.

    Args:
      bits: int64 [words, n].
      log: Bits of each uniform number, in [1, 63].
      in_word: Uniform numbers in one word.

    Returns:
      int64 [n], in [0, 4 (2^log - 1)].
    """
    uniforms = [
        low_bits(shifted(bits[number // in_word], number % in_word * log), log)
        for number in range(_UNIFORMS)
    ]
    return tf.add_n(uniforms)
