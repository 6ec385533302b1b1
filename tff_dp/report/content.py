"""The content of a report, read from a run folder."""

from __future__ import annotations

import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from tff_dp.charges import Charges
from tff_dp.ledger import LedgerSummary, summarize
from tff_dp.ledger.lines import read_head
from tff_dp.plan import PrivacyPlan
from tff_dp.report.claim import Circumstances, claim_of
from tff_dp.report.figures import number
from tff_dp.report.validation import lines_of_validation
from tff_dp.runs import read_run
from tff_dp.runs.layout import Layout

FORMAT = 1


def report_of(run_dir: str | os.PathLike[str]) -> dict[str, Any]:
    """Makes the report of a run from its folder. Nothing is written.

    Args:
      run_dir: The folder of the run, which may still be going on.

    Returns:
      The report, as `tff_dp/report/schema.json` describes it.

    Raises:
      ArgumentError: `run_dir` is not a path.
      RunFolderError: There is no run in the folder, or its files are damaged.
      LedgerError: The ledger of the run is missing or damaged.
      AccountingError: No accountant applies to all plans in the ledger together.
    """
    found = read_run(run_dir)
    config = found.config
    arguments, openings = config["arguments"], config.get("openings") or [{}]
    result = found.result or {}
    plan = None
    if arguments["privacy"].get("type") == "PrivacyPlan":
        plan = PrivacyPlan.from_dict(arguments["privacy"])
    records = found.records[: found.round_number]
    ledger = None if plan is None or found.ledger is None else found.ledger
    summary = None if ledger is None else summarize(ledger)
    known = Circumstances(
        seeded=bool(arguments.get("seeded")),
        noise_seeded=any(opening.get("noise_seeded") for opening in openings),
        random_bits="; in another part of the run, ".join(
            dict.fromkeys(str(opening.get("random_bits") or "no noise") for opening in openings)
        ),
        plain_metrics=any(_is_plain(record) for record in records),
        foreign_algorithm=config.get("foreign_algorithm"),
        completed=found.round_number,
        own_runs=[opening["run"] for opening in openings if opening.get("run")],
        other_data=_other_data(config, found.result, summary),
        validation=lines_of_validation(records, Layout(pathlib.Path(run_dir)).validation_ledger),
    )
    head = None if ledger is None else read_head(pathlib.Path(ledger))
    return {
        "tff_dp": "report",
        "format": FORMAT,
        "claim": _claim(plan, summary, known, openings, head),
        "run": {
            "folder": pathlib.Path(run_dir).resolve().name,
            "created": config.get("created"),
            "state": "still open"
            if found.is_open
            else result.get("state", "did not end by itself"),
            "stopped": result.get("stopped"),
            "resumed": len(openings) - 1,
            "model": config.get("model"),
            "data": config.get("data"),
            "arguments": {k: v for k, v in arguments.items() if k != "privacy"},
            "privacy": arguments["privacy"],
            "openings": [_shown(opening) for opening in openings],
        },
        "curves": curves_of(records),
    }


def _other_data(
    config: Mapping[str, Any], result: Mapping[str, Any] | None, summary: LedgerSummary | None
) -> list[Charges]:
    """Returns what the model had spent on other data before the run.

    A run that was killed has no result. What it began with is then in its configuration; the part that
    was on the same data is in the ledger.
    """
    if result is not None:
        return [Charges.from_dict(each) for each in result.get("other_data", ())]
    here = Charges() if summary is None else summary.charges
    carried = [Charges.from_dict(each) for group in config.get("carried", ()) for each in group]
    return [each for each in dict.fromkeys(carried) if not here.covers(each)]


def _claim(
    plan: PrivacyPlan | None,
    summary: LedgerSummary | None,
    known: Circumstances,
    openings: Sequence[Mapping[str, Any]],
    head: Mapping[str, Any] | None,
) -> dict[str, Any]:
    versions: Sequence[Mapping[str, str]] = [o["versions"] for o in openings if "versions" in o]
    if summary is None:
        return claim_of(plan, Charges(), None, known, versions, None)
    return claim_of(
        plan, summary.charges, summary.spent, known, [*summary.versions, *versions], head
    )


def curves_of(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Collects the numbers of the rounds' records.

    Args:
      records: The records, in the order of their rounds.

    Returns:
      The numbers of the rounds, the bounds on epsilon, and each metric by name; None where a round
      has none, "inf" for infinity.
    """
    names: dict[tuple[str, str], None] = {}
    for record in records:
        for field, value in record.items():
            if isinstance(value, Mapping):
                names |= {(field, key): None for key, each in value.items() if _is_number(each)}
    return {
        "rounds": [record["round_number"] for record in records],
        "epsilon": [number(float(record["epsilon"])) for record in records],
        "metrics": {
            key if field == "metrics" else f"{field}: {key}": [
                _value((record.get(field) or {}).get(key)) for record in records
            ]
            for field, key in names
        },
        # Of all curves together: those of validation are not within the epsilon of the run.
        "metrics_private": any(record.get("metrics_private") for record in records)
        and not any(record.get("validation") for record in records),
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _value(value: Any) -> float | None:
    return float(value) if _is_number(value) and math.isfinite(value) else None


def _is_plain(record: Mapping[str, Any]) -> bool:
    return record.get("metrics") is not None and not record.get("metrics_private")


def _shown(opening: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in opening.items() if name != "versions"}
