"""Writes a `Program` into the graph that is being traced.

`emission` goes over the nodes; here is the table of the operations that are not created as they are, and
what is written in their place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tff_dp.execution.graph import branches, loops, program, range_checks, resource_values
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

    Args:
      written: The program.
      arguments: A tensor for each of the flattened parameter type, `Batches` for a sequence.
      key: Of this call, uint64 [2].
      only: Positions of the results that are wanted; all by default.
      style: What becomes of the graph.
      words: Where the noise of a plan gets its random words, as `random_words.Fed`; None for the key's.

    Returns:
      The results, and the number of the first check that failed, int32 [], 0 for none.

    Raises:
      NotImplementedError: Something in it cannot be written so; `ShapeVariesError` for a tensor
        whose shape depends on values.
    """
    results = written.body.results
    wanted = results if only is None else [results[position] for position in only]
    emission = Emission(written, key, style, words, HANDLERS)
    bound = dict(zip(written.body.arguments, ([a] for a in arguments), strict=True))
    bound[written.token] = [tf.constant("")]
    values = emission.run(written.body, bound, [*written.start, *wanted], ())
    return values[len(written.start) :], emission.failed


def _call(emission: Emission, node: Any, inputs: list[Any], path: tuple[str, ...]) -> list[Any]:
    return emission.call(node.attr["f"].func.name, inputs, path)


def _check(emission: Emission, node: Any, inputs: list[Any], path: tuple[str, ...]) -> list[Any]:
    """Makes a kept check of an assertion."""
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
    """Half the sum of squares: `L2Loss` itself cannot be vectorized."""
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
    "ReduceDataset": loops.write_reduction,
    "Assert": _check,
    "CheckNumerics": _check,
    "L2Loss": _l2_loss,
    "PlaceholderWithDefault": _skip,
    **dict.fromkeys(("NoOp", "Print", "PrintV2"), _skip),
    **dict.fromkeys(program.ITERATION, resource_values.write_iterator),
    **dict.fromkeys(program.VARIABLES, resource_values.write_variable),
}
"""What writes the operations that are not created as they are, by operation."""
