"""Clients: construction, views, datasets, subsets, and folders."""

from __future__ import annotations

import copy
import json
import pickle
import tracemalloc

import numpy as np
import pytest

from tff_dp.data import Clients, _fields, clients, cohort
from tff_dp.errors import ArgumentError, DataError


def three(**kwargs):
    """Clients "a", "b" and "c" of 3, 1 and 2 examples; y counts the examples."""
    x = np.arange(12, dtype=np.float32).reshape(6, 2)
    return Clients(x, np.arange(6), [0, 3, 4, 6], ["a", "b", "c"], **kwargs)


def named():
    x = {"age": np.arange(4, dtype=np.float32), "city": np.array(["A", "B", "Çe", "D"])}
    return Clients(x, {"out": np.array([[True], [False], [True], [False]])}, [0, 1, 4])


def batches(dataset):
    return [(x.tolist(), y.tolist()) for x, y in dataset.as_numpy_iterator()]


def test_properties():
    data = three()
    assert (data.num_clients, len(data), data.num_examples) == (3, 3, 6)
    assert data.ids == ("a", "b", "c")
    assert data.sizes.dtype == np.int64
    assert data.sizes.tolist() == [3, 1, 2]
    assert [data.position(name) for name in data.ids] == [0, 1, 2]


def test_ids_are_strings_and_default_to_positions():
    y = np.zeros(2)
    assert Clients(y, y, [0, 1, 2]).ids == ("0", "1")
    data = Clients(y, y, [0, 1, 2], [np.int64(7), "x"])
    assert data.ids == ("7", "x")
    assert data.position(7) == data.position("7") == 0


def test_ids_that_nobody_gave_are_made_when_they_are_asked_for():
    y = np.zeros(120)
    data = Clients(y, y, np.arange(121))
    assert data.ids_of([7, 0, 119]) == ["7", "0", "119"]
    assert data.ids_of(range(3)) == data.ids_of(np.arange(3)) == ["0", "1", "2"]
    assert [data.position(name) for name in (0, "7", 119, np.int64(100))] == [0, 7, 119, 100]
    for name in (
        "120",
        "007",
        "-1",
        "+1",
        " 1",
        "1.0",
        "",
        "x",
        "\u0661",
        "9" * 5000,
        True,
        120,
        -1,
    ):
        with pytest.raises(ArgumentError, match=r"is unknown.*such as '0', '1', '2'"):
            data.position(name)
    assert data.ids == tuple(str(k) for k in range(120))
    assert data.ids is data.ids
    for again in (pickle.loads(pickle.dumps(data)), copy.deepcopy(data)):
        assert again.ids == data.ids
    assert data.subset([5, 3]).ids == ("5", "3")
    assert data.subset(np.arange(119, 0, -59)).ids == ("119", "60", "1")


def test_ids_that_nobody_gave_take_no_memory(tmp_path):
    y = np.zeros(200_000, np.float32)
    offsets = np.arange(len(y) + 1)
    tracemalloc.start()
    try:
        data = Clients(y, y, offsets)
        data.position(199_999)
        data.save(tmp_path)
        loaded = Clients.load(tmp_path)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (
        kept < 3 * offsets.nbytes
    )  # two copies of the offsets; each id would take 50 bytes or more
    assert loaded.ids == data.ids


def test_ids_of_some_clients():
    data = three()
    assert data.ids_of([2, 0, 2]) == ["c", "a", "c"]
    assert data.ids_of([]) == []
    for wrong in ([3], np.array([0, -1]), [0.0], [True], np.array([True])):
        with pytest.raises(ArgumentError, match="positions="):
            data.ids_of(wrong)


def test_views_share_memory_and_are_read_only():
    x, y = np.zeros((5, 2)), np.arange(5)
    data = Clients(x, y, [0, 2, 5])
    for part in (data.client(1), data.pooled()):
        assert np.shares_memory(part[0], x)
        assert np.shares_memory(part[1], y)
        assert not part[0].flags.writeable
    assert data.client(1)[1].tolist() == [2, 3, 4]
    assert data.pooled()[0].dtype == np.float64  # the constructor converts nothing
    assert x.flags.writeable


