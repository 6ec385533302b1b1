"""Clients whose updates are known exactly, and the real processes that they go through."""

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

MANY = 100  # examples of the client that has many
# One step at rate 1 on both sides: a round takes exactly the mean update off the weights.
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
HOSTILE_DATA = ("no examples", f"{MANY} times the examples")  # which no update shows


@dataclasses.dataclass(frozen=True)
class Probe:
    """A client: its update, an array a tensor, and its number of examples."""

    update: np.ndarray
    examples: int = 1

    def rows(self) -> np.ndarray:
        """Returns its examples, float32 [examples, TENSORS, dimension]."""
        return np.repeat(self.update[None], self.examples, axis=0)


@dataclasses.dataclass(frozen=True)
class Records:
    """A client whose records differ, float32 [records, TENSORS, dimension]."""

    records: np.ndarray

    def rows(self) -> np.ndarray:
        """Returns its records."""
        return self.records


def probes(law: Law, mechanism: Mechanism, dimension: int) -> dict[str, Probe]:
    """Returns the clients by name, with updates float32 [TENSORS, dimension]."""
    rng = np.random.default_rng(20240)  # any directions will do; always the same ones

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
    """What one round has given.

    Attributes:
      state: The state after it.
      mean: The mean update that was taken off the weights, noise included, an array a tensor.
      leaves: All else in state and measurements, by path, but the clients' training metrics: those are
        plain sums, which `fit` withholds.
    """

    state: Any
    mean: Parts
    leaves: Leaves


class Process:
    """A learning process of one algorithm, whose clients' updates are the probes'."""

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
            # Unscaled losses in float16 matter to users' models: this one has no gradient to lose.
            warnings.filterwarnings("ignore", "The model .* computes in float16", UserWarning)
            self._bound = _model(x.shape[2], dtype).bind(self._data.element_spec())
        self._process = build(self._bound, algorithm=ALGORITHMS[name], privacy=plan)

    @property
    def next(self) -> Any:
        """The computation of a round."""
        return self._process.next

    def start(self) -> Any:
        """Returns a fresh state, with all weights zero."""
        return initialize_from(self._process, self._bound.initial_weights)

    def leaves(self, state: Any) -> Leaves:
        """Returns what is in a state beside the weights."""
        return _leaves(state=state)

    def round(self, state: Any, names: Sequence[str]) -> Round:
        """Runs a round over clients, given by name."""
        cohort = self._data.cohort([self._data.position(name) for name in names], batch_size=MANY)
        output = self._process.next(state, cohort)
        before, after = (
            model_weights(self._process, each).trainable for each in (state, output.state)
        )
        moved = [np.subtract(a, b, dtype=float) for a, b in zip(before, after, strict=True)]
        leaves = _leaves(state=output.state, measurements=output.metrics)
        return Round(output.state, [part.ravel() for part in moved], leaves)


class Aggregator:
    """The aggregator alone, which is fed with updates that no client's training would send.

    Args:
      plan: The plan.
      clients: Those whose updates `round` takes.
      sizes: Of the tensors, which are vectors; by default those of the clients.
      dtype: Of updates.
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
        """The computation of a round."""
        return self._process.next

    def start(self) -> Any:
        """Returns a fresh state."""
        return self._process.initialize()

    def leaves(self, state: Any) -> Leaves:
        """Returns what is in a state."""
        return _leaves(state=state)

    def round(self, state: Any, names: Sequence[str]) -> Round:
        """Aggregates the updates of clients, given by name."""
        return self.round_of(state, [self._updates[name] for name in names])

    def round_of(self, state: Any, updates: Sequence[Sequence[np.ndarray]]) -> Round:
        """Aggregates updates, each an array a tensor."""
        output = self._process.next(state, list(updates))
        leaves = _leaves(state=output.state, measurements=output.measurements)
        return Round(output.state, [np.asarray(part, float) for part in output.result], leaves)

    def round_of_words(self, state: Any, names: Sequence[str], word: int) -> Parts | None:
        """Returns the mean update if each random word of the noise were `word`; None if no one knows."""
        updates = [self._updates[name] for name in names]
        output = noise_draws.with_words(self._process.next, state, updates, word)
        return output and [np.asarray(part, float) for part in output.result]


Path = Process | Aggregator


def _model(dimension: int, dtype: str) -> ModelSpec:
    """Returns a model whose loss has each example for its gradient, whatever the weights are."""
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
