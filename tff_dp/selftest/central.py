"""The self-test of plans whose noise has a known law: central noise, and local noise of clients."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tff_dp.mechanisms import AdaptiveGaussianMechanism
from tff_dp.plan import PrivacyPlan
from tff_dp.selftest import arithmetic, influence, noise, provenance
from tff_dp.selftest.laws import Law
from tff_dp.selftest.probes import Aggregator, Path, Probe, Process, probes
from tff_dp.selftest.report import Check

_FEW = 4  # coordinates of a tensor if their number does not matter


@dataclasses.dataclass
class Setting:
    """The common setting of the parts of a self-test.

    Attributes:
      plan: The plan.
      law: The law of its mechanism.
      build: The function that makes the learning process; called as `build_process`.
      algorithms: The names of the algorithms to run.
      dimension: The number of coordinates of a tensor whose noise is tested.
      thorough: Whether to use the larger sizes.
      untested: Descriptions of what no check covers; parts append to it.
    """

    plan: PrivacyPlan
    law: Law
    build: Callable[..., Any]
    algorithms: tuple[str, ...]
    dimension: int
    thorough: bool
    untested: list[str] = dataclasses.field(default_factory=list)

    @property
    def parts(self) -> Mapping[str, Callable[[], Iterator[Check]]]:
        """The parts of the self-test by name, each a function that yields checks."""
        return {
            "influence": lambda: _influence(self),
            "arithmetic": lambda: _arithmetic(self),
            "provenance": lambda: _provenance(self),
            "noise": lambda: _noise(self),
        }

    @property
    def noised(self) -> list[Path]:
        """The processes and the aggregator, which draw noise."""
        return [*self.processes, self.aggregator]

    @property
    def mechanism(self) -> Any:
        """The plan's mechanism with the share of the noise that is left to updates."""
        return self.plan.update_mechanism

    @property
    def m(self) -> float:
        """The public expected number of clients in a round."""
        return self.plan.clients_per_round

    @functools.cached_property
    def silent(self) -> PrivacyPlan:
        """The plan without noise."""
        return dataclasses.replace(self.plan, mechanism=self.plan.mechanism.with_noise(0.0))

    @functools.cached_property
    def silent_aggregator(self) -> Aggregator:
        """The aggregator without noise."""
        return Aggregator(self.silent, self._clients(_FEW))

    @functools.cached_property
    def silent_processes(self) -> list[Process]:
        """The processes without noise."""
        return self._processes(self.silent)

    @functools.cached_property
    def aggregator(self) -> Aggregator:
        """The aggregator with noise."""
        return Aggregator(self.plan, self._clients(_FEW))

    @functools.cached_property
    def processes(self) -> list[Process]:
        """The processes with noise."""
        return self._processes(self.plan)

    def _processes(self, plan: PrivacyPlan) -> list[Process]:
        clients = self._clients(self.dimension)
        return [Process(name, self.build, plan, clients) for name in self.algorithms]

    def _clients(self, dimension: int) -> dict[str, Probe]:
        return probes(self.law, self.mechanism, dimension)


def _influence(of: Setting) -> Iterator[Check]:
    """Yields the checks of sensitivity, weights and denominator, without noise."""
    paths: list[Path] = [*of.silent_processes, of.silent_aggregator]
    yield from influence.influence_checks(paths, of.law, of.mechanism, of.m)
    if isinstance(of.mechanism, AdaptiveGaussianMechanism):
        yield influence.count_influence_check(of.silent_aggregator, of.law, of.mechanism, of.m)


def _arithmetic(of: Setting) -> Iterator[Check]:
    """Yields the checks of sums and norms in floating point, without noise."""
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


def _provenance(of: Setting) -> Iterator[Check]:
    """Yields the checks of the source of random bits, and of the tail of the noise."""
    paths, by_clients = of.noised, of.law.by_clients
    yield provenance.keyed_check(paths, by_clients=by_clients)
    yield provenance.words_check(paths, by_clients=by_clients)
    yield provenance.reach_check(of.aggregator, of.law, of.mechanism, of.m, of.plan.rounds)
    yield provenance.seed_check()


def _noise(of: Setting) -> Iterator[Check]:
    """Yields the checks of the size, law and freshness of the noise, and that nothing lacks it."""
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
