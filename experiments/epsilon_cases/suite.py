"""Reads the cases, and judges the answers of a function to them."""

from __future__ import annotations

import dataclasses
import json
import math
import numbers
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

FILE = pathlib.Path(__file__).parent / "cases.json"
FORMAT = 1
_NUMBERS = ("wrong", "lower_bound", "valid")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One way to get epsilon wrong.

    Attributes:
      name: Short and unique.
      question: What is run, and which epsilon is asked for.
      mistake: How the wrong epsilon comes about.
      proof: Of the lower bound.
      source: Where it is explained.
      seen: Where somebody made or nearly made the mistake, or that no public instance is known.
      inputs: What is run, as plain values.
      wrong: The wrong epsilon.
      lower_bound: A proven lower bound on epsilon; may be infinite.
      valid: An epsilon that holds, from tff_dp; None where tff_dp refuses what is run.
      refusal: Why it is refused, or None.
    """

    name: str
    question: str
    mistake: str
    proof: str
    source: str
    seen: str
    inputs: Mapping[str, Any]
    wrong: float
    lower_bound: float
    valid: float | None
    refusal: str | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a function answered to a case.

    Attributes:
      case: The case.
      answer: Its epsilon; None if it refused.
      note: The reason of a refusal; else "".
    """

    case: Case
    answer: float | None
    note: str

    @property
    def is_wrong(self) -> bool:
        """Whether the answer is below what is proven, or no number."""
        return self.answer is not None and not self.answer >= self.case.lower_bound


def load(path: pathlib.Path = FILE) -> tuple[Case, ...]:
    """Reads the cases.

    Args:
      path: The file.

    Returns:
      The cases, in the order of the file.

    Raises:
      ValueError: The file has another format.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    if content.get("format") != FORMAT:
        raise ValueError(f"{path} has the format {content.get('format')!r}: expected {FORMAT}.")
    return tuple(_case(values) for values in content["cases"])


def _case(values: dict[str, Any]) -> Case:
    # "inf" is a text in JSON.
    numbers_of = {k: None if values[k] is None else float(values[k]) for k in _NUMBERS}
    return Case(**(values | numbers_of))


def dump(cases: Sequence[Case]) -> str:
    """Returns the content of a file of cases; an infinite number is the text "inf".

    Args:
      cases: The cases.
    """

    def plain(case: Case) -> dict[str, Any]:
        values = dataclasses.asdict(case)
        return {k: "inf" if v == math.inf else v for k, v in values.items()}

    content = {"format": FORMAT, "cases": [plain(case) for case in cases]}
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def judge(function: Callable[[dict[str, Any]], float], cases: Sequence[Case]) -> list[Verdict]:
    """Asks a function about each case.

    Args:
      function: From the inputs of a case to an epsilon; NotImplementedError is a refusal.
      cases: The cases.

    Returns:
      A verdict for each.

    Raises:
      TypeError: An answer is no number.
    """
    found = []
    for case in cases:
        try:
            answer: Any = function(dict(case.inputs))
        except NotImplementedError as error:
            found.append(Verdict(case=case, answer=None, note=str(error)))
            continue
        if isinstance(answer, bool) or not isinstance(answer, numbers.Real):
            raise TypeError(f"{case.name}: the function returned {answer!r}: expected a number.")
        found.append(Verdict(case=case, answer=float(answer), note=""))
    return found


def table(verdicts: Sequence[Verdict]) -> str:
    """Returns the verdicts as a table in Markdown.

    Args:
      verdicts: From `judge`.
    """
    lines = [
        "| case | wrong epsilon | at least | valid | answer | verdict |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for each in verdicts:
        case = each.case
        verdict = "WRONG" if each.is_wrong else "refused" if each.answer is None else "holds"
        cells = [
            shown(case.wrong), shown(case.lower_bound, math.floor), shown(case.valid, math.ceil),
            shown(each.answer, math.ceil),
        ]  # fmt: skip
        lines.append(f"| {case.name} | {' | '.join(cells)} | {verdict} |")
    return "\n".join(lines) + "\n"


def page(cases: Sequence[Case]) -> str:
    """Returns the cases as two tables in Markdown: how each comes about, and where it is known from.

    Args:
      cases: The cases.
    """
    lines = [
        "| case | how it comes about | wrong epsilon | at least | valid |",
        "|---|---|---:|---:|---:|",
    ]
    lines += [
        f"| `{case.name}` | {case.mistake} | {shown(case.wrong)} | "
        f"{shown(case.lower_bound, math.floor)} | {shown(case.valid, math.ceil)} |"
        for case in cases
    ]
    lines += ["", "| case | explained in | seen in |", "|---|---|---|"]
    lines += [f"| `{case.name}` | {case.source} | {case.seen} |" for case in cases]
    return "\n".join(lines) + "\n"


def shown(value: float | None, round_: Callable[[float], float] = round) -> str:
    """Returns an epsilon with three decimals.

    Args:
      value: The epsilon; None for a refusal.
      round_: How to round: `math.ceil` for an upper bound, `math.floor` for a lower one.
    """
    if value is None:
        return "refused"
    return "inf" if math.isinf(value) else f"{round_(value * 1000) / 1000:.3f}"
