"""Keras callbacks that a federated run cannot serve, each with the reason and the remedy."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

from tff_dp._compat import keras as keras_compat
from tff_dp.errors import ArgumentError, StackError

BATCH_HOOKS = (
    "on_batch_begin",
    "on_batch_end",
    "on_train_batch_begin",
    "on_train_batch_end",
)

# By the name of the class in `keras.callbacks`; what derives from such a class is refused as well.
REFUSED = {
    "BackupAndRestore": (
        "saves the model, and would lose the rest of a run: the state of the server's optimizer, the "
        "noise that rounds share, the clip norm and the privacy ledger. Use fit(run_dir=..., "
        "save_every=...), which saves all of that, and resume=True"
    ),
    "BaseLogger": "averages metrics over batches, which clients do not report. Use CSVLogger",
    "OrbaxCheckpoint": (
        "saves the state of a Keras optimizer, which is not that of the server. Use ModelCheckpoint for "
        "models, and fit(run_dir=...) to continue a run"
    ),
    "SidecarEvaluatorModelExport": (
        "belongs to tf-keras's SidecarEvaluator, and not to training. Use ModelCheckpoint"
    ),
    "SwapEMAWeights": (
        "needs a Keras optimizer that averages weights after each batch. Average the models of the "
        "rounds in a callback of your own (on_epoch_end, self.model.get_weights())"
    ),
    "TerminateOnNaN": (
        "looks at the loss of each batch, which clients do not report. Use tff_dp.EndOnNaN(), which "
        "looks at the loss and the weights after each round"
    ),
    "UpdateEmbeddingCallback": (
        "changes embeddings while batches are read, which rounds cannot honor. Leave it out"
    ),
}


def _checkpoint(callback: Any) -> str | None:
    frequency = getattr(callback, "save_freq", "epoch")
    if frequency == "epoch":
        return None
    return (
        f"has save_freq={frequency!r}, a number of batches, and the server sees no batches: expected "
        "save_freq='epoch', which saves after each round"
    )


def _tensorboard(callback: Any) -> str | None:
    if getattr(callback, "update_freq", "epoch") != "epoch":
        return (
            f"has update_freq={callback.update_freq!r}, and the server sees no batches: expected "
            "update_freq='epoch', which writes after each round"
        )
    if keras_compat.profiles_batches(callback):
        return (
            "has profile_batch other than 0, and the server sees no batches: expected profile_batch=0. "
            "The TensorFlow profiler (tf.profiler.experimental.Profile) works around fit"
        )
    if importlib.util.find_spec("tensorboard") is None:
        raise StackError(
            "callbacks holds TensorBoard, which needs the package tensorboard, and it is not installed. "
            "Install it (pip install 'tff_dp[tensorboard]', or pip install tensorboard), or use "
            "CSVLogger."
        )
    return None


_CONDITIONS: dict[str, Callable[[Any], str | None]] = {
    "ModelCheckpoint": _checkpoint,
    "TensorBoard": _tensorboard,
}

# Classes of other packages whose batch hooks do nothing in a certain configuration.
_EPOCH_ONLY: dict[str, Callable[[Any], bool]] = {
    "mlflow.MlflowCallback": lambda callback: bool(getattr(callback, "log_every_epoch", False)),
    "wandb.WandbMetricsLogger": lambda callback: (
        getattr(callback, "logging_batch_wise", None) is False
    ),
    "wandb.WandbModelCheckpoint": lambda callback: getattr(callback, "save_freq", None) == "epoch",
}


def check_callback(callback: Any, keras: Any) -> None:
    """Checks that a federated run can serve a callback.

    Args:
      callback: The callback.
      keras: The module `keras` or `tf_keras`, that of the model.

    Raises:
      ArgumentError: It cannot; the message names the class and the remedy.
      StackError: A package that it needs is not installed.
    """
    name = type(callback).__name__
    own = keras.callbacks.Callback
    kinds = [kind for kind in type(callback).__mro__ if keras_compat.is_defined_by_keras(kind)]
    kind = kinds[0].__name__ if kinds else ""
    other = kinds and kinds[0].__module__.partition(".")[0] != keras.__name__
    if isinstance(callback, type) or not (isinstance(callback, own) or (kinds and other)):
        raise ArgumentError(
            f"callbacks holds {callback!r}: expected objects of classes that derive from "
            f"{keras.__name__}.callbacks.Callback, or tff_dp.EndOnNaN()."
        )
    if other and (kind != "Callback" or keras.__name__ == "tf_keras"):
        raise ArgumentError(
            f"callbacks holds {name} of {kinds[0].__module__.partition('.')[0]}, and the model is one of "
            f"{keras.__name__}: expected a callback of {keras.__name__}.callbacks."
        )
    for each in kinds:
        problem = REFUSED.get(each.__name__)
        condition = _CONDITIONS.get(each.__name__)
        if problem is None and condition is not None:
            problem = condition(callback)
        if problem is not None:
            raise ArgumentError(f"callbacks holds {name}, which {problem}.")
    hooks = _own_batch_hooks(callback)
    if hooks and not _only_epochs(callback):
        raise ArgumentError(
            f"callbacks holds {name}, which defines {' and '.join(hooks)}: batches are read by clients, "
            "and these hooks would never be called. Move their work to on_epoch_end, which is called "
            "after each round; or, if they do nothing in this configuration, set them to those of "
            f"Keras: callback.{hooks[0]} = {keras.__name__}.callbacks.Callback().{hooks[0]}."
        )


def check_monitors(callbacks: Sequence[Any], names: Sequence[str]) -> None:
    """Checks that what Keras's own callbacks monitor is among what rounds report.

    Keras itself would only warn, and never stop the training.

    Args:
      callbacks: The callbacks.
      names: The names of what rounds report.

    Raises:
      ArgumentError: No round reports what a callback monitors.
    """
    for callback in callbacks:
        kinds = {kind.__name__ for kind in type(callback).__mro__}
        monitors = kinds & {"EarlyStopping", "ReduceLROnPlateau"} or (
            "ModelCheckpoint" in kinds and getattr(callback, "save_best_only", False)
        )
        monitor = getattr(callback, "monitor", None)
        if monitors and monitor not in names:
            known = ", ".join(names) or "none, since rounds report nothing"
            raise ArgumentError(
                f"callbacks holds {type(callback).__name__} with monitor={monitor!r}, which no round "
                f"reports: expected {known}. Under a "
                "privacy plan, training metrics are reported if the plan has them as metrics; val_ "
                "names need validation_data or validation_clients."
            )


def check_rates(callbacks: Sequence[Any], *, has_server_rate: bool, scheduled: bool) -> None:
    """Checks callbacks that set the server's learning rate.

    Args:
      callbacks: The callbacks.
      has_server_rate: Whether the state of the process has the server's learning rate.
      scheduled: Whether `server_learning_rate` is given, which sets the same rate.

    Raises:
      ArgumentError: A callback sets a rate that cannot be set, or that is set by the schedule.
    """
    for callback in callbacks:
        names = {kind.__name__ for kind in type(callback).__mro__}
        found = names & {"LearningRateScheduler", "ReduceLROnPlateau"}
        if not found:
            continue
        name = type(callback).__name__
        if scheduled:
            raise ArgumentError(
                f"callbacks holds {name}, which sets the server's learning rate, and "
                "server_learning_rate sets it as well: expected one of them. Leave one out."
            )
        if not has_server_rate:
            raise ArgumentError(
                f"callbacks holds {name}, which sets the server's learning rate, and the server's "
                "optimizer of this algorithm has none in the state of its process. Use FedAvg, FedOpt, "
                "FedProx or FedSGD with an optimizer of tff_dp, or leave the callback out."
            )


def _own_batch_hooks(callback: Any) -> list[str]:
    """Returns the batch hooks that are not those of Keras's own classes."""

    def is_own(hook: str) -> bool:
        found = getattr(callback, hook, None)
        if found is None:
            return False
        return not keras_compat.is_defined_by_keras(getattr(found, "__func__", found))

    return [hook for hook in BATCH_HOOKS if is_own(hook)]


def _only_epochs(callback: Any) -> bool:
    """Checks whether a callback of another package is configured to act on epochs alone."""
    for kind in type(callback).__mro__:
        package = kind.__module__.partition(".")[0]
        condition = _EPOCH_ONLY.get(f"{package}.{kind.__name__}")
        if condition is not None and condition(callback):
            return True
    return False
