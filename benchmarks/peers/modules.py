"""A workload's model and clients in PyTorch, for the frameworks that train such models."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn import functional

from benchmarks._pytorch import MODULES, from_torch, to_torch
from benchmarks._workloads import Array, Workload
from benchmarks.peers.task import Task


def module_of(workload: Workload, weights: list[Array]) -> Any:
    """Returns the model, in the memory format that a CPU's convolutions like best."""
    module = MODULES[workload.kind](workload.shape, workload.classes or 1)
    if workload.convolves:
        module = module.to(memory_format=torch.channels_last)
    with torch.no_grad():
        for parameter, value in zip(module.parameters(), to_torch(workload, weights), strict=True):
            parameter.copy_(value)
    return module


def weights_of(workload: Workload, tensors: list[Any]) -> list[Array]:
    """Returns weights in Keras's layout."""
    return from_torch(workload, tensors)


def clients_of(task: Task) -> list[tuple[Any, Any]]:
    """Returns the inputs and targets of each client."""
    x = torch.from_numpy(task.x)
    if task.workload.convolves:
        x = x.permute(0, 3, 1, 2)  # of rows that have their channels last
    y = torch.from_numpy(task.y.astype(np.int64) if task.workload.classes else task.y)
    return [(x[low:high], y[low:high]) for low, high in task.bounds()]


def loss_of(workload: Workload, outputs: Any, y: Any) -> Any:
    """Returns the mean loss of a batch."""
    if workload.classes:
        return functional.cross_entropy(outputs, y)
    return functional.mse_loss(outputs, y)
