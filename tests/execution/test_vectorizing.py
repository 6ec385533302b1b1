"""Operations side by side without a loop over the clients: the numbers of each alone, and no loop."""

from __future__ import annotations

import numpy as np
import pytest

CONVOLUTIONS = {
    "plain": (1, "VALID", 1, (3, 4), (3, 3)),
    "strides": (2, "SAME", 1, (3, 4), (3, 3)),
    "dilations": (1, "SAME", 2, (2, 5), (2, 3)),
    "one pixel": (1, "SAME", 1, (4, 4), (1, 1)),
    "one channel": (2, "VALID", 1, (1, 1), (2, 2)),
}
CLIENTS = 5


def _graph(function, *arrays, xla, own=True):
    """Returns a vectorized function under XLA or without, and the operations of its graph."""
    import contextlib

    import tensorflow as tf

    from tff_dp._compat import vectorizing

    @tf.function(jit_compile=xla, autograph=False)
    def every(*tensors):
        with vectorizing.without_loops(xla=xla) if own else contextlib.nullcontext():
            return tf.vectorized_map(lambda each: function(*each), tensors)

    graph = every.get_concrete_function(*map(tf.constant, arrays))
    definition = graph.graph.as_graph_def()
    inner = (node for function in definition.library.function for node in function.node_def)
    return graph, {node.op for node in (*definition.node, *inner)}


@pytest.fixture
def tensorflow(tff):
    import tensorflow as tf

    return tf


def _with_gradients(tf, stride, padding, dilations):
    def convolve(x, kernel):
        with tf.GradientTape() as tape:
            tape.watch([x, kernel])
            y = tf.nn.conv2d(x, kernel, stride, padding, dilations=dilations)
            total = tf.reduce_sum(tf.sin(y))
        return [y, *tape.gradient(total, [x, kernel])]

    return convolve


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_with_filters_of_their_own(tensorflow, name):
    tf = tensorflow
    stride, padding, dilations, (channels, outputs), size = CONVOLUTIONS[name]
    rng = np.random.default_rng(0)
    x = rng.normal(size=[CLIENTS, 2, 7, 6, channels]).astype(np.float32)
    kernels = rng.normal(size=[CLIENTS, *size, channels, outputs]).astype(np.float32)
    convolve = _with_gradients(tf, stride, padding, dilations)
    alone = [
        convolve(*each) for each in zip(map(tf.constant, x), map(tf.constant, kernels), strict=True)
    ]
    graph, operations = _graph(convolve, x, kernels, xla=True)
    assert not {op for op in operations if "While" in op}
    for found, *each in zip(graph(tf.constant(x), tf.constant(kernels)), *alone, strict=True):
        np.testing.assert_allclose(found, np.stack(each), atol=1e-4)


def test_without_the_own_forms_there_are_loops(tensorflow):
    """A negative control for the test above; and what XLA does not compile keeps TensorFlow's form."""
    tf = tensorflow
    x = np.ones([CLIENTS, 2, 5, 5, 1], np.float32)
    kernels = np.ones([CLIENTS, 3, 3, 1, 2], np.float32)
    convolve = _with_gradients(tf, 1, "VALID", 1)
    for settings in ({"xla": True, "own": False}, {"xla": False}):
        _, operations = _graph(convolve, x, kernels, **settings)
        assert {op for op in operations if "While" in op}


def test_filters_and_images_that_all_share(tensorflow):
    tf = tensorflow
    rng = np.random.default_rng(1)
    x = rng.normal(size=[CLIENTS, 2, 5, 5, 3]).astype(np.float32)
    kernels = rng.normal(size=[CLIENTS, 3, 3, 3, 2]).astype(np.float32)
    for function, given in (
        (lambda own: tf.nn.conv2d(own, kernels[0], 1, "SAME"), x),
        (lambda own: tf.nn.conv2d(x[0], own, 1, "SAME"), kernels),
    ):
        graph, operations = _graph(function, given, xla=True)
        assert not {op for op in operations if "While" in op}
        each = [function(tf.constant(own)) for own in given]
        np.testing.assert_allclose(graph(tf.constant(given)), np.stack(each), atol=1e-4)


@pytest.mark.parametrize(
    "types", [("float32", "int32"), ("float64", "int32"), ("int32", "float64")]
)
def test_bitcasts(tensorflow, types):
    tf = tensorflow
    values = np.random.default_rng(2).integers(0, 2**62, [CLIENTS, 3, 2]).view(types[0])
    values = values.reshape(CLIENTS, -1, 2)
    graph, operations = _graph(lambda own: tf.bitcast(own, types[1]), values, xla=False)
    assert "While" not in str(operations)
    each = [tf.bitcast(tf.constant(own), types[1]) for own in values]
    np.testing.assert_array_equal(
        graph(tf.constant(values)).numpy().tobytes(), np.stack(each).tobytes()
    )


def test_the_table_of_tensorflow_is_left_as_it_was(tensorflow):
    from tff_dp._compat import vectorizing

    before = dict(vectorizing._CONVERTERS)
    with pytest.raises(RuntimeError, match="inside"), vectorizing.without_loops(xla=True):
        assert dict(vectorizing._CONVERTERS) != before
        raise RuntimeError("inside")
    assert dict(vectorizing._CONVERTERS) == before
