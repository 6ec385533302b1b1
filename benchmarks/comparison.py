"""Rounds here and in other frameworks: `./run python -m benchmarks.comparison`.

W1, W2 and W3 (`benchmarks/_workloads.py`), without and with central differential privacy, in tff_dp, pfl,
Flower and FedJAX: each framework's own federated averaging on the same data from one file, in a process
of a virtual environment of its own, which is made from `benchmarks/environments/NAME.txt` at the first
call. Before the clock starts, two rounds without noise have to end at the weights of tff_dp. `--write`
puts the tables into `benchmarks/README.md` and `README.md`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any

import numpy as np

from benchmarks import _environments, _measuring
from benchmarks._reports import table
from benchmarks._workloads import W1, W2, W3, Array, Privacy, Workload
from benchmarks.peers.task import load_outcome, save_task

ROOT = _environments.ROOT
WORKLOADS = {workload.name: workload for workload in (W1, W2, W3)}
CHECKED_ROUNDS = 2
# How far apart the weights may be, over the largest change of one. In a network with maxima and
# rectifiers, a near tie goes one way here and the other way there; a missing client moves it further.
# Flower sums the weights of 1,000 clients in float32, not their updates, and loses up to 2e-3 of a
# change that clipping has made small (W3); one missing client moves the weights by 1e-2 of it.
TOLERANCES = {"W1": 1e-3, "W2": 1e-2, "W3": 4e-3}
# Every update is longer than this bound, so that the check sees clipping.
CLIPPED = Privacy(clip_norm=0.01, noise_multiplier=0.0)
_MIB = 1 << 20
_IDLE = 0.5  # load average
_PATIENCE = 180.0  # seconds to wait for an idle machine, such as after environments have been made


@dataclasses.dataclass(frozen=True)
class Framework:
    """A framework.

    Attributes:
      title: For tables.
      package: Whose version is shown.
      environment: For `benchmarks._environments.python`; None for this one.
      private: Whether it has central differential privacy.
      rounds: Timed rounds of each workload.
    """

    title: str
    package: str
    environment: str | None
    private: bool
    rounds: dict[str, int]


FRAMEWORKS = {
    "tff_dp": Framework("tff_dp", "tff_dp", None, True, {"W1": 100, "W2": 5, "W3": 100}),
    "pfl": Framework("pfl", "pfl", "pfl", True, {"W1": 100, "W2": 5, "W3": 10}),
    "flower": Framework("Flower", "flwr", "flower", True, {"W1": 10, "W2": 3, "W3": 3}),
    "fedjax": Framework("FedJAX", "fedjax", "fedjax", False, {"W1": 100, "W2": 5, "W3": 10}),
}
REFERENCE = "tff_dp"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What was measured of a framework on a workload.

    Attributes:
      seconds: Of each timed round after the first.
      first_round_after: Seconds from the start of Python to the end of the first round.
      peak_bytes: Resident memory of the process and its children, the sum of their peaks.
      apart: How far its weights are from those of the reference after the rounds of the check, over the
        largest change of a weight.
    """

    seconds: list[float]
    first_round_after: float
    peak_bytes: int
    apart: float


Rows = dict[str, dict[str, Outcome | None]]
"""By the label of a row and the framework; None where it failed."""


def apart(weights: Sequence[Array], expected: Sequence[Array], initial: Sequence[Array]) -> float:
    """Returns the largest difference of two weights, over the largest change from the initial ones.

    Weights are float32, and a framework that averages them, in place of updates, rounds each to that: a
    difference of one unit of the largest weight's last digits counts as none.
    """
    if [w.shape for w in weights] != [w.shape for w in expected]:
        return float("inf")
    change = max(float(np.abs(a - b).max()) for a, b in zip(expected, initial, strict=True))
    unit = float(np.finfo(np.float32).eps) * max(float(np.abs(w).max()) for w in initial)
    most = max(float(np.abs(a - b).max()) for a, b in zip(weights, expected, strict=True))
    return max(most - unit, 0.0) / change


