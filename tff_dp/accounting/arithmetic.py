"""The privacy cost of computed noise, whose law differs slightly from the ideal law."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from tff_dp import _checks

# Bounds that hold for each draw of noise. p' is the law of the integers that are drawn, and p is
# the law of the rounded Gaussian or Laplace variable that the accounting assumes.
RMS_LOG_RATIO = 2.0**-37  # tau: the root mean square of log(p'/p), under either law
LARGEST_LOG_RATIO = 2.0**-29  # M: the largest |log(p'/p)|, except on a rare event
RARE = 2.0**-100  # b: the largest probability of that event, under either law
_SHARE_OF_DELTA = 2.0**-20  # the share of delta that pays for large deviations
_LARGEST_GAMMA = 10.0
_LARGEST_SHARE = 0.5  # the largest share of delta that arithmetic may take in total
_USUAL_CEILING = 8.0  # a charge is first tried for epsilons up to this value

_T = TypeVar("_T")


class Charge(NamedTuple):
    """The part of a privacy budget that pays for arithmetic.

    Attributes:
      gamma: Half of the amount that is added to epsilon.
      delta: The delta at which the epsilon of the ideal mechanism is to be computed.
      delta_above: A delta at which the smallest epsilon of the ideal mechanism is at most the
        epsilon of the mechanism that runs, plus 2 gamma.
    """

    gamma: float
    delta: float
    delta_above: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """The number of noise draws in a plan's rounds, each from a law slightly different from the ideal.

    Let n be the number of draws of all rounds, and tau, M and b as above. The loss of one draw,
    x = log(p'/p), counted as 0 on the rare event, has a second moment of at most tau^2. Since
    E exp(-x) = 1 under p' except for that event, its mean is at most tau^2 / 2 + b, which is below
    tau^2. Rounds may choose their noise depending on earlier outputs; these bounds hold for each
    pair of draws given all earlier ones. (Gaussian draws come in pairs with one radius r. A cell of
    a pair has four boundaries, each wrong by 2^-50 r at a distance of 2^-10 standard deviations:
    2^-37.5 in root mean square, where two draws count as 2^-36.5.) By Bernstein's inequality for
    martingales (Freedman 1975), the sum over all draws exceeds

        gamma = n tau^2 + tau sqrt(2 n L) + 2/3 M L,     L = log(1 / delta'),

    with probability at most delta'. Hence, for each set S of outputs of all rounds together, P'(S)
    <= e^gamma P(S) + delta' + n b, and the same holds with P and P' exchanged. If the ideal
    mechanism is (epsilon, delta0)-private, applying this to both data sets gives for the mechanism
    that runs

        epsilon + 2 gamma  at  e^gamma delta0 + (delta' + n b) (1 + e^(epsilon + gamma)).

    Here delta' is chosen so that its term is 2^-20 of delta.

    If epsilon is so large that n b e^epsilon is not small, the rare event is treated round by
    round. Let B be the set of outputs for which, in some round, the noise without the client or the
    noise with the client would be rare. Outside of B the ratios above hold everywhere. By the
    guarantee of one round in which the client participates with certainty, (epsilon1, delta1), B
    has probability at most n b (1 + e^epsilon1) + T delta1 under P, and at most twice that under
    P'. The term n b (1 + e^(epsilon + gamma)) is then replaced by 2 n b (1 + e^epsilon1) + 2 T
    delta1, where T delta1 is chosen as 2^-22 of delta.

    Source: Freedman, "On Tail Probabilities for Martingales" (1975), theorem 1.6.

    Args:
      draws_per_round: The largest number of draws, in one round, for sums that contain one client
        (or record); >= 1.

    Raises:
      ArgumentError: The number is outside its bound.
    """

    draws_per_round: int

    def __post_init__(self) -> None:
        _checks.integer("draws_per_round", self.draws_per_round, "[1, inf)")

    def charge(
        self, rounds: int, delta: float, ceiling: float, of_one_round: float = math.inf
    ) -> Charge | None:
        """Returns the charge for arithmetic, valid if epsilon plus gamma is at most a ceiling.

        Args:
          rounds: T >= 1.
          delta: The delta of the guarantee that is to be stated, in (0, 1).
          ceiling: The largest value of epsilon plus gamma for which the charge is valid.
          of_one_round: epsilon1, at `delta_of_one_round`; infinite if it is not known.

        Returns:
          The charge; None if the rare event would take more than half of delta, or gamma is above
          10.
        """
        draws = rounds * self.draws_per_round
        log_deviation = math.log(delta * _SHARE_OF_DELTA) - _log1p_exp(ceiling)
        rare = draws * RARE * min(_exp(_log1p_exp(ceiling)), 2 * _exp(_log1p_exp(of_one_round)))
        if of_one_round < ceiling:
            rare += _SHARE_OF_DELTA / 2 * delta
        if rare > (_LARGEST_SHARE - 2 * _SHARE_OF_DELTA) * delta:
            return None
        gamma = draws * RMS_LOG_RATIO**2 + RMS_LOG_RATIO * math.sqrt(-2 * draws * log_deviation)
        gamma -= 2 / 3 * LARGEST_LOG_RATIO * log_deviation
        if gamma > _LARGEST_GAMMA:
            return None
        taken = _SHARE_OF_DELTA * delta + rare
        return Charge(gamma, (delta - taken) * math.exp(-gamma), (delta + taken) * math.exp(gamma))

    @staticmethod
    def delta_of_one_round(rounds: int, delta: float) -> float:
        """Returns delta1, the delta of the guarantee of a single round.

        Args:
          rounds: T >= 1.
          delta: The delta of the guarantee that is to be stated, in (0, 1).

        Returns:
          delta1, such that T delta1 is 2^-22 of `delta`.
        """
        return delta * _SHARE_OF_DELTA / 4 / rounds


def charged(
    ask: Callable[[float], _T],
    epsilon_of: Callable[[_T], float],
    of_single_round: Callable[[], float],
    rounds: int,
    delta: float,
    arithmetic: Arithmetic,
) -> tuple[_T, Charge] | None:
    """Asks about the ideal mechanism at a delta that leaves room for the charge for arithmetic.

    Args:
      ask: Returns an answer about the ideal mechanism at a delta.
      epsilon_of: Returns the epsilon of an answer.
      of_single_round: Returns the epsilon of the round that reveals most, at the delta of
        `Arithmetic.delta_of_one_round`.
      rounds: The number of rounds that draw noise; >= 1.
      delta: The delta of the guarantee that is to be stated, in (0, 1).
      arithmetic: The number of draws of a round.

    Returns:
      The answer and the charge that applies to it; None if the charge would take more than half of
      delta.
    """
    charge = arithmetic.charge(rounds, delta, _USUAL_CEILING)
    if charge is not None:
        found = ask(charge.delta)
        if epsilon_of(found) + charge.gamma <= _USUAL_CEILING:
            return found, charge
    # Every charge leaves more than a quarter of delta, so that the epsilon there is a ceiling.
    ceiling = epsilon_of(ask(delta / 4)) + 1.0
    charge = arithmetic.charge(rounds, delta, ceiling, of_single_round())
    if charge is not None and charge.delta >= delta / 4 and charge.gamma <= 1:
        return ask(charge.delta), charge
    return None


def _log1p_exp(value: float) -> float:
    return max(value, 0.0) + math.log1p(math.exp(-abs(value)))


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf
