"""Runs a round over a cohort, by whichever strategy."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tff_dp._arrays import arrays_of
from tff_dp.errors import ComputationError
from tff_dp.execution import devices, marked_noise, values
from tff_dp.execution.cohort import blocks, datasets, prefetch
from tff_dp.execution.cohort.tables import WIDEST, IsRegular
from tff_dp.execution.graph import traced
from tff_dp.execution.round import (
    client_calls,
    client_loop,
    compile_policy,
    failures,
    noise_source,
    probe,
    strategies,
    whole_round,
)
from tff_dp.execution.round.programs import RoundPrograms
from tff_dp.execution.settings import Settings

_NOT_ROWS = "the parts of a batch have different leading sizes"
_IN_PARALLEL_FROM = 64  # clients for each device or thread


class RoundRunner:
    """Runs a computation in MapReduce form: from (server state, clients' data) to its results.

    Args:
      form: The form.
      result_type: The type of the results that are returned.
      skip: How many of the form's results come before them.

    Attributes:
      parts: The form's programs.
      result: The layout of the results.
      graphs: The graphs that have been made.
      state_specs: Of the server's part of the argument.
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
        self.graphs = traced.Graphs()
        self._hows: dict[Any, strategies.How] = {}
        self._failed: dict[strategies.Rung, str] = {}
        self.fusable = self.parts.fixed_shapes
        self._noise_bits: dict[Any, marked_noise.NoiseBits] = {}
        programs = self.parts.programs
        self.state_specs = traced.specs_of(programs["prepare"])
        self._data = values.Layout(self.parts.work.type_signature.parameter[0])
        self._common_specs = traced.specs_of(self.parts.work)[self._data.count :]
        dtypes = [dtype for _, dtype in programs["accumulate"].arguments]
        count = len(self.parts.carry_shapes) - 2
        self._carry_specs = [
            tf.TensorSpec(shape, dtype)
            for shape, dtype in zip(
                self.parts.carry_shapes,
                [
                    *dtypes[: count - self.parts.secure_count],
                    *self.parts.secure_dtypes,
                    tf.int32,
                    tf.int32,
                ],
                strict=True,
            )
        ]
        self._calls = client_calls.Calls(
            form, self.parts, self.graphs, self._data, self._carry_specs
        )

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
        results, status = self._run_somehow(root, fed, arguments, data, settings)
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

    def account(self, settings: Settings) -> str:
        """Returns in words how it runs, for clients given as arrays or as batched data sets."""
        how = self._how_probed(settings)
        lines = [
            f"clients: strategy {how.strategy}, {'with' if how.xla else 'without'} XLA: {how.why}",
            "server: with the clients in one graph, where a cohort is one group of clients; "
            "otherwise a graph before them and one after",
        ]
        if how.xla and self.parts.server_xla_obstacle:
            lines.append(f"server: without XLA, because {self.parts.server_xla_obstacle}")
        if how.xla and how.strategy == "scan" and not settings.compiles_at_once:
            lines.append(
                "XLA: from when clients whose last batches have one size have trained on "
                f"{compile_policy.USED_FROM} batches in this context; compiled beside the rounds before"
            )
        lines += noise_source.account_of_round(self.parts, settings, imported=how.imported)
        if self.parts.secure_count:
            lines.append(
                f"secure sums: {self.parts.secure_count} tensors, summed exactly in this process; no "
                "cryptography hides the terms"
            )
        return "\n".join(lines)

    def _how_probed(self, settings: Settings) -> strategies.How:
        """Returns how a cohort of unknown data runs, where what fails to trace has not been tried yet."""
        failed = dict(self._failed)
        while True:
            how = self._choose(settings, strategies.data_obstacle(self.parts, None), failed)
            if how.strategy == "call":
                return how
            specs = self._common_specs, self._carry_specs
            reason = probe.clients_obstacle(self.parts, how, *specs)
            if reason is None:
                if how.xla and not self.parts.server_xla_obstacle:
                    probe.find_server_obstacle(self.parts, self.state_specs, self._carry_specs)
                return how
            failed[how.rung] = reason

    def _choose(
        self, settings: Settings, obstacle: str | None, failed: Mapping[strategies.Rung, str]
    ) -> strategies.How:
        on_gpu = settings.places.on_gpu
        return strategies.choose(
            self.parts, settings.strategy, settings.xla, on_gpu, obstacle, failed
        )

    def how(self, settings: Settings, data: Any, *, not_rows: bool = False) -> strategies.How:
        """Returns how a cohort runs.

        Args:
          settings: The context's.
          data: The cohort's data, or None if it is not known yet.
          not_rows: Whether the parts of its batches have turned out to differ in their leading sizes.
        """
        obstacle = _NOT_ROWS if not_rows else strategies.data_obstacle(self.parts, data)
        on_gpu = settings.places.on_gpu
        key = (settings.strategy, settings.xla, on_gpu, obstacle, frozenset(self._failed))
        if key not in self._hows:
            self._hows[key] = self._choose(settings, obstacle, self._failed)
        return self._hows[key]

    def _run_somehow(
        self,
        root: tf.Tensor,
        fed: list[tf.Tensor],
        state: list[tf.Tensor],
        data: Any,
        settings: Settings,
    ) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """Runs a round in the first way that neither fails to trace nor to run.

        Which ways failed, and why, is remembered if one does not: otherwise something else is wrong, with
        the data, say. A client's own error shows where clients run by a call each.
        """
        before = dict(self._failed)
        not_rows = False
        try:
            while True:
                how = self.how(settings, data, not_rows=not_rows)
                server = self.parts.server_xla_obstacle
                try:
                    return self._run(root, fed, state, data, how, settings)
                except datasets.NotRowsError:
                    not_rows = True
                except (traced.CannotTraceError, tf.errors.OpError) as error:
                    if how.imported:
                        raise ComputationError(f"A round failed: {error}") from error
                    if server == self.parts.server_xla_obstacle:
                        self._failed[how.rung] = failures.summary(str(error))
        except BaseException:
            self._failed = before
            raise

    def _run(
        self,
        root: tf.Tensor,
        fed: list[tf.Tensor],
        state: list[tf.Tensor],
        data: Any,
        how: strategies.How,
        settings: Settings,
    ) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        if how.strategy == "call":
            return self._run_by_calls(root, fed, state, data, imported=how.imported)
        cut = self.cut(data, how, settings)
        first, second = next(cut, None), next(cut, None)
        if first is not None and second is None:
            whole = self._whole(root, fed, state, first, how, settings.places)
            who, check, *results = self.graphs.call(whole)
            coming = self.due(data, how, settings)
            if coming is not None:
                whole = self._whole(root, fed, state, coming, how, settings.places)
                self.graphs.begin(whole, settings.places.scope)
            return results, [who, check]
        common, carry = self._begin(root, state)
        # The next block is prepared while one trains.
        for block in prefetch.of(
            itertools.chain(filter(None, (first, second)), cut), second is not None
        ):
            shape = shape_of(block, how, settings.places)
            carry = self._clients(root, common, carry, block, shape)
        self.due(data, how, settings)  # what is due is compiled when it comes next
        return self._finish(root, fed, state, carry)

    def due(self, data: Any, how: strategies.How, settings: Settings) -> blocks.Block | None:
        """Returns a block of nobody for the graph that XLA is to compile now, beside the rounds; or None.

        It is the cohort's one block but for its clients: the graph is called with it, to be compiled.

        Args:
          data: The cohort's data.
          how: How it runs.
          settings: The context's.
        """
        if not how.xla:
            return None
        kind = settings.trained(self).due(settings.expected)
        if kind is None:
            return None
        if (
            not self.parts.server_xla_obstacle
        ):  # known before, whatever the other thread finds first
            probe.find_server_obstacle(self.parts, self.state_specs, self._carry_specs)
        if arrays_of(data) is None:
            return None  # data sets are read once, and compiled for when they come next
        only = self._cut(data, how, settings, lambda other, *_: bool(other == kind))
        block, more = next(only, None), next(only, None)
        return None if block is None or more is not None else block.of_nobody()

    def _whole(
        self,
        root: tf.Tensor,
        fed: list[tf.Tensor],
        state: list[tf.Tensor],
        block: blocks.Block,
        how: strategies.How,
        places: devices.Places,
    ) -> traced.Wanted:
        """Returns the graph of a round of one block."""
        shape = shape_of(block, how, places)
        if shape.xla:
            self.graphs.settle()
        columns = _columns(block)
        counts = (len(state), len(fed), len(block.fields))

        def whole(root: tf.Tensor, *flat: tf.Tensor) -> list[tf.Tensor]:
            state, fed, fields, rest = traced.split(flat, counts)
            tables = dict(zip(columns, rest, strict=True))
            words = fed[0] if fed else None
            results, status = whole_round.whole(
                self.parts, shape, tables, fields, state, root, words
            )
            return [*status, *results]

        return traced.Wanted(
            ("whole", shape, tuple(columns), bool(fed)),
            whole,
            [*self.state_specs, *_specs_of(fed)],
            [root, *state, *fed, *block.fields, *columns.values()],
            in_turn=whole_round.is_compiled(self.parts, shape) and not places.on_gpu,
        )

    def _begin(
        self, root: tf.Tensor, state: list[tf.Tensor]
    ) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        carried = len(self._carry_specs)

        def begin(root: tf.Tensor, *state: tf.Tensor) -> list[tf.Tensor]:
            common, carry = self.parts.begin(list(state), root)
            return [*carry, *common]

        outputs = self.graphs.call(traced.Wanted("begin", begin, self.state_specs, [root, *state]))
        return outputs[carried:], outputs[:carried]

    def _clients(
        self,
        root: tf.Tensor,
        common: list[tf.Tensor],
        carry: list[tf.Tensor],
        block: blocks.Block,
        shape: client_loop.Shape,
    ) -> list[tf.Tensor]:
        columns = _columns(block)
        counts = (len(common), len(carry), len(block.fields))

        def clients(root: tf.Tensor, *flat: tf.Tensor) -> list[tf.Tensor]:
            common, carry, fields, rest = traced.split(flat, counts)
            tables = dict(zip(columns, rest, strict=True))
            return client_loop.clients(self.parts, shape, tables, fields, common, carry, root)

        return self.graphs.call(
            traced.Wanted(
                ("clients", shape, tuple(columns)),
                clients,
                [*self._common_specs, *self._carry_specs],
                [root, *common, *carry, *block.fields, *columns.values()],
            )
        )

    def _finish(
        self,
        root: tf.Tensor,
        fed: list[tf.Tensor],
        state: list[tf.Tensor],
        carry: list[tf.Tensor],
    ) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        counts = (len(state), len(fed))

        def finish(root: tf.Tensor, *flat: tf.Tensor) -> list[tf.Tensor]:
            state, fed, carry = traced.split(flat, counts)
            words = fed[0] if fed else None
            results, status = self.parts.finish(state, carry, root, words=words)
            return [*status, *results]

        specs = [*self.state_specs, *_specs_of(fed), *self._carry_specs]
        who, check, *results = self.graphs.call(
            traced.Wanted(("finish", bool(fed)), finish, specs, [root, *state, *fed, *carry])
        )
        return results, [who, check]

    def cut(
        self, data: Any, how: strategies.How, settings: Settings, rounds: int = 1
    ) -> Iterator[blocks.Block]:
        """Returns the blocks of a cohort.

        Args:
          data: The cohort's data.
          how: How it runs.
          settings: The context's.
          rounds: How many rounds are noted to have such a cohort: what they train on counts for when XLA
            compiles it. 0 for one that runs as those before it.
        """
        trained = settings.trained(self)
        if rounds:
            trained.meets(rounds)

        def is_regular(kind: Any, batches: int, of: int) -> bool:
            _, remainder, *_ = kind
            if not how.xla or (self.parts.work.iterates and remainder):
                return False
            return trained.uses(kind, batches, of, rounds) if rounds else trained.used(kind)

        return self._cut(data, how, settings, is_regular)

    def _cut(
        self, data: Any, how: strategies.How, settings: Settings, is_regular: IsRegular
    ) -> Iterator[blocks.Block]:
        by_size = how.strategy == "vmap"
        return blocks.of_cohort(
            data,
            self.parts.work.type_signature.parameter[0],
            settings.resident,
            by_size=by_size,
            is_regular=(lambda *_: True) if by_size else is_regular,
        )

    def _run_by_calls(
        self,
        root: tf.Tensor,
        fed: list[tf.Tensor],
        state: list[tf.Tensor],
        data: Any,
        *,
        imported: bool,
    ) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """Runs the clients one graph call each."""
        common, carry = self._begin(root, state)
        carry = self._calls.run(root, common, carry, data, imported=imported)
        return self._finish(root, fed, state, carry)


def shape_of(block: blocks.Block, how: strategies.How, places: devices.Places) -> client_loop.Shape:
    """Returns what the graph over a block's clients is made for."""
    table = block.table
    listed = "first" in table.columns
    width = 0
    if how.strategy == "vmap" and not listed:
        width = min(table.count, WIDEST)
        if table.count % width:
            raise ValueError(f"{table.count} clients do not fill rows of {width} side by side")
    xla = how.xla and not listed
    several = len(places.names) > 1 and table.count >= len(places.names) * _IN_PARALLEL_FROM
    # Threads of one device help where one graph leaves them idle: XLA's loops on a CPU.
    several = several and (bool(places.names[0]) or (xla and not width))
    return client_loop.Shape(
        batch_size=block.batch_size,
        remainder=table.remainder or 0,
        full=table.full,
        epochs=block.epochs,
        apart=block.apart,
        side_by_side=width,
        xla=xla,
        limits=block.limits,
        places=places.names if several else ("",),
    )


def _specs_of(fed: list[tf.Tensor]) -> list[tf.TensorSpec]:
    return [tf.TensorSpec(words.shape, words.dtype) for words in fed]


def _columns(block: blocks.Block) -> dict[str, tf.Tensor]:
    return {name: tf.constant(column) for name, column in block.table.columns.items()}
