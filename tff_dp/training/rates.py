"""The learning rates of clients and server in the state of a process, and their schedules."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tff_dp import _checks
from tff_dp.errors import ArgumentError
from tff_dp.execution import current_or_fast
from tff_dp.training.observers import Observer
from tff_dp.training.run import Run

_PARTS = {"client": "client_work", "server": "finalizer"}
_RATE = "learning_rate"


class Rates(NamedTuple):
    """The learning rates of the next round.

    Attributes:
      client: That of the clients' optimizer; None if it is not part of the state.
      server: That of the server's optimizer; None if it is not part of the state.
    """

    client: float | None = None
    server: float | None = None


def rates_of(process: Any, state: Any) -> Rates:
    """Reads the learning rates in the state of a process.

    Args:
      process: A learning process.
      state: Its state.

    Returns:
      The rates.
    """
    with current_or_fast():
        found = process.get_hparams(state)
    parts = {part: _part(found, name) for part, name in _PARTS.items()}
    return Rates(**{part: float(of[_RATE]) if _RATE in of else None for part, of in parts.items()})


def with_rates(process: Any, state: Any, rates: Rates) -> Any:
    """Replaces learning rates in the state of a process.

    The graphs of the process stay the same, and nothing is compiled again.

    Args:
      process: A learning process.
      state: Its state.
      rates: The new rates; None for those that stay as they are.

    Returns:
      The state with these rates, and otherwise as it was.

    Raises:
      ArgumentError: The state has no such rate, or it is negative, infinite or NaN.
    """
    with current_or_fast():
        hparams = copy.deepcopy(process.get_hparams(state))
        for part, rate in rates._asdict().items():
            if rate is None:
                continue
            found = _part(hparams, _PARTS[part])
            if _RATE not in found:
                raise ArgumentError(without_rate(part))
            found[_RATE] = np.float32(_checks.real(f"the {part}'s learning_rate", rate, "[0, inf)"))
        return process.set_hparams(state, hparams)


def without_rate(part: str) -> str:
    """Returns the message for an algorithm whose state does not hold a learning rate.

    Args:
      part: "client" or "server".

    Returns:
      The message.
    """
    return (
        f"{part}_learning_rate cannot be changed from round to round: the {part}'s optimizer of this "
        "algorithm has no learning rate in the state of its process (FedSGD has no client optimizer, "
        "and optimizers of other packages may have a schedule of their own). Use FedAvg, FedOpt or "
        "FedProx with an optimizer of tff_dp, or leave the schedule out."
    )


def checked_schedule(name: str, schedule: Any) -> Callable[[int], float] | None:
    """Checks a schedule of learning rates, which is called once for round 1.

    Args:
      name: The name of the argument.
      schedule: A function from the number of a round to a learning rate, or None.

    Returns:
      The schedule.

    Raises:
      ArgumentError: It is not callable, or its rate for round 1 is outside its bound.
    """
    if schedule is None:
        return None
    if not callable(schedule):
        raise ArgumentError(
            f"{name}={schedule!r} is outside its bound: expected a function from the number of a round, "
            "from 1, to a learning rate. For one rate for all rounds, give it to the optimizer of the "
            "algorithm."
        )
    _rate(name, schedule, 1)
    return schedule  # type: ignore[no-any-return]


def _rate(name: str, schedule: Callable[[int], Any], round_number: int) -> float:
    value = schedule(round_number)
    try:
        value = float(value)  # a schedule of Keras returns a tensor
    except (TypeError, ValueError):
        raise ArgumentError(
            f"{name} returns {value!r} for round {round_number}: expected a number in (0, inf)."
        ) from None
    remedy = f"That is what the schedule returns for round {round_number}."
    return _checks.real(name, value, "(0, inf)", remedy)


class RateSchedules(Observer):
    """Sets the learning rates of each round.

    Args:
      client: The schedule of the clients' rate, or None.
      server: The schedule of the server's rate, or None.
    """

    period = 1

    def __init__(
        self, client: Callable[[int], float] | None, server: Callable[[int], float] | None
    ) -> None:
        self._schedules = {"client": client, "server": server}

    def on_begin(self, run: Run) -> None:
        """Checks that the state has the rates.

        Args:
          run: The run.

        Raises:
          ArgumentError: It has none.
        """
        rates = rates_of(run.setup.process, run.state)
        for part, schedule in self._schedules.items():
            if schedule is not None and getattr(rates, part) is None:
                raise ArgumentError(without_rate(part))

    def before_step(self, run: Run) -> None:
        """Sets the rates of the next round.

        Args:
          run: The run.

        Raises:
          ArgumentError: A rate is outside its bound.
        """
        number = run.round_number + 1
        rates = Rates(
            **{
                part: None if schedule is None else _rate(f"{part}_learning_rate", schedule, number)
                for part, schedule in self._schedules.items()
            }
        )
        run.replace_state(with_rates(run.setup.process, run.state, rates))


def _part(hparams: Any, name: str) -> Any:
    """Returns the hyperparameters of a part of a process; none if it has no such part."""
    found = hparams.get(name, {}) if hasattr(hparams, "get") else {}
    return found if hasattr(found, "keys") else {}
