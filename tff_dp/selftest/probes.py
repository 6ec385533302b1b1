"""Clients whose updates are known exactly, and the real processes in which they participate."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tree

from tff_dp import _compat
from tff_dp.aggregation import build_aggregator
from tff_dp.algorithms import Algorithm, FedAvg, FedSGD
from tff_dp.data import Clients
from tff_dp.execution.graph import noise_draws
from tff_dp.mechanisms import Mechanism
from tff_dp.model import ModelSpec
from tff_dp.optimizers import SGD
from tff_dp.plan import PrivacyPlan
from tff_dp.process import initialize_from, model_weights
from tff_dp.selftest.laws import Law, Leaves, Parts, l2_norm
from tff_dp.selftest.testable import TENSORS

tff = _compat.tff.load()

MANY = 100  # examples of the client with many examples
# One step at rate 1 on both sides: a round subtracts exactly the mean update from the weights.
ALGORITHMS: dict[str, Algorithm] = {
    "FedAvg": FedAvg(
        client_optimizer=SGD(learning_rate=1.0), server_optimizer=SGD(learning_rate=1.0)
    ),
    "FedSGD": FedSGD(server_optimizer=SGD(learning_rate=1.0)),
}
HONEST = ("honest", "honest, clipped", "honest, unclipped")
HOSTILE = (
    "norm 1e9",
    "norm 1e9 in one coordinate",
    "overflowing norm",
    "NaN",
    "infinity",
    "zero",
    "at the bound",
)
HOSTILE_DATA = (
    "no examples",
    f"{MANY} times the examples",
)  # clients with hostile data, not updates


@dataclasses.dataclass(frozen=True)
class Probe:
    """A client with a known update.

    Attributes:
      update: The update, float32 [TENSORS, dimension].
      examples: The number of its examples, each of which is equal to the update.
    """

    update: np.ndarray
    examples: int = 1

    def rows(self) -> np.ndarray:
        """Returns the client's examples, float32 [examples, TENSORS, dimension]."""
        return np.repeat(self.update[None], self.examples, axis=0)


@dataclasses.dataclass(frozen=True)
class Records:
    """A client whose records differ.

    Attributes:
      records: The records, float32 [records, TENSORS, dimension].
    """

    records: np.ndarray

    def rows(self) -> np.ndarray:
        """Returns the client's records, float32 [records, TENSORS, dimension]."""
        return self.records


def probes(law: Law, mechanism: Mechanism, dimension: int) -> dict[str, Probe]:
    """Returns the clients of a self-test.

    Args:
      law: The law of the mechanism, which determines the sizes of updates.
      mechanism: The mechanism.
      dimension: The number of coordinates of each tensor.

    Returns:
      The clients by name, with updates float32 [TENSORS, dimension].
    """
    rng = np.random.default_rng(20240)  # arbitrary directions, the same in each run

    def sized(size: float) -> np.ndarray:
        direction = rng.normal(size=[TENSORS, dimension])
        return np.asarray(direction * (size / law.size(mechanism, direction)))

    def far(direction: np.ndarray) -> np.ndarray:
        factor = max(1e9 / l2_norm(direction), 10 / law.size(mechanism, direction))
        return np.asarray(direction * factor)

    one = np.zeros([TENSORS, dimension])
    one[-1, 0] = 1
    nan, infinite = sized(0.5), sized(0.5)
    nan[0, 0], infinite[-1, -1] = np.nan, np.inf
    twin = sized(0.5)
    found = {
        "honest": Probe(sized(0.3)),
        "honest, clipped": Probe(sized(3.0)),
        "honest, unclipped": Probe(sized(0.9)),
        "norm 1e9": Probe(far(sized(1.0))),
        "norm 1e9 in one coordinate": Probe(far(one)),
        "overflowing norm": Probe(np.full([TENSORS, dimension], 1e30)),
        "NaN": Probe(nan),
        "infinity": Probe(infinite),
        "zero": Probe(0 * one),
        "at the bound": Probe(sized(1.0)),
        "no examples": Probe(0 * one, 0),
        f"{MANY} times the examples": Probe(sized(3.0), MANY),
        "twin": Probe(twin),
        "twin with many examples": Probe(twin, MANY),
    }
    return {
        name: Probe(probe.update.astype(np.float32), probe.examples)
        for name, probe in found.items()
    }


@dataclasses.dataclass(frozen=True)
class Round:
    """The result of one round.

    Attributes:
      state: The state after the round.
      mean: The mean update that was subtracted from the weights, noise included; one array for each
        tensor.
      leaves: Everything else in state and measurements, by path, except the clients' training
        metrics, which are plain sums that `fit` withholds.
    """

    state: Any
    mean: Parts
    leaves: Leaves


