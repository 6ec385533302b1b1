"""What becomes of a graph that a program is written into."""

from __future__ import annotations

from typing import NamedTuple


class Style(NamedTuple):
    """What becomes of a graph.

    Attributes:
      xla: Whether XLA compiles it.
      vmap: Whether it is vectorized.
    """

    xla: bool = False
    vmap: bool = False

    @property
    def is_static(self) -> bool:
        """Whether each tensor must have a shape that is known when the graph is written.

        XLA takes a tensor whose shape depends on values for one of the largest size that it may have,
        and not every operation after it minds how much of that is filled. Vectorizing makes one tensor
        of all clients' tensors, which must be of one shape.
        """
        return self.xla or self.vmap


PLAIN = Style()


class ShapeVariesError(NotImplementedError):
    """A tensor has a shape that depends on values, where each must have a static one."""
