"""The rows of the execution contract: tiny learning processes and their clients."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

import tff_dp
from tests.support import contract_models
from tff_dp import _compat, data
from tff_dp.process import build_process

CLIENTS_PER_ROUND = 4.0  # what the private aggregators divide by
CLUSTERS = 3


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the table, by names.

    Attributes:
      algorithm: A key of `ALGORITHMS` or `COMPOSED`, or "k-means".
      model: An entry of `contract_models.MODELS`.
      aggregator: A key of `AGGREGATORS`.
      data: A key of `DATA`.
    """

    algorithm: str
    model: str = "keras3 dense"
    aggregator: str = "mean"
    data: str = "ragged"

    def __str__(self) -> str:
        return "/".join(dataclasses.astuple(self)).replace(" ", "_")


@dataclasses.dataclass(frozen=True)
class Round:
    """Which clients take part in a round, and how their examples come."""

    positions: Sequence[int]
    batch_size: int = 4
    epochs: int = 1
    shuffle_seed: int | None = None

    def cohort(self, clients: data.Clients) -> data.Cohort:
        shuffled = self.shuffle_seed is not None
        return clients.cohort(
            self.positions,
            batch_size=self.batch_size,
            epochs=self.epochs,
            shuffle=shuffled,
            rng=np.random.default_rng(self.shuffle_seed) if shuffled else None,
        )


@dataclasses.dataclass(frozen=True)
class Data:
    """Clients by their numbers of examples, and the rounds over them.

    Attributes:
      sizes: Examples of each client.
      rounds: The rounds.
      spoiled: The client that has examples which are not numbers, or None.
    """

    sizes: Sequence[int]
    rounds: Sequence[Round]
    spoiled: int | None = None


# Few sizes occur more than once: strategies of static shapes trace a graph for each.
_FEW_SIZES = (5, 1, 0, 5, 1, 5, 5)
DATA = {
    # Rounds of seven clients (one of them empty, one not finite), of one, of none, and of three.
    "ragged": Data(
        _FEW_SIZES,
        [Round(range(7)), Round([3]), Round([]), Round([1, 0, 4])],
        spoiled=len(_FEW_SIZES) - 1,
    ),
    # As many sizes as clients: with one batch, with full batches alone, with many and a remainder.
    "sizes": Data((5, 1, 0, 17, 3, 2, 8), [Round(range(7)), Round([6, 3])]),
    # Two passes, whose last batches are not full: in order, and each in an order of its own.
    "passes": Data(
        _FEW_SIZES, [Round(range(7), epochs=2), Round([0, 2, 4], epochs=2, shuffle_seed=5)]
    ),
    # Rounds of one group of clients each, which can be one graph together.
    "equal": Data((5,) * 7, [Round([0, 1, 2]), Round([3, 4, 5]), Round([6, 0])]),
    # More clients of one kind than stand side by side at most (64).
    "hundred": Data(
        (5,) * 96 + (2,) * 4, [Round(range(100)), Round([*range(96, 100), *range(32)])]
    ),
}


def some_clients(row: Row) -> data.Clients:
    """Returns the clients of a row."""
    plan = DATA[row.data]
    rng = np.random.default_rng(0)
    count = sum(plan.sizes)
    words = contract_models.WORDS_OF.get(row.model.split(" ", 1)[-1])
    x = (
        rng.normal(size=(count, contract_models.FEATURES)).astype(np.float32)
        if words is None
        else rng.integers(words, size=(count, contract_models.TOKENS)).astype(np.int32)
    )
    y = rng.normal(size=(count, 1)).astype(np.float32)
    offsets = np.cumsum([0, *plan.sizes])
    if plan.spoiled is not None:
        y[offsets[plan.spoiled]] = np.nan
    return data.Clients(x, y, offsets, allow_empty=True, allow_nonfinite=plan.spoiled is not None)


# Aggregators: functions of (whether it must be weighted, the specification of an update).


def _private(name: str, **arguments: Any) -> Callable[[bool, Any], Any]:
    def build(weighted: bool, update_spec: Any) -> Any:
        tff = _compat.tff.load()
        make = getattr(tff.aggregators.DifferentiallyPrivateFactory, name)
        specs = {"record_specs": update_spec} if name.startswith("tree") else {}
        private = make(0.0, CLIENTS_PER_ROUND, **arguments, **specs)
        return tff.aggregators.as_weighted_aggregator(private) if weighted else private

    return build


def _tff_learning(name: str) -> Callable[[bool, Any], Any]:
    def build(weighted: bool, update_spec: Any) -> Any:
        del update_spec
        return getattr(_compat.tff.load().learning, name)(weighted=weighted)

    return build


def _distributed(weighted: bool, update_spec: Any) -> Any:
    del update_spec
    assert not weighted  # TFF has it for unweighted means alone
    return _compat.tff.load().learning.ddp_secure_aggregator(0.0, int(CLIENTS_PER_ROUND))


