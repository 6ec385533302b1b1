"""Charges on the data before a run, and the accounting for models that were trained before."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from tff_dp.accounting.report import format_epsilon
from tff_dp.charges import Charges, incompatibility
from tff_dp.errors import ArgumentError, ModelError
from tff_dp.plan import NoPrivacy, PrivacyPlan
from tff_dp.provenance import record_of

_WAYS = (
    "Say how to count it: ledger= with the ledger in which it was charged; or spent_before= with "
    "the FitResult of the training before, or its charges; or disjoint_data=True if no client "
    "whose data are given here was among those that the model was trained on"
)


def charged_before(
    privacy: PrivacyPlan | NoPrivacy,
    carried: Sequence[Charges],
    *,
    in_ledger: Charges,
    spent_before: Any,
    disjoint_data: bool,
    groups: Sequence[Sequence[Charges]] | None = None,
) -> Charges:
    """Finds the charges on the data before a run.

    Args:
      privacy: The plan of the run, or `NoPrivacy`.
      carried: The charges of the model's earlier training, one entry for each data set.
      in_ledger: The charges in the ledger of the run.
      spent_before: The argument of `fit`: a result or its charges, or None.
      disjoint_data: The argument of `fit`: whether the model was trained on other clients.
      groups: The charges in `carried` in groups, such that the data sets in a group have no client
        in common. A model that was built from several trained models has several groups, whose data
        sets may be the same. By default, one group.

    Returns:
      The charges, which are unbounded if the run has no privacy plan.

    Raises:
      ArgumentError: `spent_before` cannot be composed with the plan, or is given without a plan; or
        `disjoint_data` contradicts the charges of the model.
      ModelError: The model was trained before, and no argument says how to count that.
    """
    if not isinstance(privacy, PrivacyPlan):
        if spent_before is not None:
            raise ArgumentError(
                f"spent_before={spent_before!r} needs a PrivacyPlan: without one, no epsilon is "
                "stated. Leave it out."
            )
        return Charges(unbounded=True)
    known = in_ledger
    if spent_before is not None:
        given = record_of(spent_before)
        for plan in given.plans:
            difference = incompatibility(plan, privacy)
            if difference:
                raise ArgumentError(
                    "spent_before cannot be counted together with this plan, since no one epsilon "
                    "could be stated for both. Its and this plan's fields differ in "
                    f"{difference}. Make the plan with the same values; or pass "
                    "disjoint_data=True if it was spent on other clients."
                )
        known = known | given
    each = [carried] if groups is None else groups
    covered = all(any(known.covers(record) for record in group) for group in each)
    names = {run.run for run in known.runs}
    shared = any(run.run in names for record in carried for run in record.runs)
    if carried and disjoint_data and (shared or any(known.covers(r) for r in carried)):
        raise ArgumentError(
            "disjoint_data=True says that the model was trained on other clients, and the ledger "
            "or spent_before has the charges of that training as spent on these. Leave out one of "
            "them."
        )
    if carried and not disjoint_data and not covered:
        raise ModelError(
            f"model was trained before, at {' and at '.join(map(_cost, carried))}. Whoever sees "
            "the new model sees that, too: the epsilon of this run alone would be too small. "
            f"{_WAYS}."
        )
    return known


def elsewhere(
    carried: Sequence[Charges], here: Charges, *, private: bool, disjoint_data: bool
) -> tuple[Charges, ...]:
    """Finds the charges of a model on data sets other than that of the run.

    Args:
      carried: The charges of the model before the run, one entry for each data set.
      here: The charges on the data set of the run, including those of the run.
      private: Whether the run had a privacy plan.
      disjoint_data: Whether the caller stated that the data sets have no client in common.

    Returns:
      The charges on each of these data sets.
    """
    if private or disjoint_data:
        return tuple(record for record in carried if not here.covers(record))
    # Training without a plan may have used the same clients: nothing bounds what is known of them
    # now.
    return tuple(dataclasses.replace(record, unbounded=True) for record in carried)


def _cost(record: Charges) -> str:
    if record.unbounded or not record.runs:
        return "no bound (without differential privacy)"
    report = record.spent()
    return f"epsilon {format_epsilon(report.epsilon)} (delta {report.delta:g})"
