"""What accountants report, and how it is shown."""

from __future__ import annotations

import dataclasses
import decimal
import math
from collections.abc import Mapping
from typing import Any, NoReturn, TypeVar

from tff_dp.sampling import Adjacency

_T = TypeVar("_T")


class ReadOnlyDict(dict[str, _T]):
    """A dictionary that does not change. Unlike a `mappingproxy`, it can be copied and pickled."""

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("a report does not change: make a dict of this to have one that does")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self),)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EpsilonReport:
    """What some rounds have spent.

    Attributes:
      epsilon: The reported value: the smallest of the valid upper bounds in `values`.
      accountant: The accountant it comes from.
      values: Every valid upper bound by accountant: "rdp", "pld", "exact".
      refused: The accountants that do not apply, each with the reason.
      delta: The delta of every epsilon here.
      rounds: The number of rounds.
      adjacency: The neighbouring relation.
      lower_bound: What the rounds that are accounted for spend at least at this delta, whoever
        computes it, for the worst data sets; None where no such bound is known. Where rounds are
        counted as more than they are (rounds that share noise, clients that may not have taken part),
        it is that of the rounds as they are counted.
      arithmetic_epsilon: What of each epsilon here is charged for computed noise; see
        `tff_dp.accounting.Arithmetic`.
      arithmetic_delta: What of delta is charged for it.
    """

    epsilon: float
    accountant: str
    values: Mapping[str, float]
    refused: Mapping[str, str]
    delta: float
    rounds: int
    adjacency: Adjacency
    lower_bound: float | None = None
    arithmetic_epsilon: float = 0.0
    arithmetic_delta: float = 0.0

    def __post_init__(self) -> None:
        # Accountants compute with NumPy, whose numbers are shown and written as such.
        for name in ("epsilon", "delta", "lower_bound", "arithmetic_epsilon", "arithmetic_delta"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else float(value))
        object.__setattr__(self, "rounds", int(self.rounds))
        values = ReadOnlyDict({name: float(value) for name, value in self.values.items()})
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "refused", ReadOnlyDict(self.refused))

    def __str__(self) -> str:
        others = ", ".join(f"{k} {format_epsilon(v)}" for k, v in self.values.items())
        least = "" if self.lower_bound is None else f"at least {format_lower(self.lower_bound)}; "
        return (
            f"epsilon {format_epsilon(self.epsilon)} at delta {self.delta:g} after {self.rounds} rounds "
            f"({least}{self.adjacency.value}; {others})"
        )


def format_epsilon(epsilon: float, digits: int = 3) -> str:
    """Returns epsilon for people, rounded up: a displayed bound never understates."""
    return _format(epsilon, digits, decimal.ROUND_CEILING)


def format_lower(epsilon: float, digits: int = 3) -> str:
    """Returns a lower bound of epsilon for people, rounded down."""
    return _format(epsilon, digits, decimal.ROUND_FLOOR)


def _format(epsilon: float, digits: int, rounding: str) -> str:
    if math.isinf(epsilon):
        return "inf"
    # In decimal: the binary product of epsilon and 10**digits may be below or above the exact one.
    exact, step = decimal.Decimal(repr(float(epsilon))), decimal.Decimal(10) ** -digits
    return f"{exact.quantize(step, rounding, decimal.Context(prec=400)):f}"


def smallest_of(
    values: Mapping[str, float],
    refused: Mapping[str, str],
    delta: float,
    rounds: int,
    adjacency: Adjacency,
) -> EpsilonReport:
    """Returns the report of some upper bounds, of which the smallest one is stated.

    Args:
      values: The bounds, by accountant; at least one.
      refused: The reasons of accountants that have none.
      delta: Of all of them.
      rounds: That are accounted for.
      adjacency: The neighboring relation.
    """
    accountant = min(values, key=lambda name: values[name])
    return EpsilonReport(
        epsilon=values[accountant],
        accountant=accountant,
        values=values,
        refused=refused,
        delta=delta,
        rounds=rounds,
        adjacency=adjacency,
    )


def without_guarantee(report: EpsilonReport, draws: int) -> EpsilonReport:
    """Returns a report whose delta cannot pay the charge for arithmetic: of an infinite epsilon.

    Args:
      report: The ideal mechanism's, at the delta to be stated.
      draws: Of noise, in all rounds.
    """
    reason = (
        f"delta={report.delta!r} cannot pay for what computed noise may differ from the ideal one: at an "
        f"epsilon as large as here, {draws:.3g} draws would take more than half of it. Take more noise, "
        "a larger delta, or a smaller max_dimension"
    )
    return dataclasses.replace(
        report,
        epsilon=math.inf,
        accountant="arithmetic",
        values={"arithmetic": math.inf},
        refused={"arithmetic": reason},
        lower_bound=None,
    )
