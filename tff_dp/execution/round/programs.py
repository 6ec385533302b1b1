"""The programs of a round: the server's parts, a client's part, and the sums over clients."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf

from tff_dp.execution import values
from tff_dp.execution.graph import emitter, operations, program, randomness
from tff_dp.execution.graph import random_words as fed_words
from tff_dp.execution.graph.style import PLAIN, ShapeVariesError, Style
from tff_dp.execution.round import secure_sums

# Each part of a round has its own key: the call's root key, folded with one of these numbers. Sums
# are joined within a block (_MERGE) and over blocks (_MERGE_BLOCKS).
_PREPARE, _WORK, _ACCUMULATE, _MERGE, _REPORT, _UPDATE, _MERGE_BLOCKS = range(1, 8)
_SERVER = ("prepare", "report", "update")
_CLIENTS = ("work", "zero", "accumulate", "merge")
_FED = ("report", "update")  # whose noise can take its random words as an input
SERVER_FAILED = -2  # in place of a client's position: the server's part failed


class ServerShapeError(ShapeVariesError):
    """The server's part has a tensor whose shape depends on values, which XLA cannot compile."""


class RoundPrograms:
    """The programs of a computation's MapReduce form. They do not change once they are made.

    Methods that "write" add operations to the graph that is being traced. A status is a list of two
    int32 [] tensors: the position of the client that failed (or `SERVER_FAILED`; -1 for none), and
    the number of the check that failed (0 for none). A carry is a list of tensors: the sums over
    clients, then the secure sums, then the status.

    Args:
      form: A `tff.backends.mapreduce.MapReduceForm`.

    Raises:
      NotImplementedError: An operation has state that would persist between runs.

    Attributes:
      checks: The messages of the assertions in the programs; the first one is number 1.
      programs: The programs, by their names in the MapReduce form.
      obstacle: What prevents a cohort from being written as one graph, or None.
      xla_obstacle: Which operation in the clients' part XLA cannot compile, or None.
      vmap_obstacle: What prevents clients from running side by side, or None.
      server_obstacle: What prevents a program other than `work` from being rewritten, or None.
      server_xla_obstacle: What prevents XLA from compiling the server's parts, as far as that is
        known without writing them, or None.
      secure_count: The number of secure sums.
      secure_dtypes: The data types of the secure sums.
      carry_shapes: The shapes of the carry.
      result_dtypes: The data types of the computation's results, in the order of their type.
      result_shapes: The shapes of the computation's results.
      fixed_shapes: Whether all arguments and results of the server's parts have static shapes.
    """

    def __init__(self, form: Any) -> None:
        names = ("prepare", "work", "zero", "accumulate", "merge", "report", "update")
        self.checks: list[str] = []
        self.programs = {name: program.Program(getattr(form, name), self.checks) for name in names}
        for name, part in self.programs.items():
            if part.lasting:
                raise NotImplementedError(f"{name}: {part.lasting}")
        self._update_count, *secure = (
            values.count_tensors(part) for part in form.work.type_signature.result
        )
        self._secure = secure_sums.SecureSums(form, secure)
        found = [f"{name}: {p.obstacle}" for name, p in self.programs.items() if p.obstacle]
        self.obstacle: str | None = found[0] if found else None
        self.xla_obstacle = operations.xla_obstacle(self._operations_of(_CLIENTS))
        self.vmap_obstacle = operations.vmap_obstacle(self._operations_of(_CLIENTS))
        if self.work.iterates:  # clients would be at different batches of their data
            self.vmap_obstacle = "a client's part moves an iterator over its batches"
        self.server_obstacle = next((o for o in found if not o.startswith("work:")), None)
        self.secure_count = self._secure.count
        self.secure_dtypes = self._secure.dtypes
        self.carry_shapes = [
            *(
                tf.TensorShape(leaf.shape)  # `zero` may be smaller: an empty list of samples
                for leaf in values.leaves(form.accumulate.type_signature.parameter[0])
            ),
            *self._secure.shapes,
            tf.TensorShape([]),
            tf.TensorShape([]),
        ]
        results = values.leaves(form.update.type_signature.result)
        self.result_dtypes = [tf.as_dtype(leaf.dtype) for leaf in results]
        self.result_shapes = [tf.TensorShape(leaf.shape) for leaf in results]
        server = [self.programs[name] for name in _SERVER]
        shapes = [shape for part in server for shape, _ in part.arguments] + self.result_shapes
        # If a result has no fixed shape (the levels of a noise tree), XLA gives it a wrong shape
        # and reports no error.
        self.fixed_shapes = all(shape.is_fully_defined() for shape in shapes)
        self.server_xla_obstacle: str | None = (
            operations.xla_obstacle(self._operations_of(_SERVER))
            if self.fixed_shapes
            else "its state has no fixed shape"
        )

    def _operations_of(self, names: Sequence[str]) -> frozenset[str]:
        parts = [self.programs[name] for name in names]
        # A function that is called by its name is listed among the operations, as are its contents.
        return frozenset(op for part in parts for op in part.operations if op not in part.functions)

    @functools.cached_property
    def noisy(self) -> list[str]:
        """The names of the programs that hold noise of a privacy plan."""
        return [name for name, p in self.programs.items() if p.provenance.marked]

    @functools.cached_property
    def layout(self) -> fed_words.Layout:
        """The layout of the random words that the server's noise takes."""
        found = fed_words.Layout({name: self.programs[name] for name in _FED})
        elsewhere = [name for name in self.noisy if name not in _FED]
        if elsewhere:
            where = ", ".join(elsewhere)
            found.obstacle = f"noise is drawn in {where}, and not by the server once it has the sum"
        return found

    @property
    def work(self) -> program.Program:
        """The program of one client."""
        return self.programs["work"]

    @functools.cached_property
    def carry_specs(self) -> list[tf.TensorSpec]:
        """The specifications of the carry: the sums over clients, and the status."""
        count = len(self.carry_shapes) - 2 - self.secure_count
        dtypes = [dtype for _, dtype in self.programs["accumulate"].arguments]
        every = [*dtypes[:count], *self.secure_dtypes, tf.int32, tf.int32]
        return [
            tf.TensorSpec(shape, dtype)
            for shape, dtype in zip(self.carry_shapes, every, strict=True)
        ]

    @functools.cached_property
    def carry_bytes(self) -> int | None:
        """The size of the carry, in bytes; None if a shape is not static or a part is a string."""
        found = 0
        for spec in self.carry_specs:
            if not spec.shape.is_fully_defined() or spec.dtype == tf.string:
                return None
            found += spec.shape.num_elements() * spec.dtype.size
        return found

    def begin(
        self, state: list[tf.Tensor], root: tf.Tensor, style: Style = PLAIN
    ) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """Writes the server's part before the clients.

        Args:
          state: The tensors of the server's argument, in the order of its type; None for those that
            are not available, such as strings under XLA.
          root: The root key of the call, uint64 [2].
          style: How the graph is compiled and vectorized.

        Returns:
          The tensors that the server sends to all clients, and the status.

        Raises:
          NotImplementedError: It cannot be written; `ServerShapeError` if XLA compiles it and a
            shape in it depends on values.
        """
        key = randomness.fold(root, _PREPARE)
        with _serving(style):
            common, failed = emitter.emit(self.programs["prepare"], state, key, style=style)
        return common, status_of(failed, SERVER_FAILED)

    def nobody(self, root: tf.Tensor, style: Style = PLAIN) -> list[tf.Tensor]:
        """Writes the carry over no clients.

        Args:
          root: The root key of the call, uint64 [2].
          style: How the graph is compiled and vectorized.

        Returns:
          The initial value of each sum, and the status of no failure.
        """
        return [*self.zero(root, style), *status_of(tf.constant(0), 0)]

    def zero(self, root: tf.Tensor, style: Style = PLAIN) -> list[tf.Tensor]:
        """Writes the sums over no clients.

        Args:
          root: The root key of the call, uint64 [2].
          style: How the graph is compiled and vectorized.

        Returns:
          The initial value of each sum: the carry without its status.
        """
        zero, _ = emitter.emit(self.programs["zero"], [], root, style=style)
        return [*zero, *self._secure.zeros()]

    def finish(
        self,
        state: list[tf.Tensor],
        carry: list[tf.Tensor],
        root: tf.Tensor,
        before: list[tf.Tensor],
        only: Sequence[int] | None = None,
        words: tf.Tensor | None = None,
        style: Style = PLAIN,
    ) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """Writes the server's part after the clients.

        Args:
          state: The tensors of the server's argument before the round; None for those that are not
            available.
          carry: The sums over the clients, and their status.
          root: The root key of the call, uint64 [2].
          before: The status of the server's part before the clients.
          only: The positions of the results that are wanted; None for all.
          words: The random words of the noise, int64 [layout.count]; None to draw them from the
            key.
          style: How the graph is compiled and vectorized.

        Returns:
          The results of the computation, in the order of their type or of `only`, and the status of
          the first failure of the round.

        Raises:
          NotImplementedError: It cannot be written; `ServerShapeError` if XLA compiles it and a
            shape in it depends on values.
        """
        *sums, client, check = carry
        count = len(sums) - self._secure.count
        with _serving(style):
            reported, failed = emitter.emit(
                self.programs["report"],
                sums[:count],
                randomness.fold(root, _REPORT),
                style=style,
                words=self._fed(words, "report"),
            )
            status = joined(joined(before, [client, check]), status_of(failed, SERVER_FAILED))
            results, failed = emitter.emit(
                self.programs["update"],
                [*state, *reported, *sums[count:]],
                randomness.fold(root, _UPDATE),
                only,
                style=style,
                words=self._fed(words, "update"),
            )
        return results, joined(status, status_of(failed, SERVER_FAILED))

    def _fed(self, words: tf.Tensor | None, name: str) -> fed_words.Fed | None:
        return None if words is None else fed_words.Fed(self.layout, words, name)

    def client(
        self,
        data: list[Any],
        common: list[tf.Tensor],
        position: tf.Tensor,
        root: tf.Tensor,
        style: Style = PLAIN,
    ) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """Writes the part of one client.

        Args:
          data: The client's data: tensors, or `Batches` for a sequence.
          common: The tensors that the server sends to all clients.
          position: The position of the client in the cohort, int32 [].
          root: The root key of the call, uint64 [2].
          style: How the graph is compiled and vectorized.

        Returns:
          The client's contribution, the tensors of the results of `work`; and its status.
        """
        key = self.client_key(position, root)
        results, failed = emitter.emit(self.work, [*data, *common], key, style=style)
        return results, status_of(failed, position)

    def client_key(self, position: Any, root: tf.Tensor) -> tf.Tensor:
        """Derives the key of a client's part in a call.

        Args:
          position: The position of the client in the cohort, a number or a tensor [].
          root: The root key of the call, uint64 [2].

        Returns:
          The key, uint64 [2].
        """
        return randomness.fold(randomness.fold(root, _WORK), position)

    def add(
        self,
        carry: list[tf.Tensor],
        contribution: list[tf.Tensor],
        status: list[tf.Tensor],
        position: tf.Tensor,
        root: tf.Tensor,
        style: Style = PLAIN,
    ) -> list[tf.Tensor]:
        """Writes the addition of a client's contribution to a carry.

        Args:
          carry: The carry.
          contribution: The tensors of the results of `work`.
          status: The status of the client's part.
          position: The position of the client in the cohort, int32 [].
          root: The root key of the call, uint64 [2].
          style: How the graph is compiled and vectorized.

        Returns:
          The new carry. Its status is that of `carry` if that tells of a failure, otherwise that of
          the client, of its secure sums, or of the addition.
        """
        *sums, client, check = carry
        count = len(sums) - self._secure.count
        status = joined([client, check], status)
        update, secure = contribution[: self._update_count], contribution[self._update_count :]
        status = joined(status, status_of(self._secure.exceeded(secure), position))
        key = randomness.fold(randomness.fold(root, _ACCUMULATE), position)
        added, failed = emitter.emit(
            self.programs["accumulate"], [*sums[:count], *update], key, style=style
        )
        status = joined(status, status_of(failed, position))
        return [*added, *self._secure.add(sums[count:], secure), *status]

    def join(
        self, a: list[tf.Tensor], b: list[tf.Tensor], key: tf.Tensor, style: Style = PLAIN
    ) -> list[tf.Tensor]:
        """Writes the join of the carries over two groups of clients.

        Args:
          a: The carry over some clients.
          b: The carry over other clients.
          key: The key of this join, uint64 [2]; see `merge_key`.
          style: How the graph is compiled and vectorized.

        Returns:
          The carry over all of them, with the status of the failed client whose position is
          smallest.
        """
        *sums_a, client_a, check_a = a
        *sums_b, client_b, check_b = b
        count = len(sums_a) - self._secure.count
        merged, _ = emitter.emit(
            self.programs["merge"], [*sums_a[:count], *sums_b[:count]], key, style=style
        )
        secure = self._secure.add(sums_a[count:], sums_b[count:])
        return [*merged, *secure, *earliest([client_a, check_a], [client_b, check_b])]

    def merge_key(self, split: Any, root: tf.Tensor, *, of_blocks: bool = False) -> tf.Tensor:
        """Derives the key of one join.

        In a tree over neighbors, a join is identified by the place where its two halves meet.
        Hardly any `merge` draws random numbers; if it does not, all joins share one key, which is
        not used.

        Args:
          split: Within a block, the position in the cohort of the right half's first client; over
            blocks, the number of the right half's first block. A number or a tensor [].
          root: The root key of the call, uint64 [2].
          of_blocks: Whether the two halves consist of blocks.

        Returns:
          The key, uint64 [2].
        """
        key = randomness.fold(root, _MERGE_BLOCKS if of_blocks else _MERGE)
        return randomness.fold(key, split) if self.programs["merge"].is_random else key

    @property
    def takes_sequence(self) -> bool:
        """Whether a client's data is a single sequence, as opposed to tensors."""
        return values.is_one_sequence(self.work.type_signature.parameter[0])


