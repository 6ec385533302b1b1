"""The blocks of a cohort as units of work, each with everything that running it takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tff_dp.execution.cohort import cutting
from tff_dp.execution.cohort.grouping import IsRegular
from tff_dp.execution.cohort.references import ByReference, Reference, tensor_of
from tff_dp.execution.cohort.resident import Resident
from tff_dp.execution.round.client_loop import Shape, shape_of
from tff_dp.execution.round.programs import RoundPrograms
from tff_dp.execution.round.strategies import Way

CALLS_AT_ONCE = 64
"""The number of clients in a block under strategy "call", which sums them one after another."""


@dataclasses.dataclass(frozen=True, eq=False)
class BlockWork:
    """A block of clients whose examples are tensors, with everything that running them takes.

    Attributes:
      number: The number of the block, from 0.
      shape: What its graph is specialized for.
      fields: The examples, one tensor [rows, ...] for each field, or a reference to it.
      table: The arrays of the table that says who the clients are and where their batches begin;
        see `ClientTable.read`.
    """

    number: int
    shape: Shape
    fields: Sequence[tf.Tensor | Reference]
    table: Sequence[np.ndarray]

    def tensors(self) -> list[tf.Tensor]:
        """Returns the examples and then the table, as `client_loop.clients` takes them."""
        examples = [tensor_of(field) for field in self.fields]
        return [*examples, *(tf.constant(column) for column in self.table)]

    def specs(self) -> list[tf.TensorSpec]:
        """Returns the specifications of `tensors`."""
        examples = [
            field.spec()
            if isinstance(field, Reference)
            else tf.TensorSpec(field.shape, field.dtype)
            for field in self.fields
        ]
        return [*examples, *(tf.TensorSpec(c.shape, tf.as_dtype(c.dtype)) for c in self.table)]

    def of_nobody(self) -> BlockWork:
        """Returns a block of the same shapes whose table has no clients."""
        return dataclasses.replace(self, table=[np.zeros_like(column) for column in self.table])


@dataclasses.dataclass(frozen=True, eq=False)
class CallWork:
    """A block of clients that run by one graph call each (strategy "call").

    Their data may be data sets, which live in this process: a backend that runs blocks elsewhere
    has to run these blocks here, on the in-process backend.

    Attributes:
      number: The number of the block, from 0.
      first: The position in the cohort of its first client.
      count: The number of its clients.
      cohort: The data of all clients of the cohort.
    """

    number: int
    first: int
    count: int
    cohort: Sequence[Any]


Work = BlockWork | CallWork


def cut(
    parts: RoundPrograms, data: Any, way: Way, held: Resident | ByReference, is_regular: IsRegular
) -> Iterator[Work]:
    """Splits a cohort into blocks, which depend only on these arguments.

    Args:
      parts: The programs of the round.
      data: The data of the clients, as they were passed to the computation.
      way: How the clients run.
      held: The arrays that stay on the device between rounds, or what makes references to arrays.
      is_regular: Whether a graph of static shapes is wanted for a kind of clients. It is not called
        for clients that run side by side, which always need such a graph.

    Yields:
      The blocks, numbered from 0.
    """
    if way.strategy == "call":
        for number, first in enumerate(range(0, len(data), CALLS_AT_ONCE)):
            yield CallWork(number, first, min(CALLS_AT_ONCE, len(data) - first), data)
        return
    side_by_side = way.strategy == "vmap"
    blocks = cutting.blocks_of(
        data,
        parts.work.type_signature.parameter[0],
        held,
        by_size=side_by_side,
        is_regular=_always if side_by_side else is_regular,
    )
    for number, block in enumerate(blocks):
        shape = shape_of(
            block,
            side_by_side=side_by_side,
            xla=way.xla,
            carry_bytes=parts.carry_bytes,
            loops=parts.work.loops,
        )
        yield BlockWork(number, shape, block.fields, block.table.arrays())


def _always(kind: Any, batches: int, total: int) -> bool:
    return True
