"""Functions that operations of the table call: what takes several statements, most of it resources."""

from __future__ import annotations

import textwrap

_SOURCE = """
@tf.function
def in_table(x):
    table = tf.lookup.experimental.MutableHashTable(tf.int64, tf.float32, -1.0)
    keys = tf.range(tf.size(x, tf.int64)) % 3
    before = table.lookup(keys)
    table.insert(keys, x + before)
    return table.lookup(keys) + tf.cast(table.size(), tf.float32)


@tf.function
def in_dense_table(x):
    table = tf.lookup.experimental.DenseHashTable(tf.int32, tf.int32, 0, -999, -998)
    before = table.lookup(x)
    table.insert(x, before + 1)
    return table.lookup(x)


@tf.function
def in_queue(x):
    queue = tf.queue.FIFOQueue(100, [tf.float32], [[]])
    queue.enqueue_many([x])
    return queue.dequeue() + tf.cast(queue.size(), tf.float32)


@tf.function
def in_tensor_array(x):
    array = tf.TensorArray(tf.float32, 0, dynamic_size=True, element_shape=[])
    array = array.write(0, x[0]).write(2, x[1] * 2.0)
    return array.stack()


def in_variable(x):
    variable = tf.Variable(x)
    with tf.control_dependencies([variable.assign_add(x * 2.0)]):
        return variable.read_value()


def in_counter(x):
    counter = tf.Variable(0.0)
    with tf.control_dependencies([counter.assign_add(tf.reduce_sum(x))]):
        first = counter.read_value()
    with tf.control_dependencies([counter.assign_add(first)]):
        return counter.read_value() + x


@tf.function
def in_static_table(x):
    pairs = tf.lookup.KeyValueTensorInitializer([0, 1, 2], [5, 7, 9])
    return tf.lookup.StaticHashTable(pairs, -1).lookup(x)


def in_slot(x):
    variable = tf.Variable(tf.zeros([4]))
    with tf.control_dependencies([variable.scatter_nd_add([[1], [1]], x[:2])]):
        return variable.read_value()


@tf.function
def in_stack(x):
    queue = tf.queue.PriorityQueue(100, [tf.float32], [[]])
    queue.enqueue_many([tf.cast(x * 100.0, tf.int64), x])
    return queue.dequeue()[1]


def in_loop_variable(x):
    variable = tf.Variable(0.0)

    @tf.function
    def add():
        tf.while_loop(lambda i: i < 3, lambda i: [i + tf.cast(variable.assign_add(x[0]) * 0.0, tf.int32) + 1], [0])
        return variable.read_value()

    return add()


def in_cond_variable(x):
    variable = tf.Variable(1.0)

    @tf.function
    def add():
        tf.cond(x[0] > 0.0, lambda: variable.assign_add(x[0]), lambda: variable.assign(-2.0))
        return variable.read_value()

    return add()


@tf.function
def in_barrier(x):
    queue = tf.queue.RandomShuffleQueue(100, 0, [tf.float32], [[]], seed=1)
    queue.enqueue_many([x])
    return tf.sort(queue.dequeue_many(tf.size(x)))


@tf.function
def in_dataset(x):
    return tf.data.Dataset.from_tensor_slices(x).batch(2).reduce(0.0, lambda s, b: s * 0.5 + tf.reduce_sum(b))


@tf.function
def in_iterator(x):
    iterator = iter(tf.data.Dataset.from_tensor_slices(x).repeat(2))
    return next(iterator) + 2.0 * next(iterator)


@tf.function
def in_filtered_dataset(x):
    kept = tf.data.Dataset.from_tensor_slices(x).filter(lambda e: e > 0.0).map(lambda e: e * 2.0)
    return kept.reduce(0.0, lambda s, e: s + e)


@tf.function
def in_missing_table(x):
    table = tf.lookup.experimental.MutableHashTable(tf.int64, tf.float32, -1.0)
    table.insert(tf.range(2, dtype=tf.int64), x[: tf.where(x[0] > 0.0, 2, 1)])
    return table.lookup(tf.range(2, dtype=tf.int64))


def checked(x):
    with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(x > -1.5), ["too low"])]):
        return tf.identity(x)
"""


def _functions() -> dict[str, str]:
    """Returns the source of each function by its name."""
    found = {}
    for block in textwrap.dedent(_SOURCE).strip().split("\n\n\n"):
        name = block[block.index("def ") + 4 :].partition("(")[0]
        found[name] = block
    return found


FUNCTIONS = _functions()
