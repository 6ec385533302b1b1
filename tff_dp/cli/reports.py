"""The command `tff-dp report`."""

from __future__ import annotations

import argparse
import json
from typing import Any


def add_options(command: argparse.ArgumentParser) -> None:
    """Adds the options of the command.

    Args:
      command: The parser of the command.
    """
    command.add_argument("run_dir", metavar="RUN_DIR", help="the folder of a run")
    command.add_argument(
        "--out", metavar="FOLDER", help="where the report is; by default in the folder of the run"
    )
    command.add_argument(
        "--verify",
        action="store_true",
        help="compute every figure of a written report again, and say what differs",
    )
    command.add_argument("--json", action="store_true", help="print an object instead of text")


def report(options: argparse.Namespace) -> int:
    """Writes or verifies the report of a run.

    Args:
      options: The options of the command.

    Returns:
      The exit code: 0, or 1 if something differs.

    Raises:
      ArgumentError: There is no report to verify, or it cannot be written.
      RunFolderError: There is no run in the folder, or its files are damaged.
      LedgerError: The ledger of the run is missing or damaged.
      AccountingError: No accountant applies to all plans in the ledger together.
    """
    from tff_dp import report as reports

    if options.verify:
        differences = reports.verify_report(options.run_dir, options.out)
        found = [each._asdict() for each in differences]
        _print(options, {"verified": not found, "differences": found}, _of_differences(found))
        return 1 if found else 0
    files = reports.write_report(options.run_dir, options.out)
    claim = json.loads(files.data.read_text(encoding="utf-8"))["claim"]
    answer = {
        "page": str(files.page),
        "data": str(files.data),
        "private": claim["private"],
        "reasons": claim["reasons"],
        "epsilon": claim["guarantee"]["epsilon"],
        "delta": claim["guarantee"]["delta"],
    }
    _print(options, answer, _of_files(answer))
    return 0


def _of_files(answer: dict[str, Any]) -> str:
    from tff_dp.accounting.report import format_epsilon

    if answer["private"]:
        verdict = f"epsilon {format_epsilon(answer['epsilon'])} at delta {answer['delta']:g}"
    else:
        verdict = "\n         ".join(["NOT PRIVATE", *answer["reasons"]])
    return f"claim    {verdict}\npage     {answer['page']}\ndata     {answer['data']}"


def _of_differences(found: list[dict[str, Any]]) -> str:
    if not found:
        return "Every figure of the report follows from the ledger and the plan."
    lines = [
        f"  {each['where']}: the report has {each['written']}, and the run folder gives {each['found']}"
        for each in found
    ]
    return "\n".join([f"{len(found)} parts of the report differ:", *lines])


def _print(options: argparse.Namespace, answer: dict[str, Any], text: str) -> None:
    print(json.dumps(answer, indent=1) if options.json else text)
