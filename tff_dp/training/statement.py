"""States the guarantee of a result in words, with its unit, its conditions and its limits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

from tff_dp.accounting import EpsilonReport
from tff_dp.accounting.report import format_epsilon, format_lower
from tff_dp.charges import Charges
from tff_dp.plan import NoPrivacy, PrivacyPlan, Unit

_LISTED = 20  # at most so many clients are listed in a statement


class Record(Protocol):
    """The part of a `RoundRecord` that a statement uses."""

    @property
    def metrics(self) -> Mapping[str, float] | None:
        """The clients' training metrics; None if they are not released."""

    @property
    def metrics_private(self) -> bool:
        """Whether the metrics are released with noise that the epsilon covers."""

    @property
    def validation_source(self) -> str | None:
        """What validation metrics were computed from: "data", "clients" or None."""

    @property
    def validation_private(self) -> bool:
        """Whether validation metrics of clients were released with noise."""


class Result(Protocol):
    """The part of a `FitResult` that a statement uses."""

    @property
    def history(self) -> Sequence[Record]:
        """The record of each round."""

    @property
    def epsilon(self) -> float:
        """The epsilon to state; infinite without a guarantee."""

    @property
    def spent(self) -> EpsilonReport | None:
        """The report behind `epsilon`; None without privacy."""

    @property
    def privacy(self) -> PrivacyPlan | NoPrivacy:
        """The plan of the run."""

    @property
    def charges(self) -> Charges:
        """All charges on the data, of this run and of earlier ones."""

    @property
    def other_data(self) -> tuple[Charges, ...]:
        """The charges on each other data set on which the model was trained before."""

    @property
    def seeded(self) -> bool:
        """Whether the cohorts were drawn from a seed."""

    @property
    def noise_seeded(self) -> bool:
        """Whether the noise was drawn from a seed."""

    @property
    def stopped(self) -> str | None:
        """Why training stopped early, as a sentence; None if it did not."""

    @property
    def spent_by_client(self) -> Mapping[str, EpsilonReport] | None:
        """If records are protected, the report of each client by its id; otherwise None."""

    @property
    def random_bits(self) -> str:
        """The source of the random bits of the noise, in words."""

    @property
    def foreign_algorithm(self) -> str | None:
        """The class of the algorithm if it is not part of tff_dp, otherwise None."""

    @property
    def runs(self) -> tuple[str, ...]:
        """The names under which the rounds of this run are in `charges`."""

    @property
    def resumed(self) -> int:
        """How often the run was resumed from its run folder."""

    @property
    def repeated_rounds(self) -> int:
        """How many rounds were charged twice, since their results were lost."""

    @property
    def validation_spent(self) -> EpsilonReport | None:
        """What private validation has spent on the held-out clients; None without."""


def statement_of(result: Result) -> str:
    """Returns the statement of a result.

    Args:
      result: The result of `fit`.

    Returns:
      The statement, in several lines of whole sentences.
    """
    if result.noise_seeded:
        return (
            "No differential privacy: the execution context drew the noise from a seed, and anyone who "
            "knows the seed can remove the noise. Train in a context without one."
        )
    if result.spent is None or not isinstance(result.privacy, PrivacyPlan):
        lines = ["No differential privacy: nothing bounds what the model reveals about a client."]
        return "\n".join([*lines, *_of_validation(result), *_of_others(result)])
    plan, spent = result.privacy, result.spent
    plans = result.charges.plans or (plan,)
    lines = [
        _of_epsilon(plan, plans, spent),
        *_without_guarantee(result, plans),
        *([_of_records(result)] if plan.unit is Unit.RECORD else []),
        *_of_mechanisms(result, plan, plans, spent),
        _of_bounds(spent),
        *_of_limits(result, plans),
        *_of_seed(result, plan),
        *([result.stopped] if result.stopped else []),
        *_of_resuming(result),
        *_of_metrics(result),
        *_of_validation(result),
        *_of_others(result),
    ]
    return "\n".join(lines)


def _of_epsilon(plan: PrivacyPlan, plans: tuple[PrivacyPlan, ...], spent: EpsilonReport) -> str:
    together = f", under {len(plans)} plans on the same data together" if len(plans) > 1 else ""
    return (
        f"{plan.unit.value}-level differential privacy: epsilon {format_epsilon(spent.epsilon)} at delta "
        f"{spent.delta:g}, after {spent.rounds} rounds{together}."
    )


def _without_guarantee(result: Result, plans: tuple[PrivacyPlan, ...]) -> list[str]:
    """Returns the reason if there is no guarantee; otherwise no line."""
    if result.charges.unbounded:
        return ["The data were used before without differential privacy: nothing bounds that."]
    if result.spent is None or not math.isinf(result.epsilon):
        return []
    reason = result.spent.refused.get("arithmetic")
    if reason:
        return [f"There is no guarantee: {reason}."]
    if any(each.mechanism.noise_multiplier == 0 for each in plans):
        return ["Without noise there is no guarantee, whatever the clipping."]
    return ["There is no guarantee: no bound on epsilon is known for so little noise."]


