"""What clients' data cost: `./run python benchmarks/data.py`.

Seconds to make `tff_dp.Clients` from each source, for clients of 20 examples of 100 numbers; milliseconds
to make a cohort of 1000 of them, from memory and from a file that is memory-mapped, and to make the same
cohort's data sets, as plain TFF takes them. Medians.
"""

from __future__ import annotations

import argparse
import importlib
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

EXAMPLES, FEATURES = 20, 100
COHORT = 1000
REPEATS = 5


def seconds(call: Callable[[], Any], repeats: int) -> float:
    """Returns the median of the seconds that a call takes."""
    found = []
    for _ in range(repeats):
        begin = time.perf_counter()
        call()
        found.append(time.perf_counter() - begin)
    return statistics.median(found)


def sources(count: int, repeats: int) -> dict[str, float]:
    """Returns the seconds in which each source makes so many clients."""
    import pandas as pd

    from tff_dp import data

    rng = np.random.default_rng(0)
    x = rng.standard_normal((count * EXAMPLES, FEATURES), dtype=np.float32)
    y = rng.integers(10, size=len(x)).astype(np.int32)
    owner = np.repeat(np.arange(count), EXAMPLES)
    names = [f"x{k}" for k in range(FEATURES)]
    frame = pd.DataFrame(x, columns=names).assign(client=owner, label=y)
    pairs = {str(k): (x[owner == k], y[owner == k]) for k in range(min(count, 1000))}
    calls: dict[str, Callable[[], Any]] = {
        "arrays and offsets: Clients": lambda: data.Clients(
            x, y, np.arange(0, len(x) + 1, EXAMPLES)
        ),
        "a column of names: by_column": lambda: data.by_column(x, y, owner),
        "drawn: iid": lambda: data.iid(x, y, clients=count, seed=0),
        "a pandas frame: from_frame": lambda: data.from_frame(
            frame, client="client", features=names, label="label"
        ),
        f"pairs of arrays, {len(pairs)} clients: from_arrays": lambda: data.from_arrays(pairs),
    }
    return {label: seconds(call, repeats) for label, call in calls.items()}


def cohorts(count: int, repeats: int) -> dict[str, float]:
    """Returns the seconds that a cohort takes."""
    from tff_dp import data

    size = min(COHORT, count)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((count * EXAMPLES, FEATURES), dtype=np.float32)
    y = rng.integers(10, size=len(x)).astype(np.int32)
    offsets = np.arange(0, len(x) + 1, EXAMPLES)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "x.npy"
        np.save(path, x)
        made = {
            "in memory": data.Clients(x, y, offsets),
            "memory-mapped": data.Clients(np.load(path, mmap_mode="r"), y, offsets),
        }

        def cohort(clients: Any) -> Any:
            chosen = rng.choice(count, size, replace=False)
            return clients.cohort(chosen, batch_size=20, shuffle=True, rng=rng)

        found = {
            f"a cohort, {label}": seconds(lambda c=clients: cohort(c), repeats)  # type: ignore[misc]
            for label, clients in made.items()
        }
        importlib.import_module("tensorflow")  # which the first data set would wait for
        found["its data sets"] = seconds(lambda: list(cohort(made["in memory"])), 1)
    return found


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clients", type=int, nargs="+", default=[1000, 20_000])
    parser.add_argument("--repeats", type=int, default=REPEATS)
    options = parser.parse_args()
    for count in options.clients:
        print(f"\n{count:,} clients of {EXAMPLES} examples of {FEATURES} numbers")
        for label, value in sources(count, options.repeats).items():
            print(f"{label:48s} {value:9.4f} s")
        for label, value in cohorts(count, options.repeats).items():
            print(f"{label:48s} {1000 * value:9.2f} ms")


if __name__ == "__main__":
    main()
