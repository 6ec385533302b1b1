"""Laplace noise in whole numbers, bit by bit.

The floor of an exponential variable is geometric, and the binary digits of a geometric variable are
independent: digit i is 1 with probability 1 / (1 + exp(2^i / scale)). Each digit is one comparison of
random bits with a threshold that is computed here in high precision, so that no floating-point number is
involved when noise is drawn. With a random sign, ~x = -1 - x in place of -x, the result is the floor of a
Laplace variable, and adding it to a whole number is post-processing of the Laplace mechanism.

A threshold has 63 bits, and 126 where a digit's probability is below 1/8. The law p' of a draw beside the
ideal law p has |log(p' / p)| below 2^-55 but for an event of probability 2^-100.

Source: Devroye, "Non-Uniform Random Variate Generation" (1986), section X.2 (geometric variables); the
independence of the digits follows from exp(-(a + b)) = exp(-a) exp(-b).
"""

from __future__ import annotations

import decimal
import functools
import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tff_dp.noise.words import BITS, SCOPE, low_bits, sign_of, words

_HALF = BITS - 1  # bits of a word below its sign
_PRECISION = 60  # decimal digits
LARGEST_SCALE = 2.0**50
"""Of what `laplace` draws: the largest digit stays within 64 bits."""


@functools.lru_cache(maxsize=64)
def thresholds(scale: float) -> tuple[tuple[int, int], ...]:
    """Returns each digit's probability of being 1, in units of 2^-126, as its high and low 63 bits.

    Digits from the one on whose probability is below 2^-126 are left out.

    Args:
      scale: Of the Laplace variable, in steps; > 0.
    """
    found = []
    with decimal.localcontext(prec=_PRECISION):
        exact = decimal.Decimal(scale)
        for digit in range(BITS):
            ratio = (decimal.Decimal(2) ** digit / exact).exp()
            units = int(decimal.Decimal(2) ** (2 * _HALF) / (1 + ratio))
            if not units:
                break
            found.append(divmod(units, 2**_HALF))
    return tuple(found)


def laplace(shape: Sequence[int], scale: float) -> tf.Tensor:
    """Returns independent draws of Laplace noise in whole numbers.

    Args:
      shape: Of the result.
      scale: Of the density exp(-|x| / scale) / (2 scale), in steps of the grid; in [0, 2^50].

    Returns:
      int64, of the shape that was asked for: floors of Laplace variables.

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
    """Returns the number of words of a draw."""
    table = thresholds(scale)
    return len(table) + sum(_is_rare(high) for high, _ in table) + 1


def _is_rare(high: int) -> bool:
    return bool(high < 2 ** (_HALF - 3))


def _floors(bits: tf.Tensor, scale: float) -> tf.Tensor:
    """Returns floors of Laplace draws.

    Args:
      bits: int64 [`words_of(scale)`, n]: of each digit the high word, of the last ones the low words, and
        a word whose highest bit is the sign.
      scale: In steps.

    Returns:
      int64 [n].
    """
    table = np.array(thresholds(scale), np.int64)
    digits = len(table)
    common = sum(not _is_rare(high) for high in table[:, 0])  # they come first
    first, second = (tf.constant(table[:, part, None]) for part in range(2))
    high, low = low_bits(bits[:digits], _HALF), low_bits(bits[digits:-1], _HALF)
    tied = tf.equal(high[common:], first[common:]) & (low < second[common:])
    ones = high < first
    ones = tf.concat([ones[:common], ones[common:] | tied], 0)
    values = tf.constant(2 ** np.arange(digits, dtype=np.int64)[:, None])
    geometric = tf.reduce_sum(tf.where(ones, values, tf.zeros_like(values)), 0)
    return tf.bitwise.bitwise_xor(geometric, sign_of(bits[-1]))
