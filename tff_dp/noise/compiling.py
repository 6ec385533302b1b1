"""Functions of large tensors that are worth compiling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

NAME = "tff_dp_compiled"
"""Part of the names of these functions; `tff_dp.execution` finds them by it, and XLA compiles them."""


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Marks a function that reads large tensors in several operations.

    XLA computes what it does in fewer passes over the tensors. Where nothing looks for the mark, as on
    stock TFF, it is a function of TensorFlow like others.

    Args:
      function: From structures of tensors to structures of tensors, all of static shapes.

    Returns:
      The function, for calls in a graph.
    """

    def tff_dp_compiled(*arguments: Any) -> Any:
        return function(*arguments)

    made: Callable[..., Any] = tf.function(tff_dp_compiled, autograph=False)
    return made
