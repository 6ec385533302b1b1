"""The batches of one client inside a graph: implementations of `program.Batches`.

`Listed` reads the positions of batches of any sizes from a table. `Regular` computes the positions
of batches of one size, and has static shapes. `Iterated` takes the elements of a data set.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tff_dp._compat import tensorflow as tf_compat

Step = Callable[[tf.Tensor, list[tf.Tensor], list[tf.Tensor]], list[tf.Tensor]]


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """The examples of all clients of a block, by position.

    Attributes:
      fields: A tensor [rows, ...] for each field.
      rows: The row of the example at each position, int32 [positions]; None if position p is row p.
      xla: Whether XLA compiles the graph and the graph is not vectorized.
      side_by_side: Whether the graph is vectorized over clients.
      limits: The smallest and the largest value of each field, None where not known; may be empty.
    """

    fields: Sequence[tf.Tensor]
    rows: tf.Tensor | None
    xla: bool = False
    side_by_side: bool = False
    limits: Sequence[tuple[int, int] | None] = ()

    def take(self, start: tf.Tensor, count: tf.Tensor | int) -> list[tf.Tensor]:
        """Returns the examples at consecutive positions.

        Args:
          start: The first position, int32 [].
          count: The number of positions: an int, for results of static shapes, or int32 [].

        Returns:
          A tensor [count, ...] for each field.
        """
        if self.rows is not None:
            rows = self._slice(self.rows, start, count)
            return [tf.gather(field, rows) for field in self.fields]
        return [self._slice(field, start, count) for field in self.fields]

    def _slice(self, tensor: tf.Tensor, start: tf.Tensor, count: tf.Tensor | int) -> tf.Tensor:
        if self.side_by_side and not tf.is_tensor(count):
            # A vectorized slice would require the starts of all clients to be constant under XLA,
            # which would compile again for each table. A vectorized gather does not.
            return tf.gather(tensor, start + tf.range(count))
        if self.xla and not tf.is_tensor(count):
            return _dynamic_slice(tensor, start, count)
        return _slice(tensor, start, count)


def _dynamic_slice(tensor: tf.Tensor, start: tf.Tensor, count: int) -> tf.Tensor:
    """Returns a slice whose start may vary without another compilation by XLA.

    Under XLA, `tf.slice` requires a start that is constant at compilation. If it came from a table,
    XLA would compile again for each table, and thus in each round with another cohort.
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
    """Batches of any sizes, from a table, for graphs whose shapes may vary.

    Attributes:
      examples: The examples.
      starts: The position of the first example of each batch of all clients, int32 [batches].
      counts: The number of examples in each batch of all clients, int32 [batches].
      first: The number of the client's first batch among all, int32 [].
      end: The number after that of its last batch, int32 [].
    """

    examples: Examples
    starts: tf.Tensor
    counts: tf.Tensor
    first: tf.Tensor
    end: tf.Tensor

    @property
    def limits(self) -> Sequence[tuple[int, int] | None]:
        """The smallest and the largest value in each tensor of a batch; see `program.Batches`."""
        return self.examples.limits

    def reduce(
        self, step: Step, state: list[tf.Tensor], shapes: list[tf.TensorShape]
    ) -> list[tf.Tensor]:
        """Writes a loop over the batches.

        Args:
          step: A function from the number of a batch, int32 [], the state before it, and the
            tensors of the batch to the state after it.
          state: The state before the first batch.
          shapes: The static shapes of the state that hold before and after every batch.

        Returns:
          The state after the last batch.
        """
        return _loop(
            self.count(),
            lambda number, *state: step(number, list(state), self.take(number)),
            state,
            shapes,
        )

    def count(self) -> tf.Tensor:
        """Returns the number of batches, int32 []."""
        return self.end - self.first

    def take(self, number: tf.Tensor) -> list[tf.Tensor]:
        """Returns one batch.

        Args:
          number: The number of the batch, int32 [], from 0.

        Returns:
          The tensors of the batch, [examples, ...].
        """
        batch = self.first + number
        return self.examples.take(self.starts[batch], self.counts[batch])


@dataclasses.dataclass(frozen=True, eq=False)
class Regular:
    """Batches of one size, the last one possibly smaller, with shapes that are static.

    Attributes:
      examples: The examples.
      start: The position of the client's first example, int32 [].
      full: The number of full batches in an epoch: an int if it is the same for all clients of a
        graph, otherwise int32 [].
      batch_size: The number of examples in a full batch.
      remainder: The number of examples in the smaller last batch of an epoch; 0 if there is none.
      epochs: The number of passes over the examples.
      apart: Whether each epoch has positions of its own, which follow those of the epoch before.
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
        """The smallest and the largest value in each tensor of a batch; see `program.Batches`."""
        return self.examples.limits

    def reduce(
        self, step: Step, state: list[tf.Tensor], shapes: list[tf.TensorShape]
    ) -> list[tf.Tensor]:
        """Writes a loop over the batches.

        Args:
          step: A function from the number of a batch, int32 [], the state before it, and the
            tensors of the batch to the state after it.
          state: The state before the first batch.
          shapes: The static shapes of the state that hold before and after every batch.

        Returns:
          The state after the last batch.
        """
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
        """Returns the number of batches, int32 [].

        Raises:
          NotImplementedError: There is a remainder, so that batches have two static shapes.
        """
        self._check_whole()
        return tf.convert_to_tensor(self.full * self.epochs)

    def take(self, number: tf.Tensor) -> list[tf.Tensor]:
        """Returns one batch.

        Args:
          number: The number of the batch, int32 [], from 0.

        Returns:
          The tensors of the batch, [examples, ...].

        Raises:
          NotImplementedError: There is a remainder, so that batches have two static shapes.
        """
        self._check_whole()
        batch = number if self.apart else number % tf.maximum(self.full, 1)
        return self.examples.take(self.start + batch * self.batch_size, self.batch_size)

    def _check_whole(self) -> None:
        if self.remainder:
            raise NotImplementedError("batches of two static shapes, taken from an iterator")


@dataclasses.dataclass(frozen=True, eq=False)
class Iterated:
    """The elements of a data set, in its order. It has no `count` and no `take`.

    Attributes:
      variant: The variant tensor of the data set.
      element_spec: The specification of its elements, a structure of `tf.TensorSpec`.
    """

    variant: tf.Tensor
    element_spec: Any

    @property
    def limits(self) -> Sequence[tuple[int, int] | None]:
        """The smallest and the largest value in each tensor of a batch; see `program.Batches`."""
        return ()

    def reduce(
        self, step: Step, state: list[tf.Tensor], shapes: list[tf.TensorShape]
    ) -> list[tf.Tensor]:
        """Writes a loop over the batches.

        Args:
          step: A function from the number of a batch, int32 [], the state before it, and the
            tensors of the batch to the state after it.
          state: The state before the first batch.
          shapes: The static shapes of the state that hold before and after every batch.

        Returns:
          The state after the last batch.
        """
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
    """Returns the state after a body has run `times` times; for 0 and 1 without a loop."""
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
