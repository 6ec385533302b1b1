"""Random words for the server's noise from a cryptographic generator outside of the graph.

With `random_bits="aes-ctr"`, the operations of the server that draw noise take their words from an
argument of the graph. Tracing the server's programs once shows which operations these are, and how
many words each of them draws.

Source: AES in counter mode, NIST SP 800-38A, section 6.5; the implementation is that of
`cryptography`.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.util
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tff_dp._compat import tensorflow as tf_compat
from tff_dp.errors import StackError
from tff_dp.execution.graph import emitter, randomness

WORD = np.dtype("<i8")
MOST_FUSED = 64 << 20  # the most bytes of words for a call that runs several rounds
MOST = 2 << 30  # the most bytes of words for any call
_ZEROS = bytes(1 << 16)  # the plaintext: the encryption of zeros is the key stream itself
_SPARE = 2  # words of buffer that the cipher requires beyond those that it writes
# The range of the integers that `tff_dp.noise.words` draws: words of 63 bits.
_LOWEST, _BEYOND = -(2**62), 2**62


def aes_ctr(key: bytes, counter: bytes, count: int) -> np.ndarray:
    """Returns words of the key stream of AES in counter mode.

    Source: NIST SP 800-38A, section 6.5.

    Args:
      key: The key, 16, 24 or 32 bytes.
      counter: The counter of the first block, 16 bytes, big-endian.
      count: The number of words.

    Returns:
      The words, little-endian int64 [count], 8 bytes of the stream each, in the order of the
      stream.

    Raises:
      StackError: The package `cryptography` is not installed.
    """
    ciphers = _ciphers()
    stream = ciphers.Cipher(ciphers.algorithms.AES(key), ciphers.modes.CTR(counter)).encryptor()
    words = np.empty(count + _SPARE, WORD)
    room = words.view(np.uint8).data
    size, spare = count * WORD.itemsize, _SPARE * WORD.itemsize
    # Writing in parts that stay in the processor's cache takes a fifth of the time.
    for first in range(0, size, len(_ZEROS)):
        part = min(len(_ZEROS), size - first)
        stream.update_into(memoryview(_ZEROS)[:part], room[first : first + part + spare])
    return words[:count]


def of_call(count: int, seed: int | None, call: int) -> np.ndarray:
    """Returns the words for one call of a computation, from a key that is used for this call only.

    Args:
      count: The number of words.
      seed: None for a key from the operating system; an integer for reproducible words, which are
        not private.
      call: The number of the call in its context; only used with a seed.

    Returns:
      The words, int64 [count].

    Raises:
      StackError: The package `cryptography` is not installed.
    """
    key = (
        os.urandom(32)
        if seed is None
        else hashlib.sha256(f"tff_dp/words/{seed}/{call}".encode()).digest()
    )
    return aes_ctr(key, bytes(16), count)  # counter 0 is safe for a key that is used once


def check_installed() -> None:
    """Checks that the package `cryptography` is installed.

    Raises:
      StackError: It is not.
    """
    _ciphers()


@functools.cache
def is_installed() -> bool:
    """Returns whether the package `cryptography` is installed."""
    return importlib.util.find_spec("cryptography") is not None


def _ciphers() -> Any:
    try:
        from cryptography.hazmat.primitives import ciphers
    except ImportError as error:
        raise StackError(
            "random_bits='aes-ctr' needs the package 'cryptography', which is not installed. Install "
            "it, or leave random_bits out."
        ) from error
    return ciphers


@dataclasses.dataclass(frozen=True)
class Need:
    """The words that an operation draws.

    Attributes:
      first: The position of its first word in the argument.
      shape: The shape of the tensor that it draws, which has one word for each element.
    """

    first: int
    shape: tuple[int, ...]


class CannotFeedError(NotImplementedError):
    """The words of an operation cannot be generated outside of the graph."""


class Layout:
    """The positions, in the argument of words, of the words of each operation that draws noise.

    Args:
      programs: The server's programs whose noise takes its words from the argument, by name.

    Attributes:
      count: The number of words for one call.
      obstacle: Why words cannot be generated outside of the graph, or None.
    """

    def __init__(self, programs: Mapping[str, Any]) -> None:
        self._needs: dict[tuple[str, ...], Need] = {}
        self.count = 0
        self.obstacle: str | None = None
        try:
            for name, part in programs.items():
                self._trace(name, part)
        except (NotImplementedError, ValueError, TypeError) as error:
            self.obstacle = str(error)
        if self.obstacle is None and self.count * WORD.itemsize > MOST:
            self.obstacle = (
                f"a call would need {self.count * WORD.itemsize / 2**30:.1f} GiB of words, more than "
                f"{MOST / 2**30:.0f} GiB"
            )

    def _trace(self, name: str, part: Any) -> None:
        with tf_compat.one_stack_trace(), tf.Graph().as_default():
            arguments = [tf.compat.v1.placeholder(dtype, shape) for shape, dtype in part.arguments]
            emitter.emit(
                part, arguments, tf.constant([0, 0], tf.uint64), words=_Recorder(self, name)
            )

    def record(self, node: Any, inputs: Sequence[Any], path: tuple[str, ...]) -> None:
        """Assigns words to an operation, unless it has some already.

        Args:
          node: The `NodeDef`.
          inputs: The values of its inputs.
          path: The name of the program, then the names of the nodes that lead to the node.

        Raises:
          CannotFeedError: It does not draw words of 63 bits, or their number is not known.
        """
        shape = _shape_of(node, inputs)
        if path not in self._needs:
            self._needs[path] = Need(self.count, shape)
            self.count += math.prod(shape)

    def need(self, node: Any, inputs: Sequence[Any], path: tuple[str, ...]) -> Need:
        """Returns the words that were assigned to an operation.

        Args:
          node: The `NodeDef`.
          inputs: The values of its inputs.
          path: The name of the program, then the names of the nodes that lead to the node.

        Returns:
          Its words.

        Raises:
          CannotFeedError: It has no words, or draws another shape than was recorded.
        """
        found = self._needs.get(path)
        if found is None or found.shape != _shape_of(node, inputs):
            raise CannotFeedError(f"{node.op} ({node.name}) draws more words than were made for it")
        return found


def _shape_of(node: Any, inputs: Sequence[Any]) -> tuple[int, ...]:
    """Returns the shape of the words that an operation draws."""
    what = f"{node.op} ({node.name})"
    low, high = (tf.get_static_value(bound) for bound in inputs[1:3]) if inputs[1:] else (0, 0)
    if node.op != "RandomUniformInt" or low != _LOWEST or high != _BEYOND:
        raise CannotFeedError(f"{what} draws something else than whole words of 63 bits")
    shape = tf.get_static_value(inputs[0])
    if shape is None:
        raise CannotFeedError(f"{what} draws a number of words that only the graph knows")
    return tuple(int(size) for size in shape)


class _Recorder:
    """A source of random words for `emitter.emit` that records which words are drawn."""

    def __init__(self, layout: Layout, name: str) -> None:
        self._layout, self._name = layout, name

    def draw(
        self, node: Any, inputs: list[Any], path: tuple[str, ...], key: tf.Tensor, in_loop: bool
    ) -> list[tf.Tensor]:
        if in_loop:
            raise CannotFeedError(f"{node.op} ({node.name}) draws in a loop")
        self._layout.record(node, inputs, (self._name, *path))
        return randomness.draw(node, inputs, key)


class Fed:
    """A source of random words for `emitter.emit` that takes them from an argument of the graph.

    Args:
      layout: The positions of the words.
      words: The argument, int64 [layout.count].
      name: The name of the program that is written.
    """

    def __init__(self, layout: Layout, words: tf.Tensor, name: str) -> None:
        self._layout, self._words, self._name = layout, words, name

    def draw(
        self, node: Any, inputs: list[Any], path: tuple[str, ...], key: tf.Tensor, in_loop: bool
    ) -> list[tf.Tensor]:
        """Returns the words that an operation draws.

        Args:
          node: The `NodeDef`.
          inputs: The values of its inputs.
          path: The names of the nodes that lead to it, its own name last.
          key: The key that it would draw under otherwise, uint64 [2]; not used.
          in_loop: Whether it is in a loop. It would then draw the same words in each iteration.

        Returns:
          One int64 tensor of the shape that the operation draws; each element is in [-2^62, 2^62).

        Raises:
          CannotFeedError: The operation is in a loop, has no words, or draws another shape than was
            recorded.
        """
        del key
        if in_loop:
            raise CannotFeedError(f"{node.op} ({node.name}) draws in a loop")
        need = self._layout.need(node, inputs, (self._name, *path))
        drawn = self._words[need.first : need.first + math.prod(need.shape)]
        # The operation draws signed integers of 63 bits: the upper 63 of each word of the stream.
        return [tf.reshape(tf.bitwise.right_shift(drawn, tf.constant(1, tf.int64)), need.shape)]
