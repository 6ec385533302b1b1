"""Tables, queues and the like: new in each run, as on stock TFF, or not run in this process."""

from __future__ import annotations

import contextlib
import sys
import warnings

import numpy as np
import pytest
import tensorflow as tf

from tff_dp import execution
from tff_dp.errors import ComputationError
from tff_dp.execution import compilation
from tff_dp.execution.graph import resources
from tff_dp.execution.marked_noise import NOISE_SCOPE

pytestmark = pytest.mark.heavy


def mutable(x):
    table = tf.lookup.experimental.MutableHashTable(tf.int32, tf.int32, 0)
    grown = table.insert(tf.constant(1), table.lookup(tf.constant(1)) + x)
    with tf.control_dependencies([grown]):
        return tf.ensure_shape(table.lookup(tf.constant(1)), [])


def dense(x):
    table = tf.lookup.experimental.DenseHashTable(tf.int32, tf.int32, 0, -1, -2)
    grown = table.insert(tf.constant(1), table.lookup(tf.constant(1)) + x)
    with tf.control_dependencies([grown]):
        return tf.ensure_shape(table.lookup(tf.constant(1)), [])


def queue(x):
    made = tf.queue.FIFOQueue(100, [tf.int32], [()])
    with tf.control_dependencies([made.enqueue(x)]):
        return made.size()


def in_a_branch(x):
    return tf.cond(x > 0, lambda: mutable(x), lambda: x)


def in_a_function(x):
    return tf.function(mutable, autograph=False)(x)


def filled_by_the_argument(x):
    table = tf.raw_ops.HashTableV2(key_dtype=tf.int32, value_dtype=tf.int32, shared_name="given")
    filled = tf.raw_ops.InitializeTableV2(table_handle=table, keys=[1, 2], values=[x, 2 * x])
    with tf.control_dependencies([filled]):
        found = tf.raw_ops.LookupTableFindV2(table_handle=table, keys=1, default_value=-1)
    return tf.ensure_shape(found, [])


def staged(x):
    with tf.control_dependencies([tf.raw_ops.Stage(values=[x])]):
        return tf.raw_ops.StageSize(dtypes=[tf.int32])


def mapped(x):
    stage = tf.raw_ops.MapStage(key=1, indices=[0], values=[x], dtypes=[tf.int32])
    with tf.control_dependencies([stage]):
        return tf.raw_ops.MapSize(dtypes=[tf.int32])


def barrier(x):
    made = tf.raw_ops.Barrier(component_types=[tf.int32], shared_name="barrier")
    with tf.control_dependencies([made]):
        return tf.identity(x)


def accumulator(x):
    made = tf.compat.v1.ConditionalAccumulator(tf.float32, shape=[])
    with tf.control_dependencies([made.apply_grad(tf.cast(x, tf.float32))]):
        return made.num_accumulated()


def shared_iterator(x):
    dataset = tf.data.Dataset.range(3)
    made = tf.raw_ops.IteratorV2(
        shared_name="iterator", container="", output_types=[tf.int64], output_shapes=[[]]
    )
    started = tf.raw_ops.MakeIterator(dataset=dataset._variant_tensor, iterator=made)
    with tf.control_dependencies([started]):
        return tf.identity(x)


def one_shot(x):
    iterator = tf.compat.v1.data.make_one_shot_iterator(tf.data.Dataset.range(3))
    return tf.cast(iterator.get_next(), tf.int32) + x


REFUSED = {
    mutable: "MutableHashTableV2",
    dense: "MutableDenseHashTableV2",
    queue: "FIFOQueueV2",
    in_a_branch: "MutableHashTableV2",
    in_a_function: "MutableHashTableV2",
    filled_by_the_argument: "InitializeTableV2",
    staged: "Stage",
    mapped: "MapS",
    barrier: "Barrier",
    accumulator: "ResourceConditionalAccumulator",
    shared_iterator: "IteratorV2",
    one_shot: "OneShotIterator",
}


def of_clients(tff, function, dtype=np.int32):
    """Returns the sum over clients of a function of their numbers."""
    work = tff.tensorflow.computation(function, dtype)

    @tff.federated_computation(tff.FederatedType(dtype, tff.CLIENTS))
    def computation(numbers):
        return tff.federated_sum(tff.federated_map(work, numbers))

    return computation


