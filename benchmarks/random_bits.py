"""What random words of noise cost: `./run python benchmarks/random_bits.py`.

Philox in the graph beside AES-256 in counter mode as an argument of the graph
(`tff_dp.execution.fast(random_bits=...)`), medians with quartiles, the two taking turns in one run:

- a word of 64 bits: a server that draws a million words and adds them up, less one that draws one;
- a private round of W1 and of W3 (benchmarks/execution.py), and of a linear model with a million weights.
"""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import tff_dp
from benchmarks._systems import Arrays, Task
from benchmarks._workloads import W1, W3, Privacy
from tff_dp import execution
from tff_dp.noise.words import words

SOURCES = ("philox", "aes-ctr")
REPEATS = 41
WARM_UP = 3
COUNT = 1_000_000  # words, and weights


def timed(run: dict[str, Callable[[], Any]]) -> dict[str, list[float]]:
    """Returns the seconds of calls that take turns."""
    times: dict[str, list[float]] = {source: [] for source in run}
    for repeat in range(WARM_UP + REPEATS):
        for source in run if repeat % 2 else reversed(run):
            start = time.perf_counter()
            run[source]()
            if repeat >= WARM_UP:
                times[source].append(time.perf_counter() - start)
    return times


def show(what: str, times: dict[str, list[float]], unit: float, name: str) -> None:
    """Prints medians, with quartiles, and their ratio."""
    cells = []
    for source, seconds in times.items():
        low, middle, high = (each / unit for each in statistics.quantiles(seconds, n=4))
        cells.append(f"{source} {middle:.3g} {name} ({low:.3g} to {high:.3g})")
    a, b = (statistics.median(seconds) for seconds in times.values())
    print(f"{what}: {'; '.join(cells)}; ratio {b / a:.2f}")


def draws(count: int) -> Any:
    """Returns a computation whose server draws words and adds them up."""
    import tensorflow as tf

    tff = tff_dp.tff

    @tff.tensorflow.computation(np.int32, np.float32)
    def update(state: Any, total: Any) -> Any:
        del total
        return state, tf.reduce_sum(words([count]))

    server = tff.FederatedType(np.int32, tff.SERVER)
    clients = tff.FederatedType(np.float32, tff.CLIENTS)

    @tff.federated_computation(server, clients)
    def take_round(state: Any, values: Any) -> Any:
        both = tff.federated_map(update, (state, tff.federated_sum(values)))
        return both[0], both[1]

    return take_round


def in_context(source: str, run: Callable[[], Any], **settings: Any) -> Callable[[], Any]:
    """Returns a function that runs in a context of its own, which is kept."""
    context = contextlib.ExitStack().enter_context(
        execution.fast(strict=True, random_bits=source, **({"xla": True} | settings))
    )
    stack = tff_dp.tff.framework.get_context_stack()

    def inside() -> Any:
        with stack.install(context):
            return run()

    return inside


def measure_words(xla: bool) -> None:
    """Prints what a word costs."""
    found = {}
    for count in (1, COUNT):
        computation = draws(count)
        run = {
            source: in_context(source, partial(computation, 0, [np.float32(0)]), xla=xla)
            for source in SOURCES
        }
        found[count] = timed(run)
    base = {source: statistics.median(found[1][source]) for source in SOURCES}
    times = {s: [t - base[s] for t in found[COUNT][s]] for s in SOURCES}
    show(f"a word, {'with' if xla else 'without'} XLA", times, COUNT * 1e-9, "ns")


class _Round(Arrays):
    """The rounds of a task, in whatever context is in effect."""

    def _context(self) -> contextlib.AbstractContextManager[Any]:
        return execution.fast(strict=True)


def main() -> None:
    for xla in (True, False):
        measure_words(xla)
    wide = dataclasses.replace(
        W1, name="a million weights", shape=(COUNT,), examples=1, batch_size=1
    )
    for workload in (W1, W3, wide):
        x, y = workload.data()
        task = Task(workload, Privacy(1.0, 1.0), x, y, WARM_UP + REPEATS)
        with contextlib.ExitStack() as stack:
            system = _Round(task, stack)
            times = timed({source: in_context(source, system.run) for source in SOURCES})
        show(f"a round of {workload.name}", times, 1e-3, "ms")


if __name__ == "__main__":
    main()
