"""The self-test of a plan."""

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
    Sums must not depend on the order of clients, updates of millions of weights and of other formats must
    be clipped like others, and the graphs that run must draw noise from whole words of bits that the
    operating system keys, and reach the whole tail with the farthest of them.
    The processes are those that `build_process` makes, of FedAvg and of FedSGD, for a model whose
    gradient is the example; the aggregator is fed directly as well. They run in the execution context
    that is installed, or in `tff_dp.execution.fast(xla=False)`.

    Of distributed plans, what clients send to the sum is measured, and the noise's variance; of
    record-level plans, one record's influence, how batches are drawn, and the noise over the steps of a
    round. The report names what could not be tested.

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
      thorough: Whether to take 24,577 clients in place of 3073 to a sum, and an update of 2^25 weights
        in place of 2^22: a minute and 2 GiB more.

    Returns:
      Every check, with what was measured and its bound.

    Raises:
      ArgumentError: An argument is outside its bound, or the mechanism is one that has no self-test.
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
    """Returns a self-test's report on some of its parts; the arguments are as for `self_test`.

    Args:
      plan: The plan.
      build: What makes the learning process.
      algorithms: Those to run.
      samples: Coordinates of one round's noise.
      thorough: Whether to take the larger sizes.
      parts: Of `PARTS`.
    """
    # XLA would compile a minute for the few rounds that each of the graphs runs.
    with current_or_fast(xla=False):
        of = _setting_of(plan, build, tuple(algorithms), samples // TENSORS, thorough)
        checks: list[Check] = []
        for name, part in of.parts.items():
            if name not in parts:
                continue
            try:
                checks.extend(part())  # what it has yielded is kept if it raises
            except ComputationError as error:
                # Noise that others can guess is refused by the context: a check says so, or the user
                # has left that part out.
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
