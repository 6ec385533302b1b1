"""The state of a process as bytes, and back: the leaves of its structure, one after another.

The structure is not stored. It is that of a state which the same process has just initialized, so
that no class or function is found by a name from a file.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tree

from tff_dp.errors import RunFolderError

_NUMBERS = (bool, int, float)
_PLAIN = {"none": type(None), "str": str, "bytes": bytes} | {
    kind.__name__: kind for kind in _NUMBERS
}


class UnfitError(RunFolderError):
    """Stored leaves do not fit the structure of a state."""


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A state as bytes.

    Attributes:
      leaves: For each leaf its path, kind, data type, shape and number of bytes, as plain values.
      parts: The bytes of each leaf.
    """

    leaves: Sequence[Mapping[str, Any]]
    parts: Sequence[bytes]


def encode(state: Any, like: Any) -> Encoded:
    """Turns a state into bytes, which later changes of the state do not affect.

    Args:
      state: The state of a process.
      like: The first state of the process.

    Returns:
      The bytes and their description.

    Raises:
      UnfitError: The state has a leaf of a type that cannot be stored, or another structure than
        the first state.
    """
    leaves, parts = [], []
    for (path, leaf), (at, first) in _pairs(state, like):
        if path != at:
            raise UnfitError(f"{path} of the state is {at} in its first state.")
        description, content = _encoded(path, leaf, first)
        leaves.append({"path": path, **description, "bytes": len(content)})
        parts.append(content)
    return Encoded(leaves, parts)


def decode(like: Any, leaves: Sequence[Mapping[str, Any]], content: bytes) -> Any:
    """Restores a state from its bytes.

    Args:
      like: A state of the same process, such as its first one. Its values do not matter.
      leaves: The description of the leaves, as `encode` makes it.
      content: The bytes of all leaves.

    Returns:
      A state of the structure of `like`, with NumPy arrays and scalars.

    Raises:
      UnfitError: The leaves are not those of such a state: paths, data types or shapes differ.
    """
    expected = [(_path(at), first) for at, first in tree.flatten_with_path(like)]
    found, start = [], 0
    if [leaf["path"] for leaf in leaves] != [path for path, _ in expected]:
        raise UnfitError(
            f"it has {len(leaves)} tensors, {_names([each['path'] for each in leaves])}, and the "
            f"process has {len(expected)}, {_names([path for path, _ in expected])}."
        )
    for leaf, (_, first) in zip(leaves, expected, strict=True):
        stop = start + int(leaf["bytes"])
        found.append(_decoded(leaf, content[start:stop], first))
        start = stop
    if start != len(content):
        raise UnfitError(f"it has {len(content)} bytes, and its tensors have {start}.")
    return tree.unflatten_as(like, found)


def encode_arrays(arrays: Sequence[np.ndarray]) -> Encoded:
    """Turns arrays of numbers into bytes.

    Args:
      arrays: Arrays, such as the weights of a Keras model.

    Returns:
      The bytes and their description.

    Raises:
      UnfitError: An array has no numbers.
    """
    found = [_encoded(str(place), np.asarray(each), each) for place, each in enumerate(arrays)]
    return Encoded(
        [{**description, "bytes": len(content)} for description, content in found],
        [content for _, content in found],
    )


def decode_arrays(leaves: Sequence[Mapping[str, Any]], content: bytes) -> list[np.ndarray]:
    """Restores arrays from their bytes.

    Args:
      leaves: The description of the arrays, as `encode_arrays` makes it.
      content: The bytes of all arrays.

    Returns:
      The arrays.

    Raises:
      UnfitError: The bytes are not those of such arrays.
    """
    found, start = [], 0
    for place, leaf in enumerate(leaves):
        stop = start + int(leaf["bytes"])
        try:
            like = np.zeros(tuple(leaf["shape"]), np.dtype(leaf["dtype"]))
        except (TypeError, ValueError) as error:
            raise UnfitError(f"the array {place} beside the state is none: {error}.") from None
        found.append(_decoded({**leaf, "path": str(place)}, content[start:stop], like))
        start = stop
    return found