AGGREGATORS: dict[str, Callable[[bool, Any], Any]] = {
    "mean": lambda weighted, update_spec: None,
    # Clip norms that some clients' updates exceed, and others do not.
    "dp fixed": _private("gaussian_fixed", clip=0.3),
    "dp adaptive": _private("gaussian_adaptive", initial_l2_norm_clip=0.3),
    "dp tree": _private("tree_aggregation", l2_norm_clip=0.3),
    "dp tree adaptive": _private(
        "tree_adaptive", initial_l2_norm_clip=0.3, clipped_count_stddev=0.0
    ),
    "robust": _tff_learning("robust_aggregator"),
    "compression": _tff_learning("compression_aggregator"),
    "secure": _tff_learning("secure_aggregator"),
    "ddp secure": _distributed,
}
# Stock TFF sums securely in no runtime that it ships; for its tests it writes such sums out.
SECURE = {"secure", "ddp secure"}
# Both sides round at random where compression cuts, so that they differ.
ROUNDED = {"compression", "ddp secure"}


def rounding(row: Row, alone: Iterable[Any]) -> float:
    """Returns how far weights after one round may lie apart on two sides that round at random.

    Args:
      row: The row.
      alone: For each client, the changes of the weights in a round that is its own; read if needed.
    """
    if row.aggregator == "ddp secure":
        # Clipped to 0.1, scaled to 20 bits for four clients, rotated and rounded: of the order of 1e-5.
        return 1e-4
    # A coordinate becomes one of the two of 2^8 values, evenly over the range of its weight, between
    # which it lies. Two sides differ by one step in each client's term, hence at most so in their mean.
    return max(float(np.ptp(change)) for changes in alone for change in changes) / 255


# Algorithms: functions of (model, model as bound here, aggregator or None).


def _sgd(rate: float = 0.05, momentum: float | None = 0.9) -> Any:
    return _compat.tff.load().learning.optimizers.build_sgdm(rate, momentum)


@dataclasses.dataclass(frozen=True)
class Algorithm:
    """An algorithm of TFF's.

    Attributes:
      build: From a model and keyword arguments to a process.
      weighted: Whether aggregators must be weighted; None where none can be given.
    """

    build: Callable[..., Any]
    weighted: bool | None


def _tff(name: str, weighted: bool | None, **arguments: Any) -> Algorithm:
    """Returns one of `tff.learning.algorithms`; functions make its arguments when it is built."""

    def build(model: Any, **aggregator: Any) -> Any:
        made = {key: value() for key, value in arguments.items()}
        builder = getattr(_compat.tff.load().learning.algorithms, name)
        return builder(model, **made, **aggregator)

    return Algorithm(build, weighted)


ALGORITHMS = {
    "weighted FedAvg": _tff("build_weighted_fed_avg", True, client_optimizer_fn=_sgd),
    "unweighted FedAvg": _tff(
        "build_unweighted_fed_avg",
        False,
        client_optimizer_fn=_sgd,
        server_optimizer_fn=lambda: _sgd(1.0),
    ),
    "FedSGD": _tff("build_fed_sgd", True, server_optimizer_fn=_sgd),
    "FedProx": _tff(
        "build_weighted_fed_prox",
        True,
        proximal_strength=lambda: 0.5,
        client_optimizer_fn=_sgd,
    ),
    "scheduled FedAvg": _tff(
        "build_weighted_fed_avg_with_optimizer_schedule",
        True,
        client_learning_rate_fn=lambda: lambda number: 0.1 / (1.0 + tf.cast(number, tf.float32)),
        client_optimizer_fn=lambda: _sgd,
    ),
    # TFF's MIME-lite fails with functional models while it is built: its client work calls their
    # `update_metrics_state` as no model defines it (TypeError). Hence variable-based ones.
    "MIME-lite": _tff("build_weighted_mime_lite", True, base_optimizer=_sgd),
    "evaluation": _tff("build_fed_eval", None),
}
# Composed by this project, from its own descriptions.
COMPOSED: dict[str, tff_dp.Algorithm] = {
    "tff_dp.FedAvg": tff_dp.FedAvg(client_optimizer=tff_dp.SGD(learning_rate=0.05, momentum=0.9)),
    "tff_dp.FedSGD": tff_dp.FedSGD(),
    "tff_dp.FedProx": tff_dp.FedProx(proximal_strength=0.5),
    "tff_dp.FedOpt": tff_dp.FedOpt(server_optimizer=tff_dp.Adam(learning_rate=0.1)),
}
MECHANISMS: dict[str, Any] = {
    "dp fixed": tff_dp.GaussianMechanism(clip_norm=0.3, noise_multiplier=0.0),
    "dp adaptive": tff_dp.AdaptiveGaussianMechanism(noise_multiplier=0.0),
    "dp layers": tff_dp.PerLayerGaussianMechanism(clip_norms=(0.1,) * 4, noise_multiplier=0.0),
    "dp laplace": tff_dp.LaplaceMechanism(clip_norm=0.3, noise_multiplier=0.0),
    "dp own tree": tff_dp.TreeMechanism(clip_norm=0.3, noise_multiplier=0.0, restart_every=2),
    "dp banded": tff_dp.BandedMechanism(clip_norm=0.3, noise_multiplier=0.0, bands=3),
    "dp local": tff_dp.LocalGaussianMechanism(clip_norm=0.3, noise_multiplier=0.0),
    "dp local laplace": tff_dp.LocalLaplaceMechanism(clip_norm=0.3, noise_multiplier=0.0),
}


