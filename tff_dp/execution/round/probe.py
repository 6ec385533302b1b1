"""Whether a round can be written in a way, found out by writing it for clients that there are not."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tff_dp.execution import values
from tff_dp.execution.graph import traced
from tff_dp.execution.graph.style import Style
from tff_dp.execution.round import client_loop, failures, programs, strategies

_BATCH = 2  # examples, where the type leaves their number open
_FULL = 2  # batches


def clients_obstacle(
    parts: programs.RoundPrograms,
    how: strategies.How,
    common_specs: list[tf.TensorSpec],
    carry_specs: list[tf.TensorSpec],
) -> str | None:
    """Returns why clients cannot be one graph in a way, or None if they can.

    Args:
      parts: The round's programs.
      how: The way, of one graph.
      common_specs: Of what clients get from the server.
      carry_specs: Of the sums over clients and the status.
    """
    leaves = values.leaves(parts.work.type_signature.parameter[0])
    specs = tf.nest.flatten([values.tensor_specs(leaf) for leaf in leaves])
    width = 2 if how.strategy == "vmap" else 0
    shape = client_loop.Shape(side_by_side=width, xla=how.xla)
    columns = {"count": tf.TensorSpec([], tf.int32), "positions": tf.TensorSpec([None], tf.int32)}
    fields = [tf.TensorSpec([None, *spec.shape], spec.dtype) for spec in specs]
    if parts.takes_sequence:
        fields = [tf.TensorSpec([None, *spec.shape[1:]], spec.dtype) for spec in specs]
        if shape.style.is_static:
            size = specs[0].shape[0] or _BATCH
            shape = client_loop.Shape(batch_size=size, full=_FULL, side_by_side=width, xla=how.xla)
            columns = {"clients": tf.TensorSpec([None, 3], tf.int32)}
        else:
            columns |= dict.fromkeys(("first", "starts", "counts"), columns["positions"])
    counts = (len(common_specs), len(carry_specs), len(fields))

    def write(root: tf.Tensor, *flat: tf.Tensor) -> list[tf.Tensor]:
        common, carry, given, rest = traced.split(flat, counts)
        tables = dict(zip(columns, rest, strict=True))
        return client_loop.clients(parts, shape, tables, given, common, carry, root)

    return _obstacle(write, [*common_specs, *carry_specs, *fields, *columns.values()])


def find_server_obstacle(
    parts: programs.RoundPrograms,
    state_specs: list[tf.TensorSpec],
    carry_specs: list[tf.TensorSpec],
) -> None:
    """Notes in the programs what keeps the server's parts from XLA."""
    style = Style(xla=True)
    wanted = [i for i, dtype in enumerate(parts.result_dtypes) if dtype != tf.string]

    def write(root: tf.Tensor, *flat: tf.Tensor) -> Any:
        given, carry = traced.split(flat, [len(state_specs)])
        state = [None if tensor.dtype == tf.string else tensor for tensor in given]
        parts.begin(state, root, style)
        return parts.finish(state, carry, root, wanted, style=style)

    _obstacle(write, [*state_specs, *carry_specs])


def _obstacle(write: Any, specs: list[tf.TensorSpec]) -> str | None:
    try:
        traced.concrete(write, specs)
    except Exception as error:  # TensorFlow raises many kinds
        return failures.summary(str(error))
    return None
