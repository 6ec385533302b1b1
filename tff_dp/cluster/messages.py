"""What travels between the driver and the workers of a cluster. Imports numpy alone.

All of it are frozen dataclasses of arrays and numbers, which Ray keeps in the shared memory of a node and
reads without a copy. Examples do not travel in them: a field says where its rows are.
"""

from __future__ import annotations

import dataclasses
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


@dataclasses.dataclass(frozen=True)
class Runtime:
    """What has to agree on all workers for equal keys to give equal bits.

    Attributes:
      versions: Packages and their versions.
      threads: Threads of TensorFlow within an operation. Some kernels cut a sum by them.
      options: The options of TensorFlow's graph optimizer, sorted by name.
      environment: The variables of the environment that choose kernels, with None where not set.
      device: "cpu" or "gpu".
    """

    versions: tuple[tuple[str, str], ...]
    threads: int
    options: tuple[tuple[str, Any], ...]
    environment: tuple[tuple[str, str | None], ...]
    device: str


@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
    """A traced function.

    Attributes:
      key: Of the graph, for the caches of workers.
      definition: A serialized `GraphDef`, uint8 [bytes].
      inputs: The names of its inputs, the captured ones last.
      outputs: The names of its outputs.
      captured: The values of the captured inputs.
      runtime: How it has to be run.
    """

    key: str
    definition: Array
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    captured: tuple[Array, ...]
    runtime: Runtime


@dataclasses.dataclass(frozen=True, eq=False)
class Common:
    """What all clients of a round get from the server.

    Attributes:
      key: Of the round.
      root: The root key of the call, uint64 [2].
      tensors: The tensors, such as the model's weights.
      arrays: The keys of the arrays of examples that the driver still has. What a worker keeps of others
        it drops, so that the object store can.
    """

    key: str
    root: Array
    tensors: tuple[Array, ...]
    arrays: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Mapped:
    """An array in a file that each node of the cluster sees.

    Attributes:
      path: Of the file.
      offset: Where the array begins, in bytes.
      shape: Of the array.
      dtype: Its data type, as numpy writes it.
      fingerprint: Of the file's size and of a sample of its content.
    """

    path: str
    offset: int
    shape: tuple[int, ...]
    dtype: str
    fingerprint: str


@dataclasses.dataclass(frozen=True)
class Stored:
    """An array in the object store, in shards of consecutive rows.

    Attributes:
      shape: Of the array.
      dtype: Its data type, as numpy writes it.
      begins: The first row of each shard that is passed.
      ends: The row after its last.
      first: The number of the first shard among the arguments of the call.
    """

    shape: tuple[int, ...]
    dtype: str
    begins: tuple[int, ...]
    ends: tuple[int, ...]
    first: int


@dataclasses.dataclass(frozen=True, eq=False)
class Field:
    """A field of a block's examples.

    Attributes:
      key: Of the array, for the caches of workers; None if it serves this block alone.
      place: Where the array is.
      rows: The rows that the block has, a pair (first, after the last) or an array of numbers; None for
        all rows, as they are.
      length: The number of rows to which they are padded with zeros.
    """

    key: str | None
    place: Mapped | Stored
    rows: tuple[int, int] | Array | None = None
    length: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class Block:
    """The clients of a block.

    Attributes:
      key: Of the block.
      fields: The examples.
      table: The arrays of the table that says who the clients are and where their batches begin.
    """

    key: str
    fields: tuple[Field, ...]
    table: tuple[Array, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Done:
    """The sums of consecutive parts of a block.

    Attributes:
      sums: For each part, the sums over its clients, and their status.
      seconds: How long the worker took, without waiting.
      worker: The process, "node:pid".
      peak_bytes: The most memory that the process has held.
    """

    sums: tuple[tuple[Array, ...], ...]
    seconds: float
    worker: str
    peak_bytes: int


@dataclasses.dataclass(frozen=True)
class Failed:
    """A task that could not be computed, for a reason that another worker would meet as well.

    Attributes:
      code: TensorFlow's code of the error; None if it is none of TensorFlow's.
      message: What happened.
      worker: The process, "node:pid".
    """

    code: int | None
    message: str
    worker: str
