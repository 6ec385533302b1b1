"""Graphs that once had no form in this process, or a wrong one: they give what stock TFF gives."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tests.support.tables import slow
from tff_dp import execution
from tff_dp.errors import ComputationError
from tff_dp.execution import compilation
from tff_dp.execution.graph import program

pytestmark = pytest.mark.heavy

STRATEGIES = [("scan", True), ("scan", False), ("vmap", True), ("vmap", False), ("call", None)]
NUMBERS = [0, 1, 2, 3, 4, -1, 7, -5]


def plain(x):
    return tf.switch_case(x, [lambda: x + 1, lambda: x * 10, lambda: x - 100])


def one_branch(x):
    return tf.switch_case(x, [lambda: x + 5])


def several_results(x):
    vector = tf.cast(tf.stack([x, 2 * x, 3 * x]), tf.float32)
    branches = [lambda k=k: (x + k, tf.sort(vector) * float(k)) for k in range(5)]
    whole, real = tf.switch_case(x, branches)
    return 1000 * whole + tf.cast(tf.reduce_sum(real), tf.int32)


def variables(x):
    kept = tf.Variable(1)

    def added(number):
        kept.assign_add(number)
        return kept.read_value()

    branch = tf.switch_case(x, [lambda: added(x), lambda: added(10 * x), lambda: added(5)])
    with tf.control_dependencies([branch]):
        return 100 * kept.read_value() + branch


def nested(x):
    inner = tf.switch_case(x - 2, [lambda: x * 7, lambda: x * 11])
    branches = [lambda: x, lambda: -x, lambda: inner, lambda: tf.cond(x > 3, lambda: 1, lambda: 2)]
    return tf.switch_case(x, branches)


def stateful(x):  # of which TensorFlow makes `Case`, and not `StatelessCase`
    zero = lambda: tf.random.uniform([], 0, 1, tf.int32)  # noqa: E731
    return tf.switch_case(x, [lambda: x + zero(), lambda: x * 10, lambda: x - 100])


def of_clients(tff, function, dtype=np.int32):
    work = tff.tensorflow.computation(function, dtype)

    @tff.federated_computation(tff.FederatedType(dtype, tff.CLIENTS))
    def computation(numbers):
        return tff.federated_sum(tff.federated_map(work, numbers))

    return computation


@pytest.mark.slow
@pytest.mark.parametrize(
    "function", [slow(plain), slow(one_branch), several_results, variables, nested, stateful]
)
def test_a_choice_among_branches_is_that_of_stock_tff(tff, stock, function):
    alone = tff.tensorflow.computation(function, np.int32)
    expected = [alone(number) for number in NUMBERS]
    total = of_clients(tff, function)
    assert total(NUMBERS) == sum(expected)
    with execution.fast(strict=True):
        assert [alone(number) for number in NUMBERS] == expected
    for strategy, xla in STRATEGIES:
        with execution.fast(strategy, xla=xla, strict=True):
            assert total(NUMBERS) == sum(expected), (strategy, xla)
    assert "strategy scan" in execution.explain(total)


@pytest.mark.parametrize(("strategy", "xla"), STRATEGIES)
def test_the_gradient_of_a_branch_runs_here(tff, strategy, xla):
    """It hands what the branch computed on in an `Optional`, as an iterator hands a batch on."""

    def work(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            chosen = tf.cond(x[0] > 0, lambda: tf.cumsum(x) * x, lambda: tf.sort(x))
            total = tf.reduce_sum(chosen)
        return tape.gradient(total, x)

    tensor = tff.TensorType(np.float32, [3])
    local = tff.tensorflow.computation(work, tensor)

    @tff.federated_computation(tff.FederatedType(tensor, tff.CLIENTS))
    def computation(clients):
        return tff.federated_sum(tff.federated_map(local, clients))

    clients = [np.array(x, np.float32) for x in ([1, 2, 3], [-1, 5, 4], [2, 0, 1])]
    expected = sum(work(tf.constant(x)).numpy() for x in clients)
    with execution.fast(strategy, xla=xla, strict=True):
        np.testing.assert_allclose(computation(clients), expected, rtol=1e-6)
        assert "imported" not in execution.explain(computation)


@pytest.mark.parametrize(("strategy", "xla"), STRATEGIES)
def test_a_check_in_a_branch_counts_where_the_branch_is_taken(tff, strategy, xla):
    def checked(x):
        def bad():
            with tf.control_dependencies([tf.debugging.Assert(x < 5, ["too large", x])]):
                return tf.identity(x)

        return tf.switch_case(x, [lambda: x + 1, lambda: x, bad])

    total = of_clients(tff, checked)
    with execution.fast(strategy, xla=xla, strict=True):
        assert total([0, 1, 2, 3, -1]) == 6
        with pytest.raises(ComputationError, match=r"client 2 \(of 4.*too large"):
            total([0, 1, 6, 2])


def test_a_stateless_operation_that_calls_functions_is_an_obstacle(tff):
    @tff.tensorflow.computation(np.int32)
    def same(x):
        return x

    written = program.Program(same)
    node = tf.compat.v1.NodeDef(name="other", op="StatelessRandomUniform")
    assert written._obstacle_at(node) is None
    node.attr["f"].func.name = "something"
    assert "calls functions in a way of its own" in written._obstacle_at(node)


def test_a_ctc_loss_and_its_gradient_run_here(tff, stock):
    def loss(x):
        logits = tf.sin(tf.reshape(tf.range(20.0), [4, 1, 5])) * tf.cast(x, tf.float32)
        with tf.GradientTape() as tape:
            tape.watch(logits)
            value = tf.nn.ctc_loss(
                tf.constant([[1, 2, 0]]), logits, tf.constant([2]), tf.constant([4]), blank_index=0
            )
            total = tf.reduce_sum(value)
        return tf.stack([total, tf.reduce_sum(tape.gradient(total, logits) ** 2)])

    total = of_clients(tff, loss)
    expected = total([1, 2, 3])
    assert not isinstance(compilation.runner_of(total), compilation.NoForm)
    for strategy, xla in STRATEGIES:
        with execution.fast(strategy, xla=xla, strict=True):
            np.testing.assert_allclose(total([1, 2, 3]), expected, rtol=1e-5)


@pytest.mark.parametrize("sizes", [slow([8, 8, 8]), [8, 7, 3]], ids=["whole", "ragged"])
def test_training_by_an_iterator_is_that_of_stock_tff_in_every_strategy(tff, stock, sizes):
    import tf_keras
    from tensorflow_federated.python.learning import loop_builder

    spec = (tf.TensorSpec([None, 3]), tf.TensorSpec([None, 1]))

    def model():
        layers = [
            tf_keras.layers.InputLayer([3]),
            tf_keras.layers.Dense(1, kernel_initializer="zeros"),
        ]
        return tff.learning.models.from_keras_model(
            tf_keras.Sequential(layers), loss=tf_keras.losses.MeanSquaredError(), input_spec=spec
        )

    process = tff.learning.algorithms.build_weighted_fed_avg(
        model,
        client_optimizer_fn=tff.learning.optimizers.build_sgdm(0.1),
        loop_implementation=loop_builder.LoopImplementation.DATASET_ITERATOR,
    )
    rng = np.random.default_rng(0)
    data = []
    for size in sizes:
        x = rng.normal(size=[size, 3]).astype(np.float32)
        data.append(tf.data.Dataset.from_tensor_slices((x, x.sum(1, keepdims=True))).batch(4))

    def trained():
        state = process.initialize()
        for _ in range(2):
            state = process.next(state, data).state
        return process.get_model_weights(state).trainable

    expected = trained()
    for strategy, xla in STRATEGIES:
        with execution.fast(strategy, xla=xla, strict=True):
            for found, wanted in zip(trained(), expected, strict=True):
                np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=1e-6)
    with execution.fast("vmap"):
        assert "moves an iterator over its batches" in execution.explain(process.next)
