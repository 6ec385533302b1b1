"""Federated averaging as one writes it for one experiment in plain TensorFlow 2: what ours is held to.

No framework, no checks, nothing that is not needed: what it costs above its arithmetic is what TensorFlow
costs. It reports the training loss, as ours does.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from benchmarks._models import Dense
from benchmarks._workloads import LEARNING_RATE, Array, Privacy, Workload


class Loop:
    """A Python loop over the clients: slices of numpy arrays go into one `tf.function` a client.

    The function has the client's steps one after another (their number is known when it is traced), its
    weights are plain tensors, and it adds the clipped update to variables of sums.

    Args:
      workload: The model and the clients.
      privacy: How updates are clipped and noised; None for neither.
      x: Inputs, client after client.
      y: Targets, likewise.
    """

    def __init__(self, workload: Workload, privacy: Privacy | None, x: Array, y: Array) -> None:
        self._workload, self._privacy = workload, privacy
        self._x, self._y, self._offsets = x, y, workload.offsets()
        self._weights = [tf.Variable(weight) for weight in workload.initial_weights()]
        self._sums = [tf.Variable(tf.zeros_like(weight)) for weight in self._weights]

    def run(self) -> float:
        """Runs a round; returns the mean loss of its examples."""
        ends = zip(self._offsets, self._offsets[1:], strict=False)
        losses = [self._train(self._x[low:high], self._y[low:high]) for low, high in ends]
        self._update()
        return float(np.average(losses, weights=np.diff(self._offsets)))

    def weights(self) -> list[Array]:
        """Returns the global weights."""
        return [weight.numpy() for weight in self._weights]

    @tf.function(autograph=False)
    def _train(self, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        """Trains a client and adds its update to the sums; returns its mean loss."""
        start = [tf.identity(weight) for weight in self._weights]
        weights, losses = start, []
        for begin in range(0, x.shape[0], self._workload.batch_size):
            batch = slice(begin, begin + self._workload.batch_size)
            with tf.GradientTape() as tape:
                tape.watch(weights)
                outputs = self._workload.model.predict(weights, x[batch])
                loss = tf.reduce_mean(_losses(self._workload, outputs, y[batch]))
            weights = _stepped(weights, tape.gradient(loss, weights))
            losses.append(loss * outputs.shape[0])
        update = [after - before for after, before in zip(weights, start, strict=True)]
        if self._privacy:
            update, _ = tf.clip_by_global_norm(update, self._privacy.clip_norm)
        for total, part in zip(self._sums, update, strict=True):
            total.assign_add(part)
        return tf.add_n(losses) / x.shape[0]

    @tf.function(autograph=False)
    def _update(self) -> None:
        """Adds the noised mean of the updates to the weights, and clears the sums."""
        for weight, total in zip(self._weights, self._sums, strict=True):
            weight.assign_add(_noised(total, self._privacy) / self._workload.clients)
            total.assign(tf.zeros_like(total))


class Vectorized:
    """All clients side by side: one function a round, compiled by XLA, for models of one dense layer.

    Each client has its own copy of the weights, along a leading dimension. The data are tensors already,
    cut into clients and batches, when the round begins.

    Args:
      workload: The model and the clients.
      privacy: How updates are clipped and noised; None for neither.
      x: Inputs, client after client.
      y: Targets, likewise.
    """

    def __init__(self, workload: Workload, privacy: Privacy | None, x: Array, y: Array) -> None:
        if workload.kind is not Dense or not isinstance(workload.examples, int):
            raise ValueError(f"{workload.name} is no model of one dense layer")
        self._workload, self._privacy = workload, privacy
        in_batches = (workload.clients, -1, workload.batch_size)
        self._x = tf.constant(x.reshape(*in_batches, *x.shape[1:]))
        self._y = tf.constant(y.reshape(*in_batches, *y.shape[1:]))
        self._weights = [tf.constant(weight) for weight in workload.initial_weights()]

    def run(self) -> float:
        """Runs a round; returns the mean loss of its steps."""
        self._weights, loss = self._round(self._weights, self._x, self._y)
        return float(loss)

    def weights(self) -> list[Array]:
        """Returns the global weights."""
        return [weight.numpy() for weight in self._weights]

    @tf.function(autograph=False, jit_compile=True)
    def _round(
        self, start: list[tf.Tensor], x: tf.Tensor, y: tf.Tensor
    ) -> tuple[list[tf.Tensor], tf.Tensor]:
        clients = self._workload.clients
        weights = [tf.repeat(weight[None], clients, axis=0) for weight in start]
        losses = []
        for batch in range(x.shape[1]):
            with tf.GradientTape() as tape:
                tape.watch(weights)
                kernel, bias = weights
                outputs = tf.matmul(x[:, batch], kernel) + bias[:, None]
                loss = tf.reduce_mean(_losses(self._workload, outputs, y[:, batch]), axis=1)
            # A client's loss depends on its own weights alone: the gradient of the sum has each client's.
            weights = _stepped(weights, tape.gradient(loss, weights))
            losses.append(loss)
        updates = [after - before for after, before in zip(weights, start, strict=True)]
        if self._privacy:
            squares = [tf.reduce_sum(u * u, axis=range(1, u.shape.rank)) for u in updates]
            scale = tf.minimum(1.0, self._privacy.clip_norm * tf.math.rsqrt(tf.add_n(squares)))
            updates = [tf.einsum("c,c...->c...", scale, update) for update in updates]
        totals = [_noised(tf.reduce_sum(update, axis=0), self._privacy) for update in updates]
        weights = [before + total / clients for before, total in zip(start, totals, strict=True)]
        return weights, tf.reduce_mean(losses)


def _losses(workload: Workload, outputs: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """Returns each example's loss; of text, the losses of its characters."""
    if workload.classes:
        return tf.nn.sparse_softmax_cross_entropy_with_logits(y, outputs)
    return tf.reduce_mean(tf.math.squared_difference(outputs, y), axis=-1)


def _stepped(weights: list[tf.Tensor], gradients: list[tf.Tensor]) -> list[tf.Tensor]:
    # The gradient of an embedding is slices of it.
    whole = map(tf.convert_to_tensor, gradients)
    return [w - LEARNING_RATE * g for w, g in zip(weights, whole, strict=True)]


def _noised(total: tf.Tensor, privacy: Privacy | None) -> tf.Tensor:
    if privacy is None:
        return total
    stddev = privacy.clip_norm * privacy.noise_multiplier
    return total + tf.random.normal(total.shape, stddev=stddev)
