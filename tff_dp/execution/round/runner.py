"""Runs rounds of one computation: decides how, and has cohorts cut into blocks and run."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tff_dp._arrays import arrays_of
from tff_dp.errors import ComputationError
from tff_dp.execution import marked_noise, values
from tff_dp.execution.cohort import datasets
from tff_dp.execution.graph import traced
from tff_dp.execution.round import (
    backend,
    block_work,
    chooser,
    client_calls,
    failures,
    noise_source,
    strategies,
)
from tff_dp.execution.round.block_work import BlockWork, Work
from tff_dp.execution.round.in_process import InProcess
from tff_dp.execution.round.programs import RoundPrograms, ServerShapeError
from tff_dp.execution.round.round_graphs import RoundGraphs
from tff_dp.execution.settings import Settings

_NOT_ROWS = "the parts of a batch have different leading sizes"


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """A call of a computation.

    Attributes:
      root: Its key, uint64 [2].
      fed: The random words of the noise, one tensor; none where it draws under the key.
      state: The server's part of the argument, as tensors.
      data: The clients' part, a sequence with an entry a client.
      settings: The context's.
    """

    root: tf.Tensor
    fed: list[tf.Tensor]
    state: list[tf.Tensor]
    data: Any
    settings: Settings


class RoundRunner:
    """Runs a computation in MapReduce form: from (server state, clients' data) to its results.

    Args:
      form: The form.
      result_type: The type of the results that are returned.
      skip: How many of the form's results come before them.

    Attributes:
      parts: The form's programs.
      result: The layout of the results.
      graphs: The graphs of its rounds.
      chooser: How cohorts run, and what has been found out by trying.
      fusable: Whether several rounds may be one graph, as far as is known.
    """

    def __init__(self, form: Any, result_type: Any, skip: int = 0) -> None:
        self.parts = RoundPrograms(form)
        if self.parts.server_obstacle:
            raise NotImplementedError(
                f"the server's part cannot be run: {self.parts.server_obstacle}"
            )
        self.result = values.Layout(result_type)
        self._skip = skip
        self._scalars = values.Scalars()
        data = values.Layout(self.parts.work.type_signature.parameter[0])
        self.graphs = RoundGraphs(self.parts, data.count)
        self._calls = client_calls.Calls(form, self.parts, self.graphs.kept, data)
        self.chooser = chooser.Chooser(
            self.parts, self.graphs.state_specs, self.graphs.common_specs
        )
        self._noise_bits: dict[Any, marked_noise.NoiseBits] = {}
        self.fusable = self.parts.fixed_shapes

    def __call__(self, state: Sequence[Any], data: Any, settings: Settings) -> Any:
        """Runs the computation.

        Args:
          state: The server's part of the argument, flat.
          data: The clients' part, a sequence with an entry a client.
          settings: How.

        Returns:
          The results, in the containers of their type.

        Raises:
          ComputationError: A check in the server's or in a client's part failed, or a client's
            part.
        """
        marked_noise.refuse(self.noise_bits(settings))
        root = tf.constant(settings.root())
        drawn = self.words(settings)
        fed = [] if drawn is None else [tf.constant(drawn)]
        arguments = self.parts.programs["prepare"].tensors(
            [self._scalars.known(leaf) for leaf in state]
        )
        results, status = self._run_somehow(Call(root, fed, arguments, data, settings))
        failures.raise_if_failed([int(part) for part in status], self.parts.checks, len(data))
        return self.result.value(self._scalars.returned(results[self._skip :]))

    def noise_bits(self, settings: Settings) -> marked_noise.NoiseBits:
        """Returns where the noise gets its random bits."""
        key = (settings.random_bits, settings.seed is None, self.feeds(settings))
        if key not in self._noise_bits:
            self._noise_bits[key] = noise_source.of_round(self.parts, settings)
        return self._noise_bits[key]

    def words(self, settings: Settings) -> np.ndarray | None:
        """Returns the random words of the noise of one call, or None where it draws under its key."""
        return settings.words(self.parts.layout.count) if self.feeds(settings) else None

    def feeds(self, settings: Settings) -> bool:
        """Returns whether the noise gets its random words from outside of the graph."""
        return bool(self.parts.noisy) and noise_source.feeds(self.parts, settings)

    def _run_somehow(self, call: Call) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """Runs a round by the first candidate that neither fails to trace nor to run.

        Which ways failed, and why, is remembered if one does not: otherwise something else is
        wrong, with the data, say. A client's own error shows where clients run by a call each.
        """
        tried = self.chooser.tried
        obstacle = strategies.data_obstacle(self.parts, call.data)
        while True:
            way = self.chooser.choose(call.settings, obstacle, tried).way
            try:
                found = self._run(call, way, server_xla=tried.server_xla is None)
            except datasets.NotRowsError:
                obstacle = _NOT_ROWS
            except (traced.CannotTraceError, tf.errors.OpError) as error:
                if way.imported:
                    raise ComputationError(f"A round failed: {error}") from error
                if isinstance(error.__cause__, ServerShapeError) and tried.server_xla is None:
                    tried = tried.with_server_xla(str(error))
                else:
                    tried = tried.with_failed(way, failures.summary(str(error)))
            else:
                self.chooser.tried = tried
                self._begin_due(call, way)
                return found

    def _begin_due(self, call: Call, way: strategies.Way) -> None:
        """Has XLA begin with the graph that is due, if there is one, beside the rounds."""
        coming = self.due(call.data, way, call.settings)
        if coming is not None:
            wanted = self._whole(call, coming, self.chooser.tried.server_xla is None)
            self.graphs.kept.begin(wanted, call.settings.places.scope)

    def due(self, data: Any, way: strategies.Way, settings: Settings) -> BlockWork | None:
        """Returns a block of nobody for the graph that XLA is to compile now, beside the rounds; or None.

        It is the cohort's one block but for its clients: the graph is called with it, to be
        compiled.

        Args:
          data: The cohort's data.
          way: How it runs.
          settings: The context's.
        """
        kind = settings.trained(self).due(settings.expected) if way.xla else None
        if kind is None:
            return None
        self.chooser.probe_server()  # what is found decides what the graph is
        if arrays_of(data) is None:
            return None  # data sets are read once, and compiled for when they come next
        only = block_work.cut(
            self.parts, data, way, settings.resident, lambda other, *_: bool(other == kind)
        )
        block, more = next(only, None), next(only, None)
        return block.of_nobody() if isinstance(block, BlockWork) and more is None else None

    def _run(
        self, call: Call, way: strategies.Way, *, server_xla: bool
    ) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        blocks = self.cut(call.data, way, call.settings)
        first, second = next(blocks, None), next(blocks, None)
        if isinstance(first, BlockWork) and second is None:
            who, check, *results = self.graphs.kept.call(self._whole(call, first, server_xla))
            return results, [who, check]
        here = InProcess(self.graphs, self._calls, call.settings.places, way)
        seen = [block for block in (first, second) if block is not None]
        every = itertools.chain(seen, blocks)
        return backend.run_round(
            call.settings.backend(here), call.root, call.fed, call.state, every
        )

    def _whole(self, call: Call, block: BlockWork, server_xla: bool) -> traced.Wanted:
        """Returns the graph of a round of one block."""
        places = call.settings.places
        return self.graphs.whole(
            call.root,
            call.fed,
            call.state,
            block,
            places.of_parts(block.shape.parts),
            server_xla=server_xla,
            in_turn=not places.on_gpu,
        )

    def cut(
        self, data: Any, way: strategies.Way, settings: Settings, rounds: int = 1
    ) -> Iterator[Work]:
        """Returns the blocks of a cohort.

        Args:
          data: The cohort's data.
          way: How it runs.
          settings: The context's.
          rounds: How many rounds are noted to have such a cohort: what they train on counts for
            when XLA compiles it. 0 for one that runs as those before it.
        """
        trained = settings.trained(self)
        if rounds:
            trained.meets(rounds)

        def is_regular(kind: Any, batches: int, of: int) -> bool:
            if not way.xla or (self.parts.work.iterates and kind[1]):
                return False
            return trained.uses(kind, batches, of, rounds) if rounds else trained.used(kind)

        return block_work.cut(self.parts, data, way, settings.resident, is_regular)