def status_of(failed: tf.Tensor, position: Any) -> list[tf.Tensor]:
    """Writes the status of a part of the round.

    Args:
      failed: The number of the check that failed in it, int32 []; 0 for none.
      position: The position of the client whose part it is, or `SERVER_FAILED`; a number or a
        tensor.

    Returns:
      The status: two int32 [] tensors, the position (-1 if no check failed) and the check.
    """
    who = tf.where(tf.greater(failed, 0), tf.cast(position, tf.int32), -1)
    return [who, failed]


@contextlib.contextmanager
def _serving(style: Style) -> Iterator[None]:
    """Marks errors of the server's parts.

    They are raised as `ServerShapeError` under XLA, so that they are not taken for obstacles in the
    clients' part.
    """
    try:
        yield
    except ShapeVariesError as error:
        if style.xla:
            raise ServerShapeError(str(error)) from error
        raise


def earliest(a: list[tf.Tensor], b: list[tf.Tensor]) -> list[tf.Tensor]:
    """Selects the status of the failure whose client comes first in the cohort.

    Blocks may hold clients in another order than the cohort, so that the smaller position counts.

    Args:
      a: A status, two int32 [] tensors.
      b: Another status.

    Returns:
      The status with the smaller position among those that tell of a failure; if neither does, `b`.
    """
    other = tf.logical_or(tf.equal(a[1], 0), tf.logical_and(b[1] > 0, b[0] < a[0]))
    return [tf.where(other, right, left) for left, right in zip(a, b, strict=True)]


def joined(first: list[tf.Tensor], second: list[tf.Tensor]) -> list[tf.Tensor]:
    """Selects the first of two statuses that tells of a failure.

    Args:
      first: The status of what ran first, two int32 [] tensors.
      second: The status of what ran next.

    Returns:
      `first` if it tells of a failure, otherwise `second`.
    """
    failed = tf.greater(first[1], 0)
    return [tf.where(failed, a, b) for a, b in zip(first, second, strict=True)]
