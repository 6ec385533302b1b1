"""Validators that name the argument, its value and its bound in one message."""

from __future__ import annotations

import enum
import math
import numbers
from collections.abc import Iterable
from typing import Any, TypeVar

from tff_dp.errors import ArgumentError

_T = TypeVar("_T")
_E = TypeVar("_E", bound=enum.Enum)


def _parse(interval: str) -> tuple[float, bool, float, bool]:
    low, high = interval[1:-1].split(",")
    return float(low), interval[0] == "(", float(high), interval[-1] == ")"


def _inside(value: float, interval: str) -> bool:
    low, low_open, high, high_open = _parse(interval)
    above = value > low if low_open else value >= low
    below = value < high if high_open else value <= high
    return above and below


def _message(name: str, value: object, bound: str, remedy: str) -> str:
    return f"{name}={value!r} is outside its bound: expected {bound}. {remedy}".rstrip()


def real(name: str, value: Any, interval: str, remedy: str = "") -> float:
    """Checks that a number is finite and inside an interval.

    Args:
      name: Name of the argument, as the caller wrote it.
      value: The value to check. Booleans are not numbers here.
      interval: The bound in the notation of intervals, such as `"(0, 1]"` or `"[0, inf)"`. What is
        checked is what the message says.
      remedy: One sentence on what to do about it.

    Returns:
      The value as a float.

    Raises:
      ArgumentError: The value is no real number, or outside the interval.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ArgumentError(_message(name, value, f"a number in {interval}", remedy))
    try:
        as_float = float(value)
    except OverflowError:  # a whole number beyond the floats
        as_float = math.inf
    if not math.isfinite(as_float) or not _inside(as_float, interval):
        raise ArgumentError(_message(name, value, f"a number in {interval}", remedy))
    return as_float


def integer(name: str, value: Any, interval: str, remedy: str = "") -> int:
    """Checks that a value is a whole number inside an interval; arguments as `real`.

    Returns:
      The value as an int.

    Raises:
      ArgumentError: The value is no whole number, or outside the interval.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise ArgumentError(_message(name, value, f"a whole number in {interval}", remedy))
    if not _inside(int(value), interval):
        raise ArgumentError(_message(name, value, f"a whole number in {interval}", remedy))
    return int(value)


def flag(name: str, value: Any, remedy: str = "") -> bool:
    """Checks that a value is True or False.

    A truth value of NumPy, as comparisons of arrays give it, is one. Anything else is refused, whatever
    it would count as in an `if`: "no" and 1 would count as true.

    Returns:
      The value as a bool.

    Raises:
      ArgumentError: It is something else.
    """
    if not _is_truth_value(value):
        raise ArgumentError(_message(name, value, "True or False", remedy))
    return bool(value)


def optional_flag(name: str, value: Any, remedy: str = "") -> bool | None:
    """Checks that a value is True, False or None; as `flag`."""
    if value is not None and not _is_truth_value(value):
        raise ArgumentError(_message(name, value, "True, False or None", remedy))
    return None if value is None else bool(value)


def _is_truth_value(value: object) -> bool:
    if isinstance(value, bool):
        return True
    import numpy as np  # not needed by the commonest answer

    return isinstance(value, np.bool_)


def one_of(name: str, value: _T, choices: Iterable[_T], remedy: str = "") -> _T:
    """Checks that a value is among `choices`.

    Returns:
      The value.

    Raises:
      ArgumentError: It is not; the message lists the choices.
    """
    choices = list(choices)
    if value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        raise ArgumentError(_message(name, value, f"one of {listed}", remedy))
    return value


def member(name: str, value: object, kind: type[_E]) -> _E:
    """Checks that a value is a member of an enumeration, or the value of one.

    Returns:
      The member.

    Raises:
      ArgumentError: It is neither; the message lists the values.
    """
    try:
        return kind(value)
    except ValueError:
        choices = ", ".join(repr(each.value) for each in kind)
        raise ArgumentError(_message(name, value, f"one of {choices}", "")) from None


def instance(name: str, value: Any, kind: type[_T] | tuple[type[_T], ...], remedy: str = "") -> _T:
    """Checks that a value is of a type, or of one of several.

    Returns:
      The value.

    Raises:
      ArgumentError: It is of another type.
    """
    if not isinstance(value, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        expected = " or ".join(k.__name__ for k in kinds)
        raise ArgumentError(_message(name, value, f"an instance of {expected}", remedy))
    return value


def brief(value: Any, most: int = 6) -> str:
    """Returns a value for a message: of a long list or tuple the first entries, and how many it has."""
    if not isinstance(value, list | tuple) or len(value) <= most:
        return repr(value)
    opening, closing = "[]" if isinstance(value, list) else "()"
    first = ", ".join(map(repr, value[: most // 2]))
    return f"{opening}{first}, ...{closing} ({len(value)} in all)"