def measure(names: Sequence[str], workload: Workload, privacy: Privacy | None) -> dict[str, Any]:
    """Measures frameworks on a workload, one after another; the reference has to be the first.

    Args:
      names: The frameworks.
      workload: What to run.
      privacy: How updates are clipped and noised; None for neither.

    Returns:
      An `Outcome` for each, or None for one that failed, whose last words go to standard error.
    """
    found: dict[str, Outcome | None] = {}
    expected: list[Array] | None = None
    with tempfile.TemporaryDirectory() as folder:
        checked = pathlib.Path(folder) / "checked.npz"
        save_task(checked, workload, CLIPPED if privacy else None, CHECKED_ROUNDS)
        for name in names:
            timed = pathlib.Path(folder) / f"timed-{name}.npz"
            save_task(timed, workload, privacy, 1 + FRAMEWORKS[name].rounds[workload.name])
            outcomes = [timed.with_name(f"{name}-{number}.npz") for number in range(2)]
            if not _run(name, [checked, outcomes[0], timed, outcomes[1]]):
                found[name] = None
                continue
            weights, first = load_outcome(outcomes[0])
            _, numbers = load_outcome(outcomes[1])
            expected = weights if expected is None else expected
            found[name] = Outcome(
                seconds=numbers["seconds"][1:],
                first_round_after=first["first_round_after"],
                peak_bytes=numbers["peak_bytes"],
                apart=apart(weights, expected, workload.initial_weights()),
            )
    return found


def _run(name: str, paths: Sequence[pathlib.Path]) -> bool:
    interpreter = _environments.python(FRAMEWORKS[name].environment)
    command = [interpreter, "-m", "benchmarks.peers", name, repr(time.monotonic())]
    quiet = {
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "GRPC_VERBOSITY": "ERROR",
        "FLWR_TELEMETRY_ENABLED": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [*command, *map(str, paths)],
        env=os.environ | quiet,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        last_words = "\n".join(done.stdout.splitlines()[-15:])
        print(f"{name}: exit code {done.returncode}\n{last_words}", file=sys.stderr)
    return done.returncode == 0


# --- Tables ----------------------------------------------------------------------------------------


def cell(outcome: Outcome | None, reference: Outcome | None) -> str:
    """Returns the median of the seconds a round, and how many times the reference's that is."""
    if outcome is None:
        return "failed"
    median = statistics.median(outcome.seconds)
    if reference is None or outcome is reference:
        return f"{median:.3g} s"
    return f"{median:.3g} s ({median / statistics.median(reference.seconds):.3g})"


def seconds_table(rows: Rows, names: Sequence[str], versions: dict[str, str]) -> str:
    """Returns the table of medians, a row a workload and a column a framework."""
    head = ["", *(f"{FRAMEWORKS[name].title} {versions[name]}" for name in names)]
    body = [
        [
            label,
            *(cell(row[n], row.get(REFERENCE)) if n in row else "has none" for n in names),
        ]
        for label, row in rows.items()
    ]
    return table(head, body)


def details_table(rows: Rows) -> str:
    """Returns the table of everything else that was measured, a row a framework and workload."""
    body = []
    for label, row in rows.items():
        for name, outcome in row.items():
            if outcome is None:
                body.append([label, FRAMEWORKS[name].title, "failed", "", "", "", ""])
                continue
            low, _, high = statistics.quantiles(outcome.seconds, n=4, method="inclusive")
            body.append(
                [
                    label,
                    FRAMEWORKS[name].title,
                    str(len(outcome.seconds)),
                    f"{low:.3g} to {high:.3g}",
                    f"{outcome.first_round_after:.1f}",
                    f"{outcome.peak_bytes / _MIB:,.0f}",
                    "the reference" if name == REFERENCE else f"{outcome.apart:.1g}",
                ]
            )
    head = ["", "", "rounds", "quartiles, s", "first round after, s", "peak memory, MiB", "apart"]
    return table(head, body)


def different(rows: Rows) -> list[str]:
    """Returns a line for each framework that failed or did not compute what the reference did."""
    lines = []
    for label, row in rows.items():
        tolerance = TOLERANCES[label.split(",")[0]]
        for name, outcome in row.items():
            if outcome is None:
                lines.append(f"{label}: {FRAMEWORKS[name].title} failed")
            elif not outcome.apart < tolerance:
                lines.append(
                    f"{label}: the weights of {FRAMEWORKS[name].title} are {outcome.apart:.2g} apart, "
                    f"above {tolerance}"
                )
    return lines


def replaced(text: str, mark: str, part: str) -> str:
    """Returns a page with another text between `<!-- mark -->` and `<!-- end of mark -->`."""
    pattern = rf"(<!-- {mark} -->\n).*?(<!-- end of {mark} -->)"
    changed, count = re.subn(pattern, lambda m: f"{m[1]}\n{part}\n\n{m[2]}", text, flags=re.S)
    if count != 1:
        raise SystemExit(f"The page has no part between <!-- {mark} --> and its end.")
    return changed


# --- The command -----------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns 1 if a framework failed or computed something else, otherwise 0."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.write and (options.workloads, options.frameworks) != (
        list(WORKLOADS),
        list(FRAMEWORKS),
    ):
        parser.error("--write needs all workloads and frameworks, which the pages have")
    names = [REFERENCE, *(name for name in options.frameworks if name != REFERENCE)]
    for name in names:
        _environments.python(FRAMEWORKS[name].environment)  # made before anything is measured
    wait_until_idle()
    circumstances = _circumstances()
    print(circumstances, flush=True)
    begin = time.monotonic()
    rows: Rows = {}
    for workload in (WORKLOADS[name] for name in options.workloads):
        for privacy in (None, Privacy()):
            chosen = [n for n in names if FRAMEWORKS[n].private or privacy is None]
            label = f"{workload.name}, with DP" if privacy else workload.name
            rows[label] = measure(chosen, workload, privacy)
            print(label, {n: cell(o, None) for n, o in rows[label].items()}, flush=True)
    versions = {name: _version(name) for name in names}
    short = seconds_table(rows, names, versions)
    long = f"{circumstances}\n\n{short}\n\n{details_table(rows)}"
    print(f"\n{long}\n\n{time.monotonic() - begin:.0f} seconds in all")
    if options.json:
        found = {k: {n: o and dataclasses.asdict(o) for n, o in r.items()} for k, r in rows.items()}
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    wrong = different(rows)
    print(*wrong, sep="\n")
    if options.write and not wrong:
        for page, part in (
            ("benchmarks/README.md", long),
            ("README.md", f"{circumstances}\n\n{short}"),
        ):
            path = ROOT / page
            path.write_text(replaced(path.read_text(encoding="utf-8"), "comparison", part), "utf-8")
    return 1 if wrong else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks.comparison", description=__doc__)
    for option, known in (("--workloads", list(WORKLOADS)), ("--frameworks", list(FRAMEWORKS))):
        parser.add_argument(option, type=_some_of(known), default=known, metavar=",".join(known))
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="where all numbers go")
    parser.add_argument("--write", action="store_true", help="put the tables into the pages")
    return parser


