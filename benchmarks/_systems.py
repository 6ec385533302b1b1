"""What rounds are measured on: stock TFF, ours in its ways of being given data, and plain TensorFlow.

Nothing heavy is imported before a system's `load`, which is a part of its start-up.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import importlib
import time
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from benchmarks._models import Dense
from benchmarks._workloads import LEARNING_RATE, Array, Privacy, Workload


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
      dataset_seconds: What making the clients' data sets took, where they are made before the rounds.
    """

    title: ClassVar[str]
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
        del workload
        return True

    @classmethod
    def rounds_a_call(cls, workload: Workload) -> int:
        """Returns how many rounds a call of `run` runs."""
        del workload
        return 1

    @abc.abstractmethod
    def run(self) -> float:
        """Runs the next round, or rounds; returns the training loss of the last."""

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
        spec = tff_dp.ModelSpec(model=workload.keras_model(), loss=workload.keras_loss())
        bound = spec.bind(self._clients.element_spec())
        algorithm = tff_dp.FedAvg(
            client_optimizer=tff_dp.SGD(learning_rate=LEARNING_RATE), weighting="uniform"
        )
        plan: Any = tff_dp.NoPrivacy()
        if task.privacy:
            plan = tff_dp.PrivacyPlan(
                mechanism=tff_dp.GaussianMechanism(
                    clip_norm=task.privacy.clip_norm,
                    noise_multiplier=task.privacy.noise_multiplier,
                ),
                population=workload.clients,
                sampler=tff_dp.FullParticipation(),
                rounds=task.calls * self.rounds_a_call(workload),
                delta=0.1 / workload.clients,
            )
        self._process = tff_dp.build_process(bound, algorithm=algorithm, privacy=plan)
        stack.enter_context(self._context())
        self._state = process.initialize_from(self._process, bound.initial_weights)

    def run(self) -> float:
        output = self._process.next(self._state, self._data())
        self._state = output.state
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

    def __init__(self, task: Task, stack: contextlib.ExitStack) -> None:
        super().__init__(task, stack)
        self._rng = np.random.default_rng(0)

    def _data(self) -> Any:
        return self._cohort(self._rng.permutation(self._workload.clients).tolist())


class Fused(Arrays):
    """Ours, given the cohorts of several rounds at a time."""

    title = "ours, fused"

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
        return workload.kind is Dense and isinstance(workload.examples, int)


SYSTEMS: dict[str, type[System]] = {
    "stock": Stock,
    "datasets": DataSets,
    "arrays": Arrays,
    "fused": Fused,
    "handwritten": Handwritten,
    "vectorized": Vectorized,
}


def available() -> list[str]:
    """Returns the names of the systems that this version of tff_dp has."""
    from tff_dp import execution

    return [name for name in SYSTEMS if name != "fused" or hasattr(execution, "iterate")]


def _loss(metrics: Any) -> float:
    return float(metrics["client_work"]["train"]["loss"])
