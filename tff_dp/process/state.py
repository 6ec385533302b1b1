"""The model's weights in the state of a learning process."""

from __future__ import annotations

from typing import Any

from tff_dp.execution import current_or_fast
from tff_dp.model import ModelWeights


def initialize_from(process: Any, weights: ModelWeights) -> Any:
    """Makes a process's initial state with given weights of the model.

    Args:
      process: A learning process of `build_process`.
      weights: As `BoundModel.initial_weights`.

    Returns:
      The state before the first round.
    """
    with current_or_fast():  # TFF's default would start a worker process that stays
        state = process.initialize()
        return with_weights(process, state, weights)


def with_weights(process: Any, state: Any, weights: ModelWeights) -> Any:
    """Replaces the global model's weights in a process's state.

    Args:
      process: A learning process.
      state: A state of the process.
      weights: As `BoundModel.initial_weights`.

    Returns:
      The state with these weights, and otherwise as it was.
    """
    with current_or_fast():
        current = process.get_model_weights(state)
        # TFF types a weight list as list or tuple depending on the kind of model: keep its own.
        replaced = type(current)(
            trainable=type(current.trainable)(weights.trainable),
            non_trainable=type(current.non_trainable)(weights.non_trainable),
        )
        return process.set_model_weights(state, replaced)


def model_weights(process: Any, state: Any) -> ModelWeights:
    """Reads the global model's weights from a process's state.

    Args:
      process: A learning process of `build_process`.
      state: A state of the process.

    Returns:
      The weights, as `BoundModel.initial_weights`.
    """
    with current_or_fast():
        current = process.get_model_weights(state)
    return ModelWeights(tuple(current.trainable), tuple(current.non_trainable))
