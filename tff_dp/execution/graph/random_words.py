"""Random words of a server's noise from a cryptographic generator, made outside of the graph.

With `random_bits="aes-ctr"` the operations of a server that draw noise take their words from an argument
of the graph. Which operations there are, and how many words each takes, is found by tracing the server's
programs once.

Source: AES in counter mode, NIST SP 800-38A, section 6.5; the implementation is that of `cryptography`.
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

from tff_dp.errors import StackError
from tff_dp.execution.graph import emitter, randomness

WORD = np.dtype("<i8")
MOST_FUSED = 64 << 20  # bytes of words in a call that holds several rounds
MOST = 2 << 30  # bytes of words in any call
_ZEROS = bytes(1 << 16)  # what is encrypted, so that the key stream itself comes out
_SPARE = 2  # words of room that a cipher asks for beyond what it writes
# What `tff_dp.noise.words` draws: words of 63 bits.
_LOWEST, _BEYOND = -(2**62), 2**62


def aes_ctr(key: bytes, counter: bytes, count: int) -> np.ndarray:
    """Returns words of AES's key stream in counter mode, int64 [count].

    Args:
      key: 16, 24 or 32 bytes.
      counter: The first block's, 16 bytes, big-endian.
      count: Of the words, of 8 bytes each, in the stream's order.

    Raises:
      StackError: The package `cryptography` is missing.
    """
    ciphers = _ciphers()
    stream = ciphers.Cipher(ciphers.algorithms.AES(key), ciphers.modes.CTR(counter)).encryptor()
    words = np.empty(count + _SPARE, WORD)
    room = words.view(np.uint8).data
    size, spare = count * WORD.itemsize, _SPARE * WORD.itemsize
    # In parts that stay in the processor's cache, which takes a fifth of the time.
    for first in range(0, size, len(_ZEROS)):
        part = min(len(_ZEROS), size - first)
        stream.update_into(memoryview(_ZEROS)[:part], room[first : first + part + spare])
    return words[:count]


def of_call(count: int, seed: int | None, call: int) -> np.ndarray:
    """Returns the words of one call of a computation, int64 [count]; no other call has this key.

    Args:
      count: How many.
      seed: None for a key from the operating system; a whole number for words that can be repeated.
      call: The number of the call in its context; only used with a seed.
    """
    key = (
        os.urandom(32)
        if seed is None
        else hashlib.sha256(f"tff_dp/words/{seed}/{call}".encode()).digest()
    )
    return aes_ctr(key, bytes(16), count)  # a key that is used once may count from zero


def check_installed() -> None:
    """Raises StackError if the package `cryptography` is missing."""
    _ciphers()


@functools.cache
def is_installed() -> bool:
    """Returns whether the package `cryptography` is there."""
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
    """The words that an operation takes.

    Attributes:
      first: The position of its first word.
      shape: Of what it draws.
    """

    first: int
    shape: tuple[int, ...]


class CannotFeedError(NotImplementedError):
    """An operation's words cannot be made outside of the graph."""


class Layout:
    """Which operations of a server's programs draw noise, and where their words are in the argument.

    Args:
      programs: By name, those whose noise is fed.

    Attributes:
      count: Words in all.
      obstacle: Why they cannot be fed, or None.
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
        with tf.Graph().as_default():
            arguments = [tf.compat.v1.placeholder(dtype, shape) for shape, dtype in part.arguments]
            emitter.emit(
                part, arguments, tf.constant([0, 0], tf.uint64), words=_Recorder(self, name)
            )

    def record(self, node: Any, inputs: Sequence[Any], path: tuple[str, ...]) -> None:
        """Notes that an operation takes words."""
        shape = _shape_of(node, inputs)
        if path not in self._needs:
            self._needs[path] = Need(self.count, shape)
            self.count += math.prod(shape)

    def need(self, node: Any, inputs: Sequence[Any], path: tuple[str, ...]) -> Need:
        """Returns the words of an operation that was noted."""
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
    """What an emitter asks while a layout is found."""

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
    """What an emitter asks for the words of a program's noise.

    Args:
      layout: Where they are.
      words: The argument, int64 [layout.count].
      name: The program's.
    """

    def __init__(self, layout: Layout, words: tf.Tensor, name: str) -> None:
        self._layout, self._words, self._name = layout, words, name

    def draw(
        self, node: Any, inputs: list[Any], path: tuple[str, ...], key: tf.Tensor, in_loop: bool
    ) -> list[tf.Tensor]:
        """Returns an operation's words.

        Args:
          node: The `NodeDef`.
          inputs: Its inputs.
          path: The names that lead to it.
          key: What it would draw under; not used.
          in_loop: Whether it may run more than once, which would give it the same words again.

        Raises:
          CannotFeedError: They were not made.
        """
        del key
        if in_loop:
            raise CannotFeedError(f"{node.op} ({node.name}) draws in a loop")
        need = self._layout.need(node, inputs, (self._name, *path))
        drawn = self._words[need.first : need.first + math.prod(need.shape)]
        # Of the 64 bits of the stream, an operation takes 63, as a number with a sign.
        return [tf.reshape(tf.bitwise.right_shift(drawn, tf.constant(1, tf.int64)), need.shape)]
