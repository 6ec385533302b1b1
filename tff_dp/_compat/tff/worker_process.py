"""TFF's worker processes, made to end when this process ends.

TFF 0.87 runs computations in `worker_binary`, a separate process that it starts and never stops:
the worker outlives Python and keeps inherited pipes open, so that a shell pipeline that reads its
output never finishes. Here the worker is a `watched_process.Watched`, which ends with this process.
"""

from __future__ import annotations

import importlib.util
import os
import pathlib
import subprocess
import sys
import threading
import time
import types
import weakref
from collections.abc import Sequence
from typing import Any

import grpc
import portpicker
import tensorflow_federated as tff
from tensorflow_federated.python.core.impl.executor_stacks import executor_factory

from tff_dp._compat.tff.watched_process import Watched
from tff_dp.errors import StackError

_POLL_SECONDS = 0.05
_START_SECONDS = 60.0
_LARGEST_MESSAGE = 2 * 1000 * 1000 * 1000  # bytes


class Worker:
    """A running `worker_binary` and the gRPC channel to it.

    Args:
      stdout: The standard output of the worker, as for `subprocess.Popen`.
      stderr: The standard error of the worker, as for `subprocess.Popen`.
      arguments: The arguments of the worker, except for its port.
      remedy: A sentence for the error message that says what to do if the worker does not start.

    Attributes:
      stub: TFF's gRPC stub of the worker.

    Raises:
      StackError: TFF or its worker is not installed.
    """

    def __init__(
        self, stdout: Any, stderr: Any, arguments: Sequence[str] = (), remedy: str = ""
    ) -> None:
        port = portpicker.pick_unused_port()
        self._remedy = remedy
        self._process = Watched([str(_binary()), f"--port={port}", *arguments], stdout, stderr)
        options = [
            (f"grpc.max_{kind}_length", _LARGEST_MESSAGE)
            for kind in ("message", "receive_message", "send_message")
        ]
        channel = grpc.insecure_channel(f"localhost:{port}", options)
        self.stub = tff.framework.RemoteExecutorGrpcStub(channel)
        # A finalizer is called when Python exits, too.
        self._end = weakref.finalize(self, _end, channel, self._process, os.getpid())

    def wait_until_ready(self) -> None:
        """Waits until the worker answers.

        Raises:
          StackError: The worker has exited, or has not answered within 60 seconds. It is closed
            then.
        """
        deadline = time.monotonic() + _START_SECONDS
        while not self.stub.is_ready:
            if time.monotonic() > deadline or self._process.poll() is not None:
                self.close()
                raise StackError(
                    f"TFF's worker did not answer within {_START_SECONDS:.0f} seconds. {self._remedy}"
                )
            time.sleep(_POLL_SECONDS)

    def close(self) -> None:
        """Closes the channel and ends the worker. Further calls have no effect."""
        self._end()


def _end(channel: Any, process: Watched, owner: int) -> None:
    if os.getpid() == owner:  # a child of `os.fork` must not end its parent's worker
        channel.close()
        process.wait()


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


class _Service:
    """The worker of one of TFF's own contexts: started when first needed, and again after it has died."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self._arguments = arguments
        self._lock = threading.Lock()
        self._worker: Worker | None = None

    def stub(self) -> Any:
        with self._lock:
            if self._worker is not None and not self._worker.stub.is_ready:
                self._worker.close()
                self._worker = None
            if self._worker is None:
                worker = Worker(
                    *_outputs(),
                    self._arguments,
                    "Its output is that of this process; or run in tff_dp.execution.fast().",
                )
                worker.wait_until_ready()
                self._worker = worker
            return self._worker.stub


def _outputs() -> tuple[Any, Any]:
    """Returns the file descriptors of standard output and error, or DEVNULL where there is none."""
    found: list[Any] = []
    for stream in (sys.stdout, sys.stderr):
        try:
            found.append(stream.fileno())
        except (
            AttributeError,
            OSError,
            ValueError,
        ):  # None, closed, or replaced in a notebook or a test
            found.append(subprocess.DEVNULL)
    return found[0], found[1]


def _local_cpp_executor_factory(
    *,
    default_num_clients: int = 0,
    max_concurrent_computation_calls: int = -1,
    stream_structs: bool = False,
) -> Any:
    """Replaces TFF's function of this name; the worker ends with this process."""
    service = _Service([f"--max_concurrent_computation_calls={max_concurrent_computation_calls}"])

    def stack(cardinalities: dict[Any, int]) -> Any:
        if cardinalities.get(tff.CLIENTS) is None:
            cardinalities[tff.CLIENTS] = default_num_clients
        executor = tff.framework.RemoteExecutor(service.stub(), stream_structs=stream_structs)
        executor.set_cardinalities(cardinalities)
        return executor

    return tff.framework.ResourceManagingExecutorFactory(executor_stack_fn=stack)


def let_them_end(*, renew_default: bool) -> None:
    """Makes the workers of TFF's own contexts end with this process.

    Args:
      renew_default: Whether to replace the default context, which TFF creates when it is imported.
        This is safe right after the import only: later, the user may have set a context of their
        own. Workers that existing contexts start from now on end with this process in either case.
    """
    executor_factory.local_cpp_executor_factory = _local_cpp_executor_factory
    if renew_default:
        tff.backends.native.set_sync_local_cpp_execution_context()
    else:  # existing contexts look this up when they start their worker
        executor_factory.subprocess = types.SimpleNamespace(Popen=Watched)
