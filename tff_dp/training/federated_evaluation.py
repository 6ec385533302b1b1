"""The evaluation of a model over clients, whose data stay where they are."""

from __future__ import annotations

import collections
from typing import Any

import numpy as np
import tensorflow as tf

from tff_dp import _compat
from tff_dp.aggregation import private_metrics
from tff_dp.data import Clients
from tff_dp.model import BoundModel, ModelWeights
from tff_dp.plan import PrivacyPlan
from tff_dp.process import initialize_from, with_weights

tff = _compat.tff.load()

_COUNTS = ("num_examples", "num_batches")  # of TFF's models, and no metrics


@_compat.keras.usable_tf_keras_models()
def build_evaluation(model: BoundModel, plan: PrivacyPlan | None = None) -> Any:
    """Builds TFF's federated evaluation of a model.

    Args:
      model: The model, bound to the shape of the data.
      plan: The plan under which the metrics are released: each of its `metrics` is clipped at the
        client, and summed with noise, as in training. None for plain sums over all examples.

    Returns:
      A `tff.learning.templates.LearningProcess` that does not change the weights.

    Raises:
      ArgumentError: A metric of the plan is not one of the model, or is not one number.
    """
    build = tff.learning.algorithms.build_fed_eval
    if plan is None:
        return build(model.tff_model)
    return build(model.tff_model, metrics_aggregation_process=_released(model, plan))


class Evaluation:
    """Evaluates a model on all clients of a data set.

    Args:
      model: The model, bound to the shape of the data.
      clients: The clients' data.
      batch_size: The number of examples in a batch.
      plan: As for `build_evaluation`.
      seed: The seed from which a plan's cohorts are drawn; None for the operating system's entropy.

    Attributes:
      process: The process of `build_evaluation`.
    """

    def __init__(
        self,
        model: BoundModel,
        clients: Clients,
        *,
        batch_size: int,
        plan: PrivacyPlan | None = None,
        seed: int | None = None,
    ) -> None:
        self.process = build_evaluation(model, plan)
        self._clients, self._batch_size = clients, batch_size
        self._model, self._plan, self._seed = model, plan, seed
        self._first: Any = None

    def metrics(self, weights: ModelWeights, number: int) -> dict[str, float]:
        """Evaluates weights.

        Args:
          weights: The weights.
          number: The number of this evaluation, from 1, by which a plan draws the cohort.

        Returns:
          The metrics by name, without the numbers of examples and batches.
        """
        count = self._clients.num_clients
        positions: Any = np.arange(count)
        if self._plan is not None:
            positions = self._plan.draw_cohort(number, population=count, seed=self._seed)
        cohort = self._clients.cohort(positions, batch_size=self._batch_size)
        if self._first is None:
            self._first = initialize_from(self.process, weights)
        state = with_weights(self.process, self._first, weights)
        found = self.process.next(state, cohort).metrics["client_work"]["eval"]
        found = found["current_round_metrics"]
        metrics = {name: float(value) for name, value in found.items() if name not in _COUNTS}
        if self._plan is None and not self._model.is_functional:
            # TFF's metrics of a model with variables leave out the losses of its weights.
            metrics["loss"] += sum(float(loss) for loss in self._model.to_keras(weights).losses)
        return metrics


def _released(model: BoundModel, plan: PrivacyPlan) -> Any:
    """Returns the aggregation of the plan's metrics, in the form that TFF's evaluation takes."""
    spent = plan.mechanism.noise_multiplier
    build = private_metrics(plan.metrics, spent, plan.clients_per_round)
    finalizers, unfinalized = _metrics_of(model)
    aggregate = build(finalizers)

    @tff.federated_computation
    def initialize() -> Any:
        return tff.federated_value((), tff.SERVER)

    @tff.federated_computation(
        tff.FederatedType((), tff.SERVER), tff.FederatedType(unfinalized, tff.CLIENTS)
    )
    def next_round(state: Any, local: Any) -> Any:
        released = aggregate(local)
        nothing = tff.federated_value((), tff.SERVER)
        # The second entry are metrics over all rounds, of which nothing is released.
        return tff.templates.MeasuredProcessOutput(
            state, tff.federated_zip((released, nothing)), nothing
        )

    return tff.templates.AggregationProcess(initialize, next_round)


def _metrics_of(model: BoundModel) -> tuple[Any, Any]:
    """Returns the finalizers of a model's metrics, and the TFF type of their states."""
    with tf.Graph().as_default():
        if model.is_functional:
            state = model.tff_model.initialize_metrics_state()
            finalizers = model.tff_model.finalize_metrics
        else:
            made = model.tff_model()
            state, finalizers = made.report_local_unfinalized_metrics(), made.metric_finalizers()
        specs = {name: tf.nest.map_structure(_spec, of_metric) for name, of_metric in state.items()}
    types = [(name, tff.types.tensorflow_to_type(spec)) for name, spec in specs.items()]
    return finalizers, tff.types.StructWithPythonType(types, collections.OrderedDict)


def _spec(value: Any) -> Any:
    value = tf.convert_to_tensor(value)
    return tf.TensorSpec(value.shape, value.dtype)
