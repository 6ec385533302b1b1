"""Random graphs of TensorFlow operations.

They are drawn by running them: each step is evaluated, eagerly, on the inputs of every client, and taken
if it works on all of them. Where the last step may fail, it may fail for any.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tests.fuzz import operations, prelude
from tests.fuzz.cases import chosen

_LETTERS = {
    "f": tf.float32,
    "d": tf.float64,
    "i": tf.int32,
    "l": tf.int64,
    "u": tf.uint8,
    "b": tf.bool,
    "s": tf.string,
}
# TensorFlow does not define what integer a NaN or an infinity becomes: its own kernels differ.
_MAKES_INTEGERS = re.compile(r"cast\(.*tf\.u?int|histogram|in_stack")
_TRIES = 60  # draws of a step
_LARGEST = 1e4  # floats beyond lose digits in the sums after them
_MOST_ELEMENTS = 200

# What a chain is made of: weights of categories.
MIXES: dict[str, dict[str, float]] = {
    "plain": {"elementwise": 4, "reductions": 2, "cumulative": 2, "shapes": 2, "gather": 2, "linear": 1},
    "by value": {"by value": 4, "elementwise": 2, "cumulative": 3, "reductions": 1, "shapes": 3, "linear": 1, "gather": 1},
    "control": {"control": 4, "elementwise": 2, "cumulative": 1, "reductions": 1, "shapes": 1},
    "integers": {"integers": 6, "cumulative": 1, "reductions": 1, "gather": 1},
    "random": {"random": 3, "elementwise": 1, "cumulative": 1, "control": 1},
    "strings": {"strings": 6, "integers": 1, "elementwise": 1},
    "resources": {"resources": 4, "elementwise": 1, "control": 1, "cumulative": 1},
    "everything": dict.fromkeys((c for c in operations.TABLE if c != "risky"), 1.0),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Input:
    """An input of a graph.

    Attributes:
      name: Its variable.
      letter: Its data type, a letter of the table of operations.
      shape: Its shape.
    """

    name: str
    letter: str
    shape: tuple[int, ...]

    @property
    def dtype(self) -> str:
        """The data type in the source of a program."""
        return {
            "f": "np.float32", "d": "np.float64", "i": "np.int32", "l": "np.int64",
            "u": "np.uint8", "b": "np.bool_", "s": "np.str_",
        }[self.letter]  # fmt: skip


INPUTS = (
    Input("x", "f", (6,)),
    Input("y", "f", (6,)),
    Input("m", "f", (3, 4)),
    Input("w", "f", (4, 3)),
    Input("n", "i", (6,)),
    Input("k", "i", ()),
    Input("z", "l", (4,)),
    Input("t", "b", (6,)),
    Input("s", "s", (4,)),
    Input("u", "u", (4,)),
)
BY_NAME = {each.name: each for each in INPUTS}
_WORDS = ["a", "bear", "crane", "dog", "", "eel", "Fox", "a b", "gnu"]


def draw_inputs(rng: np.random.Generator, *, spoiled: bool = False) -> dict[str, Any]:
    """Returns a value for each input, as plain lists.

    Args:
      rng: The generator.
      spoiled: Whether some numbers are infinite or not numbers.
    """
    found: dict[str, Any] = {}
    for each in INPUTS:
        size = each.shape
        if each.letter in "fd":
            # Multiples of 1/8 now and then: sums are exact, ties and boundaries are met.
            values = rng.normal(scale=1.5, size=size)
            values = np.round(values * 8) / 8 if rng.random() < 0.4 else np.round(values, 3)
            if spoiled:
                values = np.where(
                    rng.random(size) < 0.2, rng.choice([np.nan, np.inf, -np.inf, 0.0]), values
                )
            found[each.name] = values.tolist()
        elif each.letter == "b":
            found[each.name] = (rng.random(size) < 0.5).tolist()
        elif each.letter == "s":
            found[each.name] = rng.choice(_WORDS, size).tolist()
        elif each.letter == "u":
            found[each.name] = rng.integers(0, 256, size).tolist()
        else:
            found[each.name] = rng.integers(-3, 6, size).tolist()
    return found


def tensors(values: dict[str, Any]) -> dict[str, tf.Tensor]:
    """Returns inputs as tensors."""
    return {
        name: tf.constant(value, _LETTERS[BY_NAME[name].letter]) for name, value in values.items()
    }


def draw(
    rng: np.random.Generator,
    clients: Sequence[dict[str, Any]],
    mix: str,
    length: int,
    prefix: str,
    *,
    risky: bool = False,
    spoiled: bool = False,
    gradient: bool = False,
) -> dict[str, Any] | None:
    """Returns a random graph, or None if none was found.

    Args:
      rng: The generator.
      clients: Inputs; it runs on each.
      mix: A key of `MIXES`.
      length: Steps at most.
      prefix: What its variables' names begin with.
      risky: Whether it ends with a step that may fail.
      spoiled: Whether numbers may be infinite or not numbers.
      gradient: Whether its gradient for the input x is wanted, if it has one.
    """
    scopes = [{**_namespace(), **tensors(values)} for values in clients]
    known = list(clients[0])
    steps: list[list[str]] = []
    for _ in range(_TRIES):
        if len(steps) == length:
            break
        last = risky and len(steps) == length - 1
        category = "risky" if last else chosen(rng, MIXES[mix])
        expression = _expression(rng, category, scopes[0], known)
        if expression is None:
            continue
        if spoiled and _MAKES_INTEGERS.search(expression):
            continue
        name = f"{prefix}{len(steps)}"
        if _evaluate(scopes, name, expression, may_fail=last, spoiled=spoiled):
            steps.append([name, expression])
            known.append(name)
    if not steps:
        return None
    used = " ".join(expression for _, expression in steps)
    unused = [name for name, _ in steps if not re.search(rf"\b{name}\b", used)]
    chain = {"steps": steps, "outputs": unused[-3:], "gradient": False}
    chain = pruned(chain)
    if gradient and mix not in ("strings", "integers") and not risky:
        with_gradient = {**chain, "gradient": True}
        if "x" in inputs_of([chain]) and _has_gradient(with_gradient, clients, spoiled):
            return with_gradient
    return chain


def runs(rng: np.random.Generator, operation: operations.Operation) -> bool:
    """Returns whether an operation runs on inputs that are drawn for it."""
    scope = {**_namespace(), **tensors(draw_inputs(rng))}
    # Of other types and sizes as well, as the results of steps before it are.
    scope |= {
        "double": tf.cast(scope["x"], tf.float64),
        "few": scope["x"][:3],
        "four": scope["y"][:4],
    }
    scope |= {
        "square": scope["m"][:, :3],
        "flags": scope["n"][:4] % 2,
        "three": tf.sort(abs(scope["n"][:3])) % 3,
    }
    scope |= {
        "one": tf.constant(1),
        "ones": tf.ones([3], tf.int32),
        "digits": tf.constant(["1", "2"]),
    }
    scope |= {
        "rows": tf.range(6),
        "third": tf.range(3),
        "positive": tf.ones([3, 3]) + tf.eye(3),
        "indices": tf.range(3) % 2,
    }
    known = [name for name, value in scope.items() if isinstance(value, tf.Tensor)]
    expression = _filled(rng, operation, scope, known)
    if expression is None:
        return False
    try:
        tf.convert_to_tensor(eval(expression, scope))
    except Exception:
        return False
    return True


def _namespace() -> dict[str, Any]:
    if not _base:
        _base.update(tf=tf, np=np)
        # Not as TensorFlow functions: what is drawn is evaluated eagerly.
        source = "\n\n".join(prelude.FUNCTIONS.values())
        exec(re.sub(r"(?m)^@tf\.function\n", "", source), _base)
    return _base


_base: dict[str, Any] = {}


def _expression(
    rng: np.random.Generator, category: str, scope: dict[str, Any], known: list[str]
) -> str | None:
    return _filled(rng, chosen(rng, operations.TABLE[category]), scope, known)


def _filled(
    rng: np.random.Generator,
    operation: operations.Operation,
    scope: dict[str, Any],
    known: list[str],
) -> str | None:
    """Returns an operation's expression with operands among what is known, or None if none fit."""
    operands = {}
    one_type = _LETTERS[chosen(rng, operation.operands[0][1])]  # where several are allowed
    for letter, types, rank in operation.operands:
        fitting = [
            name
            for name in known
            if isinstance(scope.get(name), tf.Tensor)
            and scope[name].dtype == (one_type if len(types) > 1 else _LETTERS[types])
            and (rank is None or scope[name].shape.rank == rank)
        ]
        if not fitting:
            return None
        recent = [name for name in fitting if name in known[-2:]]
        operands[letter] = chosen(rng, recent if recent and rng.random() < 0.7 else fitting)

    def replaced(match: re.Match[str]) -> str:
        token = match.group()
        if token == "K":
            return str(int(rng.integers(0, 4)))
        if token == "R":
            return str(float(rng.integers(1, 16)) / 8)
        return operands.get(token, token)

    return re.sub(r"(?<![\w.\"'])[A-Z](?![\w\"'])", replaced, operation.expression)


