"""What couples mechanism, sampler and accounting, so that they cannot disagree."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import ClassVar

import dp_accounting
import numpy as np

from tff_dp import _checks
from tff_dp.accounting import (
    Arithmetic,
    EpsilonReport,
    GaussianRound,
    RecordRound,
    Round,
    arithmetic_of,
    calibrate_noise,
    check_delta,
    quick_epsilon,
    round_of,
    spend,
)
from tff_dp.config import Config
from tff_dp.errors import AccountingError, ArgumentError, DataError
from tff_dp.mechanisms import Mechanism, PrivateMetric, Unit
from tff_dp.mechanisms.metrics import check_metrics
from tff_dp.plan.arguments import clients_of, root, sampler_of, unit_of
from tff_dp.sampling import Adjacency, Sampler


@dataclasses.dataclass(frozen=True, init=False)
class PrivacyPlan(Config):
    """Couples the unit of privacy, adjacency, sampler, mechanism, rounds and delta.

    The plan draws the cohorts and makes the events, so that training and accounting cannot disagree.
    What cannot be accounted for is refused when the plan is made. The unit follows from the mechanism:
    `RecordGaussianMechanism` protects records, and takes `records`; any other protects clients, and takes
    `population` and `cohort` or `sampler`.

    `dataclasses.replace` gives the plan that the same arguments would give with the changes: with another
    population, a cohort that was given stays, and its rate changes; a sampler that was given stays as it
    is, and a rate with it. An adjacency that was taken from the sampler stays, too: pass adjacency=None
    for that of another sampler. Epsilon is always that of the new plan.

    Computed noise is not quite the ideal one; every epsilon of a plan has a charge for that.

    Args:
      mechanism: How updates are bounded and noised, and whose contribution that protects.
      rounds: T, the largest number of rounds that may ever be run under this plan; >= 1.
      delta: The probability with which the guarantee may fail; in (0, 1/N). For records, N is the number
        of records of the client that has most.
      population: N, the number of clients, taken as public; > 1. For records it is that of `records`,
        and may be left out.
      cohort: Expected clients a round, m, in (0, N]: short for
        `sampler=PoissonSampler(rate=cohort / population)`, the default kind of sampling under DP.
      sampler: Any other sampler. Give either this or `cohort`; for records both may be
        left out, for every client in every round: who takes part amplifies nothing there.
      adjacency: The neighboring relation; the sampler's own by default.
      unit: Whose contribution is protected, which the mechanism says already: a client's, over all its
        examples and all rounds; or a record's, over all rounds. It is checked, and may be left out.
      metrics: Training metrics to release with noise of their own, each with its fraction of the budget;
        for mechanisms with Gaussian noise of the server that rounds do not share.
      records: For records: each client's number of them, taken as public.
      max_dimension: Trainable parameters of the largest model that the plan covers, public; >= 1.
        The charge for computed noise grows with its square root: see `arithmetic`.

    Raises:
      ArgumentError: A value is outside its bound.
      AccountingError: The combination has no valid accounting.
    """

    derived: ClassVar[tuple[str, ...]] = ("unit",)

    mechanism: Mechanism
    population: int
    rounds: int
    delta: float
    sampler: Sampler
    adjacency: Adjacency
    metrics: tuple[PrivateMetric, ...]
    records: tuple[int, ...] | None
    max_dimension: int
    cohort: dataclasses.InitVar[float | None] = None  # which `dataclasses.replace` hands on

    def __init__(
        self,
        *,
        mechanism: Mechanism,
        rounds: int,
        delta: float,
        population: int | None = None,
        cohort: float | None = None,
        sampler: Sampler | None = None,
        adjacency: Adjacency | str | None = None,
        unit: Unit | str | None = None,
        metrics: Iterable[PrivateMetric] = (),
        records: Iterable[int] | None = None,
        max_dimension: int = 100_000_000,
    ) -> None:
        unit = unit_of(mechanism, unit)
        counts, population = clients_of(unit, population, records)
        _checks.integer("rounds", rounds, "[1, inf)", "Give the number of rounds to train.")
        _checks.integer(
            "max_dimension", max_dimension, "[1, inf)", "It counts a model's trainable parameters."
        )
        check_delta("delta", delta, population if counts is None else max(counts), unit.value)
        sampler, kept = sampler_of(unit, population, sampler, cohort)
        if adjacency is not None:
            adjacency = _checks.member("adjacency", adjacency, Adjacency)
        # It refuses what does not go together.
        one_round = round_of(mechanism, sampler, population, adjacency, counts)
        values = {
            "mechanism": mechanism,
            "population": population,
            "rounds": rounds,
            "delta": delta,
            "sampler": sampler,
            "adjacency": one_round.adjacency,
            "metrics": check_metrics(metrics),
            "records": counts,
            "max_dimension": max_dimension,
        } | ({} if kept is None else {"cohort": kept})
        for name, value in values.items():
            object.__setattr__(self, name, value)
        if self.metrics and not isinstance(one_round, GaussianRound):
            raise AccountingError(
                f"metrics={self.metrics!r} cannot share the noise of {type(mechanism).__name__}: "
                "expected GaussianMechanism, AdaptiveGaussianMechanism or PerLayerGaussianMechanism. Use "
                "one of them, or release no metrics."
            )
        self.update_mechanism.check(self.clients_per_round)
        sampler.check_rounds(population, rounds)
        if mechanism.noise_multiplier > 0:
            self.epsilon()  # refuses what no accountant covers, over all the rounds

    @property
    def unit(self) -> Unit:
        """Whose contribution is protected: what the mechanism says."""
        return type(self.mechanism).unit

    @property
    def update_mechanism(self) -> Mechanism:
        """The mechanism at the noise that is left to the updates: all of it without `metrics`."""
        left = 1 - sum(metric.budget_fraction for metric in self.metrics)
        return self.mechanism.with_noise(self.mechanism.noise_multiplier / math.sqrt(left))

    @property
    def clients_per_round(self) -> float:
        """The public expected number of clients a round, m: the denominator of every average."""
        return self.sampler.expected_clients(self.population)

    def one_round(self) -> Round:
        """Returns what one round costs, for the accountants."""
        return round_of(self.mechanism, self.sampler, self.population, self.adjacency, self.records)

    @property
    def arithmetic(self) -> Arithmetic | None:
        """The draws of noise in a round, for which every epsilon of the plan is charged.

        None for distributed mechanisms, whose integer noise is TFF's: the accuracy of its samplers is
        taken for granted.
        """
        return arithmetic_of(self.mechanism, self.rounds, self.max_dimension, len(self.metrics))

    def event(self, rounds: int | Sequence[range] | None = None) -> dp_accounting.DpEvent:
        """Returns the event of some rounds (default: all of the plan), for dp-accounting's PLD.

        Raises:
          AccountingError: More rounds than the plan covers.
        """
        one_round, count = self.one_round().equivalent(tuple(self._runs(rounds)))
        return dp_accounting.SelfComposedDpEvent(one_round.event(), count)

    def check_rounds(self, rounds: int | None) -> int:
        """Returns `rounds`, or the plan's own for None.

        Raises:
          AccountingError: More rounds than the plan covers.
        """
        if rounds is None:
            return self.rounds
        _checks.integer("rounds", rounds, "[0, inf)")
        if rounds > self.rounds:
            raise AccountingError(
                f"rounds={rounds} is outside its bound: expected at most the {self.rounds} rounds that "
                "the privacy plan covers. Run fewer rounds, or make a plan for more of them; its noise "
                "or its epsilon will be larger."
            )
        return rounds

    def _runs(self, rounds: int | Sequence[range] | None) -> Sequence[range]:
        if rounds is None or not isinstance(rounds, Sequence):
            return [range(1, self.check_rounds(rounds) + 1)]
        self.check_rounds(sum(len(run) for run in rounds))
        return rounds

    def epsilon(self, rounds: int | Sequence[range] | None = None) -> EpsilonReport:
        """Returns what some rounds spend.

        Args:
          rounds: Rounds in [0, T]; default T, all of the plan. Or the rounds of each of several runs,
            counted from 1, as `Ledger.runs`.

        Returns:
          The report; its `epsilon` is the number to state.

        Raises:
          AccountingError: More rounds than the plan covers.
        """
        return spend(self.one_round(), self._runs(rounds), self.delta, self.arithmetic)

    def epsilon_by_client(
        self, rounds: int | Sequence[range] | None = None
    ) -> tuple[EpsilonReport, ...]:
        """Returns what some rounds spend of each client's budget, in the order of the clients.

        For records, each client's report is that of its own number of records, and `epsilon` that of
        the worst; for clients, all have the same.

        Args:
          rounds: As for `epsilon`. A round counts for every client, whether or not it took part.

        Raises:
          AccountingError: More rounds than the plan covers.
        """
        one_round, worst = self.one_round(), self.epsilon(rounds)
        if not isinstance(one_round, RecordRound):
            return (worst,) * self.population

        def own(position: int) -> EpsilonReport:
            try:
                found = spend(
                    one_round.of_client(position), self._runs(rounds), self.delta, self.arithmetic
                )
            except AccountingError:
                return worst
            # At a lower rate, less is spent; only an accountant's error can say otherwise.
            return min(found, worst, key=lambda report: report.epsilon)

        return tuple(own(position) for position in range(self.population))

    def quick_epsilon(self, rounds: int | Sequence[range]) -> float:
        """Returns a fast upper bound on `epsilon(rounds).epsilon`, for display during training."""
        try:
            return quick_epsilon(self.one_round(), self._runs(rounds), self.delta, self.arithmetic)
        except AccountingError:  # none does under this sampler and adjacency
            return self.epsilon(rounds).epsilon

    def calibrated(self, target_epsilon: float) -> PrivacyPlan:
        """Returns this plan with the smallest noise that keeps all its rounds within a target.

        Args:
          target_epsilon: In (0, 100].

        Returns:
          A plan whose `epsilon().epsilon` is at most the target, by at most a relative 1e-3 of noise.

        Raises:
          ArgumentError: The target is outside its bound, or the mechanism cannot carry the noise.
          AccountingError: No noise reaches the target.
        """
        z = calibrate_noise(
            self.one_round(),
            rounds=self.rounds,
            delta=self.delta,
            target_epsilon=target_epsilon,
            arithmetic=self.arithmetic,
        )
        return dataclasses.replace(self, mechanism=self.mechanism.with_noise(z))

    def draw_cohort(self, round_number: int, *, population: int, seed: int | None) -> np.ndarray:
        """Draws one round's cohort.

        Args:
          round_number: The round, in [1, T].
          population: The number of clients at hand; must be the plan's.
          seed: The run's seed, or None for the operating system's entropy.

        Returns:
          Sorted client positions, shape [cohort], int64; may be empty under Poisson sampling.

        Raises:
          ArgumentError: Another number of clients than the plan's, or no seed where a cohort depends on
            earlier ones.
          AccountingError: A round beyond the plan.
        """
        self.check_population(population)
        self.check_rounds(round_number)
        return self.sampler.cohort(self.population, round_number, root(self.sampler, seed))

    def check_records(self, records: Sequence[int]) -> None:
        """Raises DataError unless the clients have as many records as the plan states, if it does."""
        found = tuple(int(count) for count in records)
        if self.records is None or found == self.records:
            return
        self.check_population(len(found))
        pairs = enumerate(zip(found, self.records, strict=True))
        others = [client for client, (one, two) in pairs if one != two]
        client, more = others[0], f", and {len(others) - 1} more differ"
        raise DataError(
            f"records={_checks.brief(self.records)} of the privacy plan does not fit the data: client "
            f"{client} has {found[client]} records, and the plan says {self.records[client]}"
            f"{more if len(others) > 1 else ''}. Make the plan with records=tuple(clients.sizes)."
        )

    def check_dimension(self, parameters: int) -> None:
        """Raises ArgumentError if a model has more trainable parameters than the plan covers."""
        if self.arithmetic is not None and parameters > self.max_dimension:
            raise ArgumentError(
                f"max_dimension={self.max_dimension} of the privacy plan is below the model's number of "
                f"trainable parameters, {parameters}: expected at least as many, for which the plan "
                f"charges computed noise. Make the plan with max_dimension={parameters}."
            )

    def check_population(self, population: int) -> None:
        """Raises ArgumentError unless there are as many clients as the plan states."""
        if population != self.population:
            raise ArgumentError(
                f"population={self.population} of the privacy plan does not fit the data: expected the "
                f"number of clients, {population}. Make the plan with population={population}."
            )
