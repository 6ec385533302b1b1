"""Stock TFF whose worker ends with the block, with Python, and with `kill -9`."""

from __future__ import annotations

import os
import pathlib
import select
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tff_dp import execution

pytestmark = pytest.mark.heavy


def workers(parent: int) -> list[int]:
    """Returns the process ids of TFF workers below a process."""
    children: dict[int, list[int]] = {}
    commands = {}
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text()
            commands[int(folder.name)] = (folder / "cmdline").read_text()
        except OSError:
            continue  # it has ended since
        children.setdefault(int(stat.rsplit(")", 1)[1].split()[1]), []).append(int(folder.name))
    found, pending = [], [parent]
    while pending:
        for child in children.get(pending.pop(), []):
            pending.append(child)
            if "worker_binary" in commands[child] and not commands[child].startswith("/bin/sh"):
                found.append(child)
    return found


def wait_until_gone(process: int) -> bool:
    for _ in range(1200):  # a minute: only a worker that stays is waited for so long
        status = pathlib.Path(f"/proc/{process}/stat")
        if not status.exists() or status.read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False


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
    monkeypatch.setattr(sys.modules["tff_dp.execution.fast"], "is_managed", lambda context: False)
    with execution.current_or_fast(xla=xla) as context:
        assert context is not stock
        assert context.settings.xla is xla


PROGRAM = """
import sys, time
from tff_dp import execution, tff
with execution.stock():
    print("ready", flush=True)
    {action}
"""


def start(action: str) -> tuple[subprocess.Popen[str], int]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(action=action)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    (worker,) = workers(process.pid)
    return process, worker


def test_the_worker_ends_when_its_parent_is_killed_and_leaves_no_pipe_open():
    process, worker = start("time.sleep(600)")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert wait_until_gone(worker)
    # End of file: nobody holds the other end of the inherited pipe any more.
    ready, _, _ = select.select([process.stdout], [], [], 60)
    assert ready
    assert process.stdout.read() == ""
    process.stdout.close()


def test_the_worker_ends_when_python_exits_inside_the_block():
    process, worker = start("sys.exit(3)")
    assert process.wait() == 3
    process.stdout.close()
    assert wait_until_gone(worker)


def test_a_worker_that_does_not_start_is_an_error_that_names_the_remedy(tff, monkeypatch, tmp_path):
    from tff_dp.errors import StackError

    broken = tmp_path / "worker_binary"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    stock_module = sys.modules["tff_dp.execution.stock"]
    monkeypatch.setattr(stock_module, "_binary", lambda: broken)
    monkeypatch.setattr(stock_module, "_START_SECONDS", 1.0)
    with pytest.raises(StackError, match="log="), execution.stock():
        pass
