"""Gaussian noise in whole numbers.

A draw is made in two parts, so that double precision is enough for its probabilities, not only for its
size. The coarse part is a Gaussian by Box and Muller, cut to a whole number of blocks of G steps, where a
block is between 1/1024 and 1/512 of the standard deviation: the boundaries of such blocks are 2^40
roundoffs apart. The fine part, the sum of four uniform numbers below G, spreads a block evenly over the
steps. (Sums of uniform numbers are B-splines, and a Gaussian is hardly told from its cubic spline over
knots so dense.) One part alone would not do: on a grid of 2^-38 standard deviations, the roundoff of a
double is a few thousandths of a step, and so far would the probabilities of some steps be off.

What holds for the law p' of a draw beside the law p of the ideal floor or nearest integer of
N(0, stddev^2), over the whole range of standard deviations, where a size of radius r is computed to
2^-50 r + 2^-53 / r (tests/test_noise_gaussian.py has both, each way of compiling):

- the root mean square of log(p' / p) is at most 2^-37;
- |log(p' / p)| is at most 2^-29 but for an event of probability below 2^-100: the tail goes to 13.1
  standard deviations, where the 124 bits of a radius end.

`tff_dp.accounting.arithmetic` charges for the difference. Since the ideal law is the nearest integer, or
the floor, of a Gaussian, adding it to a whole number is post-processing of the Gaussian mechanism.

Source: Box and Muller, "A Note on the Generation of Random Normal Deviates" (1958); Micciancio and
Walter, "Gaussian Sampling over the Integers", CRYPTO 2017 (what counts is the relative error of
probabilities).
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
"""What the module's docstring says of log(p' / p)."""
LARGEST_STDDEV = 2.0**50
"""Of what `gaussian` draws: on the server, noise and a sum of updates stay within 64 bits."""


def block_log(stddev: float) -> int:
    """Returns the logarithm to base 2 of the steps in a block; 0 where the coarse part is all."""
    return max(0, math.floor(math.log2(stddev)) - _BLOCKS_LOG) if stddev > 0 else 0


def coarse_stddev(stddev: float) -> float:
    """Returns the standard deviation of the coarse part, in blocks.

    Cutting to blocks adds the variance of a uniform number below 1 to it, as the ideal nearest integer
    does to its own, and the fine part adds (G^2 - 1) / 3.
    """
    log = block_log(stddev)
    if log == 0:
        return stddev
    steps = 2.0**log
    return math.sqrt(((stddev / steps) ** 2 + (1 / 12 + 1 / 3) / steps**2) - 1 / 3 - 1 / 12)


class Scale(NamedTuple):
    """A standard deviation as the draw takes it: numbers, or tensors that a graph is given.

    Attributes:
      coarse_stddev: Of the coarse part, in blocks; float64 [].
      block_log: The logarithm to base 2 of the steps in a block; int64 [], >= 1 as a tensor.
    """

    coarse_stddev: Any
    block_log: Any

    @classmethod
    def of(cls, stddev: float) -> Scale:
        """Returns the scale for a standard deviation in steps, in (0, 2^50]."""
        return cls(coarse_stddev(stddev), block_log(stddev))


def uniforms_in_word(stddev: float) -> int:
    """Returns how many uniform numbers of the fine part a word holds; 0 where there is no fine part.

    A graph whose scale is a tensor can be given any scale of which this is the same.
    """
    log = block_log(stddev)
    return (MAGNITUDE + 1) // log if log else 0


def gaussian(shape: Sequence[int], stddev: float) -> tf.Tensor:
    """Returns independent draws of Gaussian noise in whole numbers.

    Args:
      shape: Of the result.
      stddev: The standard deviation, in steps of the grid; in [0, 2^50].

    Returns:
      int64, of the shape that was asked for. The law is symmetric: about 0 where a block has more than
      one step, and otherwise (below 2^10) about -1/2, as that of a floor.

    Raises:
      ValueError: The standard deviation is outside its bound.
    """
    if stddev == 0:
        return tf.zeros(shape, tf.int64)
    if not 0 < stddev <= LARGEST_STDDEV:
        raise ValueError(f"stddev={stddev!r} is outside its bound: expected a number in [0, 2^50].")
    return scaled_gaussian(shape, Scale.of(stddev), uniforms_in_word(stddev))


def scaled_gaussian(shape: Sequence[int], scale: Scale, in_word: int) -> tf.Tensor:
    """Returns draws as `gaussian` does, whose scale may be tensors.

    Args:
      shape: Of the result.
      scale: The scale.
      in_word: `uniforms_in_word` of the standard deviation.
    """
    count = math.prod(shape)
    with tf.name_scope(SCOPE):
        coarse = _coarse(words([3, (count + 1) // 2]), scale.coarse_stddev)[:count]
        if in_word:
            log = scale.block_log
            # The middle of the sum of uniforms, and of the coarse part's own -1/2, goes to 0.
            middle = 2 - 3 * power(log - 1)
            fine = _fine(words([_words_of_fine(in_word), count]), log, in_word)
            coarse = coarse * power(log) + (fine + middle)
        return tf.reshape(coarse, shape)


def _coarse(bits: tf.Tensor, stddev: float | tf.Tensor) -> tf.Tensor:
    """Returns floors of Gaussian draws, two from each column of words.

    Args:
      bits: int64 [3, n]: for each pair of draws, two words of its radius and one of its angle and signs.
      stddev: In whole numbers of the result.

    Returns:
      int64 [2 n].
    """
    sizes = _sizes(bits) * tf.convert_to_tensor(stddev, tf.float64)
    floors = tf.cast(sizes, tf.int64)  # sizes are not negative
    # Two bits of the third word are the signs: its own, and the highest of its magnitude. ~x = -1 - x is
    # the floor of -y where y has the floor x.
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
    """Returns the numbers in (0, 1] that the magnitudes of two words give, float64; the least is 2^-125.

    The low word has its part only where the high one is small: elsewhere it is below the roundoff.
    """
    top = tf.cast(low_bits(high, MAGNITUDE), tf.float64) * tf.constant(2.0**-MAGNITUDE, tf.float64)
    rest = tf.cast(low_bits(low, MAGNITUDE), tf.float64) + tf.constant(0.5, tf.float64)
    return top + rest * tf.constant(4.0**-MAGNITUDE, tf.float64)


def _words_of_fine(in_word: int) -> int:
    """Returns how many words hold the fine part's uniform numbers, so many in each."""
    return math.ceil(_UNIFORMS / in_word)


def _fine(bits: tf.Tensor, log: int | tf.Tensor, in_word: int) -> tf.Tensor:
    """Returns sums of four uniform numbers of `log` bits.

    Args:
      bits: int64 [words, n].
      log: In [1, 63].
      in_word: Uniform numbers that a word holds.

    Returns:
      int64 [n], in [0, 4 (2^log - 1)].
    """
    uniforms = [
        low_bits(shifted(bits[number // in_word], number % in_word * log), log)
        for number in range(_UNIFORMS)
    ]
    return tf.add_n(uniforms)
