"""Stock TFF whose worker ends with the block, with Python, and with `kill -9`."""

from __future__ import annotations

import os
import pathlib
import select
import signal
import subprocess
import sys

import numpy as np
import pytest

from tests.support.workers import wait_until_gone, workers
from tff_dp import execution
from tff_dp._compat.tff import worker_process

pytestmark = pytest.mark.heavy


def test_the_worker_serves_the_block_and_ends_with_it(tff):
    before = set(workers(os.getpid()))

    @tff.tensorflow.computation(np.int32)
    def successor(x):
        return x + 1

    with execution.stock():
        assert successor(1) == 2
        (worker,) = set(workers(os.getpid())) - before
    assert wait_until_gone(worker)


def test_the_worker_ends_on_an_exception(tff):
    before = set(workers(os.getpid()))
    with pytest.raises(KeyboardInterrupt), execution.stock():
        (worker,) = set(workers(os.getpid())) - before
        raise KeyboardInterrupt
    assert wait_until_gone(worker)


def test_an_installed_context_is_kept_and_tffs_default_is_not(tff, stock):
    with execution.current_or_fast() as context:
        assert context is stock

    class Other(tff.framework.SyncContext):
        def invoke(self, comp, arg):
            raise NotImplementedError

    with tff.framework.get_context_stack().install(Other()) as _:
        current = tff.framework.get_context_stack().current
        with execution.current_or_fast() as context:
            assert context is current


@pytest.mark.parametrize("xla", [None, False])
def test_without_an_installed_context_the_fast_one_is_made_as_asked(stock, monkeypatch, xla):
    # As if this were the context that TFF installs when it is imported.
    monkeypatch.setattr(
        sys.modules["tff_dp.execution.context"], "is_managed", lambda context: False
    )
    with execution.current_or_fast(xla=xla) as context:
        assert context is not stock
        assert context.settings.xla is xla


# Starts a worker in every way there is, and then does what is asked.
PROGRAM = """
import os, sys, threading, time
if {imported_before!r}:  # as somebody would who has made placeholders of their own
    from tff_dp._compat.tff import finder, placeholders
    sys.meta_path[:] = [each for each in sys.meta_path if not isinstance(each, finder.Finder)]
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    with placeholders.placeholders():
        import tensorflow_federated
    made_before = tensorflow_federated.backends.native.create_sync_local_cpp_execution_context()
from tff_dp import execution, tff
import numpy as np

@tff.tensorflow.computation(np.int32)
def successor(x):
    return x + 1

contexts = tff.framework.get_context_stack()
# A worker must not end with the thread that has started it.
thread = threading.Thread(target=successor, args=(1,))
thread.start()
thread.join()
assert successor(1) == 2
kept = tff.backends.test.create_sync_test_cpp_execution_context()
with contexts.install(kept):
    assert successor(1) == 2
if {imported_before!r}:
    with contexts.install(made_before):
        assert successor(1) == 2
with execution.stock():
    print("ready", flush=True)
    {action}
"""


def start(action: str, imported_before=False, **streams) -> tuple[subprocess.Popen[str], list[int]]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(action=action, imported_before=imported_before)],
        stdout=subprocess.PIPE,
        text=True,
        **({"stderr": subprocess.DEVNULL} | streams),
    )
    lines = iter(process.stdout.readline, "")
    assert any(line == "ready\n" for line in lines)  # the workers may write something, too
    found = workers(process.pid)
    assert len(found) == 3 + imported_before
    return process, found


def read_to_the_end(stream) -> str:
    """Returns what is left in a pipe, if everybody has let its other end go."""
    found = ""
    while True:
        ready, _, _ = select.select([stream], [], [], 30)
        assert ready, "somebody holds the other end of the inherited pipe"
        text = os.read(stream.fileno(), 1 << 16).decode()
        if not text:
            return found
        found += text


@pytest.mark.slow
def test_no_worker_outlives_a_parent_that_is_killed_nor_leaves_a_pipe_open():
    process, started = start("time.sleep(600)")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert all(wait_until_gone(worker) for worker in started)
    read_to_the_end(process.stdout)
    process.stdout.close()


@pytest.mark.slow
def test_no_worker_outlives_an_exception_and_nothing_is_said_of_it_at_exit():
    process, started = start("raise ValueError('the only one')", stderr=subprocess.PIPE)
    said = read_to_the_end(process.stderr)
    assert process.wait() == 1
    assert all(wait_until_gone(worker) for worker in started)
    read_to_the_end(process.stdout)
    assert "ValueError: the only one" in said
    assert "ignored" not in said
    assert "NoneType" not in said
    process.stdout.close()
    process.stderr.close()


@pytest.mark.slow
def test_no_worker_outlives_a_parent_that_leaves_without_a_word_whoever_imported_tff():
    process, started = start("os._exit(4)", imported_before=True)
    assert process.wait() == 4
    assert all(wait_until_gone(worker) for worker in started)
    read_to_the_end(process.stdout)
    process.stdout.close()


FORKS = """
import os, subprocess, time
from tff_dp._compat.tff import watched_process
watched = watched_process.Watched(["/bin/sleep", "1000"], subprocess.DEVNULL, subprocess.DEVNULL)
child = os.fork()
if child == 0:
    os.close(1)
    time.sleep(600)
print(watched.pid, child, flush=True)
os._exit(0)
"""


def test_a_child_that_its_parent_forks_does_not_keep_the_worker():
    process = subprocess.Popen([sys.executable, "-c", FORKS], stdout=subprocess.PIPE, text=True)
    watched, child = map(int, read_to_the_end(process.stdout).split())
    try:
        assert process.wait() == 0
        assert wait_until_gone(watched)
        state = pathlib.Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()[0]
        assert state not in "ZX"  # the child lives, asleep or not: else the test shows nothing
    finally:
        os.kill(child, signal.SIGKILL)
    process.stdout.close()


def test_a_worker_that_does_not_start_is_an_error_that_names_the_remedy(tff, monkeypatch, tmp_path):
    from tff_dp.errors import StackError

    broken = tmp_path / "worker_binary"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(worker_process, "_binary", lambda: broken)
    monkeypatch.setattr(worker_process, "_START_SECONDS", 1.0)
    with pytest.raises(StackError, match="log="), execution.stock():
        pass
