"""Where the clients of a round run: the seam for backends, and the order in which sums are joined.

A cohort is cut into blocks of clients, numbered from 0. How it is cut follows from the cohort, the
computation, the strategy and XLA; so does the order in which the blocks' sums are joined, a binary tree
over their numbers. How many threads, devices, processes or machines there are decides only where and when
a block runs. Floating-point sums depend on the order of their terms: thus equal keys give equal bits,
whoever runs the blocks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import tensorflow as tf

from tff_dp.execution.round.block_work import Work

Sums = list[tf.Tensor]
"""Sums over clients, then the status: the position of the client that failed, and the number of the check
(-1 and 0 for none)."""


class Backend(Protocol):
    """Runs the parts of a round of one computation.

    Whatever passes in or out is a list of tensors that convert to numpy arrays and back (`tf.constant`),
    or a plain frozen dataclass of those and of Python numbers. Nothing is shared otherwise: a backend
    may run each call in another process that holds the same computation. The same arguments must give
    the same bits, wherever a call runs.

    `round.in_process.InProcess` is the backend that runs everything here. `Settings.backend` puts
    another around it.
    """

    def begin(
        self, root: tf.Tensor, state: list[tf.Tensor]
    ) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """Runs the server's part before the clients.

        Args:
          root: The call's key, uint64 [2].
          state: The server's part of the argument, flat.

        Returns:
          What clients get from the server, and the status.

        Raises:
          CannotTraceError: The graph cannot be written.
        """

    def nobody(self, root: tf.Tensor) -> Sums:
        """Returns the sums over no clients: those of a cohort without blocks.

        Args:
          root: The call's key.
        """

    def partial_sums(
        self, root: tf.Tensor, common: list[tf.Tensor], blocks: Iterable[Work]
    ) -> Iterator[tuple[int, Sums]]:
        """Runs the clients of blocks; each block's sums begin at zero.

        Args:
          root: The call's key.
          common: What clients get from the server.
          blocks: The blocks, in the order of their numbers. They are made when they are asked for, which
            may copy examples: a backend should not hold many more at a time than it can run.

        Yields:
          The number and the sums of each block, in any order.

        Raises:
          CannotTraceError: The graph cannot be written.
          ComputationError: A client's part failed. Of several, the first in the order of blocks.
          tf.errors.OpError: TensorFlow could not run a block.
        """

    def join(self, root: tf.Tensor, left: Sums, right: Sums, split: int) -> Sums:
        """Joins the sums over neighboring blocks.

        Args:
          root: The call's key.
          left: Sums over some blocks.
          right: Sums over the blocks that follow.
          split: The number of the first of those.

        Returns:
          The sums over all of them.
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
          root: The call's key.
          words: The random words of the noise, one tensor int64; none to draw them under the key.
          state: As for `begin`.
          before: The status that `begin` gave.
          sums: Over all clients.

        Returns:
          The computation's results, flat, and the status.
        """


class SumTree:
    """Joins the sums of blocks as a binary tree over their numbers, whatever order they come in.

    A node of level k holds the blocks from j 2^k to (j + 1) 2^k - 1. Two siblings are joined as soon as
    both are there. The nodes that are left at the end, one for each binary digit of the number of blocks,
    are joined from the last to the first. If blocks come in order, log2 of their number of sums are held
    at a time, and no more.

    Args:
      join: From the sums over some blocks, those over the blocks that follow, and the number of the first
        of those, to the sums over all of them.
    """

    def __init__(self, join: Callable[[Sums, Sums, int], Sums]) -> None:
        self._join = join
        self._nodes: dict[tuple[int, int], Sums] = {}  # by level and number within it
        self._came: set[int] = set()

    def add(self, number: int, sums: Sums) -> None:
        """Adds the sums of a block.

        Args:
          number: The block's.
          sums: Its sums.

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
        """Returns the sums over all blocks; None if there are none.

        Args:
          blocks: Their number.

        Raises:
          RuntimeError: Some block has not been added, or one that there is not.
        """
        if self._came != set(range(blocks)):
            differing = sorted(self._came.symmetric_difference(range(blocks)))
            raise RuntimeError(
                f"A backend gave the sums of {len(self._came)} blocks: expected those of {blocks}. The "
                f"first that differs is block {differing[0]}."
            )
        # By first block, the last node first.
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
      root: The call's key.
      words: See `Backend.finish`.
      state: The server's part of the argument, flat.
      blocks: The cohort's blocks, numbered from 0; there may be none.

    Returns:
      The computation's results, flat, and the status.

    Raises:
      RuntimeError: The backend left a block out, or gave its sums twice.
      Exception: See `Backend`.
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
