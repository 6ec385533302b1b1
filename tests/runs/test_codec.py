"""States as bytes and back: every type of leaf, and leaves that do not fit."""

from __future__ import annotations

import collections

import ml_dtypes
import numpy as np
import pytest

from tff_dp.errors import RunFolderError
from tff_dp.runs import codec

Pair = collections.namedtuple("Pair", ["one", "two"])
DTYPES = [
    "bool", "int8", "int32", "int64", "uint8", "uint64", "float16", "float32", "float64", "complex64",
    ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn,
]  # fmt: skip


def back(state, like=None):
    encoded = codec.encode(state, state if like is None else like)
    assert [len(part) for part in encoded.parts] == [leaf["bytes"] for leaf in encoded.leaves]
    return codec.decode(state if like is None else like, encoded.leaves, b"".join(encoded.parts))


def assert_equal(one, two):
    assert type(one) is type(two)
    if isinstance(one, np.ndarray | np.generic):
        assert one.dtype == two.dtype
        assert one.shape == two.shape
        assert one.tobytes() == two.tobytes()
    else:
        assert one == two


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 1, 3)], ids=str)
def test_arrays_of_every_type_come_back_bit_by_bit(dtype, shape):
    dtype = np.dtype(dtype)
    size = int(np.prod(shape)) * dtype.itemsize
    raw = np.random.default_rng(0).integers(0, 2 if dtype.kind == "b" else 256, size, np.uint8)
    array = raw.view(dtype).reshape(shape)
    assert_equal(back([array])[0], array)
    if not shape:
        assert_equal(back([array[()]])[0], array[()])
    assert_equal(back([array.T])[0], array.T.copy())
    swapped = array.astype(array.dtype.newbyteorder()) if dtype.kind in "iufc" else array
    np.testing.assert_array_equal(back([swapped])[0].tobytes(), swapped.tobytes())


def test_containers_and_plain_values_come_back():
    state = Pair(
        one=[np.float32(1), {"b": b"bytes\0\n", "a": ("text", 3, True, 0.1, None)}],
        two=collections.OrderedDict(z=np.array([b"one", b"", b"a\0b"], object), y=()),
    )
    found = back(state)
    assert type(found) is Pair
    assert type(found.two) is collections.OrderedDict
    assert found.one == state.one
    assert found.two["z"].tolist() == state.two["z"].tolist()


def test_a_plain_number_takes_the_type_of_the_process():
    (found,) = back([0.1], like=[np.float32(3)])
    assert_equal(found, np.asarray(np.float32(0.1)))


def test_tensors_come_back_as_arrays(tff):
    import tensorflow as tf

    state = [tf.constant([[1, 2]], tf.bfloat16), tf.constant([b"a", b"bc"])]
    found = back(state)
    np.testing.assert_array_equal(found[0], state[0].numpy())
    assert found[0].dtype == state[0].dtype.as_numpy_dtype
    assert found[1].tolist() == [b"a", b"bc"]


def test_bytes_are_those_of_the_moment():
    array = np.zeros(3)
    encoded = codec.encode([array], [array])
    array += 1
    assert codec.decode([array], encoded.leaves, b"".join(encoded.parts))[0].tolist() == [0, 0, 0]


LIKE = {"a": np.zeros([2, 3], np.float32), "b": np.int64(1)}


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"a": np.zeros([3, 2], np.float32), "b": np.int64(1)}, r"\[2, 3\], and float32 \[3, 2\]"),
        ({"a": np.zeros([2, 3], np.float64), "b": np.int64(1)}, r"a is float32 .* and float64"),
        ({"a": np.zeros([2, 3], np.float32), "b": np.int32(1)}, r"b is int64 \[\], and int32 \[\]"),
        ({"a": np.zeros([2, 3], np.float32), "c": np.int64(1)}, "a, b, and the process has 2, a, c"),
        ({"a": np.zeros([2, 3], np.float32)}, "has 1, a"),
        ({"a": b"", "b": np.int64(1)}, "a is float32"),
    ],
)  # fmt: skip
def test_leaves_that_do_not_fit_are_refused_by_their_path(other, message):
    encoded = codec.encode(LIKE, LIKE)
    with pytest.raises(codec.UnfitError, match=message):
        codec.decode(other, encoded.leaves, b"".join(encoded.parts))


def test_bytes_that_are_missing_or_too_many_are_refused():
    encoded = codec.encode(LIKE, LIKE)
    content = b"".join(encoded.parts)
    for wrong in (content[:-1], content + b"\0", b""):
        with pytest.raises(codec.UnfitError):
            codec.decode(LIKE, encoded.leaves, wrong)


class Opaque:
    pass


@pytest.mark.parametrize(
    "leaf",
    [Opaque(), np.array([Opaque()]), np.array(["text"]), {1, 2}],
    ids=["an object", "objects", "strings", "a set"],
)
def test_what_cannot_be_stored_is_refused_by_its_path(leaf):
    with pytest.raises(
        RunFolderError, match=r"x/0 of the state is of .*: expected numbers or bytes"
    ):
        codec.encode({"x": [leaf]}, {"x": [leaf]})


def test_nothing_that_loads_can_unpickle():
    import pathlib

    import tff_dp.runs

    folder = pathlib.Path(tff_dp.runs.__file__).parent
    text = "".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py"))
    for word in ("pickle", "np.load", "marshal", "eval(", "exec(", "import_module"):
        assert word not in text.replace("unpickles", "")
