"""Whole rounds as one graph: one round, or several that follow on each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tff_dp.execution.graph import emitter
from tff_dp.execution.graph.style import Style
from tff_dp.execution.round import client_loop
from tff_dp.execution.round.client_loop import Shape, jitted
from tff_dp.execution.round.programs import RoundPrograms, joined, status_of


def is_compiled(parts: RoundPrograms, shape: Shape) -> bool:
    """Returns whether XLA compiles a whole round as one."""
    return shape.xla and len(shape.places) == 1 and not parts.server_xla_obstacle


def whole(
    parts: RoundPrograms,
    shape: Shape,
    tables: dict[str, tf.Tensor],
    fields: Sequence[tf.Tensor],
    state: list[tf.Tensor],
    root: tf.Tensor,
    words: tf.Tensor | None = None,
) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """Writes a round whose clients are one group: the computation's results, and the status.

    Where XLA compiles the clients it compiles the server's parts with them, but for strings: see
    `texts`.

    Args:
      parts: The round's programs.
      shape: What the group has in common.
      tables: As for `clients`.
      fields: The examples.
      state: Before the round.
      root: The call's key.
      words: See `RoundPrograms.finish`.
    """
    if not is_compiled(parts, shape):
        common, carry = parts.begin(state, root)
        carry = client_loop.clients(parts, shape, tables, fields, common, carry, root)
        return parts.finish(state, carry, root, words=words)
    inlined = dataclasses.replace(shape, inside=shape.xla)

    def compiled(
        given: list[tf.Tensor], tables: dict[str, tf.Tensor], fields: Sequence[tf.Tensor]
    ) -> Any:
        return _numbers(parts, inlined, tables, fields, given, root, words)

    numbers, status = jitted(compiled, xla=True)(_without_strings(state), tables, fields)
    return _with_texts(parts, numbers, state, root), status


def several(
    parts: RoundPrograms,
    shape: Shape,
    tables: dict[str, tf.Tensor],
    fields: Sequence[tf.Tensor],
    state: list[tf.Tensor],
    roots: tf.Tensor,
    words: tf.Tensor | None = None,
) -> tuple[list[tf.Tensor], list[tf.Tensor], list[tf.Tensor]]:
    """Writes rounds that follow on each other, each with a cohort of one group.

    Args:
      parts: The round's programs.
      shape: What the groups have in common.
      tables: As for `clients`, with a leading dimension of rounds.
      fields: The examples.
      state: Before the first round.
      roots: The rounds' keys, uint64 [rounds, 2].
      words: The rounds' random words for noise, int64 [rounds, layout.count], or None.

    Returns:
      The state after the last round; the rounds' other results, each with a leading dimension of
      rounds; and the first failure's status.
    """
    for text, before in zip(texts(parts, state, roots[0]), state, strict=False):
        if text is not None and text is not before and tf.get_static_value(text) is None:
            raise NotImplementedError("a string in the state that changes from round to round")
    inlined = dataclasses.replace(shape, inside=shape.xla)
    count = len(_without_strings(state))

    def run(
        given: list[tf.Tensor],
        tables: dict[str, tf.Tensor],
        fields: Sequence[tf.Tensor],
        roots: tf.Tensor,
        words: tf.Tensor | None,
    ) -> Any:
        rounds = tf.shape(roots)[0]

        def one(number: tf.Tensor, given: Sequence[tf.Tensor]) -> Any:
            own = {name: column[number] for name, column in tables.items()}
            drawn = None if words is None else words[number]
            return _numbers(parts, inlined, own, fields, list(given), roots[number], drawn)

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

    final, others, status = jitted(run, shape.xla)(
        _without_strings(state), tables, fields, roots, words
    )
    return final, others, status


def _numbers(
    parts: RoundPrograms,
    shape: Shape,
    tables: dict[str, tf.Tensor],
    fields: Sequence[tf.Tensor],
    given: Sequence[tf.Tensor],
    root: tf.Tensor,
    words: tf.Tensor | None,
) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """Writes a round but for its strings: from the state's numbers to the results' numbers."""
    numbers = iter(given)
    known = [
        None if dtype == tf.string else next(numbers)
        for _, dtype in parts.programs["prepare"].arguments
    ]
    style = Style(xla=shape.xla)
    common, carry = parts.begin(known, root, style)
    carry = client_loop.clients(parts, shape, tables, fields, common, carry, root)
    wanted = [i for i, dtype in enumerate(parts.result_dtypes) if dtype != tf.string]
    return parts.finish(known, carry, root, wanted, words, style)


def _numbers_specs(parts: RoundPrograms) -> list[tuple[tf.TensorShape, tf.DType]]:
    both = zip(parts.result_shapes, parts.result_dtypes, strict=True)
    return [(shape, dtype) for shape, dtype in both if dtype != tf.string]


def _without_strings(state: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    return [tensor for tensor in state if tensor.dtype != tf.string]


def texts(parts: RoundPrograms, state: Sequence[tf.Tensor], root: tf.Tensor) -> list[Any]:
    """Writes the results that are strings, at their places; None for the others.

    XLA knows no strings. In a learning process they depend on the state alone (the names of classes
    in a `DpEvent`); a graph in which they do not cannot be written so, and fails.
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
