"""The kinds of cases: how each is drawn, rendered and made smaller."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from tests.fuzz import aggregators, arguments, federated, learning, running, sequences
from tests.fuzz.cases import Case, chosen


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of cases.

    Attributes:
      source: From a case to its program.
      smaller: From a case to smaller ones.
    """

    source: Callable[[Case], str]
    smaller: Callable[[Case], list[Case]]


_FEDERATED = Kind(federated.source, federated.smaller)
KINDS: dict[str, Kind] = {
    "clients": _FEDERATED,
    "server": _FEDERATED,
    "local": _FEDERATED,
    "learning": Kind(learning.source, learning.smaller),
    "aggregator": Kind(aggregators.source, aggregators.smaller),
    "sequence": Kind(sequences.source, sequences.smaller),
    "arguments": Kind(arguments.source, arguments.smaller),
}
# What is drawn, by how often. Learning takes ten times as long as the others.
DRAWS: dict[str, tuple[Callable[[np.random.Generator], Case | None], float]] = {
    "clients": (federated.draw_clients, 5.0),
    "risky": (federated.draw_risky, 2.5),
    "server": (federated.draw_server, 1.5),
    "local": (federated.draw_local, 1.5),
    "learning": (learning.draw, 1.5),
    "aggregator": (aggregators.draw, 2.0),
    "sequence": (sequences.draw, 2.0),
    "arguments": (arguments.draw, 1.0),
}


def draw(seed: int, number: int, only: tuple[str, ...] = ()) -> Case:
    """Returns the case of a number in a run of a seed.

    Args:
      seed: Of the run.
      number: Of the case.
      only: Keys of the draws to choose from; all by default.
    """
    rng = np.random.default_rng([seed, number])
    weights = {name: weight for name, (_, weight) in DRAWS.items() if not only or name in only}
    with running.quiet():
        while True:
            case = DRAWS[chosen(rng, weights)][0](rng)
            if case is not None:
                return case


def source(case: Case) -> str:
    """Returns the program of a case."""
    return KINDS[case.kind].source(case)


def smaller(case: Case) -> list[Case]:
    """Returns cases that are smaller than a case, the smallest first."""
    return [each for each in KINDS[case.kind].smaller(case) if each.dumps() != case.dumps()]
