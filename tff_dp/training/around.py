"""What acts between the rounds of `fit`: validation, callbacks, schedules, progress."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tff_dp import _checks
from tff_dp.errors import ArgumentError
from tff_dp.plan import Unit
from tff_dp.training.callbacks import Callbacks, check_callbacks
from tff_dp.training.mirror import Mirror
from tff_dp.training.observers import Observer
from tff_dp.training.progress import ProgressBar, ProgressLines
from tff_dp.training.rates import RateSchedules, checked_schedule
from tff_dp.training.setup import Setup
from tff_dp.training.validation import (
    ClientValidation,
    DataValidation,
    Validation,
    checked_frequency,
)

_BATCH = 32  # examples in a batch of validation, where that of training has another meaning


def needs_rates(callbacks: Any, client_learning_rate: Any) -> bool:
    """Says whether a run needs the clients' learning rate in the state of its process.

    Args:
      callbacks: As for `fit`.
      client_learning_rate: As for `fit`.

    Returns:
      True if a callback or the schedule may change it.
    """
    return client_learning_rate is not None or bool(callbacks)


def checked_verbose(verbose: Any, progress: Any) -> int:
    """Checks the arguments `verbose` and `progress` of `fit`.

    Args:
      verbose: 0, 1, 2, or None.
      progress: A boolean, an older name of verbose=1.

    Returns:
      0 for silence, 1 for a progress bar, 2 for one line a round.

    Raises:
      ArgumentError: One of them is outside its bound, or they contradict each other.
    """
    progress = _checks.flag("progress", progress)
    if verbose is None:
        return int(progress)
    remedy = "0 is silent, 1 is a progress bar, 2 is one line a round."
    number = _checks.one_of("verbose", verbose, (0, 1, 2), remedy)
    if progress and number != 1:
        raise ArgumentError(
            f"progress=True and verbose={verbose!r} contradict each other: expected verbose alone. Leave "
            "out progress."
        )
    return int(number)


def observers_of(
    setup: Setup,
    *,
    callbacks: Any = None,
    validation_data: Any = None,
    validation_clients: Any = None,
    validation_freq: Any = 1,
    validation_privacy: Any = None,
    client_learning_rate: Callable[[int], float] | None = None,
    server_learning_rate: Callable[[int], float] | None = None,
) -> list[Observer]:
    """Makes the observers of a run, in the order in which they act.

    Args:
      setup: The prepared arguments of `fit`.
      callbacks: As for `fit`.
      validation_data: As for `fit`.
      validation_clients: As for `fit`.
      validation_freq: As for `fit`.
      validation_privacy: As for `fit`.
      client_learning_rate: As for `fit`.
      server_learning_rate: As for `fit`.

    Returns:
      The observers: schedules, validation, callbacks.

    Raises:
      ArgumentError: As for `fit`.
      DataError: As for `fit`.
      StackError: A package that a callback needs is not installed.
    """
    given = check_callbacks(callbacks, setup.bound.source)
    frequency = checked_frequency(validation_freq)
    schedules = (
        checked_schedule("client_learning_rate", client_learning_rate),
        checked_schedule("server_learning_rate", server_learning_rate),
    )
    if validation_data is not None and validation_clients is not None:
        raise ArgumentError(
            "validation_data and validation_clients are both given, and their metrics have the same "
            "names: expected one of them. Evaluate the other one in a callback of your own."
        )
    if validation_privacy is not None and validation_clients is None:
        raise ArgumentError(
            f"validation_privacy={validation_privacy!r} needs validation_clients, whose metrics it "
            "releases. Leave it out for public data."
        )
    batch_size = setup.batch_size
    if setup.plan is not None and setup.plan.unit is Unit.RECORD:
        batch_size = _BATCH
    # Evaluations are built before the Keras model is made: see `restore_classes` of `_compat.keras`.
    validations: list[Validation] = []
    if validation_clients is not None:
        validations.append(
            ClientValidation(setup, validation_clients, frequency, batch_size, validation_privacy)
        )
    observers: list[Observer] = []
    if schedules != (None, None):
        observers.append(RateSchedules(*schedules))
    watching = None
    if given or validation_data is not None:
        mirror = Mirror(setup)
        if given:
            watching = Callbacks(
                given,
                mirror,
                names=_reported(setup, validation_data, validation_clients, validation_privacy),
                scheduled=server_learning_rate is not None,
            )
        if validation_data is not None:
            validations.append(
                DataValidation(validation_data, frequency, batch_size, mirror, watching)
            )
    observers += validations
    if watching is not None:
        observers.append(watching)
    return observers


def _reported(
    setup: Setup, validation_data: Any, validation_clients: Any, validation_privacy: Any
) -> list[str]:
    """Returns the names of what rounds report to callbacks."""
    own = ["loss", *(metric.name for metric in setup.bound.metrics)]
    training = own if setup.release else []
    if setup.plan is not None and setup.covered and setup.release:
        training = [metric.name for metric in setup.plan.metrics]
    validation: list[str] = []
    if validation_data is not None or validation_clients is not None:
        validation = own
    if validation_privacy is not None:
        validation = [metric.name for metric in validation_privacy.metrics]
    epsilon = [] if setup.plan is None else ["epsilon"]
    return [*training, *(f"val_{name}" for name in validation), *epsilon]


def progress_of(verbose: int) -> list[Observer]:
    """Makes the observer that shows progress, which acts after all others.

    Args:
      verbose: As `checked_verbose` returns it.

    Returns:
      The observer; none for silence.
    """
    if verbose == 0:
        return []
    return [ProgressBar() if verbose == 1 else ProgressLines()]
