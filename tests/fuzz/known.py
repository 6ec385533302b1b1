"""Differences from stock TFF that are not faults, each with its reason."""

from __future__ import annotations

import dataclasses
import re


@dataclasses.dataclass(frozen=True)
class Known:
    """A difference that is not a fault.

    Attributes:
      program: A regular expression that is found in the programs that it concerns.
      told: A regular expression that is found in what differs.
      reason: Why it is none.
    """

    program: str
    told: str
    reason: str


DIFFERENCES: list[Known] = [
    Known(
        program=r"(?s)(nan|inf).*linalg\.(inv|solve|det)\(",
        told=r"not invertible|nan\), expected np\.float32\(0\.0\)",
        reason="of a matrix with NaN or infinities, TensorFlow 2.14 says that it is not invertible, or that its "
        "determinant is 0, and 2.21 says NaN (docs/execution.md)",
    ),
    Known(
        program=r"(?s)nan.*softmax\(",
        told=r"nan\), expected np\.float32\(0\.0\)",
        reason="a softmax over a row of which some numbers are not finite (docs/execution.md)",
    ),
    Known(
        # Predictions of 1 and more, whose crossentropy is that of the last float below 1.
        program=r'(?s)Dense\(1, activation="(?!sigmoid)\w+"\),\s*\]:.*(BinaryC|binary_c)rossentropy',
        told=r"client_work\.train\.loss: 1 of 1 values differ",
        reason="an optimizer of graphs adds the constants of 1 - p + 1e-7 first, or not (docs/execution.md)",
    ),
]


def reason(source: str, told: str) -> str | None:
    """Returns why a difference is not a fault, or None."""
    for each in DIFFERENCES:
        if re.search(each.program, source) and re.search(each.told, told):
            return each.reason
    return None
