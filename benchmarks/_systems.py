"""What rounds are measured on: stock TFF, ours in its ways of being given data, and plain TensorFlow.

Nothing heavy is imported before a system's `load`, which is a part of its start-up.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import importlib
import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from benchmarks._models import Dense
from benchmarks._workloads import LEARNING_RATE, Array, Privacy, Workload

if TYPE_CHECKING:
    import tff_dp


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """What a system is to do.

    Attributes:
      workload: The model and the clients.
      privacy: How updates are clipped and noised; None for neither, and the plain mean.
      x: Inputs, client after client.
      y: Targets, likewise.
      calls: Calls of `System.run` that there will be, at most.
    """

    workload: Workload
    privacy: Privacy | None
    x: Array
    y: Array
    calls: int


class System(abc.ABC):
    """Runs the rounds of a task.

    Args:
      task: What it is to do.
      stack: Ends what the system starts.

    Attributes:
      title: For tables.
      environment: Where its packages are, for `benchmarks._environments.python`; None for here.
      dataset_seconds: What making the clients' data sets took, where they are made before the rounds.
    """

    title: ClassVar[str]
    environment: ClassVar[str | None] = None
    dataset_seconds: float | None = None

    @staticmethod
    @abc.abstractmethod
    def load() -> None:
        """Imports what the system needs."""

    @abc.abstractmethod
    def __init__(self, task: Task, stack: contextlib.ExitStack) -> None: ...

    @classmethod
    def supports(cls, workload: Workload) -> bool:
        """Returns whether the system has the workload, without importing anything heavy."""
        return not workload.local_steps

    @classmethod
    def rounds_a_call(cls, workload: Workload) -> int:
        """Returns how many rounds a call of `run` runs."""
        del workload
        return 1

    @abc.abstractmethod
    def run(self) -> float:
        """Runs the next round, or rounds; returns the training loss of the last, NaN if it is secret."""

    @abc.abstractmethod
    def weights(self) -> list[Array]:
        """Returns the global weights."""


class _Federated(System):
    """The process that `tff_dp` builds, in an execution context."""

    @staticmethod
    def load() -> None:
        importlib.import_module("tff_dp").tff  # noqa: B018  # imported when it is first asked for
        importlib.import_module("keras")

    def __init__(self, task: Task, stack: contextlib.ExitStack) -> None:
        import tff_dp
        from tff_dp import process

        workload = self._workload = task.workload
        self._process_module = process
        self._clients = tff_dp.Clients(task.x, task.y, workload.offsets())
        rounds = task.calls * self.rounds_a_call(workload)
        bound, self._process = process_of(workload, task.privacy, self._clients, rounds)
        stack.enter_context(self._context())
        self._state = process.initialize_from(self._process, bound.initial_weights)

    def run(self) -> float:
        output = self._process.next(self._state, self._data())
        self._state = output.state
        if self._workload.local_steps:  # whose losses nobody is told
            self.weights()  # waits for them
            return math.nan
        return _loss(output.metrics)

    def weights(self) -> list[Array]:
        return list(self._process_module.model_weights(self._process, self._state).trainable)

    def _context(self) -> contextlib.AbstractContextManager[Any]:
        from tff_dp import execution

        # Strict: never measures stock TFF for ours. Rounds begin without XLA (`benchmarks/starting.py`):
        # measured are those that follow, as the rule has them after a while.
        convolves = self._workload.convolves
        return execution.fast(strict=True, xla=None if convolves else True)

    @abc.abstractmethod
    def _data(self) -> Any:
        """Returns the clients' data for a round."""

    def _cohort(self, order: Sequence[int] | None = None) -> Any:
        everyone = range(self._workload.clients) if order is None else order
        return self._clients.cohort(everyone, batch_size=self._workload.batch_size)


def process_of(workload: Workload, privacy: Privacy | None, clients: Any, rounds: int) -> Any:
    """Returns the model of a workload, bound to the data of its clients, and its learning process."""
    import tff_dp

    spec = tff_dp.ModelSpec(model=workload.keras_model(), loss=workload.keras_loss())
    bound = spec.bind(clients.element_spec())
    algorithm = tff_dp.FedAvg(
        client_optimizer=tff_dp.SGD(learning_rate=LEARNING_RATE), weighting="uniform"
    )
    plan = _plan(workload, privacy, rounds) if privacy else tff_dp.NoPrivacy()
    return bound, tff_dp.build_process(bound, algorithm=algorithm, privacy=plan)


def _plan(workload: Workload, privacy: Privacy, rounds: int) -> tff_dp.PrivacyPlan:
    """Returns the plan for noised sums of updates, or for DP-SGD in the clients."""
    import tff_dp

    if workload.local_steps:
        assert isinstance(workload.examples, int)
        return tff_dp.PrivacyPlan(
            mechanism=tff_dp.RecordGaussianMechanism(
                clip_norm=privacy.clip_norm,
                noise_multiplier=privacy.noise_multiplier,
                batch_size=workload.batch_size,
                local_steps=workload.local_steps,
            ),
            records=[workload.examples] * workload.clients,
            rounds=rounds,
            delta=0.1 / workload.examples,
        )
    return tff_dp.PrivacyPlan(
        mechanism=tff_dp.GaussianMechanism(
            clip_norm=privacy.clip_norm, noise_multiplier=privacy.noise_multiplier
        ),
        population=workload.clients,
        sampler=tff_dp.FullParticipation(),
        rounds=rounds,
        delta=0.1 / workload.clients,
    )


