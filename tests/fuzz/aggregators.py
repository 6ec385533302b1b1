"""TFF's aggregators by themselves, with noise off, over values of several types."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from tests.fuzz import federated
from tests.fuzz.cases import Case, array_source, chosen
from tests.fuzz.learning import _SECURE as SECURE_SOURCE

# Types of a client's value: for each tensor a data type and a shape.
_VALUES: dict[str, list[tuple[str, list[int]]]] = {
    "float": [("np.float32", [3])],
    "floats": [("np.float32", [2, 2]), ("np.float32", []), ("np.float32", [5])],
    "scalar": [("np.float32", [])],
    "integer": [("np.int32", [4])],
    "long": [("np.int64", []), ("np.int64", [2])],
    "mixed": [("np.float32", [2]), ("np.int32", [3])],
    "empty": [("np.float32", [0]), ("np.float32", [2])],
}
_FLOATS = ("float", "floats", "scalar", "empty")
_INTEGERS = ("integer", "long")
_PRIVATE = "tff.aggregators.DifferentiallyPrivateFactory"
_QUANTILE = "tff.aggregators.PrivateQuantileEstimationProcess.no_noise(1.0, 0.5, 0.2)"
_DISCRETE = "tensorflow_federated.python.aggregators.discretization"
_MODULAR = "tensorflow_federated.python.aggregators.modular_clipping"
# An aggregator, whether it takes weights, and for which values.
_FACTORIES: list[tuple[str, bool, tuple[str, ...]]] = [
    ("tff.aggregators.SumFactory()", False, (*_FLOATS, *_INTEGERS, "mixed")),
    ("tff.aggregators.MeanFactory()", True, _FLOATS),
    ("tff.aggregators.MeanFactory(no_nan_division=True)", True, _FLOATS),
    ("tff.aggregators.UnweightedMeanFactory()", False, _FLOATS),
    ("tff.aggregators.clipping_factory(1.0, tff.aggregators.SumFactory())", False, _FLOATS),
    (f"tff.aggregators.clipping_factory({_QUANTILE}, tff.aggregators.MeanFactory())", True, _FLOATS),
    ("tff.aggregators.clipping_factory(1.5, tff.aggregators.SumFactory(), clipped_count_sum_factory=tff.aggregators.SumFactory())", False, _FLOATS),
    ("tff.aggregators.zeroing_factory(2.0, tff.aggregators.SumFactory())", False, _FLOATS),
    ("tff.aggregators.zeroing_factory(2.0, tff.aggregators.MeanFactory(), norm_order=2.0)", True, _FLOATS),
    (f"{_PRIVATE}.gaussian_fixed(0.0, 3.0, 1.0)", False, _FLOATS),
    (f"{_PRIVATE}.gaussian_adaptive(0.0, 3.0)", False, _FLOATS),
    (f"{_PRIVATE}.tree_aggregation(0.0, 3.0, 1.0, SPECS)", False, ("float", "floats", "scalar")),
    (f"{_PRIVATE}.tree_adaptive(0.0, 3.0, SPECS, clipped_count_stddev=0.0)", False, ("float", "floats", "scalar")),
    ("tff.aggregators.HadamardTransformFactory()", False, ("float", "floats")),
    ("tff.aggregators.DiscreteFourierTransformFactory()", False, ("float", "floats")),
    ("tff.aggregators.concat_factory(tff.aggregators.SumFactory())", False, ("float", "floats", "integer", "long")),
    ("tff.aggregators.SecureSumFactory(1.5, -1.5)", False, _FLOATS),
    ("tff.aggregators.SecureSumFactory(5, -2)", False, _INTEGERS),
    (f"tff.aggregators.SecureSumFactory({_QUANTILE})", False, _FLOATS),
    ("tff.aggregators.SecureModularSumFactory(8)", False, _INTEGERS),
    ("tff.aggregators.SecureModularSumFactory(8, symmetric_range=True)", False, _INTEGERS),
    (f"importlib.import_module('{_MODULAR}').ModularClippingSumFactory(-5, 10)", False, ("integer",)),
    (f"importlib.import_module('{_MODULAR}').ModularClippingSumFactory(-3, 4)", False, ("integer",)),
    (f"importlib.import_module('{_DISCRETE}').DiscretizationFactory(tff.aggregators.SumFactory(), 10.0)", False, _FLOATS),
    (f"importlib.import_module('{_DISCRETE}').DiscretizationFactory(tff.aggregators.SumFactory(), 4.0, prior_norm_bound=9.0)", False, ("float", "scalar")),
    ("tff.learning.robust_aggregator()", True, _FLOATS),
    ("tff.learning.robust_aggregator(weighted=False)", False, _FLOATS),
    ("tff.learning.secure_aggregator()", True, ("float", "floats")),
    ("tff.learning.add_debug_measurements(tff.aggregators.MeanFactory())", True, ("float", "floats")),
    ("tff.aggregators.as_weighted_aggregator(tff.aggregators.UnweightedMeanFactory())", True, _FLOATS),
]  # fmt: skip
_SETTINGS = ("call", "scan", "scan-xla", "vmap", "vmap-xla")


def draw(rng: np.random.Generator) -> Case:
    """Returns an aggregator and what clients give it in some rounds."""
    factory, weighted, kinds = chosen(rng, _FACTORIES)
    kind = chosen(rng, kinds)
    count = int(chosen(rng, {1: 1, 2: 2, 3: 4, 5: 2, 66: 0.7}))
    distinct = min(count, 5)
    special = chosen(rng, {"": 6, "nan": 0.7, "boundary": 2})
    if "iscret" in factory or "ecure" in factory:
        special = special.replace("nan", "")  # no NaN as an integer: see `chains`

    def number(dtype: str, shape: list[int]) -> Any:
        if dtype != "np.float32":
            low, high = (-20, 30) if special == "boundary" else (-2, 6)
            return rng.integers(low, high, shape).tolist()
        values = np.round(rng.normal(scale=1.0, size=shape), 3)
        if special == "nan" and rng.random() < 0.4:
            values = values + rng.choice([np.nan, np.inf])
        if special == "boundary":
            values = np.round(values * 2) / 2
        return values.tolist()

    rounds = [
        [[number(*tensor) for tensor in _VALUES[kind]] for _ in range(distinct)]
        for _ in range(int(rng.integers(1, 4)))
    ]
    return Case(
        "aggregator",
        {
            "factory": factory,
            "weighted": weighted,
            "value": kind,
            "count": count,
            "rounds": rounds,
            "weights": [float(w) for w in rng.integers(0, 4, distinct)],
        },
        _SETTINGS,
    )


def source(case: Case) -> str:
    """Returns the program of an aggregator."""
    p = case.parameters
    tensors = _VALUES[p["value"]]
    types = [f"tff.TensorType({dtype}, {shape})" for dtype, shape in tensors]
    one = len(tensors) == 1
    type_source = types[0] if one else f"tff.to_type([{', '.join(types)}])"

    def client(values: list[Any]) -> str:
        parts = [array_source(v, dtype) for v, (dtype, _) in zip(values, tensors, strict=True)]
        return parts[0] if one else f"[{', '.join(parts)}]"

    lines = ["import importlib", "", federated.HEADER]
    secure = "ecure" in p["factory"]
    lines += ["", ""] if secure else []
    lines += SECURE_SOURCE if secure else []
    lines += [
        f"TYPE = {type_source}",
        "SPECS = tf.nest.map_structure(lambda t: tf.TensorSpec(t.shape, t.dtype), "
        + (types[0] if one else f"[{', '.join(types)}]")
        + ")",
        f"FACTORY = {p['factory']}",
        f"COMPUTATION = FACTORY.create(TYPE{', tff.TensorType(np.float32)' if p['weighted'] else ''})",
        "INPUTS = [",
        *(
            f"    [{', '.join(client(values) for values in one_round)}],"
            for one_round in p["rounds"]
        ),
        "]",
        f"WEIGHTS = {p['weights']}",
        'FEEDS = ("plain", "lists")' if secure else 'FEEDS = ("lists",)',
        "",
        "",
        "def run(inputs, feed):",
        "    take_round, state, outputs = COMPUTATION.next, COMPUTATION.initialize(), []",
        *(
            ['    if feed == "plain":', "        take_round = without_secure_sums(take_round)"]
            if secure
            else []
        ),
        "    for clients in inputs:",
        f"        data = [clients[i % len(clients)] for i in range({p['count']})]",
        "        weights = [np.float32(WEIGHTS[i % len(WEIGHTS)]) for i in range(len(data))]",
        f"        output = take_round(state, data{', weights' if p['weighted'] else ''})",
        "        state = output.state",
        "        outputs.append((output.result, output.measurements))",
        # The state of noise trees and of rotations has seeds that TFF takes from the clock.
        f"    return [{'None' if re.search('tree|Transform', p['factory']) else 'state'}, outputs]",
        "",
    ]
    return "\n".join(lines)


def smaller(case: Case) -> list[Case]:
    """Returns smaller cases of the same aggregator."""
    p = case.parameters
    found = []
    if len(p["rounds"]) > 1:
        found += [case.but(rounds=[each]) for each in p["rounds"]]
    if p["count"] > 1:
        found.append(
            case.but(rounds=[r[:1] for r in p["rounds"]], weights=p["weights"][:1], count=1)
        )
        found += [
            case.but(rounds=[[r[i]] for r in p["rounds"]], weights=[p["weights"][i]], count=1)
            for i in range(1, len(p["weights"]))
        ]
    if len(p["weights"]) > 2:
        found.append(
            case.but(rounds=[r[:2] for r in p["rounds"]], weights=p["weights"][:2], count=2)
        )
    return found
