"""What the machine can do: `./run python benchmarks/hardware.py`, for limits to measure rounds against.

Products of large matrices in float32, in floating-point operations a second, and bytes read and written
a second in a sum of two arrays that no cache holds. Best of several runs each: other work on the machine
can only make it slower.
"""

from __future__ import annotations

import argparse
import itertools
import os
import threading
import time
from collections.abc import Callable

import numpy as np

_SIZE = 2048  # of the matrices
_ELEMENTS = 1 << 26  # of the arrays: 256 MiB each
_RUNS = 7


def best(function: Callable[[], object], runs: int = _RUNS) -> float:
    """Returns the seconds of the fastest of several runs."""
    found = []
    for _ in range(runs):
        start = time.perf_counter()
        function()
        found.append(time.perf_counter() - start)
    return min(found)


def product_flops(threads: int) -> float:
    """Returns floating-point operations a second in products of matrices, by so many threads."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    a = tf.random.normal([_SIZE, _SIZE])
    tf.matmul(a, a)
    return 2 * _SIZE**3 / best(lambda: tf.matmul(a, a).numpy())


def moved_bytes(threads: int) -> float:
    """Returns bytes a second that threads read and write, two read for each one written."""
    a, b, c = (np.ones(_ELEMENTS, np.float32) for _ in range(3))
    bounds = [_ELEMENTS * part // threads for part in range(threads + 1)]

    def run() -> None:
        parts = [
            threading.Thread(target=np.add, args=(a[i:j], b[i:j], c[i:j]))
            for i, j in itertools.pairwise(bounds)
        ]
        for part in parts:
            part.start()
        for part in parts:
            part.join()

    return 3 * 4 * _ELEMENTS / best(run)


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--threads", type=int, default=cores, help="default: one a core")
    options = parser.parse_args()
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    print(f"{options.threads} threads on {cores} cores")
    print(f"products of matrices: {product_flops(options.threads) / 1e9:.0f} GFLOP/s")
    print(f"memory: {moved_bytes(options.threads) / 1e9:.1f} GB/s read and written")


if __name__ == "__main__":
    main()
