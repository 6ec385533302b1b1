"""The traced graphs of a computation's rounds: whole rounds, and the parts of a round."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tff_dp.execution.graph import traced
from tff_dp.execution.round import client_loop, whole_round
from tff_dp.execution.round.backend import Sums
from tff_dp.execution.round.block_work import BlockWork
from tff_dp.execution.round.programs import RoundPrograms

_NUMBER = tf.TensorSpec([], tf.int32)
_STATUS = [_NUMBER, _NUMBER]


class RoundGraphs:
    """Traces and calls the graphs of a computation's rounds.

    Args:
      parts: The programs of the computation.
      data_count: The number of tensors and sequences in one client's data.

    Attributes:
      kept: The cache of traced graphs.
      state_specs: The specifications of the tensors of the server's argument.
      common_specs: The specifications of the tensors that the server sends to all clients.
    """

    def __init__(self, parts: RoundPrograms, data_count: int) -> None:
        self._parts = parts
        self.kept = traced.Graphs()
        self.state_specs = traced.specs_of(parts.programs["prepare"])
        self.common_specs = traced.specs_of(parts.work)[data_count:]

    def whole(
        self,
        root: tf.Tensor,
        fed: list[tf.Tensor],
        state: list[tf.Tensor],
        block: BlockWork,
        places: Sequence[str],
        *,
        server_xla: bool,
        in_turn: bool,
    ) -> traced.Wanted:
        """Describes the graph of a round of one block. It returns the status and then the results.

        Args:
          root: The root key of the call, uint64 [2].
          fed: The random words of the noise, one int64 tensor [words]; an empty list if the noise
            is drawn from the root key.
          state: The tensors of the server's argument, in the order of its type.
          block: The block.
          places: The devices that run its parts.
          server_xla: Whether XLA can compile the server's parts.
          in_turn: Whether the calling thread runs the operations itself, one after another, if XLA
            compiles the whole round as one operation.

        Returns:
          The graph and its inputs, which `kept.call` traces and calls.
        """
        shape = block.shape
        compiled = server_xla and shape.xla and shape.parts == 1
        counts = (len(state), len(fed))

        def whole(root: tf.Tensor, *flat: tf.Tensor) -> list[tf.Tensor]:
            state, fed, tensors = traced.split(flat, counts)
            results, status = whole_round.whole(
                self._parts,
                shape,
                tensors,
                state,
                root,
                fed[0] if fed else None,
                places=places,
                compiled=compiled,
            )
            return [*status, *results]

        return traced.Wanted(
            ("whole", shape, places, compiled, bool(fed)),
            whole,
            [*self.state_specs, *_specs_of(fed)],
            [root, *state, *fed, *block.tensors()],
            in_turn=compiled and in_turn,
        )

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

        def begin(root: tf.Tensor, *state: tf.Tensor) -> list[tf.Tensor]:
            common, status = self._parts.begin(list(state), root)
            return [*status, *common]

        wanted = traced.Wanted("begin", begin, self.state_specs, [root, *state])
        who, check, *common = self.kept.call(wanted)
        return common, [who, check]

    def nobody(self, root: tf.Tensor) -> Sums:
        """Computes the sums over no clients; see `Backend`.

        Args:
          root: The root key of the call, uint64 [2].

        Returns:
          The initial value of each sum, and the status of no failure.
        """
        return self.kept.call(traced.Wanted("nobody", self._parts.nobody, [], [root]))

    def clients(
        self, root: tf.Tensor, common: list[tf.Tensor], block: BlockWork, places: Sequence[str]
    ) -> Sums:
        """Computes the sums over the clients of a block.

        Args:
          root: The root key of the call, uint64 [2].
          common: The tensors that the server sends to all clients.
          block: The block.
          places: The devices that run its parts.

        Returns:
          The sums, and their status.

        Raises:
          CannotTraceError: The graph cannot be written.
        """

        def clients(root: tf.Tensor, *flat: tf.Tensor) -> list[tf.Tensor]:
            common_, tensors = traced.split(flat, [len(common)])
            return client_loop.clients(
                self._parts, block.shape, tensors, common_, root, places=places
            )

        inputs = [root, *common, *block.tensors()]
        wanted = traced.Wanted(("clients", block.shape, places), clients, self.common_specs, inputs)
        return self.kept.call(wanted)

    def part(self, root: tf.Tensor, common: list[tf.Tensor], block: BlockWork) -> Any:
        """Traces the graph of the parts of a block.

        Args:
          root: The root key of the call, uint64 [2].
          common: The tensors that the server sends to all clients.
          block: The block.

        Returns:
          The concrete function, from the root key, `common`, the tensors of the block and the two bounds
          of a part to its sums and their status.

        Raises:
          CannotTraceError: The graph cannot be written.
        """

        def part(root: tf.Tensor, *flat: tf.Tensor) -> list[tf.Tensor]:
            common_, tensors = traced.split(flat, [len(common)])
            *tensors, low, high = tensors
            return client_loop.part(self._parts, block.shape, tensors, common_, root, low, high)

        inputs = [root, *common, *block.specs(), _NUMBER, _NUMBER]
        return self.kept.graph(
            traced.Wanted(("part", block.shape), part, self.common_specs, inputs)
        )

    def join_parts(self, root: tf.Tensor, left: Sums, right: Sums, position: int) -> Sums:
        """Joins the sums over neighboring parts of a block.

        Args:
          root: The root key of the call, uint64 [2].
          left: Sums over consecutive parts.
          right: Sums over the parts that follow them.
          position: The position in the cohort of the first client of `right`.

        Returns:
          The sums over all of these parts, and the status of the failure at the smallest position.
        """
        return self._joined("join parts", root, left, right, position, of_blocks=False)

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
        return self._joined("join", root, left, right, split, of_blocks=True)

    def _joined(
        self, name: str, root: tf.Tensor, left: Sums, right: Sums, split: int, *, of_blocks: bool
    ) -> Sums:
        specs = self._parts.carry_specs

        def join(root: tf.Tensor, split: tf.Tensor, *flat: tf.Tensor) -> list[tf.Tensor]:
            left, right = traced.split(flat, [len(specs)])
            key = self._parts.merge_key(split, root, of_blocks=of_blocks)
            return self._parts.join(left, right, key)

        inputs = [root, tf.constant(split), *left, *right]
        return self.kept.call(traced.Wanted(name, join, [_NUMBER, *specs, *specs], inputs))

    def finish(
        self,
        root: tf.Tensor,
        fed: list[tf.Tensor],
        state: list[tf.Tensor],
        before: list[tf.Tensor],
        sums: Sums,
    ) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """Runs the server's part after the clients; see `Backend`.

        Args:
          root: The root key of the call, uint64 [2].
          fed: The random words of the noise, one int64 tensor [words]; an empty list if the noise
            is drawn from the root key.
          state: The tensors of the server's argument, as for `begin`.
          before: The status that `begin` returned.
          sums: The sums over all clients, and their status.

        Returns:
          The tensors of the computation's results, in the order of their type, and the status.
        """
        counts = (len(state), len(fed), len(before))

        def finish(root: tf.Tensor, *flat: tf.Tensor) -> list[tf.Tensor]:
            state, fed, before, sums = traced.split(flat, counts)
            words = fed[0] if fed else None
            results, status = self._parts.finish(state, sums, root, before, words=words)
            return [*status, *results]

        specs = [*self.state_specs, *_specs_of(fed), *_STATUS, *self._parts.carry_specs]
        inputs = [root, *state, *fed, *before, *sums]
        who, check, *results = self.kept.call(
            traced.Wanted(("finish", bool(fed)), finish, specs, inputs)
        )
        return results, [who, check]


def _specs_of(fed: list[tf.Tensor]) -> list[tf.TensorSpec]:
    return [tf.TensorSpec(words.shape, words.dtype) for words in fed]
