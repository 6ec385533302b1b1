"""Results do not depend on who runs the clients: equal keys give equal bits for any number of workers."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
import tensorflow as tf
import tree

import tff_dp
from tests.support.rounds import cohort_of, plan
from tests.support.tables import slow
from tff_dp import execution
from tff_dp.errors import ArgumentError, ComputationError
from tff_dp.execution import devices
from tff_dp.execution.cohort import arrays, datasets, grouping
from tff_dp.execution.round import backend, block_work, client_loop
from tff_dp.model import ModelSpec
from tff_dp.process import build_process, initialize_from

pytestmark = pytest.mark.heavy

WORKERS = (1, 2, 4, 23)  # the last are more than there are parts, or (mostly) cores
CLIENTS = 90
EQUAL = [8] * CLIENTS
RAGGED = ([8] * 4 + [5] * 3 + [12, 7, 0, 3]) * 8  # last batches of 0, 1, 3 and 3 examples


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Has few clients make several blocks of several parts."""
    monkeypatch.setattr(client_loop, "_ENTRIES_OF_A_PART", 32)
    monkeypatch.setattr(client_loop, "_ENTRIES_OF_A_LONG_PART", 32)
    monkeypatch.setattr(datasets, "_AT_ONCE", 24)
    monkeypatch.setattr(block_work, "CALLS_AT_ONCE", 20)
    monkeypatch.setattr(client_loop, "WIDEST", 16)
    monkeypatch.setattr(grouping, "WIDEST", 16)


@pytest.fixture
def seen(monkeypatch):
    """The parts of each block that was cut, and the numbers of the blocks whose sums were joined."""
    found = {"parts": [], "blocks": []}
    shape_of, add = block_work.shape_of, backend.SumTree.add

    def cut(*args, **kwargs):
        shape = shape_of(*args, **kwargs)
        found["parts"].append(shape.parts)
        return shape

    def added(self, number, sums):
        found["blocks"].append(number)
        add(self, number, sums)

    monkeypatch.setattr(block_work, "shape_of", cut)
    monkeypatch.setattr(backend.SumTree, "add", added)
    return found


@pytest.fixture(scope="module")
def bound(tff):
    model = keras.Sequential([keras.layers.Input([5]), keras.layers.Dense(1)])
    return ModelSpec(model=model, loss="mse").bind(cohort_of([2]).element_spec())


@pytest.fixture(scope="module")
def processes(bound):
    mechanism = tff_dp.GaussianMechanism(clip_norm=0.5, noise_multiplier=0.1)
    plans = {"plain": tff_dp.NoPrivacy(), "private": plan(mechanism)}
    return {
        name: build_process(bound, algorithm=tff_dp.FedAvg(), privacy=privacy)
        for name, privacy in plans.items()
    }


def bits(value):
    """Returns the bytes of all of a result's tensors."""
    return [np.asarray(leaf).tobytes() for leaf in tree.flatten(value)]


def assert_equal_for_all_workers(run):
    """Raises unless a function of the number of workers gives equal bits for all of them."""
    expected = bits(run(WORKERS[0]))
    for workers in WORKERS[1:]:
        assert bits(run(workers)) == expected, workers


def rounds_of(process, bound, strategy, xla, cohorts, *, fused=False, streamed=False, behind=None):
    """Returns the function of a number of workers to the states and metrics of some rounds."""

    def run(workers):
        with execution.fast(
            strategy, "cpu", xla=xla, seed=3, strict=True, workers=workers
        ) as context:
            assert len(context.settings.places.names) == workers
            if streamed:
                context.settings.resident.limit = 0
            if behind is not None:
                context.settings.backend = behind(workers)
            state = initialize_from(process, bound.initial_weights)
            if fused:
                return execution.iterate(process.next, state, cohorts)
            outputs = []
            for cohort in cohorts:
                outputs.append(process.next(state, cohort))
                state = outputs[-1].state
            return outputs

    return run


