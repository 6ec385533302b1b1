"""Checks parts of a plan whose classes are not tff_dp's: they have to be values that can be stored."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from tff_dp import _checks
from tff_dp.config import Config, is_own
from tff_dp.errors import ArgumentError
from tff_dp.sampling import Adjacency, Sampler

_REMEDY = (
    "Plans are compared, hashed and stored in ledgers by the fields of their parts: numbers, strings, "
    "booleans, None, tuples of these, and other such dataclasses."
)


def check_part(name: str, value: Config) -> None:
    """Checks that a part of a plan is a value: that it cannot change, and is stored as what it is.

    A part that is stored as something else would be unknown to the ledger that holds its rounds, and
    a part that changes would make a plan report the epsilon of what it was before.

    Args:
      name: The name of the plan's argument, for messages.
      value: The part: a mechanism or a sampler.

    Raises:
      ArgumentError: Its class is no frozen dataclass, or a field is not hashable or differs once it
        has been stored and read.
    """
    kind = type(value)
    if not is_own(kind):
        params = getattr(kind, "__dataclass_params__", None)
        if params is None or not params.frozen or not params.eq:
            raise ArgumentError(
                f"{name}={value!r} can change: expected class {kind.__qualname__} to be a frozen "
                "dataclass, by @dataclasses.dataclass(frozen=True, kw_only=True), whose state is its "
                f"fields. {_REMEDY}"
            )
    try:
        hash(value)
    except TypeError as error:  # a field of a user's class
        raise ArgumentError(f"{name}={value!r} cannot be looked up: {error}. {_REMEDY}") from None
    if not is_own(kind):
        _check_stored(name, value)


def _check_stored(name: str, value: Config) -> None:
    kind = type(value)
    for field in dataclasses.fields(value):  # type: ignore[arg-type]
        if not field.init or field.name == "type":
            why = "is named type" if field.name == "type" else "has init=False"
            raise ArgumentError(
                f"{name}={value!r} cannot be stored: its field {field.name!r} {why}, and could not be "
                f"read back. Make it a property, or give it another name. {_REMEDY}"
            )
    try:
        stored = json.loads(json.dumps(value.to_dict(), allow_nan=False))
        restored: Any = kind.from_dict({k: v for k, v in stored.items() if k != "type"})
    except (TypeError, ValueError) as error:  # ArgumentError is a ValueError
        raise ArgumentError(
            f"{name}={value!r} cannot be stored and read back: {str(error).rstrip('.')}. {_REMEDY}"
        ) from None
    differing = [
        field.name
        for field in dataclasses.fields(value)  # type: ignore[arg-type]
        if getattr(restored, field.name, None) != getattr(value, field.name)
    ]
    if differing or restored != value:
        field_name = differing[0] if differing else "?"
        raise ArgumentError(
            f"{name}={value!r} is not what it is once stored and read back: its field {field_name!r} "
            f"becomes {getattr(restored, field_name, restored)!r}. Convert it in __post_init__, or "
            f"declare it as a plain value. {_REMEDY}"
        )


def check_sampler(sampler: Sampler, population: int) -> None:
    """Checks what a user's sampler says of itself.

    Args:
      sampler: The sampler.
      population: N, the number of clients.

    Raises:
      ArgumentError: It names no adjacencies, or the expected size of its cohorts, which is the
        denominator of every average, is no number in (0, N].
    """
    if is_own(type(sampler)):
        return
    adjacencies = getattr(sampler, "adjacencies", None)
    if (
        not isinstance(adjacencies, tuple)
        or not adjacencies
        or not all(isinstance(each, Adjacency) for each in adjacencies)
    ):
        raise ArgumentError(
            f"sampler={sampler!r} has adjacencies={adjacencies!r}: expected a tuple of at least one "
            "tff_dp.Adjacency, those for which its wrap holds."
        )
    sampler.check(population)
    _checks.real(
        "sampler.expected_clients",
        sampler.expected_clients(population),
        f"(0, {population}]",
        "It is the public denominator of every average.",
    )
