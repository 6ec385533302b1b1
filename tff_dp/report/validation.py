"""What a report says of validation: whose data were used, and which epsilon holds for them."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from tff_dp.accounting.report import format_epsilon
from tff_dp.errors import LedgerError
from tff_dp.ledger import summarize


def lines_of_validation(records: Sequence[Mapping[str, Any]], ledger: pathlib.Path) -> list[str]:
    """Says what validation has touched, none of which is within the epsilon of the run.

    Args:
      records: The records of the rounds.
      ledger: The path of the ledger of private validation, whether or not there is one.

    Returns:
      Whole sentences.

    Raises:
      LedgerError: The ledger is damaged, or has fewer charges than the records have evaluations.
      AccountingError: No accountant applies to all of its plans together.
    """
    lines = []
    if any(record.get("validation_source") == "data" for record in records):
        lines.append(
            "The data of validation_data, which have to be public: nothing bounds what the metrics in "
            "the history, and choices that were made by them, reveal about these data."
        )
    if any(_is_of_clients(record) and not _is_private(record) for record in records):
        lines.append(
            "Validation metrics of held-out clients that were released without noise: they are "
            "outside any epsilon, and so are choices that were made by them."
        )
    spent = _spent(ledger, sum(map(_is_private, records)))
    if spent is not None:
        lines.append(
            "Validation metrics of held-out clients that were released with noise. They are an "
            f"account of their own: for these clients, epsilon {format_epsilon(spent.epsilon)} at "
            f"delta {spent.delta:g} holds, for {spent.rounds} evaluations alone."
        )
    return lines


def _is_of_clients(record: Mapping[str, Any]) -> bool:
    return record.get("validation_source") == "clients"


def _is_private(record: Mapping[str, Any]) -> bool:
    return bool(record.get("validation_private"))


def _spent(ledger: pathlib.Path, released: int) -> Any:
    """Returns the report of all evaluations that are charged; None if there are none."""
    charges = summarize(ledger).charges if ledger.exists() else None
    charged = 0 if charges is None else charges.rounds
    if charged < released:
        raise LedgerError(
            f"The ledger {ledger} has {charged} evaluations, and the history of the run has "
            f"{released}: it has lost charges. Restore it and its .head file from a backup."
        )
    return charges.spent() if charges is not None and charged else None
