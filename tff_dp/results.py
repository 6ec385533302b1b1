"""What training gives: the model, the history, and what it has cost."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from tff_dp.accounting import EpsilonReport
from tff_dp.accounting.accountants import format_epsilon, format_lower
from tff_dp.plan import NoPrivacy, PrivacyPlan, Unit

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitResult:
    """A trained model and what it has cost.

    Attributes:
      model: The trained Keras model, of the kind that came in.
      history: One record a round.
      epsilon: The epsilon to state for `model`; infinite without privacy.
      spent: The report behind it, with every accountant; None without privacy. For records, that of the
        worst client.
      spent_by_client: For records: what was spent at each client, by its id. None without privacy, and
        where clients are protected, who all have spent the same.
      privacy: The plan that was followed.
      seeded: Whether cohorts were drawn from a seed that somebody knows.
      noise_seeded: Whether the noise was, too, by `tff_dp.execution.fast(seed=...)`: then nothing is
        private, whatever the plan.
      stopped: Why training stopped before all the rounds that were asked for, or None.
    """

    model: Any
    history: tuple[RoundRecord, ...]
    epsilon: float
    spent: EpsilonReport | None
    privacy: PrivacyPlan | NoPrivacy
    seeded: bool
    noise_seeded: bool = False
    stopped: str | None = None
    spent_by_client: Mapping[str, EpsilonReport] | None = None

    def statement(self) -> str:
        """Returns the guarantee in words, with its unit, its conditions and its limits."""
        if self.noise_seeded:
            return (
                "No differential privacy: the execution context drew the noise from a seed, and whoever "
                "knows the seed can take the noise off. Train in a context without one."
            )
        if self.spent is None or not isinstance(self.privacy, PrivacyPlan):
            return "No differential privacy: nothing bounds what the model reveals about a client."
        plan = self.privacy
        lines = [
            f"{plan.unit.value}-level differential privacy: epsilon "
            f"{format_epsilon(self.epsilon)} at delta {plan.delta:g}, after {self.spent.rounds} rounds.",
            f"Neighbouring data sets: {plan.adjacency.value}. Cohorts: {plan.sampler}. "
            f"Mechanism: {plan.mechanism}. Accountant: {self.spent.accountant}.",
            self._of_bounds(self.spent),
            f"Not covered: {plan.mechanism.limits}.",
        ]
        if plan.unit is Unit.RECORD:
            lines.insert(1, self._of_records())
        if math.isinf(self.epsilon):
            reason = self.spent.refused.get("arithmetic")
            lines.insert(
                1,
                f"There is no guarantee: {reason}."
                if reason
                else "Without noise there is no guarantee, whatever the clipping.",
            )
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
        return "\n".join(lines)

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
