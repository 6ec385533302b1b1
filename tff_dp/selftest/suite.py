"""The self-test of a plan."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from tff_dp import _checks
from tff_dp.errors import ArgumentError
from tff_dp.execution import current_or_fast, is_seeded
from tff_dp.execution.stock import is_managed
from tff_dp.mechanisms import (
    AdaptiveGaussianMechanism,
    DistributedMechanism,
    PerLayerGaussianMechanism,
    RecordGaussianMechanism,
)
from tff_dp.plan import PrivacyPlan
from tff_dp.process import build_process
from tff_dp.selftest import arithmetic, distributed, influence, noise, provenance, record
from tff_dp.selftest.laws import Law, law_of
from tff_dp.selftest.probes import ALGORITHMS, TENSORS, Aggregator, Probe, Process, probes
from tff_dp.selftest.report import Check, SelfTestReport

_FEW = 4  # coordinates of a tensor, where their number does not matter
_SLOWEST_CLIP = 0.01  # below it, float32 hides the count that moves the clip norm
_MOST_CLIENTS = 1_000_000  # and above it
PARTS = ("influence", "arithmetic", "provenance", "noise")
"""Of a self-test, in the order in which they run."""


def self_test(
    plan: PrivacyPlan,
    *,
    build: Callable[..., Any] = build_process,
    algorithms: Sequence[str] = tuple(ALGORITHMS),
    samples: int = 20_000,
    thorough: bool = False,
) -> SelfTestReport:
    """Runs hostile clients through the learning processes of a plan, and its noise through tests.

    With the noise off, clients of norm 1e9, with a NaN, with an infinity, without an update, without
    examples, at the bound and with 100 times the examples join a round, and what they move is compared
    with what the accounting allows. With the noise on, its size, its distribution and its freshness are
    tested, and whatever a round returns is searched for values that depend on clients and have no noise.
    The processes are those that `build_process` makes, of FedAvg and of FedSGD, for a model whose
    gradient is the example; the aggregator is fed directly as well. They run in the execution context
    that is installed, or in `tff_dp.execution.fast(xla=False)`.

    What it cannot see: who is drawn into a cohort, the quality of the random generator, a defect that
    depends on the user's model or data, and training metrics: plain ones are not private in any case, and
    a plan's own are left out.

    Formal guarantee: a report that has passed is evidence and no proof; a right implementation fails with
    probability at most the report's `false_positive`.

    Args:
      plan: The plan; its noise multiplier must be above 0.
      build: What makes the learning process: called as `build_process`.
      algorithms: Those to run, of "FedAvg" and "FedSGD".
      samples: Coordinates of one round's noise; even, in [1000, 10^7]. The default sees a standard
        deviation that is off by 5 %.

    Returns:
      Every check, with what was measured and its bound.

    Raises:
      ArgumentError: An argument is outside its bound, or the mechanism is one that has no self-test.
      StackError: TFF cannot be imported.
    """
    _checks.instance("plan", plan, PrivacyPlan, "Without a plan there is nothing to test.")
    if not algorithms:
        raise ArgumentError(
            f"algorithms={algorithms!r} is empty: expected at least one of {', '.join(ALGORITHMS)}."
        )
    for name in algorithms:
        _checks.one_of("algorithms", name, ALGORITHMS)
    samples = _checks.integer("samples", samples, "[1000, 10000000]")
    if not isinstance(plan.mechanism, DistributedMechanism | RecordGaussianMechanism):
        law_of(plan.update_mechanism)
    _check_plan(plan)
    return checks_of(
        plan, build=build, algorithms=algorithms, samples=samples, thorough=bool(thorough)
    )


def _check_plan(plan: PrivacyPlan) -> None:
    mechanism = plan.mechanism
    if isinstance(mechanism, PerLayerGaussianMechanism) and len(mechanism.clip_norms) != TENSORS:
        raise ArgumentError(
            f"clip_norms={mechanism.clip_norms!r} does not fit the self-test, whose model has {TENSORS} "
            f"weight tensors: expected {TENSORS} norms. Take two of them."
        )
    if mechanism.noise_multiplier == 0:
        raise ArgumentError(
            "noise_multiplier=0 has no noise to test: expected a number in (0, inf). Without noise there "
            "is no privacy."
        )
    if isinstance(mechanism, AdaptiveGaussianMechanism):
        _checks.real(
            "clip_learning_rate",
            mechanism.clip_learning_rate,
            f"[{_SLOWEST_CLIP}, inf)",
            "A self-test reads the count of unclipped clients off the clip norm, which a smaller rate "
            "moves too little.",
        )
        _checks.real(
            "cohort",
            plan.clients_per_round,
            f"(0, {_MOST_CLIENTS}]",
            "In a larger one, float32 hides what one client adds to the count of unclipped clients.",
        )


def checks_of(
    plan: PrivacyPlan,
    *,
    build: Callable[..., Any] = build_process,
    algorithms: Sequence[str] = tuple(ALGORITHMS),
    samples: int = 20_000,
    thorough: bool = False,
    parts: Collection[str] = PARTS,
) -> SelfTestReport:
    """Returns a self-test's report on some of its parts; the arguments are as for `self_test`.

    Args:
      plan: The plan.
      build: What makes the learning process.
      algorithms: Those to run.
      samples: Coordinates of one round's noise.
      thorough: Whether to take the larger sizes.
      parts: Of `PARTS`.
    """
    if isinstance(plan.mechanism, RecordGaussianMechanism):
        return _checks_of_records(plan, build, samples // TENSORS, parts)
    if isinstance(plan.mechanism, DistributedMechanism):
        return _checks_of_shares(plan, parts)
    law = law_of(plan.update_mechanism)
    setting = _Setting(plan, law, build, tuple(algorithms), samples // TENSORS, thorough)
    # XLA would compile a minute for the few rounds that each of the graphs runs.
    with current_or_fast(xla=False):
        found = [_PARTS[name](setting) for name in PARTS if name in parts]
        return SelfTestReport(
            plan=plan,
            checks=tuple(check for part in found for check in part),
            untested=tuple(setting.untested),
        )


def _checks_of_records(
    plan: PrivacyPlan, build: Callable[..., Any], dimension: int, parts: Collection[str]
) -> SelfTestReport:
    of = record.Setting(plan, build, dimension)
    checks: list[Check] = []
    with current_or_fast(xla=False):
        if "influence" in parts:
            checks += [*record.influence_part(of), *record.batches_part(of)]
        if "provenance" in parts:
            checks += [*record.provenance_part(of), seed_check()]
        if "noise" in parts:
            checks += record.noise_part(of)
    return SelfTestReport(plan=plan, checks=tuple(checks), untested=record.UNTESTED)


def _checks_of_shares(plan: PrivacyPlan, parts: Collection[str]) -> SelfTestReport:
    of = distributed.Setting(plan)
    checks: list[Check] = []
    with current_or_fast(xla=False) as context:
        if is_managed(context):
            parts = {"provenance"} & set(parts)
            of.untested.append("sensitivity and noise: stock TFF has no secure sums to run")
        if "influence" in parts:
            checks += distributed.influence_part(of)
        if "provenance" in parts:
            checks += [*distributed.provenance_part(of), seed_check()]
        if "noise" in parts:
            checks += distributed.noise_part(of)
    return SelfTestReport(plan=plan, checks=tuple(checks), untested=tuple(of.untested))


@dataclasses.dataclass
class _Setting:
    """What the parts of a self-test have in common."""

    plan: PrivacyPlan
    law: Law
    build: Callable[..., Any]
    algorithms: tuple[str, ...]
    dimension: int
    thorough: bool
    untested: list[str] = dataclasses.field(default_factory=list)

    @property
    def mechanism(self) -> Any:
        return self.plan.update_mechanism

    @property
    def m(self) -> float:
        return self.plan.clients_per_round

    @functools.cached_property
    def silent(self) -> PrivacyPlan:
        return dataclasses.replace(self.plan, mechanism=self.plan.mechanism.with_noise(0.0))

    @functools.cached_property
    def silent_aggregator(self) -> Aggregator:
        return Aggregator(self.silent, self._clients(_FEW))

    @functools.cached_property
    def silent_processes(self) -> list[Process]:
        return self._processes(self.silent)

    @functools.cached_property
    def aggregator(self) -> Aggregator:
        return Aggregator(self.plan, self._clients(_FEW))

    @functools.cached_property
    def processes(self) -> list[Process]:
        return self._processes(self.plan)

    def _processes(self, plan: PrivacyPlan) -> list[Process]:
        clients = self._clients(self.dimension)
        return [Process(name, self.build, plan, clients) for name in self.algorithms]

    def _clients(self, dimension: int) -> dict[str, Probe]:
        return probes(self.law, self.mechanism, dimension)


def _influence(of: _Setting) -> Iterator[Check]:
    """The sensitivity, weights and denominator, without noise."""
    paths = [*of.silent_processes, of.silent_aggregator]
    yield from influence.influence_checks(paths, of.law, of.mechanism, of.m)
    if isinstance(of.mechanism, AdaptiveGaussianMechanism):
        yield influence.count_influence_check(of.silent_aggregator, of.law, of.mechanism, of.m)


def _arithmetic(of: _Setting) -> Iterator[Check]:
    """Sums and norms in floating point, without noise."""
    yield arithmetic.order_check([*of.silent_processes, of.silent_aggregator])
    many, large = arithmetic.MANY_LOG, arithmetic.LARGE_LOG
    if of.thorough:
        many, large = arithmetic.MANY_LOG_THOROUGH, arithmetic.LARGE_LOG_THOROUGH
    form = dataclasses.replace(arithmetic.FLOAT32, many_log=many)
    yield arithmetic.many_check(of.silent_aggregator, of.law, of.mechanism, of.m, form)
    yield from arithmetic.format_checks(of.silent, of.law, of.mechanism)
    of.untested.extend(
        f"updates in {form.name}: the clip norm is outside its range"
        for form in arithmetic.FORMATS
        if not arithmetic.holds(form, of.mechanism)
    )
    yield arithmetic.large_check(of.silent, of.law, of.mechanism, large)


def _provenance(of: _Setting) -> Iterator[Check]:
    """Where random bits come from, and how far the noise reaches."""
    paths, by_clients = [*of.processes, of.aggregator], of.law.by_clients
    yield provenance.keyed_check(paths, by_clients=by_clients)
    yield provenance.words_check(paths, by_clients=by_clients)
    yield provenance.reach_check(of.aggregator, of.law, of.mechanism, of.m, of.plan.rounds)
    yield seed_check()


def _noise(of: _Setting) -> Iterator[Check]:
    """The noise's size, law and freshness, and that nothing goes without it."""
    law, mechanism, m = of.law, of.mechanism, of.m
    yield noise.release_check(of.processes, law, mechanism, m)
    cells = noise.values_cells(of.processes, law, mechanism, m, of.plan.rounds)
    yield noise.size_check("noise: standard deviation", cells)
    yield noise.shape_check("noise: distribution", cells)
    yield noise.reuse_check("noise: fresh in each coordinate, tensor, round and run", cells)
    if isinstance(mechanism, AdaptiveGaussianMechanism):
        counts = noise.count_cells(of.aggregator, law, mechanism, m)
        own = {"the count": counts["the count"]}
        yield noise.size_check("noise of the count: standard deviation", own)
        yield noise.shape_check("noise of the count: distribution", own)
        yield noise.apart_check("noise of the count: fresh, and apart from the updates'", counts)


def seed_check() -> Check:
    """Returns the check that the execution context has no seed."""
    return Check(
        name="noise: drawn from no known seed",
        measured=float(is_seeded()),
        low=-math.inf,
        high=0.0,
        unit="seeds",
    )


_PARTS: dict[str, Callable[[_Setting], Iterator[Check]]] = {
    "influence": _influence,
    "arithmetic": _arithmetic,
    "provenance": _provenance,
    "noise": _noise,
}
