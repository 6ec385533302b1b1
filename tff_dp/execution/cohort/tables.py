"""Blocks of clients, and tables of the clients and the positions of their batches for a graph."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

# The smallest and the largest value of a field, or None where not known.
Limits = tuple[int, int] | None

_SMALLEST_TABLE = 8  # entries to which shorter arrays are padded


class Form(NamedTuple):
    """The columns of a table, which a graph must know to read the table.

    Attributes:
      kind: "regular" (all batches have one size, except that the last one of an epoch may be
        smaller), "listed" (batches are listed one by one), or "tensors" (the data of a client are
        not a sequence of batches).
      looks_up: Whether the rows of examples are looked up in `ClientTable.rows`.
    """

    kind: str
    looks_up: bool = False

    @property
    def width(self) -> int:
        """The number of tensors in which a table of this form is passed to a graph."""
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
    """The clients of a block and the positions of their batches.

    The columns are numpy arrays of integers outside of a graph. In a graph, where `read` restores
    the table, they are int32 tensors.

    Attributes:
      form: The form of the table, which determines the columns that it has.
      count: The number of clients.
      positions: The positions of the clients in the cohort, [clients], ascending.
      starts: For "regular", the position of each client's first example, [clients]; for "listed",
        that of each batch's first example, [batches].
      full: For "regular", the number of full batches that each client has in an epoch, [clients],
        or one number for all clients.
      first: For "listed", the number of each client's first batch, then the number of all batches,
        [clients + 1].
      counts: For "listed", the number of examples in each batch, [batches].
      rows: The row of the example at each position, [positions]; None if position p is row p.
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
        """Returns the table as a few int32 arrays, the inverse of `read`.

        In a small round, each additional argument of a graph takes as long as the training.
        Therefore the columns of a regular table are packed into one array, with the count in its
        first row. It is padded with zeros to a length that many cohorts share, since XLA compiles
        again for each length.
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
        """Restores a table inside of a graph, the inverse of `arrays`.

        Args:
          form: The form of the table.
          tensors: The arrays of the table, as tensors of the graph.

        Returns:
          The table. Its columns may be longer than its count; the remainder is padding.
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
    """The properties that the batches of all clients of a block have in common.

    Attributes:
      batch_size: The number of examples in a full batch; 0 if batches are listed or the data are
        not a sequence.
      remainder: The number of examples in the smaller last batch of an epoch; 0 if there is none.
      full: The number of full batches in an epoch if a graph is made for this number, which all
        clients then have; None if the graph reads it from the table.
      epochs: The number of passes over the examples.
      apart: Whether each epoch has positions of its own, which follow those of the epoch before.
    """

    batch_size: int = 0
    remainder: int = 0
    full: int | None = None
    epochs: int = 1
    apart: bool = False


NO_BATCHES = Batching()
"""For blocks whose batches are listed, or whose data are not a sequence."""


@dataclasses.dataclass(frozen=True, eq=False)
class Block:
    """Some clients of a cohort, which one graph processes.

    Attributes:
      fields: A tensor [rows, ...], or a reference to it, for each field of the examples; for data that
        are not a sequence, a tensor [clients, ...] for each part of a client's value.
      table: The clients and the positions of their batches.
      batching: The properties that their batches have in common.
      limits: The smallest and the largest value of each field, None where not known; empty if none
        is known.
    """

    fields: Sequence[tf.Tensor]
    table: ClientTable
    batching: Batching = NO_BATCHES
    limits: tuple[Limits, ...] = ()


def padded_length(count: int) -> int:
    """Returns the length to which an array is padded.

    Args:
      count: The number of entries in the array.

    Returns:
      The smallest power of two that is at least `count`, and at least 8.
    """
    return max(_SMALLEST_TABLE, 1 << (count - 1).bit_length()) if count else _SMALLEST_TABLE


@functools.lru_cache(1 << 12)
def roomy_length(count: int, clients: int) -> int:
    """Returns a padded length for an array of a cohort, with room for similar cohorts.

    XLA compiles again for each length. Under Poisson sampling, the standard deviation of the number
    of clients is at most the square root of its mean. The length has room for 4 standard
    deviations, so that cohorts of the same distribution rarely exceed it.

    Args:
      count: The number of entries in the array.
      clients: The number of clients in the cohort.

    Returns:
      A power of two, at least 8.
    """
    return padded_length(count + math.ceil(count * min(1, 4 / math.sqrt(clients or 1))))


def padded(column: np.ndarray, clients: int) -> np.ndarray:
    """Pads an array of a cohort with zeros to its `roomy_length`.

    Args:
      column: The array, [entries, ...].
      clients: The number of clients in the cohort.

    Returns:
      The padded array, [length, ...].
    """
    length = roomy_length(len(column), clients)
    return np.concatenate(
        [column, np.zeros([length - len(column), *column.shape[1:]], column.dtype)]
    )
