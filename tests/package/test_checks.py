"""The validators: what is inside passes, what is outside names itself, its value and its bound."""

from __future__ import annotations

import decimal
import fractions
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tff_dp import _checks
from tff_dp.errors import ArgumentError, TffDpError

# No deadline and no random choice of examples: the outcome depends on nothing but the code.
examples = settings(max_examples=200, deadline=None, derandomize=True)

_ENDS = st.integers(-1000, 1000)
_BRACKETS = st.sampled_from(["()", "(]", "[)", "[]"])


def _interval(low: float, high: float, brackets: str) -> str:
    return f"{brackets[0]}{low!r}, {high!r}{brackets[1]}"


def _contains(low: float, high: float, brackets: str, value: float) -> bool:
    """The definition of an interval, spelt out case by case."""
    if value == low:
        return brackets[0] == "[" and (low < high or brackets[1] == "]")
    if value == high:
        return brackets[1] == "]" and low < high
    return low < value < high


def _refuses(check, name: str, value: object, interval: str) -> bool:
    """Whether a check refuses a value; a refusal must name all there is to know."""
    try:
        check(name, value, interval, "Take another one.")
    except ArgumentError as error:
        message = str(error)
    else:
        return False
    for part in (name, repr(value), interval, "Take another one."):
        assert part in message
    return True


@examples
@given(
    low=st.floats(-1e6, 1e6),
    width=st.floats(0, 1e6),
    brackets=_BRACKETS,
    value=st.floats(-3e6, 3e6),
    place=st.sampled_from(["free", "low", "high", "below", "above", "inside"]),
)
def test_real_accepts_exactly_the_interval(low, width, brackets, value, place):
    high = low + width
    value = {
        "free": value,
        "low": low,
        "high": high,
        "below": math.nextafter(low, -math.inf),
        "above": math.nextafter(high, math.inf),
        "inside": low + width / 2,
    }[place]
    interval = _interval(low, high, brackets)
    assert _refuses(_checks.real, "rate", value, interval) is not _contains(
        low, high, brackets, value
    )


@examples
@given(low=_ENDS, width=st.integers(0, 50), brackets=_BRACKETS, offset=st.integers(-3, 53))
def test_integer_accepts_exactly_the_interval(low, width, brackets, offset):
    high, value = low + width, low + offset
    interval = _interval(low, high, brackets)
    assert _refuses(_checks.integer, "rounds", value, interval) is not _contains(
        low, high, brackets, value
    )


@pytest.mark.parametrize("interval", ["(-inf, inf)", "[-inf, inf]", "[0, inf)", "[0, inf]"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float64("nan"), 10**400])
def test_no_interval_lets_in_what_is_not_finite(interval, value):
    assert _refuses(_checks.real, "delta", value, interval)


@pytest.mark.parametrize(
    "value", [True, False, np.True_, None, "1", b"1", [1], (1,), {}, 1j, decimal.Decimal(1)]
)
@pytest.mark.parametrize("check", [_checks.real, _checks.integer])
def test_what_is_no_number_is_refused(check, value):
    assert _refuses(check, "size", value, "[0, inf)")


@pytest.mark.parametrize("value", [1.0, 2.5, np.float64(1), fractions.Fraction(1, 2)])
def test_a_float_is_no_whole_number(value):
    assert _refuses(_checks.integer, "size", value, "[0, inf)")


@pytest.mark.parametrize(
    ("value", "expected"), [(1, 1.0), (np.float32(0.5), 0.5), (fractions.Fraction(1, 4), 0.25)]
)
def test_real_returns_a_plain_float(value, expected):
    result = _checks.real("rate", value, "(0, 1]")
    assert type(result) is float
    assert result == expected


@pytest.mark.parametrize("value", [7, np.int64(7), np.uint8(7)])
def test_integer_returns_a_plain_int(value):
    result = _checks.integer("size", value, "[7, 7]")
    assert type(result) is int
    assert result == 7


def test_whole_numbers_beyond_the_floats_keep_their_last_digit():
    bound = f"[0, {2**128})"
    assert _checks.integer("seed", 2**128 - 1, bound) == 2**128 - 1
    assert _refuses(_checks.integer, "seed", 2**128, bound)


@examples
@given(
    choices=st.lists(st.one_of(st.integers(), st.text(max_size=5)), max_size=6),
    value=st.one_of(st.integers(), st.text(max_size=5)),
)
def test_one_of_lists_the_choices(choices, value):
    if value in choices:
        assert _checks.one_of("unit", value, choices) == value
        return
    with pytest.raises(ArgumentError) as caught:
        _checks.one_of("unit", value, iter(choices), "Take one of these.")
    for part in ("unit", repr(value), "Take one of these.", *map(repr, choices)):
        assert part in str(caught.value)


def test_instance_accepts_subclasses_and_returns_the_value():
    value = [1]
    assert _checks.instance("clients", value, list) is value
    assert _checks.instance("clients", value, (dict, list)) is value
    assert _checks.instance("flag", True, int) is True


@pytest.mark.parametrize(
    ("kind", "expected"), [(dict, "dict"), ((dict, str), "dict or str"), ((int,), "int")]
)
def test_instance_names_the_types(kind, expected):
    with pytest.raises(ArgumentError) as caught:
        _checks.instance("clients", [1, 2], kind, "Pass another.")
    for part in ("clients=[1, 2]", f"an instance of {expected}.", "Pass another."):
        assert part in str(caught.value)


def test_a_refusal_can_be_caught_as_a_value_error_and_as_the_projects_own():
    with pytest.raises(ValueError, match=r"rate=2 is outside its bound"):
        _checks.real("rate", 2, "(0, 1]")
    with pytest.raises(TffDpError):
        _checks.real("rate", 2, "(0, 1]")
