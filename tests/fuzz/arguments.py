"""Arguments that are not of a computation's type, and such as are in another container or data type."""

from __future__ import annotations

import numpy as np

from tests.fuzz import federated
from tests.fuzz.cases import Case, chosen

# A type, what a client makes of its value to be summed, and whether the value is a sequence.
_TYPES: dict[str, tuple[str, str]] = {
    "float": ("tff.TensorType(np.float32)", "x * 2.0"),
    "integer": ("tff.TensorType(np.int32)", "x + 1"),
    "long": ("tff.TensorType(np.int64)", "x + 1"),
    "truth": ("tff.TensorType(np.bool_)", "tf.cast(x, tf.int32)"),
    "double": ("tff.TensorType(np.float64)", "x + 1.0"),
    "text": ("tff.TensorType(np.str_)", "tf.strings.length(x)"),
    "byte": ("tff.TensorType(np.uint8)", "tf.cast(x, tf.int32)"),
    "vector": ("tff.TensorType(np.float32, [3])", "x * 2.0"),
    "integers": ("tff.TensorType(np.int32, [3])", "x + 1"),
    "matrix": ("tff.TensorType(np.float32, [2, 2])", "x * 2.0"),
    "open": ("tff.TensorType(np.float32, [None])", "tf.stack([tf.reduce_sum(x), tf.cast(tf.size(x), tf.float32)])"),
    "column": ("tff.TensorType(np.float32, [None, 1])", "tf.stack([tf.reduce_sum(x), tf.cast(tf.size(x), tf.float32)])"),
    "pair": ("tff.StructType([np.float32, np.int32])", "x"),
    "named": ('tff.StructType([("a", np.float32), ("b", np.int32)])', "x"),
    "numbers": ("tff.SequenceType(np.int32)", "x.reduce(0, lambda s, e: s + e)"),
    "batches": ("tff.SequenceType(tff.TensorType(np.float32, [None]))", "x.reduce(0.0, lambda s, b: s + tf.reduce_sum(b))"),
    "examples": (
        "tff.SequenceType((tff.TensorType(np.float32, [None, 2]), tff.TensorType(np.int32, [None, 1])))",
        "x.reduce(0.0, lambda s, b: s + tf.reduce_sum(b[0]) + tf.cast(tf.reduce_sum(b[1]), tf.float32))",
    ),
}  # fmt: skip
_SEQUENCES = ("numbers", "batches", "examples")
_VALUES = (
    "1", "2.5", "True", "-3", "2**40", "300", "'a'", "b'a'", "None", "[1.0, 2.0, 3.0]", "[1, 2, 3]", "[1.0]",
    "(1.0, 2)", "[1, 2.0]", "{'a': 1.0, 'b': 2}", "{'b': 2, 'a': 1.0}", "{'a': 1.0}", "{'a': 1.0, 'c': 2}",
    "collections.OrderedDict(a=1.0, b=2)", "np.float32(1.5)", "np.float64(1.5)", "np.int32(4)", "np.int64(4)",
    "np.int64(2**40)", "np.uint8(200)", "np.int8(-1)", "np.bool_(True)", "np.array('ab')", "np.array(2.0)",
    "np.ones(3, np.float32)", "np.ones(3)", "np.ones(3, np.int32)", "np.ones(2, np.float32)", "np.ones(1, np.float32)",
    "np.ones([3, 1], np.float32)", "np.ones([1, 3], np.float32)", "np.ones([2, 2], np.float32)", "np.ones([0], np.float32)",
    "np.ones([4, 1], np.float32)", "np.ones([2, 2], np.float64)", "np.full(3, 2**40)", "np.full(3, np.nan, np.float32)",
    "tf.constant(1.5)", "tf.constant([1.0, 2.0, 3.0])", "tf.constant([1, 2, 3])", "tf.constant(1.5, tf.float64)",
    "[[1.0, 2.0], [3.0, 4.0]]", "[[1.0, 2.0], [3.0]]", "np.float16(1.5)", "float('nan')", "np.array(['a', 'b'])",
)  # fmt: skip
_DATASETS = (
    "tf.data.Dataset.range(3)", "tf.data.Dataset.range(3, output_type=tf.int32)",
    "tf.data.Dataset.from_tensor_slices(np.ones(4, np.float32))", "tf.data.Dataset.from_tensor_slices(np.ones(4, np.int32))",
    "tf.data.Dataset.from_tensor_slices(np.ones(5, np.float32)).batch(2)", "tf.data.Dataset.from_tensor_slices(np.ones(5)).batch(2)",
    "tf.data.Dataset.from_tensor_slices(np.ones([5, 1], np.float32)).batch(2)",
    "tf.data.Dataset.from_tensor_slices((np.ones([5, 2], np.float32), np.ones([5, 1], np.int32))).batch(2)",
    "tf.data.Dataset.from_tensor_slices((np.ones([5, 2], np.float32), np.ones([5], np.int32))).batch(2)",
    "tf.data.Dataset.from_tensor_slices((np.ones([5, 3], np.float32), np.ones([5, 1], np.int32))).batch(2)",
    "tf.data.Dataset.from_tensor_slices((np.ones([5, 2], np.float32), np.ones([5, 1], np.int64))).batch(2)",
    "tf.data.Dataset.from_tensor_slices((np.ones([5, 2]), np.ones([5, 1], np.int32))).batch(2)",
    "tf.data.Dataset.from_tensor_slices(collections.OrderedDict(a=np.ones([5, 2], np.float32), b=np.ones([5, 1], np.int32))).batch(2)",
    "[1, 2, 3]", "[np.int32(1), np.int32(2)]", "[np.ones(2, np.float32), np.ones(1, np.float32)]", "[]", "[1.5, 2.5]",
    "[(np.ones([2, 2], np.float32), np.ones([2, 1], np.int32))]", "[[1.0, 2.0], [3.0]]",
    "[(np.ones([2, 2], np.float32), np.ones([2], np.int32))]", "(1, 2)", "np.arange(3, dtype=np.int32)", "1",
)  # fmt: skip
_PLACES = {
    # How a computation takes the value, and how the value is given.
    "clients": ("tff.FederatedType(TYPE, tff.CLIENTS)", "[value, value]"),
    "server": ("tff.FederatedType(TYPE, tff.SERVER)", "value"),
    "alone": ("", "value"),
    "clients, not in a list": ("tff.FederatedType(TYPE, tff.CLIENTS)", "value"),
    "clients in a tuple": ("tff.FederatedType(TYPE, tff.CLIENTS)", "(value,)"),
}


