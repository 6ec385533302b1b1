"""Finds out whether a round can be written in a certain way, by writing it for example inputs."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tff_dp.execution import values
from tff_dp.execution.cohort.tables import NO_BATCHES, Batching, Form
from tff_dp.execution.graph import traced
from tff_dp.execution.graph.style import Style
from tff_dp.execution.round import client_loop, failures, programs, strategies

_BATCH = 2  # the number of examples in a batch, if the type leaves it open
_FULL = 2  # the number of full batches of a client


def clients_obstacle(
    parts: programs.RoundPrograms, way: strategies.Way, common_specs: list[tf.TensorSpec]
) -> str | None:
    """Finds out whether the clients can be written as one graph.

    Args:
      parts: The programs of the round.
      way: How the clients run: strategy "scan" or "vmap".
      common_specs: The specifications of the tensors that the server sends to all clients.

    Returns:
      Why the graph cannot be written, at most 300 characters; None if it can.
    """
    leaves = values.leaves(parts.work.type_signature.parameter[0])
    specs = tf.nest.flatten([values.tensor_specs(leaf) for leaf in leaves])
    width = 2 if way.strategy == "vmap" else 0
    form, batching = Form("tensors"), NO_BATCHES
    fields = [tf.TensorSpec([None, *spec.shape], spec.dtype) for spec in specs]
    if parts.takes_sequence:
        fields = [tf.TensorSpec([None, *spec.shape[1:]], spec.dtype) for spec in specs]
        form = Form("regular" if way.xla or width else "listed")
        if form.kind == "regular":
            batching = Batching(specs[0].shape[0] or _BATCH, full=_FULL)
    shape = client_loop.Shape(form, batching, width, way.xla)

    def write(root: tf.Tensor, *flat: tf.Tensor) -> list[tf.Tensor]:
        common, tensors = traced.split(flat, [len(common_specs)])
        return client_loop.clients(parts, shape, tensors, common, root)

    return _obstacle(write, [*common_specs, *fields, *form.specs()])


def server_obstacle(parts: programs.RoundPrograms, state_specs: list[tf.TensorSpec]) -> str | None:
    """Finds out if a shape that depends on values prevents XLA from compiling the server's parts.

    Args:
      parts: The programs of the round.
      state_specs: The specifications of the tensors of the server's argument.

    Returns:
      What prevents it, or None. Failures of other kinds count as none.
    """
    style = Style(xla=True)
    wanted = [i for i, dtype in enumerate(parts.result_dtypes) if dtype != tf.string]

    def write(root: tf.Tensor, *flat: tf.Tensor) -> Any:
        given, carry = traced.split(flat, [len(state_specs)])
        state = [None if tensor.dtype == tf.string else tensor for tensor in given]
        _, before = parts.begin(state, root, style)
        return parts.finish(state, carry, root, before, wanted, style=style)

    try:
        traced.concrete(write, [*state_specs, *parts.carry_specs])
    except programs.ServerShapeError as error:
        return str(error)
    except Exception:  # not about XLA: it recurs when the round runs
        return None
    return None


def _obstacle(write: Any, specs: list[tf.TensorSpec]) -> str | None:
    try:
        traced.concrete(write, specs)
    except Exception as error:  # TensorFlow raises many kinds
        return failures.summary(str(error))
    return None
