"""The types of arguments: taken and refused as by stock TFF, before anything is run."""

from __future__ import annotations

import collections

import attrs
import numpy as np
import pytest
import tensorflow as tf

import tff_dp
from tests.support.tables import covered
from tff_dp import data, execution
from tff_dp.errors import ArgumentError, ArgumentTypeError
from tff_dp.execution import unplaced_runner
from tff_dp.execution.round import runner

pytestmark = pytest.mark.heavy

F32, F64, I32 = np.float32, np.float64, np.int32
Pair = collections.namedtuple("Pair", "a b")
Other = collections.namedtuple("Other", "x y")


@attrs.define
class Attributes:
    a: object
    b: object


def ordered(**elements):
    return collections.OrderedDict(elements)


def slices(value, batch=2, **more):
    return tf.data.Dataset.from_tensor_slices(value).batch(batch, **more)


# (dtype, shape, value): tensors, as an argument of a computation without placement.
TENSORS = [
    (F32, (), 2.5),
    (F32, (), float("nan")),
    (F32, (), float("inf")),
    (F32, (), 1e300),
    (F32, (), 3),
    (F32, (), F32(2)),
    (F32, (), np.float16(2)),
    (F32, (), F64(2)),
    (F32, (), np.array(2, F32)),
    (F32, (), np.ones(1, F32)),
    (F32, (), True),
    (F32, (), "2"),
    (F32, (), object()),
    (F32, (), [2.0]),
    (F32, (), tf.constant(2.0)),
    (F32, (), tf.constant(2.0, tf.float64)),
    (F32, (), tf.Variable(2.0)),
    (F64, (), F32(2)),
    (F64, (), tf.constant(2.0)),
    (I32, (), 7),
    (I32, (), 2**31 - 1),
    (I32, (), 2**31),
    (I32, (), 2**40),
    (I32, (), -(2**31)),
    (I32, (), 7.0),
    (I32, (), np.int64(7)),
    (I32, (), np.int16(7)),
    (I32, (), np.uint16(7)),
    (I32, (), np.uint32(7)),
    (I32, (), False),
    (np.uint8, (), 255),
    (np.uint8, (), -1),
    (np.int64, (), 2**40),
    (np.bool_, (), True),
    (np.bool_, (), 1),
    (np.bool_, (), np.bool_(True)),
    (np.complex64, (), 1j),
    (np.str_, (), "text"),
    (np.str_, (), b"text"),
    (np.str_, (), tf.constant("text")),
    (np.str_, (), 3),
    (np.str_, (2,), ["a", "b"]),
    (np.str_, (2,), np.array(["a", "b"])),
    (np.str_, (2,), np.array([b"a", b"b"], object)),
    (np.str_, (2,), [1, 2]),
    (F32, (3,), np.ones(3, F32)),
    (F32, (3,), np.ones(3, np.float16)),
    (F32, (3,), np.ones(3)),
    (F32, (3,), np.ones(1, F32)),
    (F32, (3,), np.ones([1, 3], F32)),
    (F32, (3,), np.ones(3, I32)),
    (F32, (3,), [1.0, 2.0, 3.0]),
    (F32, (3,), (1.0, 2.0, 3.0)),
    (F32, (3,), [1, 2, 3]),
    (F32, (3,), [1.0, 2.0]),
    (F32, (3,), [1.0, F64(2), 3.0]),
    (F32, (3,), [1.0, F32(2), tf.constant(3.0)]),
    (F32, (3,), 1.0),
    (F32, (3,), F32(1)),
    (F32, (1,), 1.0),
    (F32, (2, 2), [[1.0, 2.0], [3.0, 4.0]]),
    (F32, (2, 2), [[1.0, 2.0], [3.0]]),
    (F32, (None,), np.ones(5, F32)),
    (F32, (None,), np.ones(0, F32)),
    (F32, (None,), np.ones([5, 1], F32)),
    (F32, (None, 2), np.ones([5, 2], F32)),
    (F32, (None, 2), np.ones([5, 3], F32)),
    (F32, (None,), tf.ones([5])),
    (F32, None, np.ones([2, 1], F32)),
    (I32, (3,), range(3)),
]


OF_STOCK = (TypeError, NotImplementedError, ValueError, IndexError, tf.errors.InvalidArgumentError)


def outcome(computation, *arguments, refusals=(ArgumentTypeError,)):
    """Returns what a computation gives, or that it refuses its arguments."""
    try:
        result = computation(*arguments)
    except refusals:
        return "refused"
    return tf.nest.map_structure(lambda leaf: np.asarray(leaf).tolist(), result)


def text(value):
    return f"{type(value).__name__} {str(value)[:20]}"


@pytest.fixture
def run_nothing(monkeypatch):
    """Has whatever runs a computation fail, for what must be refused before it."""

    def fail(*arguments):
        raise AssertionError("something was run")

    def install():
        monkeypatch.setattr(runner.RoundRunner, "_run", fail)
        monkeypatch.setattr(unplaced_runner.tf_compat, "call_flat", fail)

    return install


