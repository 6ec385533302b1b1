"""Partitions: every example exactly once, sizes, skew, and determinism by seed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tff_dp.data import by_column, clients, dirichlet, iid, shards
from tff_dp.errors import ArgumentError, DataError

# Other work on the machine must not fail a test, nor chance: each run tries the same examples.
property_test = settings(deadline=None, derandomize=True, max_examples=60)


def data_of(labels):
    """Returns x, which numbers the examples, and y."""
    return np.arange(len(labels)), np.asarray(labels)


def members(data):
    """Returns the rows of each client, and checks that x and y still belong together."""
    return [data.client(position)[0].tolist() for position in range(data.num_clients)]


def check_exactly_once(data, y):
    """Checks that the clients are a permutation of the examples, each client's in order."""
    x, labels = data.pooled()
    assert sorted(x.tolist()) == list(range(len(y)))
    assert labels.tolist() == np.asarray(y)[x].tolist()
    assert all(rows == sorted(rows) for rows in members(data))


labels_strategy = st.lists(st.integers(-3, 6), min_size=1, max_size=60)
seeds = st.integers(0, 2**128 - 1)


@property_test
@given(labels=labels_strategy, seed=seeds, data=st.data())
def test_iid(labels, seed, data):
    count = data.draw(st.integers(1, len(labels)))
    x, y = data_of(labels)
    dealt = iid(x, y, clients=count, seed=seed)
    check_exactly_once(dealt, y)
    assert dealt.num_clients == count
    assert dealt.sizes.max() - dealt.sizes.min() <= 1
    assert members(iid(x, y, clients=count, seed=seed)) == members(dealt)


