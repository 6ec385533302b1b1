"""Runs several successive rounds as one graph call."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tff_dp.execution import values
from tff_dp.execution.graph import random_words, traced
from tff_dp.execution.round import failures, strategies, whole_round
from tff_dp.execution.round.block_work import BlockWork
from tff_dp.execution.round.client_loop import Shape
from tff_dp.execution.round.runner import RoundRunner
from tff_dp.execution.settings import Settings


def most_at_once(runner: RoundRunner, settings: Settings, rounds: int) -> int:
    """Computes how many rounds one graph call may hold, since the words of their noise take memory.

    Args:
      runner: The runner of the computation.
      settings: The settings of the context.
      rounds: The number of rounds that are wanted.

    Returns:
      At most `rounds`. It is 0 if the random words of a single round exceed the limit.
    """
    drawn = runner.parts.layout.count if runner.feeds(settings) else 0
    size = drawn * random_words.WORD.itemsize
    return min(rounds, random_words.MOST_FUSED // size) if size else rounds


def iterate(
    runner: RoundRunner, state: Sequence[Any], cohorts: Sequence[Any], settings: Settings
) -> tuple[Any, list[Any]] | None:
    """Runs successive rounds as one graph call.

    Args:
      runner: The runner of the computation.
      state: The leaves of the server's argument before the first round, in the order of its type.
      cohorts: The data of each round's clients, all as arrays.
      settings: The settings of the context.

    Returns:
      The state after the last round and a list of each round's other results, in the containers of
      their types; None if the rounds cannot run as one graph, and have to run one at a time.

    Raises:
      ComputationError: A check in the server's part or in a client's part failed.
    """
    if settings.pool is not None:  # workers share the parts of each round
        return None
    way = runner.chooser.way(settings, cohorts[0]) if cohorts else None
    if way is None or way.strategy == "call" or not runner.fusable:
        return None
    some = _blocks(runner, cohorts, way, settings)
    shape = _common_shape(runner, some)
    if shape is None:
        return None
    arguments = runner.parts.programs["prepare"].tensors(state)
    calls = settings.calls
    drawn = [(settings.root(), runner.words(settings)) for _ in cohorts]
    roots = tf.constant(np.stack([root for root, _ in drawn]))
    made = [own for _, own in drawn if own is not None]
    fed = [tf.constant(np.stack(made))] if made else []
    try:
        who, check, *results = runner.graphs.kept.call(
            _several(runner, some, shape, arguments, roots, fed)
        )
    except (tf.errors.OpError, traced.CannotTraceError):
        # The caller now runs the rounds one at a time. If the error recurs, it is reported there
        # with the name of the client. Rounds with a seed draw the same keys again.
        runner.fusable, settings.calls = False, calls
        return None
    failures.raise_if_failed([int(who), int(check)], runner.parts.checks, max(map(len, cohorts)))
    unfused = _unfused(runner, arguments, results, len(cohorts))
    # This comes last: only one graph is traced at a time, and the ones above are needed first.
    coming = runner.due(cohorts[0], way, settings)
    if coming is not None:
        alike = [coming] * len(cohorts)
        shape = _common_shape(runner, alike)
        if shape is not None:
            wanted = _several(runner, alike, shape, arguments, roots, fed)
            runner.graphs.kept.begin(wanted, settings.places.scope)
    return unfused


def _blocks(
    runner: RoundRunner, cohorts: Sequence[Any], way: strategies.Way, settings: Settings
) -> list[BlockWork]:
    """Returns the one block of each round, or an empty list if a cohort has not just one."""
    found = []
    for i, cohort in enumerate(cohorts):
        # Every round uses the graph of the first one. If XLA's graph came into use at a later
        # round, the rounds could not be fused.
        own = list(runner.cut(cohort, way, settings, 0 if i else len(cohorts)))
        if len(own) != 1 or not isinstance(own[0], BlockWork):
            return []
        found.append(own[0])
    return found


def _common_shape(runner: RoundRunner, some: Sequence[BlockWork]) -> Shape | None:
    """Returns what a graph over rounds of one block each is specialized for, or None."""
    # The clients of each round are one part, since the rounds are compiled as one function.
    if not some:
        return None
    shapes = {block.shape for block in some if block.shape is not some[0].shape}
    shapes = {dataclasses.replace(shape, parts=1) for shape in (some[0].shape, *shapes)}
    same = all(a is b for other in some for a, b in zip(some[0].fields, other.fields, strict=True))
    if len(shapes) != 1 or not same:
        return None
    (shape,) = shapes
    return None if shape.xla and runner.chooser.tried.server_xla is not None else shape


def _several(
    runner: RoundRunner,
    some: Sequence[BlockWork],
    shape: Shape,
    arguments: list[tf.Tensor],
    roots: tf.Tensor,
    fed: list[tf.Tensor],
) -> traced.Wanted:
    """Returns the graph of successive rounds of one block each, and its inputs."""
    tables = [tf.constant(_stacked(c)) for c in zip(*(b.table for b in some), strict=True)]
    counts = (len(arguments), len(some[0].fields), 1, len(fed))

    def several(first: tf.Tensor, *flat: tf.Tensor) -> list[tf.Tensor]:
        del first  # the first round's key is among `roots`
        state, fields, (roots,), fed, tables = traced.split(flat, counts)
        final, others, status = whole_round.several(
            runner.parts, shape, fields, tables, state, roots, fed[0] if fed else None
        )
        return [*status, *final, *others]

    return traced.Wanted(
        ("several", shape, bool(fed)),
        several,
        runner.graphs.state_specs,
        [roots[0], *arguments, *some[0].fields, roots, *fed, *tables],
    )


def _unfused(
    runner: RoundRunner, state: list[tf.Tensor], results: list[tf.Tensor], rounds: int
) -> tuple[Any, list[Any]]:
    """Returns the last state and each round's other results, from the tensors of a fused call."""
    strings = [d == tf.string for d in runner.parts.result_dtypes]
    texts = _texts(runner, state)
    arrays = [tensor.numpy() for tensor in results]
    kept = sum(tensor.dtype != tf.string for tensor in state)

    def filled(numbers: Sequence[Any]) -> list[Any]:
        rest = iter(numbers)
        return [texts[i] if text else next(rest) for i, text in enumerate(strings)]

    final = arrays[:kept]
    outputs = [
        runner.result.value(filled([*final, *(array[i] for array in arrays[kept:])]))
        for i in range(rounds)
    ]
    parts = [values.fields_of(output) for output in outputs]
    rest = [part[1] if len(part) == 2 else tuple(part[1:]) for part in parts]
    return parts[-1][0], rest


def _texts(runner: RoundRunner, state: list[tf.Tensor]) -> list[Any]:
    """Returns an entry for each result: its value if it is a string, otherwise an empty string."""

    def write(root: tf.Tensor, *state: tf.Tensor) -> list[tf.Tensor]:
        texts = whole_round.texts(runner.parts, list(state), root)
        return [tf.constant("") if text is None else text for text in texts]

    root = tf.zeros([2], tf.uint64)
    wanted = traced.Wanted("texts", write, runner.graphs.state_specs, [root, *state])
    found = runner.graphs.kept.call(wanted)
    return [tensor.numpy() for tensor in found]


def _stacked(columns: Sequence[np.ndarray]) -> np.ndarray:
    """Returns columns of several rounds as one array; shorter ones are padded with zeros."""
    length = max(len(column) for column in columns)
    stacked = np.zeros([len(columns), length, *columns[0].shape[1:]], columns[0].dtype)
    for own, column in zip(stacked, columns, strict=True):
        own[: len(column)] = column
    return stacked
