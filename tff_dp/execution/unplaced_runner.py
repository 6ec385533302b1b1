"""Runs a computation without clients, which is one TensorFlow graph."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tff_dp._compat import tensorflow as tf_compat
from tff_dp.execution import arguments, marked_noise, values
from tff_dp.execution.graph import emitter, imported_graph, program, randomness, traced
from tff_dp.execution.round import failures, noise_source, programs
from tff_dp.execution.settings import Settings


class LocalRunner:
    """Runs a computation that is one TensorFlow graph.

    Args:
      comp: The computation, an unplaced one.
      type_signature: The type of the computation that it stands for, whose argument and result have
        the same leaves; None for its own type.

    Raises:
      NotImplementedError: The graph has state that would persist between runs.

    Attributes:
      why: Why the graph runs as it was imported; None if it is rewritten.
    """

    def __init__(self, comp: Any, type_signature: Any = None) -> None:
        signature = type_signature or comp.type_signature
        parameter = signature.parameter
        self._argument = (
            None if parameter is None else arguments.Argument("the argument", parameter)
        )
        self._result = values.Layout(signature.result)
        self._program = program.Program(comp)
        if self._program.lasting:
            raise NotImplementedError(self._program.lasting)
        self.why = self._program.obstacle
        if any(dtype == tf.variant for _, dtype in self._program.arguments):
            self.why = self.why or "it takes a sequence"
        if self.why:
            self._graph: Any = imported_graph.ImportedGraph(comp)
        else:
            self._graph = traced.concrete(self._emit, traced.specs_of(self._program))

    def account(self, settings: Settings) -> str:
        """Describes how the computation runs.

        Args:
          settings: The settings of the context.

        Returns:
          A text of a few lines.
        """
        how = f"one graph as it was imported, because {self.why}" if self.why else "one graph"
        imported = bool(self.why)
        drawn = noise_source.account_of_program(self._program, settings, imported=imported)
        return "\n".join([how, *drawn])

    def noise_bits(self, settings: Settings) -> marked_noise.NoiseBits:
        """Tells where the noise of the computation gets its random bits.

        Args:
          settings: The settings of the context.

        Returns:
          The source of the bits, or the reason why the computation is refused.
        """
        return noise_source.of_program(self._program, settings)

    def _emit(self, root: tf.Tensor, *arguments: tf.Tensor) -> list[tf.Tensor]:
        results, failed = emitter.emit(self._program, arguments, randomness.fold(root, 0))
        return [failed, *results]

    def __call__(self, arg: Any, settings: Settings) -> Any:
        """Runs the computation.

        Args:
          arg: The argument; None if there is none.
          settings: The settings of the context.

        Returns:
          The result, in the containers of its type.

        Raises:
          ArgumentTypeError: The argument is not of the computation's type.
          ComputationError: A check in the graph failed, or the computation is refused for its
            noise.
        """
        given = [] if self._argument is None else self._argument.flat(arg)
        marked_noise.refuse(self.noise_bits(settings))
        if self.why:
            key = randomness.fold(tf.constant(settings.root()), 0)
            results = self._graph(given, key)
        else:
            inputs = [tf.constant(settings.root()), *self._program.tensors(given)]
            failed, *results = tf_compat.call_flat(self._graph, inputs)
            failures.raise_if_failed([programs.SERVER_FAILED, int(failed)], self._program.checks, 0)
        return self._result.value(results)
