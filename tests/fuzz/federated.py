"""Free-standing computations: random graphs as a client's work, a server's part, or alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.fuzz import chains
from tests.fuzz.cases import Case, array_source, chosen

HEADER = """\
import collections

import numpy as np
import tensorflow as tf

from tff_dp import execution, tff
"""

_FIXED = '''
def fixed(t):
    """Returns a tensor that can be summed over clients, of a fixed shape."""
    if t.dtype == tf.string:
        t = tf.strings.to_hash_bucket_fast(t, 1000)
    if t.dtype == tf.bool or t.dtype.size < 4:
        t = tf.cast(t, tf.int32)
    if t.shape.is_fully_defined():
        return t
    return tf.stack([tf.cast(tf.size(t), tf.float32), tf.reduce_sum(tf.cast(t, tf.float32))])
'''

_SETTINGS = ("call", "scan", "scan-xla", "vmap", "vmap-xla")
_AGGREGATIONS = ("sum", "sum", "sum", "mean", "min", "max")


def _draw_chains(
    rng: np.random.Generator, clients: list[dict[str, Any]], *, spoiled: bool, most: int
) -> list[dict[str, Any]]:
    """Returns graphs of one mix: what keeps one from a strategy must not keep the others from it."""
    mix = chosen(
        rng,
        {"plain": 3, "by value": 4, "control": 2, "integers": 2, "random": 1.2, "strings": 1, "resources": 1.5, "everything": 1},
    )  # fmt: skip
    count = {"by value": 2, "resources": 1, "random": 3}.get(mix, most)
    found = [
        chains.draw(
            rng,
            clients,
            mix,
            int(rng.integers(1, 6)),
            f"{'abcdefgh'[i]}_",
            spoiled=spoiled,
            gradient=rng.random() < 0.4,
        )
        for i in range(min(count, most))
    ]
    return [chain for chain in found if chain]


def draw_clients(rng: np.random.Generator) -> Case | None:
    """Returns a computation whose clients run graphs, which are then summed."""
    # More clients than stand side by side (64), now and then.
    count = int(chosen(rng, {1: 1, 2: 3, 3: 6, 4: 4, 65: 1, 131: 0.5}))
    spoiled = bool(rng.random() < 0.12)
    distinct = [chains.draw_inputs(rng, spoiled=spoiled) for _ in range(min(count, 4))]
    drawn = _draw_chains(rng, distinct, spoiled=spoiled, most=6)
    if not drawn:
        return None
    aggregation = chosen(rng, _AGGREGATIONS)
    return Case(
        "clients",
        {
            "count": count,
            "values": distinct,
            "chains": drawn,
            "aggregation": aggregation,
            "calls": 2 if rng.random() < 0.3 else 1,
        },
        _SETTINGS,
    )


def draw_risky(rng: np.random.Generator) -> Case | None:
    """Returns a computation with a step that may fail for a client."""
    distinct = [chains.draw_inputs(rng) for _ in range(int(rng.integers(1, 4)))]
    chain = chains.draw(
        rng, distinct, chosen(rng, ["plain", "by value", "integers"]), int(rng.integers(1, 4)), "a_", risky=True
    )  # fmt: skip
    if chain is None:
        return None
    return Case(
        chosen(rng, {"clients": 4, "server": 1, "local": 1}),
        {
            "count": len(distinct),
            "values": distinct,
            "chains": [chain],
            "aggregation": "sum",
            "calls": 1,
            "raw": bool(rng.random() < 0.5),
        },
        _SETTINGS,
    )


def draw_server(rng: np.random.Generator) -> Case | None:
    """Returns a computation whose server runs graphs on the sum over clients and values of its own."""
    spoiled = bool(rng.random() < 0.12)
    values = [chains.draw_inputs(rng, spoiled=spoiled)]
    drawn = _draw_chains(rng, values, spoiled=spoiled, most=6)
    if not drawn:
        return None
    return Case(
        "server",
        {
            "count": 2,
            "values": values,
            "chains": drawn,
            "calls": 1,
            "raw": bool(rng.random() < 0.6),
        },
        ("scan", "scan-xla"),
    )


def draw_local(rng: np.random.Generator) -> Case | None:
    """Returns a computation without clients: graphs alone, with results of any shape."""
    spoiled = bool(rng.random() < 0.15)
    values = [chains.draw_inputs(rng, spoiled=spoiled)]
    drawn = _draw_chains(rng, values, spoiled=spoiled, most=8)
    if not drawn:
        return None
    return Case(
        "local",
        {"count": 1, "values": values, "chains": drawn, "calls": 2 if rng.random() < 0.3 else 1},
        ("scan",),
    )


def _body(case: Case, names: list[str], *, raw: bool) -> list[str]:
    parameters = case.parameters
    lines = []
    results = []
    for number, chain in enumerate(parameters["chains"]):
        lines += chains.lines_of(chain)
        outputs = [*chain["outputs"]]
        if chain["gradient"]:
            lines.append(f"gradient_{number} = tape_gradient")
            outputs.append(f"gradient_{number}")
        results += outputs
    shown = [f"{name}={name if raw else f'fixed({name})'}" for name in results]
    return [
        *(f'{name} = data["{name}"]' for name in names),
        *lines,
        f"return collections.OrderedDict({', '.join(shown)})",
    ]


def _inputs_source(values: dict[str, Any], names: list[str]) -> str:
    parts = [f"{n}={array_source(values[n], chains.BY_NAME[n].dtype)}" for n in names]
    return f"collections.OrderedDict({', '.join(parts)})"


def _type_source(names: list[str]) -> str:
    parts = [
        f'("{n}", tff.TensorType({chains.BY_NAME[n].dtype}, {list(chains.BY_NAME[n].shape)}))'
        for n in names
    ]
    return f"tff.StructType([{', '.join(parts)}])"


def source(case: Case) -> str:
    """Returns the program of a case of this module."""
    parameters = case.parameters
    names = chains.inputs_of(parameters["chains"]) or ["x"]
    raw = case.kind == "local" or bool(parameters.get("raw") and case.kind == "server")
    lines = [HEADER]
    lines += chains.functions_of(parameters["chains"])
    if not raw:
        lines.append(_FIXED)
    lines.append("VALUES = [")
    lines += [f"    {_inputs_source(values, names)}," for values in parameters["values"]]
    lines += ["]", f"TYPE = {_type_source(names)}", "", ""]
    lines += ["@tff.tensorflow.computation(TYPE)", "def graph(data):"]
    lines += chains.indented(_body(case, names, raw=raw))
    lines += ["", "", *_COMPUTATIONS[case.kind](parameters)]
    lines += ['FEEDS = ("lists",)', "", ""]
    lines += ["def run(inputs, feed):"]
    also = f", [np.float32(1.5)] * {parameters['count']}" if case.kind == "server" else ""
    lines += [f"    return [COMPUTATION(inputs{also}) for _ in range({parameters['calls']})]", ""]
    return "\n".join(lines)


def _local(parameters: dict[str, Any]) -> list[str]:
    return ["COMPUTATION = graph", "INPUTS = VALUES[0]"]


def _server(parameters: dict[str, Any]) -> list[str]:
    return [
        "@tff.federated_computation(",
        "    tff.FederatedType(TYPE, tff.SERVER), tff.FederatedType(np.float32, tff.CLIENTS)",
        ")",
        "def COMPUTATION(values, data):",
        "    return tff.federated_map(graph, values), tff.federated_sum(data)",
        "",
        "",
        "INPUTS = VALUES[0]",
    ]


def _clients(parameters: dict[str, Any]) -> list[str]:
    return [
        "@tff.federated_computation(tff.FederatedType(TYPE, tff.CLIENTS))",
        "def COMPUTATION(data):",
        f"    return tff.federated_{parameters['aggregation']}(tff.federated_map(graph, data))",
        "",
        "",
        f"INPUTS = [VALUES[i % len(VALUES)] for i in range({parameters['count']})]",
    ]


_COMPUTATIONS = {"local": _local, "server": _server, "clients": _clients}


def smaller(case: Case) -> list[Case]:
    """Returns cases that are smaller than a case, the smallest first."""
    parameters = case.parameters
    found = []
    graphs = parameters["chains"]
    if len(graphs) > 1:
        half = len(graphs) // 2
        found += [case.but(chains=graphs[:half]), case.but(chains=graphs[half:])]
        return found  # by halves, until one is left
    values = parameters["values"]
    if case.kind == "clients":
        if len(values) > 1 or parameters["count"] > 1:
            found += [case.but(values=[each], count=1) for each in values]
        if len(values) > 2:
            found += [case.but(values=values[:2], count=2), case.but(values=values[1:3], count=2)]
        if parameters["aggregation"] != "sum":
            found.append(case.but(aggregation="sum"))
    if parameters["calls"] > 1:
        found.append(case.but(calls=1))
    found += [case.but(chains=[each]) for each in chains.smaller(graphs[0])]
    return found
