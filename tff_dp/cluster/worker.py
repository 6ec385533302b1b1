"""What runs in the worker processes of a cluster: a few parts of a block of clients at a time.

A worker imports TensorFlow, and neither TensorFlow Federated nor Keras: it gets the part's graph as it
was traced. Graphs, weights and examples are kept from one part to the next, and nothing is kept that
cannot be made again from the arguments, so that any worker can run any part.
"""

from __future__ import annotations

import collections
import ctypes
import dataclasses
import hashlib
import itertools
import os
import pathlib
import resource
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import numpy as np

from tff_dp.cluster.messages import (
    Array,
    Block,
    Common,
    Done,
    Failed,
    Field,
    Graph,
    Mapped,
    Runtime,
    Stored,
)

T = TypeVar("T")
_PAGES, _PAGE = 64, 4096  # of a file that its fingerprint samples
# How much a worker keeps: graphs, fields of examples, and the tensors of a round and of a block.
_MOST = {"graph": 32, "field": 16, "common": 1, "block": 1}
_kept: dict[str, collections.OrderedDict[Hashable, Any]] = {
    kind: collections.OrderedDict() for kind in _MOST
}
_runtime: Runtime | None = None


def run_parts(
    graph: Graph, common: Common, block: Block, bounds: Sequence[int], *shards: Array
) -> Done | Failed:
    """Computes the sums over consecutive parts of a block.

    Args:
      graph: The traced function, from the root key, what the server sends, the examples, the table, and
        the two bounds to the sums.
      common: What the server sends.
      block: The block.
      bounds: The number of each part's first client in the block's table, then that after the last.
      *shards: The shards of the arrays that are in the object store.

    Returns:
      The sums of each part; or why they cannot be computed, if another worker would fail as well.
    """
    begin = time.perf_counter()
    where = f"{os.uname().nodename}:{os.getpid()}"
    try:
        _prepare(graph.runtime)
        import tensorflow as tf

        from tff_dp._compat import tensorflow as tf_compat
    except (ImportError, _UnfitError) as error:
        return Failed(None, str(error), where)
    try:
        function = _once("graph", graph.key, lambda: _loaded(graph))
        given = _once("common", common.key, lambda: _given(common))
        examples, _owners = _once("block", block.key, lambda: _tensors(block, shards))
        captured = [tf.constant(value) for value in graph.captured]
        places = [tf.constant(bound) for bound in bounds]
        sums = []
        for part in itertools.pairwise(places):
            found = tf_compat.call_flat(function, [*given, *examples, *part, *captured])
            sums.append(tuple(tensor.numpy() for tensor in found))
    except tf.errors.OpError as error:
        return Failed(error.error_code, error.message, where)
    except _UnfitError as error:
        return Failed(None, str(error), where)
    except Exception as error:  # Ray would not try it elsewhere, and hide it below its own frames
        return Failed(None, f"{type(error).__name__}: {error}", where)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Done(tuple(sums), time.perf_counter() - begin, where, peak)


class _UnfitError(Exception):
    """This worker cannot do what is asked of it."""


