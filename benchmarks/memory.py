"""What a process needs: `./run python benchmarks/memory.py`.

Peak resident memory, in MiB, of processes that do one thing each: importing, accounting, and `fit` of W3
(`benchmarks/_workloads.py`) under a plan, with more rounds, more clients a round, and clients' data in a
file of 800 MB that is memory-mapped. Pages of files count while they are resident, although the system
can take them back at any time: the second number is what of them is resident at the end.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

ROOT = pathlib.Path(__file__).parent.parent

_PLAN = """
import numpy as np, tff_dp
def plan(population, rounds):
    return tff_dp.PrivacyPlan(
        mechanism=tff_dp.GaussianMechanism(clip_norm=1.0, noise_multiplier=1.0),
        population=population, cohort={cohort}, rounds=rounds, delta=0.1 / population)
"""
_FIT = (
    _PLAN
    + """
from benchmarks._workloads import W3
offsets = np.arange(0, 20 * {population} + 1, 20)
rng = np.random.default_rng(0)
y = rng.integers(10, size=offsets[-1]).astype(np.int32)
x = {x}
tff_dp.fit(W3.keras_model(), tff_dp.Clients(x, y, offsets), loss=W3.keras_loss(),
           privacy=plan({population}, {rounds}), batch_size=20)
"""
)
_IN_MEMORY = "rng.standard_normal((offsets[-1], 100), dtype=np.float32)"
_MAPPED = "np.lib.format.open_memmap({path!r}, mode='r')"
_CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "python": ("pass", {}),
    "import tff_dp": ("import tff_dp", {}),
    "the epsilon of a plan": (_PLAN + "plan(10_000, 1000).epsilon()", {"cohort": 100}),
    "import tff_dp, and TFF": ("from tff_dp import tff; tff.federated_computation", {}),
    "fit, 100 of 1,000 clients, 20 rounds": (
        _FIT,
        {"cohort": 100, "population": 1000, "rounds": 20, "x": _IN_MEMORY},
    ),
    "fit, 100 of 1,000 clients, 500 rounds": (
        _FIT,
        {"cohort": 100, "population": 1000, "rounds": 500, "x": _IN_MEMORY},
    ),
    "fit, 5,000 of 10,000 clients, 20 rounds": (
        _FIT,
        {"cohort": 5000, "population": 10_000, "rounds": 20, "x": _IN_MEMORY},
    ),
    "fit, 100 of 100,000 clients, 20 rounds, memory-mapped": (
        _FIT,
        {"cohort": 100, "population": 100_000, "rounds": 20, "x": _MAPPED},
    ),
}
_PEAK = """
import pathlib
lines = pathlib.Path('/proc/self/status').read_text().splitlines()
found = dict(line.split(':', 1) for line in lines)
print(*(int(found[name].split()[0]) >> 10 for name in ('VmHWM', 'RssFile')))
"""


def peak(program: str) -> tuple[int, int]:
    """Runs a program; returns its peak of resident memory and its pages of files at the end, in MiB."""
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program + _PEAK],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    most, files = done.stdout.split()[-2:]
    return int(most), int(files)


def write_numbers(path: pathlib.Path, rows: int) -> None:
    """Writes so many rows of 100 random numbers, a part at a time."""
    import numpy as np

    rng = np.random.default_rng(0)
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(rows, 100))
    for begin in range(0, rows, 100_000):
        part = array[begin : begin + 100_000]
        part[:] = rng.standard_normal(part.shape, dtype=np.float32)
    array.flush()


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="only cases with this in their name")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "x.npy"
        for label, (program, numbers) in _CASES.items():
            if options.only not in label:
                continue
            values = dict(numbers)
            if values.get("x") == _MAPPED:
                write_numbers(path, 20 * int(values["population"]))
                values["x"] = _MAPPED.format(path=str(path))
            text = program.format(**values) if values else program
            most, files = peak(text)
            print(f"{label:56s} {most:7,d} MiB {files:7,d} MiB", flush=True)


if __name__ == "__main__":
    main()
