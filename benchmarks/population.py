"""A population of millions of clients in memory-mapped files: `./run python -m benchmarks.population`.

Writes files of small examples (4 inputs and a target), and measures what a run does with them: making
`tff_dp.Clients`, drawing a cohort by each sampler, making the cohort and its blocks, with arrays that
stay on the device and with rows that are copied for each block, and one round without noise of a linear
model.
Each part is measured in a process of its own. Seconds are medians. Memory is the most that a call takes
beyond what the process has at its beginning, and what of that stays; pages of mapped files do not count.
The files, 24 bytes an example, are in the temporary folder (which TMPDIR sets) and deleted at the end.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from benchmarks._measuring import machine
from benchmarks._reports import table

ROOT = pathlib.Path(__file__).parent.parent
FEATURES = 4
BATCH_SIZE = 4
PARTS = ("making", "drawing", "cohorts", "cutting", "rounds")
_MIB = 1 << 20
_ROWS_AT_ONCE = 1 << 20

Figure = tuple[str, float, float, float]  # what, seconds, bytes at most, bytes kept


def write(folder: pathlib.Path, clients: int, low: int, high: int) -> None:
    """Writes the files of a population.

    Args:
      folder: Where x.npy, y.npy and offsets.npy go.
      clients: The number of clients.
      low: The fewest examples of a client.
      high: The most examples of a client.
    """
    rng = np.random.default_rng(0)
    offsets = np.zeros(clients + 1, np.int64)
    np.cumsum(rng.integers(low, high + 1, clients), out=offsets[1:])
    np.save(folder / "offsets.npy", offsets)
    rows = int(offsets[-1])
    x = _new(folder / "x.npy", (rows, FEATURES))
    y = _new(folder / "y.npy", (rows, 1))
    weights = np.arange(1, FEATURES + 1, dtype=np.float32)
    for begin in range(0, rows, _ROWS_AT_ONCE):
        some = slice(begin, min(begin + _ROWS_AT_ONCE, rows))
        x[some] = rng.standard_normal((some.stop - begin, FEATURES), dtype=np.float32)
        y[some, 0] = x[some] @ weights
    x.flush()
    y.flush()


def _new(path: pathlib.Path, shape: tuple[int, ...]) -> Any:
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)


def clients_of(folder: pathlib.Path, ids: Any = None) -> Any:
    """Returns the clients whose files `write` has written, mapped.

    Args:
      folder: The folder of the files.
      ids: The clients' ids, or None.
    """
    import tff_dp

    x, y = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in "xy")
    return tff_dp.Clients(x, y, np.load(folder / "offsets.npy"), ids)


def figure(label: str, call: Callable[[], Any], repeats: int) -> Figure:
    """Measures a call; the time is the median, and the memory that of the first time.

    Args:
      label: What the call does.
      call: The call. What it returns counts as memory that stays.
      repeats: How often to call it.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what is free already would hide what the call takes
    before = _memory(reset=True)["RssAnon"]
    begin = time.perf_counter()
    result = call()
    seconds = [time.perf_counter() - begin]
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    after = _memory()
    # Whatever pages of files were resident at the peak still are, as nothing else needs memory.
    most = max(after["VmHWM"] - after["RssFile"] - before, 0)
    kept = max(after["RssAnon"] - before, 0)
    del result
    for _ in range(repeats - 1):
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    return label, statistics.median(seconds), most, kept


def _memory(*, reset: bool = False) -> dict[str, int]:
    """Returns this process's memory in bytes, by Linux's names; its peak begins anew at a `reset`."""
    if reset:
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    found = dict(line.split(":", 1) for line in lines)
    return {name: 1024 * int(found[name].split()[0]) for name in ("VmHWM", "RssAnon", "RssFile")}