def _pairs(state: Any, like: Any) -> Any:
    here, there = ([(_path(at), v) for at, v in tree.flatten_with_path(s)] for s in (state, like))
    if len(here) != len(there):
        raise UnfitError(
            f"the state has {len(here)} tensors, and the first state of the process {len(there)}."
        )
    return zip(here, there, strict=True)


def _path(keys: tuple[Any, ...]) -> str:
    return "/".join(map(str, keys))


def _names(paths: Sequence[str]) -> str:
    return ", ".join(paths[:2]) + (", ..." if paths[2:] else "")


def _encoded(path: str, leaf: Any, first: Any) -> tuple[dict[str, Any], bytes]:
    if leaf is None:
        return {"kind": "none"}, b""
    if isinstance(leaf, str):
        return {"kind": "str"}, leaf.encode()
    if isinstance(leaf, bytes):
        return {"kind": "bytes"}, leaf
    if type(leaf) in _NUMBERS and type(first) is not type(leaf):
        leaf = np.asarray(leaf, getattr(first, "dtype", None))  # somebody has set, say, a rate
    if type(leaf) in _NUMBERS:
        return {"kind": type(leaf).__name__}, repr(leaf).encode()
    is_array = isinstance(leaf, np.ndarray | np.generic) or hasattr(leaf, "numpy")
    array = np.asarray(leaf) if is_array else np.asarray(None)
    kind = "scalar" if isinstance(leaf, np.generic) else "array"
    description = {"kind": kind, "dtype": array.dtype.name, "shape": list(array.shape)}
    if array.dtype.hasobject or array.dtype.kind in "SU":
        texts = array.astype(object).ravel().tolist()
        if is_array and all(isinstance(text, bytes) for text in texts):
            sized = [len(text).to_bytes(8, "little") + text for text in texts]
            return description | {"dtype": "bytes"}, b"".join(sized)
        raise UnfitError(
            f"{path} of the state is of {type(leaf).__name__}: expected numbers or bytes, which can be "
            "stored. Leave out run_dir, or keep such values out of the state of the process."
        )
    return description, array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def _decoded(leaf: Mapping[str, Any], content: bytes, first: Any) -> Any:
    path, kind = leaf["path"], leaf["kind"]
    if kind in _PLAIN:
        if type(first) is not _PLAIN[kind]:
            raise UnfitError(f"{path} is of {kind}, and of {type(first).__name__} in the process.")
        return _plain(kind, content)
    wanted = np.asarray(first)
    shape, dtype = tuple(leaf["shape"]), leaf["dtype"]
    name = "bytes" if wanted.dtype.hasobject or wanted.dtype.kind in "SU" else wanted.dtype.name
    if (dtype, shape) != (name, wanted.shape) or type(first) in _NUMBERS:
        raise UnfitError(
            f"{path} is {dtype} {list(shape)}, and {name} {list(wanted.shape)} in the process."
        )
    if dtype == "bytes":
        return _texts(content, shape, path)
    if len(content) != math.prod(shape) * wanted.dtype.itemsize:
        raise UnfitError(f"{path} has {len(content)} bytes, which are not {dtype} {list(shape)}.")
    stored = np.frombuffer(content, wanted.dtype.newbyteorder("<"))
    array = stored.astype(wanted.dtype, copy=True).reshape(shape)
    return array[()] if kind == "scalar" else array


def _plain(kind: str, content: bytes) -> Any:
    if kind == "none":
        return None
    if kind == "bytes":
        return content
    text = content.decode()
    if kind == "bool":
        return text == "True"
    return {"str": str, "int": int, "float": float}[kind](text)


def _texts(content: bytes, shape: tuple[int, ...], path: str) -> Any:
    found, at = [], 0
    while at < len(content):
        size = int.from_bytes(content[at : at + 8], "little")
        found.append(content[at + 8 : at + 8 + size])
        at += 8 + size
    if at != len(content) or len(found) != math.prod(shape):
        raise UnfitError(f"{path} has {len(found)} texts in {len(content)} bytes.")
    array = np.empty(len(found), object)
    array[:] = found
    return array.reshape(shape)
