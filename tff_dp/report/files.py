"""The files of a report: written, read again, and compared with what the ledger says now."""

from __future__ import annotations

import json
import math
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from tff_dp import _checks
from tff_dp.errors import ArgumentError
from tff_dp.report.content import FORMAT, report_of
from tff_dp.report.page import page_of
from tff_dp.runs import read_run

PAGE, DATA = "report.html", "report.json"
_TOLERANCE = 1e-6  # relative; below the digits of any figure, and above roundoff of another machine


class Difference(NamedTuple):
    """A part of a report that is not what the run folder gives.

    Attributes:
      where: The path of the part, such as "claim.guarantee.epsilon".
      written: What the report says, as a short text.
      found: What the ledger and the plan give now, as a short text.
    """

    where: str
    written: str
    found: str


class Files(NamedTuple):
    """Where a report is.

    Attributes:
      page: The path of the HTML page.
      data: The path of the JSON file.
    """

    page: pathlib.Path
    data: pathlib.Path


def write_report(
    run_dir: str | os.PathLike[str], folder: str | os.PathLike[str] | None = None
) -> Files:
    """Writes the report of a run: a page for people, and the same in JSON for programs.

    Args:
      run_dir: The folder of the run.
      folder: The folder for both files, which has to exist; by default that of the run.

    Returns:
      The paths of the files. Existing ones are replaced.

    Raises:
      ArgumentError: A path is not one, or the files cannot be written.
      RunFolderError: There is no run in the folder, or its files are damaged.
      LedgerError: The ledger of the run is missing or damaged.
      AccountingError: No accountant applies to all plans in the ledger together.
    """
    files = _files(run_dir, folder)
    report = report_of(run_dir)
    text = json.dumps(report, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    for path, content in ((files.data, text), (files.page, page_of(report))):
        fresh = path.with_name(path.name + ".new")
        try:
            fresh.write_text(content, encoding="utf-8")
            os.replace(fresh, path)
        except OSError as error:
            fresh.unlink(missing_ok=True)
            raise ArgumentError(
                f"folder={str(path.parent)!r} cannot be written: {error}. Give a folder that exists and "
                "can be written."
            ) from None
    return files


def verify_report(
    run_dir: str | os.PathLike[str], folder: str | os.PathLike[str] | None = None
) -> list[Difference]:
    """Computes every figure of a written report again, from the ledger and the plan.

    Args:
      run_dir: The folder of the run.
      folder: The folder of the report; by default that of the run.

    Returns:
      What differs, in the report, in its page and in the run's own result; empty if nothing does.
      Numbers may differ by a relative 1e-6, which another machine's arithmetic may cause.

    Raises:
      ArgumentError: A path is not one, or there is no report, or it is of another format.
      RunFolderError: There is no run in the folder, or its files are damaged.
      LedgerError: The ledger of the run is missing or damaged.
      AccountingError: No accountant applies to all plans in the ledger together.
    """
    files = _files(run_dir, folder)
    written = _read(files.data)
    found = report_of(run_dir)
    differences = [*_compared("", written, found)]
    try:
        page = files.page.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        differences.append(Difference(PAGE, f"cannot be read: {error}", f"the page of {DATA}"))
    else:
        if page != page_of(written):
            differences.append(Difference(PAGE, "another page", f"the page of {DATA}"))
    return [*differences, *_of_result(run_dir, found)]


def _of_result(run_dir: str | os.PathLike[str], found: Mapping[str, Any]) -> Iterator[Difference]:
    """Yields a difference if the run stated a smaller epsilon at its end than its ledger gives."""
    result, accounting = read_run(run_dir).result, found["claim"]["accounting"]
    if result is None or accounting is None or result.get("epsilon") is None:
        return
    stated, spent = float(result["epsilon"]), float(accounting["epsilon"])
    if not _is_close(stated, spent):
        yield Difference("result.json: epsilon", repr(stated), repr(spent))


def _files(run_dir: Any, folder: Any) -> Files:
    for name, value in (("run_dir", run_dir), ("folder", folder or run_dir)):
        _checks.instance(name, value, (str, os.PathLike), "Give the path of a folder.")
    where = pathlib.Path(folder or run_dir)
    return Files(where / PAGE, where / DATA)


def _read(path: pathlib.Path) -> Any:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArgumentError(
            f"{str(path)!r} does not exist: expected a report that was written before. Write one by "
            "tff-dp report RUN_DIR."
        ) from None
    except (OSError, ValueError) as error:
        raise ArgumentError(
            f"{str(path)!r} cannot be read: {error}. Write the report again."
        ) from None
    if not isinstance(found, dict) or (found.get("tff_dp"), found.get("format")) != (
        "report",
        FORMAT,
    ):
        raise ArgumentError(
            f"{str(path)!r} is no report of format {FORMAT}: expected one that this version of tff_dp "
            "has written. Write the report again."
        )
    return found


def _compared(where: str, written: Any, found: Any) -> Iterator[Difference]:
    if isinstance(written, Mapping) and isinstance(found, Mapping):
        for name in dict.fromkeys((*written, *found)):
            path = f"{where}.{name}" if where else str(name)
            if name not in written:
                yield Difference(path, "nothing", _checks.brief(found[name]))
            elif name not in found:
                yield Difference(path, _checks.brief(written[name]), "nothing")
            else:
                yield from _compared(path, written[name], found[name])
    elif isinstance(written, list) and isinstance(found, Sequence) and not isinstance(found, str):
        if len(written) != len(found):
            yield Difference(where, f"{len(written)} entries", f"{len(found)} entries")
        else:
            for place, (one, two) in enumerate(zip(written, found, strict=True)):
                yield from _compared(f"{where}[{place}]", one, two)
    elif not _is_same(written, found):
        yield Difference(where, _checks.brief(written), _checks.brief(found))


def _is_same(written: Any, found: Any) -> bool:
    numbers = [
        isinstance(each, int | float) and not isinstance(each, bool) for each in (written, found)
    ]
    return _is_close(written, found) if all(numbers) else bool(written == found)


def _is_close(one: float, two: float) -> bool:
    return math.isclose(one, two, rel_tol=_TOLERANCE)