def test_dictionary_views_share_memory():
    age = np.arange(4, dtype=np.float32)
    data = Clients({"age": age}, {"out": age}, [0, 1, 4])
    x, y = data.client(1)
    assert list(x) == ["age"]
    assert np.shares_memory(x["age"], age)
    assert np.shares_memory(y["out"], age)
    x.clear()
    assert list(data.client(1)[0]) == ["age"]


def test_immutable():
    data = three()
    with pytest.raises(AttributeError):
        data.ids = ()
    with pytest.raises(AttributeError):
        data.other = 1
    offsets = np.array([0, 1, 2])
    data = Clients(np.zeros(2), np.zeros(2), offsets)
    offsets[1] = 2
    assert data.sizes.tolist() == [1, 1]


def test_repr_tells_sizes_and_fields_but_no_data():
    assert repr(three()) == (
        "Clients(3 clients, 6 examples, 1 to 3 each, x: float32 [2], y: int64 [])"
    )
    assert "x['age']: float32 []" in repr(named())


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros(3), np.zeros(2), r"y has 2 examples where x has 3"),
        ({"a": np.zeros(2), "b": np.zeros(3)}, np.zeros(2), r"x\['b'\] has 3 .* x\['a'\] has 2"),
        ([1, 2], np.zeros(2), r"x is of type list: expected a numpy array"),
        (np.zeros(2), None, r"y is of type NoneType"),
        (np.zeros(2), np.float32(1), r"y is of type float32"),
        (np.array(1.0), np.zeros(2), r"x is a scalar"),
        (np.array([None, 1]), np.zeros(2), r"x has dtype object"),
        (np.zeros(2, complex), np.zeros(2), r"x has dtype complex128"),
        (np.zeros(2, np.longdouble), np.zeros(2), r"x has dtype float128"),
        (np.zeros(2), np.zeros(2, "M8[s]"), r"y has dtype datetime64"),
        (np.ma.masked_array([1.0, 2.0], [True, False]), np.zeros(2), r"x is a masked array"),
        ({}, np.zeros(2), r"x is an empty dictionary"),
        ({1: np.zeros(2)}, np.zeros(2), r"x has the key 1"),
        ({"a": {"b": np.zeros(2)}}, np.zeros(2), r"x\['a'\] is a dictionary"),
    ],
)
def test_fields_that_are_refused(x, y, message):
    with pytest.raises(DataError, match=message):
        Clients(x, y, [0, 2])


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ([0], r"offsets has shape \[1\]"),
        ([], r"offsets has shape \[0\]"),
        ([0.0, 2.0], r"dtype float64"),
        ([[0, 2]], r"shape \[1, 2\]"),
        ([0, 1], r"from 0 to 1: expected 0 to 2"),
        ([1, 2], r"from 1 to 2: expected 0 to 2"),
        ([0, 2, 1, 2], r"falls from 2 to 1 at client 1"),
    ],
)
def test_offsets_that_are_refused(offsets, message):
    with pytest.raises(DataError, match=message):
        Clients(np.zeros(2), np.zeros(2), offsets)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["a"], r"ids has 1 entries where offsets has 2 clients"),
        (["a", "a"], r"ids has 'a' twice"),
        ([1, "1"], r"ids has '1' twice"),
        ([1.5, 2], r"ids has 1.5"),
        ([True, "a"], r"ids has True"),
        ("ab", r"ids='ab' is one string"),
    ],
)
def test_ids_that_are_refused(ids, message):
    with pytest.raises(DataError, match=message):
        Clients(np.zeros(2), np.zeros(2), [0, 1, 2], ids)


def test_empty_clients_are_refused_unless_allowed():
    y = np.zeros(2)
    with pytest.raises(DataError, match=r"client 'b' has no examples.*allow_empty=True"):
        Clients(y, y, [0, 1, 1, 2], ["a", "b", "c"])
    data = Clients(y, y, [0, 1, 1, 2], ["a", "b", "c"], allow_empty=True)
    assert data.client(1)[0].shape == (0,)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nonfinite_names_client_field_and_index(value):
    x = np.zeros((6, 2), np.float32)
    x[5, 1] = value
    message = rf"client 'c': x is {value} at index \[1, 1\].*allow_nonfinite=True"
    with pytest.raises(DataError, match=message):
        Clients(x, np.zeros(6), [0, 3, 4, 6], ["a", "b", "c"])
    Clients(x, np.zeros(6), [0, 3, 4, 6], allow_nonfinite=True)