def _of_mechanisms(
    result: Result, plan: PrivacyPlan, plans: tuple[PrivacyPlan, ...], spent: EpsilonReport
) -> list[str]:
    neighbors = f"Neighboring data sets: {plan.adjacency.value}."
    if len(plans) == 1:
        return [
            f"{neighbors} Cohorts: {plan.sampler}. Mechanism: {plan.mechanism}. Accountant: "
            f"{spent.accountant}."
        ]
    return [
        f"{neighbors} Accountant: {spent.accountant}.",
        *(_of_plan(result, number, each) for number, each in enumerate(plans, 1)),
    ]


def _of_limits(result: Result, plans: tuple[PrivacyPlan, ...]) -> list[str]:
    limits = dict.fromkeys(each.mechanism.limits for each in plans)
    lines = [f"Not covered: {'; '.join(limits)}."]
    if result.foreign_algorithm is not None:
        lines.append(
            f"The algorithm {result.foreign_algorithm} is not one of tff_dp's own. The epsilon holds if, "
            "as its author has to see to, nothing that depends on clients' data reaches the server "
            "except by the plan's own parts."
        )
    if not math.isinf(result.epsilon):
        lines.append(f"Random bits of the noise: {result.random_bits}.")
    return lines


def _of_seed(result: Result, plan: PrivacyPlan) -> list[str]:
    if not result.seeded or plan.unit is not Unit.CLIENT or math.isinf(result.epsilon):
        return []
    return [
        "The cohorts came from a seed: anyone who knows the seed knows the cohorts, and sampling does "
        "not amplify privacy against them. Do not publish the seed, or train without one."
    ]


def _of_resuming(result: Result) -> list[str]:
    if not result.resumed:
        return []
    times = "once" if result.resumed == 1 else f"{result.resumed} times"
    lost = result.repeated_rounds
    paid = (
        f"{lost} {'round' if lost == 1 else 'rounds'} had begun without their results being saved, and "
        "epsilon counts them in addition to those that were run in their place."
        if lost
        else "No round was charged twice."
    )
    return [f"The run was resumed {times}. {paid}"]


def _of_metrics(result: Result) -> list[str]:
    lines = []
    shown = [record for record in result.history if record.metrics is not None]
    if any(not record.metrics_private for record in shown):
        lines.append("Training metrics were released: they are outside this epsilon.")
    elif shown:
        lines.append(
            "Training metrics were released with noise: this epsilon covers them, and what was decided "
            "by them, such as to stop early."
        )
    others = [run for run in result.charges.runs if run.run not in result.runs]
    if len(others) > (0 if result.runs else 1):
        lines.append(
            "Of the earlier runs the charges alone are known: not whether they released training "
            "metrics outside of this epsilon, or drew cohorts from a seed that somebody knows."
        )
    return lines


def _of_validation(result: Result) -> list[str]:
    """Returns what validation metrics touch, and what bounds that."""
    sources = {record.validation_source for record in result.history}
    lines = []
    if "data" in sources:
        lines.append(
            "The model was validated on data of its own: this statement says nothing about the data of "
            "validation_data, which have to be public, also where they decided when to stop, which "
            "model is the best one, or a learning rate."
        )
    plain = any(
        record.validation_source == "clients" and not record.validation_private
        for record in result.history
    )
    if plain:
        lines.append(
            "Validation metrics of held-out clients were released without noise: they are outside any "
            "epsilon, and so is what was chosen by them, such as when to stop, the best of several "
            "models, or a learning rate."
        )
    spent = result.validation_spent
    if spent is not None:
        lines.append(
            "Validation metrics of held-out clients were released with noise: for the validation "
            f"clients, epsilon {format_epsilon(spent.epsilon)} at delta {spent.delta:g} holds, for the "
            f"{spent.rounds} evaluations of this run alone, and for what was decided by them."
        )
    return lines


def _of_plan(result: Result, number: int, plan: PrivacyPlan) -> str:
    runs = result.charges.of(plan)
    return (
        f"Plan {number}: {sum(map(len, runs))} rounds in {len(runs)} "
        f"{'run' if len(runs) == 1 else 'runs'}. Cohorts: {plan.sampler}. Mechanism: "
        f"{plan.mechanism}."
    )


def _of_others(result: Result) -> list[str]:
    """Returns a line for each other data set on which the model was trained before."""
    lines = []
    for record in result.other_data:
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


def _of_bounds(spent: EpsilonReport) -> str:
    """Returns the bounds of the smallest valid epsilon, and the charge for computed noise."""
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


def _of_records(result: Result) -> str:
    found = [(report.epsilon, name) for name, report in (result.spent_by_client or {}).items()]
    each = ", ".join(f"{name} {format_epsilon(epsilon)}" for epsilon, name in found[:_LISTED])
    more = f", and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
    worst = max(found, default=(math.inf, "none"), key=lambda pair: pair[0])[1]
    return (
        f"That is the epsilon of a record of the worst client, {worst}. Each client's: {each}{more}. "
        "It holds against everybody but the record's own client; how many records a client has is "
        "public, and a person's several records are not protected together."
    )
