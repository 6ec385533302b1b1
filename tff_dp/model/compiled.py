"""The arguments of a compiled Keras model, and those of them that federated training cannot honor.

`model.compile(optimizer, loss, metrics)` says how a model is trained. Loss and metrics are taken
from it if they are not given otherwise. Anything else in `compile` or in a subclass that would
change the training is refused by name, since a round does not call the model's own `fit`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tff_dp._compat import keras as keras_compat
from tff_dp.errors import ModelError

# The methods by which subclasses define how a step is computed, or what is measured in it. Keras's
# `fit`, the loop around the steps, is not among them: rounds replace it as a whole.
_STEPS = (
    "train_step",
    "compute_loss",
    "stateless_compute_loss",
    "compute_metrics",
    "make_train_function",
)


class Compiled(NamedTuple):
    """The arguments of a model's `compile`.

    Attributes:
      optimizer: A Keras optimizer, its name, or None.
      loss: The loss as it was given, or None.
      loss_weights: The weights of losses as they were given, or None.
      metrics: The metrics as they were given, or None.
      weighted_metrics: The weighted metrics as they were given, or None.
      hints: Arguments that change how Keras runs steps, but not what they compute.
    """

    optimizer: Any
    loss: Any
    loss_weights: Any
    metrics: Any
    weighted_metrics: Any
    hints: Mapping[str, Any]


def is_compiled(model: Any) -> bool:
    """Says whether a value is a compiled model of either Keras.

    Args:
      model: Any value.

    Returns:
      True if it is a model, and `compile` was called on it.
    """
    return keras_compat.compile_arguments(model) is not None


def compiled_of(model: Any) -> Compiled | None:
    """Returns the arguments with which a model was compiled.

    Args:
      model: A model of either Keras.

    Returns:
      The arguments, or None if the model was not compiled.

    Raises:
      ModelError: The model was compiled to run eagerly.
    """
    config = keras_compat.compile_arguments(model)
    if config is None:
        return None
    if config.get("run_eagerly"):
        raise ModelError(
            f"The model {model.name!r} was compiled with run_eagerly=True, which cannot be honored: "
            "federated training runs graphs, in which Python code of layers runs once. Compile it with "
            "run_eagerly=False."
        )
    hints = {name: config.get(name) for name in ("steps_per_execution", "jit_compile")}
    return Compiled(
        optimizer=config.get("optimizer"),
        loss=config.get("loss"),
        loss_weights=config.get("loss_weights"),
        metrics=config.get("metrics"),
        weighted_metrics=config.get("weighted_metrics"),
        hints={name: value for name, value in hints.items() if value is not None},
    )


def loss_of(model: Any, compiled: Compiled | None) -> Any:
    """Returns the loss with which a model was compiled.

    Args:
      model: A model of either Keras.
      compiled: The arguments with which it was compiled, or None.

    Returns:
      The loss; a list or dictionary with a single loss is unpacked.

    Raises:
      ModelError: There is no loss.
    """
    if compiled is None:
        raise ModelError(missing_loss())
    loss = compiled.loss
    if isinstance(loss, list | tuple | dict) and len(loss) == 1:
        (loss,) = loss.values() if isinstance(loss, dict) else loss
    if loss is None or (isinstance(loss, list | tuple | dict) and not loss):
        raise ModelError(
            f"The model {model.name!r} was compiled without a loss: expected loss= of compile, or of "
            "this call, such as loss='mse'. Losses that layers add are added to it."
        )
    return loss


def missing_loss() -> str:
    """Returns the message for a model without any loss."""
    return (
        "loss=None: expected a Keras loss or the name of one. Pass for example loss='mse', or "
        "loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), or compile the model with "
        "a loss."
    )


def metrics_of(model: Any, compiled: Compiled | None) -> Sequence[Any]:
    """Returns the metrics with which a model was compiled.

    Args:
      model: A model of either Keras.
      compiled: The arguments with which it was compiled, or None.

    Returns:
      The metrics, in one list.

    Raises:
      ModelError: The metrics are weighted, or are given separately for several outputs.
    """
    if compiled is None:
        return ()
    if list(_leaves(compiled.weighted_metrics)):
        raise ModelError(
            f"The model {model.name!r} was compiled with weighted_metrics="
            f"{compiled.weighted_metrics!r}, which cannot be honored: no metric of a round is "
            "weighted. Compile it with metrics= instead of weighted_metrics=."
        )
    given = compiled.metrics
    nested = isinstance(given, Mapping) or any(
        isinstance(part, list | tuple | Mapping)
        for part in given or ()
        if not isinstance(given, str)
    )
    if nested and len(getattr(model, "outputs", None) or ()) > 1:
        raise ModelError(
            f"The model {model.name!r} was compiled with metrics={given!r}, separately for its outputs, "
            "which cannot be honored. Pass metrics= to this call: metrics=[] for none."
        )
    return list(_leaves(given))


def refuse_overrides(model: Any, keras: Any) -> None:
    """Refuses a model whose class, or the model itself, overrides how a training step is computed.

    Args:
      model: A model of either Keras.
      keras: The Keras module of the model.

    Raises:
      ModelError: There are such methods; the message names them.
    """
    kind = type(model)
    found = [
        name
        for name in _STEPS
        if name in vars(model) or getattr(kind, name, None) is not getattr(keras.Model, name, None)
    ]
    if found:
        raise ModelError(
            f"The model {model.name!r} ({kind.__name__}) overrides {' and '.join(found)}, which cannot "
            "be honored: federated training computes its steps from the model's call, its loss and the "
            "losses that its layers add. Move the computation of the override into a loss function "
            "(loss=), into add_loss of a layer, or into a layer; for another optimizer, pass algorithm=."
        )


def _leaves(value: Any) -> Iterator[Any]:
    """Yields the parts of nested lists and dictionaries, without None."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple | np.ndarray):
        for part in value:
            yield from _leaves(part)
    elif value is not None:
        yield value
