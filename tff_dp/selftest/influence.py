"""Checks without noise of how much one client changes a round. All checks are deterministic."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from tff_dp.mechanisms import AdaptiveGaussianMechanism, Mechanism
from tff_dp.selftest.laws import Law, Parts
from tff_dp.selftest.probes import HONEST, HOSTILE, HOSTILE_DATA, MANY, Aggregator, Path
from tff_dp.selftest.report import Check

# Roundoff of float32 in norms and sums over thousands of coordinates, with a wide margin.
ROUNDING = 1e-4
_UNIT = "of what is allowed"
_SHARE_ROUNDING = 1e-7  # roundoff of float32 in the share of unclipped clients
_CLIP_ROUNDING = 2.5e-7  # relative roundoff of float32 in the clip norm that follows from the share


def influence_checks(
    paths: Sequence[Path], law: Law, mechanism: Mechanism, m: float
) -> Iterator[Check]:
    """Checks sensitivity, weights and denominator.

    Args:
      paths: The processes and the aggregator, without noise.
      law: The law of the mechanism.
      mechanism: The mechanism.
      m: The public expected number of clients in a round.

    Yields:
      The checks.
    """
    starts = {path: path.start() for path in paths}

    @functools.cache
    def total(path: Path, names: tuple[str, ...]) -> Parts:
        return [m * part for part in path.round(starts[path], names).mean]

    def apart(path: Path, one: tuple[str, ...], other: tuple[str, ...]) -> tuple[float, str]:
        difference = [a - b for a, b in zip(total(path, one), total(path, other), strict=True)]
        where = f"{path.name}, beside {len(other) or 'no'} clients"
        return law.size(mechanism, difference), where

    for hostile in (*HOSTILE, *HOSTILE_DATA):
        moves = (
            apart(path, (*base, hostile), base)
            for path in paths
            if hostile in path.clients
            for base in ((), HONEST)
        )
        yield _at_most(1 + ROUNDING, f"sensitivity: {hostile}", moves)
    many, once = (*HONEST, "twin with many examples"), (*HONEST, "twin")
    yield _at_most(
        ROUNDING,
        f"weights: {MANY} times the examples count once",
        (apart(path, many, once) for path in paths if many[-1] in path.clients),
    )
    yield _at_most(
        ROUNDING,
        "denominator: clients without an update change nothing",
        (apart(path, ("twin", "zero", "zero", "zero"), ("twin",)) for path in paths),
    )
    yield _at_most(
        ROUNDING,
        "denominator: a round without clients gives zero",
        ((law.size(mechanism, total(path, ())), path.name) for path in paths),
    )
    denominators = {
        path.name: m * _share(path.clients["twin"].update, total(path, ("twin",))) for path in paths
    }
    where = max(denominators, key=lambda name: _distance(denominators[name], m))
    yield Check(
        name="denominator: that of one client alone",
        measured=denominators[where],
        low=m * (1 - ROUNDING),
        high=m * (1 + ROUNDING),
        unit="clients",
        where=where,
    )


def count_influence_check(
    aggregator: Aggregator, law: Law, mechanism: AdaptiveGaussianMechanism, m: float
) -> Check:
    """Checks how much one client changes the count of unclipped clients.

    The count is derived from the clip norm, with the precision of float32. For large m, several
    clients are added at once, and their influence is divided by their number.

    Args:
      aggregator: The aggregator without noise.
      law: The law of the mechanism.
      mechanism: The mechanism.
      m: The public expected number of clients in a round.

    Returns:
      The check.
    """
    copies = math.ceil(m / 1000)
    slack = 2 * m * (_SHARE_ROUNDING + _CLIP_ROUNDING / mechanism.clip_learning_rate) / copies
    state = aggregator.start()
    before = law.clip(mechanism, aggregator.leaves(state))

    def count(names: tuple[str, ...]) -> float:
        after = law.clip(mechanism, aggregator.round(state, names).leaves)
        return count_of(mechanism, m, before, after)

    alone = count(())
    moves = (
        (abs(count((name,) * copies) - alone) / copies, f"a client of {kind}")
        for name, kind in (("zero", "norm 0"), ("norm 1e9", "norm 1e9"))
    )
    return _at_most(0.5 + slack, "sensitivity: the count of unclipped clients", moves, "clients")


def count_of(mechanism: AdaptiveGaussianMechanism, m: float, before: float, after: float) -> float:
    """Returns the sum of the clients' bits, -1/2 or 1/2, of a round.

    Args:
      mechanism: The mechanism.
      m: The public expected number of clients in a round.
      before: The clip norm before the round.
      after: The clip norm after the round.

    Returns:
      The sum that has changed the clip norm from `before` to `after`.
    """
    share = mechanism.target_quantile - math.log(after / before) / mechanism.clip_learning_rate
    return (share - 0.5) * m


def _at_most(
    high: float, name: str, found: Iterable[tuple[float, str]], unit: str = _UNIT
) -> Check:
    measured, where = max(found, key=lambda item: math.inf if math.isnan(item[0]) else item[0])
    return Check(name=name, measured=measured, low=-math.inf, high=high, unit=unit, where=where)


def _share(update: np.ndarray, total: Parts) -> float:
    """Returns the factor by which a sum has to be multiplied to contain an update once."""
    held = sum(float(np.vdot(np.float64(a), b)) for a, b in zip(update, total, strict=True))
    return float(np.sum(np.square(np.float64(update)))) / held if held else math.inf


def _distance(value: float, target: float) -> float:
    return abs(math.log(value / target)) if 0 < value < math.inf else math.inf
