"""What the grid costs: `./run python benchmarks/noise.py [--weights N]`.

Medians of several calls that take turns, in milliseconds for N weights (a million by default), each with
and without XLA:

- noise: a draw of integer Gaussian noise, and TensorFlow's float32 normal numbers, which end at 5.7
  standard deviations; also integer Laplace noise, bit by bit;
- a client: an update clipped to a norm that is certain and truncated to the grid, and added to an int64
  sum; and what float32 does for it (finite check, `tf.clip_by_global_norm`, float32 sum).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

REPEATS = 21
WARM_UP = 2


def cases(weights: int) -> dict[str, dict[str, Callable[[], Any]]]:
    """Returns what is compared, by name and by way; each a function to trace."""
    import tensorflow as tf

    from tff_dp import noise

    grid = noise.Grid.of(1.0)
    update = tf.random.normal([weights], stddev=10.0)
    sums = {dtype: tf.zeros([weights], dtype) for dtype in (tf.int64, tf.float32)}

    def on_the_grid() -> Any:
        return sums[tf.int64] + noise.clip_l2([update], 1.0, grid).parts[0]

    def in_float32() -> Any:
        finite = tf.math.is_finite(tf.linalg.global_norm([update]))
        checked = tf.where(finite, update, tf.zeros_like(update))
        return sums[tf.float32] + tf.clip_by_global_norm([checked], 1.0)[0][0]

    return {
        "noise": {
            "integer Gaussian": lambda: noise.gaussian([weights], grid.steps),
            "float32 normal": lambda: tf.random.normal([weights]),
            "integer Laplace": lambda: noise.laplace([weights], grid.steps),
        },
        "a client": {"on the grid": on_the_grid, "float32": in_float32},
    }


def medians(functions: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Returns the median milliseconds of functions that take turns."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for repeat in range(WARM_UP + REPEATS):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if repeat >= WARM_UP:
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(found) for name, found in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=int, default=1_000_000, metavar="N")
    weights = parser.parse_args().weights
    import tensorflow as tf

    print(f"milliseconds for {weights} weights")
    for what, ways in cases(weights).items():
        for xla in (False, True):
            traced = {name: tf.function(way, jit_compile=xla) for name, way in ways.items()}
            found = "; ".join(f"{name} {ms:.3g}" for name, ms in medians(traced).items())
            print(f"{what}, {'with' if xla else 'without'} XLA: {found}")


if __name__ == "__main__":
    main()
