"""Epsilon by Rényi DP, by privacy loss distributions, and by an exact formula where there is one."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence

import absl.logging
import dp_accounting
import numpy as np
from dp_accounting import pld, rdp

from tff_dp import _checks
from tff_dp._compat.dp_accounting import rdp_curve
from tff_dp.accounting import loss_bounds
from tff_dp.accounting.arithmetic import Arithmetic, charged
from tff_dp.accounting.events import GaussianRound, IndependentRound, Round
from tff_dp.accounting.pairs import Pair, gaussian_pairs
from tff_dp.accounting.registry import Accountant, accountants_of, asked, own_accountants
from tff_dp.accounting.report import EpsilonReport, smallest_of, without_guarantee
from tff_dp.errors import AccountingError
from tff_dp.sampling import Adjacency, FullParticipation

# A privacy loss distribution lives on a grid, so that its cost grows with epsilon: at an RDP
# epsilon of 10^6 (noise multiplier .01) it does not end. Above this limit no epsilon is meaningful,
# and the bound by RDP is reported.
_LARGEST_PLD_EPSILON = 100.0
_EXACT_ERROR = 1e-10  # relative and absolute error of the roots of the exact curve
# Some of dp-accounting's orders, without the fractional ones, which take ten times as long.
_WHOLE_ORDERS = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 128, 256, 512)


def spend(
    one_round: Round,
    rounds: int | Sequence[range],
    delta: float,
    arithmetic: Arithmetic | None = None,
) -> EpsilonReport:
    """Returns the epsilon of a number of adaptively composed rounds.

    Args:
      one_round: The round.
      rounds: T >= 0, the number of rounds of one run; or the rounds of each of several runs,
        counted from 1.
      delta: The delta of the guarantee, in (0, 1).
      arithmetic: How many draws of noise a round makes, to charge for the difference between
        computed and ideal noise; None for the ideal mechanism.

    Returns:
      The report, with the bound of every accountant that applies. Epsilon is 0 for T = 0. It is
      infinite without noise, and if the charge for arithmetic would take more than half of delta;
      `refused` then says so.

    Raises:
      ArgumentError: A value is outside its bound.
      AccountingError: No accountant applies.
    """
    delta = _checks.real("delta", delta, "(0, 1)")
    return _report(one_round, _runs(rounds), delta, arithmetic)


@functools.lru_cache(maxsize=1024)
def _report(
    one_round: Round, runs: tuple[range, ...], delta: float, arithmetic: Arithmetic | None
) -> EpsilonReport:
    """See `spend`."""
    independent, count = one_round.equivalent(runs)
    total = sum(len(run) for run in runs)

    def ask(ideal_delta: float) -> EpsilonReport:
        return _spend(independent, count, ideal_delta)

    if arithmetic is None or count == 0 or independent.noise_multiplier == 0:
        report = ask(delta)
        lower = _lower_bound(report, independent, count, delta)
        return dataclasses.replace(
            report, rounds=total, adjacency=one_round.adjacency, lower_bound=lower
        )
    answer = charged(
        ask,
        lambda found: found.epsilon,
        lambda: of_one_round(independent, arithmetic.delta_of_one_round(count, delta)),
        total,
        delta,
        arithmetic,
    )
    if answer is None:
        report = dataclasses.replace(ask(delta), rounds=total, adjacency=one_round.adjacency)
        return without_guarantee(report, total * arithmetic.draws_per_round)
    report, charge = answer
    lower = _lower_bound(report, independent, count, charge.delta_above)
    return dataclasses.replace(
        report,
        epsilon=report.epsilon + 2 * charge.gamma,
        values={k: v + 2 * charge.gamma for k, v in report.values.items()},
        delta=delta,
        rounds=total,
        adjacency=one_round.adjacency,
        lower_bound=None if lower is None else max(0.0, lower - 2 * charge.gamma),
        arithmetic_epsilon=2 * charge.gamma,
        arithmetic_delta=delta - charge.delta,
    )


def quick_epsilon(
    one_round: Round,
    rounds: int | Sequence[range],
    delta: float,
    arithmetic: Arithmetic | None = None,
) -> float:
    """Returns a cheap upper bound on `spend(...).epsilon`.

    Args:
      one_round: As for `spend`.
      rounds: As for `spend`.
      delta: As for `spend`.
      arithmetic: As for `spend`.

    Returns:
      Epsilon >= 0; infinite without noise.

    Raises:
      AccountingError: No cheap bound is known under this sampler and adjacency.
    """
    runs = _runs(rounds)
    independent, count = one_round.quick_equivalent(runs)
    if count == 0 or independent.noise_multiplier == 0:
        return math.inf if count else 0.0
    accountants = accountants_of(independent)
    for name in ("rdp", "exact"):  # the exact formula takes ten times as long
        if name in accountants:
            ask = functools.partial(asked, name, accountants[name])
            return _with_charge(ask, independent, count, runs, delta, arithmetic)
    raise AccountingError(f"no quick accountant applies to {type(independent).__name__}")


def rough_epsilon(
    one_round: Round,
    rounds: int | Sequence[range],
    delta: float,
    arithmetic: Arithmetic | None = None,
) -> float:
    """Returns an upper bound on `quick_epsilon` that is often ten times cheaper.

    Args:
      one_round: As for `spend`.
      rounds: As for `spend`.
      delta: As for `spend`.
      arithmetic: As for `spend`.

    Returns:
      Epsilon >= 0; infinite without noise.

    Raises:
      AccountingError: No cheap bound is known under this sampler and adjacency.
    """
    runs = _runs(rounds)
    independent, count = one_round.equivalent(runs)
    accountants = accountants_of(independent)
    is_by_orders = "exact" not in accountants and accountants.get("rdp") == rdp_epsilon
    if is_by_orders:
        by_orders = functools.partial(rdp_epsilon, orders=_WHOLE_ORDERS)
        return _with_charge(by_orders, independent, count, runs, delta, arithmetic)
    return quick_epsilon(one_round, rounds, delta, arithmetic)


def leading_epsilon(
    one_round: Round,
    rounds: int | Sequence[range],
    delta: float,
    arithmetic: Arithmetic | None = None,
) -> float:
    """Returns an upper bound on `spend(...).epsilon` that is nearly always equal to it.

    If a privacy loss distribution applies, no other accountant is asked.

    Args:
      one_round: As for `spend`.
      rounds: As for `spend`.
      delta: As for `spend`.
      arithmetic: As for `spend`.

    Returns:
      Epsilon >= 0; infinite without noise.

    Raises:
      AccountingError: No accountant applies.
    """
    runs = _runs(rounds)
    independent, count = one_round.equivalent(runs)
    accountants = accountants_of(independent)
    if count and independent.noise_multiplier and "pld" in accountants:
        ask = functools.partial(asked, "pld", accountants["pld"])
        with contextlib.suppress(AccountingError):
            return _with_charge(ask, independent, count, runs, delta, arithmetic)
    return spend(one_round, rounds, delta, arithmetic).epsilon


def _with_charge(
    ask: Accountant,
    independent: IndependentRound,
    count: int,
    runs: tuple[range, ...],
    delta: float,
    arithmetic: Arithmetic | None,
) -> float:
    """Returns an accountant's epsilon including the charge for arithmetic."""
    if arithmetic is None or count == 0 or independent.noise_multiplier == 0:
        return ask(independent, count, delta)
    total = sum(len(run) for run in runs)
    answer = charged(
        lambda ideal: ask(independent, count, ideal),
        float,
        lambda: of_one_round(independent, arithmetic.delta_of_one_round(count, delta)),
        total,
        delta,
        arithmetic,
    )
    return math.inf if answer is None else answer[0] + 2 * answer[1].gamma


