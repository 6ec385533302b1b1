"""The command `tff-dp doctor`: whether the installation works, and what it lacks."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from typing import Any

from tff_dp.cli.findings import Finding

_SECONDS = 9.3  # after which the training check is stopped; the command takes less than ten
_WIDTH = 15


def add_options(command: argparse.ArgumentParser) -> None:
    """Adds the options of the command.

    Args:
      command: The parser of the command.
    """
    command.add_argument("--json", action="store_true", help="print an object instead of text")


def run(options: argparse.Namespace) -> int:
    """Runs all checks and prints what they have found.

    Args:
      options: The options of the command.

    Returns:
      The exit code: 0, or 1 if something does not work.
    """
    findings = examined(_SECONDS)
    failed = any(each.state == "error" for each in findings)
    if options.json:
        shown = [each._asdict() for each in findings]
        print(json.dumps({"works": not failed, "findings": shown}, indent=1))
    else:
        for each in findings:
            print(_text(each))
    return 1 if failed else 0


def examined(seconds: float) -> list[Finding]:
    """Runs all checks. Training is tried in a process of its own, while the others run.

    Args:
      seconds: The time after which the training is stopped.

    Returns:
      What has been found.
    """
    deadline = time.monotonic() + seconds
    child = subprocess.Popen(
        [sys.executable, "-m", "tff_dp.cli.training_check"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        from tff_dp.cli import examinations

        findings = examinations.all_without_tensorflow()
        try:
            output, errors = child.communicate(timeout=max(deadline - time.monotonic(), 0.1))
            ended = True
        except subprocess.TimeoutExpired:
            child.kill()
            output, errors = child.communicate()
            ended = False
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
    stages: dict[str, Any] = {}
    for line in output.splitlines():
        if line.startswith("{"):
            stages |= json.loads(line)
    return [*findings, *examinations.of_stages(stages, errors, ended, seconds)]


def _text(found: Finding) -> str:
    mark = {"ok": "ok      ", "note": "note    ", "warning": "WARNING ", "error": "ERROR   "}
    lines = [f"{mark[found.state]}{found.name:{_WIDTH}}{found.text}"]
    if found.remedy:
        lines.append(f"{' ' * (8 + _WIDTH)}{found.remedy}")
    return "\n".join(lines)
