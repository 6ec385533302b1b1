"""The in-process context gives what stock TFF gives, and says so where it cannot run something."""

from __future__ import annotations

import math
import os

import keras
import numpy as np
import pytest
import tree
from helpers import regression_clients
from scipy import stats

import tff_dp
from tff_dp import data, execution
from tff_dp.errors import ComputationError
from tff_dp.model import ModelSpec
from tff_dp.process import build_process, initialize_from, model_weights

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.filterwarnings("ignore:The moving statistics:UserWarning"),
    pytest.mark.filterwarnings("ignore:Batch Normalization contains:UserWarning"),  # TFF's own
]

FEATURES = 4


def legacy():
    import tf_keras

    return tf_keras


def make_legacy(*layers):
    return legacy().Sequential([legacy().layers.InputLayer([FEATURES]), *layers])


def make_keras3(*layers):
    return keras.Sequential([keras.layers.Input([FEATURES]), *layers])


MODELS = {
    "dense": lambda: make_keras3(keras.layers.Dense(3, "tanh"), keras.layers.Dense(1)),
    "convolution": lambda: make_keras3(
        keras.layers.Reshape([FEATURES, 1]),
        keras.layers.Conv1D(2, 3),
        keras.layers.GroupNormalization(2),
        keras.layers.Flatten(),
        keras.layers.Dense(1),
    ),
    "recurrent": lambda: make_keras3(
        keras.layers.Reshape([2, 2]), keras.layers.GRU(2), keras.layers.Dense(1)
    ),
    "tf-keras functional": lambda: make_legacy(legacy().layers.Dense(1)),
    "tf-keras variables": lambda: make_legacy(
        legacy().layers.Dense(2), legacy().layers.BatchNormalization(), legacy().layers.Dense(1)
    ),
}
ALGORITHMS = {
    "FedAvg": tff_dp.FedAvg(client_optimizer=tff_dp.SGD(learning_rate=0.05, momentum=0.9)),
    "FedSGD": tff_dp.FedSGD(),
    "FedProx": tff_dp.FedProx(proximal_strength=0.5),
    "FedAdam": tff_dp.FedOpt(server_optimizer=tff_dp.Adam(learning_rate=0.1)),
}


def plan(mechanism, population=4) -> tff_dp.PrivacyPlan:
    return tff_dp.PrivacyPlan(
        mechanism=mechanism,
        population=population,
        sampler=tff_dp.FullParticipation(),
        rounds=10,
        delta=1e-5,
    )


AGGREGATIONS = {
    "mean": tff_dp.NoPrivacy(),
    "fixed": plan(tff_dp.GaussianMechanism(clip_norm=0.05, noise_multiplier=0.0)),
    "adaptive": plan(tff_dp.AdaptiveGaussianMechanism(noise_multiplier=0.0)),
}
TABLE = [
    *(
        ("dense", algorithm, aggregation)
        for algorithm in ALGORITHMS
        for aggregation in AGGREGATIONS
    ),
    *((model, "FedAvg", "fixed") for model in MODELS if model != "dense"),
    *((model, "FedSGD", "mean") for model in MODELS if model != "dense"),
]


def some_clients() -> data.Clients:
    clients = regression_clients(sizes=(5, 1, 0, 17, 3, 2, 8), features=FEATURES, allow_empty=True)
    x, y = (np.array(part) for part in clients.pooled())
    x[-1] = np.nan  # the last client's update is not finite
    offsets = np.cumsum([0, *clients.sizes])
    return data.Clients(x, y, offsets, allow_empty=True, allow_nonfinite=True)


def rounds(process, bound, clients, cohorts):
    outputs, state = [], initialize_from(process, bound.initial_weights)
    for cohort in cohorts:
        output = process.next(state, [clients.dataset(c, batch_size=4) for c in cohort])
        state = output.state
        outputs.append(output)
    return outputs, model_weights(process, state)


