"""Stock TFF, with a worker process that is ended reliably.

The worker is a process in which TFF 0.87 runs every computation; see
`tff_dp._compat.tff.worker_process`.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Iterator
from typing import Any

from tff_dp import _checks, _compat
from tff_dp._compat.tff import worker_process
from tff_dp.errors import ComputationError
from tff_dp.execution import marked_noise

tff = _compat.tff.load()

_managed: weakref.WeakSet[Any] = weakref.WeakSet()  # the contexts that `stock` has made


class StockContext(tff.framework.SyncExecutionContext):  # type: ignore[misc, name-defined]
    """The context that `stock` yields.

    Args:
      unkeyed_noise: See `stock`.
      **arguments: The arguments of `tff.framework.SyncExecutionContext`.
    """

    def __init__(self, *, unkeyed_noise: bool, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._runs_noise = unkeyed_noise

    def invoke(self, comp: Any, arg: Any) -> Any:
        """Runs a computation.

        Args:
          comp: A `tff.Computation`.
          arg: Its argument; None if it has none.

        Returns:
          The result, in the containers of its type.

        Raises:
          ComputationError: The computation holds noise of a privacy plan, and `unkeyed_noise` is
            false.
        """
        if not self._runs_noise and marked_noise.is_marked(comp):
            raise ComputationError(
                marked_noise.refusal(
                    "stock TFF has TensorFlow seed random operations, with 32 bits or by the clock",
                    "Run it in tff_dp.execution.fast(); or, only to compare with stock TFF, in "
                    "tff_dp.execution.stock(unkeyed_noise=True).",
                )
            )
        return super().invoke(comp, arg)


def _compiled(comp: Any, secure_sums: bool) -> Any:
    """Returns a computation compiled as in TFF's local context or its test backend's."""
    if secure_sums:
        comp = tff.backends.test.replace_secure_intrinsics_with_bodies(comp)
    return tff.backends.native.desugar_and_transform_to_native(comp)


def _context(worker: worker_process.Worker, unkeyed_noise: bool, secure_sums: bool) -> Any:
    """Returns what `create_sync_local_cpp_execution_context` makes, but for our worker process."""

    def stack(cardinalities: dict[Any, int]) -> Any:
        cardinalities.setdefault(tff.CLIENTS, 0)
        executor = tff.framework.RemoteExecutor(worker.stub, stream_structs=False)
        executor.set_cardinalities(cardinalities)
        return executor

    return StockContext(
        unkeyed_noise=unkeyed_noise,
        executor_fn=tff.framework.ResourceManagingExecutorFactory(executor_stack_fn=stack),
        compiler_fn=lambda comp: _compiled(comp, secure_sums),
        transform_args=tff.tensorflow.transform_args,
        transform_result=tff.tensorflow.transform_result,
    )


@contextlib.contextmanager
def stock(
    *,
    log: str | os.PathLike[str] | None = None,
    install: bool = True,
    unkeyed_noise: bool = False,
    secure_sums: bool = False,
) -> Iterator[Any]:
    """Runs the TFF computations of a `with` block on stock TFF.

    The worker process is ended when the block is left, whether normally or by an exception, when
    Python ends, and when Python is killed.

    Args:
      log: A file that the worker's output is appended to; None drops the output.
      install: Whether the context is in effect in the block; otherwise it runs only what is passed
        to it.
      unkeyed_noise: Whether computations with the noise of a privacy plan may run. TensorFlow seeds
        this noise with 32 bits there, and TFF seeds some of it by the clock, so that the results
        are not private: this is for comparisons only. `tff_dp.fit` refuses it in any case.
      secure_sums: Whether sums of secure aggregation run, as plain sums in the worker in which a
        value larger than its bound is an error, as in TFF's test backend. Otherwise they fail as in
        stock TFF's own context ("Cannot embed a federated value").

    Yields:
      The execution context, a `tff.framework.SyncContext`.

    Raises:
      ArgumentError: `install`, `unkeyed_noise` or `secure_sums` is no truth value.
      StackError: TFF is missing, or its worker does not start.
      ComputationError: A computation holds noise of a privacy plan. Raised by the call.
    """
    _checks.flag("install", install)
    _checks.flag("unkeyed_noise", unkeyed_noise)
    _checks.flag("secure_sums", secure_sums)
    with open(os.devnull if log is None else log, "ab") as sink:
        worker = worker_process.Worker(
            sink,
            sink,
            remedy="Run again with execution.stock(log='worker.log') and read that file.",
        )
    try:
        worker.wait_until_ready()
        context = _context(worker, unkeyed_noise, secure_sums)
        _managed.add(context)
        if install:
            with tff.framework.get_context_stack().install(context):
                yield context
        else:
            yield context
    finally:
        worker.close()


def is_managed(context: Any) -> bool:
    """Tells whether a context was made by `stock`.

    Args:
      context: Any context of TFF's context stack.

    Returns:
      Whether `stock` made it.
    """
    return context in _managed
