"""The backend that runs rounds in this process."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

import tensorflow as tf

from tff_dp.execution import devices
from tff_dp.execution.cohort.prefetch import prefetch
from tff_dp.execution.round import client_calls, round_graphs, strategies
from tff_dp.execution.round.backend import Sums
from tff_dp.execution.round.block_work import CallWork, Work


@dataclasses.dataclass(frozen=True, eq=False)
class InProcess:
    """The `Backend` that runs rounds in this process: blocks one after another, parts concurrently.

    Attributes:
      graphs: The graphs of the computation.
      calls: Runs clients by one graph call each.
      places: The devices.
      way: How the clients run.
    """

    graphs: round_graphs.RoundGraphs
    calls: client_calls.Calls
    places: devices.Places
    way: strategies.Way

    def begin(
        self, root: tf.Tensor, state: list[tf.Tensor]
    ) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """Runs the server's part before the clients; see `Backend`.

        Args:
          root: The root key of the call, uint64 [2].
          state: The tensors of the server's argument, in the order of its type.

        Returns:
          The tensors that the server sends to all clients, and the status, two int32 [] tensors.

        Raises:
          CannotTraceError: The graph cannot be written.
        """
        return self.graphs.begin(root, state)

    def nobody(self, root: tf.Tensor) -> Sums:
        """Computes the sums over no clients; see `Backend`.

        Args:
          root: The root key of the call, uint64 [2].

        Returns:
          The initial value of each sum, and the status of no failure.
        """
        return self.graphs.nobody(root)

    def partial_sums(
        self, root: tf.Tensor, common: list[tf.Tensor], blocks: Iterable[Work]
    ) -> Iterator[tuple[int, Sums]]:
        """Runs the clients of blocks; see `Backend`.

        While a block trains, the examples of the next one are prepared, except under strategy
        "call".

        Args:
          root: The root key of the call, uint64 [2].
          common: The tensors that the server sends to all clients.
          blocks: The blocks, in the order of their numbers.

        Yields:
          The number and the sums of each block, in the order of the blocks.

        Raises:
          CannotTraceError: The graph cannot be written.
          ComputationError: A client that runs by a graph call failed.
          tf.errors.OpError: TensorFlow could not run a block.
        """
        for block in blocks if self.way.strategy == "call" else prefetch(blocks):
            # A device scope belongs to one thread, and the thread that iterates may be another one.
            with self.places.scope():
                sums = self._sums(root, common, block)
            yield block.number, sums

    def _sums(self, root: tf.Tensor, common: list[tf.Tensor], block: Work) -> Sums:
        if isinstance(block, CallWork):
            start = self.graphs.nobody(root)
            return self.calls.run(root, common, start, block, imported=self.way.imported)
        return self.graphs.clients(root, common, block, self.places.of_parts(block.shape.parts))

    def join(self, root: tf.Tensor, left: Sums, right: Sums, split: int) -> Sums:
        """Joins the sums over neighboring blocks; see `Backend`.

        Args:
          root: The root key of the call, uint64 [2].
          left: Sums over consecutive blocks.
          right: Sums over the blocks that follow them.
          split: The number of the first block of `right`.

        Returns:
          The sums over all of these blocks, and the status of the failure at the smallest position.
        """
        return self.graphs.join(root, left, right, split)

    def finish(
        self,
        root: tf.Tensor,
        words: list[tf.Tensor],
        state: list[tf.Tensor],
        before: list[tf.Tensor],
        sums: Sums,
    ) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """Runs the server's part after the clients; see `Backend`.

        Args:
          root: The root key of the call, uint64 [2].
          words: The random words of the noise, one int64 tensor [words]; an empty list if the noise
            is drawn from the root key.
          state: The tensors of the server's argument, as for `begin`.
          before: The status that `begin` returned.
          sums: The sums over all clients, and their status.

        Returns:
          The tensors of the computation's results, in the order of their type, and the status.
        """
        return self.graphs.finish(root, words, state, before, sums)
