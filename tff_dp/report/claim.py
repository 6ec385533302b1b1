"""The claim of a report: what is guaranteed to whom, under which conditions, and what is not."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from tff_dp.accounting import EpsilonReport, PrivacyProfile
from tff_dp.charges import Charges
from tff_dp.plan import PrivacyPlan
from tff_dp.report.facts import described, relies_on_sampling, setting_of, unit_of
from tff_dp.report.figures import figures_of, membership_of, number

_NOTHING = PrivacyProfile(epsilons=(), deltas=())
_ARITHMETIC = (
    "Updates are clipped and summed exactly in whole numbers on a public grid, and the noise is drawn "
    "in whole numbers. Computed noise differs from the ideal law by at most 2^-37 in root mean square "
    "for each draw; what that costs is part of epsilon and delta."
)
_FOREIGN_NOISE = (
    "The integer noise is drawn by TensorFlow Federated; the accuracy of its samplers is taken for "
    "granted, and nothing is charged for it."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Circumstances:
    """What a claim depends on besides the plan and its charges, as the run folder records it.

    Args:
      seeded: Whether the cohorts were drawn from a seed.
      noise_seeded: Whether the noise was drawn from a seed.
      random_bits: The source of the random bits of the noise, in words.
      plain_metrics: Whether training metrics were recorded that no noise covers.
      foreign_algorithm: The class of the algorithm if it is not part of tff_dp; otherwise None.
      completed: The number of rounds whose results are kept.
      own_runs: The names of the run in the ledger.
      other_data: The charges on other data sets on which the model was trained before.
      validation: What is said of validation, in whole sentences.
    """

    seeded: bool = False
    noise_seeded: bool = False
    random_bits: str = ""
    plain_metrics: bool = False
    foreign_algorithm: str | None = None
    completed: int = 0
    own_runs: Sequence[str] = ()
    other_data: Sequence[Charges] = ()
    validation: Sequence[str] = ()


def claim_of(
    plan: PrivacyPlan | None,
    charges: Charges,
    spent: EpsilonReport | None,
    known: Circumstances,
    versions: Sequence[Mapping[str, str]],
    head: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Makes the claim of a run.

    Args:
      plan: The plan of the run; None without one.
      charges: Everything in the ledger of the run.
      spent: What these charges have spent together; None if there is no ledger.
      known: What the run folder records besides.
      versions: The sets of package versions in the ledger.
      head: The head of the ledger: the number of acknowledged charges, and the hash of the last.

    Returns:
      The claim, as plain values. Where nothing is guaranteed, the values under "guarantee" are
      infinite or 1, and "reasons" says why.

    Raises:
      AccountingError: No accountant applies to all plans together.
    """
    figures = None if spent is None else figures_of(charges, spent)
    reasons = _reasons(plan, charges, spent, known)
    return {
        "private": not reasons,
        "reasons": reasons,
        "guarantee": _guarantee(None if reasons else figures, spent),
        **_of_plan(plan),
        "released": "The models of all rounds. Epsilon holds for whoever sees all of them, and is not "
        "smaller for the final model alone.",
        "covered": _covered(plan, charges),
        "not_covered": _not_covered(plan, charges, known),
        "rounds": _rounds(plan, charges, known),
        "plans": [described(each, charges.of(each)) for each in _plans(plan, charges)],
        "accounting": figures,
        "randomness": _randomness(plan, known),
        "earlier_training": [_of_other(each) for each in known.other_data],
        "versions": [dict(each) for each in versions],
        "ledger": None
        if head is None
        else {"charges": head["charges"], "head_hash": str(head["hash"])},
    }


def _reasons(
    plan: PrivacyPlan | None, charges: Charges, spent: EpsilonReport | None, known: Circumstances
) -> list[str]:
    """Returns why nothing is guaranteed, in whole sentences; an empty list if something is."""
    if plan is None:
        return [
            "The run had no privacy plan: nothing bounds what the model reveals about a client."
        ]
    reasons = []
    if known.noise_seeded:
        reasons.append(
            "The noise came from a seed: whoever knows the seed can remove it from the model."
        )
    if any(each.mechanism.noise_multiplier == 0 for each in _plans(plan, charges)):
        reasons.append("There was no noise: clipping alone guarantees nothing.")
    if known.seeded and relies_on_sampling(plan):
        reasons.append(
            "The cohorts came from a seed: whoever knows the seed knows who took part when, and the "
            "accounting holds only if nobody does."
        )
    elif any(run.coins is not None for run in charges.runs):
        # A ledger has the hash of a run's seed if the run's epsilon relies on it.
        reasons.append(
            "Cohorts that the ledger has charges for came from a seed: the accounting of all runs "
            "together holds only if nobody knows it."
        )
    if spent is None:
        return [
            *reasons,
            "There is no ledger: nothing shows which rounds were run under the plan.",
        ]
    own = _own(plan, charges, known)
    if own < known.completed:
        reasons.append(
            f"The ledger has {own} rounds of this run under its plan, and the run folder has "
            f"{known.completed}: the ledger or the plan is not the one of this run, or has been replaced."
        )
    if charges.unbounded:
        reasons.append("The data were also used without differential privacy.")
    if math.isinf(spent.epsilon) and not reasons:
        reasons.append(
            spent.refused.get("arithmetic", "No bound on epsilon is known for so little noise")
            + "."
        )
    return reasons