def fingerprint(path: str) -> str:
    """Computes a digest of the size of a file and of pages spread over it.

    Args:
      path: Of the file.

    Returns:
      The digest, hexadecimal.

    Raises:
      OSError: It cannot be read.
    """
    size = pathlib.Path(path).stat().st_size
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    with pathlib.Path(path).open("rb") as file:
        for page in range(_PAGES):
            file.seek(max(size - _PAGE, 0) * page // (_PAGES - 1))
            digest.update(file.read(_PAGE))
    return digest.hexdigest()


def versions() -> tuple[tuple[str, str], ...]:
    """Returns the versions that have to agree on all workers."""
    import platform
    from importlib import metadata

    found = [(name, metadata.version(name)) for name in ("tff_dp", "tensorflow", "numpy")]
    python = platform.python_version_tuple()
    return (("python", ".".join(python[:2])), *found)


def _prepare(runtime: Runtime) -> None:
    """Sets TensorFlow up for a runtime, once."""
    global _runtime
    if _runtime == runtime:
        return
    differing = sorted(set(runtime.versions) - set(versions()))
    if differing:
        wanted = ", ".join(f"{name} {version}" for name, version in differing)
        have = ", ".join(f"{name} {version}" for name, version in versions())
        raise _UnfitError(
            f"it has {have}, and the driver has {wanted}: results could differ. Install the driver's "
            "versions on all nodes."
        )
    if _runtime is None:  # and TensorFlow, which reads the environment, has not been imported
        for name, value in runtime.environment:
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
    import tensorflow as tf

    if _runtime is None:
        try:
            tf.config.threading.set_intra_op_parallelism_threads(runtime.threads)
            tf.config.optimizer.set_experimental_options(dict(runtime.options))
            for gpu in tf.config.get_visible_devices("GPU"):
                tf.config.experimental.set_memory_growth(gpu, True)
        except RuntimeError as error:  # a task of somebody else has run TensorFlow here
            raise _UnfitError(
                f"its TensorFlow is in use already: {error}. Run tasks of your own that use TensorFlow "
                "from another driver."
            ) from error
    elif dataclasses.replace(runtime, device=_runtime.device) != _runtime:
        raise _UnfitError("its TensorFlow has been set up otherwise. Start another driver.")
    if runtime.device == "gpu" and not tf.config.get_visible_devices("GPU"):
        raise _UnfitError(
            "its TensorFlow sees no GPU, which Ray says is there. Run tff-dp doctor on that node."
        )
    _runtime = runtime


def _once(kind: str, key: Hashable, make: Callable[[], T]) -> T:
    """Returns what is kept under a key, and makes it if it is missing."""
    kept = _kept[kind]
    if key in kept:
        kept.move_to_end(key)
        found: T = kept[key]
        return found
    while len(kept) >= _MOST[kind]:  # before anything is made, so that both need not fit
        kept.popitem(last=False)
    made = kept[key] = make()
    return made


def _loaded(graph: Graph) -> Any:
    """Returns the function of a graph."""
    import tensorflow as tf

    definition = tf.compat.v1.GraphDef.FromString(graph.definition.tobytes())
    imported = tf.compat.v1.wrap_function(
        lambda: tf.graph_util.import_graph_def(definition, name=""), []
    )
    find = imported.graph.as_graph_element
    return imported.prune([find(n) for n in graph.inputs], [find(n) for n in graph.outputs])


def _given(common: Common) -> list[Any]:
    """Returns the inputs that a round's parts have in common, and drops what it does not need."""
    import tensorflow as tf

    kept = _kept["field"]
    for key in [k for k in kept if isinstance(k, str) and k not in common.arrays]:
        del kept[key]  # it would keep the array in the object store, which may be short of room
    return [tf.constant(array) for array in (common.root, *common.tensors)]


def _tensors(block: Block, shards: Sequence[Array]) -> tuple[list[Any], list[Any]]:
    """Returns the inputs of a part that describe its block, and what owns their memory.

    The inputs are the examples and then the table. Whoever keeps them has to keep the owners as well.
    """
    import tensorflow as tf

    fields = [_examples(field, shards) for field in block.fields]
    table = [tf.constant(column) for column in block.table]
    return [*(tensor for tensor, _ in fields), *table], [owner for _, owner in fields]


def _examples(field: Field, shards: Sequence[Array]) -> tuple[Any, Any]:
    """Returns the tensor of a field, and what owns its memory."""
    from tff_dp import _copies

    if field.rows is None:
        if field.key is None:
            return _whole(field, shards)
        return _once("field", field.key, lambda: _whole(field, shards))
    rows = slice(*field.rows) if isinstance(field.rows, tuple) else field.rows
    place = field.place
    if isinstance(place, Mapped) or len(place.begins) == 1:
        base = 0 if isinstance(place, Mapped) else place.begins[0]
        shifted = (
            slice(rows.start - base, rows.stop - base) if isinstance(rows, slice) else rows - base
        )
        return _copies.padded_rows(_array(place, shards), shifted, field.length), None
    numbers = np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows
    dtype = np.dtype(place.dtype)
    copy = _copies.aligned([field.length, *place.shape[1:]], dtype)
    copy[len(numbers) :] = np.zeros([], dtype)
    for number, (begin, end) in enumerate(zip(place.begins, place.ends, strict=True), place.first):
        own = np.flatnonzero((numbers >= begin) & (numbers < end))
        copy[own] = shards[number][numbers[own] - begin]
    return _copies.as_tensor(copy), None


def _whole(field: Field, shards: Sequence[Array]) -> tuple[Any, Any]:
    """Returns all rows of a field, in the memory of the node where that can be, and its owner."""
    import tensorflow as tf

    from tff_dp import _copies

    array = _array(field.place, shards)
    if not _copies.is_aligned(array):
        return tf.convert_to_tensor(np.ascontiguousarray(array)), None
    # The memory is shared by all workers of the node and read-only, which DLPack cannot express.
    # TensorFlow writes into no tensor that somebody else holds.
    memory = (ctypes.c_char * array.nbytes).from_address(array.ctypes.data)
    view = np.frombuffer(memoryview(memory), array.dtype).reshape(array.shape)
    return _copies.as_tensor(view), array


def _array(place: Mapped | Stored, shards: Sequence[Array]) -> Array:
    if isinstance(place, Stored):
        own = shards[place.first : place.first + len(place.begins)]
        return own[0] if len(own) == 1 else np.concatenate(own)
    return _once("field", place, lambda: _mapped(place))


def _mapped(place: Mapped) -> Array:
    advice = "Put the file there under the same path, or load the arrays into memory on the driver."
    try:
        found = fingerprint(place.path)
    except OSError as error:
        raise _UnfitError(f"it cannot read client data: {error}. {advice}") from error
    if found != place.fingerprint:
        raise _UnfitError(f"client data differ from the driver's: {place.path}. {advice}")
    return np.memmap(place.path, place.dtype, "r", place.offset, place.shape)
