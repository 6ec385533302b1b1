"""Random numbers of computations that run in this process, with 128 bits of entropy for every call.

TensorFlow seeds an operation without a seed from a generator with 32 bits of entropy, and compilers
may merge random operations or fold them into constants. Here each random operation becomes a
function of a key. The key is derived from the root key of the call by folding in the part of the
round, the client, the place of the operation in the graph, and the iterations of the enclosing
loops. The same root key therefore gives the same draws in every strategy of execution, and
operations in different places draw under different keys.

Source: the generator is Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2,
3", SC 2011). It is not a cryptographic generator.
"""

from __future__ import annotations

import hashlib
import os
from typing import Any

import numpy as np
import tensorflow as tf

PHILOX = 1
_STATELESS = {
    "RandomStandardNormal": "StatelessRandomNormalV2",
    "RandomUniform": "StatelessRandomUniformV2",
    "TruncatedNormal": "StatelessTruncatedNormalV2",
    "RandomUniformInt": "StatelessRandomUniformIntV2",
}
OPERATIONS = frozenset({*_STATELESS, "RngReadAndSkip", "RandomShuffle", "Multinomial"})


def root(seed: int | None, call: int) -> np.ndarray:
    """Returns the root key of one call of a computation.

    Args:
      seed: None for entropy from the operating system; an integer for reproducible draws, which are
        not private.
      call: The number of the call in its context; only used with a seed.

    Returns:
      The key, uint64 [2].
    """
    if seed is None:
        return np.frombuffer(os.urandom(16), np.uint64)
    digest = hashlib.sha256(f"tff_dp/{seed}/{call}".encode()).digest()
    return np.frombuffer(digest[:16], np.uint64)


def fold(key: Any, word: Any) -> tf.Tensor:
    """Derives a key from a key and a word.

    Args:
      key: The key, uint64 [2].
      word: An integer in [0, 2^64), or an integer tensor [].

    Returns:
      Another key, uint64 [2]: a block of Philox. For one key, different words give unrelated keys.
    """
    word = tf.constant(word, tf.uint64) if isinstance(word, int) else tf.cast(word, tf.uint64)
    return tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=[2], key=key[:1], counter=tf.stack([word, key[1]]), alg=PHILOX, dtype=tf.uint64
    )


def place(path: tuple[str, ...]) -> int:
    """Returns the word that stands for the place of an operation in a program.

    Args:
      path: The names of the nodes that lead to the operation, its own name last.

    Returns:
      64 bits of the SHA-256 hash of the names, as an integer in [0, 2^64).
    """
    digest = hashlib.sha256("\0".join(path).encode()).digest()
    return int.from_bytes(digest[:8], "big")


def draw(node: Any, inputs: list[Any], key: Any) -> list[tf.Tensor]:
    """Writes a random operation as a function of a key.

    Args:
      node: The `NodeDef`; its operation is one of `OPERATIONS`.
      inputs: The values of its inputs.
      key: A key that only this operation uses, uint64 [2].

    Returns:
      The values of its outputs, of the shapes and data types that the operation itself would give.
    """
    counter = tf.stack([tf.constant(0, tf.uint64), key[1]])
    keyed = {"key": key[:1], "counter": counter, "alg": PHILOX}
    if node.op == "RandomShuffle":
        size = tf.shape(inputs[0], tf.int64)[0]
        sorted_by = tf.raw_ops.StatelessRandomUniformFullIntV2(
            shape=size[None], dtype=tf.int64, **keyed
        )
        return [tf.gather(inputs[0], tf.argsort(sorted_by))]
    if node.op == "Multinomial":
        seed = tf.bitcast(key, tf.int64)
        drawn = tf.random.stateless_categorical(
            inputs[0], inputs[1], seed, tf.as_dtype(node.attr["output_dtype"].type)
        )
        return [drawn]
    if node.op == "RngReadAndSkip":
        # The state of a `tf.random.Generator`. Its seed is a constant of the graph, so that every
        # client would start from the same state.
        return [tf.bitcast(tf.concat([counter, key[:1]], 0), tf.int64)]
    operation = getattr(tf.raw_ops, _STATELESS[node.op])
    if node.op == "RandomUniformInt":
        return [operation(shape=inputs[0], minval=inputs[1], maxval=inputs[2], **keyed)]
    return [operation(shape=inputs[0], dtype=tf.as_dtype(node.attr["dtype"].type), **keyed)]


def integers(like: tf.Tensor, key: Any) -> tf.Tensor:
    """Draws uniform non-negative integers.

    Args:
      like: An integer tensor, whose shape and data type the result has.
      key: A key that only this draw uses, uint64 [2].

    Returns:
      Integers, uniform in [0, the largest value of the data type).
    """
    return tf.random.stateless_uniform(
        tf.shape(like), tf.bitcast(key, tf.int64), 0, like.dtype.max, like.dtype
    )
