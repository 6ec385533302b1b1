"""Runs each client of a round by a graph call of its own (strategy "call")."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tff_dp.errors import ComputationError
from tff_dp.execution import gpu_memory, values
from tff_dp.execution.cohort import batches
from tff_dp.execution.graph import imported_graph, traced
from tff_dp.execution.round import failures, programs
from tff_dp.execution.round.block_work import CallWork

_POSITION = tf.TensorSpec([], tf.int32)


class Calls:
    """Runs each client of a round by a graph call of its own.

    Args:
      form: The MapReduce form of the computation.
      parts: The programs of that form.
      made: The cache of traced graphs.
      data: The layout of one client's data.
    """

    def __init__(
        self,
        form: Any,
        parts: programs.RoundPrograms,
        made: traced.Graphs,
        data: values.Layout,
    ) -> None:
        self._form, self._parts, self._graphs, self._data = form, parts, made, data
        self._carry_specs = parts.carry_specs
        self._result_specs = [
            tf.TensorSpec(leaf.shape, leaf.dtype)
            for leaf in values.leaves(parts.work.type_signature.result)
        ]
        self._imported: imported_graph.ImportedGraph | None = None
        if parts.work.obstacle:  # import it now, so that a failure to do so is raised here
            self._imported = imported_graph.ImportedGraph(form.work)

    def run(
        self,
        root: tf.Tensor,
        common: list[tf.Tensor],
        carry: list[tf.Tensor],
        block: CallWork,
        *,
        imported: bool,
    ) -> list[tf.Tensor]:
        """Runs the clients of a block, one after another.

        Args:
          root: The root key of the call, uint64 [2].
          common: The tensors that the server sends to all clients.
          carry: The sums and the status before the block.
          block: The clients.
          imported: Whether the clients' part runs as an imported graph instead of being rewritten.

        Returns:
          The sums and the status after the block.

        Raises:
          CannotTraceError: The clients' part cannot be rewritten.
          ComputationError: A client's part failed, or its data set did; the message names the
            client.
        """
        one = self._import if imported else self._write
        for position in range(block.first, block.first + block.count):
            try:
                leaves = self._data.flatten(block.cohort[position])
                carry = one(root, tf.constant(position), leaves, common, carry)
            except traced.CannotTraceError:
                raise
            except Exception as error:  # raised by TensorFlow or by the data set
                whose = failures.client_name(position, len(block.cohort))
                raise ComputationError(
                    f"The computation of {whose} failed: {error}{gpu_memory.advice(error)}"
                ) from error
        return carry

    def _import(
        self,
        root: tf.Tensor,
        at: tf.Tensor,
        leaves: list[Any],
        common: list[tf.Tensor],
        carry: list[tf.Tensor],
    ) -> list[tf.Tensor]:
        if self._imported is None:
            self._imported = imported_graph.ImportedGraph(self._form.work)
        results = self._imported([*leaves, *common], self._parts.client_key(at, root))

        def add(root: tf.Tensor, at: tf.Tensor, *flat: tf.Tensor) -> list[tf.Tensor]:
            carry, results = traced.split(flat, [len(self._carry_specs)])
            return self._parts.add(carry, results, [tf.constant(-1), tf.constant(0)], at, root)

        specs = [_POSITION, *self._carry_specs, *self._result_specs]
        return self._graphs.call(traced.Wanted("add", add, specs, [root, at, *carry, *results]))

    def _write(
        self,
        root: tf.Tensor,
        at: tf.Tensor,
        leaves: list[Any],
        common: list[tf.Tensor],
        carry: list[tf.Tensor],
    ) -> list[tf.Tensor]:
        element_specs = [_element_spec(leaf) for leaf in leaves]
        inputs = [
            leaf if spec is None else imported_graph.as_variant(leaf)
            for leaf, spec in zip(leaves, element_specs, strict=True)
        ]
        inputs = self._parts.work.tensors([*inputs, *common])
        counts = (len(leaves), len(common))

        def call(root: tf.Tensor, at: tf.Tensor, *flat: tf.Tensor) -> list[tf.Tensor]:
            leaves, common, carry = traced.split(flat, counts)
            arguments = [
                leaf if spec is None else batches.Iterated(leaf, spec)
                for leaf, spec in zip(leaves, element_specs, strict=True)
            ]
            results, status = self._parts.client(arguments, common, at, root)
            return self._parts.add(carry, results, status, at, root)

        specs = [_POSITION, *traced.specs_of(self._parts.work), *self._carry_specs]
        key = tuple(repr(spec) for spec in element_specs)
        return self._graphs.call(
            traced.Wanted(("call", key), call, specs, [root, at, *inputs, *carry])
        )


def _element_spec(leaf: Any) -> Any:
    """Returns the specification of a data set's elements, or None for anything else."""
    return leaf.element_spec if isinstance(leaf, tf.data.Dataset) else None
