"""Training with record-level privacy: a process over silos, in each execution context."""

from __future__ import annotations

import contextlib
import itertools

import keras
import numpy as np
import pytest

import tff_dp
from tests.support.tables import slow
from tff_dp import data, execution
from tff_dp.mechanisms import RecordGaussianMechanism
from tff_dp.model import ModelSpec
from tff_dp.process import build_process, initialize_from, model_weights


def mechanism(**changes) -> RecordGaussianMechanism:
    values = {"clip_norm": 1.0, "noise_multiplier": 1.0, "batch_size": 2, "local_steps": 10}
    return RecordGaussianMechanism(**(values | changes))


def linear(features: int, bias: bool = False) -> keras.Model:
    dense = keras.layers.Dense(1, use_bias=bias, kernel_initializer="zeros")
    return keras.Sequential([keras.layers.Input([features]), dense])


# "stock" is TFF's worker; the others are strategies of the context in this process.
CONTEXTS = {
    "stock": None,
    "scan": {"strategy": "scan", "xla": False},
    "xla": {"strategy": "scan", "xla": True},
    "call": {"strategy": "call"},
}

in_contexts = pytest.mark.parametrize(
    "context", [slow(context) if context == "xla" else context for context in CONTEXTS]
)


@contextlib.contextmanager
def inside(context: str, **changes):
    if CONTEXTS.get(context, {}) is None:
        yield
    else:
        with execution.fast(strict=True, **({**CONTEXTS.get(context, {})} | changes)):
            yield


def sum_of(_, predictions):
    """A loss whose gradient does not depend on the weights of a linear model."""
    return predictions


class Silos:
    """A process of record-level privacy over clients' data, and its weights after each round."""

    def __init__(self, model, clients, own, loss="mse", algorithm=None, rounds=1000) -> None:
        self.clients = clients
        self.bound = ModelSpec(model=model, loss=loss).bind(clients.element_spec())
        plan = tff_dp.PrivacyPlan(
            unit="record", mechanism=own, records=clients.sizes, rounds=rounds, delta=1e-6
        )
        algorithm = algorithm or tff_dp.FedAvg(client_optimizer=tff_dp.SGD(learning_rate=1.0))
        self.process = build_process(self.bound, algorithm=algorithm, privacy=plan)

    def change(self, rounds=1, clients=None, batch_size=1000) -> list[np.ndarray]:
        """Returns the changes of the flat trainable weights in each of some rounds."""
        clients = clients or self.clients
        state = initialize_from(self.process, self.bound.initial_weights)
        found = [self._flat(state)]
        for _ in range(rounds):
            cohort = clients.cohort(range(clients.num_clients), batch_size=batch_size)
            state = self.process.next(state, cohort).state
            found.append(self._flat(state))
        return [after - before for before, after in itertools.pairwise(found)]

    def _flat(self, state) -> np.ndarray:
        return flat(model_weights(self.process, state).trainable)


def flat(parts) -> np.ndarray:
    return np.concatenate([np.ravel(np.asarray(part, np.float64)) for part in parts])


def regression(sizes, features=3, seed=0) -> data.Clients:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(sum(sizes), features)).astype(np.float32)
    y = (3 * rng.normal(size=(sum(sizes), 1))).astype(np.float32)
    return data.Clients(x, y, np.cumsum([0, *sizes]))
