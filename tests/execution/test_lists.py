"""Lists of tensors under XLA: recurrent layers, their gradients, and what TensorFlow's kernels refuse."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import tensorflow as tf

from tests.support.tables import slow
from tff_dp import execution
from tff_dp.errors import ComputationError
from tff_dp.execution.graph import list_loops

pytestmark = pytest.mark.heavy

STEPS = 5
CLIENTS = np.random.default_rng(0).normal(size=[3, STEPS, 2, 3]).astype(np.float32)
SQUARE = np.random.default_rng(1).normal(size=[3, 3]).astype(np.float32) / 2
_raw = tf.raw_ops


def scan(x, weight, count=STEPS, capacity=STEPS, step=None):
    """Returns all states [steps, 2, 3] of a recurrent loop, of which the first `count` are written."""
    given = tf.TensorArray(tf.float32, STEPS).unstack(x)
    states = tf.TensorArray(tf.float32, capacity)

    def body(i, state, states):
        state = tf.tanh(given.read(i) + tf.matmul(state, weight))
        return (i + 1, state, states.write(i, state)) if step is None else step(i, state, states)

    start = [0, tf.zeros(x.shape[1:]), states]
    _, _, states = tf.while_loop(lambda i, *_: i < count, body, start, maximum_iterations=STEPS)
    return tf.ensure_shape(states.stack(), x.shape)


def gradient(loss, *arguments):
    arguments = [tf.convert_to_tensor(argument) for argument in arguments]
    with tf.GradientTape() as tape:
        tape.watch(arguments)
        value = loss(*arguments)
    found = tape.gradient(value, arguments)
    return [tf.ensure_shape(part, like.shape) for part, like in zip(found, arguments, strict=True)]


def of_weight(x, **options):
    """Returns the gradient of a weight in the loop, a sum of a product for each step."""
    (found,) = gradient(lambda w: tf.reduce_sum(scan(x, w, **options) ** 3), SQUARE + x[0, 0, 0])
    return found


def of_inputs(x):
    (found,) = gradient(lambda x: tf.reduce_sum(scan(x, SQUARE) ** 3), x)
    return found


def transposed(x):
    """Returns the gradient of a weight that is taken transposed, one product the other way around."""

    def loss(weight):
        def body(i, state):
            return i + 1, tf.tanh(x[i] + tf.matmul(state, weight, transpose_b=True))

        start = [0, tf.zeros(x.shape[1:])]
        return tf.reduce_sum(
            tf.while_loop(lambda i, _: i < STEPS, body, start, maximum_iterations=STEPS)[1]
        )

    (found,) = gradient(loss, SQUARE)
    return found


def two_layers(x):
    """Returns the gradients of two weights, of which the second loop's steps read the first's."""

    def loss(first, second):
        return tf.reduce_sum(scan(scan(x, first), second) ** 3)

    return tf.stack(gradient(loss, SQUARE, SQUARE + 0.1))


def unwritten(x):
    """Returns states of which the last two have not been written: they are zeros."""
    states = tf.TensorArray(tf.float32, STEPS, element_shape=x.shape[1:])
    body = lambda i, states: (i + 1, states.write(i, x[i]))  # noqa: E731
    return tf.while_loop(lambda i, _: i < 3, body, [0, states])[1].stack()


def numbers(x):
    """Returns a sum of numbers that a list of whole numbers hands from one loop to another."""
    handle = _raw.EmptyTensorList(
        element_shape=tf.constant([], tf.int32), max_num_elements=STEPS, element_dtype=tf.int32
    )

    def push(i, handle):
        return i + 1, _raw.TensorListPushBack(input_handle=handle, tensor=i)

    def pop(i, handle, total):
        handle, number = _raw.TensorListPopBack(
            input_handle=handle, element_shape=tf.constant([], tf.int32), element_dtype=tf.int32
        )
        return i + 1, handle, total + x[number] * tf.cast(i + 1, tf.float32)

    _, handle = tf.while_loop(lambda i, _: i < STEPS, push, [0, handle])
    return tf.while_loop(lambda i, *_: i < STEPS, pop, [0, handle, tf.zeros(x.shape[1:])])[2]


def read_twice(x):
    """Returns the gradient of elements that are read in two steps each: its list sums both."""

    def loss(x):
        given = tf.TensorArray(tf.float32, STEPS, clear_after_read=False).unstack(x)
        body = lambda i, total: (  # noqa: E731
            i + 1,
            total * 0.5 + given.read(i) ** 2 + given.read(tf.maximum(i - 1, 0)) ** 3,
        )
        start = [0, tf.zeros(x.shape[1:])]
        return tf.reduce_sum(
            tf.while_loop(lambda i, _: i < STEPS, body, start, maximum_iterations=STEPS)[1]
        )

    return gradient(loss, x)[0]


def rewritten(x):
    """Returns states of which each has been written, read, and written again."""
    states = tf.TensorArray(tf.float32, STEPS, element_shape=x.shape[1:], clear_after_read=False)

    def body(i, states):
        states = states.write(i, x[i])
        before = states.read(tf.maximum(i - 1, 0))
        return i + 1, states.write(i, states.read(i) + 2 * before)

    return tf.while_loop(lambda i, _: i < STEPS, body, [0, states])[1].stack()


def constant(x):
    """Returns a sum that depends on the length of a list all of whose elements are equal."""
    handle = _raw.EmptyTensorList(
        element_shape=tf.constant([2], tf.int32), max_num_elements=STEPS, element_dtype=tf.int32
    )

    def push(i, handle):
        return i + 1, _raw.TensorListPushBack(input_handle=handle, tensor=tf.constant([2, 3]))

    _, handle = tf.while_loop(lambda i, _: i < 4, push, [0, handle])
    handle, shape = _raw.TensorListPopBack(
        input_handle=handle, element_shape=tf.constant([2]), element_dtype=tf.int32
    )
    length = _raw.TensorListLength(input_handle=handle)
    return tf.ensure_shape(tf.reshape(x[0], shape), [2, 3]) * tf.cast(length, tf.float32)


WORK = {
    "gradient of a weight": of_weight,
    "of which fewer steps are run": lambda x: of_weight(x, count=tf.cast(x[0, 0, 0] > 0, tf.int32) + 2),
    "gradient of inputs": of_inputs,
    "transposed": transposed,
    "two layers": two_layers,
    "unwritten": unwritten,
    "whole numbers": numbers,
    "read twice": read_twice,
    "rewritten": rewritten,
    "constant": constant,
}  # fmt: skip


@functools.cache
def summed(name):
    """Returns the computation of the sum over clients of what a function gives."""
    from tff_dp import tff

    @tff.federated_computation(
        tff.FederatedType(tff.TensorType(np.float32, [STEPS, 2, 3]), tff.CLIENTS)
    )
    def computation(clients):
        work = tff.tensorflow.computation(
            lambda x: tf.identity({**WORK, **FAULTS}[name](x)),
            tff.TensorType(np.float32, [STEPS, 2, 3]),
        )
        return tff.federated_sum(tff.federated_map(work, clients))

    return computation


def by_kernels(name, clients):
    function = tf.function(WORK[name], autograph=False)
    return sum(function(tf.constant(x)).numpy().astype(np.float64) for x in clients)


LONG = ("two layers", "read twice", "gradient of inputs")


@pytest.mark.parametrize("name", [slow(name) if name in LONG else name for name in WORK])
def test_a_list_under_xla_gives_what_kernels_give(tff, name):
    with execution.fast("scan", xla=True, strict=True):
        actual = summed(name)(list(CLIENTS))
        assert "strategy scan, with XLA" in execution.explain(summed(name))
    expected = by_kernels(name, CLIENTS)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("name", ["gradient of a weight", "gradient of inputs", "two layers"])
def test_nan_and_infinities_spread_through_lists_as_through_kernels(tff, name):
    for value in (np.nan, np.inf):
        clients = CLIENTS.copy()
        clients[1, 2, 0, 1] = value
        with execution.fast("scan", xla=True, strict=True):
            actual = summed(name)(list(clients))
        expected = by_kernels(name, clients)
        np.testing.assert_array_equal(np.isfinite(actual), np.isfinite(expected))
        np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=2e-6)


@pytest.fixture
def sums(monkeypatch):
    """The numbers of sums of products that have been found in each loop."""
    found, sums_of = [], list_loops.sums_of

    def counted(*arguments):
        result = sums_of(*arguments)
        found.append(len(result[0]))
        return result

    monkeypatch.setattr(list_loops, "sums_of", counted)
    return found


def computation_of(function):
    from tff_dp import tff

    @tff.federated_computation(
        tff.FederatedType(tff.TensorType(np.float32, [STEPS, 2, 3]), tff.CLIENTS)
    )
    def computation(clients):
        work = tff.tensorflow.computation(function, tff.TensorType(np.float32, [STEPS, 2, 3]))
        return tff.federated_sum(tff.federated_map(work, clients))

    return computation


def test_the_gradient_of_a_weight_is_one_product(tff, sums):
    with execution.fast("scan", xla=True, strict=True):
        computation_of(lambda x: of_weight(x))(list(CLIENTS))
    assert sorted(set(sums)) == [0, 1]  # none in the forward loop


def running_total(x):
    """Adds a product in each step to a variable that the step reads, too: it has to stay in the loop."""
    handle = _raw.TensorListFromTensor(tensor=x, element_shape=tf.constant([2, 3]))

    def body(i, handle, total, largest):
        handle, row = _raw.TensorListPopBack(
            input_handle=handle, element_shape=tf.constant([2, 3]), element_dtype=tf.float32
        )
        total = tf.add_n([total, tf.matmul(row, row, transpose_a=True)])
        return i + 1, handle, total, tf.maximum(largest, tf.reduce_max(total))

    start = [0, handle, tf.zeros([3, 3]), tf.zeros([])]
    return tf.while_loop(lambda i, *_: i < STEPS, body, start)[3]


def test_a_sum_that_its_loop_reads_stays_in_the_loop(tff, sums):
    with execution.fast("scan", xla=True, strict=True):
        actual = computation_of(running_total)(list(CLIENTS))
    assert set(sums) == {0}
    expected = sum(tf.function(running_total, autograph=False)(tf.constant(x)) for x in CLIENTS)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def _popped_too_often(x):
    handle = _raw.TensorListFromTensor(tensor=x, element_shape=tf.constant([2, 3]))

    def body(i, handle, total):
        handle, row = _raw.TensorListPopBack(
            input_handle=handle, element_shape=tf.constant([2, 3]), element_dtype=tf.float32
        )
        return i + 1, handle, tf.add_n([total, tf.matmul(row, row, transpose_a=True)])

    count = STEPS + tf.cast(x[0, 0, 0] > 50, tf.int32)
    return tf.while_loop(lambda i, *_: i < count, body, [0, handle, tf.zeros([3, 3])])[2]


def _pushed_too_often(x):
    handle = _raw.EmptyTensorList(
        element_shape=tf.constant([2, 3]), max_num_elements=STEPS, element_dtype=tf.float32
    )
    count = STEPS + tf.cast(x[0, 0, 0] > 50, tf.int32)
    body = lambda i, h: (i + 1, _raw.TensorListPushBack(input_handle=h, tensor=x[0]))  # noqa: E731
    _, handle = tf.while_loop(lambda i, _: i < count, body, [0, handle])
    _, last = _raw.TensorListPopBack(
        input_handle=handle, element_shape=tf.constant([2, 3]), element_dtype=tf.float32
    )
    return tf.ensure_shape(last, [2, 3])


def _beyond(write):
    def function(x):
        states = tf.TensorArray(tf.float32, STEPS, element_shape=[2, 3]).unstack(x)
        index = STEPS - 1 + tf.cast(x[0, 0, 0] > 50, tf.int32)
        return states.write(index, x[0]).stack() if write else states.read(index)

    return function


FAULTS = {
    "popped": _popped_too_often,
    "pushed": _pushed_too_often,
    "read beyond": _beyond(write=False),
    "written beyond": _beyond(write=True),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_a_list_does_not_have_is_refused_and_the_client_is_named(tff, name):
    clients = CLIENTS.copy()
    with execution.fast("scan", xla=True, strict=True):
        summed(name)(list(clients))
        assert "strategy scan, with XLA" in execution.explain(summed(name))
        clients[1, 0, 0, 0] = 100.0
        with pytest.raises(ComputationError, match="client 1"):
            summed(name)(list(clients))
