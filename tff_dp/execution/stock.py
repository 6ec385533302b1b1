"""Stock TFF, with a worker process that ends when it should.

TFF 0.87 runs every computation in `worker_binary`, a process of its own that it starts and forgets: it
outlives Python, and keeps inherited pipes open, so that a shell pipeline behind it never ends. Here the
worker is a child of a shell that reads from a pipe whose other end this process holds: when this
process ends, however it ends, `kill -9` included, the pipe closes and the shell ends the worker.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import os
import pathlib
import subprocess
import time
import weakref
from collections.abc import Iterator
from typing import Any

from tff_dp import _checks, _compat
from tff_dp.errors import ComputationError, StackError
from tff_dp.execution import noise

# $0 is the worker, $@ its arguments. The shell must ignore the terminal's interrupt: Ctrl-C ends a
# round, not the worker. `read` returns at end of file, that is, when the parent is gone.
_WATCHDOG = """
trap '' INT
"$0" "$@" </dev/null & worker=$!
read -r _
kill -9 "$worker"
wait "$worker"
"""
_POLL_SECONDS = 0.05
_START_SECONDS = 60.0
_managed: weakref.WeakSet[Any] = weakref.WeakSet()  # the contexts that `stock` has made
_LARGEST_MESSAGE = 2 * 1000 * 1000 * 1000  # bytes


class _Worker:
    """One `worker_binary` under its watchdog, and the channel to it."""

    def __init__(self, log: pathlib.Path | None) -> None:
        import grpc
        import portpicker

        port = portpicker.pick_unused_port()
        with open(log or os.devnull, "ab") as sink:
            self._watchdog = subprocess.Popen(
                ["/bin/sh", "-c", _WATCHDOG, str(_binary()), f"--port={port}"],
                stdin=subprocess.PIPE,
                stdout=sink,
                stderr=sink,
                start_new_session=True,  # the terminal's signals are for the parent alone
            )
        options = [
            (f"grpc.max_{kind}_length", _LARGEST_MESSAGE)
            for kind in ("message", "receive_message", "send_message")
        ]
        self._channel = grpc.insecure_channel(f"localhost:{port}", options)
        self.stub = _remote_stub(self._channel)
        atexit.register(self.close)

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not self.stub.is_ready:
            if time.monotonic() > deadline or self._watchdog.poll() is not None:
                self.close()
                raise StackError(
                    f"TFF's worker did not answer within {_START_SECONDS:.0f} seconds. Run again with "
                    "execution.stock(log='worker.log') and read that file."
                )
            time.sleep(_POLL_SECONDS)

    def close(self) -> None:
        atexit.unregister(self.close)
        self._channel.close()
        if self._watchdog.stdin is not None and not self._watchdog.stdin.closed:
            self._watchdog.stdin.close()
        self._watchdog.wait()


def _binary() -> pathlib.Path:
    spec = importlib.util.find_spec("tensorflow_federated")
    if spec is None or spec.origin is None:
        raise StackError("tensorflow_federated is not installed; see docs/stack.md.")
    binary = pathlib.Path(spec.origin).parent / "data" / "worker_binary"
    if not binary.is_file():
        raise StackError(
            f"TFF's worker is missing at {binary}: install tensorflow-federated again."
        )
    return binary


def _remote_stub(channel: Any) -> Any:
    from tensorflow_federated.python.core.impl.executors import remote_executor_grpc_stub

    return remote_executor_grpc_stub.RemoteExecutorGrpcStub(channel)


def _compiled(comp: Any, secure_sums: bool) -> Any:
    """Returns a computation as TFF's local contexts compile it, or those of its test backend."""
    from tensorflow_federated.python.core.backends.native import compiler
    from tensorflow_federated.python.core.backends.test import compiler as test_compiler

    if secure_sums:
        comp = test_compiler.replace_secure_intrinsics_with_bodies(comp)
    return compiler.desugar_and_transform_to_native(comp)


def _context(worker: _Worker, unkeyed_noise: bool, secure_sums: bool) -> Any:
    """Returns what `create_sync_local_cpp_execution_context` makes, over our worker."""
    from tensorflow_federated.python.core.environments.tensorflow_frontend import (
        tensorflow_computation,
    )
    from tensorflow_federated.python.core.impl.execution_contexts import sync_execution_context
    from tensorflow_federated.python.core.impl.executor_stacks import python_executor_stacks
    from tensorflow_federated.python.core.impl.executors import remote_executor
    from tensorflow_federated.python.core.impl.types import placements

    def stack(cardinalities: dict[Any, int]) -> Any:
        cardinalities.setdefault(placements.CLIENTS, 0)
        executor = remote_executor.RemoteExecutor(worker.stub, stream_structs=False)
        executor.set_cardinalities(cardinalities)
        return executor

    class StockContext(sync_execution_context.SyncExecutionContext):  # type: ignore[misc]
        """See `stock`."""

        def invoke(self, comp: Any, arg: Any) -> Any:
            if not unkeyed_noise and noise.is_marked(comp):
                raise ComputationError(
                    noise.refusal(
                        "stock TFF has TensorFlow seed random operations, with 32 bits or by the clock",
                        "Run it in tff_dp.execution.fast(); or, only to compare with stock TFF, in "
                        "tff_dp.execution.stock(unkeyed_noise=True).",
                    )
                )
            return super().invoke(comp, arg)

    return StockContext(
        executor_fn=python_executor_stacks.ResourceManagingExecutorFactory(executor_stack_fn=stack),
        compiler_fn=lambda comp: _compiled(comp, secure_sums),
        transform_args=tensorflow_computation.transform_args,
        transform_result=tensorflow_computation.transform_result,
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

    The worker is ended when the block is left, by an exception too, when Python ends, and when Python
    is killed.

    Args:
      log: A file to append the worker's output to; None drops it.
      install: Whether computations run in the context that is yielded, or only what is passed to it.
      unkeyed_noise: Whether computations with the noise of a privacy plan run at all. TensorFlow seeds it
        with 32 bits there, and TFF some of it by the clock, so that what comes out is not private: for
        comparisons only. `tff_dp.fit` refuses it in any case.
      secure_sums: Whether sums of secure aggregation run, as plain sums in the worker, in which a value
        larger than its bound is an error: what TFF's test backend makes of them. Stock TFF's own
        context fails ("Cannot embed a federated value").

    Yields:
      The execution context, a `tff.framework.SyncContext`.

    Raises:
      StackError: TFF is missing, or its worker does not start.
      ComputationError: A computation holds noise of a privacy plan. Raised by the call.
    """
    _checks.flag("install", install)
    _checks.flag("unkeyed_noise", unkeyed_noise)
    _checks.flag("secure_sums", secure_sums)
    tff = _compat.load_tff()
    worker = _Worker(pathlib.Path(log) if log is not None else None)
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
