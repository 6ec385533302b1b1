"""What a round is measured on. Imports numpy alone: whoever measures start-up imports the rest itself."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

LEARNING_RATE = 0.01  # of the clients; the server's is 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Workload:
    """A model, and clients that are all of one size.

    Attributes:
      name: Short, for options and tables.
      title: What it is, for people.
      clients: Clients a round; all there are.
      examples: Examples a client.
      shape: Of one example's inputs.
      classes: Of the labels, which the model gives logits for; 0 for regression to one number.
      batch_size: Examples in a batch; divides `examples`. One epoch.
      convolves: Whether the model is the convolutional network; otherwise it is one dense layer.
      fused: Rounds in one call, where several can be.
    """

    name: str
    title: str
    clients: int
    examples: int
    shape: tuple[int, ...]
    classes: int
    batch_size: int
    convolves: bool = False
    fused: int = 20

    @property
    def outputs(self) -> int:
        """Numbers that the model gives for an example."""
        return self.classes or 1

    @property
    def weight_shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the model's weights: kernel and bias of each layer, in Keras's layout."""
        if not self.convolves:
            return [(*self.shape, self.outputs), (self.outputs,)]
        height, width, channels = self.shape
        flat = (height - 4) // 2 * ((width - 4) // 2) * 64
        kernels = [(3, 3, channels, 32), (3, 3, 32, 64), (flat, 128), (128, self.outputs)]
        return [shape for kernel in kernels for shape in (kernel, kernel[-1:])]

    def initial_weights(self) -> list[Array]:
        """Returns weights to start from: zero biases and Glorot's uniform kernels, the same each time."""
        rng = np.random.default_rng(1)
        weights = []
        for shape in self.weight_shapes:
            if len(shape) == 1:
                weights.append(np.zeros(shape, np.float32))
                continue
            fans = math.prod(shape[:-2]) * (shape[-2] + shape[-1])
            bound = math.sqrt(6 / fans)
            weights.append(rng.uniform(-bound, bound, shape).astype(np.float32))
        return weights

    def data(self) -> tuple[Array, Array]:
        """Returns x, float32 [clients * examples, *shape], and y, float32 [.., 1] or int32 [..]."""
        rng = np.random.default_rng(0)
        count = self.clients * self.examples
        x = rng.standard_normal((count, *self.shape), dtype=np.float32)
        if self.classes:
            return x, rng.integers(self.classes, size=count, dtype=np.int32)
        return x, rng.standard_normal((count, 1), dtype=np.float32)

    def keras_model(self) -> Any:
        """Returns the model in Keras 3, with `initial_weights`."""
        import keras

        layers: list[Any] = [keras.layers.Dense(self.outputs)]
        if self.convolves:
            layers = [
                keras.layers.Conv2D(32, 3, activation="relu"),
                keras.layers.Conv2D(64, 3, activation="relu"),
                keras.layers.MaxPooling2D(),
                keras.layers.Flatten(),
                keras.layers.Dense(128, activation="relu"),
                *layers,
            ]
        model = keras.Sequential([keras.layers.Input(self.shape), *layers])
        model.set_weights(self.initial_weights())
        return model

    def keras_loss(self) -> Any:
        """Returns the model's loss in Keras 3."""
        import keras

        if self.classes:
            return keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        return keras.losses.MeanSquaredError()


@dataclasses.dataclass(frozen=True)
class Privacy:
    """Central differential privacy.

    Attributes:
      clip_norm: The largest L2 norm of a client's update.
      noise_multiplier: The noise's standard deviation over the clip norm.
    """

    clip_norm: float = 1.0
    noise_multiplier: float = 1.0


W1 = Workload(
    name="W1",
    title="linear regression, 10 features",
    clients=4,
    examples=64,
    shape=(10,),
    classes=0,
    batch_size=16,
)
W2 = Workload(
    name="W2",
    title="convolutional network, 28x28 pixels to 62 classes",
    clients=50,
    examples=100,
    shape=(28, 28, 1),
    classes=62,
    batch_size=20,
    convolves=True,
    fused=2,
)
W3 = Workload(
    name="W3",
    title="logistic regression, 100 features to 10 classes",
    clients=1000,
    examples=20,
    shape=(100,),
    classes=10,
    batch_size=20,
)
WORKLOADS = {workload.name: workload for workload in (W1, W2, W3)}
