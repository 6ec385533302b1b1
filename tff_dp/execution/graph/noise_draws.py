"""What draws a computation's noise, and what its noise is for random words that are given.

For tests of noise: nothing that runs for real comes here, and no graph that is made here is kept.
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

# Of the uniform numbers that these are, or are made of, by the bytes of their type.
_OF_SIZE = {2: 10, 4: 23, 8: 52}
_BITS = dict.fromkeys(("RandomUniform", "RandomStandardNormal", "TruncatedNormal"), _OF_SIZE)
_OF_CLOCKS = 63.0  # of the number that stands in for a clock which becomes a seed
_WORK = frozenset({"work", "accumulate"})
_NO_KEY = (0, 0)
_STATELESS = ("StatelessRandom", "StatelessMultinomial", "StatelessTruncated", "StatelessParam")


@dataclasses.dataclass(frozen=True)
class Draw:
    """A random operation of a round.

    Attributes:
      part: Of the round: "work" for a client's, "update" and others for the server's.
      name: The operation and its node.
      noise: Whether it stands under the scope of a plan's noise.
      bits: How many random bits each number that it draws has; NaN where that is not known.
      by_client: Whether it is in a client's part.
    """

    part: str
    name: str
    noise: bool
    bits: float
    by_client: bool


def draws_of(computation: Any) -> tuple[Draw, ...] | None:
    """Returns the random operations of a round, or None if it has no form that runs in this process.

    Args:
      computation: A process's `next`.
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
        # TensorFlow draws whole words and reduces them to the range.
        return float(bits) if low is None or high is None else math.log2(max(high - low, 1))
    if node.op not in _BITS:
        return math.nan
    return float(_BITS[node.op][tf.as_dtype(node.attr["dtype"].type).size])


def _constant(node: Any) -> int | None:
    if node is None or node.op != "Const":
        return None
    return int(tf.make_ndarray(node.attr["value"].tensor))


def constant_seeds(computation: Any) -> list[str]:
    """Returns the stateless random operations of a round whose seeds depend on nothing but constants.

    A seed is followed through calls, branches and loops to where it comes from. Whatever a part gets from
    outside, such as the server's state, counts as unknown, and so not as a constant.

    Args:
      computation: A process's `next`.
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
    """Notes which nodes of a function vary, and which arguments of those that it calls."""
    body, here = written.body_of(name), varies[name]
    for key in body.ordered((node, bodies.AFTER) for node in body.nodes):
        node = body.nodes[key]
        data = [source for source, index in body.inputs[key] if index >= 0]
        given = {place for place, source in enumerate(data) if source in here}
        results = False
        for called in random_sources.called_by(node):
            if called in varies:
                arguments = written.body_of(called).arguments
                # A branch has its condition first; what another operation gives to which is not known.
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
    """What an emitter asks for the words of noise: they are all the same."""

    def __init__(self, word: int) -> None:
        self._word = word

    def draw(
        self, node: Any, inputs: list[Any], path: tuple[str, ...], key: tf.Tensor, in_loop: bool
    ) -> list[tf.Tensor]:
        """Returns the word as often as it is asked for; what draws no whole numbers goes by the key."""
        del path, in_loop
        if node.op != "RandomUniformInt":
            return randomness.draw(node, inputs, key)
        word = tf.constant(self._word, tf.int64)
        return [tf.fill(inputs[0], tf.cast(word, tf.as_dtype(node.attr["Tout"].type)))]


def with_words(computation: Any, state: Any, clients: Sequence[Any], word: int) -> Any:
    """Returns what a round gives if each random word of its noise were the same.

    Args:
      computation: An aggregator's `next`, whose clients' data are tensors.
      state: The server's, before.
      clients: Each client's data.
      word: int64.

    Returns:
      As the computation; None if it has no form that runs in this process.
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
