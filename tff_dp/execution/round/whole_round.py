"""Whole rounds as one graph: a single round, or several successive ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tff_dp.execution.graph import emitter
from tff_dp.execution.graph.style import Style
from tff_dp.execution.round import client_loop
from tff_dp.execution.round.client_loop import Shape, jitted
from tff_dp.execution.round.programs import RoundPrograms, joined, status_of


def whole(
    parts: RoundPrograms,
    shape: Shape,
    tensors: Sequence[tf.Tensor],
    state: list[tf.Tensor],
    root: tf.Tensor,
    words: tf.Tensor | None = None,
    *,
    places: Sequence[str] = ("",),
    compiled: bool,
) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """Writes a round whose clients are one block.

    Args:
      parts: The programs of the round.
      shape: What the graph over the clients is specialized for.
      tensors: The fields of the examples, then the table, as for `client_loop.clients`.
      state: The tensors of the server's argument before the round.
      root: The root key of the call, uint64 [2].
      words: The random words of the noise; see `RoundPrograms.finish`.
      places: The devices that run the parts of the block, as for `client_loop.clients`.
      compiled: Whether XLA compiles the server's parts together with the clients, except for
        strings (see `texts`). Then the clients must be one part.

    Returns:
      The results of the computation, in the order of their type, and the status.
    """
    if not compiled:
        common, before = parts.begin(state, root)
        sums = client_loop.clients(parts, shape, tensors, common, root, places=places)
        return parts.finish(state, sums, root, before, words=words)

    def run(given: list[tf.Tensor], tensors: Sequence[tf.Tensor]) -> Any:
        return numbers_of(parts, shape, tensors, given, root, words)

    numbers, status = jitted(run)(_without_strings(state), tensors)
    return _with_texts(parts, numbers, state, root), status


def several(
    parts: RoundPrograms,
    shape: Shape,
    fields: Sequence[tf.Tensor],
    tables: Sequence[tf.Tensor],
    state: list[tf.Tensor],
    roots: tf.Tensor,
    words: tf.Tensor | None = None,
) -> tuple[list[tf.Tensor], list[tf.Tensor], list[tf.Tensor]]:
    """Writes successive rounds, each with a cohort of one block.

    Args:
      parts: The programs of the rounds.
      shape: What the graph over the clients is specialized for; its clients are one part.
      fields: The examples of all rounds, one tensor [rows, ...] for each field.
      tables: The arrays of the tables, as `ClientTable.arrays` returns them, each with a leading
        dimension of rounds.
      state: The tensors of the server's argument before the first round.
      roots: The root keys of the rounds, uint64 [rounds, 2].
      words: The random words of the rounds' noise, int64 [rounds, layout.count]; None to draw them
        from the keys.

    Returns:
      The state after the last round, without strings; the other results, without strings, each with
      a leading dimension of rounds; and the status of the first failure.

    Raises:
      NotImplementedError: A string in the state changes from round to round.
    """
    for text, before in zip(texts(parts, state, roots[0]), state, strict=False):
        if text is not None and text is not before and tf.get_static_value(text) is None:
            raise NotImplementedError("a string in the state that changes from round to round")
    count = len(_without_strings(state))

    def run(
        given: list[tf.Tensor],
        fields: Sequence[tf.Tensor],
        tables: Sequence[tf.Tensor],
        roots: tf.Tensor,
        words: tf.Tensor | None,
    ) -> Any:
        rounds = tf.shape(roots)[0]

        def one(number: tf.Tensor, given: Sequence[tf.Tensor]) -> Any:
            tensors = [*fields, *(column[number] for column in tables)]
            drawn = None if words is None else words[number]
            return numbers_of(parts, shape, tensors, list(given), roots[number], drawn)

        arrays = [
            tf.TensorArray(dtype, rounds, element_shape=shape)
            for shape, dtype in _numbers_specs(parts)[count:]
        ]

        def body(number: tf.Tensor, status: Any, given: Any, arrays: Any) -> Any:
            numbers, own = one(number, given)
            written = [
                array.write(number, tensor)
                for array, tensor in zip(arrays, numbers[count:], strict=True)
            ]
            return number + 1, joined(status, own), numbers[:count], written

        start = [tf.constant(0), status_of(tf.constant(0), 0), list(given), arrays]
        _, status, given, arrays = tf.while_loop(
            lambda number, *_: number < rounds, body, start, parallel_iterations=1
        )
        return given, [array.stack() for array in arrays], status

    call = jitted(run) if shape.xla else run
    final, others, status = call(_without_strings(state), fields, tables, roots, words)
    return final, others, status


def numbers_of(
    parts: RoundPrograms,
    shape: Shape,
    tensors: Sequence[tf.Tensor],
    given: Sequence[tf.Tensor],
    root: tf.Tensor,
    words: tf.Tensor | None,
) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """Writes a round without its strings: from the numbers in the state to those in the results.

    Args:
      parts: The programs of the round.
      shape: What the graph over the clients is specialized for.
      tensors: The fields of the examples, then the table, as for `client_loop.clients`.
      given: The numbers in the server's argument before the round.
      root: The root key of the call, uint64 [2].
      words: The random words of the noise; see `RoundPrograms.finish`.

    Returns:
      The numbers in the results of the computation, in the order of their type, and the status.
    """
    numbers = iter(given)
    known = [
        None if dtype == tf.string else next(numbers)
        for _, dtype in parts.programs["prepare"].arguments
    ]
    style = Style(xla=shape.xla)
    common, before = parts.begin(known, root, style)
    sums = client_loop.clients(parts, shape, tensors, common, root, inside=shape.xla)
    wanted = [i for i, dtype in enumerate(parts.result_dtypes) if dtype != tf.string]
    return parts.finish(known, sums, root, before, wanted, words, style)


def _numbers_specs(parts: RoundPrograms) -> list[tuple[tf.TensorShape, tf.DType]]:
    both = zip(parts.result_shapes, parts.result_dtypes, strict=True)
    return [(shape, dtype) for shape, dtype in both if dtype != tf.string]


def _without_strings(state: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    return [tensor for tensor in state if tensor.dtype != tf.string]


def texts(parts: RoundPrograms, state: Sequence[tf.Tensor], root: tf.Tensor) -> list[Any]:
    """Writes those results of a round that are strings.

    XLA does not support strings. In a learning process they depend on the state alone (the names of
    classes in a `DpEvent`). If they depend on anything else, writing them fails.

    Args:
      parts: The programs of the round.
      state: The tensors of the server's argument before the round.
      root: The root key of the call, uint64 [2].

    Returns:
      An entry for each result of the computation: its tensor if it is a string, otherwise None.
    """
    dtypes = parts.result_dtypes
    places = [i for i, dtype in enumerate(dtypes) if dtype == tf.string]
    found: list[Any] = [None] * len(dtypes)
    if places:
        update = parts.programs["update"]
        unknown = [None] * (len(update.arguments) - len(state))
        texts, _ = emitter.emit(update, [*state, *unknown], root, places)
        for place, text in zip(places, texts, strict=True):
            found[place] = text
    return found


def _with_texts(
    parts: RoundPrograms, numbers: Sequence[Any], state: Sequence[tf.Tensor], root: tf.Tensor
) -> list[Any]:
    rest = iter(numbers)
    return [next(rest) if text is None else text for text in texts(parts, state, root)]
