"""The self-test of a plan."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tff_dp import _checks
from tff_dp.errors import ArgumentError
from tff_dp.execution import current_or_fast, is_seeded
from tff_dp.mechanisms import AdaptiveGaussianMechanism, PerLayerGaussianMechanism
from tff_dp.plan import PrivacyPlan
from tff_dp.process import build_process
from tff_dp.selftest import influence, noise
from tff_dp.selftest.laws import Law, law_of
from tff_dp.selftest.probes import ALGORITHMS, TENSORS, Aggregator, Process, probes
from tff_dp.selftest.report import Check, SelfTestReport

_FEW = 4  # coordinates of a tensor, where their number does not matter
_SLOWEST_CLIP = 0.01  # below it, float32 hides the count that moves the clip norm
_MOST_CLIENTS = 1_000_000  # and above it


def self_test(
    plan: PrivacyPlan,
    *,
    build: Callable[..., Any] = build_process,
    algorithms: Sequence[str] = tuple(ALGORITHMS),
    samples: int = 20_000,
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
    law = law_of(plan.update_mechanism)
    _check_plan(plan)
    # XLA would compile a minute for the few rounds that each of the graphs runs.
    with current_or_fast(xla=False):
        return SelfTestReport(
            plan=plan, checks=tuple(_run(plan, law, build, algorithms, samples // TENSORS))
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


def _run(
    plan: PrivacyPlan,
    law: Law,
    build: Callable[..., Any],
    algorithms: Sequence[str],
    dimension: int,
) -> Iterator[Check]:
    mechanism, m = plan.update_mechanism, plan.clients_per_round
    wide, narrow = (probes(law, mechanism, size) for size in (dimension, _FEW))
    silent = dataclasses.replace(plan, mechanism=plan.mechanism.with_noise(0.0))

    silent_aggregator = Aggregator(silent, narrow)
    silent_processes = [Process(name, build, silent, wide) for name in algorithms]
    yield from influence.influence_checks([*silent_processes, silent_aggregator], law, mechanism, m)
    if isinstance(mechanism, AdaptiveGaussianMechanism):
        yield influence.count_influence_check(silent_aggregator, law, mechanism, m)

    processes = [Process(name, build, plan, wide) for name in algorithms]
    yield noise.release_check(processes, law, mechanism, m)
    cells = noise.values_cells(processes, law, mechanism, m, plan.rounds)
    yield noise.size_check("noise: standard deviation", cells)
    yield noise.shape_check("noise: distribution", cells)
    yield noise.reuse_check("noise: fresh in each coordinate, tensor, round and run", cells)
    if isinstance(mechanism, AdaptiveGaussianMechanism):
        counts = noise.count_cells(Aggregator(plan, narrow), law, mechanism, m)
        own = {"the count": counts["the count"]}
        yield noise.size_check("noise of the count: standard deviation", own)
        yield noise.shape_check("noise of the count: distribution", own)
        yield noise.apart_check("noise of the count: fresh, and apart from the updates'", counts)
    yield Check(
        name="noise: drawn from no known seed",
        measured=float(is_seeded()),
        low=-math.inf,
        high=0.0,
        unit="seeds",
    )
