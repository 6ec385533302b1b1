"""Static analysis of where the random bits of a TensorFlow graph come from.

The noise of a privacy plan is in the name scope `NOISE_SCOPE`, which survives TFF's serialization
and its splitting of a round. Every random operation in that scope, including those of functions
that are called there, must draw under a key (`randomness`). TensorFlow seeds its own generators
with only 32 bits, and TFF seeds some of its operations with the time, both of which an adversary
could guess.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import tensorflow as tf

from tff_dp._compat import tensorflow as tf_compat
from tff_dp.execution.graph import bodies, randomness
from tff_dp.execution.marked_noise import NOISE_SCOPE

MAIN = ""  # stands for the graph itself where the name of a function is expected
CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})
BRANCHES = frozenset({"If", "StatelessIf", "Case", "StatelessCase"})
LOOPS = frozenset({"While", "StatelessWhile"})
# Operations that TensorFlow defines as stateful, but that draw no random bits.
_WITHOUT_BITS = frozenset(
    {"Assert", "CheckNumerics", "NoOp", "Print", "PrintV2", "Placeholder", "PlaceholderWithDefault"}
    | {"VarHandleOp", "ReadVariableOp", "AssignVariableOp", "AssignAddVariableOp"}
    | {"AssignSubVariableOp", "VarIsInitializedOp", "VariableShape", "ResourceGather"}
    | {"Timestamp", "TensorListReserve", "EmptyTensorList"}
)
_CODE = frozenset({"PyFunc", "PyFuncStateless", "EagerPyFunc"})
_OF_SHAPES = frozenset({"Shape", "ShapeN", "Rank", "Size", "ZerosLike", "OnesLike"})
_OF_SEEDS = ("seed", "seed2", "key")


@dataclasses.dataclass(frozen=True)
class Drawing:
    """An operation that draws, or may draw, random bits.

    Attributes:
      function: The function of the graph's library that contains it; `MAIN` for the graph itself.
      name: The name of its node.
      op: The name of the operation.
      noise: Whether it draws noise of a privacy plan.
      obstacle: Why it cannot draw under a key, or None.
    """

    function: str
    name: str
    op: str
    noise: bool
    obstacle: str | None

    def __str__(self) -> str:
        return f"{self.op} ({self.name})"


@dataclasses.dataclass(frozen=True)
class Provenance:
    """The origin of the random bits of a graph.

    Attributes:
      drawings: The operations that draw, or may draw, random bits.
      marked: Whether any node of the graph is in the name scope of a plan's noise.
      casts: The casts of the current time to integers, which are taken for seeds, as the names of
        the function and of the node.
      lost: The places at which the use of the current time can no longer be traced, in words.
    """

    drawings: tuple[Drawing, ...]
    marked: bool
    casts: frozenset[tuple[str, str]]
    lost: tuple[str, ...]

    @property
    def noise_obstacles(self) -> list[str]:
        """The reasons why the noise cannot be drawn under keys, each with its operation."""
        found = [f"{d}: {d.obstacle}" for d in self.drawings if d.noise and d.obstacle]
        return found + list(self.lost)

    @property
    def unkeyed(self) -> list[Drawing]:
        """The operations that stay as they are, without keys, if the graph runs as imported."""
        return [d for d in self.drawings if d.obstacle]

    @property
    def keyed(self) -> list[Drawing]:
        """The operations that draw under keys."""
        return [d for d in self.drawings if not d.obstacle]


def of(body: bodies.Body, functions: Mapping[str, Any], targets: Iterable[Any]) -> Provenance:
    """Analyzes a graph.

    Args:
      body: The body of the graph.
      functions: The functions of its library, by name.
      targets: The outputs of the body that are wanted, as `bodies.Reference`.

    Returns:
      The origin of the random bits that the targets and the effects of the body depend on.
    """
    bodies_of: dict[str, bodies.Body] = {MAIN: body}
    drawings: list[Drawing] = []
    marked = False
    seen: set[tuple[str, bool]] = set()
    pending = [(MAIN, list(targets), False)]
    while pending:
        function, wanted, inherited = pending.pop()
        here = bodies_of[function]
        for name in here.ordered([*wanted, *here.effects]):
            node = here.nodes[name]
            noise = inherited or NOISE_SCOPE in name
            marked = marked or noise
            called = [f for f in called_by(node) if f in functions]
            drawing = _drawing(here, function, node, noise, bool(called))
            if drawing is not None:
                drawings.append(drawing)
            for other in called:
                if (other, noise) not in seen:
                    seen.add((other, noise))
                    if other not in bodies_of:
                        bodies_of[other] = bodies.of_function(functions[other], functions)
                    pending.append((other, list(bodies_of[other].results), noise))
    casts, lost = _Clock(bodies_of).followed()
    return Provenance(tuple(drawings), marked, casts, lost)


def called_by(node: Any) -> list[str]:
    """Returns the names that may be those of functions which a node calls.

    Args:
      node: The `NodeDef`.

    Returns:
      The operation of the node, which may be a function's own name, then the functions that its
      attributes refer to.
    """
    named = [f for value in node.attr.values() for f in (value.func, *value.list.func)]
    return [node.op, *(f.name for f in named if f.name)]


def is_noise(path: Iterable[str]) -> bool:
    """Returns whether a node is in the name scope of a plan's noise.

    Args:
      path: The names of the nodes that lead to it, its own included.

    Returns:
      Whether one of them is in the scope. A function that is called in the scope belongs to it.
    """
    return any(NOISE_SCOPE in name for name in path)


def _drawing(
    body: bodies.Body, function: str, node: Any, noise: bool, calls: bool
) -> Drawing | None:
    """Returns the description of an operation that may draw random bits, and None for others."""
    op = node.op
    if op in randomness.OPERATIONS:
        return Drawing(function, node.name, op, noise, None)
    if op in CALLS | BRANCHES | LOOPS or op in _WITHOUT_BITS:
        return None
    definition = tf_compat.op_def(op)
    if definition is None:
        if calls:
            return None
        return Drawing(function, node.name, op, noise, "it is unknown to this TensorFlow")
    if op in _CODE:
        return Drawing(
            function, node.name, op, noise, "it runs Python code, which cannot be analyzed"
        )
    if op.startswith("Stateless"):
        if noise and _has_fixed_seed(body, node, definition):
            return Drawing(function, node.name, op, noise, "its seed is a constant of the graph")
        return None
    if not definition.is_stateful:
        return None
    if noise or "Random" in op or "Rng" in op or "Deterministic" in op or _has_seed(definition):
        why = "it draws from a generator that TensorFlow seeds itself, with 32 bits"
        return Drawing(function, node.name, op, noise, why)
    return None


def _has_seed(definition: Any) -> bool:
    names = [*(a.name for a in definition.attr), *(a.name for a in definition.input_arg)]
    return any(name in _OF_SEEDS for name in names)


def _has_fixed_seed(body: bodies.Body, node: Any, definition: Any) -> bool:
    """Returns whether the seed of a stateless operation depends on constants only."""
    places = [i for i, a in enumerate(definition.input_arg) if a.name in _OF_SEEDS]
    if not places:
        return False
    pending = [body.inputs[node.name][place][0] for place in places]
    found: set[str] = set()
    while pending:
        name = pending.pop()
        if name in body.arguments or name not in body.nodes:
            return False
        if name in found:
            continue
        found.add(name)
        other = tf_compat.op_def(body.nodes[name].op)
        if other is None or other.is_stateful or called_by(body.nodes[name])[1:]:
            return False
        pending.extend(source for source, _ in body.inputs[name])
    return True


class _Clock:
    """Traces the current time to where it becomes an integer.

    TFF and tensorflow-privacy seed rotations, roundings and noise with the time in microseconds. It
    is traced through operations, through calls of functions and into branches, but not through
    loops nor out of branches. In the latter cases the place is reported as lost.

    Args:
      bodies_of: The bodies of the graph and of its functions, by name.
    """

    def __init__(self, bodies_of: Mapping[str, bodies.Body]) -> None:
        self._bodies = bodies_of
        self._told: dict[str, set[str]] = {function: set() for function in bodies_of}
        self._calls: dict[str, list[frozenset[str]]] = {}
        self._casts: set[tuple[str, str]] = set()
        self._lost: set[str] = set()

    def followed(self) -> tuple[frozenset[tuple[str, str]], tuple[str, ...]]:
        """Returns the casts to integers, and the places at which the time was lost."""
        if not any(n.op == "Timestamp" for b in self._bodies.values() for n in b.nodes.values()):
            return frozenset(), ()
        before = -1
        while before != (before := sum(map(len, self._told.values()))):
            self._calls = {}
            for function in self._bodies:
                self._pass(function)
        for function, sites in self._calls.items():
            if len(set(sites)) > 1:
                self._lose(f"a call of {function}, which other calls give no clock")
        return frozenset(self._casts), tuple(sorted(self._lost))

    def _lose(self, where: str) -> None:
        self._lost.add(f"Timestamp: the clock goes into {where}, and may become a seed there")

    def _pass(self, function: str) -> None:
        body, told = self._bodies[function], self._told[function]
        for name in body.ordered((node, bodies.AFTER) for node in body.nodes):
            node = body.nodes[name]
            data = [source for source, index in body.inputs[name] if index >= 0]
            if node.op == "Timestamp" or self._passes_on(function, node, data, told):
                told.add(name)

    def _passes_on(self, function: str, node: Any, data: list[str], told: set[str]) -> bool:
        """Returns whether the results of a node depend on the current time."""
        called = [f for f in called_by(node) if f in self._bodies]
        given = [place for place, source in enumerate(data) if source in told]
        if called:
            return self._into(node, called, given)
        if not given or node.op in _OF_SHAPES:
            return False
        if node.op == "Cast" and tf.as_dtype(node.attr["DstT"].type).is_integer:
            self._casts.add((function, node.name))
            return False
        if node.op in ("Merge", "Enter"):
            self._lose(f"{node.op} ({node.name})")
        return True

    def _into(self, node: Any, called: list[str], given: list[int]) -> bool:
        is_call = node.op in CALLS or node.op in self._bodies
        tells = False
        for function in called:
            body = self._bodies[function]
            if is_call or node.op in BRANCHES:
                first = 0 if is_call else 1  # a branch's condition is no argument
                arguments = {body.arguments[place - first] for place in given if place >= first}
                self._told[function] |= arguments
                self._calls.setdefault(function, []).append(frozenset(arguments))
            elif given:
                self._lose(f"{node.op} ({node.name})")
            tells = tells or any(name in self._told[function] for name, _ in body.results)
        if tells and not is_call:
            self._lose(f"what comes out of {node.op} ({node.name})")
        return tells


def nodes(graph_def: Any) -> Iterator[tuple[str, Any]]:
    """Yields the nodes of a graph and of all functions in its library.

    Args:
      graph_def: The `GraphDef`.

    Yields:
      The name of the function that contains the node, `MAIN` for the graph itself; and the
      `NodeDef`.
    """
    for node in graph_def.node:
        yield MAIN, node
    for function in graph_def.library.function:
        for node in function.node_def:
            yield function.signature.name, node
