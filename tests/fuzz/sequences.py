"""Free-standing computations over clients' data sets: pipelines and reductions inside the computation."""

from __future__ import annotations

import numpy as np

from tests.fuzz import chains, federated
from tests.fuzz.cases import Case, array_source, chosen

# From a data set of vectors to another.
_PIPELINES = (
    ".take(K)",
    ".skip(K)",
    ".map(lambda b: b * 2.0)",
    ".map(lambda b: b[:2])",
    ".filter(lambda b: tf.reduce_sum(b) > 0.0)",
    ".repeat(2)",
    ".unbatch().batch(3)",
    ".unbatch().batch(2, drop_remainder=True)",
    ".enumerate().map(lambda i, b: b + tf.cast(i, tf.float32))",
    ".concatenate(data.take(1))",
    ".cache()",
    ".prefetch(2)",
    ".scan(0.0, lambda s, b: (s + tf.reduce_sum(b), b + s))",
    ".take_while(lambda b: tf.reduce_sum(b) < 2.0)",
    ".flat_map(lambda b: tf.data.Dataset.from_tensor_slices(b).batch(2))",
    ".interleave(lambda b: tf.data.Dataset.from_tensors(b).repeat(2), cycle_length=2)",
    ".shard(2, 0)",
    ".window(2).flat_map(lambda w: w)",
    ".ragged_batch(2).map(lambda r: r.to_tensor()[0])",
    ".unbatch().unique().batch(3)",
    ".unbatch().batch(2).map(tf.sort)",
)
_FEEDS = ("datasets", "datasets", "lists")


def draw(rng: np.random.Generator) -> Case | None:
    """Returns a computation that reduces clients' data sets."""
    sizes = [int(chosen(rng, [0, 1, 2, 3, 4, 5, 7])) for _ in range(int(rng.integers(1, 4)))]
    batch_size = int(rng.integers(1, 4))
    batches = sorted({batch_size, *(size % batch_size for size in sizes)} - {0})
    examples = [
        {"x": np.round(rng.normal(size=batch), 3).tolist()} for batch in batches for _ in range(2)
    ]
    chain = chains.draw(
        rng,
        examples,
        chosen(rng, ["plain", "by value", "control", "resources"]),
        int(rng.integers(1, 4)),
        "a_",
    )
    if chain is None or "x" not in chains.inputs_of([chain]):
        return None
    pipelines = [
        chosen(rng, _PIPELINES).replace("K", str(int(rng.integers(0, 3))))
        for _ in range(int(rng.integers(0, 3)))
    ]
    feed = chosen(rng, _FEEDS)
    return Case(
        "sequence",
        {
            "sizes": sizes,
            "batch_size": batch_size,
            "chains": [chain],
            "pipelines": pipelines,
            "loop": chosen(rng, {"reduce": 3, "for": 1, "first": 0.5}),
            "values": [np.round(rng.normal(size=size), 3).tolist() for size in sizes],
            "fixed": False,
        },
        tuple(f"{s}@{feed}" for s in ("call", "scan", "scan-xla", "vmap", "vmap-xla")),
    )


def source(case: Case) -> str:
    """Returns the program of a computation over data sets."""
    p = case.parameters
    chain = p["chains"][0]
    outputs = ", ".join(chain["outputs"])
    parts = [federated.HEADER, *chains.functions_of(p["chains"])]
    lines = [
        "",
        "def step(total, x):",
        *chains.indented(chains.lines_of(chain)),
        f"    shown = [t for t in [{outputs}] if t.dtype != tf.string]",
        "    sums = [tf.reduce_sum(tf.cast(t, tf.float32)) for t in shown]",
        "    return total[0] * 0.5 + tf.add_n([*sums, tf.reduce_sum(x)]), total[1] + tf.size(x)",
        "",
        "",
        "TYPE = tff.SequenceType(tff.TensorType(np.float32, [None]))",
        "",
        "",
    ]
    pipeline = "".join(p["pipelines"])
    if p["loop"] == "for":
        lines += [
            "@tf.function",
            "def reduced(data):",
            "    total = (0.0, 0)",
            f"    for batch in data{pipeline}:",
            "        total = step(total, batch)",
            "    return total",
        ]
    elif p["loop"] == "first":
        lines += [
            "@tf.function",
            "def reduced(data):",
            f"    first = next(iter(data{pipeline}.concatenate(tf.data.Dataset.from_tensors([1.0]))))",
            "    return step((0.0, 0), first)",
        ]
    else:
        lines += ["def reduced(data):", f"    return data{pipeline}.reduce((0.0, 0), step)"]
    lines += [
        "",
        "",
        "@tff.federated_computation(tff.FederatedType(TYPE, tff.CLIENTS))",
        "def COMPUTATION(data):",
        "    work = tff.tensorflow.computation(reduced, TYPE)",
        "    return tff.federated_sum(tff.federated_map(work, data))",
        "",
        "",
        f"INPUTS = [{', '.join(array_source(values, 'np.float32') for values in p['values'])}]",
        'FEEDS = ("datasets", "lists")',
        f"BATCH_SIZE = {p['batch_size']}",
        "",
        "",
        "def run(inputs, feed):",
        "    data = [tf.data.Dataset.from_tensor_slices(x).batch(BATCH_SIZE) for x in inputs]",
        '    if feed == "lists":  # of a client\'s batches',
        "        data = [[batch.numpy() for batch in client] for client in data]",
        "    return COMPUTATION(data)",
        "",
    ]
    return "\n".join([*parts, *lines])


def smaller(case: Case) -> list[Case]:
    """Returns smaller cases."""
    p = case.parameters
    found = []
    if len(p["values"]) > 1:
        found += [case.but(values=[each]) for each in p["values"]]
        found += [case.but(values=p["values"][:-1])]
    pipelines = p["pipelines"]
    found += [
        case.but(pipelines=[*pipelines[:i], *pipelines[i + 1 :]]) for i in range(len(pipelines))
    ]
    if p["loop"] != "reduce":
        found.append(case.but(loop="reduce"))
    found += [case.but(chains=[each]) for each in chains.smaller(p["chains"][0])]
    return found
