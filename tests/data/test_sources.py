"""Clients from arrays, data frames, TFF's client data and tf.data."""

from __future__ import annotations

import collections

import numpy as np
import pandas as pd
import pytest

from tff_dp.data import (
    _elements,
    _fields,
    clients,
    from_arrays,
    from_client_data,
    from_datasets,
    from_frame,
)
from tff_dp.errors import ArgumentError, DataError


def is_mapped(array):
    while array is not None and not isinstance(array, np.memmap):
        array = getattr(array, "base", None)
    return array is not None


def frame(**columns):
    return pd.DataFrame(
        {
            "user": ["b", "a", "b", "c"],
            "age": [1.5, 2.5, 3.5, 4.5],
            "height": [1, 2, 3, 4],
            "label": [0, 1, 0, 1],
        }
        | columns
    )


def read(data, **arguments):
    columns = {"client": "user", "features": ["age", "height"], "label": "label"}
    return from_frame(data, **(columns | arguments))


# from_arrays


def test_arrays_in_the_order_of_the_mapping():
    data = from_arrays({"b": ([[1.0], [2.0]], [0, 1]), 7: {"x": [[3.0]], "y": [2]}})
    assert data.ids == ("b", "7")
    assert data.sizes.tolist() == [2, 1]
    x, y = data.pooled()
    assert (x.dtype, y.dtype) == (np.float32, np.int64)
    assert x.tolist() == [[1], [2], [3]]
    assert data.client(1)[1].tolist() == [2]


@pytest.mark.parametrize(
    ("dtype", "kept"),
    [
        ("float64", "float32"),
        ("longdouble", "float32"),
        (">f8", "float32"),
        ("float16", "float16"),
        (">i4", "int32"),
        ("uint8", "uint8"),
        ("bool", "bool"),
        ("U3", "U3"),
        ("S3", "S3"),
    ],
)
def test_arrays_convert_wide_floats_only(dtype, kept):
    data = from_arrays({"a": (np.zeros(2, dtype), np.zeros(2))})
    assert data.pooled()[0].dtype == np.dtype(kept)


def test_arrays_of_several_inputs():
    x = {"age": [1.0, 2.0], "city": ["A", "Berlin"]}
    more = {"city": ["Zürich upon Limmat"], "age": [3.0]}
    data = from_arrays({"a": (x, [0, 1]), "b": (more, [1])})
    pooled = data.pooled()[0]
    assert list(pooled) == ["age", "city"]
    assert pooled["city"].tolist() == ["A", "Berlin", "Zürich upon Limmat"]
    assert pooled["age"].tolist() == [1, 2, 3]


def test_arrays_are_copied():
    x = np.zeros((2, 2), np.float32)
    data = from_arrays({"a": (x, np.zeros(2))})
    assert not np.shares_memory(data.pooled()[0], x)


def test_strings_of_objects():
    text = np.array(["a", "bcd"], dtype=object)
    raw = np.array([b"a", b"bcd"], dtype=object)
    assert from_arrays({"a": (text, raw)}).pooled()[0].dtype == "U3"
    assert from_arrays({"a": (text, raw)}).pooled()[1].dtype == "S3"


ONE = (np.zeros((1, 2), np.float32), np.zeros(1, np.int64))


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        (([[1.0]], [0]), r"client 'odd': x has shape \[1\] .* before it have shape \[2\]"),
        (([[1, 2]], [0]), r"client 'odd': x has .*int64 .* before it have .*float32"),
        ((ONE[0], [0.5]), r"client 'odd': y has .*float32 .* before it have .*int64"),
        (({"a": ONE[0]}, [0]), r"client 'odd' has the fields x\['a'\], y where .* have x, y"),
        ((ONE[0], [0, 1]), r"client 'odd': y has 2 examples where x has 1"),
        (([[1.0], [1.0, 2.0]], [0, 1]), r"client 'odd': x is not a regular array.*Pad"),
        (([[None, 1]], [0]), r"client 'odd': x has dtype object, with a NoneType"),
        ((["a", b"b"], [0, 1]), r"client 'odd': x has dtype object|client 'odd': x has shape"),
        ((np.array([["a\0"]], object), [0]), r"client 'odd': x .* zero byte"),
        ((np.zeros((1, 2), complex), [0]), r"client 'odd': x has dtype complex128"),
        ((np.ma.zeros((1, 2)), [0]), r"client 'odd': x is a masked array"),
        (({"a": {"b": [1.0]}}, [0]), r"client 'odd': x\['a'\] is a dictionary"),
        ((1.0, 2.0), r"client 'odd': x is a scalar"),
        (ONE[0], r"client 'odd' has a ndarray: expected \(x, y\)"),
        ((ONE[0],), r"client 'odd' has a tuple"),
        ({"x": ONE[0], "z": ONE[1]}, r"client 'odd' has a dict with the keys \['x', 'z'\]"),
    ],
)
def test_arrays_that_are_refused(odd, message):
    with pytest.raises(DataError, match=message):
        from_arrays({"a": ONE, "b": ONE, "odd": odd, "other": odd})


