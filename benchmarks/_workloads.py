"""What a round is measured on. Imports numpy alone: whoever measures start-up imports the rest itself."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, TypeAlias

import numpy as np

from benchmarks._models import Convolutional, Deep, Dense, Model, Recurrent, Wide

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

LEARNING_RATE = 0.01  # of the clients; the server's is 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Workload:
    """A model, and clients.

    Attributes:
      name: Short, for options and tables.
      title: What it is, for people.
      clients: Clients a round; all there are.
      examples: Examples a client, or the smallest and the largest number of them.
      shape: Of one example's inputs.
      classes: Of the labels, which the model gives logits for; 0 for regression to one number.
      batch_size: Examples in a batch; divides `examples` where that is one number. One epoch.
      local_steps: Where it is not 0, clients take so many steps of DP-SGD in place of an epoch, each
        on a Poisson sample of `batch_size` expected examples.
      kind: The model.
      tolerance: How far apart two systems may be that compute the same, of the largest change of a
        weight.
      fused: Rounds in one call, where several can be.
    """

    name: str
    title: str
    clients: int
    examples: int | tuple[int, int]
    shape: tuple[int, ...]
    classes: int
    batch_size: int
    local_steps: int = 0
    kind: type[Model] = Dense
    tolerance: float = 1e-3
    fused: int = 20

    @property
    def model(self) -> Model:
        """The model."""
        return self.kind(self.shape, self.classes or 1)

    @property
    def is_text(self) -> bool:
        """Whether inputs are numbers of characters, each with the next one as its label."""
        return self.kind is Recurrent

    @property
    def convolves(self) -> bool:
        """Whether the model has convolutions, which XLA makes slower on a CPU."""
        return self.kind in (Convolutional, Deep)

    @property
    def sizes(self) -> str:
        """How many examples a client has, in words."""
        if isinstance(self.examples, int):
            return str(self.examples)
        return f"{self.examples[0]} to {self.examples[1]}"

    def offsets(self) -> list[int]:
        """Returns where each client's examples begin, and where the last one's end."""
        if isinstance(self.examples, int):
            return list(range(0, self.clients * self.examples + 1, self.examples))
        low, high = self.examples
        sizes = np.random.default_rng(2).integers(low, high + 1, self.clients)
        return [0, *np.cumsum(sizes).tolist()]

    def initial_weights(self) -> list[Array]:
        """Returns weights to start from, always the same: Glorot's kernels, scales of one, and zeros."""
        rng = np.random.default_rng(1)
        weights = []
        for number, shape in enumerate(self.model.weight_shapes):
            if len(shape) == 1:
                value = 1.0 if number in self.model.scales else 0.0
                weights.append(np.full(shape, value, np.float32))
                continue
            fans = math.prod(shape[:-2]) * (shape[-2] + shape[-1])
            bound = math.sqrt(6 / fans)
            weights.append(rng.uniform(-bound, bound, shape).astype(np.float32))
        return weights

    def data(self) -> tuple[Array, Array]:
        """Returns the inputs x, [examples of all clients, *shape], and the targets y."""
        rng = np.random.default_rng(0)
        count = self.offsets()[-1]
        if self.is_text:
            text = rng.integers(self.classes, size=(count, self.shape[0] + 1), dtype=np.int32)
            return text[:, :-1], text[:, 1:]
        x = rng.standard_normal((count, *self.shape), dtype=np.float32)
        if self.classes:
            return x, rng.integers(self.classes, size=count, dtype=np.int32)
        return x, rng.standard_normal((count, 1), dtype=np.float32)

    def keras_model(self) -> Any:
        """Returns the model in Keras 3, with `initial_weights`."""
        import keras

        dtype = "int32" if self.is_text else "float32"
        layers = self.model.keras_layers(keras.layers)
        model = keras.Sequential([keras.layers.Input(self.shape, dtype=dtype), *layers])
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
    kind=Convolutional,
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
W4 = Workload(
    name="W4",
    title="LSTM of 128 over 40 of 90 characters",
    clients=20,
    examples=50,
    shape=(40,),
    classes=90,
    batch_size=10,
    kind=Recurrent,
    fused=2,
)
W5 = Workload(
    name="W5",
    title="DP-SGD in the clients, the network of W2, 10 steps",
    clients=4,
    examples=1000,
    shape=(28, 28, 1),
    classes=62,
    batch_size=64,
    local_steps=10,
    kind=Convolutional,
    tolerance=1e-2,  # of 64 gradients of maxima, one or the other is that of a near tie
    fused=2,
)
W6 = Workload(
    name="W6",
    title="dense layers of 2048, 5.8 million weights",
    clients=100,
    examples=20,
    shape=(784,),
    classes=10,
    batch_size=20,
    kind=Wide,
    fused=2,
)
W7 = Workload(
    name="W7",
    title="8 convolutions with group normalization, 32x32 pixels to 10 classes",
    clients=20,
    examples=50,
    shape=(32, 32, 3),
    classes=10,
    batch_size=25,
    kind=Deep,
    # Maxima and rectifiers that nearly tie: inputs that are larger by 2e-7 move it by 8e-3 in two rounds.
    tolerance=3e-2,
    fused=2,
)
W8 = Workload(
    name="W8",
    title="logistic regression, 20 features to 10 classes, clients of all sizes",
    clients=300,
    examples=(11, 29),
    shape=(20,),
    classes=10,
    batch_size=10,
)
WORKLOADS = {workload.name: workload for workload in (W1, W2, W3, W4, W5, W6, W7, W8)}
