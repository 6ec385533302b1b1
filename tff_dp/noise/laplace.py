"""Laplace noise in whole numbers, drawn digit by digit.

The floor of an exponential variable is geometric, and the binary digits of a geometric variable are
independent: digit i is 1 with probability 1 / (1 + exp(2^i / scale)). Each digit is one comparison of
random bits with a threshold that is computed here in high precision, so that no floating-point number is
involved when noise is drawn. With a random sign, where ~x = -1 - x takes the place of -x, the
result is the floor of a Laplace variable, and adding it to a whole number is post-processing of the
Laplace mechanism.

A threshold has 62 bits; it has 124 bits if the digit's probability is below 1/8, and 186 bits if it
is below 2^-60. Digits whose probability is below 2^-124 are left out. Between the law p' of a draw
and the ideal law p, |log(p' / p)| is below 2^-54 except on an event of probability 2^-120.

Source: Devroye, "Non-Uniform Random Variate Generation" (1986), section X.2 (geometric variables); the
independence of the digits follows from exp(-(a + b)) = exp(-a) exp(-b).
"""

from __future__ import annotations

import decimal
import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tff_dp.noise.words import MAGNITUDE, SCOPE, low_bits, sign_of, words

_PRECISION = 80  # decimal digits
_SMALLEST = 2 * MAGNITUDE  # digits of a probability below 2^-_SMALLEST are left out
_DIGITS = 63  # binary digits of the magnitude of an int64
LARGEST_SCALE = 2.0**50
"""The largest scale, in steps; the highest digit then stays within 64 bits."""


class Threshold(NamedTuple):
    """The probability that a digit is 1, in units of 2^-186, as three numbers of 62 bits.

    Attributes:
      parts: The three numbers, the most significant first.
      compared: How many of them are compared with random bits; 1, 2 or 3.
    """

    parts: tuple[int, int, int]
    compared: int


@functools.lru_cache(maxsize=64)
def thresholds(scale: float) -> tuple[Threshold, ...]:
    """Returns the thresholds of the digits.

    Args:
      scale: The scale of the Laplace variable, in steps; > 0.

    Returns:
      One threshold for each digit, the least significant digit first; its probability is the
      largest.
    """
    found = []
    with decimal.localcontext(prec=_PRECISION, Emax=decimal.MAX_EMAX):
        exact = decimal.Decimal(scale)
        for digit in range(_DIGITS):
            ratio = decimal.Decimal(2) ** digit / exact
            if ratio > _SMALLEST:  # exp(-ratio) is far below 2^-124
                break
            units = int(decimal.Decimal(2) ** (3 * MAGNITUDE) / (1 + ratio.exp()))
            if units < 2**MAGNITUDE:
                break
            high, rest = divmod(units, 2 ** (2 * MAGNITUDE))
            count = 1 + (units < 2 ** (3 * MAGNITUDE - 3)) + (units < 2 ** (3 * MAGNITUDE - 60))
            found.append(Threshold((high, *divmod(rest, 2**MAGNITUDE)), count))
    return tuple(found)


def laplace(shape: Sequence[int], scale: float) -> tf.Tensor:
    """Returns independent draws of Laplace noise in whole numbers.

    Args:
      shape: The shape of the result.
      scale: The scale of the density exp(-|x| / scale) / (2 scale), in steps of the grid; in [0,
        2^50].

    Returns:
      int64 of the given shape, in steps: floors of Laplace variables.

    Raises:
      ValueError: The scale is outside its bound.
    """
    if scale == 0:
        return tf.zeros(shape, tf.int64)
    if not 0 < scale <= LARGEST_SCALE:
        raise ValueError(f"scale={scale!r} is outside its bound: expected a number in [0, 2^50].")
    count = math.prod(shape)
    with tf.name_scope(SCOPE):
        return tf.reshape(_floors(words([words_of(scale), count]), scale), shape)


def words_of(scale: float) -> int:
    """Returns how many random words one draw takes.

    Args:
      scale: The scale of the Laplace variable, in steps; > 0.

    Returns:
      The number of words: those of the digits, and one for the sign.
    """
    return sum(threshold.compared for threshold in thresholds(scale)) + 1


def _floors(bits: tf.Tensor, scale: float) -> tf.Tensor:
    """Returns floors of Laplace draws.

    Args:
      bits: int64 [`words_of(scale)`, n]: the first words of all digits; then the second words of
        the digits that have one, which are the last digits; then the third words; then one word for
        the sign.
      scale: The scale, in steps.

    Returns:
      int64 [n], in steps.
    """
    table = thresholds(scale)
    below: tf.Tensor = tf.zeros([0, *bits.shape[1:]], tf.bool)
    end = bits.shape[0] - 1
    # Multi-word comparison from the least significant words, which only the last digits have:
    # `below` is the result of the words so far, and decides where the next more significant words
    # are equal.
    for part in reversed(range(3)):
        some = [threshold.parts[part] for threshold in table if threshold.compared > part]
        drawn = low_bits(bits[end - len(some) : end], MAGNITUDE)
        limits = tf.constant(np.array(some, np.int64)[:, None])
        fewer = drawn < limits
        settled = len(some) - below.shape[0]
        tied = tf.equal(drawn[settled:], limits[settled:]) & below
        below = tf.concat([fewer[:settled], fewer[settled:] | tied], 0)
        end -= len(some)
    values = tf.constant(2 ** np.arange(len(table), dtype=np.int64)[:, None])
    geometric = tf.reduce_sum(tf.where(below, values, tf.zeros_like(values)), 0)
    return tf.bitwise.bitwise_xor(geometric, sign_of(bits[-1]))
