"""Computes `cases.json` again: `python -m experiments.epsilon_cases.make`, about a minute."""

from __future__ import annotations

import math

from experiments.epsilon_cases import of_composition, of_sampling, of_sensitivity, ours, suite
from experiments.epsilon_cases.definition import Definition

CASES = (*of_sampling.CASES, *of_sensitivity.CASES, *of_composition.CASES)


def made(definition: Definition) -> suite.Case:
    """Returns a case with its numbers.

    Args:
      definition: The definition.
    """
    try:
        valid, refusal = ours.epsilon(definition.inputs), None
    except NotImplementedError as error:
        valid, refusal = None, str(error)
    return suite.Case(
        name=definition.name,
        question=definition.question,
        mistake=definition.mistake,
        proof=definition.proof,
        source=definition.source,
        seen=definition.seen,
        inputs=definition.inputs,
        wrong=_rounded(definition.wrong(), 9),
        # Down and up, so that both still hold.
        lower_bound=_floor(definition.lower_bound(), 6),
        valid=None if valid is None else -_floor(-valid, 6),
        refusal=refusal,
    )


def _rounded(value: float, digits: int) -> float:
    return value if math.isinf(value) else round(value, digits)


def _floor(value: float, digits: int) -> float:
    return value if math.isinf(value) else math.floor(value * 10**digits) / 10**digits


def main() -> None:
    """Writes the file."""
    cases = [made(definition) for definition in CASES]
    suite.FILE.write_text(suite.dump(cases), encoding="utf-8")
    print(f"{len(cases)} cases: {suite.FILE}")


if __name__ == "__main__":
    main()
