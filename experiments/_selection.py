"""What it costs to choose the best of several private runs: composition, and random stopping.

To release the best of k runs costs more than one run, whoever scores them: the choice depends on all of
them. If k is fixed, the runs compose, as a ledger adds them. If the number of runs K is drawn at random,
from a law that says little about it, and only the best run is ever seen, the cost hardly grows with K.

Source: Papernot and Steinke, "Hyperparameter Tuning with Renyi Differential Privacy",
arXiv:2110.03620, theorem 2 (truncated negative binomial K) and theorem 6 (Poisson K), as
dp-accounting's RepeatAndSelectDpEvent computes them; Liu and Talwar, arXiv:1811.07971 (geometric K).
"""

from __future__ import annotations

import dataclasses
import math

import dp_accounting
import numpy as np
from dp_accounting import dp_event, rdp
from scipy import optimize, stats

import tff_dp
from tff_dp import _checks, _seeds
from tff_dp.errors import AccountingError

SHAPES = {"logarithmic": 0.0, "geometric": 1.0, "Poisson": math.inf}
_SHARE_OF_DELTA = 2.0**-20  # of a very large K, for which noise is not charged as it is computed
_CEILING = 8.0  # the largest epsilon for which computed noise is charged here


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stopping:
    """The law of the number of runs, K.

    K must be drawn from fresh randomness, neither chosen nor known to anybody who sees the result:
    whoever knows K (from a log, or from the time that it took) is not covered. A run is one training with
    hyperparameters that are drawn at random, and its score; all candidates cost the same.

    Attributes:
      mean: The expected number of runs, >= 1; above 1 for the two laws that are not Poisson's.
      law: "logarithmic", "geometric" or "Poisson". A Poisson K may be 0: then nothing is released,
        or something that does not depend on the data.
    """

    mean: float
    law: str

    def __post_init__(self) -> None:
        _checks.one_of("law", self.law, SHAPES)
        _checks.real("mean", self.mean, "[1, 1e4]" if self.law == "Poisson" else "(1, 1e4]")

    @property
    def gamma(self) -> float:
        """The parameter of the two laws that are not Poisson's, in (0, 1)."""
        if self.law == "geometric":
            return 1 / self.mean

        def excess(log_gamma: float) -> float:  # of the mean, (1 / gamma - 1) / log(1 / gamma)
            return math.expm1(-log_gamma) / -log_gamma - self.mean

        return math.exp(optimize.brentq(excess, -50.0, -1e-12, xtol=1e-14))

    def probability(self, runs: int) -> float:
        """Returns the probability of a number of runs.

        Args:
          runs: k >= 0.
        """
        if self.law == "Poisson":
            return float(stats.poisson.pmf(runs, self.mean))
        if runs == 0:
            return 0.0
        if self.law == "geometric":
            return self.gamma * (1 - self.gamma) ** (runs - 1)
        return -((1 - self.gamma) ** runs) / (runs * math.log(self.gamma))

    def generating(self, x: np.ndarray) -> np.ndarray:
        """Returns E[x^K], the probability that all runs are within a set that a run is in with x.

        Args:
          x: Probabilities.
        """
        gamma = 1.0 if self.law == "Poisson" else self.gamma
        found: np.ndarray
        if self.law == "Poisson":
            found = np.exp(self.mean * (x - 1))
        elif self.law == "geometric":
            found = gamma * x / (1 - (1 - gamma) * x)
        else:
            found = np.log1p(-(1 - gamma) * x) / math.log(gamma)
        return found

    def most(self, beyond: float) -> int:
        """Returns a number of runs that K exceeds with at most some probability.

        Args:
          beyond: The probability, in (0, 1).
        """
        if self.law == "Poisson":
            return int(stats.poisson.isf(beyond, self.mean)) + 1
        # P(K > k) <= (1 - gamma)^k for both: the logarithmic law falls faster than the geometric one.
        return math.ceil(math.log(beyond) / math.log1p(-self.gamma))

    def draw(self) -> int:
        """Returns a number of runs, from the operating system's randomness."""
        rng = _seeds.generator(_seeds.root(None), "number of runs")
        if self.law == "Poisson":
            return int(rng.poisson(self.mean))
        if self.law == "geometric":
            return int(rng.geometric(self.gamma))
        return int(rng.logseries(1 - self.gamma))