def test_tensors_are_taken_and_refused_as_by_stock_tff(tff, stock):
    made = {}
    differ = []
    refused = 0
    for dtype, shape, value in TENSORS:
        if (dtype, shape) not in made:
            made[dtype, shape] = tff.tensorflow.computation(
                lambda given: tf.identity(given), tff.TensorType(dtype, shape)
            )
        computation = made[dtype, shape]
        expected = outcome(computation, value, refusals=OF_STOCK)
        with execution.fast(strict=True):
            found = outcome(computation, value)
        refused += expected == "refused"
        if str(found) != str(expected):
            differ.append((dtype.__name__, shape, text(value), found, expected))
    assert differ == []
    assert 20 < refused < len(TENSORS) - 20


@pytest.mark.parametrize("clients", [False, True])
def test_structures_are_taken_and_refused_as_by_stock_tff(tff, stock, clients):
    pair = ordered(a=I32, b=I32)

    @tff.tensorflow.computation(pair)
    def digits(value):
        return 10 * value["a"] + value["b"]

    @tff.federated_computation(tff.FederatedType(pair, tff.CLIENTS))
    def of_clients(values):
        return tff.federated_sum(tff.federated_map(digits, values))

    structure = tff.structure.Struct if hasattr(tff, "structure") else None
    for value in (
        ordered(a=2, b=1),
        {"a": 2, "b": 1},
        {"x": 2, "y": 1},
        {"a": 2, "y": 1},
        {"a": 2, "b": 1, "c": 3},
        {"a": 2},
        Pair(2, 1),
        Other(2, 1),
        Attributes(2, 1),
        (2, 1),
        [2, 1],
        (2, 1, 3),
        (2,),
        (2, 1.5),
        np.array([2, 1], I32),
        3,
        None if structure is None else structure([("a", 2), ("b", 1)]),
    ):
        if value is None:
            continue
        computation, given = (of_clients, [value, (0, 1)]) if clients else (digits, value)
        expected = outcome(computation, given, refusals=OF_STOCK)
        with execution.fast(strict=True):
            assert outcome(computation, given) == expected, value


def test_elements_in_another_order_are_refused_which_stock_tff_takes_by_position(tff, stock):
    @tff.tensorflow.computation(ordered(a=I32, b=I32))
    def digits(value):
        return 10 * value["a"] + value["b"]

    assert digits({"b": 1, "a": 2}) == 12  # whoever reads the names expects 21
    with (
        execution.fast(strict=True),
        pytest.raises(ArgumentTypeError, match="in the order b, a: expected <a=int32,b=int32>"),
    ):
        digits({"b": 1, "a": 2})


# Batches that are data sets or lists, for a sequence of <y=float32[?],x=float32[?]>, or of float32[?,1].
NAMED = [
    slices(ordered(y=np.ones(3, F32), x=np.full(3, 2, F32))),
    slices(ordered(y=np.ones(4, F32), x=np.full(4, 2, F32)), drop_remainder=True),
    slices(ordered(x=np.ones(3, F32), y=np.full(3, 2, F32))),
    slices(ordered(y=np.ones(3, F32), z=np.full(3, 2, F32))),
    slices(ordered(y=np.ones(3, F32), x=np.full(3, 2, F32), z=np.ones(3, F32))),
    slices((np.ones(3, F32), np.full(3, 2, F32))),
    slices(ordered(y=np.ones(3, F32), x=np.full(3, 2, F64))),
    slices(ordered(y=np.ones([3, 1], F32), x=np.full(3, 2, F32))),
    slices(np.ones(3, F32)),
    [ordered(y=[1.0, 2.0], x=[3.0, 4.0]), ordered(y=[1.0], x=[5.0])],
    [ordered(x=np.ones(2), y=np.full(2, 2.0))],
    [([1.0, 2.0], [3.0, 4.0])],
    [{"y": [1.0], "z": [2.0]}],
    [],
    ([1.0],),
    np.ones(3, F32),
    7,
]
LABELS = [
    slices(np.ones([3, 1], F32)),
    slices(np.ones(3, F32)),
    slices(np.ones([3, 2], F32)),
    slices(np.ones([3, 1])),
    slices(np.ones([3, 1], I32)),
    [np.ones([2, 1], F32), np.ones([1, 1], F32), np.ones([4, 1], F32)],
    [np.ones([2], F32)],
    [[[1], [2]]],
]


@pytest.mark.parametrize(
    ("strategy", "named"),
    covered(
        ["auto", "vmap", "call"],
        [True, False],
        by=[("auto", True), ("vmap", False), ("call", True)],
        slow=None,
    ),
)
def test_data_sets_and_lists_are_taken_and_refused_as_by_stock_tff(tff, stock, named, strategy):
    vector, column = tff.TensorType(F32, [None]), tff.TensorType(F32, [None, 1])
    element = ordered(y=vector, x=vector) if named else column

    @tff.tensorflow.computation(tff.SequenceType(element))
    def total(batches):
        def add(before, batch):
            value = 10 * batch["x"] + batch["y"] if named else batch
            return before + tf.reduce_sum(value)

        return batches.reduce(F32(0), add)

    @tff.federated_computation(tff.FederatedType(tff.SequenceType(element), tff.CLIENTS))
    def of_clients(batches):
        return tff.federated_sum(tff.federated_map(total, batches))

    good = (NAMED if named else LABELS)[0]
    results = []
    for batches in NAMED if named else LABELS:
        for computation, given in ((total, batches), (of_clients, [good, batches])):
            expected = outcome(computation, given, refusals=OF_STOCK)
            with execution.fast(strategy, strict=True):
                assert outcome(computation, given) == expected, batches
            results.append(expected)
    assert "refused" in results
    assert any(isinstance(result, float) for result in results)


