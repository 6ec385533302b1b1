"""Runs cases one after another, and writes a line of JSON for whatever happens.

`python -m tests.fuzz.worker SEED FIRST LAST STOP`: the cases of these numbers, until the time STOP (of
`time.time`). A case of its own comes as text: `python -m tests.fuzz.worker --this CASE`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
os.environ.setdefault("AUTOGRAPH_VERBOSITY", "0")


def hush() -> None:
    """Leaves out TensorFlow's messages: a fuzz makes many on purpose."""
    import logging

    import absl.logging
    import tensorflow as tf

    tf.get_logger().setLevel(logging.CRITICAL + 1)
    absl.logging.set_verbosity(absl.logging.FATAL)


def say(event: str, **more: Any) -> None:
    """Writes what happens for the parent to read."""
    print(json.dumps({"event": event, **more}), file=_out, flush=True)


_out = sys.stdout


def main(arguments: list[str]) -> None:
    """Runs the command line."""
    global _out
    # TensorFlow and programs print to standard output, too: the parent gets a copy of its own.
    _out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    hush()
    from tests.fuzz import examining
    from tests.fuzz.cases import Case

    examiner = examining.Examiner()
    say("ready")
    try:
        if arguments[0] == "--this":
            case = Case.loads(arguments[1])
            say("faults", faults=[fault.kind for fault in examiner.faults(case)])
            return
        seed, first, last = (int(word) for word in arguments[:3])
        _run(seed, range(first, last), float(arguments[3]), tuple(arguments[4:]), examiner)
        say("counts", counts=dict(examiner.counts))
    finally:
        examiner.close()


def _run(seed: int, numbers: range, stop: float, only: tuple[str, ...], examiner: Any) -> None:
    import dataclasses

    from tests.fuzz import kinds, shrinking
    from tests.fuzz.finding import Finding

    known: list[Finding] = []
    for number in numbers:
        if time.time() > stop:
            return
        say("draw", number=number)
        case = kinds.draw(seed, number, only)
        say("start", number=number, case=case.dumps())
        faults = examiner.faults(case)
        failing = tuple(fault.asked for fault in faults)
        asked = tuple(a if "@" in a else f"{a}@" for a in case.settings)
        passing = tuple(a for a in asked if not any(f.startswith(a) for f in failing))
        shown: set[str] = set()
        for fault in faults:
            # One of the settings that fail in one way is enough: the others are named beside it.
            if fault.kind in shown:
                continue
            alone = dataclasses.replace(case, settings=(fault.asked,))
            if any(finding.covers(alone, fault) for finding in known):
                shown.add(fault.kind)
                say("again", number=number)
                continue
            smallest, least = shrinking.shrunk(case, fault, examiner)
            found = Finding(seed, number, smallest, least, failing, passing)
            shown.add(fault.kind)
            known.append(found)
            say("finding", finding=found.dumps())


if __name__ == "__main__":
    main(sys.argv[1:])
