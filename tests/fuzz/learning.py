"""Learning processes: random models, losses, optimizers, data and aggregators, for a few rounds."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.fuzz import federated
from tests.fuzz.cases import Case, chosen

_FEATURES, _TOKENS, _WORDS, _CLASSES = 4, 5, 7, 3

_ACTIVATIONS = (
    "linear", "tanh", "relu", "sigmoid", "elu", "selu", "softplus", "softsign", "gelu", "swish",
    "exponential", "hard_sigmoid", "relu6", "softmax",
)  # fmt: skip
# Layers between the input and the output, by what they take: vectors, images, sequences.
_VECTORS = (
    'k.layers.Dense({n}, activation="{a}")',
    'k.layers.Dense({n}, activation="{a}", use_bias=False)',
    "k.layers.Dense({n}, kernel_regularizer=k.regularizers.L2(0.01))",
    "k.layers.LayerNormalization()",
    "k.layers.UnitNormalization()",
    "k.layers.LeakyReLU()",
    "k.layers.ReLU(max_value=1.0)",
    "k.layers.PReLU()",
    "k.layers.Rescaling(0.5)",
    "k.layers.Dropout(0.0)",
    "k.layers.ActivityRegularization(l2=0.01)",
    "k.layers.RepeatVector(2), k.layers.Flatten()",
)
_IMAGES = (
    'k.layers.Conv2D(2, 2, padding="same", activation="{a}")',
    'k.layers.DepthwiseConv2D(2, padding="same")',
    'k.layers.SeparableConv2D(2, 2, padding="same")',
    "k.layers.MaxPooling2D(2)",
    'k.layers.AveragePooling2D(2, padding="same")',
    "k.layers.UpSampling2D()",
    "k.layers.ZeroPadding2D(1)",
    'k.layers.Conv2DTranspose(2, 2, padding="same")',
)
_SEQUENCES = (
    "k.layers.SimpleRNN(3)",
    "k.layers.LSTM(2)",
    "k.layers.GRU(2)",
    'k.layers.Conv1D(2, 2, padding="same", activation="{a}")',
    "k.layers.GlobalMaxPooling1D()",
    "k.layers.GlobalAveragePooling1D()",
    "k.layers.Bidirectional(k.layers.GRU(2))",
    "k.layers.TimeDistributed(k.layers.Dense(2))",
)
_REGRESSION = (
    "k.losses.MeanSquaredError()",
    "k.losses.MeanAbsoluteError()",
    "k.losses.Huber()",
    "k.losses.LogCosh()",
    "k.losses.MeanSquaredLogarithmicError()",
    "k.losses.CosineSimilarity()",
    'k.losses.MeanSquaredError(reduction="sum")',
    "custom(k)",
    "custom(k)",
    "custom(k)",
)
# What a loss of our own makes of the errors e of a batch.
_CUSTOM = (
    "tf.reduce_sum(tf.cumsum(tf.boolean_mask(e, e > 0.0))) * 0.1",
    "tf.reduce_mean(tf.where(e > 0.0, e * e, tf.abs(e)))",
    "tf.reduce_sum(tf.sort(e * e)[-1])",
    "tf.reduce_max(tf.abs(e))",
    "tf.reduce_sum(tf.gather(e * e, tf.where(e > 0.0)[:, 0]))",
    "tf.reduce_mean(tf.map_fn(lambda v: v * v, e))",
    "tf.reduce_sum(tf.math.top_k(e * e, tf.minimum(2, tf.size(e)))[0])",
    "tf.cond(tf.reduce_sum(e) > 0.0, lambda: tf.reduce_mean(e * e), lambda: tf.reduce_mean(tf.abs(e)))",
    "tf.reduce_sum(tf.unique(tf.round(e))[0]) * 0.0 + tf.reduce_mean(e * e)",
    "tf.reduce_sum(tf.scan(lambda t, v: 0.5 * t + v, e * e)[-1:])",
    "tf.reduce_mean(tf.clip_by_value(e * e, 0.0, 1.0))",
    "tf.reduce_sum(e[: tf.cast(tf.size(e) / 2, tf.int32)] ** 2)",
)
_CLASSIFICATION = (
    "k.losses.SparseCategoricalCrossentropy(from_logits=True)",
    "k.losses.SparseCategoricalCrossentropy(from_logits=True)",
)
_BINARY = (
    "k.losses.BinaryCrossentropy(from_logits=True)",
    "k.losses.Hinge()",
    "k.losses.SquaredHinge()",
    "k.losses.BinaryCrossentropy()",
)
_METRICS = {
    "regression": ("k.metrics.MeanAbsoluteError()", "k.metrics.RootMeanSquaredError()"),
    "classes": ("k.metrics.SparseCategoricalAccuracy()",),
    "binary": ("k.metrics.BinaryAccuracy()", "k.metrics.AUC(num_thresholds=5, from_logits=True)"),
}
_OPTIMIZERS = (
    "build_sgdm(0.05)", "build_sgdm(0.05, 0.9)", "build_adam(0.05)", "build_adagrad(0.05)",
    "build_rmsprop(0.02)", "build_yogi(0.02)", "build_adamw(0.02)", "build_adafactor(0.02)",
)  # fmt: skip
_ALGORITHMS = {
    "build_weighted_fed_avg(MODEL, {c}, {s}{w}{a}{l})": 4.0,
    "build_unweighted_fed_avg(MODEL, {c}, {s}{a}{l})": 2.0,
    "build_fed_sgd(MODEL, {s}{a}{l})": 2.0,
    "build_weighted_fed_prox(MODEL, 0.5, {c}, {s}{a}{l})": 1.0,
    "build_unweighted_fed_prox(MODEL, 0.5, {c}, {s}{a}{l})": 0.5,
    "build_weighted_fed_avg_with_optimizer_schedule(MODEL, lambda n: 0.1 / (1.0 + tf.cast(n, tf.float32)), "
    "tff.learning.optimizers.build_sgdm, {s}{a}{l})": 1.0,
    "build_weighted_mime_lite(MODEL, {c}, {s}{a}{l})": 1.0,
    "build_unweighted_mime_lite(MODEL, {c}, {s}{a}{l})": 0.5,
    "build_fed_eval(MODEL{l})": 2.0,
}
_WEIGHTED_AGGREGATORS = (
    "tff.aggregators.MeanFactory(no_nan_division=True)",
    "tff.learning.robust_aggregator()",
    "tff.learning.robust_aggregator(zeroing=False)",
    "tff.learning.secure_aggregator()",
    "tff.aggregators.clipping_factory(0.3, tff.aggregators.MeanFactory())",
    "tff.aggregators.zeroing_factory(0.8, tff.aggregators.MeanFactory())",
    "tff.learning.add_debug_measurements(tff.aggregators.MeanFactory())",
)
_UNWEIGHTED_AGGREGATORS = (
    "tff.aggregators.UnweightedMeanFactory()",
    "tff.learning.robust_aggregator(weighted=False)",
    "tff.learning.secure_aggregator(weighted=False)",
    "tff.aggregators.DifferentiallyPrivateFactory.gaussian_fixed(0.0, 3.0, 0.3)",
    "tff.aggregators.DifferentiallyPrivateFactory.gaussian_adaptive(0.0, 3.0, initial_l2_norm_clip=0.3)",
)
_PIPELINES = (
    ".repeat(2)",
    ".take(1)",
    ".skip(1)",
    ".unbatch().batch(3)",
    ".unbatch().batch(3, drop_remainder=True)",
    ".prefetch(1)",
    ".map(lambda x, y: (x, y))",
    ".filter(lambda x, y: tf.reduce_sum(tf.cast(y, tf.float32)) > 0.0)",
    ".cache()",
    ".take(0)",
)
_ASKED = (
    "call@datasets", "call@arrays", "scan@arrays", "scan@datasets", "scan@fused", "scan-xla@arrays",
    "scan-xla@datasets", "scan-xla@fused", "vmap@arrays", "vmap@datasets", "vmap-xla@arrays", "auto@fused",
)  # fmt: skip


def draw(rng: np.random.Generator) -> Case:
    """Returns a learning process."""
    kind = chosen(rng, {"keras3": 4, "tf-keras": 2, "variables": 3})
    words = bool(rng.random() < 0.25)
    task = chosen(rng, {"regression": 5, "classes": 3, "binary": 2})
    loss = chosen(
        rng, {"regression": _REGRESSION, "classes": _CLASSIFICATION, "binary": _BINARY}[task]
    )
    weighted = None
    algorithm = chosen(rng, _ALGORITHMS)
    if "{a}" in algorithm:
        weighted = "unweighted" not in algorithm
    aggregators = _WEIGHTED_AGGREGATORS if weighted else _UNWEIGHTED_AGGREGATORS
    aggregator = chosen(rng, aggregators) if weighted is not None and rng.random() < 0.4 else ""
    pipeline = chosen(rng, _PIPELINES) if rng.random() < 0.25 else ""
    asked = [a for a in _ASKED if not pipeline or a.endswith("datasets")]
    settings = rng.choice(asked, 3, replace=False).tolist()
    sizes = [
        int(chosen(rng, [0, 1, 2, 3, 4, 5, 5, 5, 8, 11])) for _ in range(int(rng.integers(1, 6)))
    ]
    number = len(sizes)
    rounds = [
        {
            "positions": sorted(rng.choice(number, int(rng.integers(1, number + 1)), replace=False).tolist()),
            "epochs": int(chosen(rng, {1: 3, 2: 1})),
            "shuffle": int(rng.integers(100)) if rng.random() < 0.25 else None,
        }
        for _ in range(int(rng.integers(1, 4)))
    ]  # fmt: skip
    if rng.random() < 0.4:  # as rounds that can be one graph call are
        sizes = [5] * number
    return Case(
        "learning",
        {
            "kind": kind,
            "words": words,
            "task": task,
            "layers": _layers(rng, words, kind),
            "activation": chosen(rng, _ACTIVATIONS) if loss == "k.losses.BinaryCrossentropy()" else "linear",
            "loss": loss,
            "custom": chosen(rng, _CUSTOM),
            "metrics": list(_METRICS[task]) if rng.random() < 0.6 else [],
            "algorithm": algorithm,
            "client": chosen(rng, _OPTIMIZERS),
            "server": chosen(rng, ["build_sgdm(1.0)", "build_sgdm(1.0)", *_OPTIMIZERS]),
            "weighting": bool(rng.random() < 0.2),
            "aggregator": aggregator,
            "iterator": bool(rng.random() < 0.2),
            "pipeline": pipeline,
            "sizes": sizes,
            "batch_size": int(rng.integers(1, 6)),
            "rounds": rounds,
            "data_seed": int(rng.integers(1000)),
            "spoiled": chosen(rng, {"": 8, "nan": 1, "label": 0.7, "word": 0.7}),
        },
        tuple(settings),
    )  # fmt: skip


def _layers(rng: np.random.Generator, words: bool, kind: str) -> list[str]:
    def some(options: tuple[str, ...], most: int) -> list[str]:
        return [
            chosen(rng, options).format(n=int(rng.integers(2, 5)), a=chosen(rng, _ACTIVATIONS))
            for _ in range(int(rng.integers(0, most + 1)))
        ]

    flat = some(_VECTORS, 3)
    if kind == "variables" and rng.random() < 0.2:
        flat.append("k.layers.BatchNormalization()")
    if words:
        begin = [f"k.layers.Embedding({_WORDS}, 3)"]
        return [*begin, *some(_SEQUENCES, 1), "k.layers.Flatten()", *flat]
    form = rng.random()
    if form < 0.25:
        return ["k.layers.Reshape([2, 2, 1])", *some(_IMAGES, 2), "k.layers.Flatten()", *flat]
    if form < 0.4:
        return ["k.layers.Reshape([2, 2])", *some(_SEQUENCES, 1), "k.layers.Flatten()", *flat]
    return flat


_MODEL = {
    "keras3": "MODEL = ModelSpec(model=make(keras), loss={loss}, metrics=[{metrics}]).bind(SPEC).tff_model",
    "tf-keras": "MODEL = ModelSpec(model=make(tf_keras), loss={loss}, metrics=[{metrics}]).bind(SPEC).tff_model",
    "variables": (
        "MODEL = lambda: tff.learning.models.from_keras_model(\n"
        "    make(tf_keras), loss={loss}, input_spec=SPEC, metrics=[{metrics}]\n)"
    ),
}


def source(case: Case) -> str:
    """Returns the program of a learning process."""
    p = case.parameters
    keras_name = "keras" if p["kind"] == "keras3" else "tf_keras"
    units = _CLASSES if p["task"] == "classes" else 1
    shown = [text.replace("k.", f"{keras_name}.", 1) for text in p["metrics"]]
    loss = p["loss"].replace("k.losses", f"{keras_name}.losses").replace("(k)", f"({keras_name})")
    layers = [*p["layers"], f'k.layers.Dense({units}, activation="{p["activation"]}")']
    lines = [
        federated.HEADER.replace("import tensorflow", "import keras\nimport tensorflow"),
        "import tf_keras",
        "",
    ]
    lines += [
        "from tff_dp import data",
        "from tff_dp.model import ModelSpec",
        "",
        *_data_source(p),
        "",
        "",
    ]
    if p["loss"] == "custom(k)":
        lines += [
            "def custom(k):",
            "    class Custom(k.losses.Loss):",
            "        def call(self, y_true, y_pred):",
            "            e = tf.reshape(y_true - y_pred, [-1])",
            f"            return {p['custom']}",
            "",
            "    return Custom()",
            "",
            "",
        ]
    shape, dtype = ("TOKENS", '"int32"') if p["words"] else ("FEATURES", '"float32"')
    lines += [
        "def make(k):",
        f"    inputs = outputs = k.layers.Input([{shape}], dtype={dtype})",
        "    for layer in [",
        *(f"        {layer}," for layer in layers),
        "    ]:",
        "        outputs = layer(outputs)",
        "    return k.Model(inputs, outputs)",
        "",
        "",
        _MODEL[p["kind"]].format(loss=loss, metrics=", ".join(shown)),
        f"COMPUTATION = tff.learning.algorithms.{_algorithm(p)}",
        'FEEDS = ("plain", "datasets", "arrays", "fused")',
        "",
        "",
        *_run_source(p),
    ]
    return "\n".join(lines)


def _algorithm(p: dict[str, Any]) -> str:
    def optimizer(text: str) -> str:
        return f"tff.learning.optimizers.{text}"

    loop = "tff.learning.LoopImplementation.DATASET_ITERATOR"
    weighting = "tff.learning.ClientWeighting.UNIFORM"
    found: str = p["algorithm"].format(
        c=optimizer(p["client"]),
        s=optimizer(p["server"]),
        w=f", client_weighting={weighting}" if p["weighting"] else "",
        a=f", model_aggregator={p['aggregator']}" if p["aggregator"] else "",
        l=f", loop_implementation={loop}" if p["iterator"] else "",
    )
    return found


def _data_source(p: dict[str, Any]) -> list[str]:
    lines = [
        f"FEATURES, TOKENS, SIZES = {_FEATURES}, {_TOKENS}, {p['sizes']}",
        f"RNG, COUNT = np.random.default_rng({p['data_seed']}), sum(SIZES)",
        f"X = RNG.integers(0, {_WORDS}, (COUNT, TOKENS)).astype(np.int32)"
        if p["words"]
        else "X = RNG.normal(size=(COUNT, FEATURES)).astype(np.float32)",
        {
            "regression": "Y = RNG.normal(size=(COUNT, 1)).astype(np.float32)",
            "classes": f"Y = RNG.integers(0, {_CLASSES}, (COUNT, 1)).astype(np.int32)",
            "binary": "Y = RNG.integers(0, 2, (COUNT, 1)).astype(np.float32)",
        }[p["task"]],
    ]
    spoiled = {
        "nan": "X[-1:, 0] = np.nan" if not p["words"] else "",
        "label": f"Y[-1:] = {_CLASSES}" if p["task"] == "classes" else "",
        "word": f"X[-1:, 0] = {_WORDS}" if p["words"] else "",
    }.get(p["spoiled"], "")
    return [
        *lines,
        *([spoiled] if spoiled else []),
        "INPUTS = (X, Y)",
        "SPEC = tuple(tf.TensorSpec([None, *a.shape[1:]], a.dtype) for a in INPUTS)",
    ]


_SECURE = [
    "def without_secure_sums(comp):",
    "    replaced = tff.backends.test.replace_secure_intrinsics_with_bodies(comp)",
    "    return type(replaced)(",
    "        computation_proto=tff.framework.serialize_computation(replaced),",
    "        context_stack=tff.framework.get_context_stack(),",
    "        annotated_type=comp.type_signature,",
    "    )",
    "",
    "",
]


def _run_source(p: dict[str, Any]) -> list[str]:
    secure = "secure" in p["aggregator"]
    rounds = [
        f"        clients.cohort({r['positions']}, batch_size={p['batch_size']}, epochs={r['epochs']}"
        + (f", shuffle=True, rng=np.random.default_rng({r['shuffle']}))," if r["shuffle"] is not None else "),")
        for r in p["rounds"]
    ]  # fmt: skip
    return [
        *(_SECURE if secure else []),
        "def cohorts(inputs):",
        "    offsets = np.cumsum([0, *SIZES])",
        "    clients = data.Clients(*inputs, offsets, allow_empty=True, allow_nonfinite=True)",
        "    return [",
        *rounds,
        "    ]",
        "",
        "",
        "def start():",
        "    state = COMPUTATION.initialize()",
        "    weights = COMPUTATION.get_model_weights(state)",
        "    rng = np.random.default_rng(1)",
        "    drawn = [rng.normal(scale=0.5, size=np.shape(w)).astype(np.float32) for w in weights.trainable]",
        "    return COMPUTATION.set_model_weights(",
        "        state, type(weights)(type(weights.trainable)(drawn), weights.non_trainable)",
        "    )",
        "",
        "",
        "def run(inputs, feed):",
        "    state, rounds = start(), cohorts(inputs)",
        '    if feed == "fused":',
        "        return list(execution.iterate(COMPUTATION.next, state, rounds))",
        "    take_round = COMPUTATION.next",
        *(
            ['    if feed == "plain":', "        take_round = without_secure_sums(take_round)"]
            if secure
            else []
        ),
        "    metrics = []",
        "    for cohort in rounds:",
        '        if feed != "arrays":',
        f"            cohort = [client{p['pipeline']} for client in cohort]",
        "        output = take_round(state, cohort)",
        "        state = output.state",
        "        metrics.append(output.metrics)",
        "    return [state, metrics]",
        "",
    ]


def smaller(case: Case) -> list[Case]:
    """Returns smaller learning processes."""
    p = case.parameters
    found = []
    if len(p["rounds"]) > 1:
        found += [case.but(rounds=[each]) for each in p["rounds"]]
    plain = {
        "layers": [],
        "metrics": [],
        "aggregator": "",
        "pipeline": "",
        "weighting": False,
        "iterator": False,
        "spoiled": "",
        "server": "build_sgdm(1.0)",
        "client": "build_sgdm(0.05)",
    }
    found += [case.but(**{name: value}) for name, value in plain.items() if p[name] != value]
    found += [
        case.but(layers=[*p["layers"][:i], *p["layers"][i + 1 :]]) for i in range(len(p["layers"]))
    ]
    for i, one in enumerate(p["rounds"]):
        if len(one["positions"]) > 1:
            fewer = [{**one, "positions": [position]} for position in one["positions"]]
            found += [
                case.but(rounds=[*p["rounds"][:i], each, *p["rounds"][i + 1 :]]) for each in fewer
            ]
        if one["shuffle"] is not None or one["epochs"] > 1:
            plainer = {**one, "shuffle": None, "epochs": 1}
            found.append(case.but(rounds=[*p["rounds"][:i], plainer, *p["rounds"][i + 1 :]]))
    return found
