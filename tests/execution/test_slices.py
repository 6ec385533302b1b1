"""Data sets that are taken apart instead of read: the same rows, batches and clients."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tff_dp._compat import tensorflow as tf_compat
from tff_dp.execution.cohort import datasets, slices


def drawn(rng):
    """Returns a data set of batches of (x, y), made by slices, repetitions, batches and prefetching."""
    rows = int(rng.integers(0, 9))
    x = np.arange(2 * rows, dtype=np.float32).reshape(rows, 2) + 100 * rng.integers(50)
    y = np.array([str(number).encode() for number in range(rows)], object)
    found = tf.data.Dataset.from_tensor_slices((x, tf.constant(y, tf.string)))
    steps = [lambda d: d.repeat(int(rng.integers(0, 4))), lambda d: d.prefetch(1)]
    for step in rng.integers(2, size=2):
        found = steps[step](found)
    found = found.batch(int(rng.integers(1, 5)), drop_remainder=bool(rng.integers(2)))
    for step in rng.integers(2, size=2):
        found = steps[step](found)
    return found


def test_what_is_listed_is_what_is_read(tff):
    """60 cohorts: repeated before and after batching, with and without a last, smaller batch."""
    rng = np.random.default_rng(3)
    for _ in range(60):
        sets = [drawn(rng) for _ in range(rng.integers(1, 6))]
        found, expected = slices.listed(sets), datasets.read(sets, sets[0].element_spec)
        for name in ("first", "starts", "counts"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), name)
        for field, values in zip(found.fields, expected.fields, strict=True):
            np.testing.assert_array_equal(field.numpy(), values.numpy())


PLAIN = tf.data.Dataset.from_tensor_slices(np.arange(6.0))


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(PLAIN.shuffle(3).batch(2), id="shuffle"),
        pytest.param(PLAIN.map(lambda x: 2 * x).batch(2), id="map"),
        pytest.param(PLAIN.batch(2).map(lambda x: 2 * x), id="map of batches"),
        pytest.param(PLAIN.skip(1).batch(2), id="skip"),
        pytest.param(PLAIN.batch(2).take(1), id="take"),
        pytest.param(PLAIN.filter(lambda x: x > 2).batch(2), id="filter"),
        pytest.param(PLAIN.batch(2).unbatch().batch(3), id="batches of other batches"),
        pytest.param(PLAIN.batch(2).batch(3), id="batches of batches"),
        pytest.param(PLAIN.repeat().batch(2), id="no end"),
        pytest.param(PLAIN, id="no batches"),
        pytest.param(tf.data.Dataset.from_tensors(np.arange(6.0)), id="one element"),
        pytest.param(tf.data.Dataset.range(6).batch(2), id="range"),
        pytest.param(PLAIN.batch(2, num_parallel_calls=2), id="batches in parallel"),
    ],
)
def test_other_data_sets_are_not_taken_apart(other):
    assert tf_compat.slices_of(other) is None
    assert slices.listed([PLAIN.batch(2), other]) is None


def test_one_other_data_set_in_a_cohort_has_all_of_them_read(tff):
    sets = [PLAIN.batch(2), PLAIN.map(lambda x: 2 * x).batch(4)]
    (block,) = datasets.blocks_of_datasets(
        sets, is_regular=lambda kind, batches, total: False, by_size=False
    )
    rows = block.fields[0].numpy()[:12]
    np.testing.assert_array_equal(rows, [*range(6), *range(0, 12, 2)])
