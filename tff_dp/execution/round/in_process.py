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
    """The `Backend` that runs rounds in this process: blocks one after another, parts at the same time.

    Attributes:
      graphs: The computation's graphs.
      calls: Runs clients by a graph call each.
      places: Where they run.
      way: How clients run.
    """

    graphs: round_graphs.RoundGraphs
    calls: client_calls.Calls
    places: devices.Places
    way: strategies.Way

    def begin(
        self, root: tf.Tensor, state: list[tf.Tensor]
    ) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """See `Backend`."""
        return self.graphs.begin(root, state)

    def nobody(self, root: tf.Tensor) -> Sums:
        """See `Backend`."""
        return self.graphs.nobody(root)

    def partial_sums(
        self, root: tf.Tensor, common: list[tf.Tensor], blocks: Iterable[Work]
    ) -> Iterator[tuple[int, Sums]]:
        """See `Backend`. The next block's examples are prepared while one trains."""
        for block in blocks if self.way.strategy == "call" else prefetch(blocks):
            # A device's scope belongs to a thread, and another one than the call's may iterate.
            with self.places.scope():
                sums = self._sums(root, common, block)
            yield block.number, sums

    def _sums(self, root: tf.Tensor, common: list[tf.Tensor], block: Work) -> Sums:
        if isinstance(block, CallWork):
            start = self.graphs.nobody(root)
            return self.calls.run(root, common, start, block, imported=self.way.imported)
        return self.graphs.clients(root, common, block, self.places.of_parts(block.shape.parts))

    def join(self, root: tf.Tensor, left: Sums, right: Sums, split: int) -> Sums:
        """See `Backend`."""
        return self.graphs.join(root, left, right, split)

    def finish(
        self,
        root: tf.Tensor,
        words: list[tf.Tensor],
        state: list[tf.Tensor],
        before: list[tf.Tensor],
        sums: Sums,
    ) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """See `Backend`."""
        return self.graphs.finish(root, words, state, before, sums)
