"""Shapes that depend on values: in no strategy may they give other numbers than TensorFlow does."""

from __future__ import annotations

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

import tff_dp
from tests.support.tables import slow
from tff_dp import data, execution
from tff_dp.execution.graph import operations
from tff_dp.model import ModelSpec
from tff_dp.process import build_process, initialize_from

pytestmark = pytest.mark.heavy

SETTINGS = [("scan", True), ("scan", False), ("vmap", True), ("vmap", False), ("call", None)]
CLIENTS = [
    np.array([2, -1, 3, 0.5, -2, 4], np.float32),
    np.array([-1, 5, -3, -0.5, 2, 1], np.float32),
    np.array([1, 1, 1, 2, 3, 3], np.float32),
]


def positive(x):
    return tf.boolean_mask(x, x > 0)


def few(x):
    """A number in [1, 5] that depends on the values."""
    return 1 + tf.cast(tf.abs(x[0]), tf.int32) % 5


def gradient(function, x):
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = function(x)
    return tape.gradient(value, x)


def total(x):
    return tf.reduce_sum(tf.cast(x, tf.float32))


WORK = {
    "cumsum": lambda x: tf.cumsum(positive(x))[-1],
    "cumprod": lambda x: tf.math.cumprod(positive(x))[-1],
    "scan": lambda x: tf.scan(lambda a, b: a * 0.5 + b, positive(x))[-1],
    "last": lambda x: positive(x)[-1],
    "where": lambda x: total(tf.where(x > 0)[-1]),
    "concat": lambda x: tf.concat([positive(x), positive(x * 2)], 0)[-1],
    "avg_pool1d": lambda x: total(
        tf.nn.avg_pool1d(positive(x)[None, :, None], 2, 1, "SAME")[0, -1]
    ),
    "matmul": lambda x: total(
        tf.matmul(positive(x)[:, None], positive(x)[:, None], transpose_b=True)
    ),
    "gradient of cumsum": lambda x: total(
        gradient(lambda x: tf.reduce_sum(tf.cumsum(positive(x)) ** 2), x)
    ),
    "slice": lambda x: total(tf.slice(x, [0], [few(x)])),
    "strided slice": lambda x: total(x[: few(x)]),
    "gradient of slice": lambda x: total(gradient(lambda x: total(x[: few(x)] ** 2), x)),
    "unique": lambda x: total(tf.unique(x)[0]),
    "range": lambda x: total(tf.range(few(x))),
    "ones": lambda x: total(tf.ones([few(x)])),
    "repeat": lambda x: total(tf.repeat(x, few(x))),
    "tile": lambda x: total(tf.tile(x, [few(x)])),
    "pad": lambda x: total(tf.pad(x, [[0, few(x)]], constant_values=1.0)),
    "split": lambda x: total(tf.split(x, [few(x), 6 - few(x)])[0]),
    "top_k": lambda x: total(tf.math.top_k(x, few(x)).values),
    "reshape": lambda x: total(tf.reshape(x[: few(x) * 1], [-1, 1])),
    "loop": lambda x: tf.while_loop(
        lambda i, v: i < 3,
        lambda i, v: [i + 1, tf.concat([v, x[:1]], 0)],
        [0, x],
        shape_invariants=[tf.TensorShape([]), tf.TensorShape([None])],
    )[1][-1],
}


def summing(function):
    """Returns the computation of a sum of what each client's function gives."""
    from tff_dp import tff

    @tff.federated_computation(tff.FederatedType(tff.TensorType(np.float32, [6]), tff.CLIENTS))
    def computation(clients):
        @tff.tensorflow.computation(tff.TensorType(np.float32, [6]))
        def work(x):
            return tf.reshape(function(x), [])

        return tff.federated_sum(tff.federated_map(work, clients))

    return computation


@functools.cache
def summed(name):
    return summing(WORK[name])


@pytest.mark.parametrize(
    ("strategy", "xla"),
    # Which shapes XLA takes is what "scan" shows.
    [slow(*each) if each == ("vmap", True) else each for each in SETTINGS],
)
@pytest.mark.parametrize("name", WORK)
def test_a_clients_shapes_may_depend_on_values(tff, name, strategy, xla):
    expected = sum(float(WORK[name](tf.constant(x))) for x in CLIENTS)
    with execution.fast(strategy, xla=xla, strict=True):
        actual = summed(name)(CLIENTS)
        told = execution.explain(summed(name))
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
    if strategy != "call":
        assert "strategy scan, without XLA" in told
        if xla or strategy == "vmap":
            assert "shape that depends on values" in told or "operation " in told


def test_a_servers_shapes_may_depend_on_values(tff):
    of_clients = tff.FederatedType(tff.TensorType(np.float32, [6]), tff.CLIENTS)

    @tff.federated_computation(of_clients)
    def computation(clients):
        @tff.tensorflow.computation(tff.TensorType(np.float32, [6]))
        def work(x):
            return x * 2.0

        @tff.tensorflow.computation(tff.TensorType(np.float32, [6]))
        def server(x):
            return tf.cumsum(positive(x - 3.0))[-1]

        return tff.federated_map(server, tff.federated_sum(tff.federated_map(work, clients)))

    sums = 2 * sum(CLIENTS) - 3
    with execution.fast(strict=True):
        told = execution.explain(computation)
        assert computation(CLIENTS) == pytest.approx(sums[sums > 0].sum())
        again = execution.explain(computation)
    for text in (told, again):
        assert "strategy scan, with XLA" in text
        assert "server: without XLA, because operation Where gives a shape that depends on" in text


