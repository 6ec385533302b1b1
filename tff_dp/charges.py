"""What has been spent on one data set, under one plan or several."""

from __future__ import annotations

import dataclasses
import math
import secrets
from collections.abc import Iterable, Mapping
from typing import Any

from tff_dp import _checks
from tff_dp.accounting import (
    Arithmetic,
    EpsilonReport,
    PrivacyProfile,
    RecordRound,
    check_delta,
    privacy_profile,
    quick_joint_epsilon,
    spend_jointly,
)
from tff_dp.errors import AccountingError, ArgumentError
from tff_dp.plan import PrivacyPlan

_TOGETHER = ("population", "unit", "adjacency", "records")  # equal in all plans on one data set


def new_run() -> str:
    """Returns a unique name for a run: 128 random bits in hexadecimal, which reveal nothing."""
    return secrets.token_hex(16)


def differences(
    plan: PrivacyPlan, other: PrivacyPlan, fields: Iterable[str] | None = None
) -> dict[str, tuple[Any, Any]]:
    """Compares two plans field by field.

    Args:
      plan: One plan.
      other: The other plan.
      fields: The names of the fields to compare; all fields by default.

    Returns:
      For each field in which the plans differ, its value in `plan` and its value in `other`, as
      `PrivacyPlan.to_dict` has them.
    """
    one, two = plan.to_dict(), other.to_dict()
    names = [*dict.fromkeys((*one, *two))] if fields is None else fields
    return {n: (one.get(n), two.get(n)) for n in names if one.get(n) != two.get(n)}


def shortened(found: Mapping[str, tuple[Any, Any]]) -> dict[str, tuple[str, str]]:
    """Turns the result of `differences` into short texts for a message.

    Two objects of one class are reduced to the fields in which they differ, such as
    "mechanism.noise_multiplier"; two objects of different classes, to the names of the classes. Two
    lists of one length are reduced to the first entries that differ; other lists, to their first
    entries and their length.

    Args:
      found: The differing fields, as `differences` returns them.

    Returns:
      For each field that differs, its two values as texts.
    """
    texts: dict[str, tuple[str, str]] = {}
    for name, (one, two) in found.items():
        if isinstance(one, dict) and isinstance(two, dict):
            if one.get("type") != two.get("type"):
                texts[name] = str(one.get("type")), str(two.get("type"))
                continue
            fields = [key for key in {**one, **two} if one.get(key) != two.get(key)]
            parts = {f"{name}.{key}": (one.get(key), two.get(key)) for key in fields}
            texts |= shortened(parts)
        elif isinstance(one, list) and isinstance(two, list) and len(one) == len(two):
            places = [k for k, (a, b) in enumerate(zip(one, two, strict=True)) if a != b]
            more = f" and {len(places) - 1} more" if len(places) > 1 else ""
            first = places[0]
            texts[f"{name}[{first}]{more}"] = repr(one[first]), repr(two[first])
        else:
            texts[name] = _checks.brief(one), _checks.brief(two)
    return texts