def test_the_data_of_clients_are_a_list(tff, stock):
    @tff.federated_computation(tff.FederatedType(F32, tff.CLIENTS))
    def total(values):
        return tff.federated_sum(values)

    @tff.federated_computation(
        tff.FederatedType(F32, tff.CLIENTS), tff.FederatedType(I32, tff.CLIENTS)
    )
    def totals(values, others):
        return tff.federated_sum(values), tff.federated_sum(others)

    for given in ((1.0, 2.0), np.ones(2, F32), tf.ones(2), slices(np.ones(2, F32)), 1.0):
        with pytest.raises((TypeError, ValueError)):
            total(given)
        with execution.fast(), pytest.raises(ArgumentTypeError, match="expected a list"):
            total(given)
    with pytest.raises(ValueError, match="Conflicting"):
        totals([1.0], [1, 2])
    with execution.fast(), pytest.raises(ArgumentError, match="values has 1, others has 2"):
        totals([1.0], [1, 2])


@pytest.fixture(scope="module")
def learning(tff):
    """A process for clients of x [5] and y [1]."""
    import keras

    from tff_dp.model import ModelSpec

    model = keras.Sequential([keras.layers.Input([5]), keras.layers.Dense(1)])
    clients = clients_of(F32, [1])
    bound = ModelSpec(model=model, loss="mse").bind(clients.element_spec())
    return tff_dp.build_process(bound, algorithm=tff_dp.FedAvg(), privacy=tff_dp.NoPrivacy())


def clients_of(dtype, shape, x="x"):
    rng = np.random.default_rng(3)
    features = rng.normal(size=[8, 5]).astype(dtype)
    if x != "x":
        features = {x: features}
    return data.Clients(features, np.ones([8, *shape], F32), [0, 4, 8])


BAD_CLIENTS = {
    "labels [n]": (clients_of(F32, []), r"float32\[\?,1\].*|.*float32\[\?\]"),
    "labels [n, 2]": (clients_of(F32, [2]), r"float32\[\?,2\]"),
    "float64": (clients_of(F64, [1]), r"float64\[\?,5\]"),
    "another structure": (clients_of(F32, [1], "age"), "age="),
}


@pytest.mark.parametrize("bad", BAD_CLIENTS)
def test_clients_whose_examples_do_not_fit_are_refused_before_anything_runs(
    learning, stock, run_nothing, bad
):
    clients, message = BAD_CLIENTS[bad]
    state = None
    with execution.fast():
        state = learning.initialize()
        right = clients_of(F32, [1]).cohort([0, 1], batch_size=2)
        learning.next(state, right)
    cohort = clients.cohort([0, 1], batch_size=2)
    with pytest.raises(TypeError):
        learning.next(state, cohort)
    run_nothing()
    with execution.fast():
        for given in (cohort, list(cohort), [right[0], cohort[1]]):
            with pytest.raises(ArgumentTypeError, match=message):
                learning.next(state, given)
        with pytest.raises(ArgumentTypeError, match=message):
            execution.iterate(learning.next, state, [right, cohort])


def test_a_state_that_does_not_fit_is_refused_by_the_name_of_its_leaf(learning, run_nothing):
    with execution.fast():
        state = learning.initialize()
        cohort = clients_of(F32, [1]).cohort([0, 1], batch_size=2)
        learning.next(state, cohort)
        run_nothing()
        for wrong, told in (
            (np.zeros([5, 1]), r"float64\[5, 1\]"),
            (np.zeros([1, 1], F32), r"float32\[1, 1\]"),
            (np.zeros([5], F32), r"float32\[5\]"),
        ):
            weights = state.global_model_weights
            weights = weights._replace(trainable=[wrong, weights.trainable[1]])
            other = state._replace(global_model_weights=weights)
            where = r"global_model_weights\.trainable\[0\]"
            for call in (
                lambda given: learning.next(given, cohort),
                lambda given: execution.iterate(learning.next, given, [cohort, cohort]),
            ):
                with pytest.raises(
                    ArgumentTypeError, match=rf"{where} is {told}: expected float32\[5,1\]"
                ):
                    call(other)


def test_a_refusal_names_the_client_and_the_element(tff):
    @tff.federated_computation(tff.FederatedType(ordered(a=F32, b=I32), tff.CLIENTS))
    def total(values):
        return tff.federated_sum(values)

    with (
        execution.fast(),
        pytest.raises(
            TypeError, match=r"client 1 \(of 2.*: the argument\.b is int 1099511627776: .*int32"
        ),
    ):
        total([ordered(a=1.0, b=2), ordered(a=1.0, b=2**40)])
