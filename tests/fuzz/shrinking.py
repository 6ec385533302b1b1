"""The smallest case with a fault."""

from __future__ import annotations

import dataclasses
import time

from tests.fuzz import kinds
from tests.fuzz.cases import Case
from tests.fuzz.examining import Examiner, Fault

_SECONDS = 90.0  # a case; what has been found by then is what is shown


def shrunk(case: Case, fault: Fault, examiner: Examiner) -> tuple[Case, Fault]:
    """Returns the smallest case found that has a fault of the same kind, and that fault.

    Args:
      case: A case with the fault.
      fault: One of its faults.
      examiner: What runs cases.
    """
    deadline = time.monotonic() + _SECONDS
    case = dataclasses.replace(case, settings=(fault.asked,))
    seen = {case.dumps()}
    progress = True
    while progress:
        progress = False
        for smaller in kinds.smaller(case):
            if time.monotonic() > deadline:
                return case, fault
            text = smaller.dumps()
            if text in seen:
                continue
            seen.add(text)
            found = [each for each in examiner.faults(smaller) if each.kind == fault.kind]
            if found:
                case, fault, progress = smaller, found[0], True
                break
    return case, fault
