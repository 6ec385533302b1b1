"""Traced graphs, and a cache of them that is bounded."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import os
import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import tensorflow as tf

from tff_dp._compat import tensorflow as tf_compat
from tff_dp.execution.graph import program

_MOST_GRAPHS = (
    32  # of one computation: cohorts of other shapes take the places of those used longest ago
)
_MOST_COMING = 4


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


@dataclasses.dataclass(frozen=True, eq=False)
class Wanted:
    """A graph that is wanted, and what it is called with.

    Attributes:
      name: What it is for, beside the types of the loose inputs; hashable.
      function: From (root key, tensors) to tensors.
      specs: Of the first tensors; the others, which are loose, may have any leading size.
      inputs: The root key and the tensors.
      in_turn: Whether the calling thread runs the operations one after another: right for a graph with
        one operation that counts, since waking another thread takes longer than a small round.
    """

    name: Hashable
    function: Callable[..., Any]
    specs: Sequence[tf.TensorSpec]
    inputs: Sequence[tf.Tensor]
    in_turn: bool = False

    @property
    def key(self) -> Hashable:
        """What its graph is kept by."""
        return self.name, tuple((tensor.dtype, tensor.shape[1:]) for tensor in self._loose)

    def write(self) -> Any:
        """Traces its graph."""
        last = [
            tf.TensorSpec([None, *t.shape[1:]] if t.shape.rank else [], t.dtype)
            for t in self._loose
        ]
        return concrete(self.function, [*self.specs, *last])

    def called(self, graph: Any) -> list[tf.Tensor]:
        """Returns what its graph gives, flat."""
        if not self.in_turn:
            return list(tf_compat.call_flat(graph, self.inputs))
        with tf.experimental.function_executor_type("SINGLE_THREADED_EXECUTOR"):
            return list(tf_compat.call_flat(graph, self.inputs))

    @property
    def _loose(self) -> Sequence[tf.Tensor]:
        return self.inputs[1 + len(self.specs) :]


class Graphs:
    """The graphs of one computation, by what they are for."""

    def __init__(self) -> None:
        self._graphs: collections.OrderedDict[Hashable, Any] = collections.OrderedDict()
        self._coming: dict[Hashable, tuple[int, Future[Any]]] = {}  # with the process's id
        # Programs note what they find while they are written: one graph at a time.
        self._writing = threading.Lock()
        self._finding = threading.Lock()

    def call(self, wanted: Wanted) -> list[tf.Tensor]:
        """Calls a graph, tracing it first if it is new; returns what its function returns, flat.

        Raises:
          CannotTraceError: The function cannot be traced.
        """
        # Several threads may call graphs: those of a backend that runs blocks at the same time.
        with self._finding:
            graph = self._found(wanted)
        return wanted.called(graph)

    def _found(self, wanted: Wanted) -> Any:
        key = wanted.key
        made_by, coming = self._coming.pop(key, (None, None))
        # What went wrong beside the rounds goes wrong here again, and is dealt with. A forked child has
        # no such thread.
        if coming is not None and made_by == os.getpid() and coming.exception() is None:
            self._keep(key, coming.result())
        graph = self._graphs.get(key)
        if graph is None:
            graph = self._written(wanted)
            self._keep(key, graph)
        else:
            self._graphs.move_to_end(key)
        return graph

    def begin(
        self,
        wanted: Wanted,
        scope: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
    ) -> None:
        """Traces and calls a graph beside whatever else this process does, so that XLA compiles it.

        The first `call` of the graph waits for that. Python ends only once it is done.

        Args:
          wanted: The graph. Its inputs have the types and shapes that will be given; what comes out is
            thrown away.
          scope: Makes the context that `call` is called in, which is the thread's own: of a device.
        """
        key = wanted.key
        if key in self._graphs or key in self._coming:
            return

        def make() -> Any:
            with scope():
                graph = self._written(wanted)
                wanted.called(graph)
            return graph

        # There are no threads when Python ends: then nothing is compiled beside the rounds.
        with contextlib.suppress(RuntimeError):
            self._coming[key] = os.getpid(), _pool().submit(make)
        while len(self._coming) > _MOST_COMING:  # rounds of these have not come
            self._coming.pop(next(iter(self._coming)))

    def _written(self, wanted: Wanted) -> Any:
        try:
            with self._writing:
                return wanted.write()
        except Exception as error:  # TensorFlow raises many kinds
            raise CannotTraceError(str(error)) from error

    def _keep(self, key: Hashable, graph: Any) -> None:
        self._graphs[key] = graph
        if len(self._graphs) > _MOST_GRAPHS:
            self._graphs.popitem(last=False)


@functools.cache
def _pool() -> ThreadPoolExecutor:
    """Returns the thread that compiles beside the rounds: one, which leaves the other cores to them."""
    return ThreadPoolExecutor(1, thread_name_prefix="tff_dp-compiling")


os.register_at_fork(after_in_child=_pool.cache_clear)
