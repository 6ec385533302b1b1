"""The self-test of record-level plans, whose clients add noise to their own steps.

The probes are the records of a client. The influence of one record is measured with every record in
every batch, under a plan for clients that have as many records as a batch.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from tff_dp.mechanisms import RecordGaussianMechanism
from tff_dp.plan import PrivacyPlan
from tff_dp.selftest import arithmetic, noise, provenance
from tff_dp.selftest.influence import ROUNDING
from tff_dp.selftest.laws import Law, l2_norm
from tff_dp.selftest.probes import HONEST, HOSTILE, Probe, Process, Records, probes
from tff_dp.selftest.report import Check
from tff_dp.selftest.testable import TENSORS

UNTESTED = (
    "FedSGD: it has no local steps, in which records are protected",
    "the tail of the noise in clients' own steps: their random words cannot be chosen; the operations "
    "that draw it are checked",
)
_FEW = 4
_COINS = 20_000  # independent draws from which the sampling rate of batches is measured
_MARKED = 500  # the most records that have a coordinate of their own
_LARGEST = 20_000_000  # the most numbers in the records of a client
_ROUNDS = 30, 200  # the smallest and the largest number of rounds for the rate of batches
_UNIT = "of what is allowed"


def law_of(mechanism: RecordGaussianMechanism) -> Law:
    """Returns the law of a client's steps in a round, for sums over the records of all steps.

    Args:
      mechanism: The mechanism.

    Returns:
      The law.
    """
    steps, clip = mechanism.local_steps, mechanism.clip_norm
    return Law(
        size=lambda _, parts: l2_norm(parts) / (steps * clip),
        clip=lambda *_: clip,
        noise=lambda *_: stats.norm(
            scale=math.sqrt(steps) * mechanism.noise_multiplier * clip  # one draw for each step
        ),
        by_clients=True,
    )


class Setting:
    """The common setting of the parts of a record-level self-test.

    Args:
      plan: The plan.
      build: The function that makes the learning process; called as `build_process`.
      dimension: The number of coordinates of a tensor whose noise is tested.
    """

    def __init__(self, plan: PrivacyPlan, build: Callable[..., Any], dimension: int) -> None:
        mechanism = plan.mechanism
        assert isinstance(mechanism, RecordGaussianMechanism)
        self.plan, self.mechanism, self.dimension = plan, mechanism, dimension
        self.build = build
        self.untested = list(UNTESTED)
        self.law = law_of(mechanism)
        self.batch = int(mechanism.batch_size)
        self.fewest = min(plan.records or (1,))

    @property
    def parts(self) -> Mapping[str, Callable[[], Iterator[Check]]]:
        """The parts of the self-test by name, each a function that yields checks."""
        return {
            "influence": lambda: influence_part(self),
            "provenance": lambda: provenance_part(self),
            "noise": lambda: noise_part(self),
        }

    @property
    def noised(self) -> list[Process]:
        """The process, whose clients draw noise."""
        return [self.noisy]

    def process(self, plan: PrivacyPlan, clients: dict[str, Records]) -> Process:
        """Makes a learning process.

        Args:
          plan: The plan.
          clients: The clients by name.

        Returns:
          The process of FedAvg under the plan.
        """
        return Process("FedAvg", self.build, plan, clients)

    def silent(self, **changes: Any) -> PrivacyPlan:
        """Returns the plan without noise.

        Args:
          **changes: Other fields of the plan to change.

        Returns:
          The changed plan.
        """
        return dataclasses.replace(self.plan, mechanism=self.mechanism.with_noise(0.0), **changes)

    @functools.cached_property
    def noisy(self) -> Process:
        """The process under the plan, whose clients have one record each."""
        found = {
            name: Records(probe.update[None])
            for name, probe in self._probes(self.dimension).items()
            if name in (*HONEST, "norm 1e9", "zero", "NaN")
        }
        found["zero, another"] = found["zero"]
        return self.process(self.plan, found)

    @functools.cached_property
    def certain(self) -> Process:
        """A process without noise, whose clients have one batch of records, all drawn in each step."""
        plan = self.silent(records=(self.batch,) * self.plan.population)
        few = self._probes(_FEW)
        others = np.zeros([self.batch, TENSORS, _FEW], np.float32)
        for row, name in zip(range(1, self.batch), HONEST, strict=False):
            others[row] = few[name].update
        clients = {}
        for name in ("zero", "twin", *HOSTILE):
            records = others.copy()
            records[0] = few[name].update
            clients[name] = Records(records)
        return self.process(plan, clients)

    def _probes(self, dimension: int) -> dict[str, Probe]:
        one_step = Law(
            size=lambda mechanism, parts: l2_norm(parts) / mechanism.clip_norm,
            clip=self.law.clip,
            noise=self.law.noise,
        )
        return probes(one_step, self.mechanism, dimension)


def influence_part(of: Setting) -> Iterator[Check]:
    """Checks the influence of one record, the denominator, and how batches are drawn.

    Args:
      of: The setting.

    Yields:
      The checks.
    """
    process = of.certain
    state = process.start()

    @functools.cache
    def total(name: str) -> Sequence[np.ndarray]:
        return [of.batch * part for part in process.round(state, [name]).mean]

    def moved(name: str) -> float:
        difference = [a - b for a, b in zip(total(name), total("zero"), strict=True)]
        return of.law.size(of.mechanism, difference)

    for hostile in HOSTILE:
        yield Check(
            name=f"sensitivity of a record: {hostile}",
            measured=moved(hostile),
            low=-math.inf,
            high=1 + ROUNDING,
            unit=_UNIT,
        )
    yield Check(
        name="denominator: that of one record",
        measured=of.batch * 0.5 / max(moved("twin"), 1e-300),
        low=of.batch * (1 - ROUNDING),
        high=of.batch * (1 + ROUNDING),
        unit="records",
    )
    yield from batches_part(of)
    form = arithmetic.FORMATS[0]
    if form.smallest <= of.mechanism.clip_norm <= form.largest:
        yield many_check(of, form)
    else:
        of.untested.append(f"models in {form.name}: the clip norm is outside its range")


def many_check(of: Setting, form: arithmetic.Format) -> Check:
    """Checks the influence of one of many records in another format; see `arithmetic.many_check`.

    Args:
      of: The setting.
      form: The format of the model's weights and gradients.

    Returns:
      The check.
    """
    allowed = of.mechanism.clip_norm
    before, after, slack = arithmetic.crowd(allowed, form)
    count = len(before) + len(after) + 1
    mechanism = dataclasses.replace(
        of.mechanism, noise_multiplier=0.0, batch_size=count, local_steps=1
    )
    plan = dataclasses.replace(
        of.plan,
        mechanism=mechanism,
        records=(count,) * of.plan.population,
        delta=min(of.plan.delta, 0.5 / count),
    )

    def client(value: float) -> Records:
        records = np.zeros([count, TENSORS, _FEW], np.float32)
        records[:, 0, 0] = [*before, value, *after]
        return Records(records)

    clients = {"with it": client(allowed), "without it": client(0.0)}
    process = Process("FedAvg", of.build, plan, clients, form.name)
    state = process.start()
    one, other = (np.array(process.round(state, [name]).mean) for name in clients)
    return Check(
        name=f"sums: one of {count} records, in a {form.name} model",
        measured=count * l2_norm(one - other) / allowed,
        low=-math.inf,
        high=1 + slack,
        unit=_UNIT,
    )


def batches_part(of: Setting) -> Iterator[Check]:
    """Checks that batches have each record independently with the probability of the accounting.

    Args:
      of: The setting.

    Yields:
      The checks.
    """
    count, steps = of.fewest, of.mechanism.local_steps
    rate = min(of.batch / count, 1.0)
    width = max(1, min(count, _MARKED, _LARGEST // count) // TENSORS)
    marked = min(width * TENSORS, count)
    records = np.zeros([count, TENSORS * width], np.float32)
    records[np.arange(marked), np.arange(marked)] = 0.5 * of.mechanism.clip_norm
    process = of.process(of.silent(), {"marked": Records(records.reshape([count, TENSORS, width]))})
    state = process.start()
    rounds = min(max(math.ceil(_COINS / (steps * marked)), _ROUNDS[0]), _ROUNDS[1])
    unit = 0.5 * of.mechanism.clip_norm / of.batch
    sizes = []
    for _ in range(rounds):
        drawn = np.concatenate([part / unit for part in process.round(state, ["marked"]).mean])
        sizes.append(int(np.sum(np.rint(drawn))))
    coins = rounds * steps * marked
    law = stats.binom(coins, rate)
    low, high = (float(law.ppf(noise.FALSE_POSITIVE / 2)), float(law.isf(noise.FALSE_POSITIVE / 2)))
    yield Check(
        name="batches: how often a record is drawn",
        measured=sum(sizes) / coins,
        low=low / coins,
        high=high / coins,
        unit="of a record's steps (binomial)",
        false_positive=noise.FALSE_POSITIVE if rate < 1 else 0.0,
    )
    # Batches of a fixed size are not Poisson sampling. By chance, all sizes are equal with
    # probability at most `equal`.
    one = stats.binom(steps * marked, rate)
    equal = float(one.pmf(int((steps * marked + 1) * rate))) ** (rounds - 1)
    if rate < 1 and marked == count and equal <= noise.FALSE_POSITIVE:
        yield Check(
            name="batches: their sizes vary",
            measured=float(len(set(sizes))),
            low=2.0,
            high=math.inf,
            unit="sizes",
            false_positive=equal,
        )


def provenance_part(of: Setting) -> Iterator[Check]:
    """Checks the source of random bits.

    Args:
      of: The setting.

    Yields:
      The checks.
    """
    yield provenance.keyed_check(of.noised, by_clients=True)
    yield provenance.words_check(of.noised, by_clients=True)
    yield provenance.seed_check()


def noise_part(of: Setting) -> Iterator[Check]:
    """Checks the size, distribution and freshness of the noise over steps, rounds and clients.

    Args:
      of: The setting.

    Yields:
      The checks.
    """
    process, law = of.noisy, of.law
    whole = law.noise(of.mechanism, 1.0, of.mechanism.clip_norm)
    yield noise.release_check([process], law, of.mechanism, 1.0)
    cells: dict[str, np.ndarray] = {}
    state = process.start()
    both = ["zero", "zero, another"]
    for label, names in (("round 1", both[:1]), ("round 2", both[:1]), ("two clients", both)):
        done = process.round(state, names)
        state = done.state
        # The mean over n clients with independent noise has a standard deviation of 1 / sqrt(n).
        factor = of.batch * math.sqrt(len(names))
        for tensor, part in enumerate(done.mean, 1):
            scores = noise.normal_scores(whole, factor * np.asarray(part))
            cells[f"{label}, tensor {tensor}"] = scores
    yield noise.size_check("noise: standard deviation, over steps and clients", cells)
    yield noise.shape_check("noise: distribution", cells)
    yield noise.reuse_check("noise: fresh in each coordinate, tensor, round and client", cells)