def making(folder: pathlib.Path, options: argparse.Namespace) -> Iterator[Figure]:
    """Measures making clients, and what uses the ids of all of them."""
    clients_of(folder)  # reads the files, so that their pages are resident
    once = min(options.repeats, 3)
    yield figure("Clients, without ids", lambda: clients_of(folder), once)
    clients = clients_of(folder)
    last = str(len(clients) - 1)
    yield figure("position of the first id that is asked for", lambda: clients.position(last), 1)
    yield figure("ids of all of them", lambda: clients.ids, 1)
    yield figure("sizes", lambda: clients.sizes, once)
    yield figure("subset of every tenth", lambda: clients.subset(np.arange(0, len(clients), 10)), 1)
    saved = folder / "saved"
    yield figure("save", lambda: clients.save(saved), 1)
    yield figure("load", lambda: type(clients).load(saved), 1)
    names = [f"client {k}" for k in range(options.clients)]
    yield figure("Clients, ids given as strings", lambda: clients_of(folder, names), 1)


def drawing(folder: pathlib.Path, options: argparse.Namespace) -> Iterator[Figure]:
    """Measures how long each sampler takes to draw the cohort of a round."""
    del folder
    from tff_dp import sampling

    population = options.clients
    for size in options.cohort:
        rate = size / population
        samplers: dict[str, sampling.Sampler] = {
            "Poisson": sampling.PoissonSampler(rate=rate),
            "fixed size": sampling.FixedSizeSampler(size=size),
        }
        # Parts in a cycle, or rounds between two participations; the size of a cohort stays.
        apart = min(10, population // size)
        samplers[f"cyclic Poisson, cycle {apart}"] = sampling.CyclicPoissonSampler(
            rate=rate * apart, cycle=apart
        )
        samplers[f"min separation {apart}"] = sampling.MinSeparationSampler(
            size=size, min_separation=apart
        )
        for name, sampler in samplers.items():
            rounds = iter(range(2, 2 + options.repeats))
            if sampler.of_one_seed:
                yield figure(
                    f"{name}, {size:,}: the first round",
                    lambda s=sampler: s.cohort(population, 1, 0),  # type: ignore[misc]
                    1,
                )
            yield figure(
                f"{name}, {size:,}",
                lambda s=sampler, r=rounds: s.cohort(population, next(r), 0),  # type: ignore[misc]
                options.repeats,
            )
    everybody = sampling.FullParticipation()
    yield figure("everybody", lambda: everybody.cohort(population, 1, 0), options.repeats)


def _drawn(clients: Any, size: int, number: int = 0) -> Any:
    rng = np.random.default_rng(number)
    return np.sort(rng.choice(len(clients), size, replace=False))


def cohorts(folder: pathlib.Path, options: argparse.Namespace) -> Iterator[Figure]:
    """Measures how long a cohort takes whose clients are drawn."""
    clients = clients_of(folder)
    for size in options.cohort:
        drawn = _drawn(clients, size)
        for shuffle in (False, True):
            rng = np.random.default_rng(0)
            yield figure(
                f"{size:,} clients{', shuffled' if shuffle else ''}",
                lambda d=drawn, s=shuffle, r=rng: clients.cohort(  # type: ignore[misc]
                    d, batch_size=BATCH_SIZE, shuffle=s, rng=r
                ),
                options.repeats,
            )


def cutting(folder: pathlib.Path, options: argparse.Namespace) -> Iterator[Figure]:
    """Measures how long all blocks of a cohort take, with their tables as arrays."""
    from tff_dp.execution.cohort import cutting as cohort_cutting
    from tff_dp.execution.cohort.references import ByReference
    from tff_dp.execution.cohort.resident import Resident

    clients = clients_of(folder)
    everything = Resident(1 << 50)
    held = {
        "resident": everything,
        "streamed": Resident(0),
        "by reference, streamed": ByReference(Resident(0)),
    }

    def cut(cohort: Any, resident: Any) -> int:
        blocks = cohort_cutting.blocks_of(
            cohort, None, resident, is_regular=lambda *_: True, by_size=False
        )
        return sum(len(block.table.arrays()) > 0 for block in blocks)

    yield figure(
        "the copies that stay, once",
        lambda: [
            everything.tensor(field) for field in clients.cohort([0], batch_size=1).arrays().fields
        ],
        1,
    )
    for size in options.cohort:
        for shuffle in (False, True):
            cohort = clients.cohort(
                _drawn(clients, size),
                batch_size=BATCH_SIZE,
                shuffle=shuffle,
                rng=np.random.default_rng(0),
            )
            for name, resident in held.items():
                count = cut(cohort, resident)
                yield figure(
                    f"{size:,} clients{', shuffled' if shuffle else ''}, {name}: {count} blocks",
                    lambda c=cohort, r=resident: cut(c, r),  # type: ignore[misc]
                    options.repeats,
                )


def rounds(folder: pathlib.Path, options: argparse.Namespace) -> Iterator[Figure]:
    """Measures rounds of a linear model, each of other clients, in this process."""
    import warnings

    import keras

    import tff_dp
    from tff_dp import execution, process

    clients = clients_of(folder)
    model = keras.Sequential([keras.layers.Input([FEATURES]), keras.layers.Dense(1)])
    bound = tff_dp.ModelSpec(model=model, loss="mse").bind(clients.element_spec())
    learning = process.build_process(
        bound,
        algorithm=tff_dp.FedAvg(
            client_optimizer=tff_dp.SGD(learning_rate=0.01), weighting="uniform"
        ),
        privacy=tff_dp.NoPrivacy(),
    )
    for size in options.round_cohort:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a seed is not private; nothing here is
            with execution.fast(xla=True, strict=True, seed=1):
                state = process.initialize_from(learning, bound.initial_weights)
                number = 0

                def run(size: int = size, state: Any = state) -> Any:
                    nonlocal number
                    number += 1
                    cohort = clients.cohort(_drawn(clients, size, number), batch_size=BATCH_SIZE)
                    return learning.next(state, cohort)

                yield figure(f"{size:,} clients, the first round (compiles)", run, 1)
                yield figure(f"{size:,} clients", run, options.repeats)


def _found(part: str, folder: pathlib.Path, arguments: list[str]) -> list[Figure]:
    """Measures a part in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.population", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "--measure", part, "--folder", str(folder)],
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
        check=True,
    )
    return [tuple(json.loads(line)) for line in done.stdout.splitlines() if line.startswith("[")]


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line.

    Args:
      arguments: Those of the command line; None for the process's own.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="benchmarks.population", description=__doc__)
    parser.add_argument("--clients", type=int, default=10_000_000, help="(default: %(default)s)")
    parser.add_argument(
        "--examples",
        type=int,
        nargs=2,
        default=[2, 8],
        metavar=("LOW", "HIGH"),
        help="of a client (default: 2 8)",
    )
    parser.add_argument(
        "--cohort",
        type=int,
        nargs="+",
        default=[1000, 100_000, 1_000_000],
        help="sizes to draw and to cut (default: 1000 100000 1000000)",
    )
    parser.add_argument(
        "--round-cohort",
        type=int,
        nargs="+",
        default=[1000, 100_000],
        help="sizes to train on (default: 1000 100000)",
    )
    parser.add_argument("--repeats", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="(default: all)")
    parser.add_argument("--measure", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=pathlib.Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure:
        for found in globals()[options.measure](options.folder, options):
            print(json.dumps(found), flush=True)
        return
    here, (load, *_) = machine(), os.getloadavg()
    print(
        f"{here['cores']} cores, {here['memory_bytes'] / (1 << 30):.0f} GiB, Python {here['python']}, "
        f"load average {load:.1f}{' (others use the machine)' if load > 0.5 else ''}",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        write(folder, options.clients, *options.examples)
        size = sum(path.stat().st_size for path in folder.iterdir())
        low, high = options.examples
        print(f"{options.clients:,} clients of {low} to {high} examples, {size / _MIB:,.0f} MiB")
        for part in options.only:
            rows = [
                [label, f"{seconds:.3g}", f"{most / _MIB:,.0f}", f"{kept / _MIB:,.0f}"]
                for label, seconds, most, kept in _found(part, folder, arguments)
            ]
            print(f"\n{table([part, 's', 'at most, MiB', 'kept, MiB'], rows)}", flush=True)


if __name__ == "__main__":
    main()
