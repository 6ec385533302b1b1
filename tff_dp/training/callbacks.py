"""Keras callbacks around the rounds of a run: a round is an epoch."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tff_dp._compat import keras as keras_compat
from tff_dp.errors import ArgumentError
from tff_dp.process import model_weights
from tff_dp.training.callback_states import States, restore, states_of, weights_to_restore
from tff_dp.training.mirror import Mirror
from tff_dp.training.observers import Observer
from tff_dp.training.rates import rates_of
from tff_dp.training.refused_callbacks import check_callback, check_monitors, check_rates
from tff_dp.training.results import RoundRecord
from tff_dp.training.run import Run


@dataclasses.dataclass(frozen=True)
class EndOnNaN:
    """Ends training after a round whose loss or weights are NaN or infinite.

    It is an entry of `callbacks` of `fit`, in place of Keras's `TerminateOnNaN`, which looks at
    batches. Nothing is rolled back: the result has the weights of that round.
    """

    def problem(self, run: Run, record: RoundRecord) -> str | None:
        """Looks at the last completed round.

        Args:
          run: The run.
          record: The record of the round.

        Returns:
          What is not finite, as the rest of a sentence; None if everything is.
        """
        loss = (record.metrics or {}).get("loss")
        if loss is not None and not math.isfinite(loss):
            return f"the loss is {loss}"
        weights = model_weights(run.setup.process, run.state).trainable
        if not all(np.isfinite(np.asarray(w).astype(np.float32)).all() for w in weights):
            return "a weight is not finite"
        return None


def check_callbacks(callbacks: Any, model: Any) -> tuple[Any, ...]:
    """Checks the argument `callbacks` of `fit`.

    Args:
      callbacks: A Keras callback, a sequence of them, or None.
      model: The Keras model.

    Returns:
      The callbacks.

    Raises:
      ArgumentError: One of them cannot be served, or is not a callback.
      StackError: A package that one of them needs is not installed.
    """
    if callbacks is None:
        return ()
    keras = keras_compat.library_of(model)
    if isinstance(callbacks, keras.callbacks.CallbackList):
        raise ArgumentError(
            f"callbacks={callbacks!r} is a CallbackList, which belongs to a model and a number of "
            "epochs: expected the list of its callbacks. Pass callbacks.callbacks."
        )
    given = callbacks if isinstance(callbacks, list | tuple) else [callbacks]
    for each in given:
        if not isinstance(each, EndOnNaN):
            check_callback(each, keras)
    return tuple(given)


class Callbacks(Observer):
    """Calls Keras callbacks before and after each round.

    The callbacks see the model of the last completed round. What they set on it holds from the next
    round on: its weights, and the learning rates of its `optimizer` (the server's) and of its
    `client_optimizer`. `stop_training` ends the run.

    Args:
      callbacks: The callbacks, from `check_callbacks`.
      mirror: The model that they see.
      names: The names of what rounds report.
      scheduled: Whether `server_learning_rate` of `fit` is given.

    Attributes:
      list: Keras's `CallbackList`, once the run has begun; otherwise None.
      earlier: What the callbacks of the run had counted when it was saved; None for a new run.

    Raises:
      ArgumentError: A callback monitors what no round reports.
    """

    period = 1

    def __init__(
        self, callbacks: Sequence[Any], mirror: Mirror, *, names: Sequence[str], scheduled: bool
    ) -> None:
        self._enders = [each for each in callbacks if isinstance(each, EndOnNaN)]
        self._callbacks = [each for each in callbacks if not isinstance(each, EndOnNaN)]
        check_monitors(self._callbacks, names)
        self._mirror, self._scheduled = mirror, scheduled
        self._logs: dict[str, float] = {}
        self.list: Any = None
        self.earlier: States | None = None

    def states(self) -> States:
        """Returns what the callbacks have counted so far, for a checkpoint."""
        return states_of(self._callbacks)

    def restore_weights(self, run: Run) -> None:
        """Restores in a run that has nothing left to train what a callback had restored at its end.

        Args:
          run: The run.
        """
        weights = weights_to_restore(self._callbacks, self.earlier or States())
        if weights is not None:
            self._mirror.show(run)
            self._mirror.model.set_weights(weights)
            self._mirror.take(run)

    def on_begin(self, run: Run) -> None:
        """Gives the callbacks the model, and calls `on_train_begin`.

        Args:
          run: The run.

        Raises:
          ArgumentError: A callback sets a learning rate that cannot be set.
        """
        rates = rates_of(run.setup.process, run.state)
        check_rates(
            self._callbacks, has_server_rate=rates.server is not None, scheduled=self._scheduled
        )
        mirror = self._mirror
        mirror.show(run)
        mirror.add_optimizers(run)
        keras = keras_compat.library_of(mirror.model)
        monitored = [getattr(each, "monitor", None) or "loss" for each in self._callbacks]
        if any(str(name).removeprefix("val_") != "loss" for name in monitored):
            mirror.build_metrics()
        mirror.model.stop_training = False
        self.list = keras.callbacks.CallbackList(
            list(self._callbacks),
            add_history=True,
            add_progbar=False,
            model=mirror.model,
            epochs=run.account.rounds,
            steps=1,
            verbose=0,
        )
        self.list.on_train_begin()
        if self.earlier is not None and run.round_number:
            restore(self._callbacks, self.earlier)
        mirror.take(run)

    def before_step(self, run: Run) -> None:
        """Calls `on_epoch_begin`.

        Args:
          run: The run.

        Raises:
          ArgumentError: A callback has set a learning rate that cannot be set.
        """
        self._mirror.show(run)
        self.list.on_epoch_begin(run.round_number)
        self._mirror.take(run)

    def after_step(self, run: Run, records: Sequence[RoundRecord]) -> None:
        """Calls `on_epoch_end`, and ends the run if a callback asks for it.

        Args:
          run: The run.
          records: The records of the step's rounds.

        Raises:
          ArgumentError: A callback has set a learning rate that cannot be set.
        """
        record = records[-1]
        for ender in self._enders:
            problem = ender.problem(run, record)
            if problem is not None:
                run.end(f"was stopped by EndOnNaN ({problem})")
        self._logs = logs_of(run, record)
        self._mirror.show(run)
        self.list.on_epoch_end(record.round_number - 1, dict(self._logs))
        self._mirror.take(run)
        if self._mirror.model.stop_training and run.ended is None:
            run.end(f"was stopped by {self._stopper(record.round_number - 1)}")

    def on_end(self, run: Run) -> None:
        """Calls `on_train_end`, and takes the weights that a callback may have restored.

        Args:
          run: The run.
        """
        try:
            self.list.on_train_end(dict(self._logs))
            self._mirror.take(run)
        finally:
            with contextlib.suppress(AttributeError):
                del self._mirror.model.history
            self._mirror.close()

    def _stopper(self, epoch: int) -> str:
        """Returns the names of the callbacks that have stopped the run, as far as they say so."""
        found = [
            type(each).__name__
            for each in self._callbacks
            if getattr(each, "stopped_epoch", 0) == epoch and hasattr(each, "wait")
        ]
        return " and ".join(dict.fromkeys(found)) or "a callback"


def logs_of(run: Run, record: RoundRecord) -> dict[str, float]:
    """Returns what callbacks see of a round: metrics, validation metrics, and epsilon.

    Args:
      run: The run.
      record: The record of the round.

    Returns:
      The values by name; epsilon, an upper bound, is left out if it is infinite.
    """
    logs = dict(record.metrics or {}) | dict(record.validation or {})
    if math.isfinite(record.epsilon) and not run.account.noise_seeded:
        logs["epsilon"] = record.epsilon
    return {name: float(value) for name, value in logs.items()}