@property_test
@given(labels=labels_strategy, seed=seeds, data=st.data())
def test_shards(labels, seed, data):
    count = data.draw(st.integers(1, len(labels)))
    each = data.draw(st.integers(1, len(labels) // count))
    x, y = data_of(labels)
    dealt = shards(x, y, clients=count, shards_per_client=each, seed=seed)
    check_exactly_once(dealt, y)
    assert dealt.num_clients == count
    assert dealt.sizes.max() - dealt.sizes.min() <= each
    assert members(shards(x, y, clients=count, shards_per_client=each, seed=seed)) == members(dealt)


@property_test
@given(
    labels=labels_strategy,
    seed=seeds,
    count=st.integers(1, 12),
    alpha=st.one_of(st.floats(1e-3, 1e3), st.sampled_from([1e-300, 1e6])),
)
def test_dirichlet(labels, seed, count, alpha):
    x, y = data_of(labels)
    arguments = {"clients": count, "alpha": alpha, "seed": seed, "min_examples": 0}
    dealt = dirichlet(x, y, **arguments)
    check_exactly_once(dealt, y)
    assert dealt.num_clients == count
    assert members(dirichlet(x, y, **arguments)) == members(dealt)


@property_test
@given(column=st.lists(st.sampled_from(["a", "b", "ab", "", "Ü"]), min_size=1, max_size=40))
def test_by_column(column):
    x, y = data_of(range(len(column)))
    dealt = by_column(x, y, column)
    check_exactly_once(dealt, y)
    assert dealt.ids == tuple(sorted(set(column)))
    for name, rows in zip(dealt.ids, members(dealt), strict=True):
        assert rows == [row for row, value in enumerate(column) if value == name]


@pytest.mark.parametrize("seed", [0, 1, 2**127])
def test_dirichlet_keeps_the_minimum(seed):
    x, y = data_of(np.arange(200) % 10)
    dealt = dirichlet(x, y, clients=5, alpha=0.3, seed=seed, min_examples=12)
    check_exactly_once(dealt, y)
    assert dealt.sizes.min() >= 12


@pytest.mark.parametrize(
    "partition",
    [
        lambda x, y, seed: iid(x, y, clients=5, seed=seed),
        lambda x, y, seed: shards(x, y, clients=5, seed=seed),
        lambda x, y, seed: dirichlet(x, y, clients=5, alpha=1.0, seed=seed),
    ],
)
def test_other_seeds_give_other_partitions(partition):
    x, y = data_of(np.arange(300) % 10)
    dealt = {str(members(partition(x, y, seed))) for seed in range(4)}
    assert len(dealt) == 4
    assert str(members(partition(x, y, None))) not in dealt


def test_shards_give_few_labels():
    x, y = data_of(np.arange(200) % 10)
    dealt = shards(x, y, clients=10, shards_per_client=2, seed=3)
    assert dealt.sizes.tolist() == [20] * 10
    # 20 shards of 10 examples: each has one label.
    assert max(len(set(dealt.client(c)[1].tolist())) for c in range(10)) == 2


def test_small_alpha_is_more_skewed():
    x, y = data_of(np.arange(5000) % 10)

    def largest_share(alpha):
        dealt = dirichlet(x, y, clients=10, alpha=alpha, seed=5)
        counts = np.array([np.bincount(dealt.client(c)[1], minlength=10) for c in range(10)])
        return (counts.max(axis=0) / 500).mean()

    # Shares of 10 clients: nearly 1/10 each at alpha=1000, mostly one client's at alpha=0.05.
    assert largest_share(1000.0) < 0.12
    assert largest_share(0.05) > 0.5


def test_labels_of_one_hot_and_of_dictionaries():
    codes = np.arange(60) % 3
    one_hot = np.eye(3)[codes]
    x = {"a": np.arange(60), "b": np.zeros((60, 2))}
    for partition in (
        lambda y, **labels: shards(x, y, clients=3, shards_per_client=1, seed=0, **labels),
        lambda y, **labels: dirichlet(x, y, clients=3, alpha=1.0, seed=0, **labels),
    ):
        with pytest.raises(ArgumentError, match=r"y has shape \[60, 3\].*labels="):
            partition(one_hot)
        with pytest.raises(ArgumentError, match=r"y has several fields.*labels="):
            partition({"out": codes})
        with pytest.raises(ArgumentError, match=r"labels has shape \[59\]: .*\[60\]"):
            partition(one_hot, labels=codes[1:])
        dealt = partition(one_hot, labels=codes)
        fields, targets = dealt.pooled()
        assert sorted(fields["a"].tolist()) == list(range(60))
        assert targets.argmax(axis=1).tolist() == codes[fields["a"]].tolist()
        partition(codes[:, None])


def test_floats_become_float32_and_integers_stay():
    x, y = np.arange(4.0), np.arange(4, dtype=np.uint8)
    dealt = iid(x, y, clients=2, seed=0)
    assert [part.dtype for part in dealt.pooled()] == [np.float32, np.uint8]
    assert not dealt.pooled()[0].flags.writeable
    assert x.flags.writeable


def test_lists_and_columns_of_other_types():
    dealt = by_column([[1.0], [2.0], [3.0]], ["n", "y", "n"], [10, 9, 10])
    assert dealt.ids == ("10", "9")
    assert dealt.client(0)[0].tolist() == [[1], [3]]
    assert by_column([1, 2], [1, 2], np.array([b"b", b"a"])).ids == ("a", "b")
    assert by_column([1, 2], [1, 2], np.array([b"b", "a"], object)).ids == ("a", "b")


def test_large_partitions_are_mapped(monkeypatch, tmp_path):
    np.save(tmp_path / "x.npy", np.arange(2000.0).reshape(1000, 2))
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    monkeypatch.setattr(clients, "MEMORY_MAP_BYTES", 1000)
    dealt = iid(x, np.arange(1000), clients=7, seed=1)
    got, rows = dealt.pooled()
    assert isinstance(got.base, np.memmap)
    assert got.dtype == np.float32
    assert (got == x[rows]).all()


X, Y = np.arange(6), np.arange(6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: iid(X, Y, clients=0, seed=0), r"clients=0 .*\[1, 6\]"),
        (lambda: iid(X, Y, clients=7, seed=0), r"clients=7 .*\[1, 6\]"),
        (lambda: iid(X, Y, clients=2, seed=-1), r"seed=-1"),
        (lambda: shards(X, Y, clients=7, seed=0), r"clients=7"),
        (lambda: shards(X, Y, clients=4, seed=0), r"shards_per_client=2 .*\[1, 1\]"),
        (lambda: dirichlet(X, Y, clients=0, alpha=1, seed=0), r"clients=0"),
        (lambda: dirichlet(X, Y, clients=2, alpha=0, seed=0), r"alpha=0 .*\(0, 1e6\]"),
        (lambda: dirichlet(X, Y, clients=2, alpha=np.inf, seed=0), r"alpha=inf"),
        (lambda: dirichlet(X, Y, clients=7, alpha=1, seed=0), r"min_examples=1 .*6 examples for 7"),
        (
            lambda: dirichlet(X, Y * 0, clients=3, alpha=1e-9, seed=0, min_examples=2),
            r"min_examples=2 was not reached .*1000 draws with alpha=1e-09 and clients=3: raise",
        ),
    ],
)
def test_arguments_that_are_refused(call, message):
    with pytest.raises(ArgumentError, match=message):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: iid(X, Y[1:], clients=2, seed=0), r"y has 5 examples where x has 6"),
        (lambda: iid([], [], clients=1, seed=0), r"x has no examples"),
        (
            lambda: iid({"a": [[1], [1, 2]]}, [0, 1], clients=1, seed=0),
            r"x\['a'\] is not a regular",
        ),
        (lambda: iid(X, [{}] * 6, clients=1, seed=0), r"y has dtype object, with a dict"),
        (lambda: iid([1.0, np.nan], [0, 1], clients=1, seed=0), r"client '0': x is nan"),
        (lambda: by_column(X, Y, list("abc")), r"column has 3 entries where x has 6"),
        (lambda: by_column(X, Y, [["a"]] * 6), r"column has shape \[6, 1\]"),
        (lambda: by_column(X, Y, ["a", None, *"abcd"]), r"column has no client id in row 1"),
        (lambda: by_column(X, Y, [1, 2, np.nan, 3, 4, 5]), r"column has no client id in row 2"),
        (
            lambda: by_column(X[:1], Y[:1], np.array(["NaT"], "M8[D]")),
            r"column has no client id in row 0",
        ),
        (lambda: by_column(X[:1], Y[:1], np.array([b"\xff"])), r"column has .*expected UTF-8"),
    ],
)
def test_data_that_are_refused(call, message):
    with pytest.raises(DataError, match=message):
        call()


def test_nonfinite_and_empty_can_be_allowed():
    x = [1.0, np.nan]
    assert iid(x, [0, 1], clients=2, seed=0, allow_nonfinite=True).num_clients == 2
    assert by_column(x, [0, 1], ["a", "b"], allow_nonfinite=True).num_clients == 2
    dealt = dirichlet(X, Y * 0, clients=3, alpha=1e-9, seed=0, min_examples=0)
    assert sorted(dealt.sizes.tolist()) == [0, 0, 6]
