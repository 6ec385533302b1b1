"""Lists of data sets are read in one pass: every row, and the bounds of every batch and client."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tests.support.tables import slow
from tff_dp.execution.cohort import datasets


def data_set(batches, dtype, shape):
    """Returns a data set of these batches, each a tuple of two arrays."""
    signature = (tf.TensorSpec([None, *shape], tf.float32), tf.TensorSpec([None], dtype))
    return tf.data.Dataset.from_generator(lambda: iter(batches), output_signature=signature)


def drawn(rng, dtype, shape):
    """Returns up to four batches of up to three examples; some are empty."""
    batches = []
    for rows in rng.integers(0, 4, rng.integers(0, 5)):
        labels = rng.integers(0, 9, rows)
        if dtype == tf.string:
            labels = np.array([str(label).encode() for label in labels], object)
        else:
            labels = labels.astype(dtype.as_numpy_dtype)
        batches.append((rng.normal(size=(rows, *shape)).astype(np.float32), labels))
    return batches


@pytest.mark.parametrize("dtype", [tf.int32, slow(tf.string), slow(tf.bool), slow(tf.float64)])
def test_what_is_read_is_what_the_data_sets_hold(tff, dtype):
    """Batches of any sizes, without rows, at the end, or none at all; 25 cohorts for each type."""
    rng, shape = np.random.default_rng(7), (2,)
    for _ in range(25):
        clients = [drawn(rng, dtype, shape) for _ in range(rng.integers(1, 8))]
        sets = [data_set(batches, dtype, shape) for batches in clients]
        found = datasets.read(sets, sets[0].element_spec)
        batches = [batch for client in clients for batch in client]
        assert found.counts.tolist() == [len(batch[0]) for batch in batches]
        assert np.diff(found.first).tolist() == [len(client) for client in clients]
        assert found.first[0] == 0
        assert found.starts.tolist() == [
            sum(len(before[0]) for before in batches[:i]) for i in range(len(batches))
        ]
        for field, values in zip(found.fields, zip(*batches, strict=True), strict=False):
            np.testing.assert_array_equal(field.numpy(), np.concatenate(values))


def test_the_order_is_that_of_an_iteration_of_each_data_set(tff):
    rows = tf.data.Dataset.range(40)
    sets = [
        rows.skip(start).shuffle(7, seed=start, reshuffle_each_iteration=False).repeat(2).batch(3)
        for start in (0, 5, 9)
    ]
    found = datasets.read(sets, sets[0].element_spec)
    expected = [batch.numpy() for each in sets for batch in each]
    np.testing.assert_array_equal(found.fields[0].numpy(), np.concatenate(expected))
    assert found.counts.tolist() == [len(batch) for batch in expected]


def test_tensors_of_a_batch_that_differ_in_size_are_no_rows(tff):
    unequal = tf.data.Dataset.from_tensors((tf.zeros([3, 2]), tf.zeros([2])))
    specs = (tf.TensorSpec([None, 2]), tf.TensorSpec([None]))
    with pytest.raises(datasets.NotRowsError):
        datasets.read([unequal], specs)


def test_an_error_of_a_data_set_is_its_own(tff):
    def fail(value):
        return tf.debugging.check_numerics(value, "a message of the user's")

    broken = tf.data.Dataset.from_tensor_slices([1.0, np.nan]).map(fail).batch(2)
    with pytest.raises(tf.errors.InvalidArgumentError, match="a message of the user's"):
        datasets.read([broken], broken.element_spec)