def assert_equal_values(actual, expected):
    tree.assert_same_structure(actual, expected)
    for a, b in zip(tree.flatten(actual), tree.flatten(expected), strict=True):
        if np.asarray(b).dtype.kind == "f":
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)
        else:
            assert np.asarray(a).dtype == np.asarray(b).dtype
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("model", "algorithm", "aggregation"), TABLE)
def test_rounds_equal_those_of_stock_tff(stock, model, algorithm, aggregation):
    clients = some_clients()
    spec = ModelSpec(model=MODELS[model](), loss="mse", metrics=["mae"])
    bound = spec.bind(clients.element_spec())
    process = build_process(
        bound, algorithm=ALGORITHMS[algorithm], privacy=AGGREGATIONS[aggregation]
    )
    cohorts = [range(7), [3], [2, 6, 0], []]
    expected = rounds(process, bound, clients, cohorts)
    before = workers_of_this_process()
    with execution.fast():
        actual = rounds(process, bound, clients, cohorts)
    assert workers_of_this_process() == before  # nothing fell back to a worker
    assert_equal_values(actual, expected)
    assert type(actual[0][0]) is type(expected[0][0])


def workers_of_this_process() -> list[int]:
    from test_execution_stock import workers

    return sorted(workers(os.getpid()))


@pytest.fixture(scope="module")
def wide(tff):
    """A process whose clients change nothing: a round adds its noise to 5001 weights."""
    clients = data.Clients(
        np.zeros([4, 5000], np.float32), np.zeros([4, 1], np.float32), np.arange(5)
    )
    model = keras.Sequential(
        [keras.layers.Input([5000]), keras.layers.Dense(1, kernel_initializer="zeros")]
    )
    bound = ModelSpec(model=model, loss="mse").bind(clients.element_spec())
    mechanism = tff_dp.GaussianMechanism(clip_norm=0.5, noise_multiplier=2.0)
    return build_process(bound, algorithm=ALGORITHMS["FedSGD"], privacy=plan(mechanism)), clients


def noise_of_round(process, clients, cohort=range(4)) -> np.ndarray:
    state = process.initialize()
    state = process.next(state, [clients.dataset(c, batch_size=4) for c in cohort]).state
    weights = process.get_model_weights(state).trainable
    return np.concatenate([np.ravel(w) for w in weights])


def test_the_noise_has_the_planned_distribution_and_is_fresh_in_each_round(wide):
    process, clients = wide
    import tensorflow as tf

    sigma = 0.1 * 2.0 * 0.5 / 4  # server rate x z C / m
    samples = []
    try:
        with execution.fast():
            for cohort in (range(4), [], range(4)):
                tf.random.set_seed(1)  # a global seed must not seed the noise
                samples.append(noise_of_round(process, clients, cohort))
    finally:
        tf.random.set_seed(None)
    for sample in samples:  # each test rejects right noise with probability 1e-6
        statistic = np.sum((sample / sigma) ** 2)
        assert 5e-7 < stats.chi2.cdf(statistic, sample.size) < 1 - 5e-7
        assert stats.kstest(sample / sigma, "norm").pvalue > 1e-6
        for factor in (2 / 3, 3 / 2):  # negative controls
            assert not 5e-7 < stats.chi2.cdf(factor**2 * statistic, sample.size) < 1 - 5e-7
    for a, b in ((0, 1), (0, 2), (1, 2)):  # 5 deviations: 6e-7
        correlation = np.corrcoef(samples[a], samples[b])[0, 1]
        assert abs(correlation) < 5 / math.sqrt(samples[a].size)


