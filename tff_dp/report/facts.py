"""What a plan means in words: who is trusted, what is protected, and what an epsilon covers."""

from __future__ import annotations

from typing import Any

from tff_dp.config import name_of
from tff_dp.mechanisms import (
    DistributedGaussianMechanism,
    DistributedSkellamMechanism,
    LocalGaussianMechanism,
    LocalLaplaceMechanism,
    RecordGaussianMechanism,
    Unit,
)
from tff_dp.plan import PrivacyPlan
from tff_dp.sampling import Adjacency, FullParticipation

_LOCAL = (LocalGaussianMechanism, LocalLaplaceMechanism)
_DISTRIBUTED = (DistributedGaussianMechanism, DistributedSkellamMechanism)

_TRUST = {
    "local": "Each client noises its own update before sending it. Nobody but the client itself has to "
    "be trusted.",
    "record-local": "Each client noises its own training steps before sending anything. The server and "
    "the other clients do not have to be trusted; a client is trusted with its own records.",
    "distributed": "Each client adds a share of the noise, and the server sees the sum alone. Secure "
    "aggregation is trusted, and so are the clients to add their shares.",
    "central": "The server is trusted: it sees the clients' updates, draws the cohorts and adds the "
    "noise. The guarantee holds against everybody who sees the models of all rounds.",
}
_ADJACENCIES = {
    Adjacency.ADD_OR_REMOVE_ONE: "Two data sets are neighbors if one has one {unit} more than the other.",
    Adjacency.REPLACE_ONE: "Two data sets are neighbors if one {unit} is replaced by another one.",
    Adjacency.ZERO_OUT: "Two data sets are neighbors if one {unit} contributes nothing in one of them; "
    "who takes part when is the same in both.",
}


def setting_of(plan: PrivacyPlan) -> dict[str, str]:
    """Says in which setting a plan's guarantee holds, and whom it trusts.

    Args:
      plan: The plan.

    Returns:
      The setting ("central", "local" or "distributed") and the trust model as a text.
    """
    if isinstance(plan.mechanism, RecordGaussianMechanism):
        return {"setting": "local", "trust_model": _TRUST["record-local"]}
    setting = "central"
    if isinstance(plan.mechanism, _LOCAL):
        setting = "local"
    elif isinstance(plan.mechanism, _DISTRIBUTED):
        setting = "distributed"
    return {"setting": setting, "trust_model": _TRUST[setting]}


def unit_of(plan: PrivacyPlan) -> dict[str, str]:
    """Says what a plan protects, and between which data sets nobody can tell.

    Args:
      plan: The plan.

    Returns:
      The unit and the neighboring relation, each with its meaning.
    """
    is_client = plan.unit is Unit.CLIENT
    return {
        "unit": plan.unit.value,
        "unit_meaning": "A client with all of its examples, over all rounds together."
        if is_client
        else "One record of one client, over all rounds together. A person with several records is not "
        "protected as a whole.",
        "adjacency": plan.adjacency.value,
        "adjacency_meaning": _ADJACENCIES[plan.adjacency].format(unit=plan.unit.value),
    }


def relies_on_sampling(plan: PrivacyPlan) -> bool:
    """Says whether a plan's epsilon holds only as long as nobody knows the cohorts.

    Args:
      plan: The plan.

    Returns:
      True unless the plan protects records, or every client takes part in every round.
    """
    return plan.unit is Unit.CLIENT and not isinstance(plan.sampler, FullParticipation)


def described(plan: PrivacyPlan, runs: tuple[range, ...]) -> dict[str, Any]:
    """Describes the parts of a plan that its epsilon depends on.

    Args:
      plan: The plan.
      runs: The rounds that were charged under it, for each run.

    Returns:
      Plain values.
    """
    mechanism, sampler = plan.mechanism, plan.sampler
    clip = mechanism.clip_field
    records = plan.records
    return {
        "mechanism": name_of(type(mechanism)),
        "mechanism_fields": _fields(mechanism),
        "clip_norm": None
        if clip is None or not hasattr(mechanism, clip)
        else float(getattr(mechanism, clip)),
        "denominator": float(plan.clients_per_round),
        "noise_multiplier": float(mechanism.noise_multiplier),
        "update_noise_multiplier": float(plan.update_mechanism.noise_multiplier),
        "sampler": name_of(type(sampler)),
        "sampler_fields": _fields(sampler),
        "sampling_rate": None if not hasattr(sampler, "rate") else float(sampler.rate),
        "population": plan.population,
        "records": None
        if records is None
        else {"clients": len(records), "smallest": min(records), "largest": max(records)},
        "rounds_planned": plan.rounds,
        "rounds_charged": sum(map(len, runs)),
        "runs": [[run.start, run.stop - 1] for run in runs],
        "delta": plan.delta,
        "private_metrics": [
            {
                "name": metric.name,
                "clip_value": metric.clip_value,
                "budget_fraction": metric.budget_fraction,
            }
            for metric in plan.metrics
        ],
    }


def _fields(value: Any) -> dict[str, Any]:
    return {name: each for name, each in value.to_dict().items() if name != "type"}
