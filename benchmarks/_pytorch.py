"""Federated averaging as one writes it for one experiment in PyTorch; and DP-SGD in the clients.

It runs in an environment of its own (`benchmarks._environments`), without TensorFlow.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks._models import Convolutional, Deep, Dense, Recurrent, Wide
from benchmarks._workloads import LEARNING_RATE, Array, Privacy, Workload

_SMALL = 1e-3  # as of Keras's group normalization


class Convolutions(nn.Sequential):
    """The layers of `benchmarks._models.Convolutional`."""

    def __init__(self, shape: tuple[int, ...], outputs: int) -> None:
        height, width, channels = shape
        flat = (height - 4) // 2 * ((width - 4) // 2) * 64
        super().__init__(
            nn.Conv2d(channels, 32, 3),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(flat, 128),
            nn.ReLU(),
            nn.Linear(128, outputs),
        )


class Normalized(nn.Sequential):
    """The layers of `benchmarks._models.Deep`."""

    def __init__(self, shape: tuple[int, ...], outputs: int) -> None:
        layers: list[nn.Module] = []
        channels = shape[-1]
        for _ in range(8):
            layers += [
                nn.Conv2d(channels, 32, 3, padding="same"),
                nn.GroupNorm(8, 32, eps=_SMALL),
                nn.ReLU(),
            ]
            channels = 32
        last = nn.Linear(32, outputs)
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), last)


class Characters(nn.Module):
    """The layers of `benchmarks._models.Recurrent`."""

    def __init__(self, shape: tuple[int, ...], outputs: int) -> None:
        del shape
        super().__init__()
        self.embedding = nn.Embedding(outputs, 8)
        self.lstm = nn.LSTM(8, 128, batch_first=True)
        self.last = nn.Linear(128, outputs)
        # Keras has one bias; here, the other one stays zero.
        self.lstm.bias_hh_l0.requires_grad_(False).zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the logits of the next character of each: [examples, characters, outputs]."""
        states, _ = self.lstm(self.embedding(x))
        logits: torch.Tensor = self.last(states)
        return logits


MODULES: dict[Any, Callable[[tuple[int, ...], int], nn.Module]] = {
    Dense: lambda shape, outputs: nn.Linear(shape[0], outputs),
    Wide: lambda shape, outputs: nn.Sequential(
        nn.Linear(shape[0], 2048), nn.ReLU(), nn.Linear(2048, 2048), nn.ReLU(),
        nn.Linear(2048, outputs),
    ),
    Convolutional: Convolutions,
    Deep: Normalized,
    Recurrent: Characters,
}  # fmt: skip


def to_torch(workload: Workload, weights: list[Array]) -> list[torch.Tensor]:
    """Returns weights in the layout of PyTorch, whose images have their channels first."""
    found = []
    for number, weight in enumerate(weights):
        if weight.ndim == 4:
            weight = weight.transpose(3, 2, 0, 1)
        elif workload.is_text and number == 0:
            pass  # an embedding is the same
        elif weight.ndim == 2:
            if workload.kind is Convolutional and number == 4:
                weight = _permuted(workload, weight, 0, 1, 2)
            weight = weight.T
        found.append(torch.from_numpy(np.array(weight, np.float32, order="C")))
    return found


def from_torch(workload: Workload, weights: list[torch.Tensor]) -> list[Array]:
    """Returns weights in Keras's layout."""
    found = []
    for number, tensor in enumerate(weights):
        weight = tensor.detach().cpu().numpy()
        if weight.ndim == 4:
            weight = weight.transpose(2, 3, 1, 0)
        elif weight.ndim == 2 and not (workload.is_text and number == 0):
            weight = weight.T
            if workload.kind is Convolutional and number == 4:
                weight = _permuted(workload, weight, 2, 0, 1)
        found.append(np.array(weight))
    return found


