"""Checks before training that plan, data, model and numbers are consistent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tff_dp import _checks
from tff_dp.data import Clients
from tff_dp.errors import ArgumentError, ComputationError, DataError
from tff_dp.execution import noise_bits
from tff_dp.mechanisms import RecordGaussianMechanism
from tff_dp.model import BoundModel, ModelSpec, loss_name
from tff_dp.plan import NoPrivacy, PrivacyPlan
from tff_dp.training.results import NO_NOISE

_AT_ONCE = 4096  # number of examples whose indices are read at once


def as_spec(model: Any, loss: Any, metrics: Sequence[Any] | None) -> ModelSpec:
    """Makes a specification from the `model` argument of `fit`.

    Args:
      model: A `ModelSpec`, a Keras model, or a function that returns one.
      loss: As for `ModelSpec`; only with a bare model.
      metrics: As for `ModelSpec`; only with a bare model.

    Returns:
      The specification.

    Raises:
      ArgumentError: Loss or metrics are given in addition to a `ModelSpec`, or the model is not
        valid.
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
    """Checks that the plan fits the clients and covers the rounds.

    Args:
      privacy: The plan, or `NoPrivacy()`.
      clients: The clients' data.
      rounds: The number of rounds to train; None for all rounds of the plan.

    Returns:
      The number of rounds to train; >= 1.

    Raises:
      ArgumentError: The plan does not fit the clients, or there is no number of rounds without a
        plan.
      AccountingError: There are more rounds than the plan covers.
    """
    _checks.instance(
        "privacy",
        privacy,
        (PrivacyPlan, NoPrivacy),
        "Training without privacy must be explicit: privacy=tff_dp.NoPrivacy().",
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
    """Checks the batch size and the number of epochs.

    Args:
      privacy: The plan, or `NoPrivacy()`.
      clients: The clients' data.
      batch_size: The argument of `fit`: the number of examples in a batch; None for the default.
      epochs: The number of passes of a client over its data in a round.

    Returns:
      The number of examples in a batch. If the plan protects records, it is the number of records
      of the largest client.

    Raises:
      ArgumentError: A number is outside its bound, or differs from the one that the plan accounts
        for.
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
    return int(clients.sizes.max())  # a client reads all its records at once, and draws from them


def check_random_bits(process: Any, privacy: PrivacyPlan | NoPrivacy) -> str:
    """Checks that the random bits of a plan's noise cannot be guessed.

    Args:
      process: The learning process.
      privacy: The plan, or `NoPrivacy`.

    Returns:
      The source of the random bits, in words; `NO_NOISE` without a plan or without noise.

    Raises:
      ComputationError: They could be guessed, or the process contains no noise of `tff_dp.noise`.
    """
    if not isinstance(privacy, PrivacyPlan) or privacy.mechanism.noise_multiplier == 0:
        return NO_NOISE
    for computation in (process.initialize, process.next):
        found = noise_bits(computation)
        if found.obstacle:
            raise ComputationError(f"{found.obstacle} No round was charged.")
    if not found.marked:
        raise ComputationError(
            f"The process of {privacy.mechanism} holds no noise that stands under the name scope of "
            "tff_dp.noise, so that nothing vouches for its random bits. No round was charged. Draw "
            "the noise of a mechanism under that scope."
        )
    return found.source


def check_labels(model: BoundModel, clients: Clients) -> None:
    """Checks labels for which TensorFlow would silently compute losses of NaN or zero.

    Args:
      model: The model, bound to the shape of the data.
      clients: The clients' data.

    Raises:
      DataError: Labels are outside the range of their loss; the message names the client.
    """
    fields = model.labels_of(clients.pooled()[1])
    for term in model.terms:
        name = loss_name(term.loss).replace("_", "").lower()
        labels = fields[term.output] if term.output is not None else fields
        if isinstance(labels, dict | tuple) or term.shape is None:
            continue
        where = "y" if term.output is None else f"y[{term.output!r}]"
        if "sparsecategorical" in name:
            _check_whole(where, labels, term.loss, clients)
            outputs = int(term.shape[-1] or 0)
            _check_range(
                where, labels, 0, outputs - 1, f"the {outputs} outputs of the model", clients
            )
        elif "binarycrossentropy" in name:
            _check_range(where, labels, 0, 1, "a binary crossentropy", clients)


def check_class_weight(class_weight: Any, model: BoundModel, clients: Clients) -> None:
    """Checks that labels are classes, if classes have weights.

    Args:
      class_weight: The argument of `fit`, which `checked_class_weight` has accepted.
      model: The model, bound to the shape of the data.
      clients: The clients' data.

    Raises:
      DataError: A label is no whole number; the message names the client.
    """
    labels = model.labels_of(clients.pooled()[1])
    if class_weight is not None and not isinstance(labels, dict | tuple):
        _check_whole("y", labels, model.terms[0].loss, clients)


def checked_class_weight(class_weight: Any) -> dict[int, float] | None:
    """Checks the argument `class_weight` of `fit`.

    Args:
      class_weight: A dictionary from whole numbers to weights, or None.

    Returns:
      A copy.

    Raises:
      ArgumentError: It is no dictionary, or a class or a weight is outside its bound.
    """
    if class_weight is None:
        return None
    remedy = "It maps the number of a class to the weight of its examples, as in Keras: {0: 1.0, 1: 5.0}."
    given = _checks.instance("class_weight", class_weight, dict, remedy)
    return {
        _checks.integer("a class in class_weight", number, "[0, inf)", remedy): _checks.real(
            f"class_weight[{number!r}]", weight, "[0, inf)"
        )
        for number, weight in given.items()
    }


def checked_sample_weight(sample_weight: Any, clients: Clients) -> str | None:
    """Checks the argument `sample_weight` of `fit`, and the weights in the data.

    Args:
      sample_weight: The name of a field of y, or None.
      clients: The clients' data.

    Returns:
      The argument.

    Raises:
      ArgumentError: It is no text.
      DataError: A weight is below zero or not finite; the message names the client.
    """
    if sample_weight is None:
        return None
    name = _checks.instance(
        "sample_weight",
        sample_weight,
        str,
        "Put the weights into the clients' data, y={'label': y, 'weight': weights}, and pass the name of "
        "the field: sample_weight='weight'.",
    )
    fields = clients.pooled()[1]
    if not isinstance(fields, dict) or name not in fields or fields[name].dtype.kind in "SU":
        return name  # `ModelSpec.bind` says what is wrong with the shape of the data
    weights = fields[name].reshape(len(fields[name]), -1)
    wrong = ~((weights >= 0) & (weights < np.inf)).all(axis=1)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(
            f"y[{name!r}] of client {_client_of(row, clients)!r} holds the weight {weights[row, 0]}: "
            "expected numbers in [0, inf), for sample_weight. An example with the weight 0 does not "
            "count."
        )
    return name


def check_indices(model: BoundModel, clients: Clients) -> None:
    """Checks that each input index has a row in the model's embeddings.

    Args:
      model: The model, bound to the shape of the data.
      clients: The clients' data.

    Raises:
      DataError: An index is outside of its embedding; the message names the client.
    """
    reader = model.index_reader(clients.element_spec()[0])
    if reader is None:
        return
    x, _ = clients.pooled()

    def wrong(rows: slice) -> Any:
        batch = tf.nest.map_structure(lambda array: array[rows], x)
        return next((r for r in reader(batch) if r.low < 0 or r.high >= r.rows), None)

    for first in range(0, clients.num_examples, _AT_ONCE):
        if wrong(slice(first, min(first + _AT_ONCE, clients.num_examples))) is None:
            continue
        for row in range(first, clients.num_examples):
            found = wrong(slice(row, row + 1))
            if found is not None:
                value = found.low if found.low < 0 else found.high
                raise DataError(
                    f"x of client {_client_of(row, clients)!r} holds the index {value} for the layer "
                    f"{found.layer!r} (Embedding), which has input_dim={found.rows}: expected whole "
                    f"numbers in [0, {found.rows - 1}]. Raise input_dim, or renumber the inputs from 0."
                )


def _check_whole(where: str, labels: np.ndarray, loss: Any, clients: Clients) -> None:
    """Raises DataError for fractional labels, which TensorFlow would truncate: 1.7 would be class 1."""
    if labels.dtype.kind != "f":
        return
    flat = labels.reshape(len(labels), -1)
    fractional = flat != np.floor(flat)
    if not fractional.any():
        return
    example, place = (int(index) for index in np.argwhere(fractional)[0])
    raise DataError(
        f"{where} of client {_client_of(example, clients)!r} holds the label {flat[example, place]}: "
        f"expected whole numbers, the classes, for loss={loss!r}. For real targets use loss='mse'; for "
        "probabilities of the classes, categorical_crossentropy."
    )


def _check_range(
    where: str, labels: np.ndarray, low: int, high: int, why: str, clients: Clients
) -> None:
    flat = labels.reshape(len(labels), -1)
    wrong = ((flat < low) | (flat > high)).any(axis=1)
    if not wrong.any():
        return
    example = int(np.argmax(wrong))
    value = flat[example][(flat[example] < low) | (flat[example] > high)][0]
    raise DataError(
        f"{where} of client {_client_of(example, clients)!r} holds the label {value}: expected labels in "
        f"[{low}, {high}] for {why}. Renumber the labels from 0, or give the model more outputs."
    )


def _client_of(row: int, clients: Clients) -> str:
    return clients.ids[int(np.searchsorted(np.cumsum(clients.sizes), row, side="right"))]
