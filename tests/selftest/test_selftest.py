"""The self-test: right plans pass, and each planted defect is caught by the check that is there for it.

Right plans fail with the probability that the reports state, 1e-6 or less. The statistical checks are
held to their rates on simulated noise, at a rate that can be counted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import math

import numpy as np
import pytest

import tff_dp
from tests.support.defects import (
    a_measured_norm,
    clipped_by_tensor,
    differences,
    factory,
    half_the_noise_of_the_count,
    leaking_zeroing,
    no_finite_records,
    noised_by,
    not_divided,
    of_another_shape,
    realized_denominator,
    reused_between_rounds,
    shared_between_tensors,
    split_forgotten,
    unshifted_bits,
)
from tests.support.old_queries import gaussian_query, own_format
from tests.support.self_tests import ADAPTIVE, CLIP, FIXED, M, a_plan
from tests.support.tables import slow
from tff_dp import execution
from tff_dp.aggregation import build as builders
from tff_dp.errors import ArgumentError
from tff_dp.execution.round import client_loop
from tff_dp.mechanisms import AdaptiveGaussianMechanism, GaussianMechanism
from tff_dp.process import build_process
from tff_dp.selftest import (
    SelfTestReport,
    arithmetic,
    laws,
    self_test,
    suite,
)
from tff_dp.selftest.probes import Aggregator

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
        # On stock TFF, FIXED's influence and noise are ADAPTIVE's without the count; the complete
        # table has all of FIXED's there.
        ("stock", FIXED, ("provenance",)),
        slow("stock", ADAPTIVE, HALVES),
        slow("fast", ADAPTIVE, suite.PARTS),  # and the command's own plan below, which is FIXED's
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
    # Where random bits come from is read from the graph, and not tested by drawing.
    assert (report.false_positive == 0) == (parts == ("provenance",))
    assert report.false_positive <= 1e-6
    assert report.untested == ()
    counted = isinstance(mechanism, AdaptiveGaussianMechanism)
    names = [check.name for check in report.checks]
    assert len(names) == len(set(names))
    if parts == suite.PARTS:
        assert len(names) == (33 if counted else 29)
    measured = {check.name: check.measured for check in report.checks}
    if "influence" not in parts:
        return
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
        slow(dataclasses.replace(ADAPTIVE, clipped_count_stddev=M), {}),
        # A large cohort, where float32 hides one client's bit, and fixed cohorts under replace-one.
        slow(ADAPTIVE, {"population": 10**6, "cohort": 20_000.0, "delta": 1e-7}),
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
@pytest.mark.parametrize(
    ("mechanism", "changes"),
    [
        # A tree that starts again is the same aggregator; its covariance is tested with the others'.
        slow(*OTHERS[0]),
        slow(*OTHERS[1]),
        slow(*OTHERS[2]),
        pytest.param(*OTHERS[3], marks=pytest.mark.full),
        OTHERS[4],
        slow(*OTHERS[5]),
        slow(*OTHERS[6]),
    ],
)
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


METRICS = {"metrics": (tff_dp.PrivateMetric(name="loss", clip_value=1.0, budget_fraction=0.3),)}


@pytest.mark.heavy
def test_a_plan_whose_metrics_share_the_budget_is_tested_by_what_is_left_to_updates(
    tff, monkeypatch
):
    assert quickly(**METRICS, parts=NOISED).passed

    def all_of_it(mechanism, m, rounds):  # as if the metrics cost nothing
        z = mechanism.noise_multiplier * math.sqrt(1 - 0.3)
        return builders._gaussian(dataclasses.replace(mechanism, noise_multiplier=z), m, rounds)

    monkeypatch.setitem(builders._BUILDERS, GaussianMechanism, all_of_it)
    failures = quickly(**METRICS, parts=NOISED).failures
    assert {SIZE} <= set(failures) <= {SIZE, SHAPE}  # the noise is 16 % too small


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
    "realized denominator": (realized_denominator, FIXED, {ALONE, NO_UPDATE}, ANY),
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


@pytest.fixture
def one_sum(monkeypatch):
    """A runtime that sums clients one after another; in a tree of sums, roundoff grows more slowly."""
    monkeypatch.setattr(client_loop, "_MOST_PARTS", 1)
    monkeypatch.setattr(client_loop, "_MOST_LONG_PARTS", 1)
    monkeypatch.setattr(client_loop, "_MOST_PARTS_OF_ALL", 1)


@pytest.mark.heavy
def test_sums_and_norms_in_floating_point_are_caught(tff, one_sum, monkeypatch):
    monkeypatch.setitem(
        builders._BUILDERS, GaussianMechanism, lambda mechanism, m, _: own_format(mechanism, m)
    )
    report = quickly(parts=["arithmetic"])
    assert set(report.failures) == {ORDER, *MANY, LARGE}, report.text()
    measured = {check.name: check.measured for check in report.checks}
    assert 1 + 1e-6 < measured[LARGE] < 1.01  # by no more than float32's roundoff
    assert 1.03 < measured[MANY[0]] < 1.2
    assert measured[ORDER] > 100


def test_updates_of_another_format_that_are_not_clipped_are_caught(tff, one_sum, monkeypatch):
    def unclipped(mechanism, m, rounds):
        return own_format(mechanism, m, clip=1e15)

    monkeypatch.setitem(builders._BUILDERS, GaussianMechanism, unclipped)
    law, silent = laws.law_of(FIXED), a_plan(FIXED.with_noise(0.0))
    with execution.fast(xla=False):
        found = list(arithmetic.format_checks(silent, law, FIXED))
    failures = {check.name for check in found if not check.passed}
    assert failures == {*FORMATS, *MANY[1:]}


@pytest.mark.slow
def test_the_thorough_sizes_see_more(tff, one_sum, monkeypatch):
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
