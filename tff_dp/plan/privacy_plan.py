"""The privacy plan, which couples mechanism, sampler and accounting so that they cannot disagree."""

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
from tff_dp.plan import shown
from tff_dp.plan.arguments import clients_of, root, sampler_of, unit_of
from tff_dp.sampling import Adjacency, Sampler


@dataclasses.dataclass(frozen=True, init=False)
class PrivacyPlan(Config):
    """Couples the unit of privacy, adjacency, sampler, mechanism, rounds and delta.

    The plan draws the cohorts and makes the events, so that training and accounting cannot
    disagree. A combination without valid accounting is refused when the plan is made. The unit
    follows from the
    mechanism: `RecordGaussianMechanism` protects records and takes `records`; any other mechanism
      protects
    clients and takes `population` and either `cohort` or `sampler`.

    `dataclasses.replace` makes the plan that the original arguments with the changes would make. If
    the population changes, a cohort that was given stays the same and its rate changes; a sampler
    that was given stays the same, including its rate. The adjacency stays the same even if it was
    the default of the
    sampler: pass adjacency=None for the default of a new sampler. Epsilon is always that of the new
      plan.

    Computed noise differs slightly from the ideal noise; every epsilon of a plan includes a charge
    for it.

    Args:
      mechanism: How updates are bounded and noised. It determines the unit of privacy.
      rounds: T, the largest number of rounds that may ever be run under this plan; >= 1.
      delta: The delta of the guarantee; in (0, 1/N). If records are protected, N is here the
        largest number of records of a client.
      population: N, the number of clients, which is public; > 1. If records are protected, it is
        the length of `records` and may be left out.
      cohort: m, the expected number of clients a round, in (0, N]: short for
        `sampler=PoissonSampler(rate=cohort / population)`, the usual sampling under differential
        privacy.
      sampler: Any other sampler. Give either this or `cohort`. If records are protected, both may
        be left
        out: every client then participates in every round, since sampling clients amplifies nothing
          there.
      adjacency: The neighboring relation; by default, that of the sampler.
      unit: The unit of privacy: "client", for all examples of a client over all rounds, or
        "record", for a record over all rounds. It follows from the mechanism and may be left out;
        otherwise it is checked.
      metrics: Training metrics to release with separate noise, each with its fraction of the
        budget; only for mechanisms whose server adds independent Gaussian noise in each round.
      records: If records are protected: each client's number of records, which is public.
      max_dimension: The number of trainable parameters of the largest model that the plan covers,
        which is public; >= 1. The charge for computed noise grows with its square root: see
        `arithmetic`.

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
    cohort: dataclasses.InitVar[float | None] = None  # `dataclasses.replace` passes it on

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
        # This refuses combinations without valid accounting.
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
            self.epsilon()  # raises AccountingError if no accountant covers all the rounds

    def __str__(self) -> str:
        return shown.text_of(self)

    def _repr_html_(self) -> str:
        return shown.html_of(self)

    @property
    def unit(self) -> Unit:
        """The unit of privacy, which the mechanism determines."""
        return type(self.mechanism).unit

    @property
    def update_mechanism(self) -> Mechanism:
        """The mechanism with the noise multiplier of the updates; `metrics` make it larger."""
        left = 1 - sum(metric.budget_fraction for metric in self.metrics)
        return self.mechanism.with_noise(self.mechanism.noise_multiplier / math.sqrt(left))

    @property
    def clients_per_round(self) -> float:
        """The public expected number of clients a round, m: the denominator of every average."""
        return self.sampler.expected_clients(self.population)

    def one_round(self) -> Round:
        """Returns the description of one round for the accountants."""
        return round_of(self.mechanism, self.sampler, self.population, self.adjacency, self.records)

    @property
    def arithmetic(self) -> Arithmetic | None:
        """The number and kind of noise draws in a round, for which every epsilon of the plan is charged.

        None for distributed mechanisms, whose integer noise TFF draws: the accuracy of its samplers
        is assumed.
        """
        return arithmetic_of(self.mechanism, self.rounds, self.max_dimension, len(self.metrics))

    def event(self, rounds: int | Sequence[range] | None = None) -> dp_accounting.DpEvent:
        """Returns the privacy event of a number of rounds, for dp-accounting's PLD accountant.

        Args:
          rounds: As for `epsilon`.

        Returns:
          The event of one round, composed with itself.

        Raises:
          AccountingError: More rounds than the plan covers.
          ArgumentError: `rounds` is negative or not a whole number.
        """
        one_round, count = self.one_round().equivalent(tuple(self._runs(rounds)))
        return dp_accounting.SelfComposedDpEvent(one_round.event(), count)

    def check_rounds(self, rounds: int | None) -> int:
        """Checks a number of rounds.

        Args:
          rounds: A number of rounds, in [0, T], or None.

        Returns:
          `rounds`, or T, all rounds of the plan, for None.

        Raises:
          AccountingError: More rounds than the plan covers.
          ArgumentError: `rounds` is negative or not a whole number.
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
        """Returns the epsilon of a number of rounds.

        Args:
          rounds: The number of rounds, in [0, T]; by default T, all rounds of the plan. Or the
            rounds of each of several runs, counted from 1, as in `Ledger.runs`.

        Returns:
          The report; its `epsilon` is the number to state.

        Raises:
          AccountingError: More rounds than the plan covers.
          ArgumentError: `rounds` is negative or not a whole number.
        """
        return spend(self.one_round(), self._runs(rounds), self.delta, self.arithmetic)

    def epsilon_by_client(
        self, rounds: int | Sequence[range] | None = None
    ) -> tuple[EpsilonReport, ...]:
        """Returns the epsilon of a number of rounds for each client.

        If records are protected, each client's report depends on its own number of records, and
        `epsilon` is that of the worst client. If clients are protected, all reports are the same.

        Args:
          rounds: As for `epsilon`. A round counts for every client, whether or not it participated.

        Returns:
          A report for each client, in the order of the clients.

        Raises:
          AccountingError: More rounds than the plan covers.
          ArgumentError: `rounds` is negative or not a whole number.
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
            # A lower rate has a smaller epsilon; only an accountant's numerical error can make it
            # larger.
            return min(found, worst, key=lambda report: report.epsilon)

        return tuple(own(position) for position in range(self.population))

    def quick_epsilon(self, rounds: int | Sequence[range]) -> float:
        """Returns a cheap upper bound on `epsilon(rounds).epsilon`, for display during training.

        Args:
          rounds: As for `epsilon`.

        Returns:
          An epsilon. If no fast accountant applies, it is `epsilon(rounds).epsilon` itself.

        Raises:
          AccountingError: More rounds than the plan covers.
          ArgumentError: `rounds` is negative or not a whole number.
        """
        try:
            return quick_epsilon(self.one_round(), self._runs(rounds), self.delta, self.arithmetic)
        except AccountingError:  # no fast accountant applies to this sampler and adjacency
            return self.epsilon(rounds).epsilon

    def calibrated(self, target_epsilon: float) -> PrivacyPlan:
        """Returns a copy of the plan with the smallest noise multiplier that meets a target epsilon.

        Args:
          target_epsilon: The largest epsilon of all rounds together; in (0, 100].

        Returns:
          A plan whose `epsilon().epsilon` is at most the target. Its noise multiplier exceeds the
          smallest one by at most a relative 1e-3.

        Raises:
          ArgumentError: The target is outside its bound, or the mechanism does not support the
            noise.
          AccountingError: No noise multiplier meets the target.
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
        """Draws the cohort of a round.

        Args:
          round_number: The round, in [1, T].
          population: The number of clients, which must be that of the plan.
          seed: The seed of the run, or None for entropy of the operating system.

        Returns:
          The sorted positions of the clients, int64 [cohort]; may be empty under Poisson sampling.

        Raises:
          ArgumentError: The number of clients differs from that of the plan, or the seed is None
            although cohorts depend on earlier ones.
          AccountingError: The round is beyond those of the plan.
        """
        self.check_population(population)
        self.check_rounds(round_number)
        return self.sampler.cohort(self.population, round_number, root(self.sampler, seed))

    def check_records(self, records: Sequence[int]) -> None:
        """Checks the clients' numbers of records against those of the plan, if it has any.

        Args:
          records: Each client's number of records.

        Raises:
          ArgumentError: The number of clients differs from that of the plan.
          DataError: A client's number of records differs.
        """
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
        """Checks that the plan covers a model of a given size.

        Args:
          parameters: The model's number of trainable parameters, in scalars.

        Raises:
          ArgumentError: It exceeds `max_dimension`, and the plan charges for computed noise.
        """
        if self.arithmetic is not None and parameters > self.max_dimension:
            raise ArgumentError(
                f"max_dimension={self.max_dimension} of the privacy plan is below the model's number of "
                f"trainable parameters, {parameters}: expected at least as many, for which the plan "
                f"charges computed noise. Make the plan with max_dimension={parameters}."
            )

    def check_population(self, population: int) -> None:
        """Checks the number of clients against that of the plan.

        Args:
          population: The number of clients.

        Raises:
          ArgumentError: It differs from that of the plan.
        """
        if population != self.population:
            raise ArgumentError(
                f"population={self.population} of the privacy plan does not fit the data: expected the "
                f"number of clients, {population}. Make the plan with population={population}."
            )
