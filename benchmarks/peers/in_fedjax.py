"""FedJAX: its federated averaging. It has no differential privacy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fedjax
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks._models import Convolutional, Dense
from benchmarks._workloads import LEARNING_RATE, Array, Workload
from benchmarks.peers.task import Clock, Task


def _dense(weights: list[Any], x: Any) -> Any:
    kernel, bias = weights
    return x @ kernel + bias


def _convolutional(weights: list[Any], x: Any) -> Any:
    for kernel, bias in (weights[:2], weights[2:4]):
        layout = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=layout)
        x = jax.nn.relu(x + bias)
    x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    x = jax.nn.relu(_dense(weights[4:6], x.reshape(x.shape[0], -1)))
    return _dense(weights[6:], x)


_PREDICT: dict[type, Callable[[list[Any], Any], Any]] = {
    Dense: _dense,
    Convolutional: _convolutional,
}


def _loss(workload: Workload, weights: list[Any], batch: Any) -> Any:
    outputs = _PREDICT[workload.kind](weights, batch["x"])
    if not workload.classes:
        return jnp.mean((outputs - batch["y"]) ** 2)
    chosen = jnp.take_along_axis(jax.nn.log_softmax(outputs), batch["y"][:, None], axis=1)
    return -jnp.mean(chosen)


def run(task: Task, clock: Clock) -> list[Array]:
    """Runs a task; see `benchmarks.peers.task.Run`."""
    workload = task.workload
    gradient = jax.grad(lambda weights, batch: _loss(workload, weights, batch))
    algorithm = fedjax.algorithms.fed_avg.federated_averaging(
        lambda weights, batch, key: gradient(weights, batch),
        fedjax.optimizers.sgd(LEARNING_RATE),
        fedjax.optimizers.sgd(1.0),
        fedjax.ShuffleRepeatBatchHParams(batch_size=workload.batch_size, skip_shuffle=True),
    )
    clients = [
        (b"%d" % number, fedjax.ClientDataset({"x": task.x[low:high], "y": task.y[low:high]}))
        for number, (low, high) in enumerate(task.bounds())
    ]
    key = jax.random.PRNGKey(0)
    state = algorithm.init([jnp.asarray(weight) for weight in task.initial])
    clock.start()
    for _ in range(task.rounds):
        state, _ = algorithm.apply(state, [(*client, key) for client in clients])
        jax.block_until_ready(state.params)
        clock.end_of_round()
    return [np.asarray(weight) for weight in state.params]
