"""TFF's worker processes, which end when this process does.

TFF 0.87 runs computations in `worker_binary`, a process of its own that it starts and forgets: the worker
outlives Python, and keeps inherited pipes open, so that a shell pipeline behind it never ends. Here the
worker is a child of a shell that reads from a pipe whose other end this process holds. When this process
ends, however it ends, `kill -9` included, the pipe closes and the shell ends the worker.
"""

from __future__ import annotations

import functools
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

from tff_dp.errors import StackError

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
_LARGEST_MESSAGE = 2 * 1000 * 1000 * 1000  # bytes


class Watched(subprocess.Popen[bytes]):
    """A process that ends with this one. Its process id is that of the shell which sees to that.

    Args:
      args: The program and its arguments.
      stdout: As for `subprocess.Popen`.
      stderr: As for `subprocess.Popen`.
    """

    def __init__(self, args: Sequence[str], stdout: Any = None, stderr: Any = None) -> None:
        super().__init__(
            ["/bin/sh", "-c", _WATCHDOG, *args],
            stdin=subprocess.PIPE,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,  # the terminal's signals are for the parent alone
        )
        _started.add(self)

    def wait(self, timeout: float | None = None) -> int:
        """Ends the process, and returns once it has ended."""
        self.let_go()
        return super().wait(timeout)

    def let_go(self) -> None:
        """Closes this process's end of the pipe, which ends the other process if nobody else has it."""
        if self.stdin is not None and not self.stdin.closed:
            self.stdin.close()


_started: weakref.WeakSet[Watched] = weakref.WeakSet()


def _let_go_of_all() -> None:
    for process in list(_started):
        process.let_go()


# A child of `os.fork` has the pipe, too, and may live longer than its parent.
os.register_at_fork(after_in_child=_let_go_of_all)


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
        import grpc
        import portpicker

        port = portpicker.pick_unused_port()
        self._remedy = remedy
        self._process = Watched([str(_binary()), f"--port={port}", *arguments], stdout, stderr)
        options = [
            (f"grpc.max_{kind}_length", _LARGEST_MESSAGE)
            for kind in ("message", "receive_message", "send_message")
        ]
        channel = grpc.insecure_channel(f"localhost:{port}", options)
        self.stub = _remote_stub(channel)
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


def _remote_stub(channel: Any) -> Any:
    from tensorflow_federated.python.core.impl.executors import remote_executor_grpc_stub

    return remote_executor_grpc_stub.RemoteExecutorGrpcStub(channel)


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
    from tensorflow_federated.python.core.impl.executor_stacks import python_executor_stacks
    from tensorflow_federated.python.core.impl.executors import remote_executor
    from tensorflow_federated.python.core.impl.types import placements

    service = _Service([f"--max_concurrent_computation_calls={max_concurrent_computation_calls}"])

    def stack(cardinalities: dict[Any, int]) -> Any:
        if cardinalities.get(placements.CLIENTS) is None:
            cardinalities[placements.CLIENTS] = default_num_clients
        executor = remote_executor.RemoteExecutor(service.stub(), stream_structs=stream_structs)
        executor.set_cardinalities(cardinalities)
        return executor

    return python_executor_stacks.ResourceManagingExecutorFactory(executor_stack_fn=stack)


@functools.cache
def let_them_end(tff: Any, *, renew_default: bool) -> None:
    """Makes the workers of TFF's own contexts end with this process.

    Args:
      tff: The module.
      renew_default: Whether to make TFF's default context anew, which it made when it was imported: so
        right after that. Later, it may be somebody's own; workers that are started from now on are
        watched all the same.
    """
    from tensorflow_federated.python.core.impl.executor_stacks import executor_factory

    executor_factory.local_cpp_executor_factory = _local_cpp_executor_factory
    if renew_default:
        tff.backends.native.set_sync_local_cpp_execution_context()
    else:  # contexts made before look this up when they start their worker
        executor_factory.subprocess = types.SimpleNamespace(Popen=Watched)