def of_server(tff, function):
    """Returns a function of the sum over clients."""
    finish = tff.tensorflow.computation(function, np.int32)

    @tff.federated_computation(tff.FederatedType(np.int32, tff.CLIENTS))
    def computation(numbers):
        return tff.federated_map(finish, tff.federated_sum(numbers))

    return computation


@pytest.mark.parametrize("function", REFUSED, ids=lambda function: function.__name__)
def test_contents_that_would_outlast_a_run_are_refused_by_name(tff, function):
    made = [tff.tensorflow.computation(function, np.int32)]
    made += [of_clients(tff, function), of_server(tff, function)]
    for computation in made:
        found = compilation.runner_of(computation)
        assert isinstance(found, compilation.NoForm)
        assert f"operation {REFUSED[function]}" in found.reason
        assert "on stock TFF" in execution.explain(computation)
    with (
        execution.fast(strict=True),
        pytest.raises(ComputationError, match=REFUSED[function]),
    ):
        made[0](2)


@pytest.mark.parametrize("function", [mutable, dense, queue, filled_by_the_argument])
def test_contents_are_those_of_stock_tff_from_call_to_call(tff, stock, monkeypatch, function):
    # The worker of the whole run serves as the fallback.
    monkeypatch.setattr(
        sys.modules["tff_dp.execution.context"],
        "stock",
        lambda install, secure_sums: contextlib.nullcontext(stock),
    )

    def made():
        return [
            (tff.tensorflow.computation(function, np.int32), 2),
            (of_clients(tff, function), [3, 2, 1]),
            (of_server(tff, function), [3, 2, 1]),
        ]

    for computation, argument in made():
        expected = [computation(argument) for _ in range(2)]
        with execution.fast(), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = [computation(argument) for _ in range(2)]
        assert found == expected
        assert expected[0] == expected[1]
        (told,) = [w for w in caught if "runs on stock TFF" in str(w.message)]
        assert f"operation {REFUSED[function]}" in str(told.message)


def test_noise_of_a_plan_beside_contents_that_outlast_a_run_is_refused(tff):
    @tff.tensorflow.computation(np.int32)
    def noisy(x):
        with tf.name_scope(NOISE_SCOPE):
            drawn = tf.random.uniform([], 0, 10, tf.int32)
        return mutable(x) + drawn

    with execution.fast(), pytest.raises(ComputationError, match="MutableHashTableV2"):
        noisy(1)


def vocabulary(x):
    initializer = tf.lookup.KeyValueTensorInitializer(["1", "2"], tf.constant([5, 7], tf.int64))
    table = tf.lookup.StaticVocabularyTable(
        tf.lookup.KeyValueTensorInitializer(["1", "2"], tf.constant([0, 1], tf.int64)), 3
    )
    static = tf.lookup.StaticHashTable(initializer, -1)
    text = tf.strings.as_string(x)
    return tf.ensure_shape(100 * table.lookup(text) + static.lookup(text), [])


def keras_3(x):
    import keras

    text = tf.strings.as_string(tf.reshape(x, [1]))
    strings = keras.layers.StringLookup(vocabulary=["3", "1", "2"])(text)
    numbers = keras.layers.IntegerLookup(vocabulary=[3, 1, 2])(tf.reshape(x, [1]))
    return tf.ensure_shape(10 * strings[0] + numbers[0], [])


def keras_2(x):
    import tf_keras

    text = tf.strings.as_string(tf.reshape(x, [1]))
    strings = tf_keras.layers.StringLookup(vocabulary=["3", "1", "2"])(text)
    numbers = tf_keras.layers.IntegerLookup(vocabulary=[3, 1, 2])(tf.reshape(x, [1]))
    return tf.ensure_shape(10 * strings[0] + numbers[0], [])


def anonymous(x):
    table = tf.lookup.experimental.MutableHashTable(
        tf.int32, tf.int32, 0, experimental_is_anonymous=True
    )
    grown = table.insert(tf.constant(1), table.lookup(tf.constant(1)) + x)
    with tf.control_dependencies([grown]):
        return tf.ensure_shape(table.lookup(tf.constant(1)), [])


