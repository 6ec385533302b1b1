"""The self-test: right plans pass, and each planted defect is caught by the check that is there for it.

Right plans fail with the probability that the reports state, 1e-6 or less. The statistical checks are
held to their rates on simulated noise, at a rate that can be counted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

import tff_dp
from tests.support.old_queries import averaging, finite_records, gaussian_query, own_format
from tests.support.workers import workers
from tff_dp import cli, execution, selftest
from tff_dp.aggregation import build as builders
from tff_dp.errors import ArgumentError
from tff_dp.mechanisms import AdaptiveGaussianMechanism, GaussianMechanism
from tff_dp.plan import PrivacyPlan
from tff_dp.process import build_process
from tff_dp.selftest import (
    Check,
    SelfTestReport,
    arithmetic,
    command,
    influence,
    laws,
    noise,
    self_test,
    suite,
)
from tff_dp.selftest.probes import Aggregator

CLIP, M = 0.5, 20.0
FIXED = GaussianMechanism(clip_norm=CLIP, noise_multiplier=1.0)
ADAPTIVE = AdaptiveGaussianMechanism(noise_multiplier=1.0, initial_clip_norm=CLIP)

EXAMPLES = "100 times the examples"
WEIGHTS = "weights: 100 times the examples count once"
ALONE = "denominator: that of one client alone"
NO_UPDATE = "denominator: clients without an update change nothing"
COUNT = "sensitivity: the count of unclipped clients"
RELEASED = "state and measurements: only what is noised depends on clients"
SIZE, SHAPE = "noise: standard deviation", "noise: distribution"
FRESH = "noise: fresh in each coordinate, tensor, round and run"
COUNT_SIZE = "noise of the count: standard deviation"
COUNT_SHAPE = "noise of the count: distribution"
COUNT_FRESH = "noise of the count: fresh, and apart from the updates'"
ANY = None
SEED = "noise: drawn from no known seed"
ORDER = "sums: the order of clients changes nothing"
MANY = [f"sums: one of {n} clients, in {name}" for n, name in
        ((3073, "float32"), (97, "float16"), (25, "bfloat16"))]  # fmt: skip
FORMATS = [f"sensitivity: hostile clients in {name}" for name in ("float16", "bfloat16", "float64")]
LARGE = "sensitivity: an update of 2^22 weights, with XLA and without"
KEYED = "provenance: the noise's random bits are known to nobody"
WORDS = "provenance: noise is made of whole words of 63 bits"
REACH = "tail: the farthest words give the farthest noise"

SCOPE = "tff_dp_noise"  # under which noise is drawn

# What a defect of clipping or of noise is caught by; the others have tests of their own.
SILENT, NOISED = ("influence",), ("noise",)
HALVES = SILENT + NOISED


def a_plan(mechanism=FIXED, **changes) -> PrivacyPlan:
    arguments = {"population": 1000, "cohort": M, "rounds": 3, "delta": 1e-5}
    return PrivacyPlan(mechanism=mechanism, **(arguments | changes))


def quickly(
    mechanism=FIXED, *, build=build_process, parts=HALVES, algorithms=("FedAvg",), **changes
) -> SelfTestReport:
    """Returns parts of the self-test, on fewer coordinates: enough for half the noise."""
    with execution.fast(xla=False):
        return suite.checks_of(
            a_plan(mechanism, **changes),
            build=build,
            algorithms=algorithms,
            samples=4000,
            parts=parts,
        )


def parts_of(checks) -> tuple[str, ...]:
    """Returns the halves of the self-test that some checks are in."""
    silent = {name for name in checks if name.split(":")[0] in
              ("sensitivity", "weights", "denominator")}  # fmt: skip
    return (SILENT if silent else ()) + (NOISED if set(checks) - silent else ())


# --- Right plans ----------------------------------------------------------------------------------


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("context", "mechanism", "parts"),
    [
        ("stock", FIXED, ("influence", "provenance", "noise")),
        ("stock", ADAPTIVE, HALVES),
        ("fast", ADAPTIVE, suite.PARTS),  # and the command's own plan below, which is FIXED's
        # Which compiles for a minute.
        pytest.param("fast with XLA", FIXED, suite.PARTS, marks=pytest.mark.full),
        pytest.param("stock", FIXED, suite.PARTS, marks=pytest.mark.full),
    ],
)
def test_right_plans_pass_in_every_context(request, context, mechanism, parts):
    with contextlib.ExitStack() as stack:
        if context == "stock":
            request.getfixturevalue("stock")
        else:
            stack.enter_context(execution.fast(xla=None if "XLA" in context else False))
        report = suite.checks_of(a_plan(mechanism), algorithms=["FedAvg", "FedSGD"], parts=parts)
    # Noise of stock TFF is right but for the bits that it is drawn from, which others can guess.
    unkeyed = context == "stock" and "provenance" in parts
    assert report.failures == ((KEYED,) if unkeyed else ()), report.text()
    assert 0 < report.false_positive <= 1e-6
    assert report.untested == ()
    counted = isinstance(mechanism, AdaptiveGaussianMechanism)
    names = [check.name for check in report.checks]
    assert len(names) == len(set(names))
    if parts == suite.PARTS:
        assert len(names) == (33 if counted else 29)
    measured = {check.name: check.measured for check in report.checks}
    # Clipping is exact, so that nothing passes by doing nothing: not even the noise-free half.
    for hostile in ("norm 1e9", "norm 1e9 in one coordinate", "at the bound", EXAMPLES):
        assert measured[f"sensitivity: {hostile}"] == pytest.approx(1, rel=1e-4)
    assert measured[ALONE] == pytest.approx(M, rel=1e-4)
    if counted:
        assert measured[COUNT] == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize(
    ("mechanism", "changes"),
    [
        # A count whose noise leaves [0, m] in most rounds: the share is cut off, the test still right.
        (dataclasses.replace(ADAPTIVE, clipped_count_stddev=M), {}),
        # A large cohort, where float32 hides one client's bit, and fixed cohorts under replace-one.
        (ADAPTIVE, {"population": 10**6, "cohort": 20_000.0, "delta": 1e-7}),
        (FIXED, {"cohort": None, "sampler": tff_dp.FixedSizeSampler(size=7)}),
    ],
    ids=["count beyond its range", "many clients", "fixed size"],
)
def test_right_plans_of_unusual_sizes_pass(tff, mechanism, changes):
    report = quickly(mechanism, **changes)
    assert report.passed, report.text()


NORMED = {"clip_norm": CLIP, "noise_multiplier": 1.0}
APART = {"cohort": None, "sampler": tff_dp.MinSeparationSampler(size=20, min_separation=4)}
OTHERS = [
    (tff_dp.PerLayerGaussianMechanism(clip_norms=(0.3, 0.4), noise_multiplier=1.0), {}),
    (tff_dp.LaplaceMechanism(**NORMED), {}),
    (tff_dp.TreeMechanism(**NORMED), APART),
    (tff_dp.TreeMechanism(**NORMED, restart_every=2), APART),
    (tff_dp.BandedMechanism(**NORMED, bands=3), APART),
    (tff_dp.LocalGaussianMechanism(**NORMED), {}),
    (tff_dp.LocalLaplaceMechanism(**NORMED), {}),
]


@pytest.mark.heavy
@pytest.mark.parametrize(("mechanism", "changes"), OTHERS)
def test_other_mechanisms_pass(tff, mechanism, changes):
    report = quickly(mechanism, parts=(*HALVES, "provenance"), **changes)
    assert report.passed, report.text()
    measured = {check.name: check.measured for check in report.checks}
    for hostile in ("norm 1e9", "at the bound", EXAMPLES):
        assert measured[f"sensitivity: {hostile}"] == pytest.approx(1, rel=1e-4)


@pytest.mark.full
@pytest.mark.heavy
@pytest.mark.parametrize(("mechanism", "changes"), OTHERS)
def test_the_arithmetic_of_other_mechanisms_passes(tff, mechanism, changes):
    report = quickly(mechanism, parts=("arithmetic",), **changes)
    assert report.passed, report.text()
    measured = {check.name: check.measured for check in report.checks}
    for name in (*MANY, *FORMATS, LARGE):
        assert measured[name] == pytest.approx(1, rel=0.02)


METRICS = {"metrics": (tff_dp.PrivateMetric(name="loss", largest=1.0, share=0.3),)}


@pytest.mark.heavy
def test_a_plan_whose_metrics_share_the_budget_is_tested_by_what_is_left_to_updates(
    tff, monkeypatch
):
    assert quickly(**METRICS, parts=NOISED).passed

    def all_of_it(mechanism, m, rounds):  # as if the metrics cost nothing
        z = mechanism.noise_multiplier * math.sqrt(1 - 0.3)
        return builders._gaussian(dataclasses.replace(mechanism, noise_multiplier=z), m, rounds)

    monkeypatch.setitem(builders._BUILDERS, GaussianMechanism, all_of_it)
    assert quickly(**METRICS, parts=NOISED).failures == (SIZE,)


def as_gaussian(mechanism, m, rounds):
    z = mechanism.noise_multiplier
    return builders._gaussian(GaussianMechanism(clip_norm=CLIP, noise_multiplier=z), m, rounds)


def as_laplace(mechanism, m, rounds):
    z = mechanism.noise_multiplier
    other = tff_dp.LaplaceMechanism(clip_norm=CLIP, noise_multiplier=z)
    return builders._laplace(other, m, rounds)


def with_half_the_noise(mechanism, m, rounds):
    half = mechanism.with_noise(mechanism.noise_multiplier / 2)
    build = builders._laplace if isinstance(mechanism, tff_dp.LaplaceMechanism) else builders._local
    return build(half, m, rounds)


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("mechanism", "changes", "defect", "caught"),
    [
        # A Gaussian in place of Laplace noise, its clipping with it; and the other way round.
        (tff_dp.LaplaceMechanism(**NORMED), {}, as_gaussian, {SIZE, "sensitivity: norm 1e9"}),
        (FIXED, {}, as_laplace, {SIZE}),
        (tff_dp.LaplaceMechanism(**NORMED), {}, with_half_the_noise, {SIZE}),
        # Noise that every round has of its own, where rounds should take earlier noise off.
        (tff_dp.TreeMechanism(**NORMED), APART, as_gaussian, {FRESH}),
        (tff_dp.BandedMechanism(**NORMED, bands=3), APART, as_gaussian, {FRESH}),
        (tff_dp.LocalGaussianMechanism(**NORMED), {}, with_half_the_noise, {SIZE}),
        (tff_dp.LocalLaplaceMechanism(**NORMED), {}, with_half_the_noise, {SIZE}),
        # One clip for the whole where each tensor has its own.
        (OTHERS[0][0], {}, as_gaussian, {"sensitivity: norm 1e9 in one coordinate"}),
    ],
)
def test_defects_of_other_mechanisms_are_caught(
    tff, monkeypatch, mechanism, changes, defect, caught
):
    monkeypatch.setitem(builders._BUILDERS, type(mechanism), defect)
    report = quickly(mechanism, parts=parts_of(caught), **changes)
    assert caught <= set(report.failures), report.text()


def test_clip_norms_that_do_not_fit_the_self_tests_model_are_refused():
    mechanism = tff_dp.PerLayerGaussianMechanism(clip_norms=(1.0,), noise_multiplier=1.0)
    with pytest.raises(ArgumentError, match="2 norms"):
        self_test(a_plan(mechanism))


def test_every_mechanism_that_can_run_has_a_law():
    # Whole numbers have no density: see tests/selftest/test_shares.py.
    discrete = {kind for kind in builders._BUILDERS if kind.__name__.startswith("Distributed")}
    assert laws._LAWS.keys() == builders._BUILDERS.keys() - discrete


# --- Planted defects ------------------------------------------------------------------------------


def noised_by(draw):
    """Returns a builder whose noise is `draw(stddev, tensors)`, a list as long as the tensors."""

    def build(mechanism, m, rounds):
        import tensorflow as tf
        import tensorflow_privacy as tfp

        class Query(tfp.GaussianSumQuery):
            def get_noised_result(self, sample_state, global_state):
                tensors = tf.nest.flatten(sample_state)
                drawn = draw(global_state.stddev, tensors)
                noised = [a + b for a, b in zip(tensors, drawn, strict=True)]
                event = super().get_noised_result(sample_state, global_state)[2]
                return tf.nest.pack_sequence_as(sample_state, noised), global_state, event

        stddev = mechanism.clip_norm * mechanism.noise_multiplier
        return averaging(Query(mechanism.clip_norm, stddev), m)

    return build


def reused_between_rounds(stddev, tensors):
    import tensorflow as tf

    return [
        stddev * tf.random.stateless_normal(tf.shape(tensor), seed=[number, 7])
        for number, tensor in enumerate(tensors)
    ]


def shared_between_tensors(stddev, tensors):
    import tensorflow as tf

    noise = stddev * tf.random.normal([tf.size(tensors[0])])
    return [tf.reshape(noise, tf.shape(tensor)) for tensor in tensors]


def of_another_shape(stddev, tensors):
    import tensorflow as tf

    half = stddev * math.sqrt(
        3
    )  # a uniform of this half-width has the standard deviation of the plan
    return [tf.random.uniform(tf.shape(tensor), -half, half) for tensor in tensors]


def not_divided(mechanism, m, rounds):
    """The noise meets the mean instead of the sum, and no one has divided it."""
    import tensorflow as tf

    def draw(stddev, tensors):
        return [m * stddev * tf.random.normal(tf.shape(tensor)) for tensor in tensors]

    return noised_by(draw)(mechanism, m, rounds)


def clipped_by_tensor(mechanism, m, rounds):
    import tensorflow as tf
    import tensorflow_privacy as tfp

    class Query(tfp.GaussianSumQuery):
        def preprocess_record(self, params, record):
            return tf.nest.map_structure(lambda part: tf.clip_by_norm(part, params), record)

    stddev = mechanism.clip_norm * mechanism.noise_multiplier
    return averaging(Query(mechanism.clip_norm, stddev), m)


def realised_denominator(mechanism, m, rounds):
    import tensorflow_federated as tff

    query = finite_records(gaussian_query(mechanism))
    return tff.aggregators.UnweightedMeanFactory(
        value_sum_factory=tff.aggregators.DifferentiallyPrivateFactory(query)
    )


def no_finite_records(mechanism, m, rounds):
    import tensorflow_federated as tff
    import tensorflow_privacy as tfp

    query = tfp.NormalizedQuery(gaussian_query(mechanism), m)
    return tff.aggregators.DifferentiallyPrivateFactory(query)


def a_measured_norm(mechanism, m, rounds):
    import tensorflow as tf
    import tensorflow_federated as tff

    @tff.tensorflow.computation
    def norm(values):
        return tf.linalg.global_norm(tf.nest.flatten(values))

    return tff.aggregators.add_measurements(
        builders._gaussian(mechanism, m, rounds),
        client_measurement_fn=lambda values: {
            "norms": tff.federated_sum(tff.federated_map(norm, values))
        },
    )


def leaking_zeroing(mechanism, m, rounds):
    import tensorflow_federated as tff

    return tff.learning.dp_aggregator(mechanism.noise_multiplier, m)  # zeroing is its default


def adaptive_query(mechanism, m, count_class=None, **changes):
    import tensorflow_privacy as tfp

    arguments = {
        "initial_l2_norm_clip": mechanism.initial_clip_norm,
        "noise_multiplier": mechanism.value_noise_multiplier(m),
        "target_unclipped_quantile": mechanism.target_quantile,
        "learning_rate": mechanism.clip_learning_rate,
        "clipped_count_stddev": mechanism.count_stddev(m) if mechanism.noise_multiplier else 0.0,
        "expected_num_records": m,
        "geometric_update": True,
    }
    query = tfp.QuantileAdaptiveClipSumQuery(**(arguments | changes))
    if count_class is not None:
        query._quantile_estimator_query = count_class(
            mechanism.initial_clip_norm,
            mechanism.target_quantile,
            mechanism.clip_learning_rate,
            arguments["clipped_count_stddev"],
            m,
            True,
        )
    return query


def unshifted_bits(mechanism, m, rounds):
    """Bits 0 and 1, whose count one client moves by 1; its noise is that of bits -1/2 and 1/2."""
    import tensorflow as tf
    import tensorflow_privacy as tfp

    class Unshifted(tfp.QuantileEstimatorQuery):
        def _construct_below_estimate_query(self, stddev, expected):
            return tfp.NormalizedQuery(tfp.GaussianSumQuery(1.0, stddev), expected)

        def preprocess_record(self, params, record):
            below = tf.cast(record <= params.current_estimate, tf.float32)
            return self._below_estimate_query.preprocess_record(params.below_estimate_params, below)

        def get_noised_result(self, sample_state, global_state):
            share, below_state, event = self._below_estimate_query.get_noised_result(
                sample_state, global_state.below_estimate_state
            )
            update = global_state.learning_rate * (share - global_state.target_quantile)
            estimate = global_state.current_estimate * tf.exp(-update)
            state = global_state._replace(
                current_estimate=estimate, below_estimate_state=below_state
            )
            return estimate, state, event

    return averaging(adaptive_query(mechanism, m, Unshifted), m)


def half_the_noise_of_the_count(mechanism, m, rounds):
    stddev = mechanism.count_stddev(m) / 2 if mechanism.noise_multiplier else 0.0
    return averaging(adaptive_query(mechanism, m, clipped_count_stddev=stddev), m)


def split_forgotten(mechanism, m, rounds):
    z = mechanism.noise_multiplier  # instead of z_v, which is 15 % more here
    return averaging(adaptive_query(mechanism, m, noise_multiplier=z), m)


def factory(make):
    return lambda mechanism, m, rounds: averaging(make(mechanism), m)


SENSITIVITY = "sensitivity: "
BUILDERS = {
    # defect: builder, mechanism, the checks that are there for it, others that may fail
    "half the noise": (factory(lambda x: gaussian_query(x, noise_factor=0.5)), FIXED, {SIZE},
                       {SHAPE}),
    "noise not divided": (not_divided, FIXED, {SIZE}, {SHAPE}),
    "noise of another shape": (noised_by(of_another_shape), FIXED, {SHAPE}, {SIZE}),
    "noise reused between rounds": (noised_by(reused_between_rounds), FIXED, {FRESH}, set()),
    "noise shared between tensors": (noised_by(shared_between_tensors), FIXED, {FRESH}, set()),
    "no clipping": (factory(lambda x: gaussian_query(x, clip=1e15)), FIXED,
                    {SENSITIVITY + "norm 1e9", SENSITIVITY + "norm 1e9 in one coordinate"},
                    {SENSITIVITY + EXAMPLES}),
    "clipping by tensor": (clipped_by_tensor, FIXED, {SENSITIVITY + "norm 1e9"},
                           {SENSITIVITY + EXAMPLES}),
    "NaN passed on": (no_finite_records, FIXED,
                      {SENSITIVITY + "NaN", SENSITIVITY + "infinity"},
                      {SENSITIVITY + "overflowing norm"}),
    "realised denominator": (realised_denominator, FIXED, {ALONE, NO_UPDATE}, ANY),
    "a norm measured": (a_measured_norm, FIXED, {RELEASED}, set()),
    # Its zeroing lets NaN through as well.
    "the leaking zeroing default": (leaking_zeroing, AdaptiveGaussianMechanism(noise_multiplier=1.0),
                                    {RELEASED}, {SENSITIVITY + "NaN"}),
    "unshifted bits": (unshifted_bits, ADAPTIVE, {COUNT}, {COUNT_SIZE, COUNT_SHAPE, COUNT_FRESH}),
    "half the noise of the count": (half_the_noise_of_the_count, ADAPTIVE, {COUNT_SIZE},
                                    {COUNT_SHAPE}),
    "split of the noise forgotten": (split_forgotten, ADAPTIVE, {SIZE, RELEASED}, {SHAPE}),
}  # fmt: skip


@pytest.mark.heavy
@pytest.mark.parametrize("defect", BUILDERS)
def test_a_defective_aggregator_is_caught_by_name(tff, monkeypatch, defect):
    builder, mechanism, caught_by, others = BUILDERS[defect]
    monkeypatch.setitem(builders._BUILDERS, type(mechanism), builder)
    report = quickly(mechanism, parts=parts_of(caught_by))
    assert caught_by <= set(report.failures), report.text()
    # The rest, which is right, is left alone.
    assert others is ANY or set(report.failures) <= caught_by | others, report.text()


def weighted_mean(model, *, algorithm, privacy):
    """Federated averaging as TFF has it by default, over updates that are clipped."""
    import tensorflow_federated as tff

    clipped = tff.aggregators.clipping_factory(
        privacy.mechanism.clip_norm, tff.aggregators.MeanFactory()
    )
    return tff.learning.algorithms.build_weighted_fed_avg(
        model.tff_model,
        client_optimizer_fn=algorithm.client_optimizer.build(),
        server_optimizer_fn=algorithm.server_optimizer.build(),
        model_aggregator=clipped,
    )


def half_the_noise_of_the_process(model, *, algorithm, privacy):
    halved = privacy.mechanism.with_noise(privacy.mechanism.noise_multiplier / 2)
    weaker = dataclasses.replace(privacy, mechanism=halved)
    return build_process(model, algorithm=algorithm, privacy=weaker)


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("build", "caught_by"),
    [
        (weighted_mean, {WEIGHTS, SENSITIVITY + EXAMPLES, ALONE, SIZE}),
        (half_the_noise_of_the_process, {SIZE}),
    ],
)
def test_a_defective_process_over_a_right_aggregator_is_caught(tff, build, caught_by):
    report = quickly(build=build, parts=parts_of(caught_by))
    assert caught_by <= set(report.failures), report.text()


def test_noise_from_a_known_seed_is_caught(tff):
    with execution.fast(xla=False, seed=1):
        report = suite.checks_of(
            a_plan(), algorithms=["FedAvg"], samples=1000, parts=["provenance"]
        )
    assert report.failures == (SEED,), report.text()


def differences(mechanism, m, rounds):
    """Noise N_t - N_(t-1), as mechanisms for sums over rounds have it: each N_t is drawn once."""
    import tensorflow as tf
    import tensorflow_privacy as tfp

    class Query(tfp.GaussianSumQuery):
        def initial_global_state(self):
            seed = tf.random.uniform([2], maxval=2**30, dtype=tf.int32)
            return super().initial_global_state(), seed, tf.zeros([], tf.int32)

        def derive_sample_params(self, global_state):
            return super().derive_sample_params(global_state[0])

        def get_noised_result(self, sample_state, global_state):
            own, seed, step = global_state
            event = super().get_noised_result(sample_state, own)[2]
            noised = []
            for number, tensor in enumerate(tf.nest.flatten(sample_state)):
                now, before = (
                    tf.random.stateless_normal(tf.shape(tensor), seed + tf.stack([t, number]))
                    for t in (step, step - 1)
                )
                difference = now - tf.cast(step > 0, tf.float32) * before
                noised.append(tensor + own.stddev * difference)
            result = tf.nest.pack_sequence_as(sample_state, noised)
            return result, (own, seed, step + 1), event

    stddev = mechanism.clip_norm * mechanism.noise_multiplier
    return averaging(Query(mechanism.clip_norm, stddev), m)


def test_noise_that_rounds_share_passes_by_a_law_that_says_so_alone(tff, monkeypatch):
    monkeypatch.setitem(builders._BUILDERS, GaussianMechanism, differences)
    assert {SIZE, FRESH} <= set(quickly(parts=NOISED).failures)
    covariance = np.array([[1, -1, 0], [-1, 2, -1], [0, -1, 2]])
    law = dataclasses.replace(
        laws.law_of(FIXED), covariance=lambda _, rounds, planned: covariance[:rounds, :rounds]
    )
    monkeypatch.setitem(laws._LAWS, GaussianMechanism, law)
    report = quickly(parts=NOISED)
    assert report.passed, report.text()


# --- Planted defects of arithmetic and of random bits ---------------------------------------------


@pytest.mark.heavy
def test_sums_and_norms_in_floating_point_are_caught(tff, monkeypatch):
    monkeypatch.setitem(
        builders._BUILDERS, GaussianMechanism, lambda mechanism, m, _: own_format(mechanism, m)
    )
    report = quickly(parts=["arithmetic"])
    assert set(report.failures) == {ORDER, *MANY, LARGE}, report.text()
    measured = {check.name: check.measured for check in report.checks}
    assert 1 + 1e-6 < measured[LARGE] < 1.01  # by no more than float32's roundoff
    assert 1.03 < measured[MANY[0]] < 1.2
    assert measured[ORDER] > 100


def test_updates_of_another_format_that_are_not_clipped_are_caught(tff, monkeypatch):
    def unclipped(mechanism, m, rounds):
        return own_format(mechanism, m, clip=1e15)

    monkeypatch.setitem(builders._BUILDERS, GaussianMechanism, unclipped)
    law, silent = laws.law_of(FIXED), a_plan(FIXED.with_noise(0.0))
    with execution.fast(xla=False):
        found = list(arithmetic.format_checks(silent, law, FIXED))
    failures = {check.name for check in found if not check.passed}
    assert failures == {*FORMATS, *MANY[1:]}


def test_the_thorough_sizes_see_more(tff, monkeypatch):
    monkeypatch.setitem(
        builders._BUILDERS, GaussianMechanism, lambda mechanism, m, _: own_format(mechanism, m)
    )
    law, silent = laws.law_of(FIXED), a_plan(FIXED.with_noise(0.0))
    form = dataclasses.replace(arithmetic.FLOAT32, many_log=arithmetic.MANY_LOG_THOROUGH)
    with execution.fast(xla=False):
        aggregator = Aggregator(silent, {}, [4, 4])
        check = arithmetic.many_check(aggregator, law, FIXED, M, form)
    assert check.measured > 2


@pytest.mark.parametrize("mechanism", [FIXED, ADAPTIVE, OTHERS[0][0], OTHERS[1][0]])
def test_a_clip_norm_outside_a_formats_range_is_named_as_not_tested(mechanism):
    def failing(mechanism):
        return [form.name for form in arithmetic.FORMATS if not arithmetic.holds(form, mechanism)]

    assert failing(mechanism) == []
    narrow = {"clip_norm": 1e-6, "initial_clip_norm": 1e-6, "clip_norms": (1e-6, 1.0)}
    own = {name: value for name, value in narrow.items() if name in mechanism.to_dict()}
    assert failing(dataclasses.replace(mechanism, **own)) == ["float16"]


def test_a_report_names_what_was_not_tested():
    report = dataclasses.replace(a_report(0.5), untested=("updates in float16: because",))
    assert "not tested: updates in float16: because" in report.text().splitlines()
    assert report.to_dict()["untested"] == ["updates in float16: because"]
    assert report.passed


def old_sampler(stddev, tensors):
    import tensorflow as tf

    return [stddev * tf.random.normal(tf.shape(tensor)) for tensor in tensors]


def words_of_32_bits(shape):
    import tensorflow as tf

    with tf.name_scope(SCOPE):
        drawn = tf.raw_ops.RandomUniformInt(
            shape=tf.convert_to_tensor(shape, tf.int32),
            minval=tf.constant(-(2**31), tf.int32),
            maxval=tf.constant(2**31 - 1, tf.int32),
        )
    return tf.cast(drawn, tf.int64) * 2**32


def a_short_tail(patch, sampler):
    import tensorflow as tf

    whole = sampler._unit
    patch.setattr(
        sampler, "_unit", lambda *bits: tf.maximum(whole(*bits), tf.constant(1e-7, tf.float64))
    )


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("plant", "caught"),
    [
        (lambda patch, _: patch.setitem(
            builders._BUILDERS, GaussianMechanism, noised_by(old_sampler)
        ), {KEYED, WORDS, REACH}),
        (lambda patch, sampler: patch.setattr(sampler, "words", words_of_32_bits),
         {WORDS, REACH}),
        (a_short_tail, {REACH}),
    ],
    ids=["the old sampler", "words of 32 bits", "a tail that ends at 5.678 sigma"],
)  # fmt: skip
def test_noise_of_fewer_bits_or_of_a_shorter_tail_is_caught(tff, monkeypatch, plant, caught):
    plant(monkeypatch, importlib.import_module("tff_dp.noise.gaussian"))
    report = quickly(parts=["provenance"])
    assert set(report.failures) == caught, report.text()


def test_a_client_whose_noise_cannot_be_keyed_is_caught(tff, monkeypatch):
    def by_the_generator(mechanism, m, rounds):
        import tensorflow as tf

        right = tff_dp.noise.gaussian

        def draw(shape, scale):
            with tf.name_scope(SCOPE):
                return tf.cast(tf.random.gamma([], 1.0, dtype=tf.float64) * 0, tf.int64) + right(
                    shape, scale
                )

        monkeypatch.setattr(tff_dp.noise, "gaussian", draw)
        return builders._local(mechanism, m, rounds)

    local = tff_dp.LocalGaussianMechanism(**NORMED)
    monkeypatch.setitem(builders._BUILDERS, type(local), by_the_generator)
    report = quickly(local, parts=["provenance"])
    assert report.failures == (KEYED, WORDS), report.text()
    assert "RandomGamma" in report.checks[0].where


# --- The statistical tests, held to their rates ---------------------------------------------------


def simulated(rng, cells=4, n=256) -> dict[str, np.ndarray]:
    return {str(number): rng.normal(size=n) for number in range(cells)}


@pytest.mark.parametrize(
    "check", [noise.size_check, noise.shape_check, noise.reuse_check, noise.apart_check]
)
def test_a_statistical_check_fails_no_more_often_than_it_says(monkeypatch, check):
    # At a rate that can be counted; the bounds are the same functions of it at 1e-7.
    rate, runs = 0.1, 600
    monkeypatch.setattr(noise, "FALSE_POSITIVE", rate)
    rng = np.random.default_rng(5)
    failures = sum(not check("", simulated(rng)).passed for _ in range(runs))
    assert failures <= stats.binom.isf(1e-6, runs, rate)
    if check is noise.size_check:  # which is exact but for the split over cells
        assert failures >= stats.binom.ppf(1e-6, runs, rate / 2)


@pytest.mark.parametrize("factor", [0.5, 2 / 3, 0.95, 1.05, 3 / 2])
def test_noise_of_another_size_is_seen(factor):
    cells = simulated(np.random.default_rng(6), cells=16, n=10_000)  # as a self-test has by default
    assert noise.size_check("", cells).passed
    scaled = {name: factor * scores for name, scores in cells.items()}
    assert not noise.size_check("", scaled).passed
    if abs(factor - 1) > 0.1:  # then one of the cells, or the noise on the count, is enough
        assert not noise.size_check("", cells | {"3": scaled["3"]}).passed
        count = np.random.default_rng(7).normal(size=noise._COUNTS)
        assert noise.size_check("", {"": count}).passed
        assert not noise.size_check("", {"": factor * count}).passed


@pytest.mark.parametrize(
    "reuse",
    [
        lambda a, b: (a, a),
        lambda a, b: (a, -a),
        lambda a, b: (a, np.roll(a, 137)),  # shifted
        lambda a, b: (a, np.concatenate([a[:2500], b[2500:]])),  # a quarter of it
        lambda a, b: (np.tile(a[:100], 100), b),  # in one cell
        lambda a, b: (a, (a + 3 * b) / math.sqrt(10)),  # mixed in
    ],
)
def test_noise_that_is_used_twice_is_seen(reuse):
    first, second = np.random.default_rng(8).normal(size=[2, 10_000])
    assert noise.reuse_check("", {"a": first, "b": second}).passed
    used = dict(zip("ab", reuse(first, second), strict=True))
    assert not noise.reuse_check("", used).passed


def test_a_count_with_the_updates_noise_in_it_is_seen():
    count, other = np.random.default_rng(9).normal(size=[2, noise._COUNTS])
    assert noise.apart_check("", {"the count": count, "tensor 1": other}).passed
    assert not noise.apart_check("", {"the count": count, "tensor 1": count}).passed
    again = np.repeat(count[::2], 2)
    assert not noise.apart_check("", {"the count": again, "tensor 1": other}).passed


@pytest.mark.parametrize("law", [stats.norm(scale=3.0), stats.laplace(scale=0.2)])
def test_scores_of_a_law_are_normal_and_those_of_another_are_not(law):
    sample = law.rvs(size=20_000, random_state=np.random.default_rng(10))
    right = {"": noise.normal_scores(law, sample)}
    assert noise.size_check("", right).passed
    assert noise.shape_check("", right).passed
    for factor in (2 / 3, 3 / 2):
        wrong = {"": noise.normal_scores(law, factor * sample)}
        assert not noise.size_check("", wrong).passed
        assert not noise.shape_check("", wrong).passed


def test_scores_are_exact_for_a_normal_law_and_finite_for_any_noise():
    values = np.array([0.0, -0.1, 2.0, -300.0])
    np.testing.assert_allclose(noise.normal_scores(stats.norm(scale=0.1), values), 10 * values)
    odd = np.array([np.nan, np.inf, -np.inf, 1e300])
    assert np.isfinite(noise.normal_scores(stats.laplace(), odd)).all()
    for values in (odd, np.zeros(8)):
        cells = {"": noise.normal_scores(stats.norm(), values)}
        assert not noise.size_check("", cells).passed


def test_the_count_is_read_off_the_clip_norm():
    mechanism = dataclasses.replace(ADAPTIVE, target_quantile=0.3, clip_learning_rate=0.5)
    share = (7 - 2) / M / 2 + 0.5  # 7 clients within the clip norm, 2 beyond it, shifted by 1/2
    after = CLIP * math.exp(-0.5 * (share - 0.3))
    assert influence.count_of(mechanism, M, CLIP, after) == pytest.approx((7 - 2) / 2)


# --- Reports, refusals and the command ------------------------------------------------------------


def a_report(*measured: float) -> SelfTestReport:
    checks = [
        Check(name=f"check {i}", measured=value, low=-math.inf, high=1.0, unit="clients",
              where="round 2", false_positive=1e-7)
        for i, value in enumerate(measured)
    ]  # fmt: skip
    return SelfTestReport(plan=a_plan(), checks=tuple(checks))


def test_a_report_says_what_was_measured_against_what():
    report = a_report(0.5, 1.5, math.nan, -math.inf)
    assert not report.passed
    assert report.failures == ("check 1", "check 2")
    assert report.false_positive == pytest.approx(4e-7)
    lines = report.text().splitlines()
    assert "GaussianMechanism" in lines[0]
    assert "20 clients expected" in lines[0]
    assert lines[1].split() == ["passed", "check", "0", "0.5", "at", "most", "1", "clients"]
    assert lines[2].startswith("FAILED  check 1")
    assert lines[2].endswith("worst: round 2")
    assert lines[-1].startswith("FAILED: 2 of 4 checks")
    assert "at most 4e-07" in lines[-1]
    assert a_report(0.5).text().splitlines()[-1].startswith("passed: all 1 checks")

    values = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert values["passed"] is False
    assert [check["measured"] for check in values["checks"]] == [0.5, 1.5, "nan", "-inf"]
    assert PrivacyPlan.from_dict(values["plan"]) == report.plan


class Unknown(GaussianMechanism):
    pass


@pytest.mark.parametrize(
    ("plan", "arguments", "message"),
    [
        (a_plan(FIXED.with_noise(0.0)), {}, r"noise_multiplier=0 .*\(0, inf\)"),
        (a_plan(dataclasses.replace(ADAPTIVE, clip_learning_rate=0.001)), {},
         r"clip_learning_rate=0.001.*\[0.01, inf\)"),
        (a_plan(ADAPTIVE, population=10**8, cohort=2e6, delta=1e-9, rounds=1), {},
         r"cohort=2000000.0.*\(0, 1000000\]"),
        (tff_dp.NoPrivacy(), {}, "plan=NoPrivacy.*PrivacyPlan"),
        (a_plan(), {"samples": 10}, r"samples=10 .*\[1000, 10000000\]"),
        (a_plan(), {"algorithms": ["FedProx"]}, "algorithms='FedProx'.*'FedAvg', 'FedSGD'"),
        (a_plan(), {"algorithms": []}, "algorithms=.*at least one"),
    ],
)  # fmt: skip
def test_what_cannot_be_tested_is_refused(plan, arguments, message):
    with pytest.raises(ArgumentError, match=message):
        self_test(plan, **arguments)


def test_a_mechanism_without_a_law_is_refused_and_not_passed(monkeypatch):
    monkeypatch.delitem(laws._LAWS, AdaptiveGaussianMechanism)
    with pytest.raises(ArgumentError, match="has no self-test: expected one of GaussianMechanism"):
        self_test(a_plan(ADAPTIVE))


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    try:
        code = cli.main(["selftest", *arguments])
    except SystemExit as end:  # argparse's own
        code = int(end.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def tested(monkeypatch) -> list[PrivacyPlan]:
    """The plans that the command has tested, without testing them: they pass up to z = 1."""
    plans = []

    def pretend(plan, thorough):
        plans.append((plan, thorough) if thorough else plan)
        return a_report(plan.mechanism.noise_multiplier)

    monkeypatch.setattr(command, "self_test", pretend)
    return plans


def test_the_command_tests_the_plan_that_was_described(tff, capsys, tested):
    assert run(capsys)[0] == 0
    assert tested[-1].mechanism == GaussianMechanism(clip_norm=1.0, noise_multiplier=1.0)
    assert (tested[-1].population, tested[-1].clients_per_round) == (1000, 100)
    code, out, _ = run(
        capsys, "--mechanism", "adaptive", "--clip-norm", "0.3", "--noise-multiplier", "1.5",
        "--population", "500", "--cohort", "50", "--rounds", "7", "--delta", "1e-4",
        "--adjacency", "replace-one",
    )  # fmt: skip
    assert code == 1
    assert "FAILED" in out
    assert tested[-1] == PrivacyPlan(
        mechanism=AdaptiveGaussianMechanism(noise_multiplier=1.5, initial_clip_norm=0.3),
        population=500,
        cohort=50,
        rounds=7,
        delta=1e-4,
        adjacency="replace-one",
    )
    run(capsys, "--sampling", "full", "--population", "30", "--rounds", "2")
    assert tested[-1].sampler == tff_dp.FullParticipation()
    run(capsys, "--sampling-rate", "0.25")
    assert tested[-1].sampler == tff_dp.PoissonSampler(rate=0.25)
    run(capsys, "--sampling-rate", "0.25", "--thorough")
    assert tested[-1] == (tested[-2], True)


@pytest.mark.parametrize("ending", ["json", "toml"])
def test_the_command_reads_a_plan_from_a_file(tff, capsys, tested, tmp_path, ending):
    plan = a_plan(dataclasses.replace(ADAPTIVE, clipped_count_stddev=2.0))
    path = tmp_path / f"plan.{ending}"
    values = plan.to_dict()
    if ending == "json":
        path.write_text(json.dumps(values))
    else:
        tables = {name: values.pop(name) for name in ("mechanism", "sampler")}
        given = {name: value for name, value in values.items() if value is not None}
        lines = [f"{name} = {json.dumps(value)}" for name, value in given.items()]
        for table, content in tables.items():
            lines += [f"[{table}]"]
            lines += [f"{name} = {json.dumps(value)}" for name, value in content.items()]
        path.write_text("\n".join(lines))
    code, out, err = run(capsys, "--plan", str(path), "--json")
    assert (code, err) == (0, "")
    assert tested == [plan]
    assert json.loads(out)["passed"] is True


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["--plan", "{}/none.json"], 2, "cannot be read"),
        (["--plan", "{}/text.json"], 2, "cannot be read"),
        (["--plan", "{}/list.json"], 2, "holds no object"),
        (["--plan", "{}/empty.json"], 2, "missing"),
        (["--plan", "{}/empty.json", "--rounds", "3"], 2, "with --rounds"),
        (["--plan", "{}/empty.json", "--mechanism", "adaptive"], 2, "with --mechanism"),
        (["--noise-multiplier", "-1"], 2, "--noise-multiplier=-1.0"),
        (["--noise-multiplier", "0"], 2, "--noise-multiplier=0 "),
        (["--clip-norm", "0"], 2, "--clip-norm=0.0"),
        (["--population", "1"], 2, "--population=1"),
        (["--mechanism", "magic"], 2, "magic"),
        (["--mechanism", "adaptive", "--population", "100", "--cohort", "5"], 2, "(0, 0.5)"),
        (["--sampling", "fixed", "--adjacency", "add-remove"], 3, "FixedSizeSampler"),
    ],
)
def test_the_command_refuses_with_its_exit_code(tff, capsys, tmp_path, arguments, code, reason):
    for name, text in (("text", "plan"), ("list", "[]"), ("empty", "{}")):
        (tmp_path / f"{name}.json").write_text(text)
    found, out, err = run(capsys, *(argument.format(tmp_path) for argument in arguments))
    assert (found, out) == (code, "")
    assert reason in err


@pytest.mark.heavy
def test_the_command_is_quiet_and_leaves_no_process_behind():
    before = workers(os.getpid())
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from tff_dp import cli; sys.exit(cli.main())",
            "selftest",
        ],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) == 1 + 29 + 1
    assert all(line.startswith("passed") for line in lines[1:])
    assert lines[-1] == (
        "passed: all 29 checks. A right implementation fails with probability at most 3e-07."
    )
    assert workers(os.getpid()) == before


def test_the_package_offers_the_self_test():
    assert tff_dp.self_test is selftest.self_test