def _privacy(aggregator: str) -> tff_dp.PrivacyPlan | tff_dp.NoPrivacy:
    if aggregator == "mean":
        return tff_dp.NoPrivacy()
    # The plan's cohorts are not drawn here; bands need rounds in between.
    apart = tff_dp.MinSeparationSampler(size=1, min_separation=4)
    return tff_dp.PrivacyPlan(
        mechanism=MECHANISMS[aggregator],
        population=int(CLIENTS_PER_ROUND),
        sampler=apart if aggregator == "dp banded" else tff_dp.FullParticipation(),
        rounds=10,
        delta=1e-5,
    )


@dataclasses.dataclass(frozen=True)
class Case:
    """A row's process and data.

    Attributes:
      process: A `tff.learning.templates.LearningProcess`.
      feeds: By how data come, the data of each round.
    """

    process: Any
    feeds: dict[str, list[Any]]


def make_case(row: Row) -> Case:
    """Returns the process and the data of a row."""
    clients = some_clients(row)
    if row.algorithm == "k-means":
        return _kmeans(row, clients)
    cohorts = [each.cohort(clients) for each in DATA[row.data].rounds]
    feeds = {"arrays": cohorts, "datasets": [list(cohort) for cohort in cohorts]}
    model, bound = contract_models.make_model(row.model, clients.element_spec())
    if row.algorithm in COMPOSED:
        algorithm, privacy = COMPOSED[row.algorithm], _privacy(row.aggregator)
        return Case(build_process(bound, algorithm=algorithm, privacy=privacy), feeds)
    own = ALGORITHMS[row.algorithm]
    if own.weighted is None:
        return Case(own.build(model), feeds)
    aggregator = AGGREGATORS[row.aggregator](own.weighted, contract_models.update_spec(model))
    return Case(own.build(model, model_aggregator=aggregator), feeds)


def _kmeans(row: Row, clients: data.Clients) -> Case:
    """Returns federated k-means, which takes points one by one, and no aggregator of means."""
    process = _compat.tff.load().learning.algorithms.build_fed_kmeans(
        CLUSTERS, (contract_models.FEATURES,), random_seed=(1, 2)
    )

    def points(position: int) -> Any:
        return tf.data.Dataset.from_tensor_slices(clients.client(position)[0])

    rounds = [[points(p) for p in each.positions] for each in DATA[row.data].rounds]
    return Case(process, {"datasets": rounds})


def seeded(process: Any, state: Any) -> Any:
    """Returns an initial state with weights that are the same in each run of the tests."""
    weights = process.get_model_weights(state)
    if not hasattr(weights, "trainable"):
        return state  # centers: TFF has drawn them from a seed
    rng = np.random.default_rng(1)
    drawn = [rng.normal(scale=0.5, size=np.shape(w)).astype(np.float32) for w in weights.trainable]
    replaced = type(weights)(
        trainable=type(weights.trainable)(drawn), non_trainable=weights.non_trainable
    )
    return process.set_model_weights(state, replaced)


def personalization() -> tuple[Any, Any, list[Any]]:
    """Returns TFF's evaluation of personalised models, the weights to start from, and clients' data."""
    tff = _compat.tff.load()
    row = Row("", "variables dense", data="sizes")
    clients = some_clients(row)
    model_fn, _ = contract_models.make_model(row.model, clients.element_spec())

    @tf.function
    def evaluate(model: Any, examples: Any) -> Any:
        def add(total: Any, batch: Any) -> Any:
            output = model.forward_pass(batch, training=False)
            count = tf.cast(output.num_examples, tf.float32)
            return total[0] + output.loss * count, total[1] + count

        loss, count = examples.batch(4).reduce((0.0, 0.0), add)
        return OrderedDict(loss=loss / count, num_examples=count)

    def build_finetune() -> Any:
        @tf.function
        def finetune(model: Any, train: Any, test: Any) -> Any:
            def step(number: Any, batch: Any) -> Any:
                with tf.GradientTape() as tape:
                    loss = model.forward_pass(batch, training=True).loss
                variables = model.trainable_variables
                for variable, slope in zip(variables, tape.gradient(loss, variables), strict=True):
                    variable.assign_sub(0.05 * slope)
                return number + 1

            steps = train.batch(4).reduce(0, step)
            return OrderedDict(evaluate(model, test), steps=steps)

        return finetune

    computation = tff.learning.algorithms.build_personalization_eval_computation(
        model_fn, OrderedDict(finetuned=build_finetune), evaluate
    )

    def client(position: int) -> Any:
        examples = tf.data.Dataset.from_tensor_slices(clients.client(position))
        return OrderedDict(train_data=examples, test_data=examples)

    rng = np.random.default_rng(1)
    shapes = [spec.shape for spec in contract_models.update_spec(model_fn)]
    weights = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    return (
        computation,
        tff.learning.models.ModelWeights(weights, []),
        [client(p) for p in (0, 3, 4)],
    )
