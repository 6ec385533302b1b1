"""What it costs that noise is computed, by a sampler whose law is not quite the ideal one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from tff_dp import _checks

# What holds of each draw of noise: p' is the law of the integers that the sampler gives, p that of the
# rounded Gaussian or Laplace variable that is accounted for.
RMS_LOG_RATIO = 2.0**-37  # tau: the root mean square of log(p'/p), under either law
LARGEST_LOG_RATIO = 2.0**-29  # M: the largest |log(p'/p)|, outside of an event of probability
RARE = 2.0**-100  # b, at most, under either law
_SHARE_OF_DELTA = 2.0**-20  # that pays for large deviations
_LARGEST_GAMMA = 10.0
_LARGEST_SHARE = 0.5  # of delta, that arithmetic may take in all
_USUAL_CEILING = 8.0  # of epsilon, that a charge is tried for first

_T = TypeVar("_T")


class Charge(NamedTuple):
    """What arithmetic takes of a budget.

    Attributes:
      gamma: Half of what is added to epsilon.
      delta: At which the ideal mechanism has to be asked for its epsilon.
      delta_above: A delta at which the ideal mechanism's smallest epsilon is at most that of the
        mechanism that runs, plus 2 gamma.
    """

    gamma: float
    delta: float
    delta_above: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """The draws of noise that a plan's rounds make, each from a law that is not quite the ideal one.

    Let n be the draws of all rounds, tau, M and b as above. The loss of one draw, x = log(p'/p), counted
    as 0 in the rare event, has a second moment of at most tau^2 and, since E exp(-x) = 1 under p' but
    for that event, a mean of at most tau^2 / 2 + b, which is below tau^2. Rounds choose their noise by
    what came before; these bounds hold for each pair of draws given all earlier ones. (Gaussian draws
    come in pairs of one radius r. A cell of a pair has four boundaries, each off by 2^-50 r at a
    distance of 2^-10 standard deviations: 2^-37.5 in root mean square, where two draws count as
    2^-36.5.) By Bernstein's inequality for martingales (Freedman 1975), the sum over all draws exceeds

        gamma = n tau^2 + tau sqrt(2 n L) + 2/3 M L,     L = log(1 / delta'),

    with probability at most delta'. So for each set S of outputs of all rounds together, P'(S) <=
    e^gamma P(S) + delta' + n b, and the same with P and P' exchanged. If the ideal mechanism is
    (epsilon, delta0)-private, applying this to both data sets gives for the one that runs

        epsilon + 2 gamma  at  e^gamma delta0 + (delta' + n b) (1 + e^(epsilon + gamma)).

    Here delta' is chosen so that its term is 2^-20 of delta.

    Where epsilon is so large that n b e^epsilon is not small, the rare event is treated by rounds. Let
    B be the outputs for which, in some round, either the noise without the client or the noise with
    it would be rare. Off B the ratios above hold everywhere. By the guarantee of one round in which the
    client takes part for certain, (epsilon1, delta1), B has probability at most n b (1 + e^epsilon1) +
    T delta1 under P, and at most twice that under P'. So 2 n b (1 + e^epsilon1) + 2 T delta1 stands for
    the term n b (1 + e^(epsilon + gamma)); T delta1 is chosen as 2^-22 of delta.

    Args:
      draws_per_round: The most draws that one round makes for what one client (or record) is in; >= 1.

    Raises:
      ArgumentError: The number is outside its bound.
    """

    draws_per_round: int

    def __post_init__(self) -> None:
        _checks.integer("draws_per_round", self.draws_per_round, "[1, inf)")

    def charge(
        self, rounds: int, delta: float, ceiling: float, of_one_round: float = math.inf
    ) -> Charge | None:
        """Returns what arithmetic takes, if epsilon plus gamma turns out to be at most a ceiling.

        Args:
          rounds: T >= 1.
          delta: Of the guarantee that is to be stated, in (0, 1).
          ceiling: Of epsilon plus gamma.
          of_one_round: epsilon1, at `delta_of_one_round`; infinite where it is not known.

        Returns:
          None where the rare event would take more than half of delta, or gamma is beyond all reason.
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
        """Returns delta1, of the guarantee of one of some rounds."""
        return delta * _SHARE_OF_DELTA / 4 / rounds


def charged(
    ask: Callable[[float], _T],
    epsilon_of: Callable[[_T], float],
    of_single_round: Callable[[], float],
    rounds: int,
    delta: float,
    arithmetic: Arithmetic,
) -> tuple[_T, Charge] | None:
    """Returns what the ideal mechanism answers, and the charge under which it does, if there is one.

    Args:
      ask: The ideal mechanism's answer at a delta.
      epsilon_of: The epsilon in an answer.
      of_single_round: The epsilon of the round that reveals most, at `Arithmetic.delta_of_one_round`.
      rounds: The rounds that draw noise.
      delta: To be stated.
      arithmetic: What a round draws.

    Returns:
      None where the charge would take more than half of delta.
    """
    charge = arithmetic.charge(rounds, delta, _USUAL_CEILING)
    if charge is not None:
        found = ask(charge.delta)
        if epsilon_of(found) + charge.gamma <= _USUAL_CEILING:
            return found, charge
    # Any charge leaves more than this of delta, so that the epsilon there is a ceiling.
    ceiling = epsilon_of(ask(delta / 4)) + 1.0
    charge = arithmetic.charge(rounds, delta, ceiling, of_single_round())
    if charge is not None and charge.delta >= delta / 4 and charge.gamma <= 1:
        return ask(charge.delta), charge
    return None


def _log1p_exp(value: float) -> float:
    return max(value, 0.0) + math.log1p(math.exp(-abs(value)))


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf
