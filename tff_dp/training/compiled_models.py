"""The optimizer of a compiled Keras model for clients, and the compilation of the trained model."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tff_dp import _warnings
from tff_dp._compat import keras as keras_compat
from tff_dp.algorithms import Algorithm, FedAvg
from tff_dp.errors import ArgumentError, ModelError
from tff_dp.mechanisms import RecordGaussianMechanism
from tff_dp.model import BoundModel
from tff_dp.model.metrics import copy_metric
from tff_dp.optimizers import SGD, Adagrad, Adam, Optimizer, Yogi
from tff_dp.plan import NoPrivacy, PrivacyPlan

# From the name of a Keras optimizer to a function of its configuration. TFF's update rules are
# equivalent: with momentum, one of the two accumulates lr * gradient; Adam's epsilon is added
# outside the root and after the bias correction, and Adagrad's inside the root.
_OPTIMIZERS: dict[str, Callable[[dict[str, Any]], Optimizer]] = {
    "SGD": lambda c: SGD(learning_rate=c["learning_rate"], momentum=c["momentum"]),
    "Adam": lambda c: Adam(
        learning_rate=c["learning_rate"],
        beta_1=c["beta_1"],
        beta_2=c["beta_2"],
        epsilon=c["epsilon"],
    ),
    "Adagrad": lambda c: Adagrad(
        learning_rate=c["learning_rate"],
        initial_preconditioner=c["initial_accumulator_value"],
        epsilon=c["epsilon"],
    ),
}
_OWN = {
    "SGD": {"momentum"},
    "Adam": {"beta_1", "beta_2", "epsilon"},
    "Adagrad": {"initial_accumulator_value", "epsilon"},
}
# Options that do not affect the steps: names, how Keras runs them, and details of disabled
# features.
_SILENT = {
    "name",
    "learning_rate",
    "jit_compile",
    "is_legacy_optimizer",
    "ema_momentum",
    "ema_overwrite_frequency",
}
_REMEDY = (
    "Pass algorithm=, such as algorithm=tff_dp.FedAvg(client_optimizer=tff_dp.SGD(learning_rate=0.1)), "
    "which takes its place."
)


def algorithm_of(bound: BoundModel, algorithm: Algorithm | None) -> Algorithm:
    """Chooses the algorithm: the given one, or federated averaging with the compiled model's optimizer.

    Args:
      bound: The model.
      algorithm: The argument of `fit`, or None.

    Returns:
      The algorithm.

    Raises:
      ModelError: The model was compiled with an optimizer or options that clients do not support.
    """
    if algorithm is not None:
        return algorithm
    if bound.compiled is None or bound.compiled.optimizer is None:
        return FedAvg()
    return FedAvg(client_optimizer=_from_keras(bound, bound.compiled.optimizer))


def _from_keras(bound: BoundModel, given: Any) -> Optimizer:
    keras = keras_compat.library_of(bound.source)
    optimizer = keras.optimizers.get(given) if isinstance(given, str | dict) else given
    kind = type(optimizer)
    name = kind.__name__
    is_known = name in _OPTIMIZERS and kind is getattr(keras.optimizers, name)
    called = name if is_known or name not in _OPTIMIZERS else f"{kind.__module__}.{name}"
    what = f"The model {bound.source.name!r} was compiled with the optimizer {called}"
    if not is_known:
        known = ", ".join(_OPTIMIZERS)
        raise ModelError(
            f"{what}, which clients cannot have: expected Keras's own {known}. {_REMEDY}"
        )
    config = optimizer.get_config()
    rate = config["learning_rate"]
    if not isinstance(rate, int | float | np.floating):
        raise ModelError(
            f"{what}, whose learning rate is no number but a schedule or a function, and clients begin "
            f"anew in each round: expected a number. {_REMEDY}"
        )
    for key, value in config.items():
        if key in _SILENT | _OWN[name] or value is None or value is False or value == 0:
            continue
        raise ModelError(f"{what} with {key}={value!r}, which clients cannot have. {_REMEDY}")
    config["learning_rate"] = float(
        str(np.float32(rate))
    )  # 0.1, which Keras gives as 0.10000000149
    try:
        return _OPTIMIZERS[name](config)
    except ArgumentError as error:
        raise ModelError(f"{what}, which clients cannot have: {error} {_REMEDY}") from None


def check_released(
    bound: BoundModel,
    privacy: PrivacyPlan | NoPrivacy,
    release_metrics: bool | None,
    *,
    given: bool,
) -> None:
    """Checks that each metric of the model is released, unless `release_metrics` is given.

    Args:
      bound: The model.
      privacy: The plan, or `NoPrivacy`.
      release_metrics: The argument of `fit`. False states that no metrics are to be released.
      given: Whether the metrics were passed as an argument. For metrics of a compiled model, there
        is only a warning.

    Raises:
      ArgumentError: A metric that was passed as an argument is not released.
    """
    if not isinstance(privacy, PrivacyPlan) or release_metrics is not None:
        return
    own = {metric.name for metric in privacy.metrics}
    missing = [metric.name for metric in bound.metrics if metric.name not in own]
    if not missing:
        return
    message = _unreleased(missing, privacy)
    if given:
        raise ArgumentError(f"metrics holds {message}")
    _warnings.warn(f"The model was compiled with {message}")


def _unreleased(names: Sequence[str], plan: PrivacyPlan) -> str:
    listed = ", ".join(map(repr, names))
    text = (
        f"{listed}, which no round under this privacy plan releases. Pass release_metrics=False to say "
        "that this is meant: the trained model is compiled with its metrics, and its evaluate() gives "
        "them on data that may be used for it."
    )
    if isinstance(plan.mechanism, RecordGaussianMechanism):
        return text
    return (
        f"{text} To have them after each round, make the plan with metrics=(tff_dp.PrivateMetric("
        f"name={names[0]!r}, clip_value=...), ...), which have noise and a share of the budget; or pass "
        "release_metrics=True, which releases plain sums outside any epsilon."
    )


def compiler(bound: BoundModel, algorithm: Algorithm) -> Callable[[Any], None]:
    """Prepares the compilation of the trained model with its loss, metrics and optimizer.

    The metrics are copied here once, so that a failure occurs before training.

    Args:
      bound: The model.
      algorithm: The algorithm that trains it.

    Returns:
      A function that compiles a trained Keras model.

    Raises:
      ModelError: A metric cannot be copied.
    """
    keras = keras_compat.library_of(bound.source)
    base = keras.Model

    def arguments() -> dict[str, Any]:  # new objects for each model
        return {
            "optimizer": keras_optimizer(algorithm.model_optimizer, keras),
            "loss": bound.loss,
            "loss_weights": bound.loss_weights,
            "metrics": [copy_metric(metric) for metric in bound.metrics],
            **(bound.compiled.hints if bound.compiled is not None else {}),
        }

    arguments()

    def compile_model(model: Any) -> None:
        try:
            base.compile(
                model, **arguments()
            )  # the `compile` of a subclass may take other arguments
            model.optimizer.build(model.trainable_variables)
            _leave_out_of_files(model, keras)
        except Exception as error:  # no error may discard the trained model
            _warnings.warn(
                f"The trained model could not be compiled: {error} Compile it before its evaluate() or "
                "fit()."
            )

    return compile_model


def _leave_out_of_files(model: Any, keras: Any) -> None:
    """Leaves the arguments of `compile` out of a model's files, unless Keras can restore them.

    A loss may be a function that Keras cannot look up, or an object that it cannot serialize. The
    file of such a model could not be loaded, or not even be written.
    """
    ours = keras_compat.compile_config(model)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about functions without a name, which are left out
            keras.saving.deserialize_keras_object(model.get_compile_config())
    except Exception:  # Keras raises errors of many classes

        def get_compile_config() -> Any:
            same = keras_compat.compile_config(model) is ours
            return None if same else type(model).get_compile_config(model)

        model.get_compile_config = get_compile_config


def keras_optimizer(given: Optimizer | None, keras: Any) -> Any:
    """Returns a new Keras optimizer like one of tff_dp.

    Args:
      given: The optimizer; None for Keras's SGD.
      keras: The module `keras` or `tf_keras`.

    Returns:
      A Keras optimizer; Adam in place of Yogi, which Keras does not have.
    """
    if isinstance(given, SGD):
        return keras.optimizers.SGD(learning_rate=given.learning_rate, momentum=given.momentum)
    if isinstance(given, Adagrad):
        return keras.optimizers.Adagrad(
            learning_rate=given.learning_rate,
            initial_accumulator_value=given.initial_preconditioner,
            epsilon=given.epsilon,
        )
    if isinstance(
        given, Adam | Yogi
    ):  # Keras has no Yogi, which differs from Adam only in the second moment
        return keras.optimizers.Adam(
            learning_rate=given.learning_rate,
            beta_1=given.beta_1,
            beta_2=given.beta_2,
            epsilon=given.epsilon,
        )
    return keras.optimizers.SGD()  # a user's class of optimizers
