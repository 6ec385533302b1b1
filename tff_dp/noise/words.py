"""The random bits that noise is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

SCOPE = "tff_dp_noise"
"""In the name of each operation that draws bits for noise: execution contexts recognize them by it."""

MAGNITUDE = 62
"""Random bits of a word beside its sign."""
LEAST, BEYOND = -(2**MAGNITUDE), 2**MAGNITUDE
"""Of words: their range divides 2^64."""


def words(shape: Sequence[Any] | tf.Tensor) -> tf.Tensor:
    """Returns random words of 63 bits.

    TensorFlow draws a word as a remainder of 64 random bits. The range of 2^63 divides 2^64, so that all
    words are equally likely; with any other range, some would have up to twice the probability of others,
    and where noise is rare, that would be its probability.

    The operation has no seed, and TensorFlow's global seed does not reach it. Contexts of
    `tff_dp.execution.fast` replace it by bits that are keyed from the operating system's entropy.

    Args:
      shape: Of the result.

    Returns:
      int64, of the shape that was asked for, in [-2^62, 2^62).
    """
    with tf.name_scope(SCOPE):
        return tf.raw_ops.RandomUniformInt(
            shape=tf.convert_to_tensor(shape, tf.int32),
            minval=tf.constant(LEAST, tf.int64),
            maxval=tf.constant(BEYOND, tf.int64),
        )


def low_bits(word: tf.Tensor, count: int | tf.Tensor) -> tf.Tensor:
    """Returns the lowest bits of words, as whole numbers in [0, 2^count); count is at most 63."""
    return tf.bitwise.bitwise_and(word, power(count) - 1)


def shifted(word: tf.Tensor, count: int | tf.Tensor) -> tf.Tensor:
    """Returns words without their lowest bits; the sign bit is copied in at the other end."""
    if isinstance(count, int) and count == 0:
        return word
    return tf.bitwise.right_shift(word, tf.convert_to_tensor(count, tf.int64))


def power(log: int | tf.Tensor) -> int | tf.Tensor:
    """Returns 2^log: a number of a number, and int64 of a tensor, which is at most 62."""
    return 2**log if isinstance(log, int) else tf.bitwise.left_shift(tf.ones_like(log), log)


def sign_of(word: tf.Tensor) -> tf.Tensor:
    """Returns -1 where a number is negative, and 0 elsewhere; int64."""
    return shifted(word, 63)