def test_nonfinite_in_dictionary_behind_empty_clients():
    x = {"age": np.array([0.0, np.nan])}
    with pytest.raises(DataError, match=r"client 'd': x\['age'\] is nan at index \[0\]"):
        Clients(x, np.zeros(2), [0, 1, 1, 1, 2], list("abcd"), allow_empty=True)


def test_finite_check_works_in_chunks(monkeypatch):
    monkeypatch.setattr(_fields, "CHUNK_BYTES", 16)
    y = np.zeros((7, 3))
    y[6, 2] = np.inf
    with pytest.raises(DataError, match=r"client '1': y is inf at index \[3, 2\]"):
        Clients(np.zeros(7), y, [0, 3, 7])


def test_unknown_client_and_position():
    data = three()
    with pytest.raises(ArgumentError, match=r"client_id='z' is unknown: .*3 ids, such as 'a', 'b'"):
        data.position("z")
    for position in (3, -1, 1.0):
        with pytest.raises(ArgumentError, match=r"position=.*\[0, 3\)"):
            data.client(position)


def test_element_spec_is_that_of_every_dataset():
    for data in (three(), named()):
        for position in range(data.num_clients):
            for shuffle in (False, True):
                dataset = data.dataset(
                    position,
                    batch_size=2,
                    epochs=2,
                    shuffle=shuffle,
                    rng=np.random.default_rng(0),
                )
                assert dataset.element_spec == data.element_spec()


def test_element_spec_types():
    import tensorflow as tf

    x, y = named().element_spec(batch=False)
    assert x == {"age": tf.TensorSpec([], tf.float32), "city": tf.TensorSpec([], tf.string)}
    assert y == {"out": tf.TensorSpec([1], tf.bool)}
    assert three().element_spec()[0] == tf.TensorSpec([None, 2], tf.float32)


def test_dataset_values_of_a_dictionary():
    [(x, y)] = named().dataset(1, batch_size=5).as_numpy_iterator()
    assert x["city"].tolist() == [b"B", "Çe".encode(), b"D"]
    assert x["age"].tolist() == [1, 2, 3]
    assert y["out"].tolist() == [[False], [True], [False]]


def test_dataset_batches_do_not_straddle_epochs():
    got = batches(three().dataset(0, batch_size=2, epochs=2))
    assert [y for _, y in got] == [[0, 1], [2], [0, 1], [2]]
    assert got[0][0] == [[0, 1], [2, 3]]


@pytest.mark.parametrize("epochs", [1, 2, 3, 7])
def test_shuffled_epochs_are_permutations_of_their_own(epochs):
    y = np.arange(10)
    data = Clients(np.stack([y, y], 1), y, [0, 10])
    rng = np.random.default_rng(1)
    got = list(
        data.dataset(0, batch_size=4, epochs=epochs, shuffle=True, rng=rng).as_numpy_iterator()
    )
    assert [len(labels) for _, labels in got] == [4, 4, 2] * epochs
    assert all((x == labels[:, None]).all() for x, labels in got)
    orders = np.concatenate([labels for _, labels in got]).reshape(epochs, 10)
    assert (np.sort(orders, axis=1) == y).all()
    assert len({tuple(order) for order in orders}) == epochs


@pytest.mark.parametrize("epochs", [1, 3])
@pytest.mark.parametrize("most", [0, 1, 4, 60])
def test_passes_that_are_sorted_together_have_the_order_of_one_sort(monkeypatch, most, epochs):
    sizes = np.random.default_rng(most).integers(0, most + 1, 100)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    y = np.arange(offsets[-1])
    data = Clients(y, y, offsets, allow_empty=True)
    chosen = np.random.default_rng(1).permutation(100)[:70]
    expected = []
    numbers = np.random.default_rng(2).random(int(sizes[chosen].sum()) * epochs)
    for client in chosen:
        for _ in range(epochs):
            own, numbers = np.split(numbers, [sizes[client]])
            expected += (offsets[client] + np.argsort(own, kind="stable")).tolist()
    for least in (0, 16, 1 << 30):  # together, by the rule, and one sort
        monkeypatch.setattr(cohort, "_MOST_SIZES", least)
        rng = np.random.default_rng(2)
        drawn = data.cohort(chosen, batch_size=4, epochs=epochs, shuffle=True, rng=rng)
        assert drawn.arrays().rows.tolist() == expected
        assert len(data.cohort([], batch_size=4, shuffle=True, rng=rng).arrays().rows) == 0


