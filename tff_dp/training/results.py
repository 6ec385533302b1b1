"""What training returns: the model, the history, and what it has cost."""

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
from tff_dp.training.statement import statement_of

NO_NOISE = "no noise"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RoundRecord:
    """What is known after a round.

    Attributes:
      round_number: From 1.
      epsilon: An upper bound on what the rounds so far have spent, by an accountant that takes no
        time; the final report may state a smaller one. Infinite without privacy.
      metrics: The clients' training metrics, or None where they are not released.
      metrics_private: Whether the epsilon covers them: they are the plan's own, with noise. Others are
        plain sums over private data, which no epsilon covers.
    """

    round_number: int
    epsilon: float
    metrics: Mapping[str, float] | None
    metrics_private: bool = False

    def __post_init__(self) -> None:
        _checks.flag("metrics_private", self.metrics_private)


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class FitResult:
    """A trained model and what it has cost.

    It can be pickled, if its model can; the model carries what it has cost afterwards, too.

    Attributes:
      model: The trained Keras model, of the kind that came in.
      history: One record a round.
      epsilon: The epsilon to state for `model`, of all that was charged on these data; infinite
        without privacy.
      spent: The report behind it, with every accountant; None without privacy. For records, that
        of the worst client.
      charges: All that is known to have been spent on these data: by this run, by those in its
        ledger, and by those that `spent_before` has.
      other_data: What the model has spent on data that have no client in common with these, for
        each such data set.
      spent_by_client: For records: what was spent at each client, by its id. None without privacy,
        and where clients are protected, who all have spent the same.
      privacy: The plan that was followed.
      seeded: Whether cohorts were drawn from a seed that somebody knows.
      noise_seeded: Whether the noise was, too, by `tff_dp.execution.fast(seed=...)`: then nothing is
        private, whatever the plan.
      stopped: Why training stopped before all the rounds that were asked for, or None.
      random_bits: Where the noise had its random bits, in words.
      foreign_algorithm: The class of the algorithm where it is not one of tff_dp's own, else None.
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

    def __reduce__(self) -> tuple[Any, ...]:
        # The bytes are read once TFF has been imported, which a tf-keras model would prevent.
        return _unpickled, (_compat.keras.is_legacy(self.model), pickle.dumps(self.__dict__))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Saves the model, and beside it what it has spent, for `tff_dp.load_model`.

        Args:
          path: Where to, in any form that the model's own `save` knows. The other file has
            `.privacy.json` after the name.

        Raises:
          ArgumentError: `path` is no path, or cannot be written.
        """
        provenance.save(self.model, path, [*self.other_data, self.charges])

    def statement(self) -> str:
        """States the guarantee in words, with its unit, its conditions and its limits.

        Returns:
          Lines of text.
        """
        return statement_of(self)


def _unpickled(legacy: bool, state: bytes) -> FitResult:
    if legacy:
        _compat.tff.load()
    result = FitResult(**pickle.loads(state))
    provenance.mark(result.model, [*result.other_data, result.charges])
    return result
