"""A subprocess that ends when this process ends, even if this process is killed by `kill -9`.

The subprocess is a child of a shell that reads from a pipe, whose other end this process holds.
When this process ends, the pipe is closed, and the shell kills the child.
"""

from __future__ import annotations

import os
import subprocess
import weakref
from collections.abc import Sequence
from typing import Any

# $0 is the worker, $@ its arguments. The shell ignores the terminal's interrupt: Ctrl-C should end
# a round, not the worker. `read` returns at end of file, that is, when the parent process has
# ended.
_WATCHDOG = """
trap '' INT
"$0" "$@" </dev/null & worker=$!
read -r _
kill -9 "$worker"
wait "$worker"
"""


class Watched(subprocess.Popen[bytes]):
    """A subprocess that ends with this process. Its `pid` is that of the shell that watches the pipe.

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
            start_new_session=True,  # the terminal's signals reach only the parent process
        )
        _started.add(self)

    def wait(self, timeout: float | None = None) -> int:
        """Ends the process, and waits until it has ended.

        Args:
          timeout: The longest time to wait, in seconds; None for no limit.

        Returns:
          The exit code of the shell. As in `subprocess.Popen.wait`, a process that has not ended
          within `timeout` raises `subprocess.TimeoutExpired`.
        """
        self.let_go()
        return super().wait(timeout)

    def let_go(self) -> None:
        """Closes this end of the pipe, which ends the subprocess if no other process holds the pipe."""
        if self.stdin is not None and not self.stdin.closed:
            self.stdin.close()


_started: weakref.WeakSet[Watched] = weakref.WeakSet()


def _let_go_of_all() -> None:
    for process in list(_started):
        process.let_go()


# A child of `os.fork` inherits the pipe. If it outlived its parent, the pipe would stay open.
os.register_at_fork(after_in_child=_let_go_of_all)
