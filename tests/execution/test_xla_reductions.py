"""Reductions that are written in another form for XLA: the same truth values, with the same errors."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tff_dp import execution
from tff_dp.execution.graph import xla_reductions

pytestmark = pytest.mark.heavy

# Of 100 x 50 elements, 4992 are in 16 rows of 312, and 8 are left.
SHAPE = (100, 50)
PLACES = {
    "first": 0,
    "end of the first row": 311,
    "last of the rows": 4991,
    "rest": 4992,
    "last": 4999,
}


def node_of(function, *specs):
    """Returns the `NodeDef` of the only `All` of a function."""
    graph = tf.function(function).get_concrete_function(*specs).graph
    (found,) = [each.node_def for each in graph.get_operations() if each.type == "All"]
    return found


def written(value, axes, keep_dims=False):
    node = node_of(
        lambda x: tf.reduce_all(x, axes, keepdims=keep_dims), tf.TensorSpec(value.shape, tf.bool)
    )
    return xla_reductions.write(node, [tf.constant(value), tf.constant(axes, tf.int32)])


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("place", [None, *PLACES])
def test_one_false_element_anywhere_is_found(place, compiled):
    value = np.ones(SHAPE, bool)
    if place is not None:
        value.ravel()[PLACES[place]] = False
    (found,) = tf.function(lambda: written(value, [0, 1]), jit_compile=compiled)()
    assert bool(found) == (place is None)


@pytest.mark.parametrize(
    ("shape", "axes", "keep_dims"),
    [(SHAPE, [0], False), (SHAPE, [-1], False), (SHAPE, [0, 1], True), ((64, 64), [0, 1], False)],
)
def test_other_reductions_stay_as_they_are(shape, axes, keep_dims):
    assert written(np.ones(shape, bool), axes, keep_dims) is None


def test_negative_axes_are_the_same_axes():
    assert written(np.ones(SHAPE, bool), [-1, 0]) is not None


@pytest.mark.parametrize("strategy", ["scan", "vmap"])
def test_clients_with_large_updates_that_are_not_finite_are_found(tff, strategy):
    count = 4
    values = [np.ones(SHAPE, np.float32) for _ in range(count * len(PLACES))]
    for client, place in enumerate(PLACES.values()):
        values[count * client].ravel()[place] = [np.nan, np.inf, -np.inf][client % 3]

    @tff.tensorflow.computation(tff.TensorType(np.float32, SHAPE))
    def is_finite(value):
        return tf.cast(tf.reduce_all(tf.math.is_finite(value)), tf.int32)

    @tff.federated_computation(tff.FederatedType(tff.TensorType(np.float32, SHAPE), tff.CLIENTS))
    def finite_clients(each):
        return tff.federated_sum(tff.federated_map(is_finite, each))

    with execution.fast(strict=True, strategy=strategy, xla=True):
        assert finite_clients(values) == len(values) - len(PLACES)
