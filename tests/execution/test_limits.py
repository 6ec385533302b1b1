"""Labels and indices that are known to be in range are not looked at in each step; any others are."""

from __future__ import annotations

import gc

import keras
import numpy as np
import pytest
import tensorflow as tf

import tff_dp
from tests.support.tables import slow
from tff_dp import data, execution
from tff_dp.errors import ComputationError
from tff_dp.execution import compilation
from tff_dp.execution.cohort.resident import Resident
from tff_dp.execution.graph import range_checks
from tff_dp.model import ModelSpec
from tff_dp.process import build_process, initialize_from

pytestmark = pytest.mark.heavy


def clients_of(words, labels):
    """Clients of four examples each, of one word and one label."""
    words, labels = (np.array(v, np.int32)[:, None] for v in (words, labels))
    return data.Clients(words, labels, np.arange(0, len(words) + 1, 4))


GOOD = clients_of([0, 1, 2, 3, 4, 0, 1, 2], [0, 1, 2, 0, 1, 2, 0, 1])
BAD_LABEL = clients_of([0, 1, 2, 3, 4, 0, 1, 2], [0, 1, 2, 0, 1, 2, 3, 1])
BAD_WORD = clients_of([0, 1, 2, 3, 4, 0, 1, 5], [0, 1, 2, 0, 1, 2, 0, 1])


@pytest.fixture(scope="module")
def bound(tff):
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input([1], dtype="int32"),
            layers.Embedding(5, 4),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return ModelSpec(model=model, loss=loss).bind(GOOD.element_spec())


@pytest.mark.parametrize("strategy", ["scan", slow("vmap")])
def test_what_is_in_range_is_not_checked_and_what_is_not_is_named(bound, strategy):
    process = build_process(bound, algorithm=tff_dp.FedAvg(), privacy=tff_dp.NoPrivacy())
    checks = compilation.runner_of(process.next).runner.parts.checks
    with execution.fast(strategy, xla=True, strict=True):
        state = initialize_from(process, bound.initial_weights)
        process.next(state, GOOD.cohort([0, 1], batch_size=2))
        assert not [check for check in checks if "label" in check or "indices" in check]
        for bad, what in ((BAD_LABEL, "label values"), (BAD_WORD, "indices")):
            with pytest.raises(ComputationError, match=rf"client 1 \(of 2.*{what}"):
                process.next(state, bad.cohort([0, 1], batch_size=2))
            process.next(state, GOOD.cohort([0, 1], batch_size=2))
        # Of data sets nothing is known before they are read.
        process.next(state, list(GOOD.cohort([0, 1], batch_size=2)))
        with pytest.raises(ComputationError, match=r"client 1 \(of 2.*label values"):
            process.next(state, list(BAD_LABEL.cohort([0, 1], batch_size=2)))


def test_fused_rounds_name_the_client_too(bound):
    process = build_process(bound, algorithm=tff_dp.FedAvg(), privacy=tff_dp.NoPrivacy())
    with execution.fast("scan", xla=True, strict=True):
        state = initialize_from(process, bound.initial_weights)
        execution.iterate(process.next, state, [GOOD.cohort([0, 1], batch_size=2)] * 3)
        with pytest.raises(ComputationError, match=r"client 1 \(of 2.*label values"):
            execution.iterate(process.next, state, [BAD_LABEL.cohort([0, 1], batch_size=2)] * 3)


def _passes(known, cast_to, span):
    with tf.Graph().as_default():
        values = tf.compat.v1.placeholder(tf.int64, [4])
        limits = range_checks.Limits()
        limits.learn([values], [known])
        moved = tf.reshape(values, [2, 2])
        limits.hand_on(moved.op.node_def, moved.op.inputs, [moved])
        cast = moved
        for dtype in cast_to:
            cast = tf.cast(cast, dtype)
            limits.hand_on(cast.op.node_def, cast.op.inputs, [cast])
        return limits.allow(range_checks.Check(tf.constant(True), "", cast, span))


def test_limits_allow_what_they_prove_and_nothing_else():
    assert _passes((0, 9), [], (0, 10))
    assert _passes((0, 9), [tf.int32], (0, 10))
    assert _passes((0, 9), [tf.float32, tf.int64], (0, 10))
    assert not _passes((0, 2**24 + 1), [tf.float32, tf.int64], (0, 2**24 + 2))
    assert not _passes((0, 9), [tf.float16, tf.int64], (0, 10))
    assert not _passes((0, 10), [], (0, 10))
    assert not _passes((-1, 9), [], (0, 10))
    assert not _passes((0, 2**32), [tf.int32], (-(2**31), 2**31))  # which wraps around
    assert not _passes((0, 9), [tf.uint8], (0, 10))  # of which nothing is claimed
    assert not _passes(None, [], (0, 10))
    with tf.Graph().as_default():
        values = tf.compat.v1.placeholder(tf.int64, [4])
        limits = range_checks.Limits()
        limits.learn([values], [(0, 9)])
        other = values * 2
        limits.hand_on(other.op.node_def, other.op.inputs, [other])
        assert not limits.allow(range_checks.Check(tf.constant(True), "", other, (0, 10)))


def test_a_choice_has_the_limits_of_what_it_may_be():
    with tf.Graph().as_default():
        values = tf.compat.v1.placeholder(tf.int32, [4])
        unknown = tf.compat.v1.placeholder(tf.int32, [4])

        def passes(make, known=(0, 9), span=(0, 10)):
            limits = range_checks.Limits()
            limits.learn([values], [known])
            made = make()
            for operation in tf.compat.v1.get_default_graph().get_operations():
                if operation.outputs and operation.inputs:
                    limits.hand_on(operation.node_def, operation.inputs, operation.outputs)
            return limits.allow(range_checks.Check(tf.constant(True), "", made, span))

        shifted = unknown + 10
        assert passes(lambda: tf.where(values < 0, shifted, values))
        assert passes(lambda: tf.where(values >= 0, values, shifted))
        assert passes(lambda: tf.where(unknown > 3, values, tf.constant(3)))
        assert not passes(lambda: tf.where(values < 0, shifted, values), known=(-1, 9))
        assert not passes(lambda: tf.where(values < 1, shifted, values))
        assert not passes(lambda: tf.where(values >= 0, shifted, values))
        assert not passes(lambda: tf.where(unknown > 3, values, tf.constant(10)))
        assert not passes(lambda: tf.where(unknown > 3, values, shifted))


def test_limits_are_those_of_arrays_that_may_be_indices():
    resident = Resident(1 << 20)
    array = np.array([[3, 1], [4, 1]], np.int32)
    assert resident.limits(array) == resident.limits(array) == (1, 4)
    assert resident.limits(np.array([3, 250], np.uint8)) == (3, 250)
    for other in (array.astype(np.float32), np.zeros([0], np.int32), array.reshape(2, 2, 1, 1)):
        assert resident.limits(other) is None
    del array, other
    gc.collect()
    assert not resident._limits