def test_arrays_of_no_clients_or_bad_ids():
    with pytest.raises(DataError, match="clients is empty"):
        from_arrays({})
    with pytest.raises(DataError, match=r"ids has 1\.5"):
        from_arrays({1.5: ONE})
    with pytest.raises(DataError, match="ids has '1' twice"):
        from_arrays({1: ONE, "1": ONE})
    with pytest.raises(DataError, match=r"arrays is of type tuple: .*use a partition"):
        from_arrays(ONE)


def test_empty_clients_fit_any_shape():
    arrays = {"none": ([], []), "a": ONE, "also": (np.zeros((0, 9)), [])}
    with pytest.raises(DataError, match="client 'none' has no examples"):
        from_arrays(arrays)
    data = from_arrays(arrays, allow_empty=True)
    assert data.sizes.tolist() == [0, 1, 0]
    assert data.pooled()[0].shape == (1, 2)
    assert from_arrays({"none": ([], [])}, allow_empty=True).num_examples == 0


def test_nonfinite_arrays():
    arrays = {"a": ONE, "b": ([[0.0, np.nan]], [0])}
    with pytest.raises(DataError, match=r"client 'b': x is nan at index \[0, 1\]"):
        from_arrays(arrays)
    assert from_arrays(arrays, allow_nonfinite=True).num_clients == 2


def test_floats_beyond_float32_are_not_finite():
    with pytest.raises(DataError, match=r"client 'a': y is inf .*3\.4e38"):
        from_arrays({"a": ([1.0], [1e300])})


@pytest.mark.parametrize("bound", [0, 30, 10**6])
def test_large_arrays_are_mapped(monkeypatch, bound):
    monkeypatch.setattr(clients, "MEMORY_MAP_BYTES", bound)
    monkeypatch.setattr(_fields, "CHUNK_BYTES", 8)
    wide = np.arange(40, dtype=np.float32).reshape(10, 2, 2)[:, :, ::-1]
    names = np.array(["n" * (1 + i) for i in range(10)])
    nothing = np.zeros((10, 0), np.int32)
    cuts = [(0, 1), (1, 5), (5, 5), (5, 9), (9, 10)]
    data = from_arrays(
        {
            f"c{i}": ({"wide": wide[a:b], "name": names[a:b], "no": nothing[a:b]}, wide[a:b] > 9)
            for i, (a, b) in enumerate(cuts)
        },
        allow_empty=True,
    )
    x, y = data.pooled()
    assert x["wide"].tolist() == wide.tolist()
    assert x["name"].tolist() == names.tolist()
    assert x["no"].shape == (10, 0)
    assert y.tolist() == (wide > 9).tolist()
    mapped = bound < 100
    assert (is_mapped(x["wide"]), is_mapped(y)) == (mapped, mapped)
    assert not is_mapped(x["name"])  # strings stay in memory
    [(batch, _)] = data.dataset(1, batch_size=4).as_numpy_iterator()
    assert batch["wide"].tolist() == wide[1:5].tolist()


# from_frame


def test_frame_is_sorted_by_client_and_keeps_rows_in_order():
    data = read(frame(), features=("height", "age"))
    assert data.ids == ("a", "b", "c")
    assert data.sizes.tolist() == [1, 2, 1]
    x, y = data.client(1)
    assert x.dtype == np.float32
    assert x.tolist() == [[1, 1.5], [3, 3.5]]
    assert y.dtype == np.int64
    assert y.tolist() == [0, 0]


