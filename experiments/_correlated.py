"""Plans for the same rounds, cohorts and clients: noise of each round by itself, or shared by rounds.

Four ways to spend an epsilon on T rounds of about m of N clients, all under zero-out:

- "DP-FedAvg": independent Gaussian noise. Clients take part by chance (Poisson sampling), and the epsilon
  holds only as long as nobody knows in which rounds.
- "DP-FTRL tree": noise at the nodes of binary trees over the rounds, with Honaker's estimator.
- "banded": the banded matrix mechanism, with as many bands as a client waits for rounds.
- "banded, sampled": the same with `CyclicPoissonSampler`: parts of the clients take turns, each sampled.

For the tree and the banded mechanism, a server makes clients wait: at least floor(N / m) rounds from one
participation to the next, and at most ceil(T m / N) participations. Their epsilon holds whoever knows who
takes part, and however the server chooses among those who may.

After how many rounds a new tree begins, and how long the cycle of the sampled banded mechanism is, is
chosen by formula, without any data: whatever has the least noise on the running sums of updates, at
the same epsilon. After t rounds of server SGD, the model is such a sum.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import tff_dp
from tff_dp import _checks
from tff_dp.errors import ArgumentError
from tff_dp.mechanisms.strategy import banded_strategy, running_sum_error

FEDAVG, TREE, BANDED, SAMPLED = "DP-FedAvg", "DP-FTRL tree", "banded", "banded, sampled"
METHODS = (FEDAVG, TREE, BANDED, SAMPLED)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rounds:
    """What all methods have in common.

    Attributes:
      population: N, the number of clients.
      cohort: m, clients in a round, or their expected number.
      rounds: T.
      delta: Of each epsilon.
      restarts: Candidates for "DP-FTRL tree": rounds after which a new tree begins, in [1, T].
      cycles: Candidates for "banded, sampled": rounds of a cycle, in [1, N / m].

    Raises:
      ArgumentError: A value is outside its bound.
    """

    population: int
    cohort: int
    rounds: int
    delta: float
    restarts: Sequence[int]
    cycles: Sequence[int]

    def __post_init__(self) -> None:
        _checks.integer("cohort", self.cohort, f"[1, {self.population}]", "It counts clients.")
        _checks.integer("rounds", self.rounds, "[1, inf)")
        for name, values, most in (
            ("restarts", self.restarts, self.rounds),
            ("cycles", self.cycles, self.separation),
        ):
            if not values:
                raise ArgumentError(f"{name}=[] is outside its bound: expected one or more.")
            for value in values:
                _checks.integer(name, value, f"[1, {most}]", "It counts rounds.")

    @property
    def separation(self) -> int:
        """Rounds from one participation of a client to the next, at least: floor(N / m)."""
        return self.population // self.cohort

    @property
    def participations(self) -> int:
        """How often a client takes part at most: ceil(T m / N)."""
        return -(-self.rounds * self.cohort // self.population)

    def candidates(self, method: str, clip_norm: float = 1.0) -> list[tff_dp.PrivacyPlan]:
        """Returns the plans among which a method may choose, all with noise multiplier 1.

        Args:
          method: One of `METHODS`.
          clip_norm: C.
        """
        noise = {"clip_norm": clip_norm, "noise_multiplier": 1.0}
        waiting = tff_dp.MinSeparationSampler(
            size=self.cohort,
            min_separation=self.separation,
            max_participations=self.participations,
        )
        if method == FEDAVG:
            rate = tff_dp.PoissonSampler(rate=self.cohort / self.population)
            return [self._plan(tff_dp.GaussianMechanism(**noise), rate)]
        if method == BANDED:
            mechanism = tff_dp.BandedMechanism(bands=self.separation, **noise)
            return [self._plan(mechanism, waiting)]
        if method == TREE:
            return [
                self._plan(tff_dp.TreeMechanism(restart_every=period, **noise), waiting)
                for period in self.restarts
            ]
        return [
            self._plan(tff_dp.BandedMechanism(bands=cycle, **noise), self._in_turns(cycle))
            for cycle in self.cycles
        ]

    def best(self, method: str, epsilon: float) -> tff_dp.PrivacyPlan:
        """Returns a method's plan at a target: of its candidates, that of the least noise on the sums.

        Args:
          method: One of `METHODS`.
          epsilon: The target.
        """
        plans = [plan.calibrated(epsilon) for plan in self.candidates(method)]
        return min(plans, key=noise_of_sums)

    def known_epsilon(self, plan: tff_dp.PrivacyPlan) -> float:
        """Returns the epsilon of a plan's noise if it is known who takes part.

        It is that of a client with ceil(T m / N) participations. Under sampling, this is the expected
        number, rounded up; some clients take part more often, and theirs is larger.

        Args:
          plan: A plan of `best`.
        """
        if not _is_sampled(plan):
            return float(plan.epsilon().epsilon)
        # A client's participations are a cycle apart, and share no noise: one band has the same cost.
        mechanism = tff_dp.BandedMechanism(
            clip_norm=1.0, noise_multiplier=plan.mechanism.noise_multiplier, bands=1
        )
        sampler = tff_dp.MinSeparationSampler(
            size=self.cohort, min_separation=1, max_participations=self.participations
        )
        return float(self._plan(mechanism, sampler).epsilon().epsilon)

    def _in_turns(self, cycle: int) -> tff_dp.CyclicPoissonSampler:
        return tff_dp.CyclicPoissonSampler(rate=cycle * self.cohort / self.population, cycle=cycle)

    def _plan(self, mechanism: tff_dp.Mechanism, sampler: tff_dp.Sampler) -> tff_dp.PrivacyPlan:
        return tff_dp.PrivacyPlan(
            mechanism=mechanism,
            sampler=sampler,
            population=self.population,
            rounds=self.rounds,
            delta=self.delta,
            adjacency=tff_dp.Adjacency.ZERO_OUT,
        )


def _is_sampled(plan: tff_dp.PrivacyPlan) -> bool:
    return isinstance(plan.sampler, tff_dp.PoissonSampler | tff_dp.CyclicPoissonSampler)


def details(plan: tff_dp.PrivacyPlan) -> str:
    """Returns what was chosen for a plan, in words.

    Args:
      plan: A plan of `Rounds.best`.
    """
    if isinstance(plan.mechanism, tff_dp.TreeMechanism):
        return f"trees of {plan.mechanism.restart_every} rounds"
    if isinstance(plan.mechanism, tff_dp.BandedMechanism):
        return f"{plan.mechanism.bands} bands"
    return "independent"


def noise_of_sums(plan: tff_dp.PrivacyPlan) -> float:
    """Returns the root mean square, over rounds, of the noise on one coordinate of the running sums.

    Args:
      plan: Of a mechanism with Gaussian noise.

    Returns:
      The noise, in clip norms.
    """
    mechanism, rounds = plan.mechanism, plan.rounds
    z = mechanism.noise_multiplier
    if isinstance(mechanism, tff_dp.TreeMechanism):
        return z * tree_error(rounds, mechanism.restart_every or rounds)
    bands = mechanism.bands if isinstance(mechanism, tff_dp.BandedMechanism) else 1
    return z * running_sum_error(banded_strategy(bands, rounds), rounds)


def tree_error(rounds: int, period: int) -> float:
    """Returns the root mean square error of the running sums from noisy binary trees.

    A complete node over 2^h rounds is estimated from all nodes below it, with variance 1 / (2 - 2^-h); a
    running sum is that of the nodes at the bits of the number of rounds.

    Source: Honaker, "Efficient use of differentially private binary trees" (2015), section 3.

    Args:
      rounds: T >= 1.
      period: Rounds of a tree, >= 1; the sums of the trees before are added.

    Returns:
      The error, in standard deviations of a node's own noise.
    """

    def within(leaves: int) -> float:
        levels = [level for level in range(leaves.bit_length()) if leaves >> level & 1]
        return sum(1 / (2 - 2.0**-level) for level in levels)

    done = [divmod(number, period) for number in range(1, rounds + 1)]
    return math.sqrt(sum(trees * within(period) + within(rest) for trees, rest in done) / rounds)
