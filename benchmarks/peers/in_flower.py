"""Flower: `FedAvg` in its simulation runtime, with its central fixed clipping."""

from __future__ import annotations

import functools
import logging
import os
import pathlib
from typing import Any

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAvg
from flwr.simulation import run_simulation

from benchmarks._workloads import LEARNING_RATE, Array
from benchmarks.peers import modules
from benchmarks.peers.task import Clock, Task, load_task

_TASK = "TFF_DP_BENCHMARK_TASK"  # the variable in which Flower's own processes find the task


@functools.cache
def _of_this_process() -> tuple[Task, list[tuple[Any, Any]], Any]:
    torch.set_num_threads(1)  # there is a process for each core
    task = load_task(pathlib.Path(os.environ[_TASK]))
    return task, modules.clients_of(task), modules.module_of(task.workload, task.initial)


client_app = ClientApp()


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """Trains one client for a round."""
    task, clients, module = _of_this_process()
    module.load_state_dict(message.content["arrays"].to_torch_state_dict())
    x, y = clients[int(context.node_config["partition-id"])]
    optimizer = torch.optim.SGD(module.parameters(), lr=LEARNING_RATE)
    size = task.workload.batch_size
    for begin in range(0, len(x), size):
        optimizer.zero_grad()
        loss = modules.loss_of(
            task.workload, module(x[begin : begin + size]), y[begin : begin + size]
        )
        loss.backward()
        optimizer.step()
    content = RecordDict(
        {
            "arrays": ArrayRecord(module.state_dict()),
            "metrics": MetricRecord({"num-examples": len(x)}),
        }
    )
    return Message(content=content, reply_to=message)


def run(task: Task, clock: Clock) -> list[Array]:
    """Runs a task; see `benchmarks.peers.task.Run`."""
    logging.getLogger("flwr").setLevel(logging.WARNING)
    os.environ[_TASK] = str(task.path)
    clients = task.workload.clients
    module = modules.module_of(task.workload, task.initial)
    final: list[Array] = []
    app = ServerApp()

    def tick(number: int, arrays: ArrayRecord) -> None:
        del arrays
        if number:
            clock.end_of_round()
        else:
            clock.start()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        del context
        strategy: Any = FedAvg(
            fraction_train=1.0,
            fraction_evaluate=0.0,
            min_train_nodes=clients,
            min_available_nodes=clients,
        )
        if task.privacy:
            strategy = DifferentialPrivacyServerSideFixedClipping(
                strategy, task.privacy.noise_multiplier, task.privacy.clip_norm, clients
            )
        result = strategy.start(
            grid, ArrayRecord(module.state_dict()), num_rounds=task.rounds, evaluate_fn=tick
        )
        state = result.arrays.to_torch_state_dict()
        final.extend(modules.weights_of(task.workload, list(state.values())))

    run_simulation(
        server_app=app,
        client_app=client_app,
        num_supernodes=clients,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )
    return final
