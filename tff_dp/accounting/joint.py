"""Epsilon of several kinds of rounds on the same clients, for example of several plans."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import dp_accounting
import numpy as np
from dp_accounting import rdp

from tff_dp import _checks
from tff_dp._compat.dp_accounting import (
    AdjacencyType,
    GaussianPrivacyLoss,
    default_orders,
    directions_of,
    from_laplace_mechanism,
)
from tff_dp.accounting import accountants
from tff_dp.accounting.accountants import spend
from tff_dp.accounting.arithmetic import Arithmetic, charged
from tff_dp.accounting.distributed import _ORDERS as _DISTRIBUTED_ORDERS
from tff_dp.accounting.distributed import DistributedRound
from tff_dp.accounting.events import GaussianRound, IndependentRound, Round
from tff_dp.accounting.joint_losses import JointComposition
from tff_dp.accounting.laplace import LaplaceRound, pure_epsilon
from tff_dp.accounting.privacy_loss import gaussian_distribution
from tff_dp.accounting.report import EpsilonReport, smallest_of, without_guarantee
from tff_dp.errors import AccountingError, ArgumentError
from tff_dp.sampling import FullParticipation, PoissonSampler

_T = TypeVar("_T")
Rounds: TypeAlias = int | Sequence[range]
_Component: TypeAlias = tuple[IndependentRound, int]

_INTERVAL = 1e-4  # the step of the grid of privacy losses
_LARGEST_DISTRIBUTION = 2**22  # grid points of the losses of one round


def spend_jointly(
    parts: Sequence[tuple[Round, Rounds]],
    delta: float,
    *,
    arithmetic: Sequence[Arithmetic | None] = (),
    interval: float = _INTERVAL,
) -> EpsilonReport:
    """Returns the epsilon of rounds of several kinds, adaptively composed on the same clients.

    Each kind of round is reduced to independent rounds, as in `spend`, and rounds of one kind are
    counted together. A single kind gives the report of `spend`. Several kinds are composed by every
    method that applies. Each method gives an upper bound, and the smallest bound is reported:

    - "exact": for Gaussian noise with full participation. Noise multipliers z_i over T_i rounds are
      one Gaussian mechanism with 1 / z^2 = sum T_i / z_i^2.
    - "rdp": the sum of the Rényi divergences at each order.
    - "pure": the sum of the pure epsilons, for Laplace noise.
    - "pld": the sum of the privacy losses, as distributions on one grid. The losses from removing a
      client and those from adding a client are composed separately, and the larger epsilon counts.
    - "sum": if none of these applies to all parts, the parts with a Rényi divergence and the other
      parts are composed separately, each at half of delta, and the two epsilons are added.

    Formal guarantees: a mechanism may be chosen depending on earlier outputs, and rounds of
    different parts may alternate, including rounds of a run that shares noise across rounds. Each
    part must be valid by itself, and the cohorts of different runs must be drawn independently.

    Source: Zhu, Dong and Wang, arXiv:2106.08567, theorem 10 (dominating pairs compose adaptively);
    Mironov, arXiv:1702.07476, proposition 1 (Rényi DP); Dong, Roth and Su, arXiv:1905.02383,
    corollary 3.3 (Gaussians); Dwork and Roth, "The Algorithmic Foundations of Differential
    Privacy", theorem 3.16 (the sum); Vadhan and Zhang, arXiv:2207.08335 (rounds of several
    mechanisms that alternate).

    Args:
      parts: Pairs of a kind of round and its rounds: the number of rounds of one run, or the rounds
        of each of several runs, counted from 1. All kinds must have one neighboring relation.
      delta: The delta of all parts together, in (0, 1).
      arithmetic: For each part, how many draws of noise a round makes, to charge for the difference
        between computed and ideal noise; None for an ideal mechanism. By default all parts are
        ideal. The charge is that for the draws of all parts together.
      interval: The step of the grid of privacy losses on which several kinds are composed; in (0,
        1].

    Returns:
      The report. Its number of rounds is the sum over all parts.

    Raises:
      ArgumentError: A value is outside its bound, or there is no part.
      AccountingError: The parts have different neighboring relations, or no accountant applies.
    """
    delta = _checks.real("delta", delta, "(0, 1)")
    interval = _checks.real("interval", interval, "(0, 1]")
    merged, draws = _merged(parts), _draws(parts, arithmetic)
    kinds = _kinds(parts, arithmetic)
    if len(merged) == 1 and len(kinds) <= 1:
        return spend(*merged[0], delta, *kinds)
    first, total = merged[0][0], sum(len(run) for _, runs in merged for run in runs)
    components = _components([one_round.equivalent(runs) for one_round, runs in merged])

    def ask(ideal_delta: float) -> EpsilonReport:
        if len(components) <= 1:
            return spend(*(components or [(first, 0)])[0], ideal_delta)
        return _spend(components, ideal_delta, interval)

    answer = _charged(ask, lambda found: found.epsilon, components, draws, delta)
    if answer is None:
        report = dataclasses.replace(ask(delta), rounds=total, adjacency=first.adjacency)
        return without_guarantee(report, draws)
    report, gamma = answer
    largest = max((each for each in kinds if each), key=lambda k: k.draws_per_round, default=None)
    lower = [spend(each, runs, delta, largest).lower_bound for each, runs in merged]
    if not draws and len(components) <= 1:
        lower.append(report.lower_bound)
    return dataclasses.replace(
        report,
        epsilon=report.epsilon + 2 * gamma,
        values={k: v + 2 * gamma for k, v in report.values.items()},
        lower_bound=max((each for each in lower if each is not None), default=None),
        arithmetic_epsilon=2 * gamma,
        arithmetic_delta=delta - report.delta,
        delta=delta,
        rounds=total,
        adjacency=first.adjacency,
    )


def quick_joint_epsilon(
    parts: Sequence[tuple[Round, Rounds]],
    delta: float,
    *,
    arithmetic: Sequence[Arithmetic | None] = (),
) -> float:
    """Returns a cheap upper bound on `spend_jointly(...).epsilon`.

    Args:
      parts: As for `spend_jointly`.
      delta: As for `spend_jointly`.
      arithmetic: As for `spend_jointly`.

    Returns:
      Epsilon >= 0; infinite without noise.

    Raises:
      AccountingError: No cheap bound is known for these parts.
    """
    merged, draws = _merged(parts), _draws(parts, arithmetic)
    kinds = _kinds(parts, arithmetic)
    if len(merged) == 1 and len(kinds) <= 1:
        return accountants.quick_epsilon(*merged[0], delta, *kinds)
    components = _components([one_round.quick_equivalent(runs) for one_round, runs in merged])
    if not components:
        return 0.0
    if any(one_round.noise_multiplier == 0 for one_round, _ in components):
        return math.inf

    def ask(ideal_delta: float) -> float:
        if len(components) == 1:
            return accountants.quick_epsilon(*components[0], ideal_delta)
        return _rdp_epsilon(components, ideal_delta)

    answer = _charged(ask, float, components, draws, delta)
    return math.inf if answer is None else answer[0] + 2 * answer[1]


def _draws(parts: Sequence[tuple[Round, Rounds]], arithmetic: Sequence[Arithmetic | None]) -> int:
    """Returns the number of noise draws of all parts together."""
    if arithmetic and len(arithmetic) != len(parts):
        raise ArgumentError(
            f"arithmetic={arithmetic!r} does not fit the {len(parts)} parts: expected one entry for "
            "each part."
        )
    return sum(
        each.draws_per_round * sum(map(len, accountants._runs(rounds)))
        for (_, rounds), each in zip(parts, arithmetic, strict=False)
        if each is not None
    )


def _kinds(
    parts: Sequence[tuple[Round, Rounds]], arithmetic: Sequence[Arithmetic | None]
) -> list[Arithmetic | None]:
    """Returns the distinct `Arithmetic` values of the parts that have rounds."""
    pairs = zip(parts, arithmetic, strict=False)
    found = (each for (_, rounds), each in pairs if any(map(len, accountants._runs(rounds))))
    return list(dict.fromkeys(found))


def _charged(
    ask: Callable[[float], _T],
    epsilon_of: Callable[[_T], float],
    components: Sequence[_Component],
    draws: int,
    delta: float,
) -> tuple[_T, float] | None:
    """Asks about the ideal mechanisms at a delta that leaves room for the charge for arithmetic.

    The bounds of `Arithmetic` concern the sum over all draws, whatever round or part they belong
    to, and single rounds, of which the round that reveals most counts.

    Args:
      ask: Returns an answer about the ideal mechanisms at a delta.
      epsilon_of: Returns the epsilon of an answer.
      components: The independent rounds, and the number of each.
      draws: The number of noise draws of all rounds.
      delta: The delta of the guarantee that is to be stated.

    Returns:
      The answer, and half of the amount to be added to its epsilon; None if the charge would take
      more than half of delta.
    """
    if not draws or not components or any(r.noise_multiplier == 0 for r, _ in components):
        return ask(delta), 0.0
    of_all = Arithmetic(draws_per_round=draws)

    def single() -> float:
        share = of_all.delta_of_one_round(sum(count for _, count in components), delta)
        return max(accountants.of_one_round(each, share) for each, _ in components)

    answer = charged(ask, epsilon_of, single, 1, delta, of_all)
    return answer and (answer[0], answer[1].gamma)


def _merged(parts: Sequence[tuple[Round, Rounds]]) -> list[tuple[Round, tuple[range, ...]]]:
    """Joins the runs of equal rounds, and leaves out parts without rounds unless all are without."""
    found: dict[Round, tuple[range, ...]] = {}
    for one_round, rounds in parts:
        _checks.instance("parts", one_round, Round, "Give pairs of a round and its rounds.")
        found[one_round] = (*found.get(one_round, ()), *accountants._runs(rounds))
    if not found:
        raise ArgumentError("parts=[] is empty: expected at least one kind of round.")
    relations = list(dict.fromkeys(one_round.adjacency.value for one_round in found))
    if len(relations) > 1:
        raise AccountingError(
            f"adjacency: the parts have {' and '.join(map(repr, relations))}, and no epsilon "
            "holds under both. Account for all of them under one neighboring relation."
        )
    return [(k, v) for k, v in found.items() if any(map(len, v))] or [next(iter(found.items()))]


def _components(found: Sequence[_Component]) -> tuple[_Component, ...]:
    """Counts equal independent rounds together, and joins plain Gaussians into one."""
    counts: dict[IndependentRound, int] = {}
    for one_round, count in found:
        if count:
            counts[one_round] = counts.get(one_round, 0) + count
    plain = [one_round for one_round in counts if _is_plain_gaussian(one_round)]
    if len(plain) > 1:
        z = _of_all([(one_round, counts.pop(one_round)) for one_round in plain])
        joint = dataclasses.replace(plain[0], noise_multiplier=z)
        counts[joint] = counts.get(joint, 0) + 1
    return tuple(counts.items())


def _is_plain_gaussian(one_round: IndependentRound) -> bool:
    return isinstance(one_round, GaussianRound) and isinstance(one_round.sampler, FullParticipation)


def _of_all(gaussians: Sequence[_Component]) -> float:
    """Returns the noise multiplier of the one Gaussian mechanism that is equivalent to several."""
    if any(one_round.noise_multiplier == 0 for one_round, _ in gaussians):
        return 0.0
    return 1 / math.sqrt(math.fsum(n / one_round.noise_multiplier**2 for one_round, n in gaussians))


@functools.lru_cache(maxsize=256)
def _spend(components: tuple[_Component, ...], delta: float, interval: float) -> EpsilonReport:
    values: dict[str, float] = {}
    refused: dict[str, str] = {}
    if any(one_round.noise_multiplier == 0 for one_round, _ in components):
        values["exact"] = math.inf
    else:
        for name, ask in _ACCOUNTANTS.items():
            try:
                values[name] = ask(components, delta, interval)
            except AccountingError as error:
                refused[name] = str(error)
        if not values:
            values["sum"] = _sum_of_halves(components, delta, interval, refused)
    rounds = sum(count for _, count in components)
    return smallest_of(values, refused, delta, rounds, components[0][0].adjacency)


def _sum_of_halves(
    components: tuple[_Component, ...],
    delta: float,
    interval: float,
    refused: Mapping[str, str],
) -> float:
    with_rdp, others = [], []
    for component in components:
        try:
            _curve(component[0], None)
            with_rdp.append(component)
        except AccountingError:
            others.append(component)
    if not with_rdp or not others:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
        raise AccountingError(f"No accountant applies to all parts together: {reasons}")
    return sum(spend_jointly(half, delta / 2, interval=interval).epsilon
               for half in (with_rdp, others))  # fmt: skip


def _rdp_epsilon(components: Sequence[_Component], delta: float, _: float = 0.0) -> float:
    distributed_alone = all(isinstance(each, DistributedRound) for each, _ in components)
    orders = tuple(_DISTRIBUTED_ORDERS) if distributed_alone else None
    curves = [_curve(one_round, orders) for one_round, _ in components]
    # dp-accounting leaves out orders that do not converge; only the orders of all curves are used.
    common = functools.reduce(np.intersect1d, (at for at, _ in curves))
    total = sum(
        count * curve[np.isin(at, common)]
        for (_, count), (at, curve) in zip(components, curves, strict=True)
    )
    return float(rdp.compute_epsilon(common, total, delta)[0])


@functools.lru_cache(maxsize=256)
def _curve(
    one_round: IndependentRound, orders: tuple[float, ...] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns orders, ascending, and the Rényi divergence of a round at each."""
    if isinstance(one_round, DistributedRound):
        at = np.asarray(orders, np.float64) if orders else default_orders()
        return at, one_round.rdp(at)
    at, curve = accountants._rdp_curve(one_round, orders)
    return np.asarray(at, np.float64), curve


