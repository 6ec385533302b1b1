"""Seconds a round on stock TFF and in this process: `./run python benchmarks/execution.py`.

Medians over rounds after the first, which is shown apart (it compiles, and on stock TFF it starts the
worker). Workloads, each under central differential privacy (clip 1, z 1):

- W1: linear regression, 4 clients of 64 examples with 10 features, batches of 16.
- W3/10: logistic regression, 100 features to 10 classes, 100 clients of 20 examples, batches of 20 (a
  tenth of the clients of the workload that design goals speak of).
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

import tff_dp
from tff_dp import _compat, data, execution
from tff_dp.model import ModelSpec
from tff_dp.process import build_process, initialize_from

ROUNDS = 10


def workload(clients: int, examples: int, features: int, classes: int) -> tuple[data.Clients, Any]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(clients * examples, features)).astype(np.float32)
    if classes:
        y: np.ndarray = rng.integers(0, classes, len(x))
        loss: Any = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    else:
        y, loss = rng.normal(size=(len(x), 1)).astype(np.float32), "mse"
    model = keras.Sequential([keras.layers.Input([features]), keras.layers.Dense(classes or 1)])
    offsets = np.arange(0, len(x) + 1, examples)
    return data.Clients(x, y, offsets), ModelSpec(model=model, loss=loss)


def seconds(
    context: Callable[[], contextlib.AbstractContextManager[Any]],
    clients: data.Clients,
    spec: ModelSpec,
    batch_size: int,
) -> tuple[float, float]:
    """Returns the first round's seconds and the median of the others."""
    plan = tff_dp.PrivacyPlan(
        mechanism=tff_dp.GaussianMechanism(clip_norm=1.0, noise_multiplier=1.0),
        population=clients.num_clients,
        sampler=tff_dp.FullParticipation(),
        rounds=ROUNDS + 1,
        delta=1e-5,
    )
    bound = spec.bind(clients.element_spec())
    process = build_process(bound, algorithm=tff_dp.FedAvg(), privacy=plan)
    times = []
    start = time.perf_counter()
    with context():
        state = initialize_from(process, bound.initial_weights)
        for _ in range(ROUNDS + 1):
            datasets = [
                clients.dataset(c, batch_size=batch_size) for c in range(clients.num_clients)
            ]
            state = process.next(state, datasets).state
            times.append(time.perf_counter() - start)
            start = time.perf_counter()
    return times[0], statistics.median(times[1:])


def main() -> None:
    _compat.load_tff()
    workloads = {"W1": (workload(4, 64, 10, 0), 16), "W3/10": (workload(100, 20, 100, 10), 20)}
    print(f"{'':8}{'':12}{'first':>10}{'a round':>10}{'ratio':>8}")
    for name, ((clients, spec), batch_size) in workloads.items():
        first, reference = seconds(execution.stock, clients, spec, batch_size)
        print(f"{name:8}{'stock TFF':12}{first:>10.2f}{reference:>10.4f}")
        first, ours = seconds(execution.fast, clients, spec, batch_size)
        print(f"{name:8}{'fast()':12}{first:>10.2f}{ours:>10.4f}{reference / ours:>7.1f}x")


if __name__ == "__main__":
    main()
