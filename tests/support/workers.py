"""Which worker processes of TensorFlow Federated run below a process, and whether one has ended."""

from __future__ import annotations

import pathlib
import time


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