def test_shuffle_depends_on_the_generator_only():
    def order(seed):
        y = np.arange(20)
        data = Clients(y, y, [0, 20])
        rng = np.random.default_rng(seed)
        dataset = data.dataset(0, batch_size=20, shuffle=True, rng=rng)
        first, again = ([y for _, y in batches(dataset)] for _ in range(2))
        assert first == again  # drawn when the dataset is made
        return first

    assert order(1) == order(1) != order(2)


@pytest.mark.parametrize("shuffle", [False, True])
def test_empty_client_gives_an_empty_dataset(shuffle):
    data = Clients(np.zeros((2, 3)), np.zeros(2), [0, 2, 2], allow_empty=True)
    rng = np.random.default_rng(0)
    dataset = data.dataset(1, batch_size=2, epochs=3, shuffle=shuffle, rng=rng)
    assert list(dataset) == []
    assert dataset.element_spec == data.dataset(0, batch_size=2).element_spec


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 2.0}, r"batch_size=2\.0"),
        ({"batch_size": 1, "epochs": 0}, "epochs=0"),
        ({"batch_size": 1, "shuffle": True}, "rng=None"),
    ],
)
def test_dataset_arguments_that_are_refused(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        three().dataset(0, **arguments)


def test_subset_copies_the_chosen_clients():
    data = three()
    chosen = data.subset(np.array([2, 0]))
    assert chosen.ids == ("c", "a")
    assert chosen.sizes.tolist() == [2, 3]
    assert chosen.client(0)[1].tolist() == [4, 5]
    assert chosen.client(1)[1].tolist() == [0, 1, 2]
    assert chosen.client(0)[0].tolist() == data.client(2)[0].tolist()
    assert not np.shares_memory(chosen.pooled()[0], data.pooled()[0])


def test_subset_of_neighbors_shares_memory():
    data = three()
    chosen = data.subset([1, 2])
    assert np.shares_memory(chosen.pooled()[0], data.pooled()[0])
    assert chosen.pooled()[1].tolist() == [3, 4, 5]
    assert chosen.sizes.tolist() == [1, 2]


def test_subset_keeps_what_was_allowed():
    x = np.array([np.nan, 1.0], np.float64)
    data = Clients(x, x, [0, 0, 1, 2], allow_empty=True, allow_nonfinite=True)
    chosen = data.subset([1, 0])
    assert chosen.sizes.tolist() == [1, 0]
    assert chosen.pooled()[0].dtype == np.float64


def test_subset_is_mapped_when_it_is_large(monkeypatch):
    monkeypatch.setattr(clients, "MEMORY_MAP_BYTES", 10)
    chosen = three().subset([2, 0])
    assert is_mapped(chosen.pooled()[0])
    assert chosen.client(1)[0].tolist() == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ([], "positions is empty"),
        ([1, 1], "positions has 1 twice"),
        ([3], "positions=3"),
        (np.array([0, 2, 1, 1, 2]), "positions has 2 twice"),
        (np.array([0, -1]), "positions=-1"),
        (np.array([0.0]), "positions="),
    ],
)
def test_subset_positions_that_are_refused(positions, message):
    with pytest.raises(ArgumentError, match=message):
        three().subset(positions)


def is_mapped(array):
    while array is not None and not isinstance(array, np.memmap):
        array = getattr(array, "base", None)
    return array is not None


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("make", [three, named])
def test_save_and_load(tmp_path, make, mmap):
    data = make()
    data.save(tmp_path / "new" / "folder")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["folder"]
    loaded = Clients.load(tmp_path / "new" / "folder", mmap=mmap)
    assert repr(loaded) == repr(data)
    assert loaded.ids == data.ids
    for position in range(data.num_clients):
        parts = zip(loaded.client(position), data.client(position), strict=True)
        for got, expected in parts:
            np.testing.assert_equal(got, expected)
    arrays = [a for part in loaded.pooled() for _, a in _fields.leaves("", part)]
    assert [is_mapped(a) for a in arrays] == [mmap] * len(arrays)


