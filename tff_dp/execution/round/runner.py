"""Runs rounds of one computation: chooses how, splits cohorts into blocks, and runs these."""

from __future__ import annotations

import dataclasses
import itertools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tff_dp._arrays import arrays_of
from tff_dp.errors import ComputationError
from tff_dp.execution import gpu_memory, marked_noise, values
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
from tff_dp.execution.round.on_cluster import OnCluster
from tff_dp.execution.round.programs import RoundPrograms, ServerShapeError
from tff_dp.execution.round.round_graphs import RoundGraphs
from tff_dp.execution.settings import Settings

_NOT_ROWS = "the parts of a batch have different leading sizes"


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """One call of a computation.

    Attributes:
      root: The root key of the call, uint64 [2].
      fed: The random words of the noise, one int64 tensor [words]; an empty list if the noise is
        drawn from the root key.
      state: The tensors of the server's argument, in the order of its type.
      data: The data of the clients, a sequence with one entry per client.
      settings: The settings of the context.
    """

    root: tf.Tensor
    fed: list[tf.Tensor]
    state: list[tf.Tensor]
    data: Any
    settings: Settings


class RoundRunner:
    """Runs a computation in MapReduce form: from (server state, clients' data) to its results.

    Args:
      form: The `tff.backends.mapreduce.MapReduceForm`.
      result_type: The TFF type of the results that are returned.
      skip: The number of the form's results that come before these and are dropped.

    Raises:
      NotImplementedError: A program of the form other than `work` cannot be rewritten, or has state
        that would persist between runs.

    Attributes:
      parts: The programs of the form.
      result: The layout of the results.
      graphs: The graphs of the computation's rounds.
      chooser: Chooses how cohorts run, and remembers which ways have failed.
      fusable: Whether several rounds can be one graph, as far as is known.
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
        """Tells where the noise gets its random bits.

        Args:
          settings: The settings of the context.

        Returns:
          The source of the bits, or the reason why the computation is refused.
        """
        key = (settings.random_bits, settings.seed is None, self.feeds(settings))
        if key not in self._noise_bits:
            self._noise_bits[key] = noise_source.of_round(self.parts, settings)
        return self._noise_bits[key]

    def words(self, settings: Settings) -> np.ndarray | None:
        """Draws the random words of the noise of one call.

        Args:
          settings: The settings of the context, whose root key for this call has been drawn.

        Returns:
          The words, int64 [parts.layout.count]; None if the noise is drawn from the root key.
        """
        return settings.words(self.parts.layout.count) if self.feeds(settings) else None

    def feeds(self, settings: Settings) -> bool:
        """Tells whether the noise gets its random words as an input of the graph.

        Args:
          settings: The settings of the context.

        Returns:
          Whether the computation has noise, and it is drawn from such words.
        """
        return bool(self.parts.noisy) and noise_source.feeds(self.parts, settings)

    def _run_somehow(self, call: Call) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """Runs a round by the first candidate that can be traced and that runs.

        If a candidate succeeds, the failures of those before it are remembered. If none does,
        nothing is remembered, since the cause is something else, such as the data. A client's own
        error is reported when clients run by one graph call each.
        """
        tried = self.chooser.tried
        obstacle = strategies.data_obstacle(self.parts, call.data)
        out_of_memory: dict[strategies.Way, str] = {}
        while True:
            way = self.chooser.choose(call.settings, obstacle, tried).way
            try:
                found = self._run(call, way, server_xla=tried.server_xla is None)
            except datasets.NotRowsError:
                obstacle = _NOT_ROWS
            except (traced.CannotTraceError, tf.errors.OpError) as error:
                if way.imported:
                    raise ComputationError(
                        f"A round failed: {error}{gpu_memory.advice(error)}"
                    ) from error
                out_of_memory.setdefault(way, gpu_memory.advice(error))
                if isinstance(error.__cause__, ServerShapeError) and tried.server_xla is None:
                    tried = tried.with_server_xla(str(error))
                else:
                    tried = tried.with_failed(way, failures.summary(str(error)))
            else:
                self.chooser.tried = tried
                _warn_of_memory(out_of_memory, way)
                self._begin_due(call, way)
                return found

    def _begin_due(self, call: Call, way: strategies.Way) -> None:
        """Starts the XLA compilation that is due, if any, in the background of the rounds."""
        coming = self.due(call.data, way, call.settings)
        if coming is not None:
            wanted = self._whole(call, coming, self.chooser.tried.server_xla is None)
            self.graphs.kept.begin(wanted, call.settings.places.scope)

    def due(self, data: Any, way: strategies.Way, settings: Settings) -> BlockWork | None:
        """Determines which graph XLA is to compile now, in the background of the rounds.

        The graph is compiled by calling it, with the cohort's only block without its clients.

        Args:
          data: The data of the cohort's clients.
          way: How they run.
          settings: The settings of the context.

        Returns:
          A block without clients, to call the graph with; None if none is due, the data are data
          sets, or the cohort is not a single block.
        """
        kind = settings.trained(self).due(settings.expected) if way.xla else None
        if kind is None:
            return None
        self.chooser.probe_server()  # the result decides which graph is compiled
        if arrays_of(data) is None:
            return None  # a data set is read once; its graph is compiled when it recurs
        only = block_work.cut(
            self.parts, data, way, settings.resident, lambda other, *_: bool(other == kind)
        )
        block, more = next(only, None), next(only, None)
        if not isinstance(block, BlockWork) or more is not None or _is_shared(block, settings):
            return None
        return block.of_nobody()

    def _run(
        self, call: Call, way: strategies.Way, *, server_xla: bool
    ) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        blocks = self.cut(call.data, way, call.settings)
        first, second = next(blocks, None), next(blocks, None)
        if isinstance(first, BlockWork) and second is None and not _is_shared(first, call.settings):
            who, check, *results = self.graphs.kept.call(self._whole(call, first, server_xla))
            return results, [who, check]
        here = InProcess(self.graphs, self._calls, call.settings.places, way)
        seen = [block for block in (first, second) if block is not None]
        every = itertools.chain(seen, blocks)
        pool = call.settings.pool
        behind = here if pool is None else OnCluster(here, pool)
        return backend.run_round(
            call.settings.backend(behind), call.root, call.fed, call.state, every
        )

    def _whole(self, call: Call, block: BlockWork, server_xla: bool) -> traced.Wanted:
        """Returns the graph of a round of one block, and its inputs."""
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
        """Splits a cohort into blocks, and records what its clients train on.

        Args:
          data: The data of the cohort's clients.
          way: How they run.
          settings: The settings of the context.
          rounds: The number of rounds that are recorded with such a cohort; this decides when XLA
            compiles it. 0 for a cohort that runs in the same way as the one before it, and is not
            recorded.

        Returns:
          The blocks, numbered from 0.
        """
        trained = settings.trained(self)
        if rounds:
            trained.meets(rounds)

        def is_regular(kind: Any, batches: int, of: int) -> bool:
            if not way.xla or (self.parts.work.iterates and kind[1]):
                return False
            return trained.uses(kind, batches, of, rounds) if rounds else trained.used(kind)

        return block_work.cut(self.parts, data, way, settings.resident, is_regular)


def _is_shared(block: BlockWork, settings: Settings) -> bool:
    """Returns whether workers of a cluster share the parts of a cohort that is one block."""
    return settings.pool is not None and block.shape.parts > 1


def _warn_of_memory(given_up: Mapping[strategies.Way, str], way: strategies.Way) -> None:
    """Says that rounds run in a slower way from now on, since there was no memory for a faster one.

    Args:
      given_up: The ways that were given up, each with what to do if it was for lack of memory, or "".
      way: The way in which rounds run.
    """
    for other, advice in given_up.items():
        if advice:
            warnings.warn(
                f"Rounds run by {way} from now on, and not by {other}, for which there was no memory."
                f"{advice}",
                RuntimeWarning,
                stacklevel=2,
            )
