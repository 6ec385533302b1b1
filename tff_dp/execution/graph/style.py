"""How a graph that a program is written into is going to be compiled."""

from __future__ import annotations

from typing import NamedTuple


class Style(NamedTuple):
    """How a graph is going to be compiled.

    Attributes:
      xla: Whether XLA compiles it.
      vmap: Whether `tf.vectorized_map` vectorizes it over clients.
    """

    xla: bool = False
    vmap: bool = False

    @property
    def is_static(self) -> bool:
        """Whether each tensor must have a shape that is known when the graph is written.

        XLA represents a tensor whose shape depends on values by one of the largest size that it may
        have, and not every operation on that tensor ignores the unused part. Vectorization stacks
        the tensors of all clients, which must therefore have the same shape.
        """
        return self.xla or self.vmap


PLAIN = Style()
"""A graph that is neither compiled by XLA nor vectorized."""


class ShapeVariesError(NotImplementedError):
    """A tensor has a shape that depends on values, in a style that requires static shapes."""