def composed_epsilon(plan: tff_dp.PrivacyPlan, runs: int) -> float:
    """Returns the epsilon of a fixed number of runs, all of which may be released.

    Args:
      plan: Of one run.
      runs: k >= 1.
    """
    return float(dataclasses.replace(plan, rounds=runs * plan.rounds).epsilon().epsilon)


def selected_epsilon(plan: tff_dp.PrivacyPlan, stopping: Stopping) -> float:
    """Returns the epsilon of the best of K runs, of which nothing else is released.

    The charge for computed noise is that of the largest K which has more than a negligible probability:
    given any smaller number of runs, the ratios of probabilities are within the same bounds.

    Args:
      plan: Of one run, the costliest of all candidates.
      stopping: The law of K.

    Returns:
      An upper bound on epsilon, at the plan's delta.

    Raises:
      AccountingError: The plan has no accounting by Rényi DP, or its epsilon is above 8.
    """
    delta = plan.delta
    if plan.arithmetic is None:
        return _ideal(plan, stopping, delta)
    rare = _SHARE_OF_DELTA * delta
    most = stopping.most(rare / (1 + math.exp(_CEILING)))
    charge = plan.arithmetic.charge(most * plan.rounds, delta - rare, _CEILING)
    found = math.inf if charge is None else _ideal(plan, stopping, charge.delta)
    if charge is None or found + charge.gamma > _CEILING:
        raise AccountingError(
            f"The best of {stopping.mean:g} runs on average has an epsilon of {found:.3g}: expected at "
            f"most {_CEILING:g}. Take more noise, fewer rounds or fewer runs."
        )
    return found + 2 * charge.gamma


def _ideal(plan: tff_dp.PrivacyPlan, stopping: Stopping, delta: float) -> float:
    one = plan.one_round()
    if not isinstance(one, tff_dp.accounting.IndependentRound):
        raise AccountingError(
            f"{type(plan.mechanism).__name__} shares noise between rounds: the cost of choosing among "
            "its runs is not known here. Use GaussianMechanism."
        )
    accountant = rdp.RdpAccountant(neighboring_relation=one.adjacency.relation)
    run = dp_accounting.SelfComposedDpEvent(one.scaled_event(), plan.rounds)
    try:
        accountant.compose(
            dp_event.RepeatAndSelectDpEvent(run, stopping.mean, SHAPES[stopping.law])
        )
    except dp_accounting.UnsupportedEventError as error:
        raise AccountingError(f"Rényi DP has no bound for {one.sampler}: {error}") from None
    return float(accountant.get_epsilon(delta))


def calibrated(
    plan: tff_dp.PrivacyPlan, target: float, *, runs: int = 1, stopping: Stopping | None = None
) -> tff_dp.PrivacyPlan:
    """Returns the plan of one run, with the smallest noise for which all tuning stays within a target.

    Args:
      plan: Of one run, with any noise.
      target: Epsilon of the whole tuning, in (0, 8).
      runs: A fixed number of runs, which compose.
      stopping: Instead of a fixed number: the law of K.

    Raises:
      ArgumentError: The target is outside its bound.
    """
    target = _checks.real("target", target, "(0, 8)")
    if stopping is None:
        noisy = dataclasses.replace(plan, rounds=runs * plan.rounds).calibrated(target)
        return _with_noise(plan, noisy.mechanism.noise_multiplier)

    def excess(log_z: float) -> float:
        try:
            found = selected_epsilon(_with_noise(plan, math.exp(log_z)), stopping)
        except AccountingError:
            found = 4 * _CEILING  # above what is accounted for
        return math.log(found / target)

    low, high = math.log(0.1), 0.0
    while excess(high) > 0:
        low, high = high, high + 0.7
    # The logarithms are nearly on a line. What is found may be on either side of the target.
    found = float(optimize.brentq(excess, low, high, xtol=1e-4))
    while excess(found) > 0:
        found += 2e-4
    return _with_noise(plan, math.exp(found))


def _with_noise(plan: tff_dp.PrivacyPlan, z: float) -> tff_dp.PrivacyPlan:
    return dataclasses.replace(plan, mechanism=plan.mechanism.with_noise(z))