def test_the_rule_of_static_shapes_needs_no_table(tff, monkeypatch):
    """An operation that the table knows, given a size by the values, is found as it is written."""
    monkeypatch.setattr(operations, "xla_obstacle", lambda names: None)
    monkeypatch.setattr(operations, "vmap_obstacle", lambda names: None)
    for name in ("cumsum", "strided slice", "range", "unique", "loop"):
        computation = summing(WORK[name])
        expected = sum(float(WORK[name](tf.constant(x))) for x in CLIENTS)
        for strategy in ("vmap", "scan"):
            with execution.fast(strategy, xla=True, strict=True):
                np.testing.assert_allclose(computation(CLIENTS), expected, rtol=1e-5)
                told = execution.explain(computation)
            assert "strategy scan, without XLA" in told
            assert "a tensor has a shape that depends on values: that of" in told


@pytest.mark.slow
def test_what_is_known_beforehand_stays_compiled(tff):
    """Numbers that follow from shapes alone are no values, also inside of loops and gradients."""

    def loop(x):
        half = tf.shape(x)[0] // 2
        for_all = tf.zeros([half + 1])

        def body(i, v):
            return [i + 1, v + tf.pad(x[:half], [[0, tf.shape(x)[0] - half - 2]])]

        return tf.reduce_sum(tf.while_loop(lambda i, _: i < 3, body, [0, for_all])[1])

    def broadcast(x):
        return total(gradient(lambda x: tf.reduce_sum((x[:, None] - x[None, :2]) ** 2 * x[0]), x))

    def branch(x):  # one of two shapes, which no value decides
        chosen = tf.cond(tf.equal(tf.size(x), 1), lambda: x, lambda: tf.reshape(x, [2, 3]) ** 2)
        return total(chosen)

    @tf.function
    def normalized(x):  # with an output whose shape TensorFlow leaves open, out of a function
        ones = tf.ones([6])
        return tf.raw_ops.FusedBatchNormV3(
            x=tf.reshape(x, [1, 1, 1, 6]), scale=ones, offset=ones, mean=ones, variance=ones,
            is_training=False,
        )  # fmt: skip

    for function in (loop, broadcast, branch, lambda x: total(normalized(x)[0])):
        computation = summing(function)
        for strategy in ("scan", "vmap"):
            with execution.fast(strategy, xla=True, strict=True):
                expected = sum(float(function(tf.constant(x))) for x in CLIENTS)
                np.testing.assert_allclose(computation(CLIENTS), expected, rtol=1e-5)
                assert f"strategy {strategy}, with XLA" in execution.explain(computation)


def test_a_masked_loss_trains_as_without_xla(tff):
    def loss(y_true, y_pred):
        errors = tf.square(y_true - y_pred)[:, 0]
        kept = tf.cumsum(tf.boolean_mask(errors, y_true[:, 0] > 0))
        return tf.concat([kept, [1.0]], 0)[0] + tf.reduce_sum(kept[-1:])

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(24, 3)).astype(np.float32), rng.normal(size=(24, 1)).astype(np.float32)
    clients = data.Clients(x, y, [0, 8, 16, 24])
    model = keras.Sequential([keras.layers.Input([3]), keras.layers.Dense(1)])
    bound = ModelSpec(model=model, loss=loss).bind(clients.element_spec())
    process = build_process(bound, algorithm=tff_dp.FedAvg(), privacy=tff_dp.NoPrivacy())
    weights = {}
    for strategy in ("auto", "vmap", "call"):
        with execution.fast(strategy, strict=True):
            state = initialize_from(process, bound.initial_weights)
            for _ in range(2):
                state = process.next(state, clients.cohort([0, 1, 2], batch_size=4)).state
            weights[strategy] = process.get_model_weights(state).trainable
    for strategy in ("auto", "vmap"):
        for a, b in zip(weights[strategy], weights["call"], strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)


def test_the_shape_of_a_variable_is_one_of_the_graph(tff):
    """Recurrent layers of models with variables ask for it: a call a client was 250 times as slow."""

    @tff.tensorflow.computation(tff.TensorType(np.float32, [6]))
    def work(x):
        variable = tf.Variable(tf.zeros([2, 3]))
        with tf.control_dependencies([variable.assign(tf.reshape(x, [2, 3]))]):
            shape = tf.raw_ops.VariableShape(input=variable.handle, out_type=tf.int64)
            second = tf.reshape(variable.read_value(), shape)[1]
        return tf.reduce_sum(second) + tf.cast(shape[0], tf.float32)

    @tff.federated_computation(tff.FederatedType(tff.TensorType(np.float32, [6]), tff.CLIENTS))
    def computation(clients):
        return tff.federated_sum(tff.federated_map(work, clients))

    expected = sum(float(x[3:].sum()) + 2 for x in CLIENTS)
    for strategy, xla in SETTINGS[:4]:
        with execution.fast(strategy, xla=xla, strict=True):
            np.testing.assert_allclose(computation(CLIENTS), expected, rtol=1e-6)
            told = execution.explain(computation)
        assert f"strategy {strategy}, {'with' if xla else 'without'} XLA" in told