def _some_of(known: Sequence[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        unknown = set(text.split(",")) - set(known)
        if unknown:
            raise argparse.ArgumentTypeError(f"expected some of {','.join(known)}: {text!r}")
        return [name for name in known if name in text.split(",")]

    return parse


def wait_until_idle() -> None:
    """Waits until the load average is that of an idle machine, but not longer than `_PATIENCE`."""
    begin = time.monotonic()
    while os.getloadavg()[0] > _IDLE and time.monotonic() - begin < _PATIENCE:
        time.sleep(5)


def _circumstances() -> str:
    found = _measuring.machine()
    model = re.search(r"^model name\s*:\s*(.*)$", pathlib.Path("/proc/cpuinfo").read_text(), re.M)
    load = os.getloadavg()[0]
    text = (
        f"{found['cores']} cores ({model[1] if model else 'unknown'}), "
        f"{found['memory_bytes'] / 2**30:.0f} GiB, Python {found['python']}, {time.strftime('%F')}."
    )
    if load > _IDLE:
        text += f" The machine was busy (load average {load:.1f}): this is no measurement."
    return text


def _version(name: str) -> str:
    framework = FRAMEWORKS[name]
    if framework.environment is None:
        return metadata.version(framework.package)
    program = f"from importlib import metadata; print(metadata.version({framework.package!r}))"
    interpreter = _environments.python(framework.environment)
    return subprocess.run(
        [interpreter, "-c", program], stdout=subprocess.PIPE, text=True, check=True
    ).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
