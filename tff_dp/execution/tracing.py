"""Traced graphs, and a cache of them that is bounded."""

from __future__ import annotations

import collections
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import tensorflow as tf

from tff_dp import _compat
from tff_dp.execution import program

_MOST_GRAPHS = (
    32  # of one computation: cohorts of other shapes take the places of those used longest ago
)


def specs_of(part: program.Program) -> list[tf.TensorSpec]:
    """Returns the specifications of a program's arguments."""
    return [tf.TensorSpec(shape, dtype) for shape, dtype in part.arguments]


def concrete(function: Callable[..., Any], specs: Sequence[tf.TensorSpec]) -> Any:
    """Returns the graph of a function of (root key, tensors)."""
    traced = tf.function(function, autograph=False)
    return traced.get_concrete_function(tf.TensorSpec([2], tf.uint64), *specs)


def split(flat: Sequence[Any], counts: Sequence[int]) -> list[list[Any]]:
    """Returns the first `counts[0]` entries of a sequence, the next `counts[1]`, ..., and the rest."""
    parts, begin = [], 0
    for count in counts:
        parts.append(list(flat[begin : begin + count]))
        begin += count
    return [*parts, list(flat[begin:])]


class CannotTraceError(Exception):
    """A graph cannot be written: an operation in it has no counterpart there."""


class Graphs:
    """The graphs of one computation, by what they are for."""

    def __init__(self) -> None:
        self._graphs: collections.OrderedDict[Hashable, Any] = collections.OrderedDict()

    def call(
        self,
        key: Hashable,
        function: Callable[..., Any],
        specs: Sequence[tf.TensorSpec],
        inputs: Sequence[tf.Tensor],
        *,
        in_turn: bool = False,
    ) -> list[tf.Tensor]:
        """Calls a graph, tracing it first if it is new.

        Args:
          key: What it is for, beside the types of the loose inputs.
          function: From (root key, tensors) to tensors.
          specs: Of the first tensors; the others may have any leading size.
          inputs: The root key and the tensors.
          in_turn: Whether this thread runs the operations one after another: right for a graph with
            one operation that counts, since waking another thread takes longer than a small round.

        Returns:
          What the function returns, flat.

        Raises:
          CannotTraceError: The function cannot be traced.
        """
        loose = inputs[1 + len(specs) :]
        whole = (key, tuple((tensor.dtype, tensor.shape[1:]) for tensor in loose))
        graph = self._graphs.get(whole)
        if graph is None:
            last = [
                tf.TensorSpec([None, *t.shape[1:]] if t.shape.rank else [], t.dtype) for t in loose
            ]
            try:
                graph = self._graphs[whole] = concrete(function, [*specs, *last])
            except Exception as error:  # TensorFlow raises many kinds
                raise CannotTraceError(str(error)) from error
            if len(self._graphs) > _MOST_GRAPHS:
                self._graphs.popitem(last=False)
        else:
            self._graphs.move_to_end(whole)
        if not in_turn:
            return list(_compat.call_flat(graph, inputs))
        with tf.experimental.function_executor_type("SINGLE_THREADED_EXECUTOR"):
            return list(_compat.call_flat(graph, inputs))
