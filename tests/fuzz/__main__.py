"""`./run fuzz`: runs random computations in child processes, and prints a program for each fault."""

from __future__ import annotations

import argparse
import collections
import json
import os
import pathlib
import secrets
import select
import subprocess
import sys
import tempfile
import time
from typing import Any

from tests.fuzz import kinds
from tests.fuzz.cases import Case
from tests.fuzz.examining import Fault
from tests.fuzz.finding import Finding

COMMAND = [sys.executable, "-P", "-m", "tests.fuzz.worker"]
_CASES_A_PROCESS = 150  # TensorFlow keeps what it has traced: a process gets slow and large
_HANG_SECONDS = 400.0  # without a case's end


class Run:
    """A run of the fuzz.

    Args:
      seed: Of its cases.
      only: What to draw; all by default.
      folder: Where programs go.
    """

    def __init__(self, seed: int, only: tuple[str, ...], folder: pathlib.Path) -> None:
        self._seed, self._only, self._folder = seed, only, folder
        self.findings: list[Finding] = []
        self.counts: collections.Counter[str] = collections.Counter()

    def cases(self, first: int, last: int, stop: float) -> None:
        """Runs the cases of some numbers until a time; processes that end before are followed by others."""
        while first < last and time.time() < stop:
            end = min(first + _CASES_A_PROCESS, last)
            first = self._process(first, end, stop)

    def _process(self, first: int, last: int, stop: float) -> int:
        """Runs cases in a process; returns the number of the next case."""
        arguments = [str(self._seed), str(first), str(last), str(stop), *self._only]
        current: tuple[int, str | None] | None = None
        counted = False
        with Child(arguments) as child:
            for event in child.events():
                kind = event["event"]
                if kind == "draw":
                    current = event["number"], None
                elif kind == "start":
                    current = event["number"], event["case"]
                    self.counts["cases"] += 1
                elif kind == "finding":
                    self._found(Finding.loads(event["finding"]))
                elif kind == "again":
                    self.counts["faults like one that is shown"] += 1
                elif kind == "counts":
                    counted = True
                    self.counts += collections.Counter(event["counts"])
            ended = child.ended()
        if counted:
            return last
        if current is None:
            raise SystemExit(
                f"fuzz: a process ended ({ended}) before its first case; see {child.log}"
            )
        number, text = current
        if text is None:  # what draws cases is at fault, not what is tested
            print(f"fuzz: case {number} cannot be drawn ({ended}); see {child.log}", flush=True)
            self.counts["not drawn"] += 1
            return number + 1
        fault = Fault("every setting", "", "crash", f"the process ended: {ended}")
        self._found(Finding(self._seed, number, Case.loads(text), fault, (ended,), ()))
        return number + 1

    def _found(self, finding: Finding) -> None:
        if any(
            f.fault.kind == finding.fault.kind and f.covers(finding.case, finding.fault)
            for f in self.findings
        ):
            self.counts["faults like one that is shown"] += 1
            return
        self.findings.append(finding)
        path = finding.write(self._folder)
        print(f"\n# {path}\n{finding.text()}", flush=True)


class Child:
    """A worker process.

    Args:
      arguments: Of `tests.fuzz.worker`.
    """

    def __init__(self, arguments: list[str]) -> None:
        handle, self.log = tempfile.mkstemp(prefix="tff_dp_fuzz_", suffix=".log")
        self._hung = False
        with os.fdopen(handle, "w") as log:
            self._process = subprocess.Popen(
                [*COMMAND, *arguments],
                stdout=subprocess.PIPE,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: Any) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()

    def events(self) -> Any:
        """Yields what the process says, until it ends or hangs."""
        assert self._process.stdout is not None
        held = b""
        stream = self._process.stdout.fileno()
        while True:
            ready, _, _ = select.select([stream], [], [], _HANG_SECONDS)
            if not ready:
                self._hung = True
                return
            more = os.read(stream, 1 << 16)
            if not more:
                return
            *lines, held = (held + more).split(b"\n")
            for line in lines:
                yield json.loads(line)

    def ended(self) -> str:
        """Returns how the process ended, in words."""
        if self._hung:
            return f"no case ended for {_HANG_SECONDS:.0f} seconds"
        code = self._process.wait()
        return f"signal {-code}" if code < 0 else f"exit code {code}"


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="./run fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="how long to run (default: 5)")
    parser.add_argument("--seed", type=int, help="of the cases (default: a new one, printed)")
    parser.add_argument("--case", type=int, help="only the case of this number")
    parser.add_argument(
        "--only", nargs="+", default=[], choices=list(kinds.DRAWS), help="draw only these kinds"
    )
    parser.add_argument(
        "--out", type=pathlib.Path, help="folder of the programs (default: a new one)"
    )
    given = parser.parse_args(arguments)
    seed = secrets.randbelow(10**6) if given.seed is None else given.seed
    folder = given.out or pathlib.Path(tempfile.mkdtemp(prefix="tff_dp_fuzz_"))
    print(f"fuzz: seed {seed}; programs of what is found go to {folder}", flush=True)
    run = Run(seed, tuple(given.only), folder)
    start = time.time()
    first, last = (0, 10**9) if given.case is None else (given.case, given.case + 1)
    run.cases(first, last, start + 60 * given.minutes)
    print(
        f"\nfuzz: seed {seed}, {(time.time() - start) / 60:.1f} minutes, {len(run.findings)} found"
    )
    for name, count in sorted(run.counts.items()):
        print(f"  {count:6d} {name}")
    for finding in run.findings:
        print(f"  case {finding.number}: {finding.title()}")
    return 1 if run.findings else 0


if __name__ == "__main__":
    sys.exit(main())
