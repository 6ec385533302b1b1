"""Composes a model, an algorithm and an aggregation into a TFF learning process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from tff_dp import _checks, _compat
from tff_dp.aggregation import build_aggregator, private_metrics, weighted_mean
from tff_dp.algorithms import Algorithm, FedAvg, FedProx, FedSGD
from tff_dp.algorithms.proximal import proximal
from tff_dp.dp_sgd import build_client_work, refuse_coupled
from tff_dp.errors import ArgumentError, ModelError, TffDpError
from tff_dp.execution import current_or_fast
from tff_dp.mechanisms import RecordGaussianMechanism
from tff_dp.model import BoundModel, ModelWeights
from tff_dp.model.weights import check_weights
from tff_dp.plan import NoPrivacy, PrivacyPlan

_DTYPES = ("float16", "bfloat16", "float32", "float64")


def build_process(
    model: BoundModel, *, algorithm: Algorithm, privacy: PrivacyPlan | NoPrivacy
) -> Any:
    """Builds a standard TFF learning process.

    Everything in it but FedProx's term and the clients' DP-SGD is TFF's own (builders, optimizers,
    aggregators over tensorflow-privacy's queries): it runs on stock TFF and wherever TFF computations
    run.

    Args:
      model: A model bound to the data's shape, from `ModelSpec.bind`.
      algorithm: What clients and server compute.
      privacy: The plan, or `NoPrivacy()`. Where it protects records, a client's data must be its records,
        each once, and as many as the plan says for its own epsilon to hold; the worst client's holds
        whatever their number.

    Returns:
      A `tff.learning.templates.LearningProcess`. Its `initialize` starts from the model's weights if
      the model is functional; `initialize_from` starts from them in any case. Under `TreeMechanism` and
      `BandedMechanism` its state holds noise that has been released, in fields named `secret_...`, and
      is as secret as the data: publish the model's weights, never the state.

    Raises:
      ArgumentError: The algorithm is unknown, or weights clients under differential privacy of
        clients, or has no local steps under that of records; or neither a plan nor `NoPrivacy()` was
        given; or the model has more trainable parameters than the plan's `max_dimension`.
      ModelError: The model has no trainable weights, or weights that are NaN or infinite. Under a plan
        for records: the model is not functional, or its loss of one example depends on others.
    """
    return compose(model, algorithm, privacy)


@_compat.usable_tf_keras_models()
def compose(
    model: BoundModel,
    algorithm: Algorithm,
    privacy: PrivacyPlan | NoPrivacy,
    *,
    scaled: bool = False,
) -> Any:
    """Returns the process of `build_process`.

    Args:
      model: See `build_process`.
      algorithm: See `build_process`.
      privacy: See `build_process`.
      scaled: Whether the noise multiplier is in the state, and not in the graph of a round; see
        `tff_dp.aggregation.build_aggregator`.
    """
    if not isinstance(algorithm, FedAvg | FedSGD):
        raise ArgumentError(
            f"algorithm={algorithm!r} is unknown: expected FedAvg, FedOpt, FedProx or FedSGD."
        )
    _checks.instance(
        "privacy", privacy, (PrivacyPlan, NoPrivacy), "To train without privacy, pass NoPrivacy()."
    )
    tff = _compat.load_tff()
    plan = privacy if isinstance(privacy, PrivacyPlan) else None
    of_records = plan is not None and isinstance(plan.mechanism, RecordGaussianMechanism)
    weighting = getattr(algorithm, "weighting", None) or ("uniform" if plan else "examples")
    if plan and not of_records and weighting != "uniform":
        raise ArgumentError(
            f"weighting={weighting!r} breaks the sensitivity bound of differential privacy: "
            "expected 'uniform' or None. A client with many examples would move a weighted mean by "
            "more than the clip norm; leave weighting out."
        )
    check_weights(model)
    if plan and isinstance(plan.mechanism, RecordGaussianMechanism):
        return _record_level(model, algorithm, plan, plan.mechanism)
    aggregator = None
    if plan:
        plan.check_dimension(parameters(model))
        aggregator = build_aggregator(
            plan.update_mechanism, plan.clients_per_round, plan.rounds, scaled=scaled
        )
    elif weighting == "uniform":
        aggregator = tff.aggregators.UnweightedMeanFactory()

    released = None
    if plan and plan.metrics:
        z = plan.mechanism.noise_multiplier
        released = private_metrics(plan.metrics, z, plan.clients_per_round)

    server = algorithm.server_optimizer.build()
    if isinstance(algorithm, FedSGD):
        return tff.learning.algorithms.build_fed_sgd(
            model.tff_model,
            server_optimizer_fn=server,
            model_aggregator=aggregator and tff.aggregators.as_weighted_aggregator(aggregator),
            metrics_aggregator=released,
        )
    build = (
        tff.learning.algorithms.build_weighted_fed_avg
        if aggregator is None
        else tff.learning.algorithms.build_unweighted_fed_avg
    )
    return build(
        model.tff_model,
        client_optimizer_fn=_client_optimizer(algorithm),
        server_optimizer_fn=server,
        model_aggregator=aggregator,
        metrics_aggregator=released,
    )


@contextlib.contextmanager
def explained(model: BoundModel) -> Iterator[None]:
    """Gives an error of ours for what fails when a model's process is made.

    Args:
      model: The model.

    Raises:
      ModelError: TensorFlow or TFF cannot make a graph of the model's training.
    """
    try:
        yield
    except TffDpError:
        raise
    except Exception as error:  # whatever the model's layers, Keras, TensorFlow or TFF raise
        from tff_dp.model.trial import reason

        raise ModelError(
            f"model={model.source!r} cannot be trained: {reason(error)} Nothing was charged. Keras's "
            "own fit on a few examples may tell more."
        ) from error


def parameters(model: BoundModel) -> int:
    """Returns the number of trainable parameters."""
    return sum(int(np.size(weight)) for weight in model.initial_weights.trainable)


def _client_optimizer(algorithm: FedAvg) -> Any:
    client = algorithm.client_optimizer.build()
    if isinstance(algorithm, FedProx):
        return proximal(client, float(algorithm.proximal_strength))
    return client


def _record_level(
    model: BoundModel,
    algorithm: FedAvg | FedSGD,
    plan: PrivacyPlan,
    mechanism: RecordGaussianMechanism,
) -> Any:
    """Composes federated averaging of clients that noise their own steps.

    The server averages what is private already, and may weigh clients by their numbers of records, which
    are public. Who takes part is no secret either: the average is over them, and of nobody it is zero.
    """
    if not isinstance(algorithm, FedAvg):
        raise ArgumentError(
            f"algorithm={algorithm!r} has no local steps, in which records are protected: expected "
            "FedAvg, FedOpt or FedProx. FedAvg(client_optimizer=SGD(learning_rate=1.0)) with "
            "local_steps=1 sends a gradient, too."
        )
    if not model.is_functional:
        raise ModelError(
            "The tf-keras model cannot be trained with record-level privacy: gradients of single "
            "examples need a functional model, which TFF makes of no tf-keras model with batch "
            "normalization, random layers, added losses or mixed precision (this one computes in "
            f"{', '.join(sorted(model.compute_dtypes))}). Make the model with Keras 3, without "
            "BatchNormalization."
        )
    for weight in model.initial_weights.trainable:
        if weight.dtype.name not in _DTYPES:
            raise ModelError(
                f"A trainable weight has dtype={weight.dtype.name!r}: expected one of "
                f"{', '.join(_DTYPES)}, whose gradients can be clipped. Make the layer with one of these."
            )
    refuse_coupled(model.tff_model)
    plan.check_dimension(parameters(model))
    tff = _compat.load_tff()
    templates = tff.learning.templates

    @tff.tensorflow.computation
    def initial_weights() -> Any:
        return tff.learning.models.ModelWeights(*map(tuple, model.tff_model.initial_weights))

    weights_type = initial_weights.type_signature.result
    return templates.compose_learning_process(
        initial_weights,
        templates.build_broadcast_process(weights_type),
        build_client_work(
            model.tff_model,
            _client_optimizer(algorithm),
            mechanism,
            fewest=min(plan.records or (1,)),
            weigh_by_examples=algorithm.weighting == "examples",
        ),
        weighted_mean(weights_type.trainable),
        templates.build_apply_optimizer_finalizer(algorithm.server_optimizer.build(), weights_type),
    )


def initialize_from(process: Any, weights: ModelWeights) -> Any:
    """Returns a process's initial state with these model weights.

    Args:
      process: A learning process of `build_process`.
      weights: As `BoundModel.initial_weights`.
    """
    with current_or_fast():  # TFF's default would start a worker process that stays
        state = process.initialize()
        current = process.get_model_weights(state)
        # TFF types a weight list as list or tuple depending on the kind of model: keep its own.
        replaced = type(current)(
            trainable=type(current.trainable)(weights.trainable),
            non_trainable=type(current.non_trainable)(weights.non_trainable),
        )
        return process.set_model_weights(state, replaced)


def model_weights(process: Any, state: Any) -> ModelWeights:
    """Returns the global model's weights in a process's state."""
    with current_or_fast():
        current = process.get_model_weights(state)
    return ModelWeights(tuple(current.trainable), tuple(current.non_trainable))