def _permuted(workload: Workload, kernel: Array, *last: int) -> Array:
    """Returns the first dense kernel of `Convolutional` for images flattened in another order.

    Args:
      workload: The workload.
      kernel: [height * width * 64, 128], in the order of the model that it comes from.
      last: 0, 1, 2 from Keras's order (height, width, channels) to PyTorch's; 2, 0, 1 back.
    """
    height, width = ((side - 4) // 2 for side in workload.shape[:2])
    if last == (0, 1, 2):
        return kernel.reshape(height, width, 64, -1).transpose(2, 0, 1, 3).reshape(kernel.shape)
    return kernel.reshape(64, height, width, -1).transpose(1, 2, 0, 3).reshape(kernel.shape)


class Rounds(abc.ABC):
    """Rounds over clients, one after another.

    Args:
      workload: The model and the clients.
      privacy: How updates are clipped and noised; None for neither.
      x: Inputs, client after client.
      y: Targets, likewise.
      device: Where everything is, as PyTorch names it.

    Attributes:
      channels_last: Whether images are in the memory format that a CPU's convolutions like best.
    """

    channels_last: ClassVar[bool] = True

    def __init__(
        self,
        workload: Workload,
        privacy: Privacy | None,
        x: Array,
        y: Array,
        device: str = "cpu",
    ) -> None:
        self._workload, self._privacy = workload, privacy
        self._offsets = workload.offsets()
        inputs = torch.from_numpy(x.astype(np.int64) if workload.is_text else x)
        if workload.convolves:
            inputs = inputs.permute(0, 3, 1, 2)
            if not self.channels_last:
                # `contiguous` keeps the strides of images with one channel, which could be either's.
                inputs = inputs.clone(memory_format=torch.contiguous_format)
        self._x = inputs.to(device)
        self._y = torch.from_numpy(y.astype(np.int64) if workload.classes else y).to(device)
        self._module = MODULES[workload.kind](workload.shape, workload.classes or 1).to(device)
        if workload.convolves and self.channels_last:
            self._module = self._module.to(memory_format=torch.channels_last)
        self._parameters = [p for p in self._module.parameters() if p.requires_grad]
        with torch.no_grad():
            initial = to_torch(workload, workload.initial_weights())
            self._load(initial)
            # Of the parameters' own memory format.
            self._weights = [p.detach().clone() for p in self._parameters]

    @abc.abstractmethod
    def _client(self, low: int, high: int) -> float:
        """Trains on the examples from low to high - 1; returns their mean loss."""

    def run(self) -> float:
        """Runs a round; returns the mean loss of its examples."""
        sums = [torch.zeros_like(weight) for weight in self._weights]
        losses = []
        for low, high in zip(self._offsets, self._offsets[1:], strict=False):
            self._load(self._weights)
            losses.append(self._client(low, high))
            with torch.no_grad():
                update = torch._foreach_sub(self._parameters, self._weights)
                self._clip(update)
                torch._foreach_add_(sums, update)
        with torch.no_grad():
            self._noise(sums)
            torch._foreach_add_(self._weights, sums, alpha=1 / self._workload.clients)
        return float(np.average(losses, weights=np.diff(self._offsets)))

    def weights(self) -> list[Array]:
        """Returns the global weights, in Keras's layout."""
        return from_torch(self._workload, self._weights)

    def _load(self, weights: list[torch.Tensor]) -> None:
        with torch.no_grad():
            torch._foreach_copy_(self._parameters, weights)

    def _clip(self, update: list[torch.Tensor]) -> None:
        if self._privacy:
            norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(update)))
            torch._foreach_mul_(update, torch.clamp(self._privacy.clip_norm / norm, max=1.0))

    def _noise(self, sums: list[torch.Tensor]) -> None:
        if self._privacy:
            stddev = self._privacy.clip_norm * self._privacy.noise_multiplier
            for total in sums:
                total.add_(torch.randn_like(total), alpha=stddev)

    def _loss(self, outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if self._workload.classes:
            return functional.cross_entropy(outputs.flatten(0, -2), y.flatten())
        return functional.mse_loss(outputs, y)


class Loop(Rounds):
    """Each client takes plain steps over its batches."""

    def _client(self, low: int, high: int) -> float:
        total = 0.0
        losses = []
        for begin in range(low, high, self._workload.batch_size):
            end = min(begin + self._workload.batch_size, high)
            loss = self._loss(self._module(self._x[begin:end]), self._y[begin:end])
            gradients = torch.autograd.grad(loss, self._parameters)
            with torch.no_grad():
                torch._foreach_add_(self._parameters, gradients, alpha=-LEARNING_RATE)
            losses.append((loss.detach(), end - begin))
        for loss, count in losses:
            total += float(loss) * count
        return total / (high - low)


class _RecordLevel(Rounds):
    """Each client takes steps of DP-SGD: Poisson batches, and noise of its own."""

    def _clip(self, update: list[torch.Tensor]) -> None:
        """Does nothing: gradients have been clipped."""

    def _noise(self, sums: list[torch.Tensor]) -> None:
        """Does nothing: the clients have added noise."""

    def _batch(self, low: int, high: int) -> torch.Tensor:
        rate = self._workload.batch_size / (high - low)
        return torch.nonzero(torch.rand(high - low, device=self._y.device) < rate).flatten() + low


class Vectorized(_RecordLevel):
    """Gradients of all examples by `torch.func.vmap`."""

    def __init__(
        self,
        workload: Workload,
        privacy: Privacy | None,
        x: Array,
        y: Array,
        device: str = "cpu",
    ) -> None:
        super().__init__(workload, privacy, x, y, device)
        names = [name for name, _ in self._module.named_parameters()]

        def loss(weights: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            bound = dict(zip(names, weights, strict=True))
            outputs = torch.func.functional_call(self._module, bound, (x[None],))
            return self._loss(outputs, y[None])

        self._each = torch.func.vmap(torch.func.grad_and_value(loss), in_dims=(None, 0, 0))

    def _client(self, low: int, high: int) -> float:
        assert self._privacy is not None
        losses = []
        for _ in range(self._workload.local_steps):
            chosen = self._batch(low, high)
            gradients, each = self._each(
                tuple(p.detach() for p in self._parameters), self._x[chosen], self._y[chosen]
            )
            losses.append(each.mean())
            norms = torch.stack([g.flatten(1).norm(dim=1) for g in gradients]).norm(dim=0)
            scale = torch.clamp(self._privacy.clip_norm / norms, max=1.0)
            with torch.no_grad():
                for parameter, gradient in zip(self._parameters, gradients, strict=True):
                    total = torch.tensordot(scale, gradient, 1)
                    stddev = self._privacy.clip_norm * self._privacy.noise_multiplier
                    total.add_(torch.randn_like(total), alpha=stddev)
                    step = LEARNING_RATE / self._workload.batch_size
                    parameter.add_(total, alpha=-step)
        return float(torch.stack(losses).mean())


class Opacus(_RecordLevel):
    """Gradients of all examples by Opacus.

    With channels last, Opacus 1.6.0 gets the gradients of the second convolution wrong.
    """

    channels_last = False

    def __init__(self, workload: Workload, privacy: Privacy | None, x: Array, y: Array) -> None:
        from opacus import GradSampleModule
        from opacus.optimizers import DPOptimizer

        super().__init__(workload, privacy, x, y)
        assert privacy is not None
        self._wrapped = GradSampleModule(self._module)
        self._optimizer = DPOptimizer(
            torch.optim.SGD(self._wrapped.parameters(), lr=LEARNING_RATE),
            noise_multiplier=privacy.noise_multiplier,
            max_grad_norm=privacy.clip_norm,
            expected_batch_size=workload.batch_size,
        )

    def _client(self, low: int, high: int) -> float:
        losses = []
        for _ in range(self._workload.local_steps):
            chosen = self._batch(low, high)
            self._optimizer.zero_grad(set_to_none=True)
            loss = self._loss(self._wrapped(self._x[chosen]), self._y[chosen])
            loss.backward()
            self._optimizer.step()
            losses.append(loss.detach())
        return float(torch.stack(losses).mean())
