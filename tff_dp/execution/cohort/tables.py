"""Blocks of clients, and the tables that tell a graph who they are and where their batches begin."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

Limits = (
    tuple[int, int] | None
)  # the smallest and the largest of some numbers, where they are known

_SMALLEST_TABLE = 8


class Form(NamedTuple):
    """Which columns a table has: what a graph must know to read it back.

    Attributes:
      kind: "regular" (each client's batches have one size, but for the last), "listed" (batches are
        listed one by one), or "tensors" (a client's data is no sequence of batches).
      looks_up: Whether examples are found through `ClientTable.rows`.
    """

    kind: str
    looks_up: bool = False

    @property
    def width(self) -> int:
        """The number of tensors that a table of this form is."""
        return (4 if self.kind == "listed" else 1) + self.looks_up

    def specs(self) -> list[tf.TensorSpec]:
        """Returns the specifications of those tensors."""
        if self.kind == "regular":
            first = [tf.TensorSpec([None, 3], tf.int32)]
        else:
            first = [tf.TensorSpec([None], tf.int32)]
        return first + [tf.TensorSpec([None], tf.int32)] * (self.width - 1)


@dataclasses.dataclass(frozen=True, eq=False)
class ClientTable:
    """The clients of a block: who they are, and where their batches begin.

    Its columns are numpy arrays, or tensors where a graph has read it back from what `arrays` gives.

    Attributes:
      form: Which of the columns there are.
      count: The number of clients.
      positions: int32 [clients]: their positions in the cohort, ascending.
      starts: int32: for "regular", [clients], the positions of their first examples; for "listed",
        [batches], those of each batch.
      full: int32 [clients]: their numbers of full batches in an epoch, or one number for all; for
        "regular".
      first: int32 [clients + 1]: the number of each client's first batch, and of all batches; for
        "listed".
      counts: int32 [batches]: the number of examples of each batch; for "listed".
      rows: int32 [positions]: the row of the example at each position, or None if position p is row p.
    """

    form: Form
    count: Any
    positions: Any
    starts: Any = None
    full: Any = None
    first: Any = None
    counts: Any = None
    rows: Any = None

    def arrays(self) -> list[np.ndarray]:
        """Returns the table as few arrays, which `read` takes apart.

        Each array that a graph is called with costs a small round as much as its training does.
        Therefore the columns of a regular table are packed into one, filled up with zeros to a length
        for which XLA has compiled already, and the count is packed in front of them.
        """
        rows = [self.rows] if self.form.looks_up else []
        if self.form.kind == "regular":
            packed = np.zeros([1 + roomy_length(self.count, self.count), 3], np.int32)
            packed[0, 0] = self.count
            own = packed[1 : 1 + self.count]
            own[:, 0], own[:, 1], own[:, 2] = self.positions, self.starts, self.full
            return [packed, *rows]
        packed = np.concatenate([[self.count], self.positions]).astype(np.int32)
        if self.form.kind == "listed":
            listed = [column.astype(np.int32) for column in (self.first, self.starts, self.counts)]
            return [packed, *listed, *rows]
        return [packed, *rows]

    @classmethod
    def read(cls, form: Form, tensors: Sequence[tf.Tensor]) -> ClientTable:
        """Writes the inverse of `arrays` into a graph.

        Args:
          form: The table's.
          tensors: What `arrays` gave.

        Returns:
          The table. Its columns may be longer than its count: what follows is padding.
        """
        packed, *others = tensors
        rows = others.pop() if form.looks_up else None
        if form.kind == "regular":
            known = packed[1:]
            return cls(
                form, packed[0, 0], known[:, 0], starts=known[:, 1], full=known[:, 2], rows=rows
            )
        if form.kind == "listed":
            first, starts, counts = others
            return cls(form, packed[0], packed[1:], starts, None, first, counts, rows)
        return cls(form, packed[0], packed[1:], rows=rows)


class Batching(NamedTuple):
    """What the batches of all clients of a block have in common.

    Attributes:
      batch_size: Examples in a full batch; 0 where batches are listed, or data is no sequence.
      remainder: Examples in the last batch of an epoch; 0 for no such batch.
      full: The number of full batches in an epoch, if all clients have the same; None otherwise.
      epochs: Passes over the examples.
      apart: Whether each epoch has positions of its own.
    """

    batch_size: int = 0
    remainder: int = 0
    full: int | None = None
    epochs: int = 1
    apart: bool = False


NO_BATCHES = Batching()


@dataclasses.dataclass(frozen=True, eq=False)
class Block:
    """Some clients of a cohort, as one graph takes them.

    Attributes:
      fields: Tensors [rows, ...].
      table: Who they are, and where their batches begin.
      batching: What their batches have in common.
      limits: The smallest and the largest of each field's numbers, None where they are not known; empty
        if none is known.
    """

    fields: Sequence[tf.Tensor]
    table: ClientTable
    batching: Batching = NO_BATCHES
    limits: tuple[Limits, ...] = ()


def padded_length(count: int) -> int:
    """Returns the length to which an array of a length is filled up: a power of two."""
    return max(_SMALLEST_TABLE, 1 << (count - 1).bit_length()) if count else _SMALLEST_TABLE


@functools.lru_cache(1 << 12)
def roomy_length(count: int, clients: int) -> int:
    """Returns a length for an array of a cohort that other cohorts, drawn likewise, hardly exceed.

    XLA compiles anew for each length. Under Poisson sampling, the number of clients has the standard
    deviation of its square root.

    Args:
      count: Entries of the array.
      clients: Clients of the cohort.
    """
    return padded_length(count + math.ceil(count * min(1, 4 / math.sqrt(clients or 1))))


def padded(column: np.ndarray, clients: int) -> np.ndarray:
    """Returns an array of a cohort that is filled up with zeros to its `roomy_length`.

    Args:
      column: The array.
      clients: Clients of the cohort.
    """
    length = roomy_length(len(column), clients)
    return np.concatenate(
        [column, np.zeros([length - len(column), *column.shape[1:]], column.dtype)]
    )
