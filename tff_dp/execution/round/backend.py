"""The interface of the backends that run a round's clients, and the order in which sums are joined.

A cohort is split into blocks of clients, numbered from 0. The split depends only on the cohort, the
computation, the strategy, and whether XLA is used. So does the order in which the sums of blocks
are joined, a binary tree over their numbers. The number of threads, devices, processes or machines
decides only where and when a block runs. The result of a floating-point sum depends on the order of
its terms, so this is what makes equal keys give equal bits on every backend.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import tensorflow as tf

from tff_dp.execution.round.block_work import Work

Sums = list[tf.Tensor]
"""Sums over clients, followed by the status, two int32 [] tensors: the position of the client that
failed and the number of the check that failed (-1 and 0 if none did)."""


class Backend(Protocol):
    """Runs the parts of a round of one computation.

    Everything that is passed in or out is a list of tensors that convert to numpy arrays and back
    (`tf.constant`), or a plain frozen dataclass of those and of Python numbers (`CallWork` is the
    exception: its data may be data sets, which live in this process). Nothing else is shared, so
    that a backend may run each call in another process that holds the same computation. The same
    arguments must give the same bits, wherever a call runs.

    `round.in_process.InProcess` is the backend that runs everything in this process.
    `Settings.backend` can wrap another backend around it.
    """

    def begin(
        self, root: tf.Tensor, state: list[tf.Tensor]
    ) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """Runs the server's part before the clients.

        Args:
          root: The root key of the call, uint64 [2].
          state: The tensors of the server's argument, in the order of its type.

        Returns:
          The tensors that the server sends to all clients, and the status, two int32 [] tensors.

        Raises:
          CannotTraceError: The graph cannot be written.
        """

    def nobody(self, root: tf.Tensor) -> Sums:
        """Computes the sums over no clients, those of a cohort without blocks.

        Args:
          root: The root key of the call, uint64 [2].

        Returns:
          The initial value of each sum, and the status of no failure.
        """

    def partial_sums(
        self, root: tf.Tensor, common: list[tf.Tensor], blocks: Iterable[Work]
    ) -> Iterator[tuple[int, Sums]]:
        """Runs the clients of blocks. The sums of each block start from zero.

        Args:
          root: The root key of the call, uint64 [2].
          common: The tensors that the server sends to all clients.
          blocks: The blocks, in the order of their numbers. Each is made when the iterator is
            advanced, which may copy examples: a backend should not hold many more at a time than it
            can run.

        Yields:
          The number and the sums of each block, in any order.

        Raises:
          CannotTraceError: The graph cannot be written.
          ComputationError: A client's part failed. If several failed, this is the first in the
            order of blocks.
          tf.errors.OpError: TensorFlow could not run a block.
        """

    def join(self, root: tf.Tensor, left: Sums, right: Sums, split: int) -> Sums:
        """Joins the sums over neighboring blocks.

        Args:
          root: The root key of the call, uint64 [2].
          left: Sums over consecutive blocks.
          right: Sums over the blocks that follow them.
          split: The number of the first block of `right`.

        Returns:
          The sums over all of these blocks, and the status of the failure at the smallest position.
        """

    def finish(
        self,
        root: tf.Tensor,
        words: list[tf.Tensor],
        state: list[tf.Tensor],
        before: list[tf.Tensor],
        sums: Sums,
    ) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """Runs the server's part after the clients.

        Args:
          root: The root key of the call, uint64 [2].
          words: The random words of the noise, one int64 tensor [words]; an empty list if the noise
            is drawn from the root key.
          state: As for `begin`.
          before: The status that `begin` returned.
          sums: The sums over all clients, and their status.

        Returns:
          The tensors of the computation's results, in the order of their type, and the status.
        """


class SumTree:
    """Joins the sums of blocks as a binary tree over their numbers, in whatever order they arrive.

    Node j of level k covers the blocks from j 2^k to (j + 1) 2^k - 1. Two siblings are joined as
    soon as both are present. The nodes that remain at the end, one for each binary digit 1 of the
    number of blocks, are joined from the last to the first. If blocks arrive in order, the sums
    that are held at a time are at most about log2 of the number of blocks.

    Args:
      join: Takes the sums over consecutive blocks, the sums over the blocks that follow them, and
        the number of the first of the latter; returns the sums over all of them.
    """

    def __init__(self, join: Callable[[Sums, Sums, int], Sums]) -> None:
        self._join = join
        self._nodes: dict[tuple[int, int], Sums] = {}  # by level and number within it
        self._came: set[int] = set()

    def add(self, number: int, sums: Sums) -> None:
        """Adds the sums of a block.

        Args:
          number: The number of the block, from 0.
          sums: Its sums and its status.

        Raises:
          RuntimeError: The block has been added before.
        """
        if number in self._came:
            raise RuntimeError(f"A backend gave the sums of block {number} twice.")
        self._came.add(number)
        level, place = 0, number
        while (sibling := self._nodes.pop((level, place ^ 1), None)) is not None:
            left, right = (sibling, sums) if place % 2 else (sums, sibling)
            sums = self._join(left, right, (place | 1) << level)
            level, place = level + 1, place // 2
        self._nodes[level, place] = sums

    def total(self, blocks: int) -> Sums | None:
        """Joins what is left of the tree.

        Args:
          blocks: The number of blocks.

        Returns:
          The sums over all blocks; None if there are no blocks.

        Raises:
          RuntimeError: A block is missing, or a block was added that does not exist.
        """
        if self._came != set(range(blocks)):
            differing = sorted(self._came.symmetric_difference(range(blocks)))
            raise RuntimeError(
                f"A backend gave the sums of {len(self._came)} blocks: expected those of {blocks}. The "
                f"first that differs is block {differing[0]}."
            )
        # The nodes that remain, by the number of their first block; the last one comes first.
        nodes = {place << level: sums for (level, place), sums in self._nodes.items()}
        total: Sums | None = None
        after = blocks
        for first, sums in sorted(nodes.items(), key=lambda node: -node[0]):
            total = sums if total is None else self._join(sums, total, after)
            after = first
        return total


def run_round(
    backend: Backend,
    root: tf.Tensor,
    words: list[tf.Tensor],
    state: list[tf.Tensor],
    blocks: Iterable[Work],
) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """Runs a round in a backend.

    Args:
      backend: The backend.
      root: The root key of the call, uint64 [2].
      words: The random words of the noise; see `Backend.finish`.
      state: The tensors of the server's argument, in the order of its type.
      blocks: The blocks of the cohort, numbered from 0; there may be none.

    Returns:
      The tensors of the computation's results, in the order of their type, and the status.

    Raises:
      RuntimeError: The backend omitted a block, or returned the sums of a block twice.
      Exception: What the methods of the backend raise; see `Backend`.
    """
    common, before = backend.begin(root, state)
    tree = SumTree(functools.partial(backend.join, root))
    asked = 0

    def counted() -> Iterator[Work]:
        nonlocal asked
        for block in blocks:
            asked += 1
            yield block

    for number, sums in backend.partial_sums(root, common, counted()):
        tree.add(number, sums)
    total = tree.total(asked)
    if total is None:
        total = backend.nobody(root)
    return backend.finish(root, words, state, before, total)
