"""Registries of aggregators and self-tests for users' mechanisms. Nothing here imports TensorFlow.

The accounting of a mechanism is registered with `tff_dp.accounting.register_round`. Its aggregator
and the law of its self-test are functions that are called when they are needed, so that they may
import TensorFlow while the module that defines them does not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from tff_dp import _checks
from tff_dp._registry import Registry
from tff_dp.mechanisms.base import Mechanism

_F = TypeVar("_F", bound=Callable[..., Any])

AGGREGATORS: Registry[Callable[[Any, float, int], Any]] = Registry(
    Mechanism, "aggregator", "tff_dp.mechanisms.register_aggregator"
)
# The entries are functions that return a law; those of tff_dp's own mechanisms are laws themselves.
LAWS: Registry[Any] = Registry(Mechanism, "self-test", "tff_dp.mechanisms.register_law")


def register_aggregator(mechanism: type[Mechanism]) -> Callable[[_F], _F]:
    """Returns a decorator for the function that builds the aggregator of a mechanism.

    The function is called with the mechanism, m (the public expected number of clients a round, a
    positive float: the denominator) and T (the largest number of rounds, an int >= 1). It returns a
    `tff.aggregators.UnweightedAggregationFactory` that releases the noised mean. All noise has to
    be drawn with `tff_dp.noise`: the charge for computed noise holds for no other samplers, and the
    self-test checks this. `tff_dp.aggregation.independent_noise` builds such a factory.

    Args:
      mechanism: A frozen dataclass that derives from `Mechanism`. Subclasses of it are not
        registered.

    Returns:
      The decorator, which returns the function unchanged.

    Raises:
      ArgumentError: The class is not such a dataclass, is part of tff_dp, or already has an
        aggregator.
    """
    return _decorator(AGGREGATORS, mechanism)


def register_law(mechanism: type[Mechanism]) -> Callable[[_F], _F]:
    """Returns a decorator for the function that gives the law of a mechanism's self-test.

    The function takes no arguments and returns a `tff_dp.selftest.Law`: the assumptions of the
    mechanism's accounting about sensitivity and noise, stated independently of the aggregator.

    Args:
      mechanism: A frozen dataclass that derives from `Mechanism`. Subclasses of it are not
        registered.

    Returns:
      The decorator, which returns the function unchanged.

    Raises:
      ArgumentError: The class is not such a dataclass, is part of tff_dp, or already has a law.
    """
    return _decorator(LAWS, mechanism)


def _decorator(registry: Registry[Any], mechanism: type[Mechanism]) -> Callable[[_F], _F]:
    registry.check(mechanism)  # before the function is defined

    def register(function: _F) -> _F:
        _checks.instance("function", function, Callable)  # type: ignore[arg-type]
        registry.add(mechanism, function)
        return function

    return register
