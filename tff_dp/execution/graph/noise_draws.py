"""The random operations of a round, and the result of a round for given random words.

The self-tests of noise use this module. Executing a computation does not involve it, and the graphs
that it builds are not kept.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tff_dp._compat import tensorflow as tf_compat
from tff_dp.execution import compilation, values
from tff_dp.execution.graph import bodies, emitter, program, random_sources, randomness

# The random bits in each uniform number that these operations draw or transform, by the size of the
# data type in bytes: those of the mantissa.
_OF_SIZE = {2: 10, 4: 23, 8: 52}
_BITS = dict.fromkeys(("RandomUniform", "RandomStandardNormal", "TruncatedNormal"), _OF_SIZE)
_OF_CLOCKS = 63.0  # bits of the random number that replaces the current time as a seed
_WORK = frozenset({"work", "accumulate"})
_NO_KEY = (0, 0)
_STATELESS = ("StatelessRandom", "StatelessMultinomial", "StatelessTruncated", "StatelessParam")


@dataclasses.dataclass(frozen=True)
class Draw:
    """A random operation of a round.

    Attributes:
      part: The part of the round that contains it: "work" and "accumulate" run for each client,
        "update" and others on the server.
      name: The operation and the name of its node.
      noise: Whether it is in the name scope of a plan's noise.
      bits: The number of random bits in each number that it draws; NaN if not known.
      by_client: Whether its part runs for each client.
    """

    part: str
    name: str
    noise: bool
    bits: float
    by_client: bool


def draws_of(computation: Any) -> tuple[Draw, ...] | None:
    """Returns the random operations of a round.

    Args:
      computation: The `next` of a process.

    Returns:
      The operations, and the uses of the current time as a seed; None if the computation has no
      form that runs in this process.
    """
    found = compilation.runner_of(computation)
    if isinstance(found, compilation.NoForm):
        return None
    programs: dict[str, program.Program] = found.runner.parts.programs
    draws = []
    for part, written in programs.items():
        by_client = part in _WORK
        draws += [
            Draw(part, str(drawing), drawing.noise, _bits_of(written, drawing), by_client)
            for drawing in written.provenance.drawings
        ]
        noise = written.provenance.marked
        draws += [
            Draw(part, f"Timestamp (that becomes a seed in {name})", noise, _OF_CLOCKS, by_client)
            for _, name in sorted(written.provenance.casts)
        ]
    return tuple(draws)


def _bits_of(written: program.Program, drawing: Any) -> float:
    body = written.body_of(drawing.function)
    node = body.nodes[drawing.name]
    if node.op == "RandomUniformInt":
        bits = 8 * tf.as_dtype(node.attr["Tout"].type).size
        low, high = (_constant(body.nodes.get(name)) for name, _ in body.inputs[node.name][1:3])
        # TensorFlow draws a word of all bits and reduces it to the range.
        return float(bits) if low is None or high is None else math.log2(max(high - low, 1))
    if node.op not in _BITS:
        return math.nan
    return float(_BITS[node.op][tf.as_dtype(node.attr["dtype"].type).size])


def _constant(node: Any) -> int | None:
    if node is None or node.op != "Const":
        return None
    return int(tf.make_ndarray(node.attr["value"].tensor))


def constant_seeds(computation: Any) -> list[str]:
    """Returns the stateless random operations of a round whose seeds depend only on constants.

    Seeds are traced back through calls, branches and loops. The arguments of a part of the round,
    such as the server's state, are unknown and do not count as constants.

    Args:
      computation: The `next` of a process.

    Returns:
      For each such operation, its name, its node and its part of the round, in words; empty if the
      computation has no form that runs in this process.
    """
    found = compilation.runner_of(computation)
    if isinstance(found, compilation.NoForm):
        return []
    programs: dict[str, program.Program] = found.runner.parts.programs
    return [
        f"{name} in {part}" for part, written in programs.items() for name in _constant_in(written)
    ]


def _constant_in(written: program.Program) -> list[str]:
    names = [random_sources.MAIN, *written.functions]
    main = written.body_of(random_sources.MAIN)
    varies = {name: set[str]() for name in names}
    varies[random_sources.MAIN] |= set(main.arguments)
    before = -1
    while before != (before := sum(map(len, varies.values()))):
        for name in names:
            _spread(written, name, varies)
    return [
        f"{node.op} ({node.name})"
        for name in names
        for node in written.body_of(name).nodes.values()
        if node.op.startswith(_STATELESS) and not _seeds_vary(written, name, node, varies[name])
    ]


def _spread(written: program.Program, name: str, varies: dict[str, set[str]]) -> None:
    """Adds the nodes of a function that vary, and the arguments of the functions that it calls."""
    body, here = written.body_of(name), varies[name]
    for key in body.ordered((node, bodies.AFTER) for node in body.nodes):
        node = body.nodes[key]
        data = [source for source, index in body.inputs[key] if index >= 0]
        given = {place for place, source in enumerate(data) if source in here}
        results = False
        for called in random_sources.called_by(node):
            if called in varies:
                arguments = written.body_of(called).arguments
                # The first input of a branch is its condition. How operations of other kinds map
                # their inputs to the arguments of their functions is not known.
                first = 1 if node.op in random_sources.BRANCHES else 0
                known = (
                    node.op in random_sources.CALLS | random_sources.BRANCHES | random_sources.LOOPS
                )
                if known or node.op == called:
                    varies[called] |= {arguments[p - first] for p in given if p >= first}
                elif given:
                    varies[called] |= set(arguments)
                results |= any(r in varies[called] for r, _ in written.body_of(called).results)
        if given or results or node.op in randomness.OPERATIONS or node.op == "Timestamp":
            here.add(key)


def _seeds_vary(written: program.Program, name: str, node: Any, varies: set[str]) -> bool:
    definition = tf_compat.op_def(node.op)
    places = [i for i, a in enumerate(definition.input_arg) if a.name in ("seed", "key")]
    sources = written.body_of(name).inputs[node.name]
    return not places or any(sources[place][0] in varies for place in places)


class _SameWord:
    """A source of random words for `emitter.emit` in which all words are the same."""

    def __init__(self, word: int) -> None:
        self._word = word

    def draw(
        self, node: Any, inputs: list[Any], path: tuple[str, ...], key: tf.Tensor, in_loop: bool
    ) -> list[tf.Tensor]:
        """Returns a tensor of the word; an operation that does not draw integers uses the key."""
        del path, in_loop
        if node.op != "RandomUniformInt":
            return randomness.draw(node, inputs, key)
        word = tf.constant(self._word, tf.int64)
        return [tf.fill(inputs[0], tf.cast(word, tf.as_dtype(node.attr["Tout"].type)))]


def with_words(computation: Any, state: Any, clients: Sequence[Any], word: int) -> Any:
    """Runs a round with every random word of its noise replaced by the same one.

    Args:
      computation: The `next` of an aggregator whose clients' data are tensors.
      state: The state of the server before the round.
      clients: The data of each client.
      word: The word, an integer that fits int64.

    Returns:
      The result of the computation; None if it has no form that runs in this process.
    """
    found = compilation.runner_of(computation)
    if isinstance(found, compilation.NoForm):
        return None
    runner = found.runner
    programs = runner.parts.programs
    words = _SameWord(word)

    @tf.function(autograph=False)
    def run(state: Sequence[tf.Tensor], clients: Sequence[Sequence[tf.Tensor]]) -> Any:
        key = tf.constant(_NO_KEY, tf.uint64)

        def emit(name: str, arguments: Sequence[tf.Tensor]) -> list[tf.Tensor]:
            results, _ = emitter.emit(programs[name], arguments, key, words=words)
            return list(results)

        common, sums = emit("prepare", state), emit("zero", [])
        for data in clients:
            sums = emit("accumulate", [*sums, *emit("work", [*data, *common])])
        return emit("update", [*state, *emit("report", sums)])

    of_state = values.Layout(computation.type_signature.parameter[0])
    of_client = values.Layout(programs["work"].type_signature.parameter[0])
    flat = programs["prepare"].tensors(of_state.flatten(state))
    data = [[tf.convert_to_tensor(leaf) for leaf in of_client.flatten(each)] for each in clients]
    return runner.result.value(run(flat, data)[-runner.result.count :])