def clear_caches() -> None:
    """Forgets all cached results, for benchmarks and for tests that replace an accountant."""
    for cached in (_report, _spend, _rdp_curve):
        cached.cache_clear()
    loss_bounds.clear_caches()


def _runs(rounds: int | Sequence[range]) -> tuple[range, ...]:
    if isinstance(rounds, Sequence) and all(isinstance(run, range) for run in rounds):
        return tuple(rounds)
    return (range(1, _checks.integer("rounds", rounds, "[0, inf)") + 1),)


@functools.lru_cache(maxsize=1024)
def _spend(one_round: IndependentRound, rounds: int, delta: float) -> EpsilonReport:
    values: dict[str, float] = {}
    refused: dict[str, str] = {}
    if rounds == 0 or one_round.noise_multiplier == 0:
        values["exact"] = 0.0 if rounds == 0 else math.inf
    else:
        for name, ask in accountants_of(one_round).items():
            try:
                values[name] = asked(name, ask, one_round, rounds, delta)
            except AccountingError as error:
                refused[name] = str(error)
    if not values:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
        raise AccountingError(
            f"No accountant applies to {one_round.sampler} under {one_round.adjacency.value}: {reasons}"
        )
    return smallest_of(values, refused, delta, rounds, one_round.adjacency)


