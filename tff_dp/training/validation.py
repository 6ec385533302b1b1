"""Validation between rounds: on public data, or on held-out clients."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Container, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tff_dp import _checks
from tff_dp.data import Clients
from tff_dp.errors import ArgumentError, DataError
from tff_dp.execution import is_seeded
from tff_dp.model.trial import reason
from tff_dp.plan import PrivacyPlan, Unit
from tff_dp.process import model_weights
from tff_dp.training.callbacks import Callbacks
from tff_dp.training.checks import check_random_bits
from tff_dp.training.federated_evaluation import Evaluation
from tff_dp.training.mirror import Mirror
from tff_dp.training.observers import Observer
from tff_dp.training.results import RoundRecord
from tff_dp.training.run import Run
from tff_dp.training.setup import Setup
from tff_dp.training.validation_account import ValidationAccount

_LISTED = "A list has the rounds after which to validate."


def checked_frequency(frequency: Any) -> int | Container[int]:
    """Checks the argument `validation_freq` of `fit`.

    Args:
      frequency: A number of rounds, or a container of rounds from 1.

    Returns:
      The same.

    Raises:
      ArgumentError: It is neither, has no rounds, or has an entry that is no round.
    """
    if not isinstance(frequency, Container) or isinstance(frequency, str | bytes):
        return _checks.integer("validation_freq", frequency, "[1, inf)", _LISTED)
    if isinstance(frequency, Collection):
        if not len(frequency):
            raise ArgumentError(
                f"validation_freq={frequency!r} has no round: expected one or more, or a number of "
                "rounds."
            )
        entries = frequency[:1] if isinstance(frequency, range) else frequency
        for each in entries:
            _checks.integer("validation_freq", each, "[1, inf)", _LISTED)
    return frequency


class Validation(Observer):
    """Evaluates the model after some of the rounds, and adds the metrics to the round's record.

    Args:
      frequency: After how many rounds to validate, or a container of the rounds.
      batch_size: The number of examples in a batch.
    """

    source = "data"

    def __init__(self, frequency: int | Container[int], batch_size: int) -> None:
        self._frequency, self._batch_size = frequency, batch_size
        self.period = frequency if isinstance(frequency, int) else 1

    def is_due(self, round_number: int) -> bool:
        """Says whether to validate after a round.

        Args:
          round_number: The round, from 1.

        Returns:
          True if so.
        """
        if isinstance(self._frequency, int):
            return round_number % self._frequency == 0
        return round_number in self._frequency

    def after_step(self, run: Run, records: Sequence[RoundRecord]) -> None:
        """Adds the validation metrics to the last record, if they are due.

        Args:
          run: The run.
          records: The records of the step's rounds.
        """
        record = records[-1]
        if not self.is_due(record.round_number) or self._is_spent():
            return
        found = {f"val_{name}": value for name, value in self._evaluate(run).items()}
        run.amend(
            dataclasses.replace(
                record,
                validation=found,
                validation_source=self.source,
                validation_private=self._is_private(),
            )
        )

    def _evaluate(self, run: Run) -> dict[str, float]:
        raise NotImplementedError

    def _is_private(self) -> bool:
        return False

    def _is_spent(self) -> bool:
        return False


class DataValidation(Validation):
    """Evaluates the model on data that are not those of clients, by Keras's own `evaluate`.

    Args:
      data: (x, y), (x, y, weights), or a data set of batches.
      frequency: As for `Validation`.
      batch_size: As for `Validation`.
      mirror: The Keras model.
      callbacks: The callbacks of the run, whose `on_test_...` hooks are called; None if there are none.
    """

    def __init__(
        self,
        data: Any,
        frequency: int | Container[int],
        batch_size: int,
        mirror: Mirror,
        callbacks: Callbacks | None,
    ) -> None:
        super().__init__(frequency, batch_size)
        self._arguments = _arguments(data, batch_size)
        self._mirror, self._callbacks = mirror, callbacks

    def on_begin(self, run: Run) -> None:
        """Evaluates the first batch, so that data that do not fit are refused before a round is charged.

        Args:
          run: The run.

        Raises:
          DataError: The data do not fit the model.
        """
        self._mirror.show(run)
        try:
            self._mirror.model.evaluate(**self._arguments, steps=1, verbose=0)
        except Exception as error:  # whatever Keras raises
            raise DataError(
                f"validation_data cannot be evaluated with the model: {reason(error)} Expected (x, y), "
                "(x, y, weights), or a finite tf.data.Dataset of batches of these, as for evaluate."
            ) from error

    def _evaluate(self, run: Run) -> dict[str, float]:
        self._mirror.show(run)
        found = self._mirror.model.evaluate(
            **self._arguments,
            verbose=0,
            return_dict=True,
            callbacks=None if self._callbacks is None else self._callbacks.list,
        )
        return {name: float(value) for name, value in found.items()}


class ClientValidation(Validation):
    """Evaluates the model on held-out clients, whose data stay where they are.

    Args:
      setup: The prepared arguments of `fit`.
      clients: The held-out clients.
      frequency: As for `Validation`.
      batch_size: As for `Validation`.
      plan: The plan under which the metrics are released; None for plain sums over the clients.

    Raises:
      ArgumentError: The plan does not fit; or there is a plan, of this or of the training, and some of
        the clients are also those of the training.
      DataError: The clients' data are not like those of the training.
      ComputationError: The random bits of the noise could be guessed.
    """

    source = "clients"

    def __init__(
        self,
        setup: Setup,
        clients: Clients,
        frequency: int | Container[int],
        batch_size: int,
        plan: PrivacyPlan | None,
    ) -> None:
        super().__init__(frequency, batch_size)
        _check_clients(setup, clients)
        if plan is not None:
            _check_plan(clients, plan)
        if plan is not None or setup.plan is not None:
            _check_held_out(setup, clients)
        self.account = None if plan is None else ValidationAccount(plan)
        self._count = 0
        self._evaluation = Evaluation(
            setup.for_evaluation(), clients, batch_size=batch_size, plan=plan
        )
        if plan is not None:
            check_random_bits(self._evaluation.process, plan)

    def on_begin(self, run: Run) -> None:
        """Checks that the plan covers the evaluations.

        Args:
          run: The run.

        Raises:
          AccountingError: There will be more evaluations than the plan covers.
          LedgerError: The ledger of the validation has lost charges.
        """
        if self.account is None:
            return
        to_come = range(run.round_number + 1, run.account.rounds + 1)
        due = sum(self.is_due(number) for number in to_come)
        released = sum(record.validation_private for record in run.history)
        self.account.check(due, released)
        run.validation_charges = self.account.charges

    def _evaluate(self, run: Run) -> dict[str, float]:
        self._count += 1
        if self.account is not None:  # before any result can be observed
            try:
                self._count = self.account.charge()
            finally:
                run.validation_charges = self.account.charges
        return self._evaluation.metrics(model_weights(run.setup.process, run.state), self._count)

    def _is_private(self) -> bool:
        return self.account is not None and not is_seeded()

    def _is_spent(self) -> bool:
        return self.account is not None and self.account.is_spent


def _check_clients(setup: Setup, clients: Clients) -> None:
    _checks.instance(
        "validation_clients",
        clients,
        Clients,
        "tff_dp.data.from_arrays makes them; arrays that are no clients' are validation_data.",
    )
    expected, found = setup.clients.element_spec(), clients.element_spec()
    if expected != found:
        raise DataError(
            f"validation_clients have examples of {found}: expected {expected}, those of the clients "
            "that are trained on. Prepare both in the same way."
        )


def _check_plan(clients: Clients, plan: PrivacyPlan) -> None:
    _checks.instance(
        "validation_privacy", plan, PrivacyPlan, "Leave it out to validate without privacy."
    )
    if plan.unit is not Unit.CLIENT or not plan.metrics:
        raise ArgumentError(
            f"validation_privacy={plan!r} releases no metrics: expected a plan with metrics=("
            "PrivateMetric(name='loss', clip_value=...), ...), which are what is released of validation."
        )
    plan.check_population(clients.num_clients)
    plan.draw_cohort(1, population=clients.num_clients, seed=None)  # refuses what needs a seed


def _check_held_out(setup: Setup, clients: Clients) -> None:
    both = set(setup.clients.ids) & set(clients.ids)
    if both:
        raise ArgumentError(
            f"validation_clients holds {min(both)!r}, an id that clients holds as well: expected "
            "held-out clients. What is released of a client in both would not be within the epsilon of "
            "either. "
            "Take the clients apart (Clients.subset), or give different clients different ids."
        )


def _arguments(data: Any, batch_size: int) -> dict[str, Any]:
    """Returns `validation_data` as arguments of Keras's `evaluate`."""
    if isinstance(data, Clients):
        raise ArgumentError(
            f"validation_data={data!r} are clients: expected arrays or a data set. Pass them as "
            "validation_clients."
        )
    if isinstance(data, tuple | list) and len(data) in (2, 3):
        names = ("x", "y", "sample_weight")
        return dict(zip(names, data, strict=False)) | {"batch_size": batch_size}
    if isinstance(data, tf.data.Dataset):
        if int(data.cardinality()) == tf.data.INFINITE_CARDINALITY:
            raise ArgumentError(
                "validation_data is an infinite data set: expected a finite one. Drop its repeat(), or "
                "add take(batches)."
            )
        return {"x": data}
    if hasattr(data, "__getitem__") and hasattr(data, "__len__") and not _is_array(data):
        return {"x": data}  # a PyDataset or Sequence of Keras
    raise ArgumentError(
        f"validation_data={_checks.brief(data)[:80]} is outside its bound: expected (x, y), (x, y, "
        "weights), or a tf.data.Dataset of batches. A generator can be read only once: "
        "make a data set of it by tf.data.Dataset.from_generator."
    )


def _is_array(data: Any) -> bool:
    return isinstance(data, np.ndarray | dict | str | list | tuple) or tf.is_tensor(data)