def test_frame_types():
    assert read(frame(), dtype="float64").pooled()[0].dtype == np.float64
    assert read(frame(), dtype=np.int32, features=["height"]).pooled()[0].dtype == np.int32
    assert read(frame(), label_dtype="float32").pooled()[1].dtype == np.float32
    assert read(frame(), features=["height"], label="age").pooled()[1].dtype == np.float32
    assert read(frame(label=[True, False, True, False])).pooled()[1].dtype == bool
    assert read(frame(label=list("wxyz"))).pooled()[1].tolist() == ["x", "w", "y", "z"]
    assert read(frame(label=list("wxyz")), label_dtype="S1").pooled()[1].dtype == "S1"
    nullable = frame(label=pd.array([0, 1, 0, 1], dtype="Int64"))
    assert read(nullable, label_dtype="int32").pooled()[1].tolist() == [1, 0, 0, 1]


@pytest.mark.parametrize(
    ("user", "ids"),
    [
        ([10, 9, 10, 100], ("10", "100", "9")),
        (pd.Categorical(list("xyxz")), ("x", "y", "z")),
        (pd.to_datetime(["2020-01-02", "2020-01-01", "2020-01-02", "2021-01-01"]), None),
    ],
)
def test_frame_ids_of_other_types(user, ids):
    data = read(frame(user=user))
    assert sorted(data.ids) == list(data.ids)
    assert data.num_clients == 3
    if ids is not None:
        assert data.ids == ids
    else:
        assert data.ids[0].startswith("2020-01-01")


@pytest.mark.parametrize(
    ("columns", "arguments", "error", "message"),
    [
        ({}, {"client": "uid"}, ArgumentError, r"client='uid' is not a column.*'user', 'age'"),
        ({}, {"label": "y"}, ArgumentError, r"label='y' is not a column.*'label'"),
        ({}, {"features": ["age", "w"]}, ArgumentError, r"features='w' is not a column"),
        ({}, {"features": "age"}, ArgumentError, r"features='age' is one string.*\['age'\]"),
        ({}, {"features": []}, ArgumentError, r"features is empty"),
        ({}, {"features": 3}, ArgumentError, r"features=3 is not a list"),
        (
            {},
            {"features": ["age", "height", "age"]},
            ArgumentError,
            r"features=\['age', 'height', 'age'\] has 'age' twice: expected every name once. Remove",
        ),
        (
            {},
            {"features": ["age", "label"]},
            ArgumentError,
            r"\['age', 'label'\] has 'label', which is also label='label'.*Remove it from features",
        ),
        (
            {},
            {"features": ["user", "age"]},
            ArgumentError,
            r"features=\['user', 'age'\] has 'user', which is also client='user'.*Remove it",
        ),
        ({}, {"label": "user"}, ArgumentError, r"label='user' is also the column of the client ids"),
        ({}, {"features": {"age"}}, ArgumentError, r"features=\{'age'\} has no order.*\['age'\]"),
        ({}, {"dtype": "flaot32"}, ArgumentError, r"dtype='flaot32' is not a numpy dtype"),
        ({}, {"dtype": "str"}, ArgumentError, r"dtype='str': expected a number"),
        ({}, {"label_dtype": "complex64"}, ArgumentError, r"label_dtype has dtype complex64"),
        ({"age": [1, np.nan, 2, 3]}, {}, DataError, "client 'a': column 'age' is missing in row 1"),
        ({"label": [0, 1, None, 1]}, {}, DataError, "client 'b': column 'label' is missing"),
        ({"user": ["a", None, "b", "c"]}, {}, DataError, "column 'user' has no client id in row 1"),
        ({"user": [1.0, 2.0, np.nan, 3]}, {}, DataError, "column 'user' has no client id in row 2"),
        ({"age": list("wxyz")}, {}, DataError, r"column 'age' does not fit float32"),
        ({"age": [1, 2, 3, np.inf]}, {}, DataError, r"client 'c': x is inf at index \[0, 0\]"),
        ({}, {"dtype": "int32"}, DataError, r"client 'b': column 'age' is .*1\.5.* in row 0"),
        ({"height": [1, 2, 300, 4]}, {"features": ["height"], "dtype": "uint8"}, DataError, "300"),
        ({"label": [[1], [2], [3], [4]]}, {}, DataError, r"column 'label' has dtype object"),
    ],
)  # fmt: skip
def test_frames_that_are_refused(columns, arguments, error, message):
    with pytest.raises(error, match=message):
        read(frame(**columns), **arguments)


def test_missing_client_id_of_nullable_column():
    with pytest.raises(DataError, match="column 'user' has no client id in row 3"):
        read(frame(user=pd.array([1, 2, 3, None], dtype="Int64")))


