"""What training gives: the model, the history, and what it has cost."""

from __future__ import annotations

import dataclasses
import math
import os
import pickle
from collections.abc import Mapping
from typing import Any

from tff_dp import _checks, _compat, provenance
from tff_dp.accounting import EpsilonReport
from tff_dp.accounting.report import format_epsilon, format_lower
from tff_dp.charges import Charges
from tff_dp.plan import NoPrivacy, PrivacyPlan, Unit

NO_NOISE = "no noise"
_LISTED = 20  # clients in a statement


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
        """Returns the guarantee in words, with its unit, its conditions and its limits."""
        if self.noise_seeded:
            return (
                "No differential privacy: the execution context drew the noise from a seed, and whoever "
                "knows the seed can take the noise off. Train in a context without one."
            )
        if self.spent is None or not isinstance(self.privacy, PrivacyPlan):
            lines = [
                "No differential privacy: nothing bounds what the model reveals about a client."
            ]
            return "\n".join([*lines, *self._of_others()])
        plan, plans = self.privacy, self.charges.plans or (self.privacy,)
        together = f", under {len(plans)} plans on the same data together" if len(plans) > 1 else ""
        lines = [
            f"{plan.unit.value}-level differential privacy: epsilon "
            f"{format_epsilon(self.epsilon)} at delta {self.spent.delta:g}, after "
            f"{self.spent.rounds} rounds{together}.",
        ]
        if self.charges.unbounded:
            lines.append(
                "The data were used before without differential privacy: nothing bounds that."
            )
        elif math.isinf(self.epsilon):
            reason = self.spent.refused.get("arithmetic")
            lines.append(
                f"There is no guarantee: {reason}."
                if reason
                else "Without noise there is no guarantee, whatever the clipping."
                if any(each.mechanism.noise_multiplier == 0 for each in plans)
                else "There is no guarantee: no bound on epsilon is known for so little noise."
            )
        if plan.unit is Unit.RECORD:
            lines.append(self._of_records())
        if len(plans) == 1:
            lines.append(
                f"Neighbouring data sets: {plan.adjacency.value}. Cohorts: {plan.sampler}. "
                f"Mechanism: {plan.mechanism}. Accountant: {self.spent.accountant}."
            )
        else:
            lines.append(
                f"Neighbouring data sets: {plan.adjacency.value}. Accountant: "
                f"{self.spent.accountant}."
            )
            lines += [self._of_plan(number, each) for number, each in enumerate(plans, 1)]
        lines.append(self._of_bounds(self.spent))
        limits = dict.fromkeys(each.mechanism.limits for each in plans)
        lines.append(f"Not covered: {'; '.join(limits)}.")
        if not math.isinf(self.epsilon):
            lines.append(f"Random bits of the noise: {self.random_bits}.")
        if self.seeded and plan.unit is Unit.CLIENT and not math.isinf(self.epsilon):
            lines.append(
                "The cohorts came from a seed: whoever knows the seed knows the cohorts, and against "
                "them sampling amplifies nothing. Do not publish it, or train without one."
            )
        if self.stopped:
            lines.append(self.stopped)
        shown = [record for record in self.history if record.metrics is not None]
        if any(not record.metrics_private for record in shown):
            lines.append("Training metrics were released: they are outside this epsilon.")
        elif shown:
            lines.append("Training metrics were released with noise: this epsilon covers them.")
        if len(self.charges.runs) > 1:
            lines.append(
                "Of the earlier runs the charges alone are known: not whether they released training "
                "metrics outside of this epsilon, or drew cohorts from a seed that somebody knows."
            )
        return "\n".join([*lines, *self._of_others()])

    def _of_plan(self, number: int, plan: PrivacyPlan) -> str:
        runs = self.charges.of(plan)
        return (
            f"Plan {number}: {sum(map(len, runs))} rounds in {len(runs)} "
            f"{'run' if len(runs) == 1 else 'runs'}. Cohorts: {plan.sampler}. Mechanism: "
            f"{plan.mechanism}."
        )

    def _of_others(self) -> list[str]:
        """Returns a line for each other data set that the model was trained on before."""
        lines = []
        for record in self.other_data:
            if record.unbounded:
                lines.append(
                    "Training began with a model of other training, whose data have no guarantee: "
                    "they were used without differential privacy, or may have been used so in "
                    "this run."
                )
                continue
            report = record.spent()
            lines.append(
                "Training began with a model of other clients, as was said by disjoint_data: for "
                f"them epsilon {format_epsilon(report.epsilon)} at delta {report.delta:g} goes on "
                "to hold, if indeed no client is among both."
            )
        return lines

    def _of_bounds(self, spent: EpsilonReport) -> str:
        """Returns what is known of the smallest epsilon, and of the charge for computed noise."""
        known = (
            "A lower bound of the smallest epsilon is not known for this mechanism."
            if spent.lower_bound is None
            else f"The smallest epsilon for these rounds lies between {format_lower(spent.lower_bound)} "
            f"and {format_epsilon(spent.epsilon)}."
        )
        if spent.arithmetic_epsilon:
            return (
                f"{known} For computed noise, epsilon {spent.arithmetic_epsilon:.2g} and delta "
                f"{spent.arithmetic_delta:.2g} of these are charged."
            )
        if spent.epsilon in (0.0, math.inf):
            return known
        return f"{known} The accuracy of the samplers of noise is taken for granted."

    def _of_records(self) -> str:
        found = [(report.epsilon, name) for name, report in (self.spent_by_client or {}).items()]
        each = ", ".join(f"{name} {format_epsilon(epsilon)}" for epsilon, name in found[:_LISTED])
        more = f", and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
        worst = max(found, default=(math.inf, "none"), key=lambda pair: pair[0])[1]
        return (
            f"That is the epsilon of a record of the worst client, {worst}. Each client's: {each}{more}. "
            "It holds against everybody but the record's own client; how many records a client has is "
            "public, and a person's several records are not protected together."
        )


def _unpickled(legacy: bool, state: bytes) -> FitResult:
    if legacy:
        _compat.tff.load()
    result = FitResult(**pickle.loads(state))
    provenance.mark(result.model, [*result.other_data, result.charges])
    return result
