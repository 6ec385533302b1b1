"""Clients, rounds on TFF, and the plain Keras loop that they are compared with."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from tff_dp import data, process
from tff_dp.algorithms import Algorithm
from tff_dp.model import BoundModel, ModelSpec, ModelWeights
from tff_dp.plan import NoPrivacy, PrivacyPlan

SIZES = (1, 5, 3)  # ragged: with batches of 2, clients of 1, 3 and 2 steps
BATCH_SIZE = 2


def regression_clients(
    sizes=SIZES, features=4, outputs=1, seed=0, allow_empty=False
) -> data.Clients:
    rng = np.random.default_rng(seed)
    count = sum(sizes)
    x = rng.normal(size=(count, features)).astype(np.float32)
    y = rng.normal(size=(count, outputs)).astype(np.float32)
    return data.Clients(x, y, np.cumsum([0, *sizes]), allow_empty=allow_empty)


def datasets(clients: data.Clients, positions=None, batch_size=BATCH_SIZE) -> list[Any]:
    positions = range(clients.num_clients) if positions is None else positions
    return [clients.dataset(p, batch_size=batch_size) for p in positions]


@dataclasses.dataclass
class Run:
    """What rounds on TFF have given: the weights after each (and before the first), and metrics."""

    bound: BoundModel
    weights: list[ModelWeights]
    metrics: list[dict[str, float]]

    @property
    def model(self) -> Any:
        return self.bound.to_keras(self.weights[-1])


def run_rounds(
    model: ModelSpec | BoundModel | Any,
    clients: data.Clients,
    algorithm: Algorithm,
    *,
    rounds: int = 1,
    privacy: PrivacyPlan | NoPrivacy | None = None,
    batch_size: int = BATCH_SIZE,
    cohorts: Sequence[Sequence[int]] | None = None,
) -> Run:
    """Runs rounds over all clients, or over the given cohorts, in the context that is installed."""
    bound = model.bind(clients.element_spec()) if isinstance(model, ModelSpec) else model
    learning = process.build_process(bound, algorithm=algorithm, privacy=privacy or NoPrivacy())
    state = process.initialize_from(learning, bound.initial_weights)
    run = Run(bound, [process.model_weights(learning, state)], [])
    for cohort in cohorts or [None] * rounds:
        output = learning.next(state, datasets(clients, cohort, batch_size))
        state = output.state
        run.weights.append(process.model_weights(learning, state))
        metrics = output.metrics
        run.metrics.append(
            dict(metrics["client_work"]["train"]) if "client_work" in metrics else {}
        )
    return run


def keras_rounds(
    model: Any,
    loss: Any,
    clients: data.Clients,
    *,
    rounds: int,
    rate: float,
    batch_size: int = BATCH_SIZE,
    added_losses: bool = True,
) -> list[float]:
    """Federated averaging, weighted by examples, by hand on a model of either Keras.

    Args:
      model: It starts from its weights, and ends with the trained ones.
      loss: A function of (labels, predictions).
      clients: All take part in every round.
      rounds: Their number.
      rate: The clients' learning rate.
      batch_size: The clients' batches.
      added_losses: Whether losses that layers add count.

    Returns:
      The mean loss over examples in each round, as met while training.
    """
    import tensorflow as tf

    history = []
    for _ in range(rounds):
        variables = model.trainable_variables
        start = [variable.numpy() for variable in variables]
        average = [np.zeros_like(value) for value in start]
        total = 0.0
        for position in range(clients.num_clients):
            for variable, value in zip(variables, start, strict=True):
                variable.assign(value)
            x, y = clients.client(position)
            for first in range(0, len(y), batch_size):
                rows = slice(first, first + batch_size)
                batch = tf.nest.map_structure(lambda a, rows=rows: tf.constant(a[rows]), (x, y))
                with tf.GradientTape() as tape:
                    value = tf.reduce_mean(loss(batch[1], model(batch[0], training=True)))
                    if added_losses:
                        value += sum(tf.reduce_sum(added) for added in model.losses)
                gradients = tape.gradient(value, [_tf_variable(v) for v in variables])
                for variable, gradient in zip(variables, gradients, strict=True):
                    variable.assign(
                        variable.numpy() - rate * tf.convert_to_tensor(gradient).numpy()
                    )
                total += float(value) * len(y[rows])
            share = len(y) / clients.num_examples
            for sum_, variable in zip(average, variables, strict=True):
                sum_ += share * variable.numpy()
        for variable, value in zip(variables, average, strict=True):
            variable.assign(value)
        history.append(total / clients.num_examples)
    return history


def _tf_variable(variable: Any) -> Any:
    return variable.value if isinstance(variable, keras.Variable) else variable


def assert_weights(actual: Sequence[np.ndarray], expected: Sequence[np.ndarray], atol=2e-6) -> None:
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-5, atol=atol)


def values(variables: Sequence[Any]) -> list[np.ndarray]:
    return [np.array(variable.numpy()) for variable in variables]


def without_secure_sums(tff: Any, computation: Any) -> Any:
    """Returns a computation with plain sums in place of secure ones, for a runtime that has none."""
    replaced = tff.backends.test.replace_secure_intrinsics_with_bodies(computation)
    return type(replaced)(
        computation_proto=tff.framework.serialize_computation(replaced),
        context_stack=tff.framework.get_context_stack(),
        annotated_type=computation.type_signature,  # the replacement has lost its containers
    )