def _own(plan: PrivacyPlan | None, charges: Charges, known: Circumstances) -> int:
    """Returns the number of rounds that the ledger has of this run, under its plan."""
    runs = (run for run in charges.runs if run.run in known.own_runs and run.plan == plan)
    return sum(len(run.rounds) for run in runs)


def _plans(plan: PrivacyPlan | None, charges: Charges) -> list[PrivacyPlan]:
    """Returns the plan of the run, and the others with charges on the same data."""
    own = [] if plan is None else [plan]
    return [*own, *(each for each in charges.plans if each != plan)]


def _guarantee(figures: Mapping[str, Any] | None, spent: EpsilonReport | None) -> dict[str, Any]:
    """Returns the figures to state, which are those of the accounting if something is guaranteed."""
    found = membership_of(_NOTHING) if figures is None else figures
    names = ("mu", "mu_from_delta", "advantage", "membership")
    return {
        "epsilon": number(math.inf) if figures is None else figures["epsilon"],
        "delta": None if spent is None else spent.delta,
        **{name: found[name] for name in names},
    }


def _of_plan(plan: PrivacyPlan | None) -> dict[str, Any]:
    if plan is None:
        names = ("setting", "trust_model", "unit", "unit_meaning", "adjacency", "adjacency_meaning")
        return {**dict.fromkeys(names), "units": None, "delta_times_units": None}
    units = plan.population if plan.records is None else max(plan.records)
    return {
        **setting_of(plan),
        **unit_of(plan),
        "units": units,
        "delta_times_units": plan.delta * units,
    }


def _covered(plan: PrivacyPlan | None, charges: Charges) -> list[str]:
    if plan is None:
        return []
    lines = [
        "The updates of all rounds that the ledger has, whether or not they came to their end."
    ]
    metrics = dict.fromkeys(m.name for each in _plans(plan, charges) for m in each.metrics)
    if metrics:
        lines.append(f"The training metrics that are released with noise: {', '.join(metrics)}.")
    if len(charges.runs) > 1:
        lines.append(
            f"All {len(charges.runs)} runs in the ledger together, under {len(charges.plans)} "
            f"{'plan' if len(charges.plans) == 1 else 'plans'}."
        )
    return lines


def _not_covered(plan: PrivacyPlan | None, charges: Charges, known: Circumstances) -> list[str]:
    if plan is None:
        return ["Everything: nothing is covered without a privacy plan.", *known.validation]
    limits = dict.fromkeys(each.mechanism.limits for each in _plans(plan, charges))
    lines = [
        f"{'; '.join(limits)}.".capitalize(),
        "Validation and evaluation on these clients' data, and choices that were made by them.",
        "Statistics of the data that went into the model or its inputs before training, such as "
        "adapted normalization, vocabularies, or weights of classes and examples.",
        *known.validation,
    ]
    public = "The number of clients" if plan.records is None else "Each client's number of records"
    lines.append(f"{public}, which is public.")
    if known.plain_metrics:
        lines.append(
            "The training metrics in the history: they are plain sums over private data. Do not "
            "publish them with the model."
        )
    if known.foreign_algorithm is not None:
        lines.append(
            f"What the algorithm {known.foreign_algorithm}, which is not part of tff_dp, may send to the "
            "server besides the plan's own parts."
        )
    others = [run for run in charges.runs if run.run not in known.own_runs]
    if others:
        lines.append(
            f"What else was released by other runs in the ledger ({len(others)}), such as plain "
            "metrics: of them, the charges alone are known."
        )
    return lines


def _rounds(plan: PrivacyPlan | None, charges: Charges, known: Circumstances) -> dict[str, Any]:
    own = _own(plan, charges, known)
    return {
        "planned": None if plan is None else plan.rounds,
        "completed": known.completed,
        "charged": charges.rounds,
        "charged_by_this_run": own,
        "drawn_again": max(own - known.completed, 0),
    }


def _randomness(plan: PrivacyPlan | None, known: Circumstances) -> dict[str, Any]:
    cohorts = "entropy of the operating system"
    if known.seeded:
        cohorts = "a seed that the caller chose"
    arithmetic = ""
    if plan is not None:
        arithmetic = _FOREIGN_NOISE if plan.arithmetic is None else _ARITHMETIC
    return {
        "noise": known.random_bits,
        "noise_seeded": known.noise_seeded,
        "cohorts": cohorts,
        "cohorts_seeded": known.seeded,
        "sampled_as_stated": "Yes: fit draws every cohort with the sampler that is accounted for."
        if plan is not None
        else "Not applicable.",
        "arithmetic": arithmetic,
    }


def _of_other(charges: Charges) -> dict[str, Any]:
    """Returns what earlier training on other clients has spent on them."""
    if charges.unbounded or not charges.runs:
        return {"epsilon": number(math.inf), "delta": None, "rounds": charges.rounds}
    spent = charges.spent()
    return {"epsilon": number(spent.epsilon), "delta": spent.delta, "rounds": spent.rounds}