def test_frame_that_is_none_is_empty_or_has_a_column_twice():
    with pytest.raises(DataError, match="frame is a list"):
        read([1])
    with pytest.raises(DataError, match="frame has no rows"):
        read(frame().iloc[:0])
    twice = frame()
    twice.columns = ["user", "age", "age", "label"]
    with pytest.raises(ArgumentError, match="features='age' names 2 columns"):
        read(twice, features=["age"])
    twice.columns = ["user", "age", "label", "label"]
    with pytest.raises(ArgumentError, match=r"label='label' names 2 columns.*Rename them"):
        read(twice, features=["age"])
    twice.columns = ["user", "age", "user", "label"]
    with pytest.raises(ArgumentError, match=r"client='user' names 2 columns"):
        read(twice, features=["age"])


def test_infinities_of_a_frame_can_be_allowed_but_nothing_missing():
    data = read(frame(age=[1, 2, 3, np.inf]), allow_nonfinite=True)
    assert np.isinf(data.client(2)[0][0, 0])
    with pytest.raises(DataError, match="is missing"):
        read(frame(age=[1, 2, 3, np.nan]), allow_nonfinite=True)


def test_large_frame_is_mapped(monkeypatch):
    expected = read(frame()).pooled()
    monkeypatch.setattr(clients, "MEMORY_MAP_BYTES", 8)
    got = read(frame()).pooled()
    for array, other in zip(got, expected, strict=True):
        assert is_mapped(array)
        assert array.tolist() == other.tolist()


# from_datasets


def slices(x, y):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((x, y))


def test_datasets(monkeypatch):
    monkeypatch.setattr(_elements, "_READ", 2)
    x = np.arange(10.0).reshape(5, 2)
    data = from_datasets({"b": slices(x, [0, 1, 2, 3, 4]), "a": slices(x[:1], [9])})
    assert data.ids == ("b", "a")
    assert data.pooled()[0].dtype == np.float32
    assert data.client(0)[0].tolist() == x.tolist()
    assert data.pooled()[1].tolist() == [0, 1, 2, 3, 4, 9]
    assert data.pooled()[1].dtype == np.int32


def test_datasets_of_several_inputs_and_strings():
    x = {"age": [1.0, 2.0], "city": ["A", "Zürich"]}
    data = from_datasets({"a": slices(x, [True, False])})
    assert data.pooled()[0]["city"].tolist() == [b"A", "Zürich".encode()]
    assert data.pooled()[1].dtype == bool
    assert data.element_spec(batch=False) == slices(x, [True, False]).element_spec


def test_empty_datasets():
    full = slices(np.zeros((2, 3)), np.zeros(2))
    with pytest.raises(DataError, match="client 'b' has no examples"):
        from_datasets({"a": full, "b": full.take(0)})
    for order in ("ab", "ba"):
        chosen = {"a": full, "b": full.take(0)}
        data = from_datasets({name: chosen[name] for name in order}, allow_empty=True)
        assert sorted(data.sizes.tolist()) == [0, 2]
    named = slices({"a": np.zeros((2, 3))}, ["s", "t"]).take(0)
    data = from_datasets({"b": named}, allow_empty=True)
    assert data.pooled()[0]["a"].shape == (0, 3)


def datasets_that_are_refused():
    import tensorflow as tf

    good = slices(np.zeros((4, 2)), np.zeros(4))
    ragged = tf.data.Dataset.from_generator(
        lambda: iter([(np.zeros(2), 0), (np.zeros(3), 0)]),
        output_signature=(tf.TensorSpec([None]), tf.TensorSpec([], tf.int32)),
    )
    return [
        ([1], r"client 'odd' has a list: expected a tf\.data\.Dataset"),
        (good.repeat(), r"client 'odd': its dataset is infinite"),
        (good.batch(2), r"client 'odd': its dataset looks batched.*unbatch"),
        (ragged, r"client 'odd': its examples cannot be stacked.*Pad"),
        (tf.data.Dataset.range(3), r"client 'odd' has examples of type TensorSpec"),
        (good.map(lambda x, y: {"x": x, "y": y}), r"'odd' has examples of the fields 'x', 'y'"),
        (good.map(lambda x, y: ((x, x), y)), r"client 'odd' has the fields x\[0\], x\[1\], y where"),
        (good.map(lambda x, y: ({"a": tf.sparse.from_dense(x)}, y)), r"x\['a'\] is a SparseTensor"),
        (good.map(lambda x, y: (x[:1], y)), r"client 'odd': x has shape \[1\].*have shape \[2\]"),
        (good.map(lambda x, y: (x / 0.0, y)), r"client 'odd': x is nan at index \[0, 0\]"),
    ]  # fmt: skip


