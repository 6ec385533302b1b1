"""Rounds on a Ray cluster on this machine, and in this process: `./run python -m benchmarks.cluster`.

For each workload, this process alone first, and then clusters of 1, 2 and 4 workers (one node, loopback).
Equal weights after two rounds are checked bit by bit before anything is timed. Printed are medians over
rounds: seconds a round, the speed-up over one worker, what a round takes beyond the workers' own time,
the bytes that the driver sends and that come back as sums, and the most memory of a
worker. With more workers than cores, workers wait for each other, and what is beyond them is not known.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
import warnings
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from benchmarks._measuring import machine
from benchmarks._reports import table
from benchmarks._systems import process_of
from benchmarks._workloads import W2, W3, Array, Workload

WORKLOADS = {"W2": W2, "W3": W3}
ROUNDS = {"W2": 5, "W3": 100}
_CHECKED = 2
_MIB, _KIB = 1 << 20, 1 << 10


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line.

    Returns:
      0 if all weights were equal, otherwise 1.
    """
    parser = argparse.ArgumentParser(prog="benchmarks.cluster", description=__doc__)
    parser.add_argument("--workers", default="1,2,4", help="(default: %(default)s)")
    parser.add_argument("--workloads", default="W2,W3", help="(default: %(default)s)")
    options = parser.parse_args(arguments)
    counts = [int(count) for count in options.workers.split(",")]
    found = machine()
    print(
        f"{found['cores']} cores, Python {found['python']}, load average {os.getloadavg()[0]:.1f}",
        flush=True,
    )
    rows, failed = [], 0
    for name in options.workloads.split(","):
        own, differing = measure(WORKLOADS[name], counts)
        rows += own
        failed += differing
    head = [
        "",
        "workers",
        "s a round",
        "speed-up",
        "beyond the workers, ms",
        "sent, KiB",
        "sums, KiB",
    ]
    print(table([*head, "worker, MiB"], rows))
    return 1 if failed else 0


def measure(workload: Workload, counts: list[int]) -> tuple[list[list[str]], int]:
    """Measures a workload.

    Args:
      workload: What to run.
      counts: The numbers of workers.

    Returns:
      The rows of a table, and how many clusters gave other weights.
    """
    import tff_dp
    from tff_dp import process
    from tff_dp.execution import Cluster

    x, y = workload.data()
    clients = tff_dp.Clients(x, y, workload.offsets())
    cohort = clients.cohort(range(workload.clients), batch_size=workload.batch_size)
    bound, learning = process_of(workload, None, clients, ROUNDS[workload.name])
    rows: list[list[str]] = []
    expected: list[Array] = []
    alone = one = 0.0
    differing = 0
    for count in (0, *counts):
        cluster = Cluster(address="local", local_cpus=count) if count else None
        seconds, weights, pool = _rounds(process, learning, bound, cohort, workload, cluster)
        middle = statistics.median(seconds)
        if pool is None:
            alone, expected = middle, weights
            rows.append([workload.name, "this process", f"{middle:.4g}", "", "", "", "", ""])
            continue
        one = one or middle
        same = all(a.tobytes() == b.tobytes() for a, b in zip(weights, expected, strict=True))
        differing += not same
        rounds = len(seconds)
        # Workers that run at the same time share the round.
        beyond = ""
        if count <= (os.cpu_count() or 1):
            beyond = f"{(middle - pool['seconds'] / rounds / count) * 1000:.1f}"
        rows.append(
            [
                workload.name,
                f"{count}" if same else f"{count}: OTHER WEIGHTS",
                f"{middle:.4g} ({middle / alone:.2f} of this process)",
                f"{one / middle:.2f}",
                beyond,
                f"{pool['put'] / rounds / _KIB:,.0f}",
                f"{pool['sums'] / rounds / _KIB:,.0f}",
                f"{pool['peak'] / _MIB:,.0f}",
            ]
        )
        print(*rows[-1], sep="  ", flush=True)
    return rows, differing


def _rounds(
    process: Any, learning: Any, bound: Any, cohort: Any, workload: Workload, cluster: Any
) -> tuple[list[float], list[Array], dict[str, float] | None]:
    """Returns the seconds of rounds, the weights after those of the check, and the pool's counts."""
    from tff_dp import execution

    xla = None if workload.convolves else True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a seed is not private; nothing here is
        with execution.fast(xla=xla, strict=True, seed=1, cluster=cluster) as context:
            state = process.initialize_from(learning, bound.initial_weights)
            for _ in range(_CHECKED):  # compiles, and starts workers
                state = learning.next(state, cohort).state
            weights = list(process.model_weights(learning, state).trainable)
            pool = context.settings.pool
            before = pool and (pool.counts.seconds, pool.counts.sent_bytes, pool.counts.sum_bytes)
            seconds = []
            for _ in range(ROUNDS[workload.name]):
                begin = time.perf_counter()
                state = learning.next(state, cohort).state
                seconds.append(time.perf_counter() - begin)
            if pool is None:
                return seconds, weights, None
            counts = pool.counts
            return (
                seconds,
                weights,
                {
                    "seconds": counts.seconds - before[0],
                    "put": counts.sent_bytes - before[1],
                    "sums": counts.sum_bytes - before[2],
                    "peak": max(counts.workers.values()),
                },
            )


if __name__ == "__main__":
    sys.exit(main())
