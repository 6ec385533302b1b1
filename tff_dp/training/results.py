"""The results of training: the model, the history, and the privacy spent."""

from __future__ import annotations

import dataclasses
import os
import pickle
from collections.abc import Mapping
from typing import Any

from tff_dp import _checks, _compat, provenance
from tff_dp.accounting import EpsilonReport
from tff_dp.charges import Charges
from tff_dp.plan import NoPrivacy, PrivacyPlan
from tff_dp.training.history import frame_of, html_of, keras_history_of
from tff_dp.training.statement import statement_of

NO_NOISE = "no noise"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RoundRecord:
    """The record of one round.

    Attributes:
      round_number: The round, from 1.
      epsilon: A cheap upper bound on the epsilon of all rounds so far; the final report may state a
        smaller one. Infinite without privacy.
      metrics: The clients' training metrics; None if they are not released.
      metrics_private: Whether the epsilon covers the metrics, that is, whether they are those of
        the plan, with noise. Other metrics are plain sums over private data, which no epsilon
        covers.
      validation: The validation metrics after the round, each under its name after `val_`; None if
        the round has none.
      validation_source: What they were computed from: "data" (`validation_data`), "clients"
        (`validation_clients`), or None.
      validation_private: Whether they are those of clients and were released with noise, which an
        epsilon of these clients covers. Other metrics of clients are plain sums.

    Raises:
      ArgumentError: `metrics_private` or `validation_private` is not a boolean, or
        `validation_source` is unknown.
    """

    round_number: int
    epsilon: float
    metrics: Mapping[str, float] | None
    metrics_private: bool = False
    validation: Mapping[str, float] | None = None
    validation_source: str | None = None
    validation_private: bool = False

    def __post_init__(self) -> None:
        _checks.flag("metrics_private", self.metrics_private)
        _checks.flag("validation_private", self.validation_private)
        _checks.one_of("validation_source", self.validation_source, (None, "data", "clients"))


def round_record(round_number: int, epsilon: float, metrics: Any, *, covered: bool) -> RoundRecord:
    """Makes the record of a round.

    Args:
      round_number: The round, from 1.
      epsilon: An upper bound on the epsilon spent after the round.
      metrics: The metrics that the process has returned for the round; None if they are not
        released.
      covered: Whether the plan's epsilon covers them.

    Returns:
      The record.
    """
    values = None
    if metrics is not None:
        train = metrics["client_work"]["train"] if "client_work" in metrics else {}
        values = {name: float(value) for name, value in train.items()}
    return RoundRecord(
        round_number=round_number,
        epsilon=epsilon,
        metrics=values,
        metrics_private=covered and values is not None,
    )


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class FitResult:
    """A trained model and the privacy that its training has spent.

    A result can be pickled if its model can. The model keeps the record of its charges when it is
    restored.

    Attributes:
      model: The trained Keras model, of the same Keras as the model that was passed to `fit`.
      history: The record of each round.
      epsilon: The epsilon to state for `model`, for all charges on these data; infinite without
        privacy.
      spent: The report behind `epsilon`, with the values of all accountants; None without privacy.
        If records are protected, it is the report of the worst client.
      charges: All known charges on these data: those of this run, those in its ledger, and those in
        `spent_before`.
      other_data: The charges of the model's earlier training on other data sets, which have no
        client in common with these data; one entry for each data set.
      spent_by_client: If records are protected: the report of each client, by its id. None without
        privacy, and if clients are protected, since the report is then the same for all.
      privacy: The plan of the run.
      seeded: Whether the cohorts were drawn from a seed, which somebody may know.
      noise_seeded: Whether the noise was drawn from a seed (`tff_dp.execution.fast(seed=...)`).
        Nothing is private then, whatever the plan.
      stopped: Why training stopped before all requested rounds were run, as a sentence; otherwise
        None.
      random_bits: The source of the random bits of the noise, in words.
      foreign_algorithm: The class of the algorithm if it is not part of tff_dp, otherwise None.
      runs: The names under which the rounds of this run are in `charges`.
      resumed: How often the run was resumed from its run folder.
      repeated_rounds: How many rounds were charged twice, since they had begun and their results
        were lost when the run was resumed.
      validation_charges: What the private validation on held-out clients has spent, which is an
        account of its own; empty without `validation_privacy`.

    Raises:
      ArgumentError: `seeded` or `noise_seeded` is not a boolean.
    """

    model: Any
    history: tuple[RoundRecord, ...]
    epsilon: float
    spent: EpsilonReport | None
    privacy: PrivacyPlan | NoPrivacy
    charges: Charges = dataclasses.field(default_factory=Charges)
    other_data: tuple[Charges, ...] = ()
    seeded: bool
    noise_seeded: bool = False
    stopped: str | None = None
    spent_by_client: Mapping[str, EpsilonReport] | None = None
    random_bits: str = NO_NOISE
    foreign_algorithm: str | None = None
    runs: tuple[str, ...] = ()
    resumed: int = 0
    repeated_rounds: int = 0
    validation_charges: Charges = dataclasses.field(default_factory=Charges)

    @property
    def validation_spent(self) -> EpsilonReport | None:
        """The privacy that validation has spent on the held-out clients, in this run.

        None if validation had no plan, or its noise came from a seed.
        """
        known = self.validation_charges
        return known.spent() if known.runs and not known.unbounded else None

    def frame(self) -> Any:
        """Returns the history as a pandas frame.

        Returns:
          A frame with one row a round, indexed by the number of the round. Its columns are epsilon,
          the metrics, and the validation metrics; values that a round does not have are NaN.

        Raises:
          StackError: pandas is not installed.
        """
        return frame_of(self.history)

    def keras_history(self) -> dict[str, list[float]]:
        """Returns the history in the form of Keras's `History.history`.

        Returns:
          For each metric, its values in the order of the rounds. As in Keras, a metric that some
          rounds do not have, such as one of `validation_freq=2`, has fewer values.
        """
        return keras_history_of(self.history)

    def __post_init__(self) -> None:
        _checks.flag("seeded", self.seeded)
        _checks.flag("noise_seeded", self.noise_seeded)

    def __repr__(self) -> str:
        name = getattr(self.model, "name", "")
        parts = [
            f"model=<{type(self.model).__name__} {name}>",
            f"rounds={len(self.history)}",
            f"epsilon={self.epsilon!r}",
            *([f"delta={self.spent.delta!r}"] if self.spent else []),
            *([f"stopped={self.stopped!r}"] if self.stopped else []),
        ]
        return f"FitResult({', '.join(parts)})"

    def _repr_html_(self) -> str:
        return html_of(self)

    def __reduce__(self) -> tuple[Any, ...]:
        # The state is pickled to bytes of its own, since TFF has to be imported before a tf-keras
        # model is unpickled.
        return _unpickled, (_compat.keras.is_legacy(self.model), pickle.dumps(self.__dict__))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Saves the model, and in a file next to it its charges, for `tff_dp.load_model`.

        Args:
          path: The path, in any format that the model's own `save` supports. The second file has
            the same name with `.privacy.json` appended.

        Raises:
          ArgumentError: `path` is not a path, or cannot be written.
        """
        provenance.save(self.model, path, [*self.other_data, self.charges])

    def statement(self) -> str:
        """States the guarantee in words, with its unit, its conditions and its limits.

        Returns:
          The statement, in several lines of whole sentences.
        """
        return statement_of(self)


def _unpickled(legacy: bool, state: bytes) -> FitResult:
    if legacy:
        _compat.tff.load()
    result = FitResult(**pickle.loads(state))
    provenance.mark(result.model, [*result.other_data, result.charges])
    return result