def _pure_epsilon(components: Sequence[_Component], delta: float, _: float) -> float:
    if not all(isinstance(one_round, LaplaceRound) for one_round, _ in components):
        raise AccountingError("not all parts have Laplace noise")
    return sum(
        pure_epsilon(one_round, count, delta)
        for one_round, count in components
        if isinstance(one_round, LaplaceRound)
    )


def _pld_epsilon(components: Sequence[_Component], delta: float, interval: float) -> float:
    counts = [count for _, count in components]
    rounds = tuple(one_round for one_round, _ in components)
    return max(direction.epsilon(counts, delta) for direction in _directions(rounds, interval))


@functools.lru_cache(maxsize=8)
def _directions(
    rounds: tuple[IndependentRound, ...], interval: float
) -> tuple[JointComposition, ...]:
    distributions = [_distribution(one_round, interval) for one_round in rounds]
    pairs = [directions_of(each) for each in distributions]
    directions = [JointComposition([removal for removal, _ in pairs])]
    if any(addition is not None for _, addition in pairs):
        # Of a distribution whose directions are the same, the one serves for both.
        additions = [removal if addition is None else addition for removal, addition in pairs]
        directions.append(JointComposition(additions))
    return tuple(directions)


def _distribution(one_round: IndependentRound, interval: float) -> Any:
    """Returns the privacy loss distribution of one round.

    Raises:
      AccountingError: None is known, or its grid would be too large.
    """
    if not isinstance(one_round, GaussianRound | LaplaceRound):
        raise AccountingError(f"{type(one_round).__name__} has no privacy loss distribution")
    event = one_round.scaled_event() if isinstance(one_round, LaplaceRound) else one_round.event()
    sampled = isinstance(one_round.sampler, PoissonSampler)
    if not sampled and not isinstance(one_round.sampler, FullParticipation):
        raise AccountingError(f"no privacy loss distribution is known under {one_round.sampler}")
    z = (event.event if sampled else event).noise_multiplier
    rate = event.sampling_probability if sampled else 1.0
    if isinstance(one_round, LaplaceRound):
        _check_size(2 / z, interval)
        return from_laplace_mechanism(
            parameter=z, sampling_prob=rate, value_discretization_interval=interval
        )
    relation = one_round.adjacency.relation
    replaced = relation is dp_accounting.NeighboringRelation.REPLACE_ONE
    worst = AdjacencyType.REPLACE if replaced else AdjacencyType.REMOVE
    with contextlib.suppress(OverflowError):
        bounds = GaussianPrivacyLoss(
            z, sampling_prob=rate, adjacency_type=worst
        ).connect_dots_bounds()
        _check_size(bounds.epsilon_upper - bounds.epsilon_lower, interval)
        return gaussian_distribution(z, rate, relation, interval)
    raise AccountingError("not computed: the losses of one round are too large. Take more noise")


def _check_size(losses: float, interval: float) -> None:
    if not losses / interval <= _LARGEST_DISTRIBUTION:
        raise AccountingError(
            f"not computed: the losses of one round have a range of {losses:.4g}, above "
            f"{_LARGEST_DISTRIBUTION * interval:.4g}, where the grid of a privacy loss distribution "
            "is too large. Take more noise"
        )


def _exact_epsilon(components: Sequence[_Component], delta: float, _: float) -> float:
    # If all parts were plain Gaussians, they would be one component by now, and this is not called.
    del components, delta
    raise AccountingError("not all parts are Gaussian noise with full participation")


_ACCOUNTANTS = {
    "rdp": _rdp_epsilon,
    "exact": _exact_epsilon,
    "pure": _pure_epsilon,
    "pld": _pld_epsilon,
}

__all__ = ["quick_joint_epsilon", "spend_jointly"]
