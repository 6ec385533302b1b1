"""The work that a cohort makes: its blocks, each with all that running it takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tff_dp.execution.cohort import cutting
from tff_dp.execution.cohort.grouping import IsRegular
from tff_dp.execution.cohort.resident import Resident
from tff_dp.execution.round.client_loop import Shape, shape_of
from tff_dp.execution.round.programs import RoundPrograms
from tff_dp.execution.round.strategies import Way

CALLS_AT_ONCE = 64
"""Clients of a block that run by a call each: their sums are added one after another."""


@dataclasses.dataclass(frozen=True, eq=False)
class BlockWork:
    """A block of clients whose examples are tensors. It holds all that running them takes.

    Attributes:
      number: The block's, from 0.
      shape: What its graph is made for.
      fields: Tensors [rows, ...]: the examples.
      table: Arrays: who the clients are and where their batches begin; see `ClientTable.read`.
    """

    number: int
    shape: Shape
    fields: Sequence[tf.Tensor]
    table: Sequence[np.ndarray]

    def tensors(self) -> list[tf.Tensor]:
        """Returns the examples and the table, as `client_loop.clients` takes them."""
        return [*self.fields, *(tf.constant(column) for column in self.table)]

    def of_nobody(self) -> BlockWork:
        """Returns a block of the same shapes without clients."""
        return dataclasses.replace(self, table=[np.zeros_like(column) for column in self.table])


@dataclasses.dataclass(frozen=True, eq=False)
class CallWork:
    """A block of clients that run by a graph call each (strategy "call").

    Their data may be data sets, which live in this process: a backend that runs blocks elsewhere has to
    run these here, by the in-process backend.

    Attributes:
      number: The block's, from 0.
      first: The position in the cohort of its first client.
      count: The number of its clients.
      cohort: The values of all clients of the cohort.
    """

    number: int
    first: int
    count: int
    cohort: Sequence[Any]


Work = BlockWork | CallWork


def cut(
    parts: RoundPrograms, data: Any, way: Way, held: Resident, is_regular: IsRegular
) -> Iterator[Work]:
    """Yields the blocks of a cohort, which follow from these arguments alone.

    Args:
      parts: The round's programs.
      data: The clients' data, as the computation was given it.
      way: How they run.
      held: The arrays that stay on the device between rounds.
      is_regular: Whether a graph of static shapes is wanted for a kind of clients; not asked for
        clients side by side, who need one.
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
            block, side_by_side=side_by_side, xla=way.xla, carry_bytes=parts.carry_bytes
        )
        yield BlockWork(number, shape, block.fields, block.table.arrays())


def _always(kind: Any, batches: int, total: int) -> bool:
    return True
