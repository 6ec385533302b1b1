"""What is checked before training: that plan, data, model and numbers fit together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tff_dp import _checks
from tff_dp.data import Clients
from tff_dp.errors import ArgumentError, DataError
from tff_dp.mechanisms import RecordGaussianMechanism
from tff_dp.model import BoundModel, ModelSpec
from tff_dp.plan import NoPrivacy, PrivacyPlan


def as_spec(model: Any, loss: Any, metrics: Sequence[Any] | None) -> ModelSpec:
    """Returns the model's specification, given that or a bare Keras model.

    Raises:
      ArgumentError: Loss or metrics are given twice.
    """
    if not isinstance(model, ModelSpec):
        return ModelSpec(model=model, loss=loss, metrics=metrics)
    if loss is not None or metrics:
        raise ArgumentError(
            f"loss={loss!r} and metrics={metrics!r} belong to a bare Keras model: the ModelSpec that was "
            "given has its own. Leave them out, or put them into the ModelSpec."
        )
    return model


def check_privacy(privacy: PrivacyPlan | NoPrivacy, clients: Clients, rounds: int | None) -> int:
    """Returns the rounds to train, once the plan fits the clients.

    Raises:
      ArgumentError: It does not, or there is no number of rounds.
    """
    _checks.instance(
        "privacy",
        privacy,
        (PrivacyPlan, NoPrivacy),
        "Training without privacy must be said: privacy=tff_dp.NoPrivacy().",
    )
    if isinstance(privacy, PrivacyPlan):
        privacy.check_population(clients.num_clients)
        privacy.check_records(clients.sizes.tolist())
        rounds = privacy.check_rounds(rounds)
    elif rounds is None:
        raise ArgumentError(
            "rounds=None: expected a whole number in [1, inf) without a privacy plan."
        )
    privacy.sampler.check(clients.num_clients)
    return _checks.integer("rounds", rounds, "[1, inf)")


def check_batches(
    privacy: PrivacyPlan | NoPrivacy, clients: Clients, batch_size: int | None, epochs: int
) -> int:
    """Returns the examples in a batch of a client's data.

    Raises:
      ArgumentError: A number is outside its bound, or not what the plan accounts for.
    """
    _checks.integer("epochs", epochs, "[1, inf)")
    if batch_size is not None:
        _checks.integer("batch_size", batch_size, "[1, inf)")
    mechanism = getattr(privacy, "mechanism", None)
    if not isinstance(mechanism, RecordGaussianMechanism):
        return 32 if batch_size is None else batch_size
    if epochs != 1:
        raise ArgumentError(
            f"epochs={epochs!r} is outside its bound: expected 1 under unit='record'. A record that a "
            "client's data hold twice has twice the influence that is accounted for. For more work in a "
            "round, raise local_steps of the mechanism."
        )
    if batch_size not in (None, mechanism.batch_size):
        raise ArgumentError(
            f"batch_size={batch_size!r} is not that of the mechanism, {mechanism.batch_size}, which is "
            "accounted for. Leave it out."
        )
    return int(clients.sizes.max())  # a client reads its records as one batch, and draws from them


def check_labels(loss: Any, model: BoundModel, clients: Clients) -> None:
    """Refuses labels that TensorFlow would take without a word: NaN losses, zeros, broadcasts.

    Raises:
      DataError: Labels are outside the model's range, or of another shape than its outputs.
    """
    name = (loss if isinstance(loss, str) else getattr(loss, "__name__", type(loss).__name__)) or ""
    name = name.replace("_", "").lower()
    _, labels = clients.pooled()
    shape = model.output_shape
    if shape is None or isinstance(labels, dict):
        return
    if "sparsecategorical" in name:
        _check_whole(labels, loss, clients)
        _check_range(
            labels, 0, int(shape[-1] or 0) - 1, f"the {shape[-1]} outputs of the model", clients
        )
        return
    if "binarycrossentropy" in name:
        _check_range(labels, 0, 1, "a binary crossentropy", clients)
    label_shape = tuple(labels.shape[1:])
    known = tuple(size for size in shape if size is not None)
    if "crossentropy" in name or not name or len(known) != len(shape):
        return
    if _squeezed(label_shape) != _squeezed(known):
        raise DataError(
            f"y has shape {list(label_shape)} for one example, and the model predicts {list(shape)}: "
            f"loss={loss!r} would compare every value with every other. Give y the model's shape."
        )


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[:-1] if shape and shape[-1] == 1 else shape


def _check_whole(labels: np.ndarray, loss: Any, clients: Clients) -> None:
    """Refuses fractional labels, which TensorFlow would cut off: 1.7 would count as class 1."""
    if labels.dtype.kind != "f":
        return
    flat = labels.reshape(len(labels), -1)
    fractional = flat != np.floor(flat)
    if not fractional.any():
        return
    example, place = (int(index) for index in np.argwhere(fractional)[0])
    client = clients.ids[int(np.searchsorted(np.cumsum(clients.sizes), example, side="right"))]
    raise DataError(
        f"y of client {client!r} holds the label {flat[example, place]}: expected whole numbers, the "
        f"classes, for loss={loss!r}. For real targets use loss='mse'; for probabilities of the classes, "
        "categorical_crossentropy."
    )


def _check_range(labels: np.ndarray, low: int, high: int, why: str, clients: Clients) -> None:
    flat = labels.reshape(len(labels), -1)
    wrong = ((flat < low) | (flat > high)).any(axis=1)
    if not wrong.any():
        return
    example = int(np.argmax(wrong))
    client = clients.ids[int(np.searchsorted(np.cumsum(clients.sizes), example, side="right"))]
    value = flat[example][(flat[example] < low) | (flat[example] > high)][0]
    raise DataError(
        f"y of client {client!r} holds the label {value}: expected labels in [{low}, {high}] for {why}. "
        "Renumber the labels from 0, or give the model more outputs."
    )
