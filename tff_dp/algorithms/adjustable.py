"""The clients' part of federated averaging, with their learning rate in the state of the process.

TFF's client work for functional models has the learning rate in the graph of a round, so that another
rate would be another graph. Its client work for models with variables has it in the state already.
"""

from __future__ import annotations

import collections
from typing import Any

import tensorflow as tf

from tff_dp import _compat
from tff_dp._compat.tff.internals import client_training

tff = _compat.tff.load()


class AdjustedOptimizer(tff.learning.optimizers.Optimizer):  # type: ignore[misc,name-defined]
    """An optimizer that begins with given hyperparameters in place of its own.

    Args:
      inner: The `tff.learning.optimizers.Optimizer` that takes the steps.
      hparams: The hyperparameters, as `inner.get_hparams` returns them.
    """

    def __init__(self, inner: Any, hparams: Any) -> None:
        self._inner, self._hparams = inner, hparams

    def initialize(self, specs: Any) -> Any:
        """Builds the state before the first step; see TFF's `Optimizer.initialize`.

        Args:
          specs: A structure of `tf.TensorSpec`s that describes the weights.

        Returns:
          The state, with the given hyperparameters.
        """
        return self._inner.set_hparams(self._inner.initialize(specs), self._hparams)

    def next(self, state: Any, weights: Any, gradients: Any) -> tuple[Any, Any]:
        """Takes a step of the inner optimizer; see TFF's `Optimizer.next`.

        Args:
          state: The state.
          weights: The weights, a structure of tensors.
          gradients: The gradients of the loss, in the structure of `weights`.

        Returns:
          The new state and the new weights.
        """
        state, weights = self._inner.next(state, weights, gradients)
        return state, weights


class ClientHparams:
    """The hyperparameters of the clients' optimizer as the state of a client work.

    Args:
      optimizer: The `tff.learning.optimizers.Optimizer` of the clients.
      trainable: The weights that it trains, arrays or specs.

    Attributes:
      first: A TFF computation that returns the hyperparameters with which the optimizer begins.
      type: Their TFF type.
      get: As `get_hparams_fn` of `tff.learning.templates.ClientWorkProcess`.
      set: As `set_hparams_fn` of the same.
    """

    def __init__(self, optimizer: Any, trainable: Any) -> None:
        self._optimizer = optimizer
        specs = tuple(tf.TensorSpec(weight.shape, weight.dtype) for weight in trainable)

        @tff.tensorflow.computation
        def first() -> Any:
            found = optimizer.get_hparams(optimizer.initialize(specs))
            return collections.OrderedDict(
                (name, tf.cast(value, tf.float32)) for name, value in found.items()
            )

        self.first, self.type = first, first.type_signature.result

        @tff.tensorflow.computation(self.type)
        def get(state: Any) -> Any:
            return state

        @tff.tensorflow.computation(self.type, self.type)
        def set_(state: Any, hparams: Any) -> Any:
            del state
            return hparams

        self.get, self.set = get, set_

    def optimizer(self, hparams: Any) -> Any:
        """Returns the optimizer with given hyperparameters.

        Args:
          hparams: The hyperparameters, of the type `type`.

        Returns:
          A `tff.learning.optimizers.Optimizer`.
        """
        if not hparams:  # the optimizer has none, and may not allow setting them
            return self._optimizer
        return AdjustedOptimizer(self._optimizer, hparams)


def types_of(model: Any) -> tuple[tuple[tf.TensorSpec, ...], Any, Any]:
    """Returns what a client's training takes.

    Args:
      model: A `tff.learning.models.FunctionalModel`.

    Returns:
      The specifications of the trainable weights, the TFF type of all weights, and that of a client's
      data.
    """
    trainable, non_trainable = (
        tuple(tf.TensorSpec(w.shape, w.dtype) for w in part) for part in model.initial_weights
    )
    weights_type = tff.types.tensorflow_to_type(
        tff.learning.models.ModelWeights(trainable, non_trainable)
    )
    data_type = tff.types.SequenceType(tff.types.tensorflow_to_type(model.input_spec))
    return trainable, weights_type, data_type


def adjustable_client_work(
    model: Any, optimizer: Any, *, weigh_by_examples: bool, metrics_aggregator: Any
) -> Any:
    """Returns TFF's client work of federated averaging, with the hyperparameters in its state.

    Args:
      model: A `tff.learning.models.FunctionalModel`.
      optimizer: The `tff.learning.optimizers.Optimizer` of the clients.
      weigh_by_examples: Whether the weight of a client's update is its number of examples; otherwise
        it is 1.
      metrics_aggregator: As for TFF's builders; None for plain sums.

    Returns:
      A `tff.learning.templates.ClientWorkProcess`. Its state and its hyperparameters are those of
      the clients' optimizer.
    """
    aggregate = metrics_aggregator or tff.learning.metrics.sum_then_finalize
    aggregate = aggregate(model.finalize_metrics)
    trainable, weights_type, data_type = types_of(model)
    hparams_state = ClientHparams(optimizer, trainable)

    @tff.tensorflow.computation(weights_type, data_type, hparams_state.type)
    def client_update(weights: Any, dataset: Any, hparams: Any) -> Any:
        train = client_training(model, weigh_by_examples=weigh_by_examples)
        weights = weights.trainable, weights.non_trainable
        return train(hparams_state.optimizer(hparams), weights, dataset)

    @tff.federated_computation
    def initialize() -> Any:
        return tff.federated_eval(hparams_state.first, tff.SERVER)

    @tff.federated_computation(
        tff.FederatedType(hparams_state.type, tff.SERVER),
        tff.FederatedType(weights_type, tff.CLIENTS),
        tff.FederatedType(data_type, tff.CLIENTS),
    )
    def next_round(state: Any, weights: Any, data: Any) -> Any:
        at_clients = tff.federated_broadcast(state)
        result, metrics = tff.federated_map(client_update, (weights, data, at_clients))
        measured = tff.federated_zip(collections.OrderedDict(train=aggregate(metrics)))
        return tff.templates.MeasuredProcessOutput(state, result, measured)

    return tff.learning.templates.ClientWorkProcess(
        initialize, next_round, get_hparams_fn=hparams_state.get, set_hparams_fn=hparams_state.set
    )
