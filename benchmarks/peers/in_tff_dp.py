"""Ours: `tff_dp.fit`, as a user calls it."""

from __future__ import annotations

from typing import Any

import tff_dp
from benchmarks._workloads import LEARNING_RATE, Array
from benchmarks.peers.task import Clock, Task
from tff_dp.training import run as run_module


def run(task: Task, clock: Clock) -> list[Array]:
    """Runs a task; see `benchmarks.peers.task.Run`."""
    workload = task.workload
    model = workload.keras_model()
    model.set_weights(task.initial)
    clients = tff_dp.Clients(task.x, task.y, workload.offsets())

    record = vars(run_module)["round_record"]  # `fit` calls it at the end of each round

    def timed(*arguments: Any, **named: Any) -> Any:
        clock.end_of_round()
        return record(*arguments, **named)

    vars(run_module)["round_record"] = timed
    clock.start()
    try:
        result = tff_dp.fit(
            model,
            clients,
            loss=workload.keras_loss(),
            privacy=_plan(task),
            rounds=task.rounds,
            algorithm=tff_dp.FedAvg(
                client_optimizer=tff_dp.SGD(learning_rate=LEARNING_RATE), weighting="uniform"
            ),
            batch_size=workload.batch_size,
            shuffle=False,
        )
    finally:
        vars(run_module)["round_record"] = record
    return list(result.model.get_weights())


def _plan(task: Task) -> Any:
    if task.privacy is None:
        return tff_dp.NoPrivacy()
    return tff_dp.PrivacyPlan(
        mechanism=tff_dp.GaussianMechanism(
            clip_norm=task.privacy.clip_norm, noise_multiplier=task.privacy.noise_multiplier
        ),
        population=task.workload.clients,
        sampler=tff_dp.FullParticipation(),
        rounds=task.rounds,
        delta=0.1 / task.workload.clients,
    )