MODES = [("scan", True), ("scan", False), ("vmap", False), ("call", None)]
CASES = {
    "equal arrays": (EQUAL, "plain", {}),
    "ragged arrays": (RAGGED, "plain", {}),
    "private": (RAGGED, "private", {}),
    "streamed": (RAGGED, "plain", {"streamed": True}),
    "data sets": (RAGGED, "plain", {}),
    "fused": (EQUAL, "plain", {"fused": True}),
}
RUNS = [
    slow("equal arrays", "scan", True),
    ("equal arrays", "scan", False),
    slow("equal arrays", "vmap", True),
    # "private" has the same clients in the same blocks, and noise besides.
    pytest.param("ragged arrays", "scan", True, marks=pytest.mark.full),
    pytest.param("ragged arrays", "vmap", False, marks=pytest.mark.full),
    slow("ragged arrays", "call", None),
    ("private", "scan", True),
    slow("private", "vmap", False),
    ("streamed", "scan", True),
    slow("streamed", "scan", False),
    slow("data sets", "scan", True),
    ("data sets", "scan", False),
    # Blocks of data sets are cut before the strategy, and "private" has this one.
    pytest.param("data sets", "vmap", False, marks=pytest.mark.full),
    ("fused", "scan", True),
    ("fused", "scan", False),
]
IN_PARTS = {"equal arrays", "ragged arrays", "private"}  # some block is several parts
IN_BLOCKS = {"ragged arrays", "private", "streamed", "data sets"}  # several blocks are joined


@pytest.mark.parametrize(("case", "strategy", "xla"), RUNS)
def test_any_number_of_workers_gives_equal_bits(
    bound, processes, seen, monkeypatch, case, strategy, xla
):
    sizes, privacy, options = CASES[case]
    monkeypatch.setattr(arrays, "_BYTES", 6000)
    clients = cohort_of(sizes)
    order = np.random.default_rng(1).permutation(len(sizes)).tolist()
    cohort = clients.cohort(order, batch_size=4)
    cohorts = [list(cohort) if case == "data sets" else cohort] * 2
    assert_equal_for_all_workers(
        rounds_of(processes[privacy], bound, strategy, xla, cohorts, **options)
    )
    if strategy != "call" and case in IN_PARTS:
        assert max(seen["parts"]) > 1
    if case in IN_BLOCKS:
        assert max(seen["blocks"]) > 1


LAYERS = {
    "recurrent": lambda k: [k.Reshape([5, 1]), k.LSTM(3), k.Dense(1)],
    "group normalization": lambda k: [k.Dense(4), k.GroupNormalization(2), k.Dense(1)],
    "large": lambda k: [k.Dense(900, "relu"), k.Dense(1)],
}


@pytest.mark.parametrize(
    ("layers", "xla"),
    [
        ("recurrent", False),
        slow("large", True),
        slow("recurrent", True),
        pytest.param("large", False, marks=pytest.mark.full),
        pytest.param("group normalization", False, marks=pytest.mark.full),
    ],
)
def test_any_number_of_workers_gives_equal_bits_for_each_kind_of_layer(tff, seen, layers, xla):
    model = keras.Sequential([keras.layers.Input([5]), *LAYERS[layers](keras.layers)])
    clients = cohort_of(RAGGED)
    bound = ModelSpec(model=model, loss="mse").bind(clients.element_spec())
    mechanism = tff_dp.GaussianMechanism(clip_norm=0.5, noise_multiplier=0.1)
    process = build_process(bound, algorithm=tff_dp.FedAvg(), privacy=plan(mechanism))
    cohorts = [clients.cohort(range(len(RAGGED)), batch_size=4)]
    assert_equal_for_all_workers(rounds_of(process, bound, "scan", xla, cohorts))
    assert max(seen["parts"]) > 1


@pytest.fixture(scope="module")
def total(tff):
    @tff.federated_computation(tff.FederatedType(np.float32, tff.CLIENTS))
    def total(numbers):
        return tff.federated_sum(numbers)

    return total


