"""The compiled Keras model that callbacks and validation see, with the weights of the run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from tff_dp import provenance
from tff_dp._compat import keras as keras_compat
from tff_dp.model import ModelWeights, trial
from tff_dp.model.weights import variables_of
from tff_dp.process import model_weights, with_weights
from tff_dp.training.compiled_models import keras_optimizer
from tff_dp.training.outcome import records_of
from tff_dp.training.rates import Rates, rates_of, with_rates
from tff_dp.training.run import Run
from tff_dp.training.setup import Setup


class Mirror:
    """A Keras model that has the weights and the learning rates of a run, and gives back changes.

    Its `optimizer` stands for the server's, and its `client_optimizer` for the clients' (None if the
    algorithm has none): only their learning rates are used. The model carries the charges of the run,
    in files as well; those that its own `save` writes contain the optimizer with which the result
    of the run is compiled.

    Args:
      setup: The prepared arguments of `fit`.

    Attributes:
      model: The model.
    """

    def __init__(self, setup: Setup) -> None:
        self.model = setup.bound.to_keras(setup.bound.initial_weights)
        self._variables = variables_of(self.model)  # before metrics are among them
        setup.compile_model(self.model)
        x, y = setup.bound.input_spec
        self._specs = x, setup.bound.labels_of(y)
        self._of_result = self.model.optimizer
        self._shown: Any = None
        self._arrays: list[np.ndarray] = []
        self._rates = Rates()
        self._has_optimizers = False

    def show(self, run: Run) -> None:
        """Gives the model the weights of the last completed round, and the charges so far.

        Args:
          run: The run.
        """
        if self._shown is run.state:
            return
        weights = model_weights(run.setup.process, run.state)
        for variables, arrays in zip(self._variables, weights, strict=True):
            for variable, array in zip(variables, arrays, strict=True):
                variable.assign(array)
        self._arrays = self._read()
        self._shown = run.state
        provenance.mark(self.model, records_of(run))
        if self._has_optimizers:
            self._show_rates(rates_of(run.setup.process, run.state))

    def add_optimizers(self, run: Run) -> None:
        """Gives the model optimizers that stand for those of the run.

        Args:
          run: The run.
        """
        keras = keras_compat.library_of(self.model)
        rates = rates_of(run.setup.process, run.state)
        server = keras_optimizer(getattr(run.setup.algorithm, "server_optimizer", None), keras)
        self.model.optimizer = server
        self.model.client_optimizer = None if rates.client is None else self._of_result
        self._has_optimizers = True
        self._show_rates(rates)

        def save(*arguments: Any, **named: Any) -> Any:
            with self._optimizer_of_result():
                return type(self.model).save(self.model, *arguments, **named)

        self.model.save = save

    def build_metrics(self) -> None:
        """Builds the metrics of the model, by which Keras finds whether more of one is better."""
        x, y = (trial.zeros(spec, 2) for spec in self._specs)
        with contextlib.suppress(Exception):  # zeros may be outside of what a model accepts
            self.model.evaluate(x, y, verbose=0)

    def take(self, run: Run) -> None:
        """Takes the weights and the learning rates of the model into the run, if they were changed.

        Args:
          run: The run.

        Raises:
          ArgumentError: A learning rate was changed that the state of the run does not have.
        """
        state, arrays = run.state, self._read()
        if any(not _same(a, b) for a, b in zip(arrays, self._arrays, strict=True)):
            count = len(self._variables[0])
            weights = ModelWeights(tuple(arrays[:count]), tuple(arrays[count:]))
            state = with_weights(run.setup.process, state, weights)
            self._arrays = arrays
        if self._has_optimizers:
            now = self._read_rates()
            changed = Rates(
                *(new if new != old else None for new, old in zip(now, self._rates, strict=True))
            )
            if changed != Rates():
                state = with_rates(run.setup.process, state, changed)
                self._rates = now
        if state is not run.state:
            run.replace_state(state)
            self._shown = state

    def close(self) -> None:
        """Takes away from the model what `add_optimizers` has added.

        It may be the model that was given to `fit`, if Keras cannot copy that one.
        """
        if not self._has_optimizers:
            return
        self.model.optimizer = self._of_result
        self._has_optimizers = False
        for name in ("save", "client_optimizer"):
            with contextlib.suppress(AttributeError):
                delattr(self.model, name)

    def _show_rates(self, rates: Rates) -> None:
        if rates.server is not None:
            self.model.optimizer.learning_rate = rates.server
        if rates.client is not None:
            self.model.client_optimizer.learning_rate = rates.client
        self._rates = self._read_rates()

    def _read_rates(self) -> Rates:
        client = self.model.client_optimizer
        return Rates(
            None if client is None else _rate(client.learning_rate),
            _rate(self.model.optimizer.learning_rate),
        )

    def _read(self) -> list[np.ndarray]:
        return [variable.numpy() for part in self._variables for variable in part]

    @contextlib.contextmanager
    def _optimizer_of_result(self) -> Iterator[None]:
        """Replaces the stand-ins by the optimizer of the result while the model is saved."""
        server, client = self.model.optimizer, self.model.client_optimizer
        self.model.optimizer = self._of_result
        del self.model.client_optimizer
        try:
            yield
        finally:
            self.model.optimizer, self.model.client_optimizer = server, client


def _rate(value: Any) -> float:
    return float(np.asarray(value))


def _same(one: np.ndarray, two: np.ndarray) -> bool:
    return one.tobytes() == two.tobytes()  # of any type, NaN included
