"""Writes a `Program` into the graph that is being traced.

`emission` visits the nodes and copies them. This module has the entry point, and the table of the
operations that are written in another form.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tff_dp.execution.graph import (
    branches,
    compiled_calls,
    list_operations,
    loops,
    program,
    range_checks,
    resource_values,
)
from tff_dp.execution.graph.emission import Emission, Handler
from tff_dp.execution.graph.style import PLAIN, Style


def emit(
    written: program.Program,
    arguments: Sequence[Any],
    key: tf.Tensor,
    only: Sequence[int] | None = None,
    style: Style = PLAIN,
    words: Any = None,
) -> tuple[list[tf.Tensor], tf.Tensor]:
    """Writes a program into the graph that is being traced.

    The emitted operations are a pure function of the arguments and the key: variables and iterators
    become values, random operations draw under keys, and failed assertions become a number.

    Args:
      written: The program. Its `obstacle` must be None.
      arguments: The values of the flattened parameter, in order: tensors, and `program.Batches` for
        sequences.
      key: The key of the random operations in this call, uint64 [2]. Two calls with equal keys and
        arguments draw the same numbers.
      only: The positions of the results that are wanted; all if None.
      style: How the graph is compiled: whether by XLA, and whether it is vectorized.
      words: A source of random words for the operations that draw noise of a plan, such as
        `random_words.Fed`; None if they draw under the key as all others do.

    Returns:
      The wanted results, in the order of the flattened result or of `only`; and the number of the
      first check that failed, int32 [], 0 if none did. The number minus 1 is a position in
      `written.checks`.

    Raises:
      NotImplementedError: An operation cannot be written in this style. The subclass
        `ShapeVariesError` is for a tensor whose shape depends on values in a style that requires
        static shapes.
    """
    results = written.body.results
    wanted = results if only is None else [results[position] for position in only]
    emission = Emission(written, key, style, words, HANDLERS)
    bound = dict(zip(written.body.arguments, ([a] for a in arguments), strict=True))
    bound[written.token] = [tf.constant("")]  # the token of a TFF session, which nothing reads
    values = emission.run(written.body, bound, [*written.start, *wanted], ())
    return values[len(written.start) :], emission.failed


def _call(emission: Emission, node: Any, inputs: list[Any], path: tuple[str, ...]) -> list[Any]:
    compiled = compiled_calls.write(emission, node, inputs, path)
    if compiled is not None:
        return compiled
    return emission.call(node.attr["f"].func.name, inputs, path)


def _check(emission: Emission, node: Any, inputs: list[Any], path: tuple[str, ...]) -> list[Any]:
    """Records an assertion as a check; `CheckNumerics` also returns its input."""
    del path
    if node.op == "CheckNumerics":
        holds = tf.reduce_all(tf.math.is_finite(inputs[0]))
        message = node.attr["message"].s.decode(errors="replace")
    else:
        holds = tf.reduce_all(inputs[0])
        texts = (tf.get_static_value(part) for part in inputs[1:] if part.dtype == tf.string)
        message = " ".join(_text(text) for text in texts if text is not None) or node.name
    emission.keep(range_checks.Check(holds, message))
    return inputs[:1]


def _text(value: Any) -> str:
    parts = value.ravel().tolist() if hasattr(value, "ravel") else [value]
    return " ".join(p.decode(errors="replace") if isinstance(p, bytes) else str(p) for p in parts)


def _skip(emission: Emission, node: Any, inputs: list[Any], path: tuple[str, ...]) -> list[Any]:
    del emission, node, path
    return list(inputs)


def _l2_loss(emission: Emission, node: Any, inputs: list[Any], path: tuple[str, ...]) -> list[Any]:
    """Writes half the sum of squares in a vectorized graph: `L2Loss` has no vectorized form."""
    if not emission.style.vmap:
        return emission.copy(node, inputs, path)
    return [tf.reduce_sum(tf.square(inputs[0])) / 2]


HANDLERS: dict[str, Handler] = {
    "PartitionedCall": _call,
    "StatefulPartitionedCall": _call,
    "If": branches.write_if,
    "StatelessIf": branches.write_if,
    "Case": branches.write_case,
    "StatelessCase": branches.write_case,
    "While": loops.write_while,
    "StatelessWhile": loops.write_while,
    "MatMul": loops.write_product,
    "ReduceDataset": loops.write_reduction,
    "Assert": _check,
    "CheckNumerics": _check,
    "L2Loss": _l2_loss,
    "PlaceholderWithDefault": _skip,
    **list_operations.HANDLERS,
    **dict.fromkeys(("NoOp", "Print", "PrintV2"), _skip),
    **dict.fromkeys(program.ITERATION, resource_values.write_iterator),
    **dict.fromkeys(program.VARIABLES, resource_values.write_variable),
}
"""The function that writes each operation which is not copied as it is, by operation."""
