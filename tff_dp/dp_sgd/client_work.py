"""What a client computes: noised steps on Poisson batches of its own records.

A client reads all of its records into tensors, and takes the round's steps in a loop. In each step it
draws a Poisson batch, sums the clipped gradients of its examples, noises the sum, and divides it by the
expected size of the batch. Sum and noise are whole numbers of steps of a public grid
(`tff_dp.noise`), so that the mechanism that runs is the one that is accounted for, whatever the
type of the weights.

Batches and noise are drawn in the graph, by operations without a seed, which TensorFlow's global seed
does not reach. In `tff_dp.execution.fast` they are keyed with the call's entropy, client and step.

Source: Abadi et al., "Deep Learning with Differential Privacy", arXiv:1607.00133, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tff_dp import _checks, _compat
from tff_dp.dp_sgd.gradients import sum_of_clipped
from tff_dp.mechanisms import RecordGaussianMechanism
from tff_dp.noise import Grid, gaussian
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
    """Returns what clients compute in a round: DP-SGD steps from the global weights.

    A client's data may come in batches of any sizes. They are its records: one that occurs twice
    has twice the influence.

    Args:
      model: A `tff.learning.models.FunctionalModel`.
      optimizer: The `tff.learning.optimizers.Optimizer` of the clients, made anew each round.
      mechanism: Clip norm, noise, batches and steps.
      fewest: The records that the accounting takes the smallest client to have; >= 1. A client with
        fewer draws at the rate of that many, so that none has a higher rate than the worst that is
        accounted for.
      weigh_by_examples: Whether a client's update weighs as much as it has records, which are public,
        or 1.

    Returns:
      A `tff.learning.templates.ClientWorkProcess` without state and measurements: nothing but the
      update leaves a client. The update is the weights before less those after, as TFF has it.

    Raises:
      ArgumentError: `weigh_by_examples` is no boolean.
      StackError: TFF cannot be imported.
    """
    _checks.flag("weigh_by_examples", weigh_by_examples)
    templates = tff.learning.templates
    trainable, non_trainable = (
        tuple(tf.TensorSpec(w.shape, w.dtype) for w in part) for part in model.initial_weights
    )
    weights_type = tff.types.tensorflow_to_type(
        tff.learning.models.ModelWeights(trainable, non_trainable)
    )
    data_type = tff.types.SequenceType(tff.types.tensorflow_to_type(model.input_spec))

    @tff.tensorflow.computation(weights_type, data_type)
    def client_update(weights: Any, dataset: Any) -> Any:
        @tf.function
        def train(start: tuple[Any, ...], kept: tuple[Any, ...], dataset: Any) -> Any:
            records = _read(dataset, model.input_spec)
            count = tf.shape(tf.nest.flatten(records)[0], tf.int64)[0] - 1

            def draw() -> tuple[Any, Any]:
                return _poisson_batch(count, tf.maximum(count, fewest), mechanism.batch_size)

            final = _take_steps(model, optimizer, mechanism, start, kept, records, draw)
            # Rates that make the weights overflow would take the other clients' model with them.
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
        return tff.federated_value((), tff.SERVER)

    @tff.federated_computation(
        tff.FederatedType((), tff.SERVER),
        tff.FederatedType(weights_type, tff.CLIENTS),
        tff.FederatedType(data_type, tff.CLIENTS),
    )
    def next_round(state: Any, weights: Any, data: Any) -> Any:
        result = tff.federated_map(client_update, (weights, data))
        return tff.templates.MeasuredProcessOutput(
            state, result, tff.federated_value((), tff.SERVER)
        )

    return templates.ClientWorkProcess(initialize, next_round)


def _read(dataset: Any, spec: Any) -> Any:
    """Returns all records of a data set of batches: tensors [1 + records, ...].

    The first row is no record: it stands in where there is none to take, as in an empty data set.
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
    """Returns the trainable weights after the round's steps."""
    specs = tuple(tf.TensorSpec(weight.shape, weight.dtype) for weight in start)
    grid = Grid.of(mechanism.noise_multiplier)
    stddev = mechanism.noise_multiplier * grid.steps

    def step(number: Any, weights: tuple[Any, ...], state: Any) -> Any:
        sums = sum_of_clipped(model, mechanism, grid, weights, kept, records, *draw())
        gradients = tuple(
            grid.restored(
                total + gaussian(spec.shape.as_list(), stddev),
                mechanism.clip_norm,
                mechanism.batch_size,
                spec.dtype,
            )
            for total, spec in zip(sums, specs, strict=True)
        )
        state, weights = optimizer.next(state, weights, gradients)
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
    """Draws a batch in which each record is by a coin of its own, of probability batch_size / among.

    Args:
      count: The number of records, int64 []; record k is row k + 1.
      among: int64 [].
      batch_size: A whole number.

    Returns:
      All rows, int32 [1 + count], those of the batch first; and how many those are, int64 [].
    """
    # Whole numbers, since a coin from a float32 in [0, 1) falls too often by up to 2^-23, which at low
    # rates is more than epsilon is computed to. With 64 bits, each value below 2^64 mod among has a
    # probability of ceil(2^64 / among) / 2^64: a coin falls too often by less than among / 2^64 of its
    # probability, which is below 2^-40 for 16 million records.
    with tf.name_scope(SCOPE):
        coins = tf.raw_ops.RandomUniformInt(
            shape=tf.stack([count + 1]),
            minval=tf.constant(0, tf.int64),
            maxval=among,
        )
    drawn = (coins < batch_size) & (tf.range(count + 1) > 0)
    order = tf.argsort(tf.cast(drawn, tf.int32), direction="DESCENDING")
    return order, tf.math.count_nonzero(drawn)