def test_load_keeps_what_was_allowed(tmp_path):
    x = np.array([np.nan, 1.0])
    Clients(x, x, [0, 0, 2], allow_empty=True, allow_nonfinite=True).save(tmp_path)
    assert Clients.load(str(tmp_path)).sizes.tolist() == [0, 2]


def test_save_refuses_a_folder_that_is_not_empty(tmp_path):
    (tmp_path / "mine").write_text("keep")
    with pytest.raises(DataError, match=r"folder=.* is not empty"):
        three().save(tmp_path)
    with pytest.raises(DataError, match=r"folder=.* is not empty"):
        three().save(tmp_path / "mine")
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


def test_failed_save_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_args, **_kwargs):
        raise OSError("disk full")

    monkeypatch.setattr("tff_dp.data._files.json.dumps", fail)
    with pytest.raises(DataError, match=r"folder=.*cannot be written: disk full.*Make room"):
        three().save(tmp_path / "folder")
    assert list(tmp_path.iterdir()) == []


def test_save_where_no_folder_can_be_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("keep")
    for folder in (tmp_path / "file" / "below", "/proc/clients", "a\0b", tmp_path / ("x" * 300)):
        with pytest.raises(DataError, match=r"folder=.*cannot be written"):
            three().save(folder)
    for folder in (1, None, b"clients"):
        with pytest.raises(ArgumentError, match="folder="):
            three().save(folder)
        with pytest.raises(ArgumentError, match="folder="):
            Clients.load(folder)
    with pytest.raises(DataError, match="folder="):
        Clients.load(tmp_path / "file")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("make", [three, named])
def test_clients_can_be_pickled_and_stay_immutable(make):
    clients = make()
    for again in (pickle.loads(pickle.dumps(clients)), copy.deepcopy(clients)):
        assert repr(again) == repr(clients)
        assert again.ids == clients.ids
        for part, own in zip(again.pooled(), clients.pooled(), strict=True):
            np.testing.assert_equal(part, own)
            for _, array in _fields.leaves("", part):
                with pytest.raises(ValueError, match="read-only"):
                    array[:] = 0


def test_load_refuses_other_folders(tmp_path):
    with pytest.raises(DataError, match=r"folder=.*no complete clients"):
        Clients.load(tmp_path / "missing")
    three().save(tmp_path / "a")
    (tmp_path / "a" / "x.npy").unlink()
    with pytest.raises(DataError, match=r"no complete clients.*x\.npy"):
        Clients.load(tmp_path / "a")


@pytest.mark.parametrize("mmap", [True, False])
def test_load_refuses_damaged_files(tmp_path, mmap):
    three().save(tmp_path)
    content = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "x.npy").write_bytes(content[:-8])
    with pytest.raises(DataError, match="no complete clients"):
        Clients.load(tmp_path, mmap=mmap)


def test_load_refuses_another_format(tmp_path):
    three().save(tmp_path)
    manifest = json.loads((tmp_path / "clients.json").read_text())
    (tmp_path / "clients.json").write_text(json.dumps(manifest | {"format": 2}))
    with pytest.raises(DataError, match=r"format 2: expected 1"):
        Clients.load(tmp_path)


@pytest.mark.heavy
@pytest.mark.parametrize("shuffle", [False, True])
def test_datasets_run_in_tff(stock, shuffle):
    from tff_dp import tff

    data = Clients(np.arange(5.0), np.arange(5), [0, 3, 5, 5], allow_empty=True)
    x, y = tff.types.tensorflow_to_type(data.element_spec())

    @tff.tensorflow.computation(tff.SequenceType((x, y)))
    def total(batches):
        import tensorflow as tf

        return batches.reduce(
            np.float64(0), lambda sum_so_far, batch: sum_so_far + tf.reduce_sum(batch[0])
        )

    rng = np.random.default_rng(0)
    totals = [
        total(data.dataset(c, batch_size=2, epochs=3, shuffle=shuffle, rng=rng)) for c in range(3)
    ]
    assert totals == [9.0, 21.0, 0.0]