@own_accountants.register
def _(one_round: GaussianRound) -> Mapping[str, Accountant]:
    if isinstance(one_round.sampler, FullParticipation):
        return {"rdp": rdp_epsilon, "exact": exact_epsilon, "pld": _no_need_of_pld}
    return {"rdp": rdp_epsilon, "pld": pld_epsilon}


def _no_need_of_pld(one_round: GaussianRound, rounds: int, delta: float) -> float:
    raise AccountingError("the exact Gaussian curve applies, which a PLD approximates from above")


@functools.lru_cache(maxsize=256)
def _rdp_curve(
    one_round: IndependentRound, orders: tuple[float, ...] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    accountant = rdp.RdpAccountant(orders, one_round.adjacency.relation)
    # If a fractional order does not converge, dp-accounting leaves it out and logs a warning, for
    # each order and call. A bound from fewer orders is looser and still valid, so that the user
    # need not know.
    verbosity = absl.logging.get_verbosity()
    absl.logging.set_verbosity(absl.logging.ERROR)
    try:
        accountant.compose(one_round.scaled_event())
    except dp_accounting.UnsupportedEventError as error:
        raise AccountingError(_reason(error)) from None
    finally:
        absl.logging.set_verbosity(verbosity)
    return rdp_curve(accountant)  # one curve serves every number of rounds, since RDP is additive


def rdp_epsilon(
    one_round: IndependentRound,
    rounds: int,
    delta: float,
    orders: tuple[float, ...] | None = None,
) -> float:
    """Returns epsilon by Rényi DP, the method of tensorflow-privacy.

    Source: Mironov et al., arXiv:1908.10530 (Poisson sampling); Wang et al., arXiv:1808.00087
    (sampling without replacement); Canonne et al., arXiv:2004.00010, proposition 12 (conversion).

    Args:
      one_round: The round.
      rounds: T >= 0.
      delta: In (0, 1).
      orders: The Rényi orders, > 1; dp-accounting's by default. Each gives an upper bound.

    Returns:
      The smallest upper bound on epsilon over all orders.

    Raises:
      AccountingError: RDP has no bound for this sampler and adjacency.
    """
    if rounds == 0 or one_round.noise_multiplier == 0:
        return math.inf if rounds else 0.0
    at, curve = _rdp_curve(one_round, orders)
    return float(rdp.compute_epsilon(at, rounds * curve, delta)[0])


def pld_epsilon(one_round: IndependentRound, rounds: int, delta: float) -> float:
    """Returns epsilon by privacy loss distributions.

    The discretization is pessimistic, so that the value is an upper bound. It is the tightest bound
    known for Poisson sampling: `tff_dp.accounting.loss_bounds.bounds` says how tight.

    Source: Koskela et al., arXiv:1906.03049; Doroshenko et al., arXiv:2207.04380.

    Args:
      one_round: The round.
      rounds: T >= 1.
      delta: In (0, 1).

    Returns:
      An upper bound on epsilon.

    Raises:
      AccountingError: PLD has no bound for this event, or its grid would be too large.
    """
    size = _size_of_grid(one_round, rounds, delta)
    if size > _LARGEST_PLD_EPSILON:
        raise AccountingError(
            f"not computed: RDP epsilon {size:.4g} under add-or-remove-one is above "
            f"{_LARGEST_PLD_EPSILON:g}, where the grid of a privacy loss distribution is too large. "
            "Take more noise, fewer rounds or a lower sampling rate"
        )
    return loss_bounds.bounds(pairs_of(one_round), rounds, delta).upper


def _size_of_grid(one_round: IndependentRound, rounds: int, delta: float) -> float:
    """Returns an epsilon that tells how large the grid of the distribution would be."""
    if one_round.adjacency is Adjacency.REPLACE_ONE:
        if Adjacency.ADD_OR_REMOVE_ONE not in one_round.sampler.adjacencies:
            return 0.0
        # RDP has no bound under replace-one; the one under add-or-remove-one has the same
        # magnitude.
        one_round = dataclasses.replace(one_round, adjacency=Adjacency.ADD_OR_REMOVE_ONE)
    rough = rdp_epsilon(one_round, rounds, delta, _WHOLE_ORDERS)
    return rough if rough <= _LARGEST_PLD_EPSILON else rdp_epsilon(one_round, rounds, delta)


@functools.singledispatch
def pairs_of(one_round: IndependentRound) -> tuple[Pair, ...]:
    """Returns the dominating pairs of output distributions of a round.

    Args:
      one_round: The round; its class selects the implementation.

    Returns:
      The pairs; the one with the larger epsilon counts.

    Raises:
      AccountingError: No dominating pairs are known.
    """
    raise AccountingError(f"no worst pair is known of {type(one_round).__name__}")


@pairs_of.register
def _(one_round: GaussianRound) -> tuple[Pair, ...]:
    event, relation = one_round.event(), one_round.adjacency.relation
    accountant = pld.PLDAccountant(relation)
    if not accountant.supports(event):
        try:
            accountant.compose(event)
        except dp_accounting.UnsupportedEventError as error:
            raise AccountingError(_reason(error)) from None
    is_sampled = isinstance(event, dp_accounting.PoissonSampledDpEvent)
    inner = event.event if is_sampled else event
    if not isinstance(inner, dp_accounting.GaussianDpEvent):  # a sampler of somebody's own
        raise AccountingError(
            f"no worst pair is known of {type(inner).__name__}, which {one_round.sampler} makes of a "
            "Gaussian"
        )
    return gaussian_pairs(
        inner.noise_multiplier, event.sampling_probability if is_sampled else 1.0, relation
    )


def _lower_bound(
    report: EpsilonReport, one_round: IndependentRound, rounds: int, delta: float
) -> float | None:
    """Returns a lower bound on epsilon at a delta, which may be above the report's; or None."""
    if math.isinf(report.epsilon) or rounds == 0:
        return report.epsilon
    if delta >= 1:
        return 0.0
    if "exact" in report.values and isinstance(one_round, GaussianRound):
        again = report.epsilon if delta == report.delta else exact_epsilon(one_round, rounds, delta)
        return max(0.0, again * (1 - _EXACT_ERROR) - _EXACT_ERROR)
    if "pld" not in report.values:
        return None
    found = loss_bounds.lower_bound(pairs_of(one_round), rounds, report.delta, delta)
    return min(found, report.epsilon)


@functools.singledispatch
def of_one_round(one_round: IndependentRound, delta: float) -> float:
    """Returns the epsilon of a single round in which the client participates with certainty.

    Args:
      one_round: The round; its class selects the implementation.
      delta: In (0, 1).

    Returns:
      An upper bound on epsilon; infinity if none is known.
    """
    del delta
    del one_round
    return math.inf


@of_one_round.register
def _(one_round: GaussianRound, delta: float) -> float:
    return exact_epsilon(dataclasses.replace(one_round, sampler=FullParticipation()), 1, delta)


def exact_epsilon(one_round: GaussianRound, rounds: int, delta: float) -> float:
    """Returns the exact epsilon of T Gaussian rounds in which every client participates.

    T rounds at noise multiplier z are equivalent to one round at z / sqrt(T).

    Source: Balle and Wang, "Improving the Gaussian Mechanism for Differential Privacy",
    arXiv:1805.06530, theorem 8.

    Args:
      one_round: The round.
      rounds: T >= 1.
      delta: In (0, 1).

    Returns:
      Epsilon, increased by the error of the numerical root.

    Raises:
      AccountingError: The sampler is not full participation.
    """
    if not isinstance(one_round.sampler, FullParticipation):
        raise AccountingError(f"no exact formula under {one_round.sampler}")
    event = one_round.scaled_event()
    sigma = event.noise_multiplier / math.sqrt(rounds)
    with np.errstate(divide="ignore"):  # NumPy warns at a sigma of thousands, where epsilon is 0
        found = float(dp_accounting.get_epsilon_gaussian(sigma, delta))
    # The error of dp-accounting's search for the root is added, so that this is an upper bound.
    return found and found * (1 + _EXACT_ERROR / 2) + _EXACT_ERROR / 2


def _reason(error: Exception) -> str:
    return str(error).split("Error: ")[-1]
