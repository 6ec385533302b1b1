"""Runs the self-test of a plan."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from tff_dp import _checks
from tff_dp.errors import ArgumentError, ComputationError
from tff_dp.execution import current_or_fast, noise_bits
from tff_dp.mechanisms import (
    DistributedGaussianMechanism,
    DistributedSkellamMechanism,
    Mechanism,
    RecordGaussianMechanism,
)
from tff_dp.plan import PrivacyPlan
from tff_dp.process import build_process
from tff_dp.selftest import central, distributed, record
from tff_dp.selftest.laws import law_of
from tff_dp.selftest.probes import ALGORITHMS
from tff_dp.selftest.report import Check, SelfTestReport
from tff_dp.selftest.testable import TENSORS, check_plan

# The mechanisms whose noise has no density on one coordinate of a sum, by exact class.
_OWN_TESTS: dict[type[Mechanism], Callable[..., distributed.Setting | record.Setting]] = {
    DistributedGaussianMechanism: lambda plan, *_: distributed.Setting(plan),
    DistributedSkellamMechanism: lambda plan, *_: distributed.Setting(plan),
    RecordGaussianMechanism: record.Setting,
}
PARTS = ("influence", "arithmetic", "provenance", "noise")
"""The parts of a self-test, in the order in which they run."""


def self_test(
    plan: PrivacyPlan,
    *,
    build: Callable[..., Any] = build_process,
    algorithms: Sequence[str] = tuple(ALGORITHMS),
    samples: int = 20_000,
    thorough: bool = False,
) -> SelfTestReport:
    """Runs hostile clients through the learning processes of a plan, and tests its noise.

    Without noise, clients with norm 1e9, with a NaN, with an infinity, without an update, without
    examples, at the bound and with 100 times the examples join a round, and their influence is
    compared with what the accounting allows. With noise, its size, distribution and freshness are
    tested, and everything that a round returns is searched for values that depend on clients and
    have no noise. Sums must not depend on the order of clients. Updates of millions of weights and
    of other formats must be clipped like any other. The graphs that run must draw noise from whole
    words of bits whose key comes from the operating system, and the most extreme words must reach
    the whole tail.

    The processes are those that `build_process` makes for FedAvg and FedSGD, for a model whose
    gradient is the example; the aggregator is also tested directly. They run in the execution
    context that is installed, or in `tff_dp.execution.fast(xla=False)`.

    For distributed plans, the integers that clients send to the sum and the variance of the noise
    are measured; for record-level plans, the influence of one record, how batches are drawn, and
    the noise over the steps of a round. The report names what could not be tested.

    A self-test cannot see who is drawn into a cohort, the quality of the random generator, a defect
    that depends on the user's model or data, and training metrics: plain metrics are not private in
    any case, and private metrics of the plan are left out.

    Formal guarantee: a report that has passed is evidence and not a proof. A correct implementation
    fails with probability at most the report's `false_positive`.

    Args:
      plan: The plan; its noise multiplier must be above 0.
      build: The function that makes the learning process; called as `build_process`.
      algorithms: The algorithms to run, of "FedAvg" and "FedSGD".
      samples: The number of coordinates of one round's noise; even, in [1000, 10^7]. The default
        detects a standard deviation that is wrong by 5 %.
      thorough: Whether to sum 24,577 clients instead of 3073, and to clip an update of 2^25 weights
        instead of 2^22. This takes a minute and 2 GiB more.

    Returns:
      Every check, with the measured value and its bounds.

    Raises:
      ArgumentError: An argument is outside its bound, or the mechanism has no self-test.
      StackError: TFF cannot be imported.
    """
    thorough = _checks.flag("thorough", thorough)
    _checks.instance("plan", plan, PrivacyPlan, "Without a plan there is nothing to test.")
    if not algorithms:
        raise ArgumentError(
            f"algorithms={algorithms!r} is empty: expected at least one of {', '.join(ALGORITHMS)}."
        )
    for name in algorithms:
        _checks.one_of("algorithms", name, ALGORITHMS)
    samples = _checks.integer("samples", samples, "[1000, 10000000]")
    check_plan(plan)
    return checks_of(plan, build=build, algorithms=algorithms, samples=samples, thorough=thorough)


def checks_of(
    plan: PrivacyPlan,
    *,
    build: Callable[..., Any] = build_process,
    algorithms: Sequence[str] = tuple(ALGORITHMS),
    samples: int = 20_000,
    thorough: bool = False,
    parts: Collection[str] = PARTS,
) -> SelfTestReport:
    """Runs some parts of a self-test, without checking the arguments.

    Args:
      plan: The plan.
      build: As for `self_test`.
      algorithms: As for `self_test`.
      samples: As for `self_test`.
      thorough: As for `self_test`.
      parts: The parts to run, of `PARTS`.

    Returns:
      The report.
    """
    # XLA would compile for a minute, for the few rounds that each of the graphs runs.
    with current_or_fast(xla=False):
        of = _setting_of(plan, build, tuple(algorithms), samples // TENSORS, thorough)
        checks: list[Check] = []
        for name, part in of.parts.items():
            if name not in parts:
                continue
            try:
                checks.extend(part())  # checks that it has yielded are kept if it raises
            except ComputationError as error:
                # The context refuses noise that others can guess. A check of provenance reports
                # that, unless that part was left out.
                if not any(noise_bits(path.next).obstacle for path in of.noised):
                    raise
                of.untested.append(f"the rest of {name}: {error}")
    return SelfTestReport(plan=plan, checks=tuple(checks), untested=tuple(of.untested))


def _setting_of(
    plan: PrivacyPlan,
    build: Callable[..., Any],
    algorithms: tuple[str, ...],
    dimension: int,
    thorough: bool,
) -> central.Setting | distributed.Setting | record.Setting:
    own = _OWN_TESTS.get(type(plan.mechanism))
    if own is not None:
        return own(plan, build, dimension)
    law = law_of(plan.update_mechanism)
    return central.Setting(plan, law, build, algorithms, dimension, thorough)
