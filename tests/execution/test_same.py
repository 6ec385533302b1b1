"""What XLA, fused kernels and clients side by side would change: the same as on stock TFF, or refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.support.operation_cases import raw
from tests.support.rewriting import constants, rewritten, run, run_for_xla
from tests.support.strategies import STRATEGIES
from tests.support.tables import covered, thinned
from tff_dp import execution
from tff_dp.errors import ComputationError
from tff_dp.execution.graph import bodies, xla_numerics

TABLE = np.arange(12, dtype=np.float32).reshape(4, 3)
_IN_ONE_GRAPH = ("vmap", "scan-xla", "vmap-xla")


def _sum_of(tff: Any, function: Any, dtype: Any, shape: list[int]) -> Any:
    """Returns the sum over clients of what a function makes of their tensor."""
    tensor = tff.TensorType(dtype, shape)
    work = tff.tensorflow.computation(function, tensor)

    @tff.federated_computation(tff.FederatedType(tensor, tff.CLIENTS))
    def total(values: Any) -> Any:
        return tff.federated_sum(tff.federated_map(work, values))

    return total


REFUSED = {
    "GatherV2": (lambda x: tf.reduce_sum(tf.gather(tf.constant(TABLE), x)), [3, 4]),
    "SparseSoftmaxCrossEntropyWithLogits": (
        lambda x: tf.reduce_sum(
            tf.nn.sparse_softmax_cross_entropy_with_logits(x, tf.constant(TABLE[:2]))
        ),
        [0, 3],
    ),
    "FloorDiv": (lambda x: x[0] // x[1], [1, 0]),
    "UnsortedSegmentSum": (lambda x: tf.math.unsorted_segment_sum(tf.ones([2]), x, 3), [3, 0]),
}


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("op", "strategy"),
    covered(
        sorted(REFUSED),
        _IN_ONE_GRAPH,
        by=[
            *((op, "scan-xla") for op in sorted(REFUSED)),
            ("GatherV2", "vmap"),
            ("UnsortedSegmentSum", "vmap-xla"),
        ],
        slow=None,
    ),
)
def test_the_client_with_an_index_out_of_range_is_named(tff, op, strategy):
    function, bad = REFUSED[op]
    total = _sum_of(tff, function, np.int32, [2])
    data = [np.array(one, np.int32) for one in ([1, 1], [2, 2], bad)]
    with execution.fast(**STRATEGIES[strategy], device="cpu", strict=True):
        total(data[:2])
        with pytest.raises(ComputationError, match=rf"(?s)client 2 \(of 3.*{op}"):
            total(data)


@pytest.mark.heavy
@pytest.mark.parametrize("strategy", _IN_ONE_GRAPH)
def test_an_index_out_of_range_in_a_branch_that_is_not_taken_is_no_failure(tff, strategy):
    def function(x: Any) -> Any:
        return tf.cond(x[1] > 0, lambda: tf.gather(tf.constant(TABLE[0]), x[0]), lambda: 1.0)

    total = _sum_of(tff, function, np.int32, [2])
    data = [np.array(one, np.int32) for one in ([2, 1], [7, 0])]
    with execution.fast(**STRATEGIES[strategy], device="cpu", strict=True):
        assert total(data) == 3.0
        with pytest.raises(ComputationError, match=r"client 1 \(of 2"):
            total([data[0], np.array([7, 1], np.int32)])


def _dense(activation: Any) -> Any:
    return lambda x: activation(
        tf.nn.bias_add(tf.matmul(x[None], tf.reshape(x * 0 + 1, [3, 1]) * tf.ones([3, 3])), x)
    )


SPOILED = {
    "relu after a dense layer": _dense(tf.nn.relu),
    "relu6 after a dense layer": _dense(tf.nn.relu6),
    "relu": tf.nn.relu,
    "relu6": tf.nn.relu6,
    "minimum": lambda x: tf.minimum(1.0, x),
    "maximum": lambda x: tf.maximum(0.0, x),
    "largest": lambda x: tf.reduce_max(x),
    "smallest": lambda x: tf.reduce_min(x),
    "clip": lambda x: tf.clip_by_value(x, -1.0, 1.0),
    "position": lambda x: tf.argmax(x),
    "gradient": lambda x: tf.gradients(tf.nn.relu(x) * x, x)[0],
    "cross-entropy": lambda x: tf.nn.sigmoid_cross_entropy_with_logits(tf.ones([3]), x),
}


@pytest.mark.heavy
@pytest.mark.parametrize(
    "name",
    thinned(
        sorted(SPOILED),
        by=["clip", "cross-entropy", "gradient", "largest", "maximum", "position", "relu6"],
    ),
)
def test_what_is_not_a_number_stays_so_as_on_stock_tff(tff, stock, name):
    total = _sum_of(tff, lambda x: SPOILED[name](x), np.float32, [3])
    data = [np.float32([np.nan, -1, 9]), np.float32([1, 2, -3])]
    expected = total(data)
    for strategy in ("call", "scan", "vmap", "scan-xla"):
        with execution.fast(**STRATEGIES[strategy], device="cpu", strict=True):
            np.testing.assert_allclose(total(data), expected, rtol=1e-6, err_msg=strategy)


@pytest.mark.heavy
def test_random_numbers_of_a_programs_own_seed_are_those_of_stock_tff(tff, stock):
    def function(seed: Any) -> Any:
        fixed = tf.random.stateless_normal([5], [1, 2])
        return (
            fixed,
            tf.random.stateless_uniform([3], seed),
            tf.random.stateless_uniform([3], seed, 0, 1000, tf.int32),
        )

    total = _sum_of(tff, function, np.int64, [2])
    data = [np.array(seed, np.int64) for seed in ([1, 5], [-7, 2**40])]
    expected = total(data)
    for strategy in ("scan", "vmap", "scan-xla", "vmap-xla"):
        with execution.fast(**STRATEGIES[strategy], device="cpu", strict=True):
            for a, b in zip(total(data), expected, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6, err_msg=strategy)


@pytest.mark.parametrize("width", [3, 7, 10, 15, 49, 60])
def test_modular_clipping_under_xla_takes_the_same_side_of_each_boundary(width):
    """Boundaries are where the quotient is a whole number, if nothing rounds."""
    low = -(width // 3)

    def clip(values: Any) -> Any:
        period = tf.floor(values / width - low / width)
        return values - tf.cast(period, values.dtype) * width

    def for_xla(values: Any, key: Any) -> Any:
        return rewritten(clip, [values], key)

    values = constants(np.arange(-40 * width, 40 * width, dtype=np.int32) + low)
    np.testing.assert_array_equal(run_for_xla(for_xla, values), run(clip, values))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_product_before_a_step_is_rounded_before_it_is_added_to(dtype):
    rng = np.random.default_rng(3)
    a, b, c = (rng.normal(size=100_000).astype(dtype) for _ in range(3))

    def for_xla(values: Any, key: Any) -> Any:
        return xla_numerics.apart(values[0] * values[1], key) + values[2]

    (actual,) = run_for_xla(for_xla, constants([a, b, c]))
    np.testing.assert_array_equal(actual, a * b + c)


def test_only_products_that_lead_to_a_step_are_kept_apart():
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [4], "x")
        near = tf.multiply(x, 3.0, "near")
        quotient = tf.math.divide(x, near, "quotient")
        summed = tf.multiply(x, 5.0, "summed")
        whole = tf.cast(tf.floor(quotient + tf.reduce_sum(summed)), tf.int32, "whole")
        tf.multiply(tf.cast(whole, tf.float32), 2.0, "after")
        noise = tf.multiply(x, 7.0, "noise")
        tf.cast(noise, tf.int64, "tff_dp_noise/drawn")
    body = bodies.of_graph(graph.as_graph_def(), ["x:0"], ["after:0", "tff_dp_noise/drawn:0"])
    assert xla_numerics.before_steps(body) == {"near", "quotient"}


def test_a_draw_that_has_no_form_for_xla_is_refused():
    def draw(key: Any, counter: Any) -> Any:
        return raw("StatelessRandomUniformV2", [3], key, counter, 2, dtype=tf.float32)

    arguments = constants([np.zeros([1], np.uint64), np.zeros([2], np.uint64)])
    with pytest.raises(NotImplementedError, match=r"StatelessRandomUniformV2 .* draws other"):
        rewritten(draw, arguments, tf.constant([1, 2], tf.uint64))


def test_every_result_of_a_function_follows_its_rectifier_when_that_is_replaced():
    """Maps of protocol buffers skip entries if they are written while they are read."""
    graph_def = tf.compat.v1.GraphDef()
    function = graph_def.library.function.add()
    for i in range(40):
        node = function.node_def.add(name=f"relu_{i}", op="Relu", input=["x"])
        node.attr["T"].type = tf.float32.as_datatype_enum
        function.ret[f"result_{i}"] = f"relu_{i}:activations:0"
    xla_numerics.keep_nan(graph_def)
    assert dict(function.ret) == {f"result_{i}": f"relu_{i}:z:0" for i in range(40)}
