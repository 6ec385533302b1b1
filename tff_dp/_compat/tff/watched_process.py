"""A process that ends when this one does, however this one ends, `kill -9` included.

The process is a child of a shell that reads from a pipe whose other end this process holds. When this
process ends, the pipe closes, and the shell ends the child.
"""

from __future__ import annotations

import os
import subprocess
import weakref
from collections.abc import Sequence
from typing import Any

# $0 is the worker, $@ its arguments. The shell must ignore the terminal's interrupt: Ctrl-C ends a
# round, not the worker. `read` returns at end of file, that is, when the parent is gone.
_WATCHDOG = """
trap '' INT
"$0" "$@" </dev/null & worker=$!
read -r _
kill -9 "$worker"
wait "$worker"
"""


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
