"""TFF's worker processes, which end when this process does.

TFF 0.87 runs computations in `worker_binary`, a process of its own that it starts and forgets: the worker
outlives Python, and keeps inherited pipes open, so that a shell pipeline behind it never ends. Here the
worker is a `watched_process.Watched`, which ends with this process.
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
    """One `worker_binary`, and the channel to it.

    Args:
      stdout: Where its output goes; as for `subprocess.Popen`.
      stderr: Likewise.
      arguments: Of the worker, beside its port.
      remedy: What to do if it does not start.

    Attributes:
      stub: TFF's stub of the worker.

    Raises:
      StackError: TFF or its worker is missing.
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
        # Called when Python ends, too.
        self._end = weakref.finalize(self, _end, channel, self._process, os.getpid())

    def wait_until_ready(self) -> None:
        """Returns when the worker answers.

        Raises:
          StackError: It does not.
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
        """Ends the worker."""
        self._end()


def _end(channel: Any, process: Watched, owner: int) -> None:
    if os.getpid() == owner:  # a child of `os.fork` that ends leaves its parent's worker alone
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
    """The worker of one of TFF's own contexts: started when it is first needed, and again if it died."""

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
    """Returns this process's standard outputs, as TFF gives them to its worker, where they are files."""
    found: list[Any] = []
    for stream in (sys.stdout, sys.stderr):
        try:
            found.append(stream.fileno())
        except (AttributeError, OSError, ValueError):  # none, a notebook's or a test's, or closed
            found.append(subprocess.DEVNULL)
    return found[0], found[1]


def _local_cpp_executor_factory(
    *,
    default_num_clients: int = 0,
    max_concurrent_computation_calls: int = -1,
    stream_structs: bool = False,
) -> Any:
    """Returns what TFF's function of this name does, over a worker that ends with this process."""
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
      renew_default: Whether to make TFF's default context anew, which it made when it was imported: so
        right after that. Later, it may be somebody's own; workers that are started from now on are
        watched all the same.
    """
    executor_factory.local_cpp_executor_factory = _local_cpp_executor_factory
    if renew_default:
        tff.backends.native.set_sync_local_cpp_execution_context()
    else:  # contexts made before look this up when they start their worker
        executor_factory.subprocess = types.SimpleNamespace(Popen=Watched)