class Process:
    """A learning process of one algorithm, whose clients have known updates.

    Args:
      name: The name of the algorithm; a key of `ALGORITHMS`.
      build: The function that makes the learning process; called as `build_process`.
      plan: The plan.
      clients: The clients by name, `Probe`s or `Records`.
      dtype: The type of the model and its data.
    """

    is_alone = False

    def __init__(
        self,
        name: str,
        build: Callable[..., Any],
        plan: PrivacyPlan,
        clients: Mapping[str, Any],
        dtype: str = "float32",
    ) -> None:
        rows = [client.rows() for client in clients.values()]  # of `Probe`s or `Records`
        x = np.concatenate(rows).astype(dtype)
        self.name = name
        self.clients = clients
        self._data = Clients(
            x,
            np.zeros([len(x), 1], dtype),
            np.cumsum([0, *(len(part) for part in rows)]),
            clients.keys(),
            allow_empty=True,
            allow_nonfinite=True,
        )
        with warnings.catch_warnings():
            # Unscaled losses in float16 matter for users' models; this one has no small gradients.
            warnings.filterwarnings("ignore", "The model .* computes in float16", UserWarning)
            self._bound = _model(x.shape[2], dtype).bind(self._data.element_spec())
        self._process = build(self._bound, algorithm=ALGORITHMS[name], privacy=plan)

    @property
    def next(self) -> Any:
        """The TFF computation of a round."""
        return self._process.next

    def start(self) -> Any:
        """Returns a fresh state, with all weights zero."""
        return initialize_from(self._process, self._bound.initial_weights)

    def leaves(self, state: Any) -> Leaves:
        """Returns everything in a state except the weights.

        Args:
          state: A state of the process.

        Returns:
          The values by path.
        """
        return _leaves(state=state)

    def round(self, state: Any, names: Sequence[str]) -> Round:
        """Runs a round.

        Args:
          state: The state before the round.
          names: The names of the clients that participate.

        Returns:
          The result.
        """
        cohort = self._data.cohort([self._data.position(name) for name in names], batch_size=MANY)
        output = self._process.next(state, cohort)
        before, after = (
            model_weights(self._process, each).trainable for each in (state, output.state)
        )
        moved = [np.subtract(a, b, dtype=float) for a, b in zip(before, after, strict=True)]
        leaves = _leaves(state=output.state, measurements=output.metrics)
        return Round(output.state, [part.ravel() for part in moved], leaves)


class Aggregator:
    """The aggregator by itself, which can be given updates that no client's training would send.

    Args:
      plan: The plan.
      clients: The clients whose updates `round` uses, by name.
      sizes: The sizes of the tensors of an update, which are vectors; by default those of the
        clients.
      dtype: The type of updates.
    """

    name = "the aggregator"
    is_alone = True

    def __init__(
        self,
        plan: PrivacyPlan,
        clients: dict[str, Probe],
        sizes: Sequence[int] = (),
        dtype: Any = np.float32,
    ) -> None:
        data_only = {*HOSTILE_DATA, "twin with many examples"}
        self.clients = {k: v for k, v in clients.items() if k not in data_only}
        self._updates = {name: [*probe.update] for name, probe in self.clients.items()}
        if not sizes:
            sizes = [len(part) for part in next(iter(self._updates.values()))]
        factory = build_aggregator(plan.update_mechanism, plan.clients_per_round, plan.rounds)
        self._process = factory.create(tff.types.to_type([(dtype, (size,)) for size in sizes]))

    @property
    def next(self) -> Any:
        """The TFF computation of a round."""
        return self._process.next

    def start(self) -> Any:
        """Returns a fresh state."""
        return self._process.initialize()

    def leaves(self, state: Any) -> Leaves:
        """Returns everything in a state.

        Args:
          state: A state of the aggregator.

        Returns:
          The values by path.
        """
        return _leaves(state=state)

    def round(self, state: Any, names: Sequence[str]) -> Round:
        """Aggregates the updates of clients.

        Args:
          state: The state before the round.
          names: The names of the clients that participate.

        Returns:
          The result.
        """
        return self.round_of(state, [self._updates[name] for name in names])

    def round_of(self, state: Any, updates: Sequence[Sequence[np.ndarray]]) -> Round:
        """Aggregates given updates.

        Args:
          state: The state before the round.
          updates: The updates, each with one array for each tensor.

        Returns:
          The result.
        """
        output = self._process.next(state, list(updates))
        leaves = _leaves(state=output.state, measurements=output.measurements)
        return Round(output.state, [np.asarray(part, float) for part in output.result], leaves)

    def round_of_words(self, state: Any, names: Sequence[str], word: int) -> Parts | None:
        """Aggregates the updates of clients with a fixed value in place of each random word of the noise.

        Args:
          state: The state before the round.
          names: The names of the clients that participate.
          word: The value, in [-2^62, 2^62).

        Returns:
          The mean update, one array for each tensor; None if the aggregator cannot run in this
          process.
        """
        updates = [self._updates[name] for name in names]
        output = noise_draws.with_words(self._process.next, state, updates, word)
        return output and [np.asarray(part, float) for part in output.result]


Path = Process | Aggregator


def _model(dimension: int, dtype: str) -> ModelSpec:
    """Returns a model for which the gradient of the loss is the example, whatever the weights are."""
    x = keras.Input([TENSORS, dimension], dtype=dtype)
    dense = [
        keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros", dtype=dtype)(x[:, i])
        for i in range(TENSORS)
    ]
    return ModelSpec(
        model=keras.Model(x, keras.layers.Add(dtype=dtype)(dense)),
        loss=lambda labels, predictions: keras.ops.mean(predictions, axis=-1),
    )


def _leaves(**structures: Any) -> Leaves:
    flat = tree.flatten_with_path(structures)
    paths = (("/".join(str(step) for step in path), value) for path, value in flat)
    dropped = ("state/global_model_weights/trainable/", "measurements/client_work/train/")
    return {path: value for path, value in paths if not path.startswith(dropped)}