def _evaluate(
    scopes: list[dict[str, Any]], name: str, expression: str, *, may_fail: bool, spoiled: bool
) -> bool:
    """Returns whether a step works on all inputs, after adding its results to the scopes."""
    results = []
    for scope in scopes:
        try:
            result = tf.convert_to_tensor(eval(expression, scope))
        except Exception:
            if may_fail:
                continue
            return False
        if not _is_fit(result, spoiled):
            return False
        results.append(result)
    if len({(r.dtype, r.shape.rank) for r in results}) > 1:
        return False
    for scope, result in zip(scopes, results, strict=False):
        scope[name] = result
    return True


def _is_fit(result: tf.Tensor, spoiled: bool) -> bool:
    if result.dtype in (tf.resource, tf.variant) or np.prod(result.shape) > _MOST_ELEMENTS:
        return False
    if not result.dtype.is_floating:
        return True
    values = np.asarray(tf.cast(result, tf.float64))
    if not spoiled and not np.isfinite(values).all():
        return False
    return bool((np.abs(values[np.isfinite(values)]) <= _LARGEST).all())


def _has_gradient(chain: dict[str, Any], clients: Sequence[dict[str, Any]], spoiled: bool) -> bool:
    source = "\n".join(["def graph(x):", *indented(lines_of(chain)), "    return tape_gradient"])
    for values in clients:
        scope = {**_namespace(), **tensors(values)}
        try:
            exec(source, scope)
            if not _is_fit(scope["graph"](scope["x"]), spoiled):
                return False
        except Exception:
            return False
    return True


