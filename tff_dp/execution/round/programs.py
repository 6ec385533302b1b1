"""The graphs of a round: what the server prepares, a cohort of clients, what the server makes of it."""

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

# The words by which a call's key is folded for each part of a round. Sums are joined within a block and
# over blocks.
_PREPARE, _WORK, _ACCUMULATE, _MERGE, _REPORT, _UPDATE, _MERGE_BLOCKS = range(1, 8)
_SERVER = ("prepare", "report", "update")
_CLIENTS = ("work", "zero", "accumulate", "merge")
_FED = ("report", "update")  # whose noise can have its random words from outside
SERVER_FAILED = -2  # as a client's position: the server's part failed


class ServerShapeError(ShapeVariesError):
    """The server's part has a tensor whose shape depends on values, and XLA cannot compile it."""


class RoundPrograms:
    """The programs of a computation's MapReduce form. They are not changed once they are made.

    Args:
      form: A `tff.backends.mapreduce.MapReduceForm`.

    Raises:
      NotImplementedError: An operation has contents that would outlast a run.

    Attributes:
      checks: What the assertions in the programs say, by number from 1.
      obstacle: What stands in the way of writing a cohort as one graph, or None.
      xla_obstacle: What in the clients' part keeps it from XLA, by name of the operation; or None.
      vmap_obstacle: What stands in the way of clients side by side, or None.
      server_xla_obstacle: What keeps the server's parts from XLA, as far as is known without
        writing them; or None.
      carry_shapes: Of the sums over clients, and of the status.
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
        if self.work.iterates:  # each client would be at another batch, or at its end
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
        # XLA gives results of no fixed shape (the levels of a noise tree) a wrong one, and no error.
        self.fixed_shapes = all(shape.is_fully_defined() for shape in shapes)
        self.server_xla_obstacle: str | None = (
            operations.xla_obstacle(self._operations_of(_SERVER))
            if self.fixed_shapes
            else "its state has no fixed shape"
        )

    def _operations_of(self, names: Sequence[str]) -> frozenset[str]:
        parts = [self.programs[name] for name in names]
        # A function that is called by its own name stands among the operations, beside what is in it.
        return frozenset(op for part in parts for op in part.operations if op not in part.functions)

    @functools.cached_property
    def noisy(self) -> list[str]:
        """The parts that hold noise of a privacy plan."""
        return [name for name, p in self.programs.items() if p.provenance.marked]

    @functools.cached_property
    def layout(self) -> fed_words.Layout:
        """The random words that the server's noise takes."""
        found = fed_words.Layout({name: self.programs[name] for name in _FED})
        elsewhere = [name for name in self.noisy if name not in _FED]
        if elsewhere:
            where = ", ".join(elsewhere)
            found.obstacle = f"noise is drawn in {where}, and not by the server once it has the sum"
        return found

    @property
    def work(self) -> program.Program:
        """What a client computes."""
        return self.programs["work"]

    @functools.cached_property
    def carry_specs(self) -> list[tf.TensorSpec]:
        """The specifications of the sums over clients, and of the status."""
        count = len(self.carry_shapes) - 2 - self.secure_count
        dtypes = [dtype for _, dtype in self.programs["accumulate"].arguments]
        every = [*dtypes[:count], *self.secure_dtypes, tf.int32, tf.int32]
        return [
            tf.TensorSpec(shape, dtype)
            for shape, dtype in zip(self.carry_shapes, every, strict=True)
        ]

    @functools.cached_property
    def carry_bytes(self) -> int | None:
        """The size of the sums over clients; None if it is not fixed, or known."""
        found = 0
        for spec in self.carry_specs:
            if not spec.shape.is_fully_defined() or spec.dtype == tf.string:
                return None
            found += spec.shape.num_elements() * spec.dtype.size
        return found

    def begin(
        self, state: list[tf.Tensor], root: tf.Tensor, style: Style = PLAIN
    ) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """Writes the server's part before the clients: what they get, and the status."""
        key = randomness.fold(root, _PREPARE)
        with _serving(style):
            common, failed = emitter.emit(self.programs["prepare"], state, key, style=style)
        return common, status_of(failed, SERVER_FAILED)

    def nobody(self, root: tf.Tensor, style: Style = PLAIN) -> list[tf.Tensor]:
        """Writes the sums over no clients, and the status of none."""
        return [*self.zero(root, style), *status_of(tf.constant(0), 0)]

    def zero(self, root: tf.Tensor, style: Style = PLAIN) -> list[tf.Tensor]:
        """Writes the sums over no clients."""
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
        """Writes the server's part after the clients: the computation's results, and the status.

        Args:
          state: The server's, before.
          carry: Sums over the clients, and their status.
          root: The call's key.
          before: The status of the server's part before the clients.
          only: Positions of the results that are wanted; all by default.
          words: The random words of the noise, int64 [layout.count]; None to draw them under the
            key.
          style: What becomes of the graph.
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
        """Writes one client's part: its contribution, and its status."""
        key = self.client_key(position, root)
        results, failed = emitter.emit(self.work, [*data, *common], key, style=style)
        return results, status_of(failed, position)

    def client_key(self, position: Any, root: tf.Tensor) -> tf.Tensor:
        """Returns the key of a client's part in a call, uint64 [2]."""
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
        """Writes the addition of a client's contribution to the carry."""
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
        """Writes the join of two sums over clients, and the status of the first client that failed.

        Args:
          a: Sums and status.
          b: Sums and status of other clients.
          key: Of this join alone; see `merge_key`.
          style: What becomes of the graph.
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
        """Returns the key of one join, uint64 [2].

        In a tree over neighbors, the place at which its two halves meet names a join. Hardly any
        `merge` draws random numbers: then all joins share the key, which is not used.

        Args:
          split: Within a block, the position in the cohort of the right half's first client; over
            blocks, the number of its first block.
          root: The call's key.
          of_blocks: Whether the halves are blocks.
        """
        key = randomness.fold(root, _MERGE_BLOCKS if of_blocks else _MERGE)
        return randomness.fold(key, split) if self.programs["merge"].is_random else key

    @property
    def takes_sequence(self) -> bool:
        """Whether a client's data is one sequence (otherwise tensors)."""
        return values.is_one_sequence(self.work.type_signature.parameter[0])


def status_of(failed: tf.Tensor, position: Any) -> list[tf.Tensor]:
    """Returns who failed first and by which check; -1 and 0 for nobody."""
    who = tf.where(tf.greater(failed, 0), tf.cast(position, tf.int32), -1)
    return [who, failed]


@contextlib.contextmanager
def _serving(style: Style) -> Iterator[None]:
    """Tells what keeps a part of the server's from XLA apart from what keeps the clients from it."""
    try:
        yield
    except ShapeVariesError as error:
        if style.xla:
            raise ServerShapeError(str(error)) from error
        raise


def earliest(a: list[tf.Tensor], b: list[tf.Tensor]) -> list[tf.Tensor]:
    """Returns that of two statuses which tells of the failure of the earlier client.

    Blocks may hold clients in another order than the cohort's.
    """
    other = tf.logical_or(tf.equal(a[1], 0), tf.logical_and(b[1] > 0, b[0] < a[0]))
    return [tf.where(other, right, left) for left, right in zip(a, b, strict=True)]


def joined(first: list[tf.Tensor], second: list[tf.Tensor]) -> list[tf.Tensor]:
    """Returns the first of two statuses that tells of a failure."""
    failed = tf.greater(first[1], 0)
    return [tf.where(failed, a, b) for a, b in zip(first, second, strict=True)]