@pytest.mark.parametrize("function", [vocabulary, keras_3, keras_2])
def test_static_vocabularies_run_here(tff, stock, function):
    for computation, argument in (
        (tff.tensorflow.computation(function, np.int64), 2),
        (of_clients(tff, function, np.int64), [3, 2, 1, 2]),
    ):
        expected = [computation(argument) for _ in range(2)]
        with execution.fast(strict=True):
            assert [computation(argument) for _ in range(2)] == expected


def test_tables_without_a_name_run_here_and_are_new_for_each_client(tff, stock):
    computation = of_clients(tff, anonymous)
    expected = [computation([3, 2, 1]) for _ in range(2)]
    with execution.fast(strict=True):
        assert [computation([3, 2, 1]) for _ in range(2)] == expected == [6, 6]


def test_tables_of_one_name_in_two_computations_are_two(tff):
    def filled(values, sharing):
        def function(x):
            table = tf.raw_ops.HashTableV2(
                key_dtype=tf.int32,
                value_dtype=tf.int32,
                shared_name="" if sharing else "mine",
                use_node_name_sharing=sharing,
                name="same",
            )
            done = tf.raw_ops.InitializeTableV2(table_handle=table, keys=[1, 2], values=values)
            with tf.control_dependencies([done]):
                return tf.raw_ops.LookupTableFindV2(table_handle=table, keys=x, default_value=-1)

        return tff.tensorflow.computation(function, np.int32)

    for sharing in (False, True):
        first, second = filled([10, 20], sharing), filled([30, 40], sharing)
        with execution.fast(strict=True):
            assert [first(2), second(2), first(1), second(1)] == [20, 40, 10, 30]


# Every operation of this TensorFlow that has a resource, and is taken to be of one run, with the reason.
OF_ONE_RUN = {
    "AnonymousHashTable": "without a name",
    "AnonymousIterator": "without a name",
    "AnonymousIteratorV2": "without a name",
    "AnonymousIteratorV3": "without a name",
    "AnonymousMemoryCache": "without a name",
    "AnonymousMultiDeviceIterator": "without a name",
    "AnonymousMultiDeviceIteratorV3": "without a name",
    "AnonymousMutableDenseHashTable": "without a name",
    "AnonymousMutableHashTable": "without a name",
    "AnonymousMutableHashTableOfTensors": "without a name",
    "AnonymousRandomSeedGenerator": "without a name",
    "AnonymousSeedGenerator": "without a name",
    "DummyIterationCounter": "holds nothing",
    "DummyMemoryCache": "holds nothing",
    "DummySeedGenerator": "holds nothing",
    "HashTable": "filled once, with constants",
    "HashTableV2": "filled once, with constants",
    "StackV2": "kept for a step",
    "TemporaryVariable": "kept for a step",
    "TensorArrayGradV3": "kept for a step",
    "TensorArrayGradWithShape": "kept for a step",
    "TensorArrayV3": "kept for a step",
    "VarHandleOp": "starts anew",
    "VariableV2": "starts anew",
}


def test_every_operation_of_tensorflow_that_may_keep_contents_is_refused_or_listed():
    from tensorflow.core.framework import op_def_pb2
    from tensorflow.python.client import pywrap_tf_session

    definitions = op_def_pb2.OpList()
    buffer = pywrap_tf_session.TF_GetAllOpList()
    definitions.ParseFromString(pywrap_tf_session.TF_GetBuffer(buffer))
    assert len(definitions.op) > 1000
    free = set()
    for definition in definitions.op:
        names = {attribute.name for attribute in definition.attr}
        handles = any(
            output.is_ref or output.type == tf.resource.as_datatype_enum
            for output in definition.output_arg
        )
        keeps = bool(names & {"shared_name", "container"}) or (definition.is_stateful and handles)
        if keeps and not resources.outlasts(definition.name):
            free.add(definition.name)
        if not keeps:
            assert not resources.outlasts(definition.name), definition.name
    assert free <= set(OF_ONE_RUN)
    for name in ("Stage", "MapStage", "OrderedMapStage", "Barrier", "PriorityQueueV2", "MutexV2"):
        assert resources.outlasts(name)
    for name in ("SparseConditionalAccumulator", "TextLineReaderV2", "Iterator", "BatchFunction"):
        assert resources.outlasts(name)
