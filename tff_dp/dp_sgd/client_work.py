"""The client work of DP-SGD: noised steps on Poisson batches of a client's own records.

A client reads all of its records into tensors and takes the steps of the round in a loop. In each
step it draws a Poisson batch, sums the clipped gradients of its examples, adds noise to the sum,
and divides it by the expected size of the batch. Sum and noise are whole numbers of steps of a
public grid (`tff_dp.noise`), so that the mechanism that runs is the one that is accounted for,
whatever the type of the weights.

Batches and noise are drawn in the graph, by operations without a seed, which TensorFlow's global seed
does not reach. In `tff_dp.execution.fast`, their key is made of the call's entropy, the client and
the step.

Source: Abadi et al., "Deep Learning with Differential Privacy", arXiv:1607.00133, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tff_dp import _checks, _compat
from tff_dp.algorithms.adjustable import ClientHparams, types_of
from tff_dp.dp_sgd.gradients import sum_of_clipped
from tff_dp.mechanisms import RecordGaussianMechanism
from tff_dp.noise import Grid, compiled, gaussian
from tff_dp.noise.words import SCOPE

tff = _compat.tff.load()


def build_client_work(
    model: Any,
    optimizer: Any,
    mechanism: RecordGaussianMechanism,
    *,
    fewest: int,
    weigh_by_examples: bool,
) -> Any:
    """Returns the clients' part of a round: DP-SGD steps from the global weights.

    A client's data may come in batches of any sizes. Its examples are its records: a record that
    occurs twice has twice the influence.

    Source: Abadi et al., arXiv:1607.00133, algorithm 1.

    Args:
      model: A `tff.learning.models.FunctionalModel`.
      optimizer: The `tff.learning.optimizers.Optimizer` of the clients; its state starts anew in
        each round.
      mechanism: Clip norm, noise, batches and steps.
      fewest: The number of records of the smallest client, according to the accounting; >= 1. A
        client with fewer records samples at the rate of a client with `fewest` records, so that no
        client has a higher rate than the accounting assumes.
      weigh_by_examples: Whether the weight of a client's update is the number of its records, which
        is public. Otherwise the weight is 1.

    Returns:
      A `tff.learning.templates.ClientWorkProcess` without measurements: only the update leaves a
      client. The update is the weights before the steps minus the weights after them, which is
      TFF's convention. Its state and its hyperparameters are those of the optimizer.

    Raises:
      ArgumentError: `weigh_by_examples` is not a boolean.
      StackError: TFF cannot be imported.
    """
    _checks.flag("weigh_by_examples", weigh_by_examples)
    templates = tff.learning.templates
    trainable, weights_type, data_type = types_of(model)

    hparams_state = ClientHparams(optimizer, trainable)

    @tff.tensorflow.computation(weights_type, data_type, hparams_state.type)
    def client_update(weights: Any, dataset: Any, hparams: Any) -> Any:
        adjusted = hparams_state.optimizer(hparams)

        @tf.function
        def train(start: tuple[Any, ...], kept: tuple[Any, ...], dataset: Any) -> Any:
            records = _read(dataset, model.input_spec)
            count = tf.shape(tf.nest.flatten(records)[0], tf.int64)[0] - 1

            def draw() -> tuple[Any, Any]:
                return _poisson_batch(count, tf.maximum(count, fewest), mechanism.batch_size)

            final = _take_steps(model, adjusted, mechanism, start, kept, records, draw)
            # A learning rate that makes one client's weights overflow must not spoil the global
            # model.
            finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(w)) for w in final])
            update = tuple(
                tf.where(finite, before - after, tf.zeros_like(before))
                for before, after in zip(start, final, strict=True)
            )
            weight = tf.cast(count, tf.float32) if weigh_by_examples else tf.constant(1.0)
            return update, tf.where(finite, weight, 0.0)

        update, weight = train(tuple(weights.trainable), tuple(weights.non_trainable), dataset)
        return templates.ClientResult(update=update, update_weight=weight)

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
        result = tff.federated_map(client_update, (weights, data, at_clients))
        return tff.templates.MeasuredProcessOutput(
            state, result, tff.federated_value((), tff.SERVER)
        )

    return templates.ClientWorkProcess(
        initialize, next_round, get_hparams_fn=hparams_state.get, set_hparams_fn=hparams_state.set
    )


def _read(dataset: Any, spec: Any) -> Any:
    """Returns all records of a data set of batches: tensors [1 + records, ...].

    The first row is not a record but zeros: it is what an index refers to if the data set is empty.
    """
    start = tf.nest.map_structure(lambda s: tf.zeros([1, *s.shape[1:]], s.dtype), spec)

    def append(records: Any, batch: Any) -> Any:
        return tf.nest.map_structure(
            lambda known, more: tf.concat([known, more], 0), records, tuple(batch)
        )

    return dataset.reduce(start, append)


def _take_steps(
    model: Any,
    optimizer: Any,
    mechanism: RecordGaussianMechanism,
    start: tuple[Any, ...],
    kept: tuple[Any, ...],
    records: Any,
    draw: Callable[[], tuple[Any, Any]],
) -> tuple[Any, ...]:
    """Returns the trainable weights after all steps of a round."""
    specs = tuple(tf.TensorSpec(weight.shape, weight.dtype) for weight in start)
    grid = Grid.of(mechanism.noise_multiplier)
    stddev = mechanism.noise_multiplier * grid.steps

    @compiled
    def noised(sums: Any) -> Any:
        return tuple(
            grid.restored(
                total + gaussian(spec.shape.as_list(), stddev),
                mechanism.clip_norm,
                mechanism.batch_size,
                spec.dtype,
            )
            for total, spec in zip(sums, specs, strict=True)
        )

    def step(number: Any, weights: tuple[Any, ...], state: Any) -> Any:
        sums = sum_of_clipped(model, mechanism, grid, weights, kept, records, *draw())
        state, weights = optimizer.next(state, weights, noised(sums))
        return number + 1, weights, state

    state = tf.nest.map_structure(tf.convert_to_tensor, optimizer.initialize(specs))
    _, weights, _ = tf.while_loop(
        lambda number, *_: number < mechanism.local_steps,
        step,
        (tf.constant(0), start, state),
        parallel_iterations=1,
    )
    return tuple(weights)


def _poisson_batch(count: Any, among: Any, batch_size: int) -> tuple[Any, Any]:
    """Draws a batch that has each record independently with probability batch_size / among.

    Args:
      count: The number of records, int64 []; record k is row k + 1.
      among: The denominator of the probability, int64 [].
      batch_size: The numerator of the probability, a whole number.

    Returns:
      All rows, int32 [1 + count], those of the batch first; and the number of rows in the batch,
      int64 [].
    """
    # Integers are compared, since a float32 in [0, 1) is below the rate too often, by a probability
    # of up to 2^-23; at low rates, that is more than the precision of epsilon. With 64 bits, each
    # value below 2^64 mod among has a probability of ceil(2^64 / among) / 2^64. The probability of
    # a record is too large by less than among / 2^64 of itself, which is below 2^-40 for 16 million
    # records.
    with tf.name_scope(SCOPE):
        coins = tf.raw_ops.RandomUniformInt(
            shape=tf.stack([count + 1]),
            minval=tf.constant(0, tf.int64),
            maxval=among,
        )
    drawn = (coins < batch_size) & (tf.range(count + 1) > 0)
    # The place of each row in the order, by counting: rows of the batch come before the others. A
    # sort would give the same order in more time, and by an operation that XLA is not trusted with.
    before = tf.cumsum(tf.cast(drawn, tf.int32), exclusive=True)
    rows = tf.range(tf.size(drawn))
    batch = tf.reduce_sum(tf.cast(drawn, tf.int32))
    place = tf.where(drawn, before, batch + rows - before)
    order = tf.scatter_nd(place[:, tf.newaxis], rows, tf.shape(rows))
    return order, tf.cast(batch, tf.int64)
