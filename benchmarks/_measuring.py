"""Measures systems, each in a process of its own, in turns.

A machine that is shared is now faster and now slower. So all processes are alive together, but one runs
at a time, a turn each, again and again: whatever else the machine does meets all of them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from benchmarks import _environments
from benchmarks._systems import SYSTEMS, System, Task
from benchmarks._workloads import WORKLOADS, Privacy, Workload

_TURN_SECONDS = 0.1  # of calls in a turn, at least: short rounds are timed more often
_MOST_IN_A_TURN = 100  # calls
_TURNS_OF_MANY = 5  # of a system that runs several rounds in a call
_STDERR_LINES = 15
_ENVIRONMENT = {"TF_CPP_MIN_LOG_LEVEL": "3", "GRPC_VERBOSITY": "ERROR"}


@dataclasses.dataclass(frozen=True)
class Job:
    """What to measure.

    Attributes:
      workload: Its name.
      clients: Clients a round; may differ from the workload's own.
      private: Whether with central differential privacy.
      system: Its name.
      rounds: Rounds to time after the first, at least.
    """

    workload: str
    clients: int
    private: bool
    system: str
    rounds: int

    @property
    def turns(self) -> int:
        """Turns to take after the first call."""
        per_call = SYSTEMS[self.system].rounds_a_call(workload_of(self))
        return max(-(-self.rounds // per_call), min(self.rounds, _TURNS_OF_MANY))

    def __str__(self) -> str:
        private = ", with DP" if self.private else ""
        return f"{self.workload}{private}, {self.clients} clients, {self.system}"


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What was measured.

    Attributes:
      job: What was to be measured.
      imports: Seconds from the start of the process until all modules were imported.
      setup: Seconds until the first round could begin; without making the random data.
      first_round: Seconds of the first round, or of the first call where that runs several.
      seconds: Seconds a round of each call after it.
      peak_bytes: Resident memory: the sum of the peaks of the process and of its children.
      data_bytes: The clients' examples.
      dataset_seconds: What making the clients' data sets took, which is part of `setup`; or None.
      loss: The training loss of the last round.
    """

    job: Job
    imports: float
    setup: float
    first_round: float
    seconds: list[float]
    peak_bytes: int
    data_bytes: int
    dataset_seconds: float | None
    loss: float

    @property
    def median(self) -> float:
        """The median of the seconds a round."""
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The first and the third quartile of the seconds a round."""
        if len(self.seconds) < 2:
            return self.median, self.median
        first, _, third = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return first, third

    @property
    def startup(self) -> float:
        """Seconds from the start of the process to the end of the first round."""
        return self.imports + self.setup + self.first_round

    def as_dict(self) -> dict[str, Any]:
        """Returns everything, what is derived included, for JSON."""
        derived = {"median": self.median, "quartiles": self.quartiles, "startup": self.startup}
        return dataclasses.asdict(self) | derived


def workload_of(job: Job) -> Workload:
    """Returns the job's workload with the job's clients."""
    return dataclasses.replace(WORKLOADS[job.workload], clients=job.clients)


def measure(jobs: Sequence[Job], script: pathlib.Path) -> list[Measurement | None]:
    """Measures jobs, each in a new process: one start-up after another, then rounds in turns.

    Args:
      jobs: What to measure.
      script: A script that passes the value of its option --job to `work`.

    Returns:
      What was measured; None for a process that failed, whose last words then go to standard error.
    """
    with contextlib.ExitStack() as stack:
        processes = [_Process(job, script, stack) for job in jobs]
        most = max(job.turns for job in jobs)
        for turn in range(most):
            for process in processes:
                # Spreads the turns of a job that has fewer of them.
                if (turn + 1) * process.job.turns // most > turn * process.job.turns // most:
                    process.take_turn()
        return [process.finish() for process in processes]


class _Process:
    """A process that does a job, a turn whenever it is told to.

    It answers with a line to its start-up, and to each line that it is sent; and, when there are no more,
    with what it measured.

    Args:
      job: Its job.
      script: See `measure`.
      stack: Ends it.
    """

    def __init__(self, job: Job, script: pathlib.Path, stack: contextlib.ExitStack) -> None:
        self.job = job
        task = json.dumps({"job": dataclasses.asdict(job), "started": time.monotonic()})
        stderr = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        self._stderr = stack.enter_context(stderr)
        self._process = stack.enter_context(
            subprocess.Popen(
                [_environments.python(SYSTEMS[job.system].environment), str(script), "--job", task],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                text=True,
                env=_ENVIRONMENT | os.environ | {"PYTHONPATH": str(_environments.ROOT)},
            )
        )
        stack.callback(self._process.kill)
        self._answer()

    def take_turn(self) -> None:
        """Has the process take a turn, and waits for its end."""
        with contextlib.suppress(BrokenPipeError):
            print(file=self._process.stdin, flush=True)
        self._answer()

    def finish(self) -> Measurement | None:
        """Ends the process; returns what it measured, or None if it failed."""
        out, _ = self._process.communicate()
        if self._process.returncode == 0:
            return Measurement(**(json.loads(out) | {"job": self.job}))
        self._stderr.seek(0)
        last_words = "".join(self._stderr.readlines()[-_STDERR_LINES:])
        print(f"{self.job}: exit code {self._process.returncode}\n{last_words}", file=sys.stderr)
        return None

    def _answer(self) -> None:
        assert self._process.stdout is not None
        self._process.stdout.readline()  # empty where the process has ended, as `finish` will find


def work(task: str) -> None:
    """Does a job in this process: the other side of `_Process`.

    Args:
      task: The job and when the process was started, as JSON.
    """
    # Whatever else is printed goes to standard error.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    parsed = json.loads(task)
    job, started = Job(**parsed["job"]), float(parsed["started"])
    kind, workload = SYSTEMS[job.system], workload_of(job)
    kind.load()
    # The monotonic clock is the system's, so that the parent's reading of it counts here.
    imported = time.monotonic()
    x, y = workload.data()
    generated = time.monotonic()
    with contextlib.ExitStack() as stack:
        privacy = Privacy() if job.private else None
        calls = 1 + job.turns * _MOST_IN_A_TURN
        system = kind(Task(workload, privacy, x, y, calls=calls), stack)
        set_up = time.monotonic()
        loss = system.run()
        first_round = time.monotonic() - set_up
        print(file=answers, flush=True)
        seconds: list[float] = []
        for _ in sys.stdin:
            loss = _take_turn(system, seconds)
            print(file=answers, flush=True)
        peak = peak_bytes()
    measurement = Measurement(
        job=job,
        imports=imported - started,
        setup=set_up - generated,
        first_round=first_round,
        seconds=[second / kind.rounds_a_call(workload) for second in seconds],
        peak_bytes=peak,
        data_bytes=x.nbytes + y.nbytes,
        dataset_seconds=system.dataset_seconds,
        loss=loss,
    )
    print(json.dumps(dataclasses.asdict(measurement)), file=answers, flush=True)


def _take_turn(system: System, seconds: list[float]) -> float:
    """Calls a system, often if it is fast, and adds the seconds of each call; returns the loss."""
    begin = now = time.monotonic()
    for _ in range(_MOST_IN_A_TURN):
        loss = system.run()
        before, now = now, time.monotonic()
        seconds.append(now - before)
        if now - begin >= _TURN_SECONDS:
            break
    return loss


def peak_bytes() -> int:
    """Returns the sum of the peaks of resident memory of this process and its descendants.

    Linux keeps each process's peak, so that looking once, at the end, misses none. The peaks may have
    been at different times: the sum bounds the peak of all together.
    """
    parents, peaks = {}, {}
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, KeyError):  # it has ended, or is the kernel's
            lines = (folder / "status").read_text().splitlines()
            fields = dict(line.split(":", 1) for line in lines)
            peaks[int(folder.name)] = 1024 * int(fields["VmHWM"].split()[0])
            parents[int(folder.name)] = int(fields["PPid"])
    ours = {os.getpid()}
    while found := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= found
    return sum(peaks[pid] for pid in ours)


def machine() -> dict[str, Any]:
    """Returns what the numbers depend on: cores, memory in bytes, and versions."""
    from importlib import metadata

    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    packages: Sequence[str] = ("tensorflow", "tensorflow-federated", "tff_dp")
    return {
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": pages,
        "python": sys.version.split()[0],
        **{name: metadata.version(name) for name in packages},
    }
