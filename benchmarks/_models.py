"""The models of the benchmark: their weights, in Keras, and in plain TensorFlow.

Imports nothing heavy at the top: whoever measures start-up imports the rest itself.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import Any

_SMALL = 1e-3  # what Keras adds to a variance before its root


@dataclasses.dataclass(frozen=True)
class Model(abc.ABC):
    """A model, whose inputs are examples and whose outputs are numbers for each of them.

    Attributes:
      shape: Of one example's inputs.
      outputs: Numbers that the model gives for an example.
    """

    shape: tuple[int, ...]
    outputs: int

    @property
    @abc.abstractmethod
    def weight_shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the weights, in Keras's order and layout."""

    @property
    def scales(self) -> range:
        """Which of the weights are scales, whose first value is one."""
        return range(0)

    @abc.abstractmethod
    def keras_layers(self, layers: Any) -> list[Any]:
        """Returns the layers, of the module `keras.layers`."""

    @abc.abstractmethod
    def predict(self, weights: list[Any], x: Any) -> Any:
        """Returns the outputs for a batch, written in plain TensorFlow."""


class Dense(Model):
    """One dense layer."""

    @property
    def weight_shapes(self) -> list[tuple[int, ...]]:
        return [(*self.shape, self.outputs), (self.outputs,)]

    def keras_layers(self, layers: Any) -> list[Any]:
        return [layers.Dense(self.outputs)]

    def predict(self, weights: list[Any], x: Any) -> Any:
        import tensorflow as tf

        kernel, bias = weights
        return tf.matmul(x, kernel) + bias


class Wide(Model):
    """Two hidden layers of 2048: almost all of a round is reading and writing of weights."""

    @property
    def weight_shapes(self) -> list[tuple[int, ...]]:
        kernels = [(*self.shape, 2048), (2048, 2048), (2048, self.outputs)]
        return [shape for kernel in kernels for shape in (kernel, kernel[-1:])]

    def keras_layers(self, layers: Any) -> list[Any]:
        hidden = [layers.Dense(2048, activation="relu") for _ in range(2)]
        return [*hidden, layers.Dense(self.outputs)]

    def predict(self, weights: list[Any], x: Any) -> Any:
        import tensorflow as tf

        for kernel, bias in (weights[:2], weights[2:4]):
            x = tf.nn.relu(tf.matmul(x, kernel) + bias)
        return tf.matmul(x, weights[4]) + weights[5]


class Convolutional(Model):
    """Two convolutions and two dense layers."""

    @property
    def weight_shapes(self) -> list[tuple[int, ...]]:
        height, width, channels = self.shape
        flat = (height - 4) // 2 * ((width - 4) // 2) * 64
        kernels = [(3, 3, channels, 32), (3, 3, 32, 64), (flat, 128), (128, self.outputs)]
        return [shape for kernel in kernels for shape in (kernel, kernel[-1:])]

    def keras_layers(self, layers: Any) -> list[Any]:
        return [
            layers.Conv2D(32, 3, activation="relu"),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dense(self.outputs),
        ]

    def predict(self, weights: list[Any], x: Any) -> Any:
        import tensorflow as tf

        kernel_1, bias_1, kernel_2, bias_2, kernel_3, bias_3, kernel_4, bias_4 = weights
        x = tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(x, kernel_1, 1, "VALID"), bias_1))
        x = tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(x, kernel_2, 1, "VALID"), bias_2))
        x = tf.nn.max_pool2d(x, 2, 2, "VALID")
        x = tf.reshape(x, [x.shape[0], -1])
        x = tf.nn.relu(tf.matmul(x, kernel_3) + bias_3)
        return tf.matmul(x, kernel_4) + bias_4


class Deep(Model):
    """Eight convolutions of 32 channels with group normalization."""

    @property
    def weight_shapes(self) -> list[tuple[int, ...]]:
        shapes: list[tuple[int, ...]] = []
        channels = self.shape[-1]
        for _ in range(8):
            shapes += [(3, 3, channels, 32), (32,), (32,), (32,)]
            channels = 32
        return [*shapes, (32, self.outputs), (self.outputs,)]

    @property
    def scales(self) -> range:
        return range(2, 32, 4)

    def keras_layers(self, layers: Any) -> list[Any]:
        found = []
        for _ in range(8):
            found += [
                layers.Conv2D(32, 3, padding="same"),
                layers.GroupNormalization(8, epsilon=_SMALL),
                layers.ReLU(),
            ]
        return [*found, layers.GlobalAveragePooling2D(), layers.Dense(self.outputs)]

    def predict(self, weights: list[Any], x: Any) -> Any:
        import tensorflow as tf

        *blocks, last_kernel, last_bias = weights
        for number in range(8):
            kernel, bias, gamma, beta = blocks[4 * number : 4 * number + 4]
            x = tf.nn.bias_add(tf.nn.conv2d(x, kernel, 1, "SAME"), bias)
            grouped = tf.reshape(x, [*x.shape[:3], 8, 4])
            mean, variance = tf.nn.moments(grouped, [1, 2, 4], keepdims=True)
            grouped = (grouped - mean) * tf.math.rsqrt(variance + _SMALL)
            x = tf.nn.relu(tf.reshape(grouped, x.shape) * gamma + beta)
        return tf.matmul(tf.reduce_mean(x, [1, 2]), last_kernel) + last_bias


class Recurrent(Model):
    """Characters in an embedding of 8, an LSTM of 128, and the next character of each."""

    @property
    def weight_shapes(self) -> list[tuple[int, ...]]:
        return [
            (self.outputs, 8), (8, 512), (128, 512), (512,), (128, self.outputs), (self.outputs,),
        ]  # fmt: skip

    def keras_layers(self, layers: Any) -> list[Any]:
        return [
            layers.Embedding(self.outputs, 8),
            layers.LSTM(128, return_sequences=True),
            layers.Dense(self.outputs),
        ]

    def predict(self, weights: list[Any], x: Any) -> Any:
        import tensorflow as tf

        embedding, kernel, recurrent, bias, last_kernel, last_bias = weights
        inputs = tf.matmul(tf.gather(embedding, x), kernel) + bias
        hidden = cell = tf.zeros([x.shape[0], 128])
        states = []
        for step in range(x.shape[1]):
            i, f, c, o = tf.split(inputs[:, step] + tf.matmul(hidden, recurrent), 4, axis=1)
            cell = tf.sigmoid(f) * cell + tf.sigmoid(i) * tf.tanh(c)
            hidden = tf.sigmoid(o) * tf.tanh(cell)
            states.append(hidden)
        return tf.matmul(tf.stack(states, axis=1), last_kernel) + last_bias