def test_dropout_masks_are_fresh_for_each_client_and_step(tff):
    clients = data.Clients(np.ones([6, 64], np.float32), np.zeros([6, 1], np.float32), [0, 1, 2, 6])
    layers = [
        keras.layers.Input([64]),
        keras.layers.Dropout(0.5),
        keras.layers.Dense(1, use_bias=False, kernel_initializer="ones"),
    ]
    bound = ModelSpec(model=keras.Sequential(layers), loss="mse").bind(clients.element_spec())
    algorithm = tff_dp.FedAvg(client_optimizer=tff_dp.SGD(learning_rate=1e-4))
    process = build_process(bound, algorithm=algorithm, privacy=tff_dp.NoPrivacy())
    state = initialize_from(process, bound.initial_weights)
    changes = []
    with execution.fast():
        for cohort in ([0], [1], [0], [2]):
            output = process.next(state, [clients.dataset(c, batch_size=1) for c in cohort])
            changes.append(model_weights(process, output.state).trainable[0].ravel() - 1)
    masks = [change != 0 for change in changes[:3]]
    for mask in masks:  # 64 fair coins: outside [8, 56] with probability 1e-10
        assert 8 <= mask.sum() <= 56
    for a, b in ((0, 1), (0, 2), (1, 2)):  # equal with probability 2^-64
        assert np.any(masks[a] != masks[b])
    assert len(np.unique(np.round(changes[3], 7))) > 2  # four steps with one mask give two values


def test_a_failing_client_is_named_and_the_context_stays_usable(wide):
    import tensorflow as tf

    process, clients = wide
    good = clients.dataset(0, batch_size=4)

    def fail(x, y):
        with tf.control_dependencies([tf.debugging.assert_less(x, -1.0, "spoiled data")]):
            return tf.identity(x), y

    with execution.fast():
        state = process.initialize()
        with pytest.raises(
            ComputationError, match=r"(?s)client 2 \(of 3 in the cohort.*spoiled data"
        ):
            process.next(state, [good, good, good.map(fail)])
        process.next(state, [good])


def test_what_has_no_form_here_runs_on_stock_tff_with_one_warning(tff):
    @tff.federated_computation(tff.FederatedType(np.float32, tff.CLIENTS))
    def total(values):
        return tff.federated_sum(values)

    @tff.tensorflow.computation(np.int32, np.int32)
    def add(a, b):
        return a + b

    before = workers_of_this_process()
    with execution.fast():
        assert add(1, 2) == 3  # no placement: runs here
        assert workers_of_this_process() == before
        with pytest.warns(RuntimeWarning, match="stock TFF"):
            assert total([1.0, 2.5]) == 3.5
        assert total([1.0, 1.0]) == 2.0  # no second warning: it would be an error
        assert len(workers_of_this_process()) == len(before) + 1
    assert workers_of_this_process() == before


def test_sequences_come_as_data_sets_or_lists_and_tensors_as_lists(tff):
    import tensorflow as tf

    @tff.tensorflow.computation(tff.SequenceType(np.float32), tff.TensorType(np.float32, [2]))
    def total(sequence, pair):
        return sequence.reduce(0.0, lambda a, b: a + b) + tf.reduce_sum(pair)

    @tff.tensorflow.computation(np.int64)
    def count(n):
        return tf.data.Dataset.range(n)

    before = workers_of_this_process()
    with execution.fast():
        assert total([1.0, 2.0, 4.0], [8.0, 16.0]) == 31.0
        assert total(tf.data.Dataset.from_tensor_slices([1.0, 2.0]), [8.0, 16.0]) == 27.0
        assert workers_of_this_process() == before
        with pytest.warns(RuntimeWarning, match="sequences are not returned"):
            assert list(count(3)) == [0, 1, 2]


def test_an_evaluation_process_runs_here(stock, tff):
    clients = some_clients()
    bound = ModelSpec(model=MODELS["dense"](), loss="mse").bind(clients.element_spec())
    process = tff.learning.algorithms.build_fed_eval(bound.tff_model)
    cohort = [clients.dataset(c, batch_size=4) for c in (0, 3, 1)]

    def evaluate():
        return process.next(process.initialize(), cohort).metrics

    expected = evaluate()
    with execution.fast():
        assert_equal_values(evaluate(), expected)
