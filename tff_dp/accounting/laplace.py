"""Epsilon for rounds of the Laplace mechanism."""

from __future__ import annotations

import math
from collections.abc import Mapping

import dp_accounting

from tff_dp.accounting import loss_bounds
from tff_dp.accounting.accountants import (
    of_one_round,
    pairs_of,
    rdp_epsilon,
)
from tff_dp.accounting.events import IndependentRound
from tff_dp.accounting.pairs import Pair, laplace_pairs
from tff_dp.accounting.registry import Accountant, own_accountants
from tff_dp.errors import AccountingError
from tff_dp.sampling import Adjacency, FullParticipation, PoissonSampler, Sampler

# The grid of a distribution has 10^4 points for each unit of epsilon of a round, and the losses of
# a round are bounded by its pure epsilon. Above this limit, composing them would take minutes.
_LARGEST_PLD_EPSILON = 100.0


class LaplaceRound(IndependentRound):
    """One round of the Laplace mechanism under a sampler; the arguments are those of `Round`.

    The noise multiplier is the scale of the noise over the L1 clip norm. Updates are vectors; an L1
    shift in a single coordinate dominates all other shifts. This is also the premise of
    dp-accounting's `LaplaceDpEvent`, and docs/privacy.md has a proof.
    """

    @classmethod
    def adjacencies(cls, sampler: Sampler) -> tuple[Adjacency, ...]:
        """Returns the relations under which the sampler's amplification of Laplace noise is proven."""
        if isinstance(sampler, FullParticipation):
            return tuple(Adjacency)
        if isinstance(sampler, PoissonSampler):
            return (Adjacency.ADD_OR_REMOVE_ONE, Adjacency.ZERO_OUT)
        return ()

    def _mechanism_event(self, noise_multiplier: float) -> dp_accounting.DpEvent:
        return dp_accounting.LaplaceDpEvent(noise_multiplier)

    def _remedy(self) -> str:
        return "Use PoissonSampler or FullParticipation, and add-or-remove-one."


@own_accountants.register
def _(one_round: LaplaceRound) -> Mapping[str, Accountant]:
    del one_round
    return {"pure": pure_epsilon, "rdp": rdp_epsilon, "pld": pld_epsilon}


def pure_epsilon(one_round: LaplaceRound, rounds: int, delta: float) -> float:
    """Returns the pure epsilon, which holds at delta 0 and therefore at every delta.

    Source: Dwork et al. (TCC 2006), proposition 1; amplification by Poisson sampling: Balle, Barthe and
    Gaboardi, arXiv:1807.01647, theorem 8.

    Args:
      one_round: The round.
      rounds: T >= 0.
      delta: Not used; it is there because all accountants have the same arguments.

    Returns:
      T times the pure epsilon of one round.
    """
    del delta
    epsilon = _of_everybody(one_round)
    if isinstance(one_round.sampler, PoissonSampler):
        epsilon = _amplified(epsilon, one_round.sampler.rate)
    return rounds * epsilon


def _of_everybody(one_round: LaplaceRound) -> float:
    """Returns the pure epsilon of a round in which every client participates."""
    sensitivity = 2 if one_round.adjacency is Adjacency.REPLACE_ONE else 1
    return sensitivity / one_round.noise_multiplier


def _amplified(epsilon: float, rate: float) -> float:
    """Returns log(1 + rate (e^epsilon - 1)), even if e^epsilon overflows."""
    if epsilon < 1:
        return math.log1p(rate * math.expm1(epsilon))
    return epsilon + math.log(rate + (1 - rate) * math.exp(-epsilon))


def pld_epsilon(one_round: LaplaceRound, rounds: int, delta: float) -> float:
    """Returns epsilon of Laplace noise by privacy loss distributions.

    Source: Koskela et al., arXiv:1906.03049; Doroshenko et al., arXiv:2207.04380.

    Args:
      one_round: The round.
      rounds: T >= 1.
      delta: In (0, 1).

    Returns:
      An upper bound on epsilon.

    Raises:
      AccountingError: The grid of the distribution would be too large.
    """
    largest = pure_epsilon(one_round, 1, delta)
    if largest > _LARGEST_PLD_EPSILON:
        raise AccountingError(
            f"not computed: the pure epsilon of one round, {largest:.4g}, is above "
            f"{_LARGEST_PLD_EPSILON:g}, where the grid of a privacy loss distribution is too large. "
            "Take more noise"
        )
    return loss_bounds.bounds(pairs_of(one_round), rounds, delta).upper


@pairs_of.register
def _(one_round: LaplaceRound) -> tuple[Pair, ...]:
    # A shift by twice the clip norm is equivalent to a shift by one clip norm at half the noise,
    # which is what the scaled event describes.
    event = one_round.scaled_event()
    is_sampled = isinstance(event, dp_accounting.PoissonSampledDpEvent)
    return laplace_pairs(
        (event.event if is_sampled else event).noise_multiplier,
        event.sampling_probability if is_sampled else 1.0,
    )


@of_one_round.register
def _(one_round: LaplaceRound, delta: float) -> float:
    del delta
    return _of_everybody(one_round)
