"""pfl: `FederatedAveraging` on `SimulatedBackend`, with its central Gaussian mechanism."""

from __future__ import annotations

from typing import Any

import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam.base import NNTrainHyperParams
from pfl.internal.ops.pytorch_ops import get_default_device
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel
from pfl.privacy.gaussian_mechanism import GaussianMechanism
from pfl.privacy.privacy_mechanism import CentrallyAppliedPrivacyMechanism

from benchmarks._workloads import LEARNING_RATE, Array
from benchmarks.peers import modules
from benchmarks.peers.task import Clock, Task


class _Ticks(TrainingProcessCallback):
    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def on_train_begin(self, *, model: Any) -> Any:
        del model
        self._clock.start()
        return Metrics()

    def after_central_iteration(
        self, aggregate_metrics: Any, model: Any, *, central_iteration: int
    ) -> tuple[bool, Any]:
        del aggregate_metrics, model, central_iteration
        self._clock.end_of_round()
        return False, Metrics()


def run(task: Task, clock: Clock) -> list[Array]:
    """Runs a task; see `benchmarks.peers.task.Run`."""
    workload = task.workload
    module = modules.module_of(workload, task.initial)
    # pfl asks a module for its loss and its metrics.
    module.loss = lambda x, y: modules.loss_of(workload, module(x), y)
    module.metrics = lambda x, y: {}
    device = get_default_device()  # where pfl puts the model
    clients = [tuple(field.to(device) for field in client) for client in modules.clients_of(task)]
    users = list(range(workload.clients))
    data = FederatedDataset(
        lambda user: PyTorchTensorDataset(clients[user]), get_user_sampler("minimize_reuse", users)
    )
    postprocessors = []
    if task.privacy:
        mechanism = GaussianMechanism(task.privacy.clip_norm, task.privacy.noise_multiplier)
        postprocessors = [CentrallyAppliedPrivacyMechanism(mechanism)]
    model = PyTorchModel(
        model=module,
        local_optimizer_create=torch.optim.SGD,
        central_optimizer=torch.optim.SGD(module.parameters(), lr=1.0),
    )
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=task.rounds,
            evaluation_frequency=task.rounds + 1,
            train_cohort_size=workload.clients,
            val_cohort_size=0,
        ),
        backend=SimulatedBackend(training_data=data, val_data=data, postprocessors=postprocessors),
        model=model,
        model_train_params=NNTrainHyperParams(
            local_num_epochs=1,
            local_learning_rate=LEARNING_RATE,
            local_batch_size=workload.batch_size,
        ),
        callbacks=[_Ticks(clock)],
    )
    return modules.weights_of(workload, list(module.parameters()))
