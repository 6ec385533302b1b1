"""Runs rounds of one computation: decides how, cuts cohorts into blocks, and loops over them."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tff_dp._arrays import arrays_of
from tff_dp.errors import ComputationError
from tff_dp.execution import marked_noise, values
from tff_dp.execution.cohort import cutting, datasets
from tff_dp.execution.cohort.tables import IsRegular
from tff_dp.execution.graph import traced
from tff_dp.execution.round import client_calls, failures, noise_source, probe, strategies
from tff_dp.execution.round.backend import BlockWork, CallWork, SumTree, Work
from tff_dp.execution.round.client_loop import shape_of
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
      tried: What has been found out by trying.
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
        self.tried = strategies.Tried({}, self.parts.server_xla_obstacle)
        self._choices: dict[Any, tuple[strategies.Tried, strategies.Choice]] = {}
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
          ComputationError: A check in the server's or in a client's part failed, or a client's part.
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

    def probed(self, settings: Settings) -> tuple[strategies.Choice, strategies.Tried]:
        """Returns how a cohort of unknown data runs, and what was found out by writing its graphs.

        What fails to trace may not have been tried yet. Nothing is remembered.
        """
        tried = self.tried
        obstacle = strategies.data_obstacle(self.parts, None)
        while True:
            choice = self._choose(settings, obstacle, tried)
            way = choice.way
            if way.strategy == "call":
                return choice, tried
            reason = probe.clients_obstacle(self.parts, way, self.graphs.common_specs)
            if reason is None:
                return choice, self._with_server(tried) if way.xla else tried
            tried = tried.with_failed(way, reason)

    def _with_server(self, tried: strategies.Tried) -> strategies.Tried:
        found = tried.server_xla or probe.server_obstacle(self.parts, self.graphs.state_specs)
        return tried.with_server_xla(found) if found else tried

    def _choose(
        self, settings: Settings, obstacle: str | None, tried: strategies.Tried
    ) -> strategies.Choice:
        on_gpu = settings.places.on_gpu
        key = (settings.strategy, settings.xla, on_gpu, obstacle)
        found = self._choices.get(key)
        if found is None or found[0] is not tried:
            found = tried, strategies.choose(self.parts, *key, tried.failed)
            self._choices[key] = found
        return found[1]

    def way(self, settings: Settings, data: Any) -> strategies.Way:
        """Returns how a cohort runs, as far as is known before it does.

        Args:
          settings: The context's.
          data: The cohort's data.
        """
        obstacle = strategies.data_obstacle(self.parts, data)
        return self._choose(settings, obstacle, self.tried).way

    def _run_somehow(self, call: Call) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """Runs a round by the first candidate that neither fails to trace nor to run.

        Which ways failed, and why, is remembered if one does not: otherwise something else is wrong, with
        the data, say. A client's own error shows where clients run by a call each.
        """
        tried = self.tried
        obstacle = strategies.data_obstacle(self.parts, call.data)
        while True:
            way = self._choose(call.settings, obstacle, tried).way
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
                self.tried = tried
                self._begin_due(call, way)
                return found

    def _begin_due(self, call: Call, way: strategies.Way) -> None:
        """Has XLA begin with the graph that is due, if there is one, beside the rounds."""
        coming = self.due(call.data, way, call.settings)
        if coming is not None:
            wanted = self._whole(call, coming, self.tried.server_xla is None)
            self.graphs.kept.begin(wanted, call.settings.places.scope)

    def due(self, data: Any, way: strategies.Way, settings: Settings) -> BlockWork | None:
        """Returns a block of nobody for the graph that XLA is to compile now, beside the rounds; or None.

        It is the cohort's one block but for its clients: the graph is called with it, to be compiled.

        Args:
          data: The cohort's data.
          way: How it runs.
          settings: The context's.
        """
        kind = settings.trained(self).due(settings.expected) if way.xla else None
        if kind is None:
            return None
        self.tried = self._with_server(self.tried)  # which decides what the graph is
        if arrays_of(data) is None:
            return None  # data sets are read once, and compiled for when they come next
        only = self._cut(data, way, settings, lambda other, *_: bool(other == kind))
        block, more = next(only, None), next(only, None)
        return None if block is None or more is not None else block.of_nobody()

    def _run(
        self, call: Call, way: strategies.Way, *, server_xla: bool
    ) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        blocks = self.cut(call.data, way, call.settings)
        first, second = next(blocks, None), next(blocks, None)
        if isinstance(first, BlockWork) and second is None:
            who, check, *results = self.graphs.kept.call(self._whole(call, first, server_xla))
            return results, [who, check]
        return self._run_blocks(call, way, itertools.chain(filter(None, (first, second)), blocks))

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

    def _run_blocks(
        self, call: Call, way: strategies.Way, blocks: Iterator[Work]
    ) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """Runs a round of several blocks, or of none, in a backend."""
        here = InProcess(self.graphs, self._calls, call.settings.places, way)
        backend = call.settings.backend(here)
        common, before = backend.begin(call.root, call.state)
        tree = SumTree(functools.partial(backend.join, call.root))
        asked = 0

        def counted() -> Iterator[Work]:
            nonlocal asked
            for block in blocks:
                asked += 1
                yield block

        for number, sums in backend.partial_sums(call.root, common, counted()):
            tree.add(number, sums)
        total = tree.total(asked)
        if total is None:
            total = backend.nobody(call.root)
        return backend.finish(call.root, call.fed, call.state, before, total)

    def cut(
        self, data: Any, way: strategies.Way, settings: Settings, rounds: int = 1
    ) -> Iterator[Work]:
        """Returns the blocks of a cohort.

        Args:
          data: The cohort's data.
          way: How it runs.
          settings: The context's.
          rounds: How many rounds are noted to have such a cohort: what they train on counts for when XLA
            compiles it. 0 for one that runs as those before it.
        """
        if way.strategy == "call":
            return call_blocks(data)
        trained = settings.trained(self)
        if rounds:
            trained.meets(rounds)

        def is_regular(kind: Any, batches: int, of: int) -> bool:
            if not way.xla or (self.parts.work.iterates and kind[1]):
                return False
            return trained.uses(kind, batches, of, rounds) if rounds else trained.used(kind)

        return self._cut(data, way, settings, is_regular)

    def _cut(
        self, data: Any, way: strategies.Way, settings: Settings, is_regular: IsRegular
    ) -> Iterator[BlockWork]:
        side_by_side = way.strategy == "vmap"
        blocks = cutting.blocks_of(
            data,
            self.parts.work.type_signature.parameter[0],
            settings.resident,
            by_size=side_by_side,
            is_regular=(lambda *_: True) if side_by_side else is_regular,
        )
        carry_bytes = self.parts.carry_bytes
        for number, block in enumerate(blocks):
            shape = shape_of(block, side_by_side=side_by_side, xla=way.xla, carry_bytes=carry_bytes)
            yield BlockWork(number, shape, block.fields, block.table.arrays())


def call_blocks(data: Sequence[Any]) -> Iterator[CallWork]:
    """Yields the blocks of clients that run by a graph call each.

    Args:
      data: The values of the cohort's clients.
    """
    for number, first in enumerate(range(0, len(data), client_calls.AT_ONCE)):
        yield CallWork(number, first, min(client_calls.AT_ONCE, len(data) - first), data)
