"""Stock TFF, with a worker process that ends when it should.

`tff_dp._compat.tff.worker_process` has the worker: a process in which TFF 0.87 runs every
computation.
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
    """See `stock`.

    Args:
      unkeyed_noise: See `stock`.
      **arguments: Those of `tff.framework.SyncExecutionContext`.
    """

    def __init__(self, *, unkeyed_noise: bool, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._runs_noise = unkeyed_noise

    def invoke(self, comp: Any, arg: Any) -> Any:
        """Runs a computation."""
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
    """Returns a computation as TFF's local contexts compile it, or those of its test backend."""
    if secure_sums:
        comp = tff.backends.test.replace_secure_intrinsics_with_bodies(comp)
    return tff.backends.native.desugar_and_transform_to_native(comp)


def _context(worker: worker_process.Worker, unkeyed_noise: bool, secure_sums: bool) -> Any:
    """Returns what `create_sync_local_cpp_execution_context` makes, over our worker."""

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

    The worker is ended when the block is left, by an exception too, when Python ends, and when
    Python is killed.

    Args:
      log: A file to append the worker's output to; None drops it.
      install: Whether computations run in the context that is yielded, or only what is passed to
        it.
      unkeyed_noise: Whether computations with the noise of a privacy plan run at all. TensorFlow
        seeds it with 32 bits there, and TFF some of it by the clock, so that what comes out is not
        private: for comparisons only. `tff_dp.fit` refuses it in any case.
      secure_sums: Whether sums of secure aggregation run, as plain sums in the worker, in which a
        value larger than its bound is an error: what TFF's test backend makes of them. Stock TFF's
        own context fails ("Cannot embed a federated value").

    Yields:
      The execution context, a `tff.framework.SyncContext`.

    Raises:
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
    """Returns whether a context is one that `stock` has made."""
    return context in _managed
