"""The batches of one client inside a graph, in the ways in which a graph can get at them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tff_dp._compat import tensorflow as tf_compat

Step = Callable[[tf.Tensor, list[tf.Tensor], list[tf.Tensor]], list[tf.Tensor]]


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """Examples by position, in tensors.

    Attributes:
      fields: Tensors [rows, ...].
      rows: int32 [positions], or None where position p is row p.
      xla: Whether the graph is for XLA, and not vectorized.
      limits: The least and the largest of each field's numbers, where they are known; may be empty.
    """

    fields: Sequence[tf.Tensor]
    rows: tf.Tensor | None
    xla: bool = False
    limits: Sequence[tuple[int, int] | None] = ()

    def take(self, start: tf.Tensor, count: tf.Tensor | int) -> list[tf.Tensor]:
        """Returns the examples at `count` positions from `start`; a number gives static shapes."""
        if self.rows is not None:
            rows = self._slice(self.rows, start, count)
            return [tf.gather(field, rows) for field in self.fields]
        return [self._slice(field, start, count) for field in self.fields]

    def _slice(self, tensor: tf.Tensor, start: tf.Tensor, count: tf.Tensor | int) -> tf.Tensor:
        if self.xla and not tf.is_tensor(count):
            return _dynamic_slice(tensor, start, count)
        return _slice(tensor, start, count)


def _dynamic_slice(tensor: tf.Tensor, start: tf.Tensor, count: int) -> tf.Tensor:
    """Returns a slice whose start XLA takes as it comes.

    TensorFlow's own operation asks for a constant, and where the start is a value of a table, XLA would
    compile anew for each table: in each round with another cohort.
    """
    rest = tensor.shape[1:].as_list()
    begin = tf.stack([start, *(0 for _ in rest)])
    taken = tf_compat.xla_dynamic_slice(tensor, begin, tf.constant([count, *rest]))
    taken.set_shape([count, *rest])
    return taken


def _slice(tensor: tf.Tensor, start: tf.Tensor, count: tf.Tensor | int) -> tf.Tensor:
    rest = tensor.shape[1:].as_list()
    begin = tf.stack([start, *(0 for _ in rest)])
    taken = tf.slice(
        tensor, begin, tf.stack([count, *rest]) if tf.is_tensor(count) else [count, *rest]
    )
    taken.set_shape([None if tf.is_tensor(count) else count, *rest])
    return taken


@dataclasses.dataclass(frozen=True, eq=False)
class Listed:
    """Batches of any sizes, from a table: for graphs whose shapes may vary.

    Attributes:
      examples: Where they are.
      starts: int32 [batches of all clients]: positions of their first examples.
      counts: int32, likewise: their numbers of examples.
      first: int32 []: the client's first batch.
      end: int32 []: the batch after its last.
    """

    examples: Examples
    starts: tf.Tensor
    counts: tf.Tensor
    first: tf.Tensor
    end: tf.Tensor

    @property
    def limits(self) -> Sequence[tuple[int, int] | None]:
        """See `program.Batches`."""
        return self.examples.limits

    def reduce(
        self, step: Step, state: list[tf.Tensor], shapes: list[tf.TensorShape]
    ) -> list[tf.Tensor]:
        """See `program.Batches`."""
        return _loop(
            self.count(),
            lambda number, *state: step(number, list(state), self.take(number)),
            state,
            shapes,
        )

    def count(self) -> tf.Tensor:
        """See `program.Batches`."""
        return self.end - self.first

    def take(self, number: tf.Tensor) -> list[tf.Tensor]:
        """See `program.Batches`."""
        batch = self.first + number
        return self.examples.take(self.starts[batch], self.counts[batch])


@dataclasses.dataclass(frozen=True, eq=False)
class Regular:
    """Batches of one size and a remainder, with static shapes: for XLA and vectorizing.

    Attributes:
      examples: Where they are.
      start: int32 []: the position of the client's first example.
      full: The number of full batches in an epoch: a number where it is known, or int32 [].
      batch_size: Examples in a full batch.
      remainder: Examples in the last batch of an epoch; 0 for no such batch.
      epochs: Passes over the examples.
      apart: Whether each epoch has positions of its own.
    """

    examples: Examples
    start: tf.Tensor
    full: tf.Tensor | int
    batch_size: int
    remainder: int
    epochs: int
    apart: bool

    @property
    def limits(self) -> Sequence[tuple[int, int] | None]:
        """See `program.Batches`."""
        return self.examples.limits

    def reduce(
        self, step: Step, state: list[tf.Tensor], shapes: list[tf.TensorShape]
    ) -> list[tf.Tensor]:
        """See `program.Batches`."""
        size = self.full * self.batch_size + self.remainder
        in_epoch = self.full + (1 if self.remainder else 0)

        def run(epoch: tf.Tensor | int, state: list[tf.Tensor]) -> list[tf.Tensor]:
            begin = self.start + (epoch * size if self.apart else 0)

            def body(batch: tf.Tensor, *state: tf.Tensor) -> list[tf.Tensor]:
                taken = self.examples.take(begin + batch * self.batch_size, self.batch_size)
                return step(epoch * in_epoch + batch, list(state), taken)

            state = _loop(self.full, body, state, shapes)
            if self.remainder:
                begin_last = begin + self.full * self.batch_size
                taken = self.examples.take(begin_last, self.remainder)
                state = _with_shapes(step(epoch * in_epoch + self.full, state, taken), shapes)
            return state

        return _loop(self.epochs, lambda epoch, *state: run(epoch, list(state)), state, shapes)

    def count(self) -> tf.Tensor:
        """See `program.Batches`."""
        self._check_whole()
        return tf.convert_to_tensor(self.full * self.epochs)

    def take(self, number: tf.Tensor) -> list[tf.Tensor]:
        """See `program.Batches`."""
        self._check_whole()
        batch = number if self.apart else number % tf.maximum(self.full, 1)
        return self.examples.take(self.start + batch * self.batch_size, self.batch_size)

    def _check_whole(self) -> None:
        if self.remainder:
            raise NotImplementedError("batches of two static shapes, taken from an iterator")


@dataclasses.dataclass(frozen=True, eq=False)
class Iterated:
    """The elements of a data set, in the order in which it gives them.

    Attributes:
      variant: The data set.
      element_spec: What its elements are.
    """

    variant: tf.Tensor
    element_spec: Any

    @property
    def limits(self) -> Sequence[tuple[int, int] | None]:
        """See `program.Batches`."""
        return ()

    def reduce(
        self, step: Step, state: list[tf.Tensor], shapes: list[tf.TensorShape]
    ) -> list[tf.Tensor]:
        """See `program.Batches`."""
        specs = tf.nest.flatten(self.element_spec)
        types = {
            "output_types": [spec.dtype for spec in specs],
            "output_shapes": [spec.shape for spec in specs],
        }
        iterator = tf.raw_ops.AnonymousIteratorV3(**types)
        started = tf.raw_ops.MakeIterator(dataset=self.variant, iterator=iterator)

        def body(_: tf.Tensor, number: tf.Tensor, *state: tf.Tensor) -> list[tf.Tensor]:
            batch = tf.raw_ops.IteratorGetNextAsOptional(iterator=iterator, **types)
            more = tf.raw_ops.OptionalHasValue(optional=batch)

            def reduce() -> list[tf.Tensor]:
                values = tf.raw_ops.OptionalGetValue(optional=batch, **types)
                return _with_shapes(step(number, list(state), list(values)), shapes)

            return [more, number + 1, *tf.cond(more, reduce, lambda: list(state))]

        with tf.control_dependencies([started]):
            _, _, *final = tf.while_loop(
                lambda more, *_: more,
                body,
                [tf.constant(True), tf.constant(0), *state],
                shape_invariants=[tf.TensorShape([]), tf.TensorShape([]), *shapes],
                parallel_iterations=1,
            )
        return list(final)


def _loop(
    times: tf.Tensor | int,
    body: Callable[..., list[tf.Tensor]],
    state: list[tf.Tensor],
    shapes: list[tf.TensorShape],
) -> list[tf.Tensor]:
    """Returns the state after a body has run a number of times; without a loop for none or one."""
    if isinstance(times, int) and times <= 1:
        return _with_shapes(body(tf.constant(0), *state), shapes) if times else state
    _, *final = tf.while_loop(
        lambda number, *_: number < times,
        lambda number, *state: [number + 1, *body(number, *state)],
        [tf.constant(0), *state],
        shape_invariants=[tf.TensorShape([]), *shapes],
        parallel_iterations=1,
    )
    return list(final)


def _with_shapes(state: list[tf.Tensor], shapes: list[tf.TensorShape]) -> list[tf.Tensor]:
    for tensor, shape in zip(state, shapes, strict=True):
        tensor.set_shape(shape)
    return state