class _OnDataSets(_Federated):
    """On lists of data sets, which are made before the rounds."""

    def __init__(self, task: Task, stack: contextlib.ExitStack) -> None:
        super().__init__(task, stack)
        start = time.perf_counter()
        self._datasets = list(self._cohort())
        self.dataset_seconds = time.perf_counter() - start

    def _data(self) -> Any:
        return self._datasets


class Stock(_OnDataSets):
    """Stock TFF."""

    title = "stock TFF"

    def _context(self) -> contextlib.AbstractContextManager[Any]:
        from tff_dp import execution

        return execution.stock(unkeyed_noise=True)


class DataSets(_OnDataSets):
    """Ours, given what stock TFF is given."""

    title = "ours, data sets"


class Arrays(_Federated):
    """Ours, given cohorts of array-backed clients, each made for its round.

    Everybody takes part, each time in another order: no round may gain from having seen its cohort.
    """

    title = "ours, arrays"

    @classmethod
    def supports(cls, workload: Workload) -> bool:
        del workload
        return True

    def __init__(self, task: Task, stack: contextlib.ExitStack) -> None:
        super().__init__(task, stack)
        self._rng = np.random.default_rng(0)

    def _data(self) -> Any:
        return self._cohort(self._rng.permutation(self._workload.clients).tolist())


class Fused(Arrays):
    """Ours, given the cohorts of several rounds at a time."""

    title = "ours, fused"

    @classmethod
    def supports(cls, workload: Workload) -> bool:
        return not workload.local_steps

    @classmethod
    def rounds_a_call(cls, workload: Workload) -> int:
        return workload.fused

    def run(self) -> float:
        from tff_dp import execution

        cohorts = [self._data() for _ in range(self._workload.fused)]
        self._state, outputs = execution.iterate(self._process.next, self._state, cohorts)
        return _loss(outputs[-1])


class _Handwritten(System):
    """Plain TensorFlow; see `benchmarks._handwritten`."""

    kind: ClassVar[str]

    @staticmethod
    def load() -> None:
        importlib.import_module("benchmarks._handwritten")

    def __init__(self, task: Task, stack: contextlib.ExitStack) -> None:
        del stack
        from benchmarks import _handwritten

        kind = getattr(_handwritten, self.kind)
        self._rounds = kind(task.workload, task.privacy, task.x, task.y)

    def run(self) -> float:
        return float(self._rounds.run())

    def weights(self) -> list[Array]:
        return list(self._rounds.weights())


class Handwritten(_Handwritten):
    """A Python loop over clients."""

    title = "hand-written"
    kind = "Loop"


class Vectorized(_Handwritten):
    """All clients side by side under XLA."""

    title = "hand-vectorized"
    kind = "Vectorized"

    @classmethod
    def supports(cls, workload: Workload) -> bool:
        one_layer = workload.kind is Dense and isinstance(workload.examples, int)
        return one_layer and not workload.local_steps


class _PyTorch(System):
    """PyTorch; see `benchmarks._pytorch`."""

    environment = "pytorch"
    kind: ClassVar[str]

    @staticmethod
    def load() -> None:
        importlib.import_module("benchmarks._pytorch")

    def __init__(self, task: Task, stack: contextlib.ExitStack) -> None:
        del stack
        kind = getattr(importlib.import_module("benchmarks._pytorch"), self.kind)
        self._rounds = kind(task.workload, task.privacy, task.x, task.y)

    def run(self) -> float:
        return float(self._rounds.run())

    def weights(self) -> list[Array]:
        return list(self._rounds.weights())


class PyTorch(_PyTorch):
    """A Python loop over clients."""

    title = "PyTorch"
    kind = "Loop"


class PyTorchVectorized(_PyTorch):
    """DP-SGD whose gradients are those of `torch.func.vmap`."""

    title = "PyTorch, vmap"
    kind = "Vectorized"

    @classmethod
    def supports(cls, workload: Workload) -> bool:
        return bool(workload.local_steps)


class Opacus(_PyTorch):
    """DP-SGD by Opacus."""

    title = "Opacus"
    kind = "Opacus"

    @classmethod
    def supports(cls, workload: Workload) -> bool:
        return bool(workload.local_steps)


SYSTEMS: dict[str, type[System]] = {
    "stock": Stock,
    "datasets": DataSets,
    "arrays": Arrays,
    "fused": Fused,
    "handwritten": Handwritten,
    "vectorized": Vectorized,
    "pytorch": PyTorch,
    "pytorch-vmap": PyTorchVectorized,
    "opacus": Opacus,
}


def default() -> list[str]:
    """Returns the names of the systems that need no other environment than this one."""
    return [name for name, system in SYSTEMS.items() if system.environment is None]


def _loss(metrics: Any) -> float:
    return float(metrics["client_work"]["train"]["loss"])
