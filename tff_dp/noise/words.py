"""The random bits from which noise is made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

SCOPE = "tff_dp_noise"
"""A name scope of every operation that draws bits for noise; execution contexts find them by it."""

MAGNITUDE = 62
"""The random bits of a word in addition to its sign."""
LEAST, BEYOND = -(2**MAGNITUDE), 2**MAGNITUDE
"""The range of words is [LEAST, BEYOND); its length divides 2^64."""


def words(shape: Sequence[Any] | tf.Tensor) -> tf.Tensor:
    """Returns random words of 63 bits.

    TensorFlow draws an integer as the remainder of 64 random bits. The range of 2^63 divides 2^64,
    so that all words are equally likely. With a range that is not a power of two, some words would
    be up to twice as likely as others, and the probabilities of rare noise would be wrong by that
    factor.

    The operation has no seed, and TensorFlow's global seed does not reach it. Contexts of
    `tff_dp.execution.fast` replace it by bits whose key comes from the operating system's entropy.

    Args:
      shape: The shape of the result.

    Returns:
      int64 of the given shape, in [-2^62, 2^62).
    """
    with tf.name_scope(SCOPE):
        return tf.raw_ops.RandomUniformInt(
            shape=tf.convert_to_tensor(shape, tf.int32),
            minval=tf.constant(LEAST, tf.int64),
            maxval=tf.constant(BEYOND, tf.int64),
        )


def low_bits(word: tf.Tensor, count: int | tf.Tensor) -> tf.Tensor:
    """Returns the lowest bits of words.

    Args:
      word: int64 of any shape.
      count: The number of bits, in [0, 63]; a tensor is an int64 that broadcasts to `word`, at most
        62.

    Returns:
      Whole numbers in [0, 2^count), int64 of the shape of `word`.
    """
    return tf.bitwise.bitwise_and(word, power(count) - 1)


def shifted(word: tf.Tensor, count: int | tf.Tensor) -> tf.Tensor:
    """Shifts words to the right; copies of the sign bit fill the other end.

    Args:
      word: int64 of any shape.
      count: The number of bits, in [0, 63]; a tensor is an int64 that broadcasts to `word`.

    Returns:
      int64 of the shape of `word`.
    """
    if isinstance(count, int) and count == 0:
        return word
    return tf.bitwise.right_shift(word, tf.convert_to_tensor(count, tf.int64))


def power(log: int | tf.Tensor) -> int | tf.Tensor:
    """Returns a power of two.

    Args:
      log: The exponent, >= 0; a tensor is an int64 of at most 62.

    Returns:
      2^log: a Python integer for an integer, and an int64 tensor for a tensor.
    """
    return 2**log if isinstance(log, int) else tf.bitwise.left_shift(tf.ones_like(log), log)


def sign_of(word: tf.Tensor) -> tf.Tensor:
    """Returns the sign bits of words, as masks.

    Args:
      word: int64 of any shape.

    Returns:
      int64 of the same shape: -1 (all bits set) where the word is negative, and 0 elsewhere.
    """
    return shifted(word, 63)
