"""Random rounds on a cluster and in this process, whose bits are compared.

`python -m tests.cluster.fuzz --minutes 15 --seed 0` runs it for longer than the tests do.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import itertools
import pathlib
import tempfile
import time
import traceback

import keras
import numpy as np
import tree

import tff_dp
from tff_dp import data, execution
from tff_dp.cluster import sharing
from tff_dp.execution.cohort import arrays, datasets, grouping
from tff_dp.execution.round import client_loop
from tff_dp.model import ModelSpec
from tff_dp.process import build_process, initialize_from

NORMED = {"clip_norm": 0.5, "noise_multiplier": 0.3}
GRID = {"clip_norm": 0.5, "noise_multiplier": 1.0, "bits": 18}


@dataclasses.dataclass(frozen=True)
class Case:
    """What a case of the fuzz draws."""

    seed: int
    model: str
    privacy: str
    algorithm: str
    strategy: str
    xla: bool
    streamed: bool
    clients: int
    sizes: str
    batch_size: int
    epochs: int
    shuffle: bool
    storage: str
    cohort: str
    workers: int | None
    shard_bytes: int
    entries: int
    at_once: int
    block_bytes: int
    rounds: int


def drawn(seed: int) -> Case:
    """Draws a case."""
    rng = np.random.default_rng([seed, 77])

    def pick(*choices):
        return choices[int(rng.integers(len(choices)))]

    privacy = pick("none", "none", "gaussian", "adaptive", "layers", "laplace", "local", "skellam",
                   "discrete", "tree", "banded", "record", "metric")  # fmt: skip
    return Case(
        seed=seed,
        model=pick("linear", "linear", "two inputs", "tokens", "dropout", "wide"),
        privacy=privacy,
        algorithm=pick("avg", "avg", "prox", "sgd", "opt", "weighted"),
        strategy="scan"
        if privacy in ("skellam", "discrete")
        else pick("scan", "scan", "vmap", "auto"),
        xla=bool(rng.random() < 0.2),
        streamed=bool(rng.random() < 0.5),
        clients=int(pick(1, 7, 33, 90, 150, 150)),
        sizes=pick("equal", "ragged", "ragged", "large", "empty"),
        batch_size=int(pick(1, 3, 4, 16)),
        epochs=int(pick(1, 1, 2)),
        shuffle=bool(rng.random() < 0.3),
        storage=pick("memory", "memory", "mapped", "slice", "fortran", "reversed", "copy on write"),
        cohort=pick("arrays", "arrays", "arrays", "datasets", "sorted", "few"),
        workers=pick(None, 1, 2, 3),
        shard_bytes=int(pick(200, 1000, 1 << 26)),
        entries=int(pick(8, 32, 200)),
        at_once=int(pick(5, 24, 2000)),
        block_bytes=int(pick(500, 6000, 1 << 24)),
        rounds=int(pick(1, 2, 3)),
    )


def model_of(name: str) -> tuple[keras.Model, str]:
    """Returns a model and its loss."""
    layers = keras.layers
    if name == "two inputs":
        inputs = {"a": layers.Input([3], name="a"), "b": layers.Input([2], name="b")}
        joined = layers.Concatenate()([inputs["a"], inputs["b"]])
        return keras.Model(inputs, layers.Dense(1)(layers.Dense(4, "tanh")(joined))), "mse"
    if name == "tokens":
        return keras.Sequential(
            [
                layers.Input([6], dtype="int32"),
                layers.Embedding(11, 3),
                layers.Flatten(),
                layers.Dense(4),
            ]
        ), "sparse"
    middle = {
        "linear": [],
        "dropout": [layers.Dense(6, "relu"), layers.Dropout(0.4)],
        "wide": [layers.Dense(300, "relu"), layers.Dense(30, "relu")],
    }[name]
    return keras.Sequential([layers.Input([5]), *middle, layers.Dense(1)]), "mse"


@functools.cache
def bound_of(name: str):
    """Returns a model that is bound to its data."""
    keras.utils.set_random_seed(1)
    model, loss = model_of(name)
    if loss == "sparse":
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    spec = ModelSpec(model=model, loss=loss)
    return spec.bind(fields_of(name, [2], np.random.default_rng(0)).element_spec())


def fields_of(name: str, sizes, rng, place=lambda array: array) -> data.Clients:
    """Returns clients with the data of a model."""
    count = int(sum(sizes))
    offsets = np.cumsum([0, *sizes])
    y = place(rng.normal(size=[count, 1]).astype(np.float32))
    if name == "two inputs":
        x = {
            "a": place(rng.normal(size=[count, 3]).astype(np.float32)),
            "b": place(rng.normal(size=[count, 2]).astype(np.float32)),
        }
    elif name == "tokens":
        x = place(rng.integers(0, 11, [count, 6]).astype(np.int32))
        y = place(rng.integers(0, 4, [count]).astype(np.int64))
    else:
        x = place(rng.normal(size=[count, 5]).astype(np.float32))
    return data.Clients(x, y, offsets, allow_empty=True)


@functools.lru_cache(6)
def process_of(model: str, privacy: str, algorithm: str):
    """Returns a learning process."""
    optimizer = tff_dp.SGD(learning_rate=0.1)
    made = {
        "avg": lambda: tff_dp.FedAvg(client_optimizer=optimizer),
        "weighted": lambda: tff_dp.FedAvg(client_optimizer=optimizer, weighting="examples"),
        "prox": lambda: tff_dp.FedProx(client_optimizer=optimizer, proximal_strength=0.3),
        "sgd": tff_dp.FedSGD,
        "opt": lambda: tff_dp.FedOpt(
            client_optimizer=tff_dp.Adam(learning_rate=0.01),
            server_optimizer=tff_dp.Adam(learning_rate=0.02),
        ),
    }[algorithm]()
    bound = bound_of(model)
    weights = [w.size for w in bound.initial_weights.trainable]
    dimension = int(sum(weights))
    mechanism = {
        "none": lambda: None,
        "gaussian": lambda: tff_dp.GaussianMechanism(**NORMED),
        "metric": lambda: tff_dp.GaussianMechanism(**NORMED),
        "adaptive": lambda: tff_dp.AdaptiveGaussianMechanism(noise_multiplier=1.0),
        "layers": lambda: tff_dp.PerLayerGaussianMechanism(
            clip_norms=(0.3,) * len(weights), noise_multiplier=0.5
        ),
        "laplace": lambda: tff_dp.LaplaceMechanism(**NORMED),
        "local": lambda: tff_dp.LocalGaussianMechanism(clip_norm=0.5, noise_multiplier=4.0),
        "skellam": lambda: tff_dp.DistributedSkellamMechanism(**GRID, dimension=dimension),
        "discrete": lambda: tff_dp.DistributedGaussianMechanism(**GRID, dimension=dimension),
        "tree": lambda: tff_dp.TreeMechanism(**NORMED),
        "banded": lambda: tff_dp.BandedMechanism(**NORMED, bands=2),
        "record": lambda: tff_dp.RecordGaussianMechanism(
            clip_norm=0.5, noise_multiplier=1.0, batch_size=3, local_steps=2
        ),
    }[privacy]()
    if mechanism is None:
        return build_process(bound, algorithm=made, privacy=tff_dp.NoPrivacy())
    options = {"rounds": 10, "delta": 1e-5}
    if privacy == "record":
        plan = tff_dp.PrivacyPlan(mechanism=mechanism, unit="record", records=(8,) * 40, **options)
    elif privacy == "banded":
        sampler = tff_dp.MinSeparationSampler(size=20, min_separation=2)
        plan = tff_dp.PrivacyPlan(mechanism=mechanism, population=100, sampler=sampler, **options)
    elif privacy == "tree":
        sampler = tff_dp.MinSeparationSampler(size=5, min_separation=10)
        plan = tff_dp.PrivacyPlan(mechanism=mechanism, population=100, sampler=sampler, **options)
    elif privacy in ("skellam", "discrete"):
        sampler = tff_dp.FixedSizeSampler(size=20)
        plan = tff_dp.PrivacyPlan(mechanism=mechanism, population=100, sampler=sampler, **options)
    else:
        plan = tff_dp.PrivacyPlan(
            mechanism=mechanism, population=100, sampler=tff_dp.FullParticipation(), **options
        )
    return build_process(bound, algorithm=made, privacy=plan)


def cohorts_of(case: Case, folder: pathlib.Path) -> list:
    """Returns the cohorts of a case's rounds, each made of the same clients in another order."""
    rng = np.random.default_rng(case.seed)
    count = case.clients
    sizes = {
        "equal": lambda: np.full(count, 8),
        "ragged": lambda: rng.integers(1, 14, count),
        "large": lambda: np.where(rng.random(count) < 0.1, 400, 5),
        "empty": lambda: rng.integers(0, 3, count),
    }[case.sizes]()
    numbers = itertools.count()

    def place(array: np.ndarray) -> np.ndarray:
        if case.storage == "memory" or not array.size:
            return array
        if case.storage == "fortran":
            return np.asfortranarray(array)
        if case.storage == "reversed":
            return array[::-1]
        path = folder / f"{case.seed}-{next(numbers)}.npy"
        if case.storage == "slice":
            more = np.concatenate(
                [array[:1].repeat(301, axis=0), array, array[:1].repeat(7, axis=0)]
            )
            np.save(path, more)
            return np.load(path, mmap_mode="r")[301 : 301 + len(array)]
        np.save(path, array)
        return np.load(path, mmap_mode="c" if case.storage == "copy on write" else "r")

    clients = fields_of(case.model, sizes.tolist(), rng, place)
    cohorts = []
    for _ in range(case.rounds):
        order = rng.permutation(count)
        if case.cohort == "sorted":
            order = np.sort(order)
        if case.cohort == "few":
            order = order[: count // 3]
        cohort = clients.cohort(
            order, batch_size=case.batch_size, epochs=case.epochs, shuffle=case.shuffle, rng=rng
        )
        cohorts.append(cohort)
    return cohorts


def result_of(case: Case, cohorts: list, cluster):
    """Runs a case; returns its bits, or the error, and what the pool has counted."""
    process = process_of(case.model, case.privacy, case.algorithm)
    with execution.fast(
        case.strategy,
        "cpu",
        xla=case.xla,
        seed=5,
        strict=True,
        workers=case.workers,
        cluster=cluster,
    ) as context:
        settings = context.settings
        if case.streamed:
            getattr(settings.resident, "here", settings.resident).limit = 0
        state = initialize_from(process, bound_of(case.model).initial_weights)
        found = []
        for cohort in cohorts:
            data_ = list(cohort) if case.cohort == "datasets" else cohort
            try:
                output = process.next(state, data_)
            except tff_dp.TffDpError as error:
                found.append(f"{type(error).__name__}: {error}")
                break
            state = output.state
            found.append([np.asarray(leaf).tobytes() for leaf in tree.flatten(output)])
        return found, settings.pool.counts if settings.pool else None


@contextlib.contextmanager
def limits_of(case: Case):
    """Has few clients make several blocks of several parts."""
    planted = [
        (client_loop, "_ENTRIES_OF_A_PART", case.entries),
        (client_loop, "_ENTRIES_OF_A_LONG_PART", case.entries),
        (datasets, "_AT_ONCE", case.at_once),
        (client_loop, "WIDEST", 16),
        (grouping, "WIDEST", 16),
        (arrays, "_BYTES", case.block_bytes),
        (sharing, "_SHARD_BYTES", case.shard_bytes),
        (sharing, "_LEAST_MAPPED", 64),
    ]
    kept = [(module, name, getattr(module, name)) for module, name, _ in planted]
    for module, name, value in planted:
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, value in kept:
            setattr(module, name, value)


def differing(case: Case, address: str, folder: pathlib.Path) -> tuple[str | None, int]:
    """Runs a case here and on a cluster; returns how they differ, and how many parts ran there."""
    with limits_of(case):
        here, _ = result_of(case, cohorts_of(case, folder), None)
        there, counts = result_of(case, cohorts_of(case, folder), address)
    if here == there:
        return None, counts.parts
    said = [entry for entry in (*here, *there) if isinstance(entry, str)]
    return f"{case}: {said or 'other bits'}", counts.parts


def main() -> None:
    """Runs cases until the time is over, and prints those that differ."""
    from benchmarks._nodes import Nodes
    from tff_dp import tff
    from tff_dp._compat import ray as ray_compat

    del tff
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, default=1 << 30)
    options = parser.parse_args()
    end = time.monotonic() + 60 * options.minutes
    import ray

    with contextlib.closing(Nodes(2)) as nodes, tempfile.TemporaryDirectory() as folder:
        ray_compat.join(ray, nodes.address)
        cases = parts = bad = refused = 0
        for seed in itertools.count(options.seed):
            if time.monotonic() > end or cases + refused >= options.cases:
                break
            case = drawn(seed)
            try:
                found, count = differing(case, nodes.address, pathlib.Path(folder))
            except tff_dp.TffDpError as error:
                refused += 1
                print(
                    "refused",
                    seed,
                    case.model,
                    case.privacy,
                    case.algorithm,
                    str(error)[:150],
                    flush=True,
                )
                continue
            except Exception:
                bad += 1
                print("ERROR", case, traceback.format_exc(), flush=True)
                continue
            cases, parts = cases + 1, parts + count
            if found:
                bad += 1
                print("DIFFERS", found[:2000], flush=True)
            if cases % 10 == 0:
                print(cases, "cases", parts, "parts", bad, "bad", refused, "refused", flush=True)
        print("end", cases, "cases", parts, "parts", bad, "bad", refused, "refused", flush=True)
        ray.shutdown()


if __name__ == "__main__":
    main()
