"""Composes a model, an algorithm and an aggregation into a TFF learning process."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from tff_dp import _checks, _compat
from tff_dp._compat import tensorflow as tf_compat
from tff_dp.algorithms import Algorithm
from tff_dp.errors import ArgumentError, ModelError, TffDpError
from tff_dp.mechanisms import RecordGaussianMechanism
from tff_dp.model import BoundModel
from tff_dp.model.trial import reason
from tff_dp.model.weights import check_weights
from tff_dp.plan import NoPrivacy, PrivacyPlan
from tff_dp.process.components import (
    Use,
    client_level_components,
    plain_components,
    record_level_components,
)


def build_process(
    model: BoundModel, *, algorithm: Algorithm, privacy: PrivacyPlan | NoPrivacy
) -> Any:
    """Builds a standard TFF learning process.

    Everything in it but FedProx's term and the clients' DP-SGD is TFF's own (builders, optimizers,
    aggregators over tensorflow-privacy's queries): it runs on stock TFF and wherever TFF computations
    run.

    Args:
      model: A model bound to the data's shape, from `ModelSpec.bind`.
      algorithm: What clients and server compute: one of tff_dp's, or of your own
        `tff_dp.algorithms.Algorithm`.
      privacy: The plan, or `NoPrivacy()`. Where it protects records, a client's data must be its records,
        each once, and as many as the plan says for its own epsilon to hold; the worst client's holds
        whatever their number.

    Returns:
      A `tff.learning.templates.LearningProcess`. Its `initialize` starts from the model's weights if
      the model is functional; `initialize_from` starts from them in any case. Under `TreeMechanism` and
      `BandedMechanism` its state holds noise that has been released, in fields named `secret_...`, and
      is as secret as the data: publish the model's weights, never the state.

    Raises:
      ArgumentError: The algorithm is none, or weights clients under differential privacy of clients, or
        has no local steps under that of records, or composes a process that would not be private; or
        neither a plan nor `NoPrivacy()` was given; or the model has more trainable parameters than the
        plan's `max_dimension`.
      ModelError: The model has no trainable weights, or weights that are NaN or infinite. Under a plan
        for records: the model is not functional, or its loss of one example depends on others.
    """
    return compose(model, algorithm, privacy)


@_compat.keras.usable_tf_keras_models()
@tf_compat.one_stack_trace()
def compose(
    model: BoundModel,
    algorithm: Algorithm,
    privacy: PrivacyPlan | NoPrivacy,
    *,
    scaled: bool = False,
    adjustable: bool = False,
) -> Any:
    """Composes the process of `build_process`.

    Args:
      model: See `build_process`.
      algorithm: See `build_process`.
      privacy: See `build_process`.
      scaled: Whether the noise multiplier is in the state, and not in the graph of a round; see
        `tff_dp.aggregation.build_aggregator`.
      adjustable: Whether the learning rate of the clients is in the state, if the algorithm supports
        that; see `Components`. It always is if records are protected.

    Returns:
      As `build_process`.

    Raises:
      ArgumentError: As for `build_process`; or `scaled` or `adjustable` is no boolean.
      ModelError: As for `build_process`.
    """
    _checks.flag("scaled", scaled)
    _checks.flag("adjustable", adjustable)
    if not isinstance(algorithm, Algorithm):
        raise ArgumentError(
            f"algorithm={algorithm!r} is unknown: expected FedAvg, FedOpt, FedProx or FedSGD, or an "
            "instance of your own subclass of tff_dp.algorithms.Algorithm."
        )
    _checks.instance(
        "privacy", privacy, (PrivacyPlan, NoPrivacy), "To train without privacy, pass NoPrivacy()."
    )
    _compat.tff.load()
    if not isinstance(privacy, PrivacyPlan):
        check_weights(model)
        components = dataclasses.replace(plain_components(algorithm), adjustable=adjustable)
        return _checked(algorithm, algorithm.compose(model, components))
    if not isinstance(privacy.mechanism, RecordGaussianMechanism):
        _refuse_weights(algorithm)
    check_weights(model)
    privacy.check_dimension(parameters(model))
    if isinstance(privacy.mechanism, RecordGaussianMechanism):
        components = record_level_components(privacy, privacy.mechanism, model, algorithm)
    else:
        components = client_level_components(privacy, scaled=scaled)
    use = Use(privacy, dataclasses.replace(components, adjustable=adjustable))
    process = _checked(algorithm, algorithm.compose(model, use.components))
    use.check(algorithm)
    return process


def _refuse_weights(algorithm: Algorithm) -> None:
    if algorithm.weighting not in (None, "uniform"):
        raise ArgumentError(
            f"weighting={algorithm.weighting!r} breaks the sensitivity bound of differential privacy: "
            "expected 'uniform' or None. A client with many examples would move a weighted mean by "
            "more than the clip norm; leave weighting out."
        )


def _checked(algorithm: Algorithm, process: Any) -> Any:
    """Returns what an algorithm has composed, if it is a learning process."""
    if not isinstance(process, _compat.tff.load().learning.templates.LearningProcess):
        raise ArgumentError(
            f"algorithm={algorithm!r} composed {str(process)[:100]}: expected a "
            "tff.learning.templates.LearningProcess. Return one from its compose, as TFF's builders make "
            "them."
        )
    return process


@contextlib.contextmanager
def explained(model: BoundModel) -> Iterator[None]:
    """Turns whatever fails while a model's process is composed into an error of ours.

    Args:
      model: The model.

    Yields:
      Nothing.

    Raises:
      ModelError: TensorFlow or TFF cannot make a graph of the model's training.
    """
    try:
        yield
    except TffDpError:
        raise
    except Exception as error:  # whatever the model's layers, Keras, TensorFlow or TFF raise
        raise ModelError(
            f"model={model.source!r} cannot be trained: {reason(error)} Nothing was charged. Keras's "
            "own fit on a few examples may tell more."
        ) from error


def parameters(model: BoundModel) -> int:
    """Counts a model's trainable parameters.

    Args:
      model: The model.

    Returns:
      Their number.
    """
    return sum(int(np.size(weight)) for weight in model.initial_weights.trainable)
