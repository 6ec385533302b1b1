"""How long runs take from their first line on: `./run python benchmarks/starting.py`.

A dense model with dropout on 50 clients of ragged sizes, cohorts of about 20 by Poisson sampling, 64
clients of one size, and, with --sweep, fits that differ in the noise multiplier alone. Each run is a
process of its own, in which TensorFlow and TFF are imported before the clock starts; XLA's folder of
compiled code is empty. Printed are seconds from the call of `fit` to the end of some rounds: of this
project by its rule, without XLA and with XLA from the first round on, and of stock TFF with the same
process; medians of --repeats runs that take turns.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import subprocess
import sys
import time
from typing import Any

REPEATS = 3
MARKS = (1, 3, 60, 1000)
MOST_ON_STOCK = 60  # rounds
WAYS = ("rule", "without XLA", "with XLA", "stock TFF")


def workload(name: str) -> tuple[Any, Any]:
    """Returns clients and a function that makes the model."""
    import keras
    import numpy as np

    from tff_dp import data

    rng = np.random.default_rng(0)
    ragged = name == "ragged"
    sizes = rng.integers(20, 60, size=50) if ragged else [32] * 64
    pairs = [(rng.normal(size=(n, 10)), rng.normal(size=(n, 1))) for n in sizes]
    clients = data.from_arrays(
        {f"c{i}": (x.astype(np.float32), y.astype(np.float32)) for i, (x, y) in enumerate(pairs)}
    )

    def make() -> Any:
        hidden = [keras.layers.Dense(32, activation="relu"), keras.layers.Dropout(0.2)]
        return keras.Sequential([keras.layers.Input([10]), *hidden, keras.layers.Dense(1)])

    return clients, make


def plan(clients: Any, rounds: int, noise_multiplier: float = 1.0) -> Any:
    """Returns a plan of Poisson cohorts."""
    import tff_dp

    return tff_dp.PrivacyPlan(
        mechanism=tff_dp.GaussianMechanism(clip_norm=1.0, noise_multiplier=noise_multiplier),
        population=clients.num_clients, cohort=20, rounds=rounds, delta=1e-3,
    )  # fmt: skip


def once(name: str, way: str, rounds: int) -> None:
    """Runs in this process, and prints the seconds to the end of each round of `MARKS`."""
    import contextlib

    import tff_dp
    from tff_dp import execution, tff
    from tff_dp.training import run as run_module

    assert tff
    clients, make = workload(name)
    times: list[float] = []
    record = vars(run_module)["round_record"]  # `fit` calls it at the end of each round

    def timed(*arguments: Any, **named: Any) -> Any:
        times.append(time.perf_counter())
        return record(*arguments, **named)

    vars(run_module)["round_record"] = timed
    stack = contextlib.ExitStack()
    if way == "stock TFF":
        stack.enter_context(execution.stock(unkeyed_noise=True))
    else:
        stack.enter_context(
            execution.fast(xla={"rule": None, "without XLA": False, "with XLA": True}[way])
        )
    with stack:
        begin = time.perf_counter()
        if way == "stock TFF":  # whose noise `fit` refuses
            _loop(clients, make(), rounds, times)
        else:
            tff_dp.fit(make(), clients, loss="mse", privacy=plan(clients, rounds), batch_size=16)
    print(*(times[mark - 1] - begin for mark in MARKS if mark <= len(times)))


def _loop(clients: Any, model: Any, rounds: int, times: list[float]) -> None:
    import numpy as np

    from tff_dp import FedAvg, ModelSpec
    from tff_dp.process import build_process, initialize_from

    privacy = plan(clients, rounds)
    bound = ModelSpec(model=model, loss="mse").bind(clients.element_spec())
    process = build_process(bound, algorithm=FedAvg(), privacy=privacy)
    state = initialize_from(process, bound.initial_weights)
    rng = np.random.default_rng(0)
    for number in range(1, rounds + 1):
        chosen = privacy.draw_cohort(number, population=clients.num_clients, seed=1)
        cohort = clients.cohort(chosen, batch_size=16, shuffle=True, rng=rng)
        state = process.next(state, cohort).state
        times.append(time.perf_counter())


def sweep(fits: int) -> None:
    """Prints seconds and resident memory of fits of five rounds that differ in the noise multiplier."""
    import tff_dp
    from tff_dp import tff

    assert tff
    clients, make = workload("ragged")
    model = make()
    for number in range(fits):
        begin = time.perf_counter()
        tff_dp.fit(
            model,
            clients,
            loss="mse",
            privacy=plan(clients, 5, 1 + number / fits),
            batch_size=16,
        )
        seconds = time.perf_counter() - begin
        gc.collect()
        with open("/proc/self/statm") as file:
            pages = int(file.read().split()[1])
        print(
            f"{number} {seconds:.2f} {pages * os.sysconf('SC_PAGE_SIZE') / 2**20:.0f}", flush=True
        )


def _run(*arguments: str) -> str:
    environment = os.environ | {"TFF_DP_CACHE": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, os.path.abspath(__file__), *arguments]
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    done.check_returncode()
    return done.stdout


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=REPEATS, help="runs of each way")
    parser.add_argument("--rounds", type=int, default=max(MARKS), help="rounds, but on stock TFF")
    parser.add_argument("--sweep", type=int, metavar="FITS", help="fits of a sweep, instead")
    parser.add_argument("--once", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--sweep-here", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.once:
        name, way, rounds = options.once
        once(name, way, int(rounds))
    elif options.sweep_here:
        sweep(options.sweep_here)
    elif options.sweep:
        lines = [line.split() for line in _run("--sweep-here", str(options.sweep)).splitlines()]
        seconds = [float(line[1]) for line in lines]
        grown = (float(lines[-1][2]) - float(lines[1][2])) / max(len(lines) - 2, 1)
        print(
            f"first fit {seconds[0]:.2f} s, others {statistics.median(seconds[1:]):.2f} s (median)"
        )
        print(f"resident memory grows by {grown:.2f} MiB a fit, from {lines[1][2]} MiB on")
    else:
        _compare(options.repeats, options.rounds)


def _compare(repeats: int, rounds: int) -> None:
    for name in ("ragged", "even"):
        found: dict[str, list[list[float]]] = {way: [] for way in WAYS}
        for _ in range(repeats):
            for way in WAYS:
                most = min(rounds, MOST_ON_STOCK) if way == "stock TFF" else rounds
                found[way].append([float(x) for x in _run("--once", name, way, str(most)).split()])
        print(f"\n{name}: seconds to the end of round {', '.join(map(str, MARKS))}")
        for way, runs in found.items():
            medians = [statistics.median(column) for column in zip(*runs, strict=True)]
            print(f"{way:12s}" + "".join(f"{value:8.2f}" for value in medians), flush=True)


if __name__ == "__main__":
    main()