def incompatibility(plan: PrivacyPlan, other: PrivacyPlan) -> str:
    """Says why two plans cannot be accounted for by one joint epsilon.

    Args:
      plan: One plan.
      other: The other plan.

    Returns:
      The fields that prevent it, with both values; empty if nothing does.
    """
    found = shortened(differences(plan, other, _TOGETHER))
    return "; ".join(f"{name}: {one} and {two}" for name, (one, two) in found.items())


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChargedRun:
    """Rounds of one run under one plan.

    Attributes:
      plan: The plan.
      rounds: The rounds that were charged, counted from 1 within the run.
      run: The unique name of the run.
      coins: A hash of the seed from which the cohorts were drawn, if the caller gave a seed;
        otherwise None. Runs with the same hash had the same cohorts, and the composition theorems
        for sampled rounds do not hold for them.
    """

    plan: PrivacyPlan
    rounds: range
    run: str
    coins: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Charges:
    """Everything that is known to have been spent on one data set.

    Args:
      runs: The runs, under one plan or several.
      unbounded: Whether the data were also used without differential privacy. In that case nothing
        bounds what has been spent.

    Raises:
      ArgumentError: Two plans differ in the population, the unit, the neighboring relation or the
        numbers of records, so that no epsilon can be stated for both; or a run occurs twice; or two
        runs drew their cohorts from the same seed.
    """

    runs: tuple[ChargedRun, ...] = ()
    unbounded: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "unbounded", _checks.flag("unbounded", self.unbounded))
        object.__setattr__(self, "runs", tuple(self.runs))
        for plan in self.plans[1:]:
            difference = incompatibility(self.plans[0], plan)
            if difference:
                raise ArgumentError(
                    "Two plans cannot be counted together on one data set. They differ in "
                    f"{difference}. Use plans with the same values, or count plans on different "
                    "data separately."
                )
        names = [run.run for run in self.runs]
        if len(set(names)) < len(names):
            raise ArgumentError(f"runs={names!r}: a run occurs twice. Join charges by `|`.")
        coins = [run.coins for run in self.runs if run.coins is not None]
        if len(set(coins)) < len(coins):
            raise ArgumentError(
                "Two runs drew their cohorts from the same seed on the same data: their cohorts are "
                "the same, and their privacy losses cannot be composed as those of independent samples. "
                "Train with different seeds, without a seed, or with one ledger for both, which derives "
                "different seeds."
            )

    @property
    def plans(self) -> tuple[PrivacyPlan, ...]:
        """The plans, without repetition, in the order of their first charges."""
        return tuple(dict.fromkeys(run.plan for run in self.runs))

    @property
    def rounds(self) -> int:
        """The number of rounds that have been charged under all plans together."""
        return sum(len(run.rounds) for run in self.runs)

    def of(self, plan: PrivacyPlan) -> tuple[range, ...]:
        """Returns the rounds that were charged under one plan.

        Args:
          plan: The plan.

        Returns:
          The rounds of each run under the plan, as `PrivacyPlan.epsilon` takes them.
        """
        return tuple(run.rounds for run in self.runs if run.plan == plan)

    def rounds_of(self, names: Iterable[str]) -> int:
        """Returns the number of rounds that have been charged in some of the runs.

        Args:
          names: The names of the runs. Those that have no charges count for nothing.

        Returns:
          The number of rounds.
        """
        wanted = {*names}
        return sum(len(run.rounds) for run in self.runs if run.run in wanted)

    def __or__(self, other: Charges) -> Charges:
        """Returns the charges of both; a run that occurs in both counts once, with all its rounds."""
        found = {run.run: run for run in self.runs}
        for run in other.runs:
            known = found.get(run.run)
            if known is not None:
                if known.plan != run.plan:
                    raise ArgumentError(
                        f"run={run.run!r} has two different plans: one of the records was edited."
                    )
                first = min(known.rounds.start, run.rounds.start)
                last = max(known.rounds.stop, run.rounds.stop)
                coins = known.coins if run.coins is None else run.coins
                run = dataclasses.replace(run, rounds=range(first, last), coins=coins)
            found[run.run] = run
        return Charges(runs=tuple(found.values()), unbounded=self.unbounded or other.unbounded)

    def with_run(
        self, plan: PrivacyPlan, rounds: int, coins: str | None = None, *, first: int = 1
    ) -> Charges:
        """Adds a new run to these charges.

        Args:
          plan: The plan of the run.
          rounds: The number of its last round; >= 1.
          coins: A hash of the seed of its cohorts, or None; as for `ChargedRun`.
          first: The number of its first round, which is above 1 for a run that goes on from the
            state of an earlier one; >= 1.

        Returns:
          These charges and those of the new run; these charges alone if `first` exceeds `rounds`.

        Raises:
          ArgumentError: The plan cannot be counted together with these charges, or a run has the
            same `coins`.
        """
        if first > rounds:
            return self
        run = ChargedRun(plan=plan, rounds=range(first, rounds + 1), run=new_run(), coins=coins)
        return self | Charges(runs=(run,))

    def without(self, run: str) -> Charges:
        """Returns these charges without those of one run.

        Args:
          run: The name of the run.

        Returns:
          The charges of all other runs.
        """
        return dataclasses.replace(self, runs=tuple(each for each in self.runs if each.run != run))

    def covers(self, other: Charges) -> bool:
        """Says whether every charge of `other` is also a charge of this object.

        Args:
          other: The charges to look for.

        Returns:
          True if each run of `other` is here, under the same plan and with at least its rounds, and
          `unbounded` holds here if it holds for `other`.
        """
        found = {run.run: run for run in self.runs}
        return (self.unbounded or not other.unbounded) and all(
            run.run in found
            and found[run.run].plan == run.plan
            and found[run.run].rounds.start <= run.rounds.start
            and run.rounds.stop <= found[run.run].rounds.stop
            for run in other.runs
        )

    def spent(self, delta: float | None = None) -> EpsilonReport:
        """Returns what all charges have spent together.

        Args:
          delta: The delta of the joint epsilon, in (0, 1/N), with N as for `PrivacyPlan`. By
            default the smallest delta of the plans.

        Returns:
          The report. Its epsilon is infinite if the data were also used without differential
          privacy.

        Raises:
          ArgumentError: There are no charges under a plan, or delta is outside its bound.
          AccountingError: No accountant applies to all plans together.
        """
        report = spend_jointly(self._parts(), self._delta(delta), arithmetic=self._arithmetic())
        return _without_bound(report) if self.unbounded else report

    def profile(self, least_delta: float | None = None) -> PrivacyProfile:
        """Returns the epsilon of all charges together at many deltas.

        Args:
          least_delta: The smallest delta; in (0, 0.1]. By default a thousandth of the smallest delta
            of the plans.

        Returns:
          The profile. It has no point if the data were also used without differential privacy.

        Raises:
          ArgumentError: There are no charges under a plan, or the delta is outside its bound.
          AccountingError: No accountant applies to all plans together.
        """
        if self.unbounded:
            return PrivacyProfile(epsilons=(), deltas=())
        if least_delta is None:
            least_delta = self._delta(None) / 1000
        return privacy_profile(
            self._parts(), arithmetic=self._arithmetic(), least_delta=least_delta
        )

    def quick_epsilon(self, delta: float | None = None) -> float:
        """Returns a cheap upper bound on `spent(delta).epsilon`, for display during training.

        Args:
          delta: As for `spent`.

        Returns:
          Epsilon; >= 0, and infinite if the data were also used without differential privacy.

        Raises:
          ArgumentError: There are no charges under a plan, or delta is outside its bound.
          AccountingError: No accountant applies to all plans together.
        """
        if self.unbounded:
            return math.inf
        try:
            return quick_joint_epsilon(
                self._parts(), self._delta(delta), arithmetic=self._arithmetic()
            )
        except AccountingError:  # there is no quick accountant for this sampler and adjacency
            latest = self.runs[-1].plan
            others = tuple(run for run in self.runs if run.plan != latest)
            if not others:
                return self.spent(delta).epsilon
            own = tuple(run for run in self.runs if run.plan == latest)
            # The epsilon of the other plans does not change from round to round: it is cached.
            half = self._delta(delta) / 2
            return sum(Charges(runs=runs).spent(half).epsilon for runs in (others, own))

    def spent_by_unit(self, delta: float | None = None) -> tuple[EpsilonReport, ...]:
        """Returns what has been spent at each client.

        Under record-level plans, each client has the report that follows from its own number of
        records. Under client-level plans, all clients have the same report.

        Args:
          delta: As for `spent`.

        Returns:
          One report for each client, in the order of the clients.

        Raises:
          ArgumentError: There are no charges under a plan, or delta is outside its bound.
          AccountingError: No accountant applies to all plans together.
        """
        worst, at = self.spent(delta), self._delta(delta)
        rounds = [(plan.one_round(), self.of(plan)) for plan in self.plans]

        def own(position: int) -> EpsilonReport:
            parts = [(r.of_client(position), t) for r, t in rounds if isinstance(r, RecordRound)]
            try:
                found = spend_jointly(parts, at, arithmetic=self._arithmetic())
            except AccountingError:
                return worst
            # A lower sampling rate never spends more; only the error of an accountant can suggest
            # it.
            return min(found, worst, key=lambda report: report.epsilon)

        population = self.plans[0].population
        if self.unbounded or not isinstance(rounds[0][0], RecordRound):
            return (worst,) * population
        return tuple(own(position) for position in range(population))

    def _arithmetic(self) -> list[Arithmetic | None]:
        return [plan.arithmetic for plan in self.plans]

    def _parts(self) -> list[tuple[Any, tuple[range, ...]]]:
        if not self.runs:
            raise ArgumentError("runs=() is empty: expected at least one run under a privacy plan.")
        return [(plan.one_round(), self.of(plan)) for plan in self.plans]

    def _delta(self, delta: float | None) -> float:
        if delta is None:
            return min(plan.delta for plan in self.plans)
        return checked_delta(self.plans[0], delta)

    def to_dict(self) -> dict[str, Any]:
        """Returns the charges as plain values that JSON can hold, which `from_dict` reads."""
        plans = self.plans
        return {
            "plans": [plan.to_dict() for plan in plans],
            "runs": [
                {
                    "run": run.run,
                    "plan": plans.index(run.plan),
                    "first": run.rounds.start,
                    "last": run.rounds.stop - 1,
                    **({} if run.coins is None else {"coins": run.coins}),
                }
                for run in self.runs
            ],
            "unbounded": self.unbounded,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Charges:
        """Restores charges from the result of `to_dict`.

        Args:
          values: The plain values.

        Returns:
          Equal charges.

        Raises:
          ArgumentError: A value is missing, malformed or outside its bound.
        """
        try:
            plans = [PrivacyPlan.from_dict(plan) for plan in values["plans"]]
            runs = [
                ChargedRun(
                    plan=plans[_checks.integer("plan", run["plan"], f"[0, {len(plans) - 1}]")],
                    rounds=range(
                        _checks.integer("first", run["first"], "[1, inf)"),
                        _checks.integer("last", run["last"], f"[{run['first']}, inf)") + 1,
                    ),
                    run=str(run["run"]),
                    coins=None if run.get("coins") is None else str(run["coins"]),
                )
                for run in values["runs"]
            ]
            return cls(runs=tuple(runs), unbounded=values["unbounded"])
        except (KeyError, TypeError) as error:
            raise ArgumentError(
                f"This is not a record of charges: {error} is missing or malformed."
            ) from None


def checked_delta(plan: PrivacyPlan, delta: float) -> float:
    """Checks that a delta is below one over the number of units that a plan protects.

    Args:
      plan: The plan. Its units are all clients, or the records of the client with the most records.
      delta: The delta to check.

    Returns:
      The delta as a float.

    Raises:
      ArgumentError: The delta is outside its bound.
    """
    units = plan.population if plan.records is None else max(plan.records)
    check_delta("delta", delta, units, plan.unit.value)
    return float(delta)


def _without_bound(report: EpsilonReport) -> EpsilonReport:
    return dataclasses.replace(
        report,
        epsilon=math.inf,
        accountant="exact",
        values={"exact": math.inf},
        refused={},
    )
