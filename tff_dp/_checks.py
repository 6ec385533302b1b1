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
      interval: The bound in interval notation, such as `"(0, 1]"` or `"[0, inf)"`. The check reads
        it, so that the message states exactly what is checked.
      remedy: One sentence that says how to correct the value.

    Returns:
      The value as a float.

    Raises:
      ArgumentError: The value is not a real number, or is outside the interval.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ArgumentError(_message(name, value, f"a number in {interval}", remedy))
    try:
        as_float = float(value)
    except OverflowError:  # an integer above the largest float
        as_float = math.inf
    if not math.isfinite(as_float) or not _inside(as_float, interval):
        raise ArgumentError(_message(name, value, f"a number in {interval}", remedy))
    return as_float


def integer(name: str, value: Any, interval: str, remedy: str = "") -> int:
    """Checks that a value is a whole number inside an interval.

    Args:
      name: Name of the argument, as the caller wrote it.
      value: The value to check. Booleans are not numbers here.
      interval: The bound in interval notation, as for `real`.
      remedy: One sentence that says how to correct the value.

    Returns:
      The value as an int.

    Raises:
      ArgumentError: The value is not a whole number, or is outside the interval.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise ArgumentError(_message(name, value, f"a whole number in {interval}", remedy))
    if not _inside(int(value), interval):
        raise ArgumentError(_message(name, value, f"a whole number in {interval}", remedy))
    return int(value)


def flag(name: str, value: Any, remedy: str = "") -> bool:
    """Checks that a value is True or False.

    NumPy's truth values, which comparisons of arrays give, are accepted. Anything else is refused,
    whatever its truth value in an `if` statement would be: "no" and 1 would count as true there.

    Args:
      name: Name of the argument, as the caller wrote it.
      value: The value to check.
      remedy: One sentence that says how to correct the value.

    Returns:
      The value as a bool.

    Raises:
      ArgumentError: The value is neither True nor False.
    """
    if not _is_truth_value(value):
        raise ArgumentError(_message(name, value, "True or False", remedy))
    return bool(value)


def optional_flag(name: str, value: Any, remedy: str = "") -> bool | None:
    """Checks that a value is True, False or None.

    Args:
      name: Name of the argument, as the caller wrote it.
      value: The value to check, under the rules of `flag`.
      remedy: One sentence that says how to correct the value.

    Returns:
      The value as a bool, or None.

    Raises:
      ArgumentError: The value is something else.
    """
    if value is not None and not _is_truth_value(value):
        raise ArgumentError(_message(name, value, "True, False or None", remedy))
    return None if value is None else bool(value)


def _is_truth_value(value: object) -> bool:
    if isinstance(value, bool):
        return True
    import numpy as np  # imported only when the value is not a plain bool

    return isinstance(value, np.bool_)


def one_of(name: str, value: _T, choices: Iterable[_T], remedy: str = "") -> _T:
    """Checks that a value is one of several choices.

    Args:
      name: Name of the argument, as the caller wrote it.
      value: The value to check.
      choices: The valid values.
      remedy: One sentence that says how to correct the value.

    Returns:
      The value.

    Raises:
      ArgumentError: The value is none of them; the message lists the choices.
    """
    choices = list(choices)
    if value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        raise ArgumentError(_message(name, value, f"one of {listed}", remedy))
    return value


def member(name: str, value: object, kind: type[_E]) -> _E:
    """Checks that a value is a member of an enumeration, or the value of a member.

    Args:
      name: Name of the argument, as the caller wrote it.
      value: The value to check.
      kind: The enumeration.

    Returns:
      The member.

    Raises:
      ArgumentError: The value is neither; the message lists the members' values.
    """
    try:
        return kind(value)
    except ValueError:
        choices = ", ".join(repr(each.value) for each in kind)
        raise ArgumentError(_message(name, value, f"one of {choices}", "")) from None


def instance(name: str, value: Any, kind: type[_T] | tuple[type[_T], ...], remedy: str = "") -> _T:
    """Checks that a value is an instance of a type, or of one of several types.

    Args:
      name: Name of the argument, as the caller wrote it.
      value: The value to check.
      kind: The type, or a tuple of types.
      remedy: One sentence that says how to correct the value.

    Returns:
      The value.

    Raises:
      ArgumentError: The value is of another type.
    """
    if not isinstance(value, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        expected = " or ".join(k.__name__ for k in kinds)
        raise ArgumentError(_message(name, value, f"an instance of {expected}", remedy))
    return value


def brief(value: Any, most: int = 6) -> str:
    """Returns a short text for a value, to be put into a message.

    Args:
      value: Any value.
      most: The most entries of a list or tuple that are written out; >= 2. Of a longer one the text
        has the first `most // 2` entries and the number of all.

    Returns:
      The value's `repr`, shortened if it is a long list or tuple.
    """
    if not isinstance(value, list | tuple) or len(value) <= most:
        return repr(value)
    opening, closing = "[]" if isinstance(value, list) else "()"
    first = ", ".join(map(repr, value[: most // 2]))
    return f"{opening}{first}, ...{closing} ({len(value)} in all)"
