"""Traced graphs, and a bounded cache of them."""

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

# Graphs of one computation that are kept. Beyond these, the least recently used one is dropped.
_MOST_GRAPHS = 32
_MOST_COMING = 4  # graphs that are compiled in the background and have not been called yet


def specs_of(part: program.Program) -> list[tf.TensorSpec]:
    """Returns the specifications of the arguments of a program.

    Args:
      part: The program.

    Returns:
      The shape and data type of each argument, in order.
    """
    return [tf.TensorSpec(shape, dtype) for shape, dtype in part.arguments]


def concrete(function: Callable[..., Any], specs: Sequence[tf.TensorSpec]) -> Any:
    """Traces a function.

    Args:
      function: A function from a root key, uint64 [2], and tensors to tensors.
      specs: The specifications of the tensors after the root key.

    Returns:
      The concrete function.
    """
    traced = tf.function(function, autograph=False)
    with tf_compat.no_temporary_variables(), tf_compat.one_stack_trace():
        return traced.get_concrete_function(tf.TensorSpec([2], tf.uint64), *specs)


def split(flat: Sequence[Any], counts: Sequence[int]) -> list[list[Any]]:
    """Splits a flat sequence into consecutive parts.

    Args:
      flat: The sequence.
      counts: The number of entries in each part but the last.

    Returns:
      The parts, and as the last one the remaining entries, which may be none.
    """
    parts, begin = [], 0
    for count in counts:
        parts.append(list(flat[begin : begin + count]))
        begin += count
    return [*parts, list(flat[begin:])]


class CannotTraceError(Exception):
    """A graph cannot be traced, because an operation in it cannot be written in its style."""


@dataclasses.dataclass(frozen=True, eq=False)
class Wanted:
    """A graph that is to be called, and the inputs of the call.

    Attributes:
      name: The purpose of the graph. Together with the types of the loose inputs, it identifies the
        graph in the cache.
      function: The function to trace, from a root key and tensors to tensors.
      specs: The specifications of the first tensors. Those after them are loose: a graph accepts
        them with any leading size.
      inputs: The root key, uint64 [2], then the tensors.
      in_turn: Whether the calling thread runs all operations, one after another. This suits a graph
        in which a single operation does almost all of the work, since waking another thread takes
        longer than a small round.
    """

    name: Hashable
    function: Callable[..., Any]
    specs: Sequence[tf.TensorSpec]
    inputs: Sequence[tf.Tensor]
    in_turn: bool = False

    @property
    def key(self) -> Hashable:
        """The key of its graph in the cache."""
        return self.name, tuple((tensor.dtype, tensor.shape[1:]) for tensor in self._loose)

    def write(self) -> Any:
        """Returns its graph, traced."""
        last = [
            tf.TensorSpec([None, *t.shape[1:]] if t.shape.rank else [], t.dtype)
            for t in self._loose
        ]
        return concrete(self.function, [*self.specs, *last])

    def called(self, graph: Any) -> list[tf.Tensor]:
        """Calls its graph with the inputs.

        Args:
          graph: The graph, as `write` returned it.

        Returns:
          The flattened results.
        """
        if not self.in_turn:
            return list(tf_compat.call_flat(graph, self.inputs))
        with tf.experimental.function_executor_type("SINGLE_THREADED_EXECUTOR"):
            return list(tf_compat.call_flat(graph, self.inputs))

    @property
    def _loose(self) -> Sequence[tf.Tensor]:
        return self.inputs[1 + len(self.specs) :]


class Graphs:
    """A cache of the graphs of one computation, by `Wanted.key`."""

    def __init__(self) -> None:
        self._graphs: collections.OrderedDict[Hashable, Any] = collections.OrderedDict()
        self._coming: dict[Hashable, tuple[int, Future[Any]]] = {}  # with the process's id
        # Writing a program changes it (`Program.checks`), so that one graph is written at a time.
        self._writing = threading.Lock()
        self._finding = threading.Lock()

    def call(self, wanted: Wanted) -> list[tf.Tensor]:
        """Calls a graph, and traces it first if it is not in the cache.

        Args:
          wanted: The graph and its inputs.

        Returns:
          The flattened results of its function.

        Raises:
          CannotTraceError: The function cannot be traced.
        """
        # A backend that runs blocks in parallel calls this from several threads.
        with self._finding:
            graph = self._found(wanted)
        return wanted.called(graph)

    def graph(self, wanted: Wanted) -> Any:
        """Looks a graph up, and traces it first if it is not in the cache.

        Args:
          wanted: The graph. In place of its inputs, their specifications will do.

        Returns:
          The concrete function.

        Raises:
          CannotTraceError: The function cannot be traced.
        """
        with self._finding:
            return self._found(wanted)

    def _found(self, wanted: Wanted) -> Any:
        key = wanted.key
        made_by, coming = self._coming.pop(key, (None, None))
        # An error in the background is dropped here, because it occurs again below, where it is
        # handled. A forked child does not have the background thread, so that the future would
        # never complete.
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
        """Traces and calls a graph in the background, so that XLA compiles it.

        The first `call` of the graph waits until this is done, and so does the end of the process.

        Args:
          wanted: The graph, and inputs of the types and shapes that later calls will have. The
            results are discarded.
          scope: Returns the context in which `call` will be called, such as that of a device. Such
            a context applies to one thread only, and is therefore entered again in the background.
        """
        key = wanted.key
        if key in self._graphs or key in self._coming:
            return

        def make() -> Any:
            with scope():
                graph = self._written(wanted)
                wanted.called(graph)
            return graph

        # At the end of the process, Python refuses to start threads. Nothing is compiled then.
        with contextlib.suppress(RuntimeError):
            self._coming[key] = os.getpid(), _pool().submit(make)
        while len(self._coming) > _MOST_COMING:  # those begun first and never called
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
    """Returns the pool of the one background thread, which leaves the other cores to the rounds."""
    return ThreadPoolExecutor(1, thread_name_prefix="tff_dp-compiling")


os.register_at_fork(after_in_child=_pool.cache_clear)