def draw(rng: np.random.Generator) -> Case:
    """Returns a computation and arguments of many kinds."""
    kind = chosen(rng, list(_TYPES))
    pool = _DATASETS if kind in _SEQUENCES else _VALUES
    values = [pool[i] for i in rng.choice(len(pool), 12, replace=False)]
    place = chosen(rng, {"clients": 5, "server": 1.5, "alone": 1.5, "clients, not in a list": 0.5, "clients in a tuple": 0.5})  # fmt: skip
    if kind in _SEQUENCES and place == "server":
        place = "clients"
    settings = ("call", "scan", "scan-xla", "vmap") if place.startswith("clients") else ("scan",)
    return Case("arguments", {"type": kind, "values": values, "place": place}, settings)


def source(case: Case) -> str:
    """Returns the program of a computation that is called with each of some values."""
    p = case.parameters
    type_source, expression = _TYPES[p["type"]]
    annotation, given = _PLACES[p["place"]]
    lines = [
        federated.HEADER,
        f"TYPE = {type_source}",
        "",
        "",
        "@tff.tensorflow.computation(TYPE)",
        "def work(x):",
        f"    return {expression}",
        "",
        "",
    ]
    if not annotation:
        lines += ["COMPUTATION = work"]
    else:
        inner = "tff.federated_map(work, x)"
        inner = f"tff.federated_sum({inner})" if p["place"].startswith("clients") else inner
        lines += [
            f"@tff.federated_computation({annotation})",
            "def COMPUTATION(x):",
            f"    return {inner}",
        ]
    lines += [
        "",
        "",
        "INPUTS = ()",
        "VALUES = [",
        *(f"    lambda: {value}," for value in p["values"]),
        "]",
        'FEEDS = ("lists",)',
        "",
        "",
        "def run(inputs, feed):",
        "    results = []",
        "    for make in VALUES:",
        "        value = make()",
        "        try:",
        f"            results.append(COMPUTATION({given}))",
        "        except Exception as error:",
        '            if "no form that runs in this process" in str(error):',
        "                raise",
        '            results.append("an error")',
        "    return results",
        "",
    ]
    return "\n".join(lines)


def smaller(case: Case) -> list[Case]:
    """Returns cases with fewer values."""
    values = case.parameters["values"]
    return [case.but(values=[value]) for value in values] if len(values) > 1 else []
