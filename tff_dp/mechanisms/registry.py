"""What users' mechanisms need to train and to be tested: nothing here imports TensorFlow.

A mechanism's accounting is added by `tff_dp.accounting.register_round`. Its aggregator and the law of its
self-test are functions that are called once they are needed, so that they may import TensorFlow while
the module that defines them stays free of it.
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
# Of a law, or of a function that returns one: what tff_dp itself has is there without a call.
LAWS: Registry[Any] = Registry(Mechanism, "self-test", "tff_dp.mechanisms.register_law")


def register_aggregator(mechanism: type[Mechanism]) -> Callable[[_F], _F]:
    """Returns a decorator for the function that builds the aggregator of a mechanism.

    The function is called with the mechanism, m (the public expected number of clients a round, a
    positive float: the denominator) and T (the most rounds there will be, an int >= 1). It returns a
    `tff.aggregators.UnweightedAggregationFactory` that releases the noised mean. All randomness of the
    noise has to come from `tff_dp.noise`: the charge for computed noise holds for nothing else, and the
    self-test checks it. `tff_dp.aggregation.independent_noise` makes such a factory.

    Args:
      mechanism: A frozen dataclass that derives from `Mechanism`. Its subclasses get no aggregator.

    Returns:
      The decorator, which returns the function as it is.

    Raises:
      ArgumentError: The class is no such dataclass, is one of tff_dp, or has an aggregator already.
    """
    return _decorator(AGGREGATORS, mechanism)


def register_law(mechanism: type[Mechanism]) -> Callable[[_F], _F]:
    """Returns a decorator for the function that gives the law of a mechanism's self-test.

    The function takes no arguments and returns a `tff_dp.selftest.Law`: what the accounting of the
    mechanism takes for granted of sensitivity and noise, stated independently of the aggregator.

    Args:
      mechanism: A frozen dataclass that derives from `Mechanism`. Its subclasses get no law.

    Returns:
      The decorator, which returns the function as it is.

    Raises:
      ArgumentError: The class is no such dataclass, is one of tff_dp, or has a law already.
    """
    return _decorator(LAWS, mechanism)


def _decorator(registry: Registry[Any], mechanism: type[Mechanism]) -> Callable[[_F], _F]:
    registry.check(mechanism)  # before the function is defined

    def register(function: _F) -> _F:
        _checks.instance("function", function, Callable)  # type: ignore[arg-type]
        registry.add(mechanism, function)
        return function

    return register
