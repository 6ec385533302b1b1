"""What a round costs: on stock TFF, here, and in plain TensorFlow written by hand.

`./run python benchmarks/execution.py` measures eight workloads, with and without central differential
privacy (clip norm 1, noise multiplier 1), or with DP-SGD in the clients; `--pytorch` measures PyTorch as
well, in an environment of its own that it makes first; `--curve` measures one of them from 10 to 100,000
clients a round instead; `--check` shows that ours and the hand-written code compute the same thing. Every
system runs in a process of its own, and they take turns.
"""

from __future__ import annotations

import argparse
import json
import math
import pathlib
import statistics
import sys
from typing import Any

from benchmarks import _checking, _measuring, _reports
from benchmarks._measuring import Job, Measurement
from benchmarks._systems import SYSTEMS, default
from benchmarks._workloads import W3, WORKLOADS

_CURVE = (10, 100, 1000, 10_000, 100_000)  # clients a round
_NOTES = """\
- Timed: a round, from the call until its loss is in Python. "ours, arrays" and "ours, fused" make their
  cohorts, from arrays, in that time; "hand-written" slices its arrays in it.
- Not timed: what is made once, before the rounds: the data sets of "stock TFF" and "ours, data sets", and
  the tensors of "hand-vectorized". Making a data set in Python took {dataset_ms:.1f} ms a client here.
- "ours, fused": {fused} rounds in one call; its seconds are the call's, divided."""


def main(arguments: list[str] | None = None) -> int:
    """Runs the benchmark; returns the exit code: 0, or 1 if a process failed or a check did."""
    options = _parser().parse_args(arguments)
    if options.pytorch:
        options.systems = [
            name for name in SYSTEMS if name in options.systems or name not in default()
        ]
    if options.job:
        _measuring.work(options.job)
        return 0
    if options.check:
        results = [_checking.check(WORKLOADS[name], options.systems) for name in options.workloads]
        return 0 if all(results) else 1
    machine = _measuring.machine()
    print(
        f"{machine['cores']} cores, {machine['memory_bytes'] / 2**30:.0f} GiB, "
        f"Python {machine['python']}, TensorFlow {machine['tensorflow']}, "
        f"TFF {machine['tensorflow-federated']}"
    )
    measured = _curve(options) if options.curve else _compare(options)
    if options.json:
        found = {"machine": machine, "measured": [m.as_dict() for m in measured if m]}
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0 if all(measured) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks/execution.py", description=__doc__)
    add = parser.add_argument
    add("--workloads", type=_names(WORKLOADS), default=list(WORKLOADS), metavar="W1,...")
    add("--systems", type=_names(SYSTEMS), default=default(), metavar=",".join(SYSTEMS))
    add("--pytorch", action="store_true", help="measure PyTorch and Opacus as well")
    add(
        "--rounds",
        type=_positive,
        default=10,
        help="to time after the first, at least (default: 10)",
    )
    add("--stock-rounds", type=_positive, default=5, help="the same on stock TFF (default: 5)")
    add("--curve", action="store_true", help="measure the cost curve instead")
    add("--plot", type=pathlib.Path, metavar="PNG", help="where to draw the cost curve")
    add("--check", action="store_true", help="compare results, not times")
    add("--json", type=pathlib.Path, metavar="FILE", help="where to write all numbers")
    add("--job", help=argparse.SUPPRESS)  # in the processes that this one starts
    return parser


def _names(known: dict[str, Any]) -> Any:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        unknown = [name for name in names if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(
                f"{unknown[0]!r} is unknown: expected some of {','.join(known)}"
            )
        return names

    return parse


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number, at least 1")
    return int(text)


def _compare(options: argparse.Namespace) -> list[Measurement | None]:
    """Measures the systems on the workloads, and prints the tables."""
    rows: dict[str, _reports.Row] = {}
    for name in options.workloads:
        workload = WORKLOADS[name]
        print(
            f"{name}: {workload.title}; {workload.clients} clients of {workload.sizes} examples, "
            f"batches of {workload.batch_size}"
        )
        for private in (True,) if workload.local_steps else (False, True):
            jobs = [
                Job(
                    workload=name,
                    clients=workload.clients,
                    private=private,
                    system=system,
                    rounds=options.stock_rounds if system == "stock" else options.rounds,
                )
                for system in options.systems
                if SYSTEMS[system].supports(workload)
            ]
            found = _measure(jobs)
            label = f"{name}, with DP" if private and not workload.local_steps else name
            rows[label] = {job.system: m for job, m in zip(jobs, found, strict=True)}
    titles = {system: SYSTEMS[system].title for system in options.systems}
    tables = {
        "Seconds a round: median (quartiles)": _reports.seconds_cell,
        "Start-up in seconds: imports + setting up + first round (first call)": _reports.startup_cell,
        "Peak resident memory in MiB, worker process included": _reports.memory_cell,
    }
    for head, cell in tables.items():
        print(f"\n{head}\n\n{_reports.by_system(rows, titles, cell)}")
        if cell is _reports.seconds_cell:
            print(
                f"\nRatios of medians: above 1, ours is faster\n\n{_reports.ratios(rows, titles)}"
            )
    measured = [measurement for row in rows.values() for measurement in row.values()]
    print(f"\n{_notes(options.workloads, [m for m in measured if m])}")
    return measured


def _notes(workloads: list[str], measured: list[Measurement]) -> str:
    """Returns what is timed and what is not."""
    each = [m.dataset_seconds / m.job.clients for m in measured if m.dataset_seconds is not None]
    fused = ", ".join(f"{WORKLOADS[name].fused} ({name})" for name in workloads)
    return _NOTES.format(
        fused=fused, dataset_ms=1000 * statistics.median(each) if each else math.nan
    )


def _curve(options: argparse.Namespace) -> list[Measurement | None]:
    """Measures ours against the number of clients, and prints the table."""
    measured = _measure([Job(W3.name, n, True, "arrays", options.rounds) for n in _CURVE])
    points = [point for point in measured if point]
    if len(points) > 1:
        title = f"{W3.title}; {W3.examples} examples a client, central DP"
        line = _reports.Line.fit(points)
        print(f"\nCost curve: {title}\n\n{_reports.curve_table(points)}\n")
        print(
            f"Fit (least relative errors): {line.fixed:.3g} s + {line.a_thousand:.3g} s per 1000 clients"
        )
        if options.plot:
            cores = _measuring.machine()["cores"]
            _reports.plot_curve(points, f"{title}; {cores} cores", options.plot)
    return measured


def _measure(jobs: list[Job]) -> list[Measurement | None]:
    measured = _measuring.measure(jobs, pathlib.Path(__file__))
    for job, found in zip(jobs, measured, strict=True):
        result = f"{found.median:.3g} s a round" if found else "failed"
        print(f"{job}: {result}", file=sys.stderr, flush=True)
    return measured


if __name__ == "__main__":
    sys.exit(main())
