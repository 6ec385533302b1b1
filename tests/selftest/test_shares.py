"""The self-test of plans whose clients add the noise: shares of it, or noise in each of their steps.

Right plans pass, but for the probability that the reports state; each planted defect is caught by the
check that is there for it.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

import tff_dp
from tests.support.tables import slow
from tff_dp import execution
from tff_dp.aggregation import build as builders
from tff_dp.aggregation import distributed as shares
from tff_dp.dp_sgd import client_work
from tff_dp.plan import PrivacyPlan
from tff_dp.process import build_process
from tff_dp.selftest import SelfTestReport, distributed, noise, suite

pytestmark = pytest.mark.heavy

SKELLAM = tff_dp.DistributedSkellamMechanism(
    clip_norm=0.5, noise_multiplier=1.0, dimension=500, bits=18
)
GAUSSIAN = tff_dp.DistributedGaussianMechanism(
    clip_norm=0.5, noise_multiplier=1.0, dimension=500, bits=18
)
RECORDS = tff_dp.RecordGaussianMechanism(
    clip_norm=0.5, noise_multiplier=1.0, batch_size=10, local_steps=2
)
KEYED = "provenance: the noise's random bits are known to nobody"
WORDS = "provenance: noise is made of whole words of 63 bits"
SIZE = "noise: standard deviation"
FEW = "noise: no sum of too few clients is released"
STEPS = "noise: standard deviation, over steps and clients"
FRESH = "noise: fresh in each coordinate, tensor, round and client"
MANY = "sums: one of 97 records, in a float16 model"
DRAWN, VARY = "batches: how often a record is drawn", "batches: their sizes vary"


def of_shares(mechanism=SKELLAM, clients=10, parts=suite.PARTS) -> SelfTestReport:
    plan = PrivacyPlan(
        mechanism=mechanism,
        population=1000,
        rounds=3,
        delta=1e-5,
        sampler=tff_dp.FixedSizeSampler(size=clients),
    )
    with execution.fast(xla=False):
        return suite.checks_of(plan, parts=parts)


def of_records(build=build_process, parts=suite.PARTS, **changes) -> SelfTestReport:
    plan = PrivacyPlan(
        mechanism=dataclasses.replace(RECORDS, **changes),
        unit="record",
        records=(50, 40, 60),
        rounds=3,
        delta=1e-5,
    )
    with execution.fast(xla=False):
        return suite.checks_of(plan, build=build, samples=4000, parts=parts)


@pytest.mark.parametrize("mechanism", [SKELLAM, slow(GAUSSIAN)])
def test_right_distributed_plans_pass(tff, mechanism):
    report = of_shares(mechanism)
    assert report.passed, report.text()
    assert len(report.checks) == 12
    assert 0 < report.false_positive <= 1e-6
    measured = {check.name: check.measured for check in report.checks}
    for hostile in ("norm 1e9", "overflowing norm", "at the bound"):
        assert 0.95 < measured[f"sensitivity: {hostile}"] <= 1
    assert any("tail" in what for what in report.untested)
    assert all(f"not tested: {what}" in report.text() for what in report.untested)


def test_what_stock_tff_cannot_run_of_a_distributed_plan_is_named(tff, stock):
    plan = PrivacyPlan(
        mechanism=SKELLAM,
        population=1000,
        rounds=3,
        delta=1e-5,
        sampler=tff_dp.FixedSizeSampler(size=10),
    )
    report = suite.checks_of(plan)
    assert report.failures == (KEYED,)
    assert any("stock TFF has no secure sums" in what for what in report.untested)


def test_noise_that_the_context_refuses_is_named_and_fails(tff):
    plan = PrivacyPlan(mechanism=RECORDS, unit="record", records=(50, 40), rounds=3, delta=1e-5)
    with execution.stock():
        report = suite.checks_of(plan, samples=1000, parts=["provenance", "noise"])
    assert report.failures == (KEYED,), report.text()
    assert any("the rest of noise" in what for what in report.untested)


def other_mechanism(**changes):
    def build(mechanism, m, rounds):
        return shares.distributed_mean(dataclasses.replace(mechanism, **changes), m, rounds)

    return lambda patch: patch.setitem(builders._BUILDERS, type(SKELLAM), build)


def half_the_noise(patch):
    def build(mechanism, m, rounds):
        half = mechanism.with_noise(mechanism.noise_multiplier / 2)
        right, weaker = mechanism.grid(m), half.grid(m)
        if mechanism.noise_multiplier:
            # On the plan's own grid, so that nothing but the noise is another.
            assert weaker.scale != right.scale
        return shares.distributed_mean(half, m, rounds)

    patch.setitem(builders._BUILDERS, type(SKELLAM), build)


def any_number_of_clients(patch):
    import tensorflow as tf

    def mean(total, count, clients, clip_norm, value_type):
        return tf.nest.map_structure(
            lambda part: tf.cast(part, tf.float32) * (clip_norm / clients), total
        )

    patch.setattr(shares, "_mean", mean)


def known_seeds(patch):
    import tensorflow as tf

    patch.setattr(tf, "timestamp", lambda name=None: tf.constant(1.7e9, tf.float64))


def without_our_bound(patch):
    import tensorflow as tf

    def bounded(update, clip_norm):
        return tf.nest.map_structure(lambda part: tf.cast(part, tf.float32) / clip_norm, update)

    patch.setattr(shares, "_bounded", bounded)


@pytest.mark.parametrize(
    ("plant", "part", "caught"),
    [
        (other_mechanism(clip_norm=1.0), "influence",
         {"sensitivity: norm 1e9", "sensitivity: overflowing norm"}),
        (without_our_bound, "influence", {"sensitivity: NaN"}),
        (half_the_noise, "noise", {SIZE}),
        (any_number_of_clients, "influence", {FEW}),
        (known_seeds, "provenance", {KEYED}),
    ],
    ids=["another clip norm", "NaN passed on", "half the noise", "drop-outs", "known seeds"],
)  # fmt: skip
def test_a_defect_of_a_distributed_aggregator_is_caught(tff, monkeypatch, plant, part, caught):
    plant(monkeypatch)
    report = of_shares(parts=[part])
    assert caught <= set(report.failures), report.text()


@pytest.mark.parametrize("variance", [0.5, 30.0, 1e6])
def test_the_bounds_of_a_variance_hold_and_see_half_the_noise(variance):
    # At a rate that can be counted, the bounds being the same functions of it.
    rng, count, runs = np.random.default_rng(3), 4096, 200
    low, high = distributed.variance_bounds(variance, 2**14)
    assert low > 0.8
    assert high < 1.25
    for factor in (2 / 3, 3 / 2):
        assert not low < factor**2 < high
    sample = rng.poisson(variance / 2, [2, runs, count]).astype(float)
    means = np.mean(np.square(sample[0] - sample[1]), axis=1) / variance
    low, high = distributed.variance_bounds(variance, count)
    assert np.all((low < means) & (means < high))
    assert noise.FALSE_POSITIVE == 1e-7


@pytest.mark.parametrize("variance", [0.1, 4.0, 1e4])
def test_the_cut_of_skellam_noise_is_a_bound_on_its_tail(variance):
    for t in (5.0, 20.0, 40.0):
        cut = distributed._largest(variance, t)
        assert stats.skellam.sf(math.ceil(cut) - 1, variance / 2, variance / 2) <= math.exp(-t)


def test_right_record_level_plans_pass(tff):
    report = of_records()
    assert report.passed, report.text()
    assert len(report.checks) == 18
    assert 0 < report.false_positive <= 1e-6
    measured = {check.name: check.measured for check in report.checks}
    for hostile in ("norm 1e9", "overflowing norm", "at the bound"):
        assert measured[f"sensitivity of a record: {hostile}"] == pytest.approx(1, rel=1e-4)
    assert measured[DRAWN] == pytest.approx(10 / 40, rel=0.1)
    assert any("FedSGD" in what for what in report.untested)


def test_batches_of_all_records_have_one_size_and_pass(tff):
    report = of_records(parts=["influence"], batch_size=40)
    assert report.passed, report.text()
    assert VARY not in {check.name for check in report.checks}


def weaker(**changes):
    def build(model, *, algorithm, privacy):
        other = dataclasses.replace(
            privacy.mechanism, **{k: f(privacy.mechanism) for k, f in changes.items()}
        )
        plan = dataclasses.replace(privacy, mechanism=other)
        return build_process(model, algorithm=algorithm, privacy=plan)

    return build


@pytest.mark.parametrize(
    ("build", "part", "caught"),
    [
        (weaker(noise_multiplier=lambda x: x.noise_multiplier / 2), "noise", {STEPS}),
        (weaker(local_steps=lambda x: 1), "noise", {STEPS}),
        (weaker(clip_norm=lambda x: 2 * x.clip_norm), "influence",
         {"sensitivity of a record: norm 1e9"}),
    ],
    ids=["half the noise", "noise of one step", "twice the clip norm"],
)  # fmt: skip
def test_a_defective_record_level_process_is_caught(tff, build, part, caught):
    report = of_records(build, parts=[part])
    assert caught <= set(report.failures), report.text()


def the_same_in_each_step(patch):
    import tensorflow as tf

    def draw(shape, stddev):
        drawn = tf.random.stateless_normal(shape, [3, 7], dtype=tf.float64) * stddev
        return tf.cast(drawn, tf.int64)

    patch.setattr(client_work, "gaussian", draw)


def by_the_old_sampler(patch):
    import tensorflow as tf

    def draw(shape, stddev):
        with tf.name_scope("tff_dp_noise"):
            drawn = tf.raw_ops.RandomStandardNormal(shape=shape, dtype=tf.float32)
            return tf.cast(tf.cast(drawn, tf.float64) * stddev, tf.int64)

    patch.setattr(client_work, "gaussian", draw)


def sums_in_the_models_format(patch):
    import tensorflow as tf

    from tff_dp.dp_sgd.gradients import gradient_of

    def sums(model, mechanism, grid, weights, kept, records, order, drawn):
        del order, drawn  # all records

        def add(sums, example):
            alone = tf.nest.map_structure(lambda field: field[tf.newaxis], example)
            found = gradient_of(model, weights, kept, alone)
            return tuple(total + part for total, part in zip(sums, found, strict=True))

        rows = tf.nest.map_structure(lambda field: field[1:], records)
        totals = tf.foldl(add, rows, tuple(tf.zeros_like(weight) for weight in weights))
        steps = grid.steps / mechanism.clip_norm
        return [tf.cast(tf.cast(part, tf.float64) * steps, tf.int64) for part in totals]

    patch.setattr(client_work, "sum_of_clipped", sums)


def batches_of_one_size(patch):
    import tensorflow as tf

    def batch(count, among, batch_size):
        coins = tf.random.uniform([count + 1]) + tf.cast(tf.range(count + 1) < 1, tf.float32)
        return tf.argsort(coins), tf.constant(batch_size, tf.int64)

    patch.setattr(client_work, "_poisson_batch", batch)


def batches_twice_as_large(patch):
    right = client_work._poisson_batch
    patch.setattr(client_work, "_poisson_batch", lambda n, among, b: right(n, among, 2 * b))


@pytest.mark.parametrize(
    ("plant", "part", "caught"),
    [
        (the_same_in_each_step, "noise", {STEPS, FRESH}),
        (by_the_old_sampler, "provenance", {WORDS}),
        (sums_in_the_models_format, "influence", {MANY}),
        (batches_of_one_size, "influence", {VARY}),
        (batches_twice_as_large, "influence", {DRAWN}),
    ],
)
def test_a_defect_of_clients_steps_is_caught(tff, monkeypatch, plant, part, caught):
    plant(monkeypatch)
    report = of_records(parts=[part])
    assert caught <= set(report.failures), report.text()