def lines_of(chain: dict[str, Any]) -> list[str]:
    """Returns the statements of a graph; a gradient becomes the variable `tape_gradient`."""
    steps = [f"{name} = {expression}" for name, expression in chain["steps"]]
    if not chain["gradient"]:
        return steps
    outputs = ", ".join(chain["outputs"])
    return [
        "with tf.GradientTape() as tape:",
        "    tape.watch(x)",
        *indented(steps),
        f"    floats = [tf.cast(t, tf.float32) for t in [{outputs}] if t.dtype.is_floating]",
        "    total = tf.add_n([tf.reduce_sum(t) for t in floats] or [tf.constant(0.0)])",
        'tape_gradient = tape.gradient(total, x, unconnected_gradients="zero")',
        "tape_gradient = tf.convert_to_tensor(tape_gradient)",
    ]


def indented(lines: Sequence[str]) -> list[str]:
    """Returns lines of a block."""
    return [f"    {line}" for line in lines]


def pruned(chain: dict[str, Any]) -> dict[str, Any]:
    """Returns a graph without the steps that no output needs."""
    needed = set(chain["outputs"])
    kept = []
    for name, expression in reversed(chain["steps"]):
        if name in needed:
            kept.append([name, expression])
            needed |= set(re.findall(r"\b\w+\b", expression))
    return {**chain, "steps": kept[::-1]}


def inputs_of(chains: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the inputs that graphs take, in the order of `INPUTS`."""
    text = " ".join(expression for chain in chains for _, expression in chain["steps"])
    outputs = {name for chain in chains for name in chain["outputs"]}
    taken = set(re.findall(r"(?<![\w.\"'])[a-z]\b(?!\s*=[^=]|[\"'(])", text)) | outputs
    if any(chain["gradient"] for chain in chains):
        taken.add("x")
    return [each.name for each in INPUTS if each.name in taken]


def functions_of(chains: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the sources of the functions that graphs call."""
    text = " ".join(expression for chain in chains for _, expression in chain["steps"])
    return [f"{source}\n" for name, source in prelude.FUNCTIONS.items() if f"{name}(" in text]


def smaller(chain: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns graphs that are smaller than a graph, the smallest first."""
    found = []
    if len(chain["outputs"]) > 1:
        found += [pruned({**chain, "outputs": [name]}) for name in chain["outputs"]]
    if chain["gradient"]:
        found.append({**chain, "gradient": False})
    names = [name for name, _ in chain["steps"]]
    # An earlier result in place of the last; a step whose result is replaced by one of its operands.
    found += [
        pruned({**chain, "outputs": [name]}) for name in names if name not in chain["outputs"]
    ]
    for position, (name, expression) in enumerate(chain["steps"]):
        if name in chain["outputs"]:
            continue
        for operand in {*re.findall(r"\b\w+\b", expression)} & {*names[:position], *BY_NAME}:
            steps = [
                [other, re.sub(rf"\b{name}\b", operand, text)]
                for other, text in chain["steps"]
                if other != name
            ]
            found.append(pruned({**chain, "steps": steps}))
    return sorted(
        (each for each in found if each["steps"]),
        key=lambda each: (len(each["steps"]), len(each["outputs"])),
    )
