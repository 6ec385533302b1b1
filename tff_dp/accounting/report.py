"""The report of an accountant, and how it is displayed."""

from __future__ import annotations

import dataclasses
import decimal
import math
from collections.abc import Mapping
from typing import Any, NoReturn, TypeVar

from tff_dp import _html
from tff_dp.sampling import Adjacency

_T = TypeVar("_T")


class ReadOnlyDict(dict[str, _T]):
    """An immutable dictionary. Unlike a `mappingproxy`, it can be copied and pickled."""

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("a report cannot be changed: change a copy, made by dict(...)")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self),)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EpsilonReport:
    """The privacy that some rounds have spent.

    Attributes:
      epsilon: The reported value, which is the smallest of the valid upper bounds in `values`.
      accountant: The name of the accountant that gave it.
      values: Every valid upper bound on epsilon, by accountant, such as "rdp", "pld" and "exact".
      refused: The accountants that do not apply, each with the reason.
      delta: The delta of every epsilon in this report.
      rounds: The number of rounds.
      adjacency: The neighboring relation.
      lower_bound: A lower bound on the epsilon that the rounds spend at this delta for the worst
        pair of neighboring data sets, which holds for every accountant; None if none is known. If
        rounds are counted as more than they are (rounds that share noise, clients that may not have
        participated), it is the bound for the rounds as they are counted.
      arithmetic_epsilon: The part of each epsilon in this report that is charged for computed
        noise; see `tff_dp.accounting.Arithmetic`.
      arithmetic_delta: The part of delta that is charged for computed noise.
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
        # Accountants compute with NumPy. Plain Python numbers have the usual `repr`, and JSON knows
        # them.
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

    def _repr_html_(self) -> str:
        least = "not known" if self.lower_bound is None else format_lower(self.lower_bound)
        rows = [
            ("epsilon", f"{format_epsilon(self.epsilon)} at delta {self.delta:g}"),
            ("rounds", f"{self.rounds:,}"),
            ("neighboring data sets", self.adjacency.value),
            ("smallest epsilon, at least", least),
            *((f"by {name}", format_epsilon(value)) for name, value in self.values.items()),
            *((f"not by {name}", reason) for name, reason in self.refused.items()),
        ]
        return _html.pairs("Privacy spent", rows)


def format_epsilon(epsilon: float, digits: int = 3) -> str:
    """Returns epsilon as text, rounded up, so that a displayed upper bound is never too small.

    Args:
      epsilon: Epsilon >= 0, or infinity.
      digits: The number of decimal places.

    Returns:
      The text; "inf" for infinity.
    """
    return _format(epsilon, digits, decimal.ROUND_CEILING)


def format_lower(epsilon: float, digits: int = 3) -> str:
    """Returns a lower bound on epsilon as text, rounded down.

    Args:
      epsilon: The lower bound; >= 0, or infinity.
      digits: The number of decimal places.

    Returns:
      The text; "inf" for infinity.
    """
    return _format(epsilon, digits, decimal.ROUND_FLOOR)


def _format(epsilon: float, digits: int, rounding: str) -> str:
    if math.isinf(epsilon):
        return "inf"
    # Rounded in decimal, since the binary product of epsilon and 10**digits may be off either way.
    exact, step = decimal.Decimal(repr(float(epsilon))), decimal.Decimal(10) ** -digits
    return f"{exact.quantize(step, rounding, decimal.Context(prec=400)):f}"


def smallest_of(
    values: Mapping[str, float],
    refused: Mapping[str, str],
    delta: float,
    rounds: int,
    adjacency: Adjacency,
) -> EpsilonReport:
    """Makes a report of some upper bounds, which states the smallest one.

    Args:
      values: The upper bounds on epsilon, by accountant; at least one.
      refused: The accountants that do not apply, each with the reason.
      delta: The delta of all bounds.
      rounds: The number of rounds that are accounted for.
      adjacency: The neighboring relation.

    Returns:
      The report.
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
    """Makes the report for a delta that cannot pay the charge for arithmetic.

    Args:
      report: The report of the ideal mechanism, at the delta to be stated.
      draws: The number of noise draws in all rounds.

    Returns:
      A report with an infinite epsilon, whose `refused` has the reason.
    """
    reason = (
        f"delta={report.delta!r} cannot pay for the difference between computed and ideal noise: at so "
        f"large an epsilon, {draws:.3g} draws would take more than half of it. Take more noise, a larger "
        "delta, or a smaller max_dimension"
    )
    return dataclasses.replace(
        report,
        epsilon=math.inf,
        accountant="arithmetic",
        values={"arithmetic": math.inf},
        refused={"arithmetic": reason},
        lower_bound=None,
    )
