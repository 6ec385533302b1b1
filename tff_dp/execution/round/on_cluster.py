"""The backend that has workers of a cluster compute the sums over the parts of blocks."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from tff_dp import _warnings
from tff_dp.cluster import messages
from tff_dp.cluster.pool import Pool, Task
from tff_dp.execution.cohort.references import Reference
from tff_dp.execution.cohort.tables import ClientTable
from tff_dp.execution.graph import portable
from tff_dp.execution.round.backend import Sums, SumTree
from tff_dp.execution.round.block_work import BlockWork, Work
from tff_dp.execution.round.client_loop import bounds_of
from tff_dp.execution.round.in_process import InProcess


class OnCluster:
    """The `Backend` whose clients run on a cluster, and everything else in this process.

    A block is cut into the parts that it has in this process as well, and their sums are joined by the
    same tree, so that equal keys give equal bits. Blocks that cannot leave this process, such as those
    of data sets that are read by a call per client, run here.

    Args:
      here: The backend of this process.
      pool: The workers.
    """

    def __init__(self, here: InProcess, pool: Pool) -> None:
        self._here = here
        self._pool = pool
        self.begin, self.nobody = here.begin, here.nobody
        self.join, self.finish = here.join, here.finish

    def partial_sums(
        self, root: tf.Tensor, common: list[tf.Tensor], blocks: Iterable[Work]
    ) -> Iterator[tuple[int, Sums]]:
        """Runs the clients of blocks; see `Backend`.

        Args:
          root: The root key of the call, uint64 [2].
          common: The tensors that the server sends to all clients.
          blocks: The blocks, in the order of their numbers.

        Yields:
          The number and the sums of each block, in the order in which they are finished.

        Raises:
          CannotTraceError: The graph cannot be written.
          ClusterError: The workers cannot finish a part.
          ComputationError: A client that runs by a graph call failed.
          tf.errors.OpError: TensorFlow could not run a part.
        """
        if self._here.way.strategy == "call":
            yield from self._here.partial_sums(root, common, blocks)
            return
        pool = self._pool
        tensors = tuple(tensor.numpy() for tensor in common)
        shared = pool.shared
        given = pool.sent(messages.Common(shared.key(), root.numpy(), tensors, shared.keys()))
        coming: dict[int, _Coming] = {}
        staying: list[BlockWork] = []

        def tasks() -> Iterator[Task]:
            for block in blocks:
                assert isinstance(block, BlockWork)  # "call" is the only strategy with others
                try:
                    function, graph = self._graph(root, common, block)
                except portable.NotPortableError as error:
                    _warnings.warn(
                        f"Clients run in this process and not on the cluster: {error}.",
                        RuntimeWarning,
                    )
                    staying.append(block)
                    continue
                count = int(_table_of(block).count)
                parts = block.shape.parts
                bounds = [0, count]
                if parts > 1:
                    bounds = [int(bound) for bound in bounds_of(block.shape, count)]
                join = functools.partial(self._join_parts, root, block, bounds)
                coming[block.number] = _Coming(SumTree(join), parts)
                shards: list[Any] = []
                described = self._described(block, shards)
                size = pool.parts_of_a_task(function, parts)
                if size < parts:
                    described = pool.sent(described)
                for first in range(0, parts, size):
                    own = bounds[first : first + size + 1]
                    arguments = (graph, given, described, own, *shards)
                    yield Task(block.number, first, len(own) - 1, function, arguments)

        for task, sums in pool.run(tasks()):
            block = coming[task.block]
            for number, part in enumerate(sums, task.first):
                block.tree.add(number, [tf.constant(array) for array in part])
            block.left -= task.count
            if not block.left:
                del coming[task.block]
                total = block.tree.total(block.parts)
                assert total is not None
                yield task.block, total
        yield from self._here.partial_sums(root, common, staying)

    def _graph(self, root: tf.Tensor, common: list[tf.Tensor], block: BlockWork) -> tuple[Any, Any]:
        """Returns the graph of the block's parts, and a reference to it for the workers."""
        function = self._here.graphs.part(root, common, block)
        pool = self._pool
        device = "gpu" if pool.options.gpus else "cpu"
        return function, pool.kept(function, lambda: portable.packed(function, device))

    def _described(self, block: BlockWork, shards: list[Any]) -> messages.Block:
        shared = self._pool.shared
        fields = []
        for field in block.fields:
            if not isinstance(field, Reference):
                fields.append(shared.once(field.numpy(), shards))
            elif field.rows is None:
                fields.append(shared.whole(field.array, shards))
            else:
                fields.append(shared.rows(field.array, field.rows, field.length, shards))
        table = tuple(np.asarray(column) for column in block.table)
        return messages.Block(shared.key(), tuple(fields), table)

    def _join_parts(
        self,
        root: tf.Tensor,
        block: BlockWork,
        bounds: list[int],
        left: Sums,
        right: Sums,
        split: int,
    ) -> Sums:
        """Joins the sums over neighboring parts, of which `split` is the first on the right."""
        table = _table_of(block)
        # The last parts may be empty; they would begin after the last client.
        place = min(bounds[split], max(int(table.count) - 1, 0))
        return self._here.graphs.join_parts(root, left, right, int(table.positions[place]))


@dataclasses.dataclass
class _Coming:
    """A block whose parts are under way: the tree of their sums, how many there are and are missing."""

    tree: SumTree
    parts: int

    def __post_init__(self) -> None:
        self.left = self.parts


def _table_of(block: BlockWork) -> ClientTable:
    """Returns the table of a block, as it was before `ClientTable.arrays`, with padding."""
    return ClientTable.read(block.shape.form, block.table)