@pytest.mark.parametrize("case", range(10))
def test_datasets_that_are_refused(case):
    odd, message = datasets_that_are_refused()[case]
    good = slices(np.zeros((4, 2)), np.zeros(4))
    with pytest.raises(ArgumentError, match=message):
        from_datasets({"a": good, "odd": odd})


def test_datasets_must_be_a_dictionary():
    with pytest.raises(DataError, match="datasets is of type list"):
        from_datasets([])


def test_large_datasets_are_mapped(monkeypatch):
    monkeypatch.setattr(clients, "MEMORY_MAP_BYTES", 20)
    x = np.arange(8, dtype=np.float32).reshape(4, 2)
    data = from_datasets({i: slices(x + i, np.arange(4)) for i in range(3)})
    assert is_mapped(data.pooled()[0])
    assert data.client(2)[0].tolist() == (x + 2).tolist()


# from_client_data


class FakeClientData:
    """What `from_client_data` uses of a tff.simulation.datasets.ClientData."""

    def __init__(self, examples):
        self._examples = examples
        self.client_ids = list(examples)

    def create_tf_dataset_for_client(self, client_id):
        import tensorflow as tf

        return tf.data.Dataset.from_tensor_slices(self._examples[client_id])


PIXELS = {
    "b": collections.OrderedDict(label=[1, 2], pixels=[[0.0, 1.0], [2.0, 3.0]], z=[0, 0]),
    "a": collections.OrderedDict(label=[3], pixels=[[4.0, 5.0]], z=[7]),
}


def check_client_data(data):
    data = from_client_data(data, x="pixels", y="label")
    assert data.sizes.tolist() == [1, 2] if data.ids == ("a", "b") else [2, 1]
    x, y = data.client(data.position("b"))
    assert x.tolist() == [[0, 1], [2, 3]]
    assert y.tolist() == [1, 2]


def test_client_data():
    check_client_data(FakeClientData(PIXELS))


@pytest.mark.heavy
def test_client_data_of_tff():
    from tff_dp import tff

    check_client_data(tff.simulation.datasets.TestClientData(PIXELS))
    pairs = tff.simulation.datasets.TestClientData({"a": ([[1.0], [2.0]], [0, 1])})
    data = from_client_data(pairs)
    assert data.client(0)[0].tolist() == [[1], [2]]
    assert data.dataset(0, batch_size=2).element_spec == data.element_spec()


def test_client_data_of_several_inputs():
    data = from_client_data(FakeClientData(PIXELS), x=["z", "pixels"], y=["label"])
    x, y = data.client(1)
    assert list(x) == ["z", "pixels"]
    assert x["z"].tolist() == [7]
    assert y["label"].tolist() == [3]


def test_client_data_whose_target_is_its_input():
    x, y = from_client_data(FakeClientData(PIXELS), x="pixels", y="pixels").client(0)
    np.testing.assert_array_equal(x, y)


def test_client_data_of_pairs():
    data = from_client_data(FakeClientData({"a": ([1.0, 2.0], [0, 1])}))
    assert data.client(0)[1].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("examples", "names", "message"),
    [
        (PIXELS, {}, r"x=None, y=None: client 'b' has examples of the fields 'label', 'pixels'"),
        (PIXELS, {"x": "pixels"}, r"x='pixels', y=None"),
        (
            PIXELS,
            {"x": "image", "y": "label"},
            r"x='image' is not a field of the examples: expected 'label'",
        ),
        (PIXELS, {"x": "pixels", "y": ["label", "w"]}, r"y='w' is not a field"),
        (PIXELS, {"x": ["z", "z"], "y": "label"}, r"x=\['z', 'z'\] has 'z' twice.*Remove one"),
        (PIXELS, {"x": "z", "y": ["label", "label"]}, r"y=\['label', 'label'\] has 'label' twice"),
        (
            PIXELS,
            {"x": ["z", "label"], "y": "label"},
            r"'label', which is also y='label'.*Remove it from x",
        ),
        ({"a": ([1.0], [0])}, {"x": "pixels", "y": "label"}, r"the examples are pairs already"),
    ],
)
def test_client_data_names_that_are_refused(examples, names, message):
    with pytest.raises(ArgumentError, match=message):
        from_client_data(FakeClientData(examples), **names)


def test_client_data_of_another_type():
    with pytest.raises(DataError, match=r"client_data is of type dict: .*use from_datasets"):
        from_client_data({"a": 1})
