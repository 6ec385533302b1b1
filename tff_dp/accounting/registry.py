"""Which accountants apply to which rounds; other packages add those of their own rounds."""

from __future__ import annotations

import functools
import inspect
import numbers
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from tff_dp.accounting.events import IndependentRound
from tff_dp.config import is_own
from tff_dp.errors import AccountingError, ArgumentError

Accountant = Callable[[Any, int, float], float]  # from a round, a number of rounds and a delta


def asked(
    name: str, ask: Accountant, one_round: IndependentRound, rounds: int, delta: float
) -> float:
    """Asks an accountant for an epsilon.

    Args:
      name: The name of the accountant, for the message.
      ask: The accountant.
      one_round: The round.
      rounds: The number of rounds; >= 1.
      delta: In (0, 1).

    Returns:
      Epsilon, in [0, inf].

    Raises:
      ArgumentError: The answer is not such a number. No other accountant may hide that.
      AccountingError: The accountant has no bound for the round.
    """
    epsilon: Any = ask(one_round, rounds, delta)
    is_number = isinstance(epsilon, numbers.Real) and not isinstance(epsilon, bool)
    if not is_number or not float(epsilon) >= 0:  # nor NaN
        raise ArgumentError(
            f"The accountant {name!r} of {type(one_round).__name__} returned {epsilon!r}: expected a "
            "number in [0, inf], an upper bound on epsilon, or an AccountingError with the reason why "
            "there is none. Correct the accountant."
        )
    return float(epsilon)


@functools.singledispatch
def own_accountants(one_round: IndependentRound) -> Mapping[str, Accountant]:
    """Returns the accountants of a round by its class; see `accountants_of`, which checks them.

    Args:
      one_round: The round.

    Returns:
      The accountants by name; none if none are registered.
    """
    del one_round
    return {}


def accountants_of(one_round: IndependentRound) -> Mapping[str, Accountant]:
    """Returns the accountants that apply to a round.

    Each accountant returns a valid upper bound on epsilon, or raises AccountingError with the
    reason if it has none. Accountants are only asked about positive noise and at least one round.

    Args:
      one_round: The round; its class selects the accountants.

    Returns:
      The accountants by name.

    Raises:
      AccountingError: No accountant is registered for rounds of this class.
    """
    found = own_accountants(one_round)
    if not found:
        raise AccountingError(
            f"{type(one_round).__name__} has no accountant: expected at least one. For a round of your "
            "own, tff_dp.accounting.register_accountants adds them."
        )
    return found


_F = TypeVar("_F", bound=Callable[..., Any])


def register_accountants(one_round: type[IndependentRound]) -> Callable[[_F], _F]:
    """Returns a decorator for the function that gives the accountants of a round of one's own.

    The function is called with a round of the class, and returns a mapping from names to
    accountants. An accountant is called with the round, a number of rounds (an int >= 1) and delta
    in (0, 1), and returns an upper bound on epsilon in [0, inf], or raises `AccountingError` with
    the reason why it has none. The smallest bound is the epsilon that is reported.

    Args:
      one_round: A class that derives from `IndependentRound`. Subclasses of it have the same
        accountants, unless they register their own.

    Returns:
      The decorator, which returns the function unchanged.

    Raises:
      ArgumentError: The class does not derive from `IndependentRound`, is part of tff_dp, or has
        accountants already.
    """
    by = "tff_dp.accounting.register_accountants"
    if not inspect.isclass(one_round) or not issubclass(one_round, IndependentRound):
        raise ArgumentError(
            f"{by}: {one_round!r} is outside its bound: expected a class that derives from "
            "IndependentRound."
        )
    if is_own(one_round):
        raise ArgumentError(
            f"{by}: {one_round.__name__} is a class of tff_dp, whose accountants cannot be changed. "
            "Derive a class of your own from IndependentRound."
        )

    def register(function: _F) -> _F:
        if one_round in own_accountants.registry:
            raise ArgumentError(
                f"{by}: {one_round.__qualname__} has accountants already, and they cannot be replaced: "
                "plans may depend on them. Add them once, where the class is defined."
            )
        own_accountants.register(one_round, function)
        return function

    return register