def numbers(count):
    """Returns float32 numbers whose sum depends on the order of its terms: all are rounded in it."""
    return [
        np.float32((-1) ** (i // 7) * (i * 7919 % 1013) * 3 ** (i % 13) / 3) for i in range(count)
    ]


def in_order(values):
    total = np.float32(0)
    for value in values:
        total = np.float32(total + value)
    return total


def as_tree(values):
    """Joins neighbors, then neighbors of those, and so on; a last one alone stays as it is."""
    while len(values) > 1:
        pairs = itertools.zip_longest(values[::2], values[1::2])
        values = [a if b is None else np.float32(a + b) for a, b in pairs]
    return values[0]


def test_sums_are_joined_as_a_tree_that_follows_from_the_cohort(total):
    """By an order of its own making: 64 clients are 4 parts of 16; by calls, 130 are 7 blocks of 20."""
    values = numbers(64)
    parts = [in_order(values[i : i + 16]) for i in range(0, 64, 16)]
    assert as_tree(parts) != in_order(values)
    for xla in (True, False):
        with execution.fast("scan", "cpu", xla=xla, strict=True):
            assert total(values) == as_tree(parts)
    values = numbers(130)
    blocks = [in_order(values[i : i + 20]) for i in range(0, 130, 20)]
    assert as_tree(blocks) != in_order(values)
    with execution.fast("call", "cpu", strict=True):
        assert total(values) == as_tree(blocks)


def summed(total, strategy, values, behind=None):
    def run(workers):
        with execution.fast(strategy, "cpu", strict=True, workers=workers) as context:
            if behind is not None:
                context.settings.backend = behind(workers)
            return total(values)

    return run


class ByWorker:
    """A defect: each worker adds up all of its blocks, so that sums depend on how many there are."""

    def __init__(self, here, workers):
        self._here, self._workers = here, workers
        self.begin, self.nobody = here.begin, here.nobody
        self.join, self.finish = here.join, here.finish

    def partial_sums(self, root, common, blocks):
        own = {}
        numbers_ = []
        for number, sums in self._here.partial_sums(root, common, blocks):
            numbers_.append(number)
            worker = number % self._workers
            own[worker] = self.join(root, own[worker], sums, number) if worker in own else sums
        for number in numbers_:
            yield number, own.get(number) or self.nobody(root)


def test_a_backend_whose_order_depends_on_its_workers_is_caught(total):
    values = numbers(130)
    assert_equal_for_all_workers(summed(total, "call", values))

    def defective(workers):
        return lambda here: ByWorker(here, workers)

    with pytest.raises(AssertionError):
        assert_equal_for_all_workers(summed(total, "call", values, defective))


def test_parts_whose_number_depends_on_the_workers_are_caught(total, monkeypatch):
    values = numbers(64)
    assert_equal_for_all_workers(summed(total, "scan", values))

    def run(workers):
        monkeypatch.setattr(client_loop, "part_count", lambda *_: workers)
        return summed(total, "scan", values)(workers)

    with pytest.raises(AssertionError):
        assert_equal_for_all_workers(run)


class Scattered:
    """A backend that knows the protocol alone: blocks run in threads, and come back out of order.

    Everything that passes is turned into numpy arrays and back, as between processes.
    """

    def __init__(self, here, threads):
        self._here, self._threads = here, threads

    def begin(self, root, state):
        common, status = self._here.begin(root, state)
        return sent(common), sent(status)

    def nobody(self, root):
        return sent(self._here.nobody(root))

    def join(self, root, left, right, split):
        return sent(self._here.join(root, sent(left), sent(right), split))

    def finish(self, root, words, state, before, sums):
        return self._here.finish(root, sent(words), state, sent(before), sent(sums))

    def partial_sums(self, root, common, blocks):
        def one(block):
            ((number, sums),) = self._here.partial_sums(root, sent(common), [block])
            return number, sent(sums)

        with ThreadPoolExecutor(self._threads) as pool:
            coming = [pool.submit(one, block) for block in blocks]
            # The first that failed, in the order of the blocks.
            done = [future.result() for future in coming]
        order = np.random.default_rng(self._threads).permutation(len(done))
        assert len(done) < 2 or list(order) != sorted(order)
        for place in order:
            yield done[place]


def sent(tensors):
    return [tf.constant(tensor.numpy()) for tensor in tensors]


@pytest.mark.parametrize(
    ("case", "strategy", "xla"),
    [
        ("ragged arrays", "scan", True),
        ("ragged arrays", "call", None),
        slow("private", "vmap", False),
        ("data sets", "scan", False),
    ],
)
def test_a_backend_in_threads_and_out_of_order_gives_equal_bits(
    bound, processes, case, strategy, xla
):
    sizes, privacy, _ = CASES[case]
    cohorts = [cohort_of(sizes).cohort(range(len(sizes)), batch_size=4)]
    if case == "data sets":
        cohorts = [list(cohort) for cohort in cohorts]
    run = rounds_of(processes[privacy], bound, strategy, xla, cohorts)
    made = []

    def scattered(workers):
        return lambda here: made.append(workers) or Scattered(here, workers)

    apart = rounds_of(processes[privacy], bound, strategy, xla, cohorts, behind=scattered)
    expected = bits(run(2))
    for threads in (3, 5):
        assert bits(apart(threads)) == expected
    assert made == [3, 5]


def test_a_tree_of_sums_minds_neither_the_order_nor_forgets_a_block():
    def tree_of(order):
        sums = backend.SumTree(lambda left, right, split: f"({left} {split}:{right})")
        for number in order:
            sums.add(number, str(number))
        return sums.total(len(order))

    assert tree_of([]) is None
    assert tree_of(range(7)) == "(((0 1:1) 2:(2 3:3)) 4:((4 5:5) 6:6))"
    for count in range(1, 6):
        assert len({tree_of(order) for order in itertools.permutations(range(count))}) == 1
    rng = np.random.default_rng(0)
    for count in (33, 64, 100):
        expected = tree_of(range(count))
        assert all(tree_of(rng.permutation(count).tolist()) == expected for _ in range(5))
        splits = sorted(int(part.split(":")[0].split()[-1]) for part in expected.split(":")[:-1]
                        if part.split())  # fmt: skip
        assert len(splits) == len(set(splits)) == count - 1  # each join has a name of its own

    sums = backend.SumTree(lambda left, right, split: left)
    sums.add(0, "0")
    sums.add(2, "2")
    with pytest.raises(RuntimeError, match="twice"):
        sums.add(2, "2")
    with pytest.raises(RuntimeError, match=r"sums of 2 blocks: expected those of 3.* is block 1"):
        sums.total(3)
    sums.add(1, "1")
    with pytest.raises(RuntimeError, match=r"expected those of 2.* is block 2"):
        sums.total(2)


def test_few_sums_are_held_at_a_time():
    held = []
    sums = backend.SumTree(lambda left, right, split: left)
    for number in range(1000):
        sums.add(number, "")
        held.append(len(sums._nodes))
    assert max(held) <= 10


@pytest.mark.parametrize(("xla", "alone"), [(True, 90), (False, 7)])
def test_parts_follow_from_the_clients_and_fit_into_memory(monkeypatch, xla, alone):
    monkeypatch.undo()  # the true sizes
    parts = [client_loop.part_count(count, 0, 1000, xla) for count in range(1, 20_000)]
    assert parts[:alone] == [1] * alone
    assert parts == sorted(parts)
    assert set(parts) == ({1, 2, 4, 8} if xla else {1, 2, 4, 8, 16})
    for count in (1000, 10_000):
        for size in (1, 1 << 20, 1 << 25, 1 << 30):
            found = client_loop.part_count(count, 0, size, xla)
            assert found == 1 or found * size <= client_loop._BYTES_OF_PARTS
        assert client_loop.part_count(count, 0, None, xla) == 1  # sums of no known size
    # More than that for cohorts that many machines share, whose parts would be long otherwise.
    longest = 1 << 13 if xla else 1 << 11
    millions = [
        client_loop.part_count(count, 0, 1000, xla) for count in range(60_000, 3 << 20, 997)
    ]
    assert millions == sorted(millions)
    assert millions[-1] == max(millions) == 256
    found = [
        (count, client_loop.part_count(count, 0, 1000, xla)) for count in (1 << 17, 1 << 18, 10**6)
    ]
    assert all(count / parts <= longest for count, parts in found if parts < 256)
    assert found[-1][1] == (128 if xla else 256)
    assert client_loop.part_count(10**6, 0, 1 << 22, xla) == 32  # 128 MiB of sums
    assert client_loop.part_count(10**6, 0, None, xla) == 1
    for rows in range(1, 40):  # a part has a row at least
        assert client_loop.part_count(64 * rows, 64, 8, xla) <= rows


@pytest.mark.parametrize(("strategy", "xla"), MODES)
def test_the_first_client_that_fails_is_named_whatever_block_it_is_in(tff, strategy, xla):
    """The most frequent kind of clients comes first: that is not the cohort's order."""

    @tff.tensorflow.computation(tff.SequenceType(tff.TensorType(np.float32, [None])))
    def work(batches):
        def add(sum_, batch):
            check = tf.debugging.assert_positive(batch, "must be positive")
            with tf.control_dependencies([check]):
                return sum_ + tf.reduce_sum(batch)

        return batches.reduce(0.0, add)

    @tff.federated_computation(tff.FederatedType(work.type_signature.parameter, tff.CLIENTS))
    def summed(clients):
        return tff.federated_sum(tff.federated_map(work, clients))

    sizes = [3] * 8 + [4] * 16  # the first 8 are another kind, and come last
    for bad in ([2, 5, 11, 20], [11, 20], [9, 23]):
        values = [
            np.full([size], -1 if i in bad else 1, np.float32) for i, size in enumerate(sizes)
        ]
        clients = [tf.data.Dataset.from_tensor_slices(value).batch(4) for value in values]
        with (
            execution.fast(strategy, "cpu", xla=xla, strict=True),
            pytest.raises(ComputationError, match=rf"client {bad[0]} \(of 24.*must be positive"),
        ):
            summed(clients)


@pytest.mark.parametrize(
    ("strategy", "xla"), [slow(*mode) if mode == ("vmap", False) else mode for mode in MODES]
)
def test_no_two_joins_share_random_numbers(tff, strategy, xla):
    """A sum whose merges draw, and tell the smallest and the largest of what they drew."""
    state = tff.StructType([np.float32, np.float32])

    @tff.tensorflow.computation
    def zero():
        return 2.0, -1.0

    @tff.tensorflow.computation(state, np.float32)
    def accumulate(drawn, value):
        return drawn[0] + 0.0 * value, drawn[1]

    @tff.tensorflow.computation(state, state)
    def merge(a, b):
        draw = tf.random.uniform([])
        low, high = tf.minimum(a[0], b[0]), tf.maximum(a[1], b[1])
        return tf.minimum(low, draw), tf.maximum(high, draw)

    @tff.tensorflow.computation(state)
    def report(drawn):
        return drawn[0], drawn[1]

    @tff.federated_computation(tff.FederatedType(np.float32, tff.CLIENTS))
    def drawn(values):
        return tff.federated_aggregate(values, zero(), accumulate, merge, report)

    def run(workers):
        with execution.fast(strategy, "cpu", xla=xla, seed=1, strict=True, workers=workers):
            return drawn([np.float32(0)] * CLIENTS)

    low, high = run(1)
    assert 0 <= low < high < 1
    assert_equal_for_all_workers(run)


def test_workers_outside_their_bounds_are_refused(monkeypatch):
    for workers in (0, -1, 1.5):
        with (
            pytest.raises(
                ArgumentError, match=rf"workers={workers} .*a whole number in \[1, inf\)"
            ),
            execution.fast(workers=workers),
        ):
            pass
    two = [tf.config.LogicalDevice(f"/device:CPU:{i}", "CPU") for i in range(2)]
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: two)
    assert devices.choose("cpu").names == ("/device:CPU:0", "/device:CPU:1")
    assert devices.choose("cpu", 1).names == ("/device:CPU:0",)
    with pytest.raises(ArgumentError, match=r"workers=3: expected a whole number in \[1, 2\]"):
        devices.choose("cpu", 3)
