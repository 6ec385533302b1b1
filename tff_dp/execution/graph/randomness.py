"""Random numbers of computations that run in this process: 128 bits of entropy for every call.

TensorFlow seeds an operation that has no seed from a generator with 32 bits of entropy, and compilers may
merge or fold random operations. Here each random operation becomes a function of a key: the call's root,
folded with the part of the round, the client, the steps of the loops around it, and the operation's place
in the graph. Equal strategies or not, the same root gives the same draws; different places never share
any. The generator is Philox4x32-10 (Salmon et al. 2011), which is not a cryptographic source.
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
    """Returns the root key of one call of a computation, uint64 [2].

    Args:
      seed: None for the operating system's entropy; a whole number for draws that can be repeated.
      call: The number of the call in its context; only used with a seed.
    """
    if seed is None:
        return np.frombuffer(os.urandom(16), np.uint64)
    digest = hashlib.sha256(f"tff_dp/{seed}/{call}".encode()).digest()
    return np.frombuffer(digest[:16], np.uint64)


def fold(key: Any, word: Any) -> tf.Tensor:
    """Returns a key that depends on a key and on a word, and tells nothing of other words' keys.

    Args:
      key: uint64 [2].
      word: A whole number or an integer tensor [].
    """
    word = tf.constant(word, tf.uint64) if isinstance(word, int) else tf.cast(word, tf.uint64)
    return tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=[2], key=key[:1], counter=tf.stack([word, key[1]]), alg=PHILOX, dtype=tf.uint64
    )


def place(path: tuple[str, ...]) -> int:
    """Returns the word of an operation's place: a hash of the names that lead to it."""
    digest = hashlib.sha256("\0".join(path).encode()).digest()
    return int.from_bytes(digest[:8], "big")


def draw(node: Any, inputs: list[Any], key: Any) -> list[tf.Tensor]:
    """Returns what a random operation draws under a key.

    Args:
      node: The `NodeDef`, one of `OPERATIONS`.
      inputs: Its inputs.
      key: uint64 [2], of this operation alone.
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
        # The state of a generator object: whoever made it baked its seed into the graph, so that every
        # client would start with the same one.
        return [tf.bitcast(tf.concat([counter, key[:1]], 0), tf.int64)]
    operation = getattr(tf.raw_ops, _STATELESS[node.op])
    if node.op == "RandomUniformInt":
        return [operation(shape=inputs[0], minval=inputs[1], maxval=inputs[2], **keyed)]
    return [operation(shape=inputs[0], dtype=tf.as_dtype(node.attr["dtype"].type), **keyed)]


def integers(like: tf.Tensor, key: Any) -> tf.Tensor:
    """Returns random non-negative integers of the type and shape of a tensor."""
    return tf.random.stateless_uniform(
        tf.shape(like), tf.bitcast(key, tf.int64), 0, like.dtype.max, like.dtype
    )
